//! Where the source tree is: manifests and examples are read from it as a user would.

use std::path::{Path, PathBuf};

/// The root of the source tree.
pub fn root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().unwrap_or(here).to_owned()
}

/// A file or folder of the source tree, as an argument for a command.
pub fn path(relative: &str) -> String {
    root().join(relative).display().to_string()
}
