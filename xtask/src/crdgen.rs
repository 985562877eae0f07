//! `cargo xtask crdgen`: writes the files that are generated from the API types.

use std::fs;
use std::process::ExitCode;

use anyhow::{Context, Result};
use ringfence_tests::source;

/// Writes every generated file that differs, and says which.
pub(crate) fn run() -> Result<ExitCode> {
    let folder = source::root().join("config/crd");
    for (name, text) in ringfence_crd::generate() {
        let path = folder.join(&name);
        if fs::read_to_string(&path).is_ok_and(|now| now == text) {
            println!("config/crd/{name} is up to date");
            continue;
        }
        fs::write(&path, text).with_context(|| format!("write {}", path.display()))?;
        println!("config/crd/{name} written");
    }
    Ok(ExitCode::SUCCESS)
}
