//! `cargo xtask crdgen`: writes the files that are generated from the API types, and for Argo CD.

use std::fs;
use std::process::ExitCode;

use anyhow::{Context, Result};
use ringfence_tests::source;

/// Writes every generated file that differs, and says which.
pub(crate) fn run() -> Result<ExitCode> {
    let definitions = ringfence_crd::generate()
        .into_iter()
        .map(|(name, text)| (format!("config/crd/{name}"), text));
    let argocd = ringfence_crd::argocd()
        .into_iter()
        .map(|(name, text)| (format!("config/argocd/{name}"), text));
    let reference = ("docs/api.md".to_owned(), ringfence_crd::reference());
    for (name, text) in definitions.chain(argocd).chain([reference]) {
        let path = source::root().join(&name);
        if fs::read_to_string(&path).is_ok_and(|now| now == text) {
            println!("{name} is up to date");
            continue;
        }
        fs::create_dir_all(path.parent().unwrap_or(&path))
            .with_context(|| format!("make the folder of {}", path.display()))?;
        fs::write(&path, text).with_context(|| format!("write {}", path.display()))?;
        println!("{name} written");
    }
    Ok(ExitCode::SUCCESS)
}
