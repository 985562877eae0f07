//! Where the source tree is: manifests and examples are read from it as a user would; and what compiles it.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The root of the source tree.
pub fn root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().unwrap_or(here).to_owned()
}

/// A file or folder of the source tree, as an argument for a command.
pub fn path(relative: &str) -> String {
    root().join(relative).display().to_string()
}

/// Cargo as one starts it by hand. What an outer cargo tells of the package that it runs is taken from it: build scripts of
/// dependencies read variables of the same names, and would be run anew, with everything that depends on them, whenever
/// another program has started cargo.
pub fn cargo() -> Command {
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    let told = env::vars_os().map(|(name, _)| name).filter(|name| {
        let name = name.to_string_lossy();
        name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_")
    });
    told.for_each(|name| {
        command.env_remove(name);
    });
    command
}
