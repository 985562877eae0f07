//! The three-tier shop: exactly what is allowed, and what the status says of it.

use anyhow::{Context, Result, ensure};
use ringfence_tests::shop::{self, App, Target};

use crate::lab::{Lab, TIMEOUT};

pub(crate) fn everyone_reaches_everyone(lab: &Lab) -> Result<()> {
    lab.open_shop()?;
    paths_become(lab, "everyone reaches everyone", shop::before)
}

pub(crate) fn exactly_the_allowed_paths_are_open(lab: &Lab) -> Result<()> {
    lab.close_shop()?;
    paths_become(lab, "exactly the allowed paths are open", shop::after)
}

pub(crate) fn status_says_what_is_covered(lab: &Lab) -> Result<()> {
    lab.close_shop()?;
    let row = lab.kubectl(&["-n", "production", "get", "ztn", "default", "--no-headers"])?;
    ensure!(
        row.contains("Enforce") && row.contains("True") && row.contains("6/6"),
        "unexpected row: {row}"
    );
    let path = "jsonpath={.status.conditions[?(@.type==\"Covered\")].status}/{.status.conditions[?(@.type==\"Enforced\")].status}";
    lab.until("it is covered, and enforced by the nodes", || {
        Ok(lab.kubectl(&["-n", "production", "get", "ztn", "default", "-o", path])? == "True/True")
    })
}

/// Waits until exactly the expected paths are open. Where that never comes about, says which cells were not as they should be at last.
pub(crate) fn paths_become(lab: &Lab, what: &str, expected: fn(&App, &Target) -> bool) -> Result<()> {
    let mut last = Vec::new();
    let outcome = lab.until(what, || {
        last = differences(lab, expected)?;
        Ok(last.is_empty())
    });
    outcome.with_context(|| format!("not as it should be:\n{}", last.join("\n")))
}

/// The cells that are not what they should be, in words.
fn differences(lab: &Lab, expected: fn(&App, &Target) -> bool) -> Result<Vec<String>> {
    let measured = shop::measure(&lab.cluster, TIMEOUT)?;
    Ok(shop::differences(&measured.matrix, expected))
}
