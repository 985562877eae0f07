//! Whether the EnforcementProbe says what is so, on nodes that enforce and on nodes that do not.

use std::process::Command;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use ringfence_tests::deploy;
use ringfence_tests::kube_objects::{apply, get, output};
use ringfence_tests::source;
use ringfence_tests::testbed::Node;
use serde_json::{Value, json};

use crate::lab::Lab;

/// The pause between rounds here.
const INTERVAL: u64 = 5;

/// How long a verdict may take to come: a round in which pods do not start, and one more. Only a failure waits so long.
const PATIENCE: Duration = Duration::from_secs(180);

fn switch_on(lab: &Lab) -> Result<()> {
    let probe = json!({
        "apiVersion": "ringfence.dev/v1alpha1",
        "kind": "EnforcementProbe",
        "metadata": {"name": "default"},
        "spec": {"intervalSeconds": INTERVAL},
    });
    apply(&lab.cluster, &probe.to_string())
}

/// Switches it off, and shows that nothing of it is left.
fn switch_off(lab: &Lab) -> Result<()> {
    lab.kubectl(&["delete", "enforcementprobe", "default", "--timeout=60s"])?;
    let everything = "pods,networkpolicies";
    let ours = ["-n", "ringfence-system", "get", everything, "-o", "name"];
    lab.until("nothing is left of the probe", || {
        Ok(!lab.kubectl(&ours)?.contains("ringfence-probe"))
    })
}

/// Waits for a verdict; gives the status that it is in.
fn verdict(lab: &Lab, wanted: &str) -> Result<Value> {
    verdict_that(lab, wanted, |_| true)
}

/// As [`verdict`], of a round whose status is so: one that was under way when the nodes changed shows some of before and some of
/// after.
fn verdict_that(lab: &Lab, wanted: &str, so: impl Fn(&Value) -> bool) -> Result<Value> {
    let started = Instant::now();
    loop {
        let status = get(&lab.cluster, &["enforcementprobe", "default"])?["status"].clone();
        if verified(&status) == wanted && so(&status) {
            println!("{wanted} after {:.1} s", started.elapsed().as_secs_f64());
            return Ok(status);
        }
        if started.elapsed() > PATIENCE {
            bail!("waited {PATIENCE:?} for {wanted}: {status:#}");
        }
        sleep(Duration::from_millis(200));
    }
}

/// `status/reason` of EnforcementVerified.
fn verified(status: &Value) -> String {
    let conditions = status["conditions"].as_array().into_iter().flatten();
    let words = conditions
        .filter(|condition| condition["type"] == "EnforcementVerified")
        .map(|condition| {
            let word = |field: &str| condition[field].as_str().unwrap_or_default();
            format!("{}/{}", word("status"), word("reason"))
        });
    words.collect()
}

/// What the shop's namespace says of its nodes.
fn of_the_shop(lab: &Lab) -> Result<String> {
    let resource = get(&lab.cluster, &["-n", "production", "ztn", "default"])?;
    Ok(verified(&resource["status"]))
}

pub(crate) fn where_nodes_enforce_packets_prove_it(lab: &Lab) -> Result<()> {
    lab.close_shop()?;
    switch_on(lab)?;
    let status = verdict(lab, "True/Verified")?;
    ensure!(status["pairs"] == "4/4", "{status:#}");
    ensure!(
        status["openAtStart"] == 0,
        "pods start behind their rules here: {status:#}"
    );
    lab.until("the shop's namespace says so too", || {
        Ok(of_the_shop(lab)? == "True/Verified")
    })?;
    // It is no one-off: another round follows, and it is a proof as well.
    lab.until("another round has ended", || {
        let now = get(&lab.cluster, &["enforcementprobe", "default"])?["status"].clone();
        let newer = now["lastProofTime"].as_str() > status["lastProofTime"].as_str();
        Ok(verified(&now) == "True/Verified" && newer)
    })?;
    switch_off(lab)?;
    lab.until("the shop's namespace says nothing of it", || {
        Ok(of_the_shop(lab)?.is_empty())
    })
}

pub(crate) fn where_nobody_enforces_it_says_so(lab: &Lab) -> Result<()> {
    lab.close_shop()?;
    switch_on(lab)?;
    verdict(lab, "True/Verified")?;
    lab.send_enforcers_away()?;
    lab.kubectl(&["apply", "-k", &source::path("config/cleanup")])?;
    let rollout = [
        "rollout",
        "status",
        "daemonset/ringfence-cleanup",
        "--timeout=60s",
    ];
    lab.kubectl(&[&["-n", "ringfence-system"], &rollout[..]].concat())?;
    // Both directions of all four pairs.
    let status = verdict_that(lab, "False/DeniedTrafficPassed", |status| {
        status["pairs"] == "0/4" && failures(status).len() == 8
    })?;
    let failures = failures(&status);
    let nodes = lab.cluster.nodes();
    for source in &nodes {
        for destination in &nodes {
            let names = |failure: &&Value| {
                failure["source"] == source.name.as_str()
                    && failure["destination"] == destination.name.as_str()
            };
            ensure!(
                failures.iter().filter(names).count() == 2,
                "{} to {} is not named: {failures:#?}",
                source.name,
                destination.name
            );
        }
    }
    lab.until("the shop's namespace says so too", || {
        Ok(of_the_shop(lab)? == "False/DeniedTrafficPassed")
    })?;
    lab.kubectl(&["delete", "-k", &source::path("config/cleanup")])?;
    lab.bring_enforcers_back()?;
    verdict(lab, "True/Verified")?;
    switch_off(lab)
}

fn failures(status: &Value) -> Vec<Value> {
    status["failures"].as_array().cloned().unwrap_or_default()
}

pub(crate) fn rules_that_nobody_repairs_are_missed(lab: &Lab) -> Result<()> {
    // As on a cluster whose pods do not wait for their rules: else none would start there, and nothing would be shown.
    let settings = ["CNI=false", "GATE_UNKNOWN_PODS=false"];
    set(lab, &settings)?;
    let nodes = lab.cluster.nodes();
    let [spared, hit, ..] = &nodes[..] else {
        bail!("two nodes are needed");
    };
    switch_on(lab)?;
    verdict(lab, "True/Verified")?;
    place_enforcers(lab, &json!(spared.name))?;
    lab.until("no enforcer runs on the node", || {
        Ok(deploy::enforcer_process(hit).is_err())
    })?;
    // The other node's starts anew as well: its pods are to have their rules.
    deploy::wait_until_ready(&lab.cluster)?;
    flush(hit)?;
    let accused =
        |failure: &Value| failure["what"] == "DeniedArrived" && failure["node"] == hit.name.as_str();
    verdict_that(lab, "False/DeniedTrafficPassed", |status| {
        let failures = failures(status);
        !failures.is_empty() && failures.iter().all(accused)
    })?;
    place_enforcers(lab, &Value::Null)?;
    deploy::wait_until_ready(&lab.cluster)?;
    verdict(lab, "True/Verified")?;
    switch_off(lab)?;
    lab.install()
}

fn set(lab: &Lab, settings: &[&str]) -> Result<()> {
    let set = [
        "-n",
        "ringfence-system",
        "set",
        "env",
        "daemonset/ringfence-enforcer",
    ];
    lab.kubectl(&[&set[..], settings].concat())?;
    deploy::wait_until_ready(&lab.cluster)
}

/// On the node of this name; on all without one.
fn place_enforcers(lab: &Lab, node: &Value) -> Result<()> {
    let selector = json!({"kubernetes.io/hostname": node});
    let patch = json!({"spec": {"template": {"spec": {"nodeSelector": selector}}}}).to_string();
    let daemonset = [
        "-n",
        "ringfence-system",
        "patch",
        "daemonset",
        "ringfence-enforcer",
    ];
    lab.kubectl(&[&daemonset[..], &["-p", &patch]].concat()).map(drop)
}

/// Takes our rules out of a node's kernel, as an upgrade of its network plugin might that writes all tables anew.
fn flush(node: &Node) -> Result<()> {
    for tool in [
        "iptables-nft",
        "ip6tables-nft",
        "iptables-legacy",
        "ip6tables-legacy",
    ] {
        let inside = |program: String| {
            let mut command = Command::new("nsenter");
            command
                .arg(format!("--net={}", node.netns.display()))
                .arg(program);
            command
        };
        let rules = output(&mut inside(format!("{tool}-save")))?;
        if !rules.contains("RINGF") {
            continue;
        }
        let others: Vec<&str> = rules.lines().filter(|line| !line.contains("RINGF")).collect();
        let file = tempfile::NamedTempFile::new().context("a file for rules")?;
        std::fs::write(file.path(), others.join("\n") + "\n").context("write rules")?;
        output(inside(format!("{tool}-restore")).arg(file.path()))?;
    }
    Ok(())
}
