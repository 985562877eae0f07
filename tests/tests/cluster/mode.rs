//! A namespace goes from open to Audit, to Enforce, and back, while it is busy.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use k8s_openapi::jiff::Timestamp;
use ringfence_tests::kube_objects::{self, get, pods_of};
use ringfence_tests::probe;
use ringfence_tests::shop::{self, App};
use ringfence_tests::source;
use serde_json::Value;

use crate::lab::{Lab, TIMEOUT};
use crate::report;
use crate::roll_out::{allowed_paths, keep_connecting};

/// A caller's pod, the pod that it calls, and the port.
type Call = (String, String, u16);

/// What must be true of an attempt that the policies do not allow.
const PASSES: u8 = 0;
const ANYTHING: u8 = 1;
const FAILS: u8 = 2;

/// Applies the shop's zero-trust resources in a mode.
fn apply(lab: &Lab, mode: &str) -> Result<()> {
    let text = std::fs::read_to_string(source::path("examples/three-tier/zero-trust.yaml"))
        .context("read the shop's zero-trust resources")?;
    ensure!(text.contains("mode: Enforce"), "the shop's resources enforce");
    let text = text.replace("mode: Enforce", &format!("mode: {mode}"));
    kube_objects::apply(&lab.cluster, &text)
}

fn resource(lab: &Lab) -> Result<Value> {
    get(&lab.cluster, &["-n", "production", "ztn", "default"])
}

fn condition(resource: &Value, kind: &str) -> String {
    let mut conditions = resource["status"]["conditions"].as_array().into_iter().flatten();
    let found = conditions.find(|condition| condition["type"] == kind);
    let text = |field: &str| {
        found
            .and_then(|condition| condition[field].as_str())
            .unwrap_or("")
    };
    format!("{}/{}", text("status"), text("reason"))
}

/// Waits until the present spec is what the status is about, and these conditions hold.
fn says(lab: &Lab, wanted: &[(&str, &str)]) -> Result<()> {
    lab.until(&format!("the ZeroTrustNamespace says {wanted:?}"), || {
        let resource = resource(lab)?;
        let current = resource["status"]["observedGeneration"] == resource["metadata"]["generation"];
        Ok(current
            && wanted
                .iter()
                .all(|(kind, value)| condition(&resource, kind) == *value))
    })
}

/// Every node with pods of the shop judges by the trials.
fn is_judged(lab: &Lab) -> Result<()> {
    lab.until("every node judges by the policies on trial", || {
        let resource = resource(lab)?;
        let judged = resource["status"]["audit"]["judged"].as_str().unwrap_or_default();
        let all = judged.split_once('/');
        Ok(
            resource["status"]["audit"]["since"].is_string()
                && all.is_some_and(|(n, of)| n == of && n != "0"),
        )
    })
}

/// Turns the mode to Audit, until every node judges by the policies on trial.
fn audit(lab: &Lab) -> Result<()> {
    apply(lab, "Audit")?;
    says(
        lab,
        &[("Ready", "True/AsExpected"), ("Enforced", "Unknown/AuditMode")],
    )?;
    is_judged(lab)
}

/// Turns the mode to Enforce, until every node's kernel holds the policies.
fn enforce(lab: &Lab) -> Result<()> {
    apply(lab, "Enforce")?;
    says(
        lab,
        &[("Ready", "True/AsExpected"), ("Enforced", "True/Enforced")],
    )
}

/// The pods of an app: names and IPv4 or IPv6 addresses as the cluster prefers.
fn pods(lab: &Lab, app: App) -> Result<Vec<(String, IpAddr)>> {
    pods_of(&lab.cluster, app.namespace, &format!("app={}", app.app))
}

/// Every call that the policies on trial do not allow, and some that they do.
fn calls(lab: &Lab) -> Result<Vec<(Call, PathBuf, SocketAddr)>> {
    let pairs = [
        (shop::ATTACKER, shop::API, 8080),
        (shop::ATTACKER, shop::DB, 5432),
        (shop::WEB, shop::DB, 5432),
        (shop::DB, shop::API, 8080),
        (shop::WEB, shop::API, 8080),
        (shop::API, shop::DB, 5432),
        (shop::PROMETHEUS, shop::API, 9090),
        (shop::PROMETHEUS, shop::DB, 5432),
    ];
    let mut all = Vec::new();
    for (from, to, port) in pairs {
        for (caller, address) in pods(lab, from)? {
            let netns = lab.cluster.pod_netns(address)?;
            for (called, address) in pods(lab, to)? {
                let call = (caller.clone(), called, port);
                all.push((call, netns.clone(), SocketAddr::new(address, port)));
            }
        }
    }
    Ok(all)
}

/// Those of the calls that lines of the enforcers' logs say would be dropped by generated policies, from a moment on: others were
/// on trial before, and sums of what they would have dropped may still come.
fn told_of(lab: &Lab, calls: &[(Call, PathBuf, SocketAddr)], from: Timestamp) -> Result<BTreeSet<Call>> {
    let stories = lab.stories()?;
    let is_new = |story: &Value| {
        let time = story["time"]
            .as_str()
            .and_then(|time| time.parse::<Timestamp>().ok());
        time.is_some_and(|time| time >= from)
    };
    let is_generated = |story: &Value| {
        let mut policies = story["policies"].as_array().into_iter().flatten();
        policies.all(|policy| {
            let name = policy.as_str().unwrap_or_default();
            name.contains("/auditnetworkpolicy/ringfence-")
        })
    };
    let would = stories
        .iter()
        .filter(|story| story["verdict"] == "would-drop" && is_new(story) && is_generated(story));
    let told = would.filter_map(|story| {
        let is = |(from, to, port): &Call| {
            story["source"]["pod"] == **from && story["destination"]["pod"] == **to && story["port"] == *port
        };
        calls.iter().find(|(call, ..)| is(call))
    });
    Ok(told.map(|(call, ..)| call.clone()).collect())
}

pub(crate) fn what_audit_tells_of_is_what_enforce_drops(lab: &Lab) -> Result<()> {
    lab.open_shop()?;
    audit(lab)?;
    let (calls, begun) = (calls(lab)?, Timestamp::now());
    let connects = |(call, netns, to): &(Call, PathBuf, SocketAddr)| -> Result<(Call, bool)> {
        Ok((call.clone(), probe::tcp_connect(netns, *to, TIMEOUT)?.is_open()))
    };
    let mut told = BTreeSet::new();
    for call in &calls {
        ensure!(connects(call)?.1, "{:?} is dropped in mode Audit", call.0);
    }
    // What is told of comes in lines that are gathered for a moment; what follows is compared with all of them.
    lab.until("the status sums up what was found", || {
        told = told_of(lab, &calls, begun)?;
        let audit = resource(lab)?["status"]["audit"].clone();
        let named = audit["topFindings"]
            .as_array()
            .is_some_and(|found| !found.is_empty());
        Ok(!told.is_empty() && named && audit["findings"].as_i64() >= i64::try_from(told.len()).ok())
    })?;

    enforce(lab)?;
    let mut dropped = BTreeSet::new();
    for call in &calls {
        if let (call, false) = connects(call)? {
            dropped.insert(call);
        }
    }
    let told = told_of(lab, &calls, begun)?;
    ensure!(
        told == dropped,
        "told of and not dropped: {:?}; dropped and not told of: {:?}",
        told.difference(&dropped).collect::<Vec<_>>(),
        dropped.difference(&told).collect::<Vec<_>>()
    );
    ensure!(
        dropped.len() < calls.len(),
        "all of {} calls are dropped: the case shows nothing",
        calls.len()
    );
    println!(
        "{} of {} calls were told of, and dropped",
        dropped.len(),
        calls.len()
    );
    lab.open_shop()
}

/// Attempts a call that the policies do not allow again and again, and notes those that came out as they must not.
fn keep_trying(
    netns: &std::path::Path,
    to: SocketAddr,
    must: &AtomicU8,
    stop: &AtomicBool,
) -> Result<Vec<String>> {
    let mut wrong = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        let before = must.load(Ordering::SeqCst);
        let open = probe::tcp_connect(netns, to, TIMEOUT)?.is_open();
        // Only what begins and ends within one state is judged by it.
        if before == must.load(Ordering::SeqCst) {
            match (before, open) {
                (PASSES, false) => wrong.push(format!("{to} was dropped while nothing was denied")),
                (FAILS, true) => wrong.push(format!("{to} was reached after Ready")),
                _ => {}
            }
        }
        thread::sleep(Duration::from_millis(20));
    }
    Ok(wrong)
}

pub(crate) fn from_open_to_audit_to_enforce_and_back(lab: &Lab) -> Result<()> {
    lab.open_shop()?;
    let allowed = allowed_paths(lab)?;
    let denied: Vec<(PathBuf, SocketAddr)> = calls(lab)?
        .into_iter()
        .filter(|((from, ..), ..)| from.starts_with("attacker"))
        .map(|(_, netns, to)| (netns, to))
        .collect();
    ensure!(!denied.is_empty(), "nobody attacks");
    let (stop, must) = (AtomicBool::new(false), AtomicU8::new(PASSES));
    let (changed, lost, leaked) = thread::scope(|scope| {
        let (stop, must) = (&stop, &must);
        let good: Vec<_> = allowed
            .iter()
            .map(|(netns, to)| scope.spawn(move || keep_connecting(netns, *to, stop)))
            .collect();
        let bad: Vec<_> = denied
            .iter()
            .map(|(netns, to)| scope.spawn(move || keep_trying(netns, *to, must, stop)))
            .collect();
        let changed = (0..2).try_for_each(|_| round(lab, must));
        stop.store(true, Ordering::Relaxed);
        let lost: Vec<_> = good.into_iter().map(thread::ScopedJoinHandle::join).collect();
        let leaked: Vec<_> = bad.into_iter().map(thread::ScopedJoinHandle::join).collect();
        (changed, lost, leaked)
    });
    changed?;
    let mut attempts = 0;
    for result in lost {
        let (tried, failures) = result.map_err(|_| anyhow!("a prober panicked"))??;
        ensure!(
            failures.is_empty(),
            "allowed attempts were lost:\n{}",
            failures.join("\n")
        );
        attempts += tried;
    }
    for result in leaked {
        let wrong = result.map_err(|_| anyhow!("a prober panicked"))??;
        ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
    }
    ensure!(attempts > 100, "only {attempts} attempts: the case shows nothing");
    println!("{attempts} allowed attempts, none lost");
    Ok(())
}

/// Open, Audit, Enforce, Audit, Enforce, open: each by one write of the resource.
fn round(lab: &Lab, must: &AtomicU8) -> Result<()> {
    audit(lab)?;
    for _ in 0..2 {
        must.store(ANYTHING, Ordering::SeqCst);
        enforce(lab)?;
        must.store(FAILS, Ordering::SeqCst);
        thread::sleep(2 * TIMEOUT);
        must.store(ANYTHING, Ordering::SeqCst);
        audit(lab)?;
        must.store(PASSES, Ordering::SeqCst);
        thread::sleep(2 * TIMEOUT);
    }
    must.store(ANYTHING, Ordering::SeqCst);
    lab.open_shop()?;
    lab.until("the nodes have opened the shop", || {
        let shops = report::of_namespace(lab, "production")?;
        Ok(shops.iter().all(|shop| shop["policies"] == 0))
    })?;
    must.store(PASSES, Ordering::SeqCst);
    Ok(())
}
