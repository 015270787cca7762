//! Sets the name by which programs look for the shared library at run time. It contains the version
//! of the interface, and `install.sh` installs the library under it.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    let os = std::env::var("CARGO_CFG_TARGET_OS").unwrap_or_default();
    if matches!(os.as_str(), "linux" | "android" | "freebsd" | "netbsd" | "openbsd") {
        println!("cargo::rustc-cdylib-link-arg=-Wl,-soname,libfused_adam.so.0");
    }
}
