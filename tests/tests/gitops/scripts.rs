//! The health scripts, as Argo CD runs them, on the states in their test data.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use ringfence_crd::HEALTH_KINDS;
use ringfence_tests::source;
use ringfence_tests::testbed::{ArgoCd, Console};
use serde::Deserialize;
use serde_json::Value;

use crate::kstatus;

/// The tests of a script, in Argo CD's own form.
#[derive(Deserialize)]
struct Tests {
    tests: Vec<State>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct State {
    health_status: Health,
    input_path: PathBuf,
}

#[derive(Deserialize)]
struct Health {
    status: String,
    message: String,
}

pub(crate) fn every_state_is_judged_as_the_test_data_says() -> Result<()> {
    let folder = PathBuf::from(source::path("config/argocd"));
    let settings = folder.join("argocd-cm.yaml");
    for kind in HEALTH_KINDS {
        let of_kind = folder.join("resource_customizations/ringfence.dev").join(kind);
        let told = judge(&of_kind, &settings).with_context(|| format!("the health of a {kind}"))?;
        for status in ["Healthy", "Progressing", "Degraded"] {
            ensure!(
                told.iter().any(|one| one == status),
                "no test data shows a {kind} that is {status}"
            );
        }
    }
    Ok(())
}

fn judge(folder: &Path, settings: &Path) -> Result<Vec<String>> {
    let text = fs::read_to_string(folder.join("health_test.yaml")).context("read health_test.yaml")?;
    let tests: Tests = serde_yaml_ng::from_str(&text).context("read health_test.yaml")?;
    let mut told = Vec::new();
    for state in tests.tests {
        let file = folder.join(&state.input_path);
        let (status, message) = ArgoCd::health_of(&file, settings, &Console::default())?;
        let wanted = &state.health_status;
        ensure!(
            (&status, &message) == (&wanted.status, &wanted.message),
            "{}: Argo CD says {status} ({message}), wanted is {} ({})",
            file.display(),
            wanted.status,
            wanted.message
        );
        agrees(&file, &status)?;
        told.push(status);
    }
    Ok(told)
}

/// What goes by kstatus comes to the same result.
fn agrees(file: &Path, health: &str) -> Result<()> {
    let text = fs::read_to_string(file).with_context(|| format!("read {}", file.display()))?;
    let object: Value = serde_yaml_ng::from_str(&text).with_context(|| format!("read {}", file.display()))?;
    let status = kstatus::read(&object);
    let same = match status {
        kstatus::Status::Current => "Healthy",
        kstatus::Status::InProgress | kstatus::Status::Terminating => "Progressing",
        kstatus::Status::Failed => "Degraded",
    };
    ensure!(
        same == health,
        "{}: kstatus reads {status:?}, Argo CD says {health}",
        file.display()
    );
    Ok(())
}
