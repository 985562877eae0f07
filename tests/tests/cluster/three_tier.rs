//! The three-tier shop: exactly what is allowed, and what the status says of it.

use anyhow::{Result, ensure};
use ringfence_tests::shop::{self, App, Target};

use crate::lab::{Lab, TIMEOUT};

pub(crate) fn everyone_reaches_everyone(lab: &Lab) -> Result<()> {
    lab.open_shop()?;
    lab.until("everyone reaches everyone", || {
        Ok(differences(lab, shop::before)?.is_empty())
    })
}

pub(crate) fn exactly_the_allowed_paths_are_open(lab: &Lab) -> Result<()> {
    lab.close_shop()?;
    lab.until("exactly the allowed paths are open", || {
        Ok(differences(lab, shop::after)?.is_empty())
    })
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

/// The cells that are not what they should be, in words.
pub(crate) fn differences(lab: &Lab, expected: fn(&App, &Target) -> bool) -> Result<Vec<String>> {
    let measured = shop::measure(&lab.cluster, TIMEOUT)?;
    Ok(shop::differences(&measured.matrix, expected))
}
