//! What the kernel holds, for people and for the operator: the status of this node's NodeEnforcement.
//!
//! ```text
//!  Cluster, Ruleset ─► Book ─► NodeEnforcementStatus ─► writer ─► API server
//!                    (pure)        (latest only)         (task)
//! ```
//!
//! Nothing here is on the way of a change to the kernel, and nothing waits for the API server but the writer.

mod audit;
mod drops;
mod versions;
pub mod writer;

use std::collections::BTreeMap;
use std::time::Instant;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use ringfence_crd::{
    AppliedNamespace, AuditedNamespace, LastError, MOST_NAMESPACES, MOST_NOT_APPLIED, NodeEnforcementStatus,
    NotApplied,
};
use ringfence_policy::Compiled;

use self::audit::Findings;
use crate::droplog::Story;
use crate::ruleset::Ruleset;

pub use drops::Drops;
pub use versions::Versions;

/// The longest message of an error that a status takes, in bytes.
const LONGEST: usize = 1000;

/// What there is to tell of.
#[derive(Debug, Clone, Copy)]
pub struct State<'a> {
    /// What the policies mean for the node's pods.
    pub compiled: &'a Compiled,
    /// The versions of what they were read from.
    pub versions: &'a Versions,
    /// What the kernel ought to hold.
    pub ruleset: &'a Ruleset,
    /// How many policies the cluster has.
    pub policies: usize,
}

/// What is told, kept from sync to sync.
#[derive(Debug)]
pub struct Book {
    status: NodeEnforcementStatus,
    drops: Drops,
    findings: Findings,
}

impl Book {
    /// A book of a node on which nothing is written yet.
    pub fn new(backend: String, families: Vec<String>) -> Self {
        let status = NodeEnforcementStatus {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            backend,
            families,
            ..NodeEnforcementStatus::default()
        };
        Self {
            status,
            drops: Drops::default(),
            findings: Findings::default(),
        }
    }

    /// Packets were dropped, or connections would be.
    pub fn refused(&mut self, story: &Story, now: Instant) {
        self.drops.note(story, now);
        if story.verdict.is_on_trial()
            && let Some(pod) = &story.own().pod
        {
            self.findings
                .note(&pod.namespace, story.connections, Timestamp::now());
        }
    }

    /// The kernel holds all of this, and did when it was last written.
    pub fn synced(&mut self, state: &State<'_>, written: Timestamp, now: Timestamp) {
        let audited = self.audited(state, now);
        let count = |pod: &&ringfence_policy::CompiledPod| pod.ingress.is_some() || pod.egress.is_some();
        let tables = state.ruleset.families.values();
        let chains = tables.clone().flat_map(|tables| tables.chains.values());
        self.status = NodeEnforcementStatus {
            node_uid: state.versions.node_uid().unwrap_or_default().to_owned(),
            pods: number(state.compiled.pods.len()),
            isolated_pods: number(state.compiled.pods.values().filter(count).count()),
            policies: number(state.policies),
            sets: number(tables.map(|tables| tables.sets.len()).sum()),
            rules: number(chains.map(Vec::len).sum()),
            namespaces: namespaces(state, &audited),
            last_sync_time: Some(Time(written)),
            last_error: None,
            ..std::mem::take(&mut self.status)
        };
        self.exceptions(unreadable(state));
    }

    /// The kernel could not be brought to this: what it held before is what is told of it.
    pub fn failed(&mut self, state: &State<'_>, name: &str, message: &str, now: Timestamp) {
        let last = self.status.last_error.take();
        let time = last.filter(|last| last.name == name).map(|last| last.time);
        self.status.last_error = Some(LastError {
            name: name.to_owned(),
            message: shortened(message.to_owned()),
            time: time.unwrap_or(Time(now)),
        });
        state
            .versions
            .node_uid()
            .unwrap_or_default()
            .clone_into(&mut self.status.node_uid);
        let mut exceptions = unreadable(state);
        exceptions.extend(self.not_written(state));
        self.exceptions(exceptions);
    }

    /// What is to be told now; nothing before the node is known.
    pub fn status(&mut self, now: Instant) -> Option<NodeEnforcementStatus> {
        self.status.top_drops = self.drops.top(true, now);
        self.status.top_would_drops = self.drops.top(false, now);
        (!self.status.node_uid.is_empty()).then(|| self.status.clone())
    }

    /// The namespaces whose policies are others than when the kernel was last written.
    fn not_written(&self, state: &State<'_>) -> Vec<NotApplied> {
        let held: BTreeMap<&str, &str> = self
            .status
            .namespaces
            .iter()
            .map(|it| (it.name.as_str(), it.digest.as_str()))
            .collect();
        namespaces(state, &BTreeMap::new())
            .into_iter()
            .filter(|wanted| held.get(wanted.name.as_str()) != Some(&wanted.digest.as_str()))
            .map(|wanted| NotApplied {
                namespace: wanted.name,
                policy: None,
                reason: "NotWritten".to_owned(),
            })
            .collect()
    }

    /// What was found of the namespaces with pods on the node.
    fn audited(&mut self, state: &State<'_>, now: Timestamp) -> BTreeMap<String, AuditedNamespace> {
        let pods = pods_by_namespace(state);
        self.findings.of(pods.into_keys(), state.versions, now)
    }

    fn exceptions(&mut self, mut exceptions: Vec<NotApplied>) {
        exceptions.sort();
        self.status.not_applied_count = number(exceptions.len());
        exceptions.truncate(MOST_NOT_APPLIED);
        self.status.not_applied = exceptions;
    }
}

/// The namespaces with pods on the node, and how many pods.
fn pods_by_namespace<'a>(state: &State<'a>) -> BTreeMap<&'a str, usize> {
    let mut pods: BTreeMap<&str, usize> = BTreeMap::new();
    for pod in state.compiled.pods.keys() {
        *pods.entry(pod.namespace.as_str()).or_default() += 1;
    }
    pods
}

/// The namespaces with pods on the node, each with the digest of its policies as they are in the API.
fn namespaces(state: &State<'_>, audited: &BTreeMap<String, AuditedNamespace>) -> Vec<AppliedNamespace> {
    let named = pods_by_namespace(state).into_iter().take(MOST_NAMESPACES);
    named
        .map(|(name, pods)| {
            let (digest, policies) = state.versions.digest(name);
            AppliedNamespace {
                name: name.to_owned(),
                digest,
                policies: number(policies),
                pods: number(pods),
                audit: audited.get(name).cloned(),
            }
        })
        .collect()
}

/// The policies of namespaces with pods on the node that cannot be read.
fn unreadable(state: &State<'_>) -> Vec<NotApplied> {
    let here = |namespace: &str| state.compiled.pods.keys().any(|pod| pod.namespace == namespace);
    state
        .versions
        .unreadables()
        .filter(|key| here(&key.namespace))
        .map(|key| NotApplied {
            namespace: key.namespace.clone(),
            policy: Some(key.name.clone()),
            reason: "Unreadable".to_owned(),
        })
        .collect()
}

fn number(count: usize) -> i32 {
    i32::try_from(count).unwrap_or(i32::MAX)
}

fn shortened(mut text: String) -> String {
    if text.len() > LONGEST {
        let end = (0..=LONGEST).rev().find(|end| text.is_char_boundary(*end));
        text.truncate(end.unwrap_or(0));
        text.push('…');
    }
    text
}

#[cfg(test)]
mod tests;
