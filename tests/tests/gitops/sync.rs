//! Coming up in waves, staying so, and changing by commits.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use ringfence_tests::testbed::ARGOCD_NAMESPACE;
use serde_json::Value;

use crate::apps::{self, APPS, RESOURCES, ZERO_TRUST};
use crate::health::{health_of, resources_of};
use crate::kstatus;
use crate::lab::Lab;

/// How long everything has to stay as it is: Argo CD compares every ten seconds.
const QUIET: Duration = Duration::from_secs(25);

pub(crate) fn wave_by_wave(lab: &Lab) -> Result<()> {
    lab.until_all_is_well()?;
    let mut before: Option<(String, String)> = None;
    for (name, _) in APPS {
        let app = lab.app(name)?;
        // The first synchronisation of each begins when the app before it is healthy, not when it is written.
        let created = text(&app["metadata"]["creationTimestamp"])?;
        let began = text(&app["status"]["history"][0]["deployStartedAt"])?;
        if let Some((earlier, ended)) = before {
            ensure!(
                ended <= created && created <= began,
                "application {name} came at {created}, before {earlier} was done at {ended}"
            );
        }
        before = Some((name.to_owned(), text(&app["status"]["history"][0]["deployedAt"])?));
    }
    for (_, kind, _) in RESOURCES {
        let (health, message) = health_of(lab, kind, None)?;
        ensure!(health == "Healthy", "{kind} is {health}: {message}");
    }
    every_state_reads_as_current(lab)
}

/// The same by the rules of kstatus, and for those who wait with kubectl.
fn every_state_reads_as_current(lab: &Lab) -> Result<()> {
    for object in resources_of(lab)? {
        let status = kstatus::read(&object);
        ensure!(
            status == kstatus::Status::Current,
            "{} is {status:?} by the rules of kstatus",
            object["kind"]
        );
    }
    for kind in [
        "ztn",
        "sva",
        "externalaccesses",
        "zerotrustbaselines",
        "enforcementprobes",
    ] {
        lab.kubectl(&[
            "wait",
            "--for=condition=Ready",
            "--timeout=10s",
            "-A",
            "--all",
            kind,
        ])?;
    }
    Ok(())
}

pub(crate) fn stays_synced(lab: &Lab) -> Result<()> {
    lab.until_all_is_well()?;
    // What was changed last has echoes: statuses follow policies, and Argo CD follows both.
    let mut before = state(lab)?;
    lab.until("everything has stood still for a while", || {
        std::thread::sleep(Duration::from_secs(5));
        let now = state(lab)?;
        let still = now == before;
        let last = std::mem::replace(&mut before, now);
        Ok((!still).then(|| format!("{last:?}")))
    })?;
    lab.until_all_is_well()?;
    let started = Instant::now();
    while started.elapsed() < QUIET {
        for (name, _) in APPS {
            let said = lab.said(name)?;
            ensure!(
                said.sync == "Synced" && said.health == "Healthy",
                "application {name} is {said:?} though nobody changed anything"
            );
        }
        std::thread::sleep(Duration::from_millis(500));
    }
    let after = state(lab)?;
    ensure!(
        before == after,
        "something was written though nobody changed anything: {before:?}, {after:?}"
    );
    Ok(())
}

/// How often everything was synced, and the versions of what users wrote and of what was generated.
fn state(lab: &Lab) -> Result<Vec<String>> {
    let mut all = Vec::new();
    for (name, _) in APPS {
        all.push(format!("{name}: {} times", syncs(lab, name)?));
    }
    // The probe's status tells when it ran last.
    let kinds = "ztn,sva,externalaccesses,zerotrustbaselines,networkpolicies";
    let objects = lab.object(&[kinds, "-A"])?;
    for object in objects["items"].as_array().context("kubectl printed no list")? {
        let meta = &object["metadata"];
        all.push(format!(
            "{} {}/{} at {}",
            object["kind"], meta["namespace"], meta["name"], meta["resourceVersion"]
        ));
    }
    Ok(all)
}

/// How often an application was synced.
pub(crate) fn syncs(lab: &Lab, name: &str) -> Result<usize> {
    let app = lab.app(name)?;
    Ok(app["status"]["history"].as_array().map_or(0, Vec::len))
}

pub(crate) fn from_audit_to_enforce_and_back(lab: &Lab) -> Result<()> {
    lab.until_all_is_well()?;
    let (file, enforce) = (apps::file("namespace"), RESOURCES[1].2);
    let repository = lab.argo.repository();
    repository.write(&file, &enforce.replace("mode: Enforce", "mode: Audit"))?;
    repository.commit("Only try it out")?;
    lab.refresh()?;
    lab.until(
        "nothing is denied in the shop, and everything is tried out",
        || {
            let policies = count(lab, "networkpolicies")?;
            let trials = count(lab, "auditnetworkpolicies")?;
            Ok((policies > 0 || trials == 0).then(|| format!("{policies} policies, {trials} on trial")))
        },
    )?;
    lab.until_all_is_well()?;
    repository.write(&file, enforce)?;
    repository.commit("Mean it")?;
    lab.refresh()?;
    lab.until("everything is denied in the shop", || {
        let policies = count(lab, "networkpolicies")?;
        let trials = count(lab, "auditnetworkpolicies")?;
        Ok((policies == 0 || trials > 0).then(|| format!("{policies} policies, {trials} on trial")))
    })?;
    lab.until_app_is(ZERO_TRUST, "Healthy")
}

/// How many generated objects of a kind are in the shop.
fn count(lab: &Lab, kind: &str) -> Result<usize> {
    let generated = "app.kubernetes.io/managed-by=ringfence-operator";
    let names = lab.kubectl(&["-n", "shop", "get", kind, "-l", generated, "-o", "name"])?;
    Ok(names.lines().count())
}

fn text(value: &Value) -> Result<String> {
    let text = value.as_str();
    Ok(text
        .with_context(|| format!("no text in an application of {ARGOCD_NAMESPACE}: {value}"))?
        .to_owned())
}
