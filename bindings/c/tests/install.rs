//! `install.sh`: what it installs and where, what it refuses, and that it then installs nothing.
//! CMake finds the installed package. Tests that need a missing tool are skipped, by name.

mod tools;

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::{Command, ExitCode};

use libtest_mimic::{Arguments, Failed, Trial};
use tools::{PACKAGE, install_script, is_installed, readme_program, run, run_to_fail};

fn main() -> ExitCode {
    let test = |name: &str, test: fn(&Path) -> Result<(), String>| {
        Trial::test(name, move || {
            let work = tempfile::tempdir().map_err(|error| error.to_string())?;
            Ok::<_, Failed>(test(work.path())?)
        })
    };
    let mut trials = vec![
        test("help", help),
        test("options", options),
        test("destdir", destdir),
        test("a missing library", missing_library),
        test("a destination that cannot be written", unwritable),
        test("a failure keeps what was installed", failure_keeps),
        test("a failure of the last steps is undone", undone),
    ];
    let missing = ["cmake", "cc"].into_iter().find(|tool| !is_installed(tool));
    let skipped =
        missing.map_or(String::new(), |tool| format!(" (skipped: {tool} is not installed)"));
    trials.push(test(&format!("cmake{skipped}"), cmake).with_ignored_flag(missing.is_some()));
    libtest_mimic::run(&Arguments::from_args(), trials).exit_code()
}

/// The files and links under a folder.
fn files(folder: &Path) -> Result<BTreeSet<String>, String> {
    let listed = run(Command::new("find").arg(".").args(["!", "-type", "d"]).current_dir(folder))?;
    Ok(listed.lines().map(|line| line.trim_start_matches("./").to_owned()).collect())
}

fn contains(text: &str, part: &str) -> Result<(), String> {
    if text.contains(part) { Ok(()) } else { Err(format!("{text}\nexpected: {part}")) }
}

fn equal<T: PartialEq + std::fmt::Debug>(one: T, other: T) -> Result<(), String> {
    if one == other { Ok(()) } else { Err(format!("{one:?}, expected {other:?}")) }
}

fn help(work: &Path) -> Result<(), String> {
    for option in ["--help", "-h"] {
        let printed = run(install_script()?.arg(option).current_dir(work))?;
        for part in ["--prefix DIR ", "--from DIR ", "--destdir DIR ", "cargo build --release"] {
            contains(&printed, part)?;
        }
        contains(printed.lines().next().unwrap_or(""), "Installs fused-adam for C and C++")?;
        equal(printed.contains("set -eu") || printed.contains('#'), false)?;
    }
    equal(files(work)?, BTreeSet::new())
}

fn options(work: &Path) -> Result<(), String> {
    let wrong = |arguments: &[&str], message: &str| {
        contains(&run_to_fail(install_script()?.args(arguments))?, message)
    };
    wrong(&["--prefix"], "install.sh: --prefix needs a directory")?;
    wrong(&["--from="], "install.sh: --from needs a directory")?;
    wrong(&["--destdir", ""], "install.sh: --destdir needs a directory")?;
    wrong(&["--prefix", "relative"], "the prefix is relative, expected an absolute path")?;
    wrong(&["--prefx=/a"], "unknown option --prefx=/a, expected --prefix, --from, --destdir or")?;
    // Both forms install the same.
    let (one, other) = (work.join("one"), work.join("a & b=|c"));
    run(install_script()?.arg("--prefix").arg(&one))?;
    run(install_script()?.arg(format!("--prefix={}", other.display())))?;
    equal(files(&one)?, files(&other)?)?;
    let pc = fs::read_to_string(other.join("lib/pkgconfig/fused-adam.pc"));
    let pc = pc.map_err(|error| error.to_string())?;
    contains(&pc, &format!("prefix={}\n", other.display().to_string().replace(' ', "\\ ")))?;
    // In whatever way the shell finds folders.
    run(install_script()?.arg("--prefix").arg(&one).env("CDPATH", ".:/").current_dir(PACKAGE))
        .map(drop)
}

fn destdir(work: &Path) -> Result<(), String> {
    let (one, other) = (work.join("one"), work.join("other"));
    run(install_script()?.args(["--prefix", "/opt/fa", "--destdir"]).arg(&one))?;
    run(install_script()?.args(["--prefix", "/opt/fa"]).env("DESTDIR", &other))?;
    let found = files(&one)?;
    equal(&found, &files(&other)?)?;
    let version = env!("CARGO_PKG_VERSION");
    let mut expected = vec![
        "include/fused_adam.h".to_owned(),
        "lib/cmake/fused-adam/fused-adam-config-version.cmake".to_owned(),
        "lib/cmake/fused-adam/fused-adam-config.cmake".to_owned(),
        "lib/libfused_adam.a".to_owned(),
        "lib/pkgconfig/fused-adam.pc".to_owned(),
        "share/fused-adam/fused-adam.supp".to_owned(),
    ];
    if cfg!(target_os = "macos") {
        expected.push("lib/libfused_adam.dylib".to_owned());
    } else {
        let names = ["so".to_owned(), "so.0".to_owned(), format!("so.{version}")];
        expected.extend(names.map(|name| format!("lib/libfused_adam.{name}")));
    }
    equal(found, expected.iter().map(|file| format!("opt/fa/{file}")).collect())?;
    for file in files(&one)? {
        let text = fs::read(one.join(&file)).map_err(|error| format!("{file}: {error}"))?;
        if !file.contains("libfused_adam") {
            let text = String::from_utf8_lossy(&text).into_owned();
            // Neither a template's variable nor the folder in which it was staged.
            equal(text.lines().find(|line| line.contains('@')), None)?;
            equal(text.contains(&*work.to_string_lossy()), false)?;
        }
    }
    Ok(())
}

fn missing_library(work: &Path) -> Result<(), String> {
    let (from, prefix) = (work.join("from"), work.join("prefix"));
    fs::create_dir(&from).map_err(|error| error.to_string())?;
    let shared = if cfg!(target_os = "macos") { "dylib" } else { "so" };
    for missing in [format!("libfused_adam_c.{shared}"), "libfused_adam_c.a".to_owned()] {
        let mut script = install_script()?;
        let complaint = run_to_fail(script.arg("--from").arg(&from).arg("--prefix").arg(&prefix))?;
        let message =
            format!("install.sh: there is no {}/{missing}. Build first: ", from.display());
        contains(&complaint, &format!("{message}cargo build --release -p fused-adam-c"))?;
        equal(prefix.exists(), false)?;
        fs::write(from.join(missing), "a library").map_err(|error| error.to_string())?;
    }
    Ok(())
}

fn unwritable(work: &Path) -> Result<(), String> {
    let prefix = work.join("prefix");
    fs::create_dir(&prefix).map_err(|error| error.to_string())?;
    run(Command::new("chmod").arg("555").arg(&prefix))?;
    // Root can write everywhere, except in the files of the kernel.
    let root = fs::write(prefix.join("probe"), "").is_ok();
    let to = if root { Path::new("/proc") } else { &prefix };
    let complaint = run_to_fail(install_script()?.arg("--prefix").arg(to))?;
    contains(&complaint, &format!("install.sh: cannot write to {}", to.display()))?;
    run(Command::new("chmod").arg("755").arg(&prefix))?;
    let left = if root { BTreeSet::from(["probe".to_owned()]) } else { BTreeSet::new() };
    equal(files(&prefix)?, left)?;

    // Where a folder is to be, there is a file.
    let file = work.join("file");
    fs::write(&file, "").map_err(|error| error.to_string())?;
    let complaint = run_to_fail(install_script()?.arg("--prefix").arg(&file))?;
    contains(&complaint, &format!("install.sh: cannot create {}", file.display()))?;
    let prefix = work.join("other");
    fs::create_dir(&prefix).map_err(|error| error.to_string())?;
    fs::write(prefix.join("lib"), "").map_err(|error| error.to_string())?;
    let complaint = run_to_fail(install_script()?.arg("--prefix").arg(&prefix))?;
    contains(&complaint, &format!("install.sh: cannot create {}/lib", prefix.display()))?;
    equal(files(&prefix)?, BTreeSet::from(["lib".to_owned()]))
}

/// An installation that cannot be completed leaves the one before as it was.
fn failure_keeps(work: &Path) -> Result<(), String> {
    let prefix = work.join("prefix");
    run(install_script()?.arg("--prefix").arg(&prefix))?;
    let (header, pc) = (prefix.join("include/fused_adam.h"), "lib/pkgconfig/fused-adam.pc");
    let mut expected = files(&prefix)?;
    fs::write(&header, "old").map_err(|error| error.to_string())?;
    fs::remove_file(prefix.join(pc)).map_err(|error| error.to_string())?;
    fs::create_dir(prefix.join(pc)).map_err(|error| error.to_string())?;
    let complaint = run_to_fail(install_script()?.arg("--prefix").arg(&prefix))?;
    contains(&complaint, &format!("{}/{pc} is a directory, expected a file", prefix.display()))?;
    expected.remove(pc);
    equal(files(&prefix)?, expected.clone())?;
    equal(fs::read_to_string(&header).ok(), Some("old".to_owned()))?;
    equal(fs::read_dir(&prefix).map_err(|error| error.to_string())?.count(), 3)?;

    fs::remove_dir(prefix.join(pc)).map_err(|error| error.to_string())?;
    run(install_script()?.arg("--prefix").arg(&prefix))?;
    expected.insert(pc.to_owned());
    equal(files(&prefix)?, expected)?;
    equal(fs::read_to_string(&header).is_ok_and(|text| text.len() > 3), true)
}

/// A file that cannot be replaced, or whose old version cannot be moved away, undoes the
/// installation. A program `mv` fails once, as with a file that belongs to another user.
fn undone(work: &Path) -> Result<(), String> {
    let (prefix, tools, failed) = (work.join("prefix"), work.join("tools"), work.join("failed"));
    run(install_script()?.arg("--prefix").arg(&prefix))?;
    let old = files(&prefix)?;
    for file in &old {
        fs::remove_file(prefix.join(file)).map_err(|error| error.to_string())?;
        fs::write(prefix.join(file), "old").map_err(|error| error.to_string())?;
    }
    fs::create_dir(&tools).map_err(|error| error.to_string())?;
    let path = std::env::var("PATH").map_err(|error| error.to_string())?;
    for (argument, file) in [("$2", "include/fused_adam.h"), ("$3", "lib/libfused_adam.a")] {
        let file = prefix.join(".").join(file).display().to_string();
        let script = format!(
            "#!/bin/sh\n\
             case \"{argument}\" in '{file}') [ -e '{0}' ] || {{ : > '{0}'; exit 1; }} ;; esac\n\
             PATH='{path}' exec mv \"$@\"\n",
            failed.display()
        );
        fs::write(tools.join("mv"), script).map_err(|error| error.to_string())?;
        run(Command::new("chmod").arg("755").arg(tools.join("mv")))?;
        let mut install = install_script()?;
        install.arg("--prefix").arg(&prefix).env("PATH", format!("{}:{path}", tools.display()));
        contains(&run_to_fail(&mut install)?, "install.sh: cannot replace")?;
        equal(failed.exists(), true)?;
        equal(files(&prefix)?, old.clone())?;
        for file in &old {
            equal(fs::read_to_string(prefix.join(file)).ok(), Some("old".to_owned()))?;
        }
        fs::remove_file(&failed).map_err(|error| error.to_string())?;
    }
    // Without a failure, the same `mv` replaces all.
    fs::write(&failed, "").map_err(|error| error.to_string())?;
    run(install_script()?.arg("--prefix").arg(&prefix))?;
    equal(fs::read_to_string(prefix.join("include/fused_adam.h")).ok() == Some("old".into()), false)
}

/// `find_package` finds the package where it was moved to. A program links with both targets.
fn cmake(work: &Path) -> Result<(), String> {
    let (package, program) = (work.join("package"), readme_program(0, work)?);
    run(install_script()?.args(["--prefix", "/opt/fa", "--destdir"]).arg(&package))?;
    let moved = work.join("moved here");
    fs::rename(package.join("opt/fa"), &moved).map_err(|error| error.to_string())?;
    let configure = |version: &str| {
        let mut cmake = Command::new("cmake");
        cmake.arg("-S").arg(Path::new(PACKAGE).join("tests/cmake")).arg("-B");
        cmake.arg(work.join(format!("build {version}")));
        cmake.arg(format!("-DCMAKE_PREFIX_PATH={}", moved.display()));
        cmake.arg(format!("-DSOURCE={}", program.display())).arg(format!("-DVERSION={version}"));
        cmake
    };
    let version = env!("CARGO_PKG_VERSION");
    let (series, _) = version.rsplit_once('.').ok_or("a version without a point")?;
    let (major, minor) = series.split_once('.').ok_or("a version with one point")?;
    let minor: u32 = minor.parse().map_err(|_| "a minor version that is no number")?;
    for fits in [major, version] {
        run(&mut configure(fits))?;
    }
    for newer in [format!("{series}.99"), format!("{major}.{}", minor + 1), "99".to_owned()] {
        let complaint = run_to_fail(&mut configure(&newer))?;
        contains(&complaint, &format!("version: {version}"))?;
    }
    run(&mut configure(series))?;
    let build = work.join(format!("build {series}"));
    run(Command::new("cmake").arg("--build").arg(&build))?;
    for program in ["with_shared", "with_static"] {
        run(&mut Command::new(build.join(program)))?;
    }
    if cfg!(target_os = "linux") && is_installed("readelf") {
        let needs = |program: &str| run(Command::new("readelf").arg("-d").arg(build.join(program)));
        contains(&needs("with_shared")?, "[libfused_adam.so.0]")?;
        equal(needs("with_static")?.contains("libfused_adam"), false)?;
    }
    Ok(())
}
