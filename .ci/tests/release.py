#!/usr/bin/env python3
"""Tests `.ci/release` on a copy of the repository, in which one thing at a time is wrong."""

import os
import pathlib
import shutil
import subprocess
import sys
import tarfile
import tempfile
import unittest
import zipfile

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
# Many or large files, which `.ci/release` does not read.
EXCEPT = ("fuzz/corpus/", "data/", "docs/", "tests/vectors/")

ENTRY = "## 7.8.9 - 2030-01-31\n\n- A change.\n\n## 7.8.8 - 2029-01-31\n\n- An older one.\n"

WHEELS = """\
fused_adam-7.8.9-cp310-abi3-manylinux_2_28_x86_64.whl
fused_adam-7.8.9-cp310-abi3-manylinux_2_28_aarch64.whl
fused_adam-7.8.9-cp310-abi3-musllinux_1_2_x86_64.whl
fused_adam-7.8.9-cp310-abi3-musllinux_1_2_aarch64.whl
fused_adam-7.8.9-cp310-abi3-macosx_10_12_x86_64.whl
fused_adam-7.8.9-cp310-abi3-macosx_11_0_arm64.whl
fused_adam-7.8.9-cp310-abi3-win_amd64.whl
""".split()

LINUX = "x86_64-unknown-linux-gnu"
LIBRARIES = {
    LINUX: ["libfused_adam_c.so", "libfused_adam_c.a"],
    "aarch64-unknown-linux-gnu": ["libfused_adam_c.so", "libfused_adam_c.a"],
    "aarch64-apple-darwin": ["libfused_adam_c.dylib", "libfused_adam_c.a"],
    "x86_64-pc-windows-msvc": ["fused_adam_c.dll", "fused_adam_c.dll.lib", "fused_adam_c.lib"],
}


class Release(unittest.TestCase):
    def setUp(self):
        self.work = pathlib.Path(tempfile.mkdtemp())
        self.addCleanup(shutil.rmtree, self.work)
        self.copy = self.work / "copy"
        command = ["git", "ls-files", "-z"]
        names = subprocess.run(command, cwd=ROOT, check=True, capture_output=True).stdout
        for name in names.decode().split("\0"):
            if name and not name.startswith(EXCEPT) and (ROOT / name).is_file():
                (self.copy / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(ROOT / name, self.copy / name)
        # The tests do not depend on the version of the day.
        (self.copy / "CHANGELOG.md").write_text("## Unreleased\n\n- A change.\n")
        self.assertEqual(self.output("bump", "7.8.9"), "- A change.\n")
        self.assertIn("## 7.8.9 - 20", (self.copy / "CHANGELOG.md").read_text())
        (self.copy / "CHANGELOG.md").write_text("# Changelog\n\nText.\n\n" + ENTRY)

    def replace(self, name, old, new):
        text = (self.copy / name).read_text()
        self.assertIn(old, text, name)
        (self.copy / name).write_text(text.replace(old, new, 1))

    def run_release(self, *arguments):
        command = [sys.executable, self.copy / ".ci/release", *map(str, arguments)]
        return subprocess.run(command, capture_output=True, text=True)

    def output(self, *arguments):
        done = self.run_release(*arguments)
        self.assertEqual(done.returncode, 0, done.stderr)
        return done.stdout

    def fails(self, expected, *arguments):
        """The command fails, and this is the one error that it names."""
        done = self.run_release(*arguments)
        self.assertEqual(done.returncode, 1, done.stdout)
        self.assertEqual(done.stderr.strip(), expected)

    def test_the_entry_is_printed(self):
        self.assertEqual(self.output("check", "v7.8.9"), "- A change.\n")
        self.assertRegex(self.output("check"), r"^\d+ versions are 7\.8\.9\n$")

    def test_a_bump_changes_only_versions(self):
        def bump(version):
            (self.copy / "CHANGELOG.md").write_text("## Unreleased\n\n- A change.\n")
            self.output("bump", version)
            files = [path for path in self.copy.rglob("*") if path.name != "CHANGELOG.md"]
            return {file: file.read_bytes() for file in files if file.is_file()}

        foreign = 'foreign = { version = "7.8.9" }\n'
        self.replace("bindings/c/Cargo.toml", "[dependencies]\n", "[dependencies]\n" + foreign)
        before, other = bump("7.8.9"), bump("17.18.19")
        self.assertIn(foreign, (self.copy / "bindings/c/Cargo.toml").read_text())
        source = self.copy / "bindings/c/src/version.rs"
        self.assertNotEqual(before[source], other[source])
        self.assertEqual(before, bump("7.8.9"))
        self.fails("the version is '7.8', expected X.Y.Z", "bump", "7.8")

    def test_the_tag_is_another_version(self):
        done = self.run_release("check", "v7.8.8")
        self.assertEqual(done.returncode, 1)
        for line in [
            "Cargo.toml: version is 7.8.9, expected 7.8.8",
            "bindings/python/Cargo.toml: version is 7.8.9, expected 7.8.8",
            "Cargo.lock: fused-adam-burn is 7.8.9, expected 7.8.8",
            "CHANGELOG.md: the top entry is `7.8.9 - 2030-01-31`, expected `7.8.8 - YYYY-MM-DD`",
        ]:
            self.assertIn(line, done.stderr.splitlines())

    def test_the_tag_is_no_version(self):
        for tag in ["7.8.9", "v7.8", "v7.8.9-rc.1", "main"]:
            self.fails(f"the tag is {tag!r}, expected vX.Y.Z", "check", tag)

    def test_one_version_is_wrong(self):
        python = "bindings/python/pyproject.toml"
        lock = '"\nversion = "7.8.9"', '"\nversion = "7.8.0"'
        requirement = 'path = "../..", version = "7.8.'
        for file, old, new, error in [
            ("bindings/burn/Cargo.toml", '"7.8.9"\ned', '"7.8.0"\ned', "version is 7.8.0"),
            ("bindings/c/Cargo.toml", requirement + "9", requirement + "0", "fused-adam is 7.8.0"),
            ("fuzz/Cargo.lock", "fused-adam" + lock[0], "fused-adam" + lock[1],
             "fused-adam is 7.8.0"),
            (python, 'dynamic = ["version"]', 'version = "7.8.0"', "version is 7.8.0"),
            ("bindings/c/include/fused_adam.h", "PATCH 9", "PATCH 0",
             "FUSED_ADAM_VERSION_… is 7.8.0"),
        ]:
            with self.subTest(file):
                before = (self.copy / file).read_text()
                self.replace(file, old, new)
                for tag in [[], ["v7.8.9"]]:
                    self.fails(f"{file}: {error}, expected 7.8.9", "check", *tag)
                (self.copy / file).write_text(before)

    def test_the_readme_has_another_series(self):
        file = "bindings/c/README.md"
        self.replace(file, "fused-adam 7.8 REQ", "fused-adam 7.7 REQ")
        self.fails(f"{file}: find_package is 7.7, expected 7.8", "check", "v7.8.9")

    def test_the_changelog_is_not_ready(self):
        file = "CHANGELOG.md"
        for title in ["Unreleased", "7.8.9", "7.8.9 - 2030-02-30", "7.8.10 - 2030-01-31"]:
            (self.copy / file).write_text(ENTRY.replace("7.8.9 - 2030-01-31", title))
            top = f"{file}: the top entry is `{title}`, expected `7.8.9 - YYYY-MM-DD`"
            self.fails(top, "check", "v7.8.9")
            self.output("check")
        (self.copy / file).write_text(ENTRY.replace("- A change.\n", ""))
        empty = f"{file}: the entry `7.8.9 - 2030-01-31` is empty, expected a list of changes"
        self.fails(empty, "check", "v7.8.9")

    def libraries(self, target):
        folder = self.work / "libraries" / target
        folder.mkdir(parents=True)
        for name in LIBRARIES[target]:
            (folder / name).write_bytes(b"the library " + name.encode())
        return folder

    def test_a_packed_library_can_be_installed(self):
        self.output("pack", LINUX, self.libraries(LINUX), self.work / "packed")
        stem = f"fused-adam-c-7.8.9-{LINUX}"
        with tarfile.open(self.work / "packed" / f"{stem}.tar.gz") as archive:
            for member in archive.getmembers():
                self.assertTrue(member.isfile() and member.name.startswith(stem + "/"))
                archive.extract(member, self.work / "unpacked")
        if os.uname().sysname != "Linux":
            self.skipTest("install.sh takes the libraries of this system")
        script = self.work / "unpacked" / stem / "install.sh"
        prefix = self.work / "prefix"
        command = [script, "--from", script.parent / "lib", "--prefix", prefix]
        subprocess.run(command, check=True, capture_output=True)
        for name in ["libfused_adam.so", "libfused_adam.a"]:
            installed = (prefix / "lib" / name).read_bytes()
            self.assertEqual(installed, b"the library " + name.replace(".", "_c.").encode())
        self.assertIn("7.8.9", (prefix / "lib/pkgconfig/fused-adam.pc").read_text())
        self.assertTrue((prefix / "include/fused_adam.h").is_file())

    def test_pack_refuses(self):
        folder = self.libraries(LINUX)
        (folder / "libfused_adam_c.a").unlink()
        missing = f"there is no {folder / 'libfused_adam_c.a'}"
        self.fails(missing, "pack", LINUX, folder, self.work / "packed")
        self.assertFalse((self.work / "packed").exists())
        unknown = f"the target is x, expected one of {', '.join(LIBRARIES)}"
        self.fails(unknown, "pack", "x", folder, self.work / "packed")

    def artifacts(self):
        """All files of the release, as far as they are looked at."""
        folder = self.work / "artifacts"
        for target in LIBRARIES:
            self.output("pack", target, self.libraries(target), folder)
        for name in WHEELS:
            with zipfile.ZipFile(folder / name, "w") as wheel:
                for licence in ["LICENSE-APACHE", "LICENSE-MIT"]:
                    wheel.write(ROOT / licence, f"fused_adam.dist-info/licenses/{licence}")
        with tarfile.open(folder / "fused_adam-7.8.9.tar.gz", "w:gz") as sdist:
            for licence in ["LICENSE-APACHE", "LICENSE-MIT"]:
                sdist.add(ROOT / licence, f"fused_adam-7.8.9/{licence}")
        return folder

    def test_all_artifacts(self):
        folder = self.artifacts()
        listed = self.output("artifacts", "v7.8.9", folder).split()
        self.assertEqual(len(listed), len(WHEELS) + 1 + len(LIBRARIES))

        (folder / WHEELS[3]).rename(self.work / "wheel")
        pattern = "fused_adam-7.8.9-cp310-abi3-musllinux_1_2_aarch64.whl"
        missing = f"{folder} has 0 files {pattern}, expected 1"
        self.fails(missing, "artifacts", "v7.8.9", folder)
        (self.work / "wheel").rename(folder / WHEELS[3])

        (folder / "notes").write_text("")
        extra = f"{folder / 'notes'}: not a file of the release 7.8.9"
        self.fails(extra, "artifacts", "v7.8.9", folder)
        (folder / "notes").unlink()

        # As where git has written a symbolic link as a file with its target.
        with zipfile.ZipFile(folder / WHEELS[6], "w") as wheel:
            wheel.write(ROOT / "LICENSE-MIT", "fused_adam.dist-info/licenses/LICENSE-MIT")
            wheel.writestr("fused_adam.dist-info/licenses/LICENSE-APACHE", "../../LICENSE-APACHE")
        path = folder / WHEELS[6]
        other = f"{path}: its LICENSE-APACHE is missing or not that of the repository"
        self.fails(other, "artifacts", "v7.8.9", folder)


    def test_only_the_missing_crates_are_published(self):
        # A cargo that knows which crates are published, and records what it should publish.
        tools, real = self.work / "tools", shutil.which("cargo")
        tools.mkdir()
        (tools / "cargo").write_text(f"""#!/bin/sh
case $1 in
  info) name=${{3%@7.8.9}}
    case " $PUBLISHED " in *" $name "*) exit 0 ;; esac
    echo "error: ${{ERROR-could not find \\`$3\\` in registry}}" >&2; exit 101 ;;
  publish) echo "$*" >> "$RECORD"; exit "${{STATUS-0}}" ;;
  *) exec {real} "$@" ;;
esac
""")
        (tools / "cargo").chmod(0o755)
        record = self.work / "record"

        def publish(**variables):
            record.write_text("")
            environment = {**os.environ, "PATH": f"{tools}:{os.environ['PATH']}",
                           "RECORD": str(record), **variables}
            command = [sys.executable, self.copy / ".ci/release", "publish"]
            done = subprocess.run(command, capture_output=True, text=True, env=environment)
            return done.returncode, record.read_text().strip(), done.stderr

        publishing = "publish --workspace --no-verify"
        self.assertEqual(publish(PUBLISHED="fused-adam-x"), (0, publishing, ""))
        two = publish(PUBLISHED="fused-adam fused-adam-float-mode")
        both = "--exclude=fused-adam --exclude=fused-adam-float-mode"
        self.assertEqual(two, (0, f"{publishing} {both}", ""))
        names = "fused-adam-burn fused-adam-c fused-adam-candle fused-adam-ndarray"
        every = f"fused-adam fused-adam-float-mode {names}"
        self.assertEqual(publish(PUBLISHED=every), (0, "", ""))
        self.assertEqual(publish(PUBLISHED="", STATUS="101"), (101, publishing, ""))
        error = "`cargo info fused-adam@7.8.9` failed: error: no network\n"
        self.assertEqual(publish(PUBLISHED="", ERROR="no network"), (1, "", error))


if __name__ == "__main__":
    unittest.main()
