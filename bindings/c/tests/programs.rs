//! Builds and runs the C and C++ programs, including that of the README, as a user would.
//! `install.sh` installs the library under a prefix. Each program is compiled with all warnings as
//! errors, linked with the shared and with the static library according to `pkg-config`, and run.
//! It is also linked manually and run under valgrind, which must not find an error or a leak.
//!
//! Tests that need a missing tool are skipped, by name. Valgrind shows programs the CPU that it
//! emulates. Up to version 3.19 this has no AVX-512, so the library uses AVX2.

mod tools;

use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use fused_adam::{AdamW, AnyRule, Block8, Rounding, Step, bytemuck};
use libtest_mimic::{Arguments, Failed, Trial};
use tools::{PACKAGE, README, install_script, is_installed, readme_program, run, run_to_fail};

/// A program: its name, its sources and its argument.
#[derive(Clone, Copy)]
struct Program {
    name: &'static str,
    sources: &'static [&'static str],
    argument: Argument,
}

#[derive(Clone, Copy)]
enum Argument {
    None,
    /// The names of all rules.
    Rules,
    /// A file that the program may write.
    File,
    /// A file that the program may write, and the core's results with states in 8 bits.
    FileAndResults,
    /// The digits, and a smaller number of steps under valgrind.
    Digits,
}

const PROGRAMS: [Program; 16] = [
    Program { name: "readme", sources: &[README], argument: Argument::None },
    Program { name: "readme_optimizer", sources: &[README], argument: Argument::None },
    Program { name: "bits", sources: &["tests/programs/bits.c"], argument: Argument::Rules },
    Program { name: "refusals", sources: &["tests/programs/refusals.c"], argument: Argument::File },
    Program { name: "handles", sources: &["tests/programs/handles.c"], argument: Argument::File },
    Program {
        name: "eight_bits",
        sources: &["tests/programs/eight_bits.c"],
        argument: Argument::FileAndResults,
    },
    Program {
        name: "float_mode",
        sources: &["tests/programs/float_mode.c"],
        argument: Argument::None,
    },
    Program { name: "fork", sources: &["tests/programs/fork.c"], argument: Argument::None },
    Program { name: "threads", sources: &["tests/programs/threads.cpp"], argument: Argument::None },
    Program {
        name: "lr_schedule",
        sources: &["tests/programs/lr_schedule.c"],
        argument: Argument::File,
    },
    Program {
        name: "thread_pool",
        sources: &["tests/programs/thread_pool.c"],
        argument: Argument::None,
    },
    Program { name: "openmp", sources: &["tests/programs/openmp.c"], argument: Argument::None },
    Program { name: "busy", sources: &["tests/programs/busy.c"], argument: Argument::File },
    Program { name: "constant", sources: &["tests/programs/constant.c"], argument: Argument::File },
    Program {
        name: "constant_cpp",
        sources: &["tests/programs/constant.cpp"],
        argument: Argument::File,
    },
    Program {
        name: "train_digits",
        sources: &["examples/train_digits.c", "examples/textbook.c"],
        argument: Argument::Digits,
    },
];

#[derive(Clone, Copy, PartialEq)]
enum Mode {
    Shared,
    Static,
    Valgrind,
}

fn main() -> ExitCode {
    let work = tempfile::tempdir().expect("a folder to work in");
    let prefix = work.path().join("prefix");
    let installed =
        install_script().and_then(|mut script| run(script.arg("--prefix").arg(&prefix)));
    let mut trials =
        vec![Trial::test("install.sh", move || installed.map(drop).map_err(Failed::from))];
    for program in PROGRAMS {
        for (how, with) in
            [(Mode::Shared, "shared"), (Mode::Static, "static"), (Mode::Valgrind, "under valgrind")]
        {
            // In a child process, the memory of the parent's threads always counts as lost. The
            // threads of OpenMP wait in a loop, which takes very long under valgrind.
            if how == Mode::Valgrind && ["fork", "openmp"].contains(&program.name) {
                continue;
            }
            let compiler = program.compiler();
            let needed = [Some(compiler), (how != Mode::Valgrind).then_some("pkg-config")];
            let needed = needed.into_iter().flatten();
            let needed = needed.chain((how == Mode::Valgrind).then_some("valgrind"));
            let needed = needed.chain((program.name == "openmp").then_some("OpenMP"));
            let missing = needed.clone().find(|name| match *name {
                "OpenMP" => !has_openmp(),
                name => !is_installed(name),
            });
            let prefix = prefix.clone();
            let name = format!("{} {with}", program.name);
            let name = match missing {
                Some(missing) => format!("{name} (skipped: {missing} is not installed)"),
                None => name,
            };
            let test = Trial::test(name, move || Ok(program.run(how, &prefix)?));
            trials.push(test.with_ignored_flag(missing.is_some()));
        }
    }
    for (how, with) in [(Mode::Shared, "shared"), (Mode::Static, "static")] {
        let missing = ["cc", "pkg-config", "valgrind"].into_iter().find(|name| !is_installed(name));
        let skipped = missing.map(|name| format!(" (skipped: {name} is not installed)"));
        let name = format!("suppressions for valgrind {with}{}", skipped.unwrap_or_default());
        let prefix = prefix.clone();
        let test = Trial::test(name, move || Ok(suppressions(how, &prefix)?));
        trials.push(test.with_ignored_flag(missing.is_some()));
    }
    let library = prefix.join("lib/libfused_adam.so.0");
    let skipped = if cfg!(target_os = "macos") {
        " (skipped: reads ELF files)"
    } else if !is_installed("nm") {
        " (skipped: nm is not installed)"
    } else {
        ""
    };
    let test = Trial::test(format!("exports{skipped}"), move || Ok(exports(&library)?));
    trials.push(test.with_ignored_flag(!skipped.is_empty()));
    libtest_mimic::run(&Arguments::from_args(), trials).exit_code()
}

/// Whether the C compiler can compile and link for OpenMP.
fn has_openmp() -> bool {
    let compile = || {
        let work = tempfile::tempdir().map_err(|error| error.to_string())?;
        let (source, program) = (work.path().join("empty.c"), work.path().join("empty"));
        let text = "#include <omp.h>\nint main(void) { return omp_get_max_threads() < 1; }\n";
        std::fs::write(&source, text).map_err(|error| error.to_string())?;
        run(Command::new("cc").arg("-fopenmp").arg(&source).arg("-o").arg(&program))
    };
    compile().is_ok()
}

/// pkg-config's answer for the installed library.
fn pkg_config(prefix: &Path, arguments: &[&str]) -> Result<Vec<String>, String> {
    let mut command = Command::new("pkg-config");
    command.env("PKG_CONFIG_PATH", prefix.join("lib/pkgconfig"));
    let words = run(command.args(arguments).arg("fused-adam"))?;
    Ok(words.split_whitespace().map(str::to_owned).collect())
}

impl Program {
    fn compiler(&self) -> &'static str {
        if self.sources[0].ends_with(".cpp") { "c++" } else { "cc" }
    }

    /// Compiles the program in a folder and returns its path.
    fn compile(&self, how: Mode, prefix: &Path, folder: &Path) -> Result<PathBuf, String> {
        let program = folder.join(self.name);
        let mut compile = Command::new(self.compiler());
        let standard = if self.compiler() == "c++" { "-std=c++20" } else { "-std=c11" };
        compile.args([standard, "-O1", "-g", "-Wall", "-Wextra", "-Wpedantic", "-Werror"]);
        compile.arg("-Wcast-qual").arg("-o").arg(&program);
        if self.name == "openmp" {
            compile.arg("-fopenmp");
        }
        for source in self.sources {
            let source = match *source {
                README => readme_program(usize::from(self.name != "readme"), folder)?,
                source => Path::new(PACKAGE).join(source),
            };
            compile.arg(source);
        }
        let lib = prefix.join("lib");
        match how {
            Mode::Shared => drop(compile.args(pkg_config(prefix, &["--cflags", "--libs"])?)),
            Mode::Static => {
                compile.args(pkg_config(prefix, &["--cflags"])?);
                compile.args(pkg_config(prefix, &["--variable=static_libs"])?);
            }
            Mode::Valgrind => {
                compile.arg("-I").arg(prefix.join("include"));
                compile.arg("-L").arg(&lib).arg("-lfused_adam");
            }
        }
        compile.arg(format!("-Wl,-rpath,{}", lib.display())).args(["-lm", "-pthread"]);
        run(&mut compile)?;
        Ok(program)
    }

    fn run(&self, how: Mode, prefix: &Path) -> Result<(), String> {
        let work = tempfile::tempdir().map_err(|error| error.to_string())?;
        let program = self.compile(how, prefix, work.path())?;
        let mut command = match how {
            Mode::Shared | Mode::Static => Command::new(&program),
            Mode::Valgrind => {
                let mut valgrind = Command::new("valgrind");
                valgrind.args(["--quiet", "--error-exitcode=99", "--leak-check=full"]);
                valgrind.args(["--errors-for-leak-kinds=definite"]).arg(&program);
                valgrind
            }
        };
        match self.argument {
            Argument::None => {}
            Argument::Rules => drop(command.args(AnyRule::NAMES.iter())),
            Argument::File => drop(command.arg(work.path().join("written"))),
            Argument::FileAndResults => {
                let file = work.path().join("results");
                std::fs::write(&file, eight_bits()).map_err(|error| error.to_string())?;
                command.arg(work.path().join("written")).arg(file);
            }
            Argument::Digits => {
                let file = work.path().join("digits.csv");
                std::fs::write(&file, digits()?).map_err(|error| error.to_string())?;
                command.arg(file);
                if how == Mode::Valgrind {
                    command.arg("30");
                }
            }
        }
        let printed = run(&mut command)?;
        if std::env::var_os("SHOW").is_some() {
            println!("{printed}");
        }
        Ok(())
    }
}

/// The steps of `eight_bits.c`, taken by the core: θ, `m` and `v` afterwards.
fn eight_bits() -> Vec<u8> {
    const N: usize = 20_003;
    let mut theta: Vec<f32> = (0..N).map(|i| (i % 7) as f32 / 8.0 - 0.25).collect();
    let mut m: Vec<Block8> = vec![[0; 33]; N.div_ceil(32)];
    let mut v = m.clone();
    for t in 1..=4_u8 {
        let quarters = f32::from(t) / 4.0;
        let grad: Vec<f32> = (0..N).map(|i| (i % 13) as f32 / 16.0 - quarters).collect();
        let rounding = Rounding::Stochastic { seed: 7 };
        let (rule, states) = (AdamW::default(), &mut [&mut m[..], &mut v[..]]);
        let step = Step::new(&rule, t.into()).with_rounding(rounding);
        step.run_mixed(&mut theta, &grad, states).expect("valid buffers");
    }
    let bytes: [&[u8]; 3] =
        [bytemuck::cast_slice(&theta), bytemuck::cast_slice(&m), bytemuck::cast_slice(&v)];
    bytes.concat()
}

/// The digits as plain text.
fn digits() -> Result<String, String> {
    let path: PathBuf = [PACKAGE, "../../data/digits.csv.gz"].iter().collect();
    let file = std::fs::File::open(&path).map_err(|error| format!("{path:?}: {error}"))?;
    let mut text = String::new();
    let read = flate2::read::GzDecoder::new(file).read_to_string(&mut text);
    read.map_err(|error| format!("{path:?}: {error}"))?;
    Ok(text)
}

/// The threads of the library wait until the program ends, so valgrind reports their memory as
/// possibly lost. With the installed suppressions it reports nothing.
fn suppressions(how: Mode, prefix: &Path) -> Result<(), String> {
    let work = tempfile::tempdir().map_err(|error| error.to_string())?;
    let (name, sources) = ("large_step", &["tests/programs/large_step.c"]);
    let program = Program { name, sources, argument: Argument::None };
    let program = program.compile(how, prefix, work.path())?;
    let valgrind = || {
        let mut valgrind = Command::new("valgrind");
        valgrind.args(["--error-exitcode=99", "--leak-check=full"]);
        valgrind.arg("--errors-for-leak-kinds=definite,possible");
        // At least two threads, also where there is one processor.
        valgrind.env("RAYON_NUM_THREADS", "3");
        valgrind
    };
    let complaint = run_to_fail(valgrind().arg(&program))?;
    if !complaint.contains("are possibly lost") || complaint.contains("are definitely lost") {
        return Err(complaint);
    }
    let file = prefix.join("share/fused-adam/fused-adam.supp");
    run(valgrind().arg(format!("--suppressions={}", file.display())).arg(&program))?;
    Ok(())
}

/// The shared library exports the header's functions and nothing else.
fn exports(library: &Path) -> Result<(), String> {
    let listed = run(Command::new("nm").args(["-D", "--defined-only"]).arg(library))?;
    let mut found: Vec<&str> =
        listed.lines().filter_map(|line| line.split_whitespace().last()).collect();
    let header = std::fs::read_to_string(Path::new(PACKAGE).join("include/fused_adam.h"))
        .map_err(|error| error.to_string())?;
    let mut expected: Vec<&str> = header
        .lines()
        .filter(|line| !line.starts_with(" *"))
        .filter_map(|line| {
            let name = &line[line.find("fused_adam_")?..];
            name.find('(').map(|end| &name[..end])
        })
        .collect();
    found.sort_unstable();
    expected.sort_unstable();
    if found == expected { Ok(()) } else { Err(format!("{found:?}, expected {expected:?}")) }
}
