//! Two that put things right do not get in each other's way.

use anyhow::{Context, Result, ensure};

use crate::apps::ZERO_TRUST;
use crate::lab::Lab;
use crate::sync::{stays_synced, syncs};

pub(crate) fn an_edited_resource_is_healed(lab: &Lab) -> Result<()> {
    lab.until_all_is_well()?;
    let generation = || -> Result<i64> {
        let object = lab.object(&["-n", "shop", "sva", "api"])?;
        object["metadata"]["generation"].as_i64().context("no generation")
    };
    let before = generation()?;
    let edit = r#"{"spec":{"clients":[{"podSelector":{"matchLabels":{"app":"stranger"}}}]}}"#;
    lab.kubectl(&["-n", "shop", "patch", "sva", "api", "--type=merge", "-p", edit])?;
    lab.until("Argo CD has put the grant back", || {
        let object = lab.object(&["-n", "shop", "sva", "api"])?;
        let clients = object["spec"]["clients"].to_string();
        Ok(clients.contains("stranger").then_some(clients))
    })?;
    lab.until_all_is_well()?;
    stays_synced(lab)?;
    let writes = generation()? - before;
    ensure!(
        writes == 2,
        "the grant was written {writes} times for one edit and one repair"
    );
    Ok(())
}

pub(crate) fn an_edited_policy_is_repaired(lab: &Lab) -> Result<()> {
    lab.until_all_is_well()?;
    let generated = "ringfence.dev/origin-kind=ServiceAccess";
    let names = lab.kubectl(&[
        "-n",
        "shop",
        "get",
        "networkpolicies",
        "-l",
        generated,
        "-o",
        "name",
    ])?;
    let mut ingress = names.lines().filter(|name| name.contains("access-ingress"));
    let policy = ingress.next().context("no ingress is generated for the grant")?;
    let before = syncs(lab, ZERO_TRUST)?;
    let edit = r#"{"spec":{"ingress":[{}]}}"#;
    lab.kubectl(&["-n", "shop", "patch", policy, "--type=merge", "-p", edit])?;
    lab.until("the operator has put the policy back", || {
        let object = lab.object(&["-n", "shop", policy])?;
        let open = object["spec"]["ingress"][0]["from"].is_null();
        Ok(open.then(|| object["spec"].to_string()))
    })?;
    lab.kubectl(&["-n", "shop", "delete", policy])?;
    lab.until("the operator has created the policy again", || {
        lab.object(&["-n", "shop", policy]).map(|_| None)
    })?;
    stays_synced(lab)?;
    let after = syncs(lab, ZERO_TRUST)?;
    ensure!(
        before == after,
        "Argo CD synced {} times for what is not its own",
        after - before
    );
    Ok(())
}
