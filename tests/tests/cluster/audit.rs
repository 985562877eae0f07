//! A policy on trial: what it would drop is told of and comes through; what it would not is not told of; and what was
//! told of is what the policy drops once it is real.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use ringfence_tests::kube_objects::{self, pods_of};
use ringfence_tests::probe;
use ringfence_tests::shop;
use serde_json::{Value, json};

use crate::lab::{Lab, TIMEOUT};
use crate::report;

/// A caller, whom it calls at which port.
type Call = (String, String, u16);

const SHOP: &str = "production";

pub(crate) fn a_policy_on_trial_drops_nothing_and_tells_what_it_would(lab: &Lab) -> Result<()> {
    lab.open_shop()?;
    let pods = Pods::find(lab)?;
    let calls = pods.calls();
    apply(lab, "AuditNetworkPolicy")?;
    lab.until("every node with pods of the shop judges by the trial", || {
        let audits = audits(lab)?;
        let nodes = report::of_namespace(lab, SHOP)?.len();
        Ok(nodes > 0 && audits.len() == nodes && audits.iter().all(|audit| audit["policies"] == 2))
    })?;
    // A report may precede the news of those who judge connections by a moment. What begins before would end, not be dropped.
    sleep(Duration::from_secs(1));
    for call in &calls {
        ensure!(pods.connects(lab, call)?, "{call:?} is not to be touched");
    }
    let mut told = BTreeSet::new();
    let refused: BTreeSet<Call> = calls
        .iter()
        .filter(|(from, ..)| *from != pods.web.0)
        .cloned()
        .collect();
    lab.until("lines tell of each that would be dropped", || {
        told = told_of(lab, &calls)?;
        Ok(told.is_superset(&refused))
    })?;
    ensure!(
        told == refused,
        "{told:?} were told of, {refused:?} would be dropped"
    );
    summary_and_counter(lab)?;

    // The same specs in force drop exactly those.
    apply(lab, "NetworkPolicy")?;
    lab.until("the policies are in every node's kernel", || report::agree(lab))?;
    let dropped = calls.iter().filter_map(|call| match pods.connects(lab, call) {
        Ok(true) => None,
        Ok(false) => Some(Ok(call.clone())),
        Err(error) => Some(Err(error)),
    });
    let dropped = dropped.collect::<Result<BTreeSet<Call>>>()?;
    ensure!(dropped == told, "{dropped:?} are dropped, {told:?} were told of");
    let both = [
        "-n",
        SHOP,
        "delete",
        "auditnetworkpolicies,networkpolicies",
        "-l",
        "trial=yes",
    ];
    lab.kubectl(&both)?;
    lab.until("nothing is on trial any more", || Ok(audits(lab)?.is_empty()))
}

/// The pods between which there are calls, each with its address.
struct Pods {
    attacker: (String, IpAddr),
    web: (String, IpAddr),
    api: (String, IpAddr),
    db: (String, IpAddr),
}

impl Pods {
    fn find(lab: &Lab) -> Result<Self> {
        let one = |app: shop::App| -> Result<_> {
            let pods = pods_of(&lab.cluster, app.namespace, &format!("app={}", app.app))?;
            pods.into_iter()
                .next()
                .with_context(|| format!("no pod of {}", app.title))
        };
        Ok(Self {
            attacker: one(shop::ATTACKER)?,
            web: one(shop::WEB)?,
            api: one(shop::API)?,
            db: one(shop::DB)?,
        })
    }

    /// The first is one that would be dropped.
    fn calls(&self) -> [Call; 4] {
        let call =
            |from: &(String, IpAddr), to: &(String, IpAddr), port| (from.0.clone(), to.0.clone(), port);
        [
            call(&self.attacker, &self.api, 8080),
            call(&self.attacker, &self.db, 5432),
            call(&self.api, &self.db, 5432),
            call(&self.web, &self.api, 8080),
        ]
    }

    fn connects(&self, lab: &Lab, (from, to, port): &Call) -> Result<bool> {
        let address = |name: &str| {
            let all = [&self.attacker, &self.web, &self.api, &self.db];
            all.into_iter().find(|pod| pod.0 == name).map(|pod| pod.1)
        };
        let from = lab.cluster.pod_netns(address(from).context("a pod")?)?;
        let to = SocketAddr::new(address(to).context("a pod")?, *port);
        Ok(probe::tcp_connect(&from, to, TIMEOUT)?.is_open())
    }
}

/// Everybody in the shop's namespace is isolated for ingress; web may call api.
fn apply(lab: &Lab, kind: &str) -> Result<()> {
    let version = match kind {
        "NetworkPolicy" => "networking.k8s.io/v1",
        _ => "ringfence.dev/v1alpha1",
    };
    let object = |name: &str, spec: Value| {
        json!({
            "apiVersion": version,
            "kind": kind,
            "metadata": {"name": name, "namespace": SHOP, "labels": {"trial": "yes"}},
            "spec": spec,
        })
    };
    let web = json!([{"podSelector": {"matchLabels": {"app": "web"}}}]);
    let list = json!({"apiVersion": "v1", "kind": "List", "items": [
        object("trial-deny", json!({"podSelector": {}, "policyTypes": ["Ingress"]})),
        object("trial-api", json!({
            "podSelector": {"matchLabels": {"app": "api"}},
            "ingress": [{"from": web, "ports": [{"port": 8080}]}],
        })),
    ]});
    kube_objects::apply(&lab.cluster, &list.to_string())
}

/// Those of the calls that a line of an enforcer's log says would be dropped.
fn told_of(lab: &Lab, calls: &[Call]) -> Result<BTreeSet<Call>> {
    let stories = lab
        .stories()?
        .into_iter()
        .filter(|story| story["verdict"] == "would-drop" && story["direction"] == "ingress");
    let mut told = BTreeSet::new();
    for story in stories {
        let found = calls.iter().find(|(from, to, port)| {
            story["source"]["pod"] == **from && story["destination"]["pod"] == **to && story["port"] == *port
        });
        if let Some(call) = found {
            let policies = story["policies"].as_array();
            let audit = |policy: &Value| {
                policy
                    .as_str()
                    .is_some_and(|name| name.starts_with("production/auditnetworkpolicy/trial-"))
            };
            ensure!(
                policies.is_some_and(|policies| !policies.is_empty() && policies.iter().all(audit)),
                "{story}"
            );
            told.insert(call.clone());
        }
    }
    Ok(told)
}

/// What the nodes report of the shop's policies on trial.
fn audits(lab: &Lab) -> Result<Vec<Value>> {
    let shops = report::of_namespace(lab, SHOP)?;
    Ok(shops
        .iter()
        .map(|shop| shop["audit"].clone())
        .filter(|audit| !audit.is_null())
        .collect())
}

fn summary_and_counter(lab: &Lab) -> Result<()> {
    lab.until("the reports count what was found", || {
        let findings = audits(lab)?
            .iter()
            .filter_map(|audit| audit["findings"].as_i64())
            .sum::<i64>();
        Ok(findings >= 3)
    })?;
    let programs = lab.program_metrics()?;
    let mut lines = programs.iter().flat_map(|(_, _, text)| text.lines());
    ensure!(
        lines.any(|line| {
            line.starts_with("ringfence_audit_connections_total{")
                && line.contains("verdict=\"would-drop\"")
                && line.contains("policy=\"trial-deny\"")
        }),
        "no counter of connections that would be dropped"
    );
    Ok(())
}
