//! What is dropped is seen: in the log, in the metrics, and by who looks at the pod.

use std::net::SocketAddr;

use anyhow::{Context, Result, ensure};
use ringfence_tests::kube_objects::pods_of;
use ringfence_tests::probe;
use ringfence_tests::shop;
use serde_json::Value;

use crate::lab::{Lab, TIMEOUT};

pub(crate) fn a_dropped_packet_is_told_of(lab: &Lab) -> Result<()> {
    lab.close_shop()?;
    let one = |app: shop::App| -> Result<_> {
        let pods = pods_of(&lab.cluster, app.namespace, &format!("app={}", app.app))?;
        pods.into_iter()
            .next()
            .with_context(|| format!("no pod of {}", app.title))
    };
    let ((attacker, from), (victim, to)) = (one(shop::ATTACKER)?, one(shop::DB)?);
    let netns = lab.cluster.pod_netns(from)?;
    let mut closed = false;
    lab.until("the attacker is kept out and a line tells of it", || {
        closed |= !probe::tcp_connect(&netns, SocketAddr::new(to, 5432), TIMEOUT)?.is_open();
        let mut stories = lab.stories()?.into_iter();
        let told = stories.find(|it| {
            it["verdict"] == "dropped"
                && it["source"]["pod"] == *attacker
                && it["destination"]["pod"] == *victim
        });
        let Some(story) = told else { return Ok(false) };
        ensure!(says_all(&story, &victim), "{story}");
        Ok(closed)
    })?;
    counter_and_event(lab, &victim)
}

/// Whether a line has everything that somebody would want to know.
fn says_all(story: &Value, victim: &str) -> bool {
    let workload = story["destination"]["workload"].as_str().unwrap_or_default();
    let name = workload.rsplit('/').next().unwrap_or_default();
    story["direction"] == "ingress"
        && story["protocol"] == "TCP"
        && story["port"] == 5432
        && story["source"]["namespace"] == shop::ATTACKER.namespace
        && workload.contains('/')
        && victim.starts_with(name)
        && story["policies"]
            .as_array()
            .is_some_and(|policies| !policies.is_empty())
}

fn counter_and_event(lab: &Lab, victim: &str) -> Result<()> {
    lab.until("a counter names the policies", || {
        let programs = lab.program_metrics()?;
        let mut lines = programs.iter().flat_map(|(_, _, text)| text.lines());
        Ok(lines.any(|line| {
            line.starts_with("ringfence_dropped_packets_total{")
                && line.contains("direction=\"ingress\"")
                && line.contains("namespace=\"production\"")
        }))
    })?;
    let on_pod = format!("regarding.name={victim}");
    let events = [
        "-n",
        "production",
        "get",
        "events.events.k8s.io",
        "--field-selector",
        &on_pod,
        "-o",
        "json",
    ];
    lab.until("an Event on the pod says so", || {
        let list: Value = serde_json::from_str(&lab.kubectl(&events)?)?;
        let mut items = list["items"].as_array().into_iter().flatten();
        // One a minute for a pod: it may be about another packet.
        Ok(items.any(|event| {
            let note = event["note"].as_str().unwrap_or_default();
            // Without it, what is told of another peer would be one more of the first's series.
            let names_other = |name: &str| note.contains(name);
            event["reason"] == "NetworkPolicyDrop"
                && note.contains("(production/")
                && event["related"]["name"].as_str().is_some_and(names_other)
        }))
    })
}
