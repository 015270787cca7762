//! Shared by the tests that run tools: compilers, `install.sh`, valgrind, CMake.

use std::path::{Path, PathBuf};
use std::process::Command;

pub const PACKAGE: &str = env!("CARGO_MANIFEST_DIR");

/// The README contains two programs.
pub const README: &str = "README.md";

pub fn is_installed(program: &str) -> bool {
    Command::new(program).arg("--version").output().is_ok_and(|output| output.status.success())
}

/// Runs a command and returns what it printed.
pub fn run(command: &mut Command) -> Result<String, String> {
    let output = command.output().map_err(|error| format!("{command:?}: {error}"))?;
    let printed = String::from_utf8_lossy(&output.stdout).into_owned();
    if output.status.success() {
        return Ok(printed);
    }
    let complaints = String::from_utf8_lossy(&output.stderr);
    Err(format!("{command:?}: {}\n{printed}{complaints}", output.status))
}

/// Runs a command that must fail, and returns what it printed and the error.
pub fn run_to_fail(command: &mut Command) -> Result<String, String> {
    match run(command) {
        Ok(printed) => Err(format!("{command:?} did not fail:\n{printed}")),
        Err(complaint) => Ok(complaint),
    }
}

/// The script, which takes the libraries from the folder of this test.
pub fn install_script() -> Result<Command, String> {
    let test = std::env::current_exe().map_err(|error| error.to_string())?;
    let from = test.parent().ok_or("the test program has no folder")?;
    let mut script = Command::new("sh");
    script.arg(Path::new(PACKAGE).join("install.sh")).arg("--from").arg(from).env_remove("DESTDIR");
    Ok(script)
}

/// Writes a program of the README to a file.
pub fn readme_program(number: usize, folder: &Path) -> Result<PathBuf, String> {
    let readme = Path::new(PACKAGE).join(README);
    let readme = std::fs::read_to_string(readme).map_err(|error| error.to_string())?;
    let blocks = readme.split("```c\n").skip(1).filter_map(|rest| rest.split("```").next());
    let mut programs = blocks.filter(|block| block.contains("int main"));
    let program = programs.nth(number).ok_or("there is none")?;
    let file = folder.join("readme.c");
    std::fs::write(&file, program).map_err(|error| error.to_string())?;
    Ok(file)
}
