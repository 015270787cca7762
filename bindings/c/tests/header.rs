//! `include/fused_adam.h` is what cbindgen generates from the source.
//!
//! After a change of the interface, generate it again with
//!
//! ```text
//! UPDATE_HEADER=1 cargo test -p fused-adam-c --test header
//! ```

use std::fs;
use std::path::Path;

fn made() -> String {
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    let config = cbindgen::Config::from_file(package.join("cbindgen.toml")).unwrap();
    let bindings = cbindgen::Builder::new()
        .with_config(config)
        .with_src(package.join("src/lib.rs"))
        .generate()
        .unwrap();
    let mut header = Vec::new();
    bindings.write(&mut header);
    String::from_utf8(header).unwrap()
}

#[test]
fn the_header_is_what_cbindgen_makes() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("include/fused_adam.h");
    let made = made();
    if std::env::var_os("UPDATE_HEADER").is_some() {
        fs::write(&path, &made).unwrap();
    }
    let committed = fs::read_to_string(&path).unwrap_or_default();
    let lines = committed.lines().zip(made.lines()).enumerate();
    if let Some((i, (old, new))) = lines.clone().find(|(_, (old, new))| old != new) {
        panic!("line {}: `{old}`, expected `{new}`: see how to make it again in this file", i + 1);
    }
    assert_eq!(committed, made, "see how to make it again in this file");
}

/// Every exported function has a comment, and the header has no other functions.
#[test]
fn every_function_is_described() {
    let header = made();
    let mut functions = 0;
    let lines: Vec<&str> = header.lines().collect();
    for (i, line) in lines.iter().enumerate() {
        let begins = line.contains("fused_adam_") && line.contains('(') && !line.starts_with(" *");
        if begins {
            assert_eq!(lines[i - 1], " */", "no comment before `{line}`");
            functions += 1;
        }
    }
    let exported = fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("src")).unwrap();
    let exported: usize = exported
        .map(|file| fs::read_to_string(file.unwrap().path()).unwrap())
        .map(|source| source.matches("#[unsafe(no_mangle)]").count())
        .sum();
    assert_eq!(functions, exported);
}
