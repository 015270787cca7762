//! The modules of `src` only import from the layers below them.

use std::fs;
use std::path::{Path, PathBuf};

/// From the bottom up. Each may import from those before it, and from its own files.
const LAYERS: [&str; 9] =
    ["error", "float_mode", "threads", "simd", "elements", "norm", "rules", "step", "optimizer"];

/// Every source file under `folder`.
fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

/// The imports of a file from `crate::`, without comments.
fn imports(source: &str) -> Vec<String> {
    let code = source.lines().filter(|line| !line.trim_start().starts_with("//"));
    code.flat_map(|line| {
        line.split("crate::").skip(1).map(|rest| {
            rest.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect::<String>()
        })
    })
    .collect()
}

#[test]
fn modules_import_from_those_below_them() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    sources(&src, &mut files);
    let mut seen = 0;
    for file in files {
        let path = file.strip_prefix(&src).unwrap();
        let module = path.iter().next().unwrap().to_str().unwrap().trim_end_matches(".rs");
        if module == "lib" {
            continue;
        }
        let own = LAYERS.iter().position(|layer| *layer == module);
        let own = own.unwrap_or_else(|| panic!("{} has no layer", path.display()));
        for import in imports(&fs::read_to_string(&file).unwrap()) {
            let layer = LAYERS.iter().position(|layer| *layer == import);
            let layer = layer
                .unwrap_or_else(|| panic!("{} imports crate::{import}, no module", path.display()));
            assert!(layer <= own, "{} imports crate::{import}, above it", path.display());
            seen += 1;
        }
    }
    assert!(seen > 100, "only {seen} imports were found");
}
