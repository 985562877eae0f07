//! What the nodes' enforcers report: which policies each kernel holds, and whether the enforcer is alive.
//!
//! ```text
//!  NodeEnforcement (watch) ─┐
//!  Lease (watch) ► Liveness ┴─► NodeReports ─► status: Enforced
//! ```

pub mod feed;
mod liveness;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, PoisonError, RwLock};

use ringfence_crd::{AppliedNamespace, AuditedNamespace, NodeEnforcementStatus, NotApplied};

pub use liveness::Liveness;

/// What every node reports, at one moment.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct NodeReports {
    /// By node. A node without an enforcer has none.
    pub nodes: BTreeMap<String, NodeReport>,
}

/// What a node reports.
#[derive(Clone, Debug, PartialEq)]
pub struct NodeReport {
    /// The last that was said.
    pub status: Arc<NodeEnforcementStatus>,
    /// Whether its enforcer has renewed its Lease in time. What a dead one said may hold no more.
    pub alive: bool,
}

/// Whom it concerns that nodes report something else.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Concerned {
    /// Every namespace: an enforcer came or went, or fares differently.
    All,
    /// These namespaces.
    Namespaces(BTreeSet<String>),
}

impl NodeReports {
    /// Whom it concerns that it says something else than `before`.
    #[must_use]
    pub fn differences(&self, before: &Self) -> Concerned {
        let whole = |reports: &Self| -> BTreeMap<String, _> {
            let nodes = reports.nodes.iter();
            nodes
                .map(|(node, report)| {
                    let error = report.status.last_error.clone();
                    let error = error.map(|error| (error.name, error.message));
                    (node.clone(), (report.alive, error))
                })
                .collect()
        };
        if whole(self) != whole(before) {
            return Concerned::All;
        }
        let nodes = self.nodes.iter().filter_map(|(node, now)| {
            let then = before.nodes.get(node)?;
            // Most reports are the same as before: those that nobody wrote.
            (!Arc::ptr_eq(&now.status, &then.status)).then(|| (applied(&now.status), applied(&then.status)))
        });
        let changed = nodes.flat_map(|(now, then)| {
            let all: BTreeSet<String> = now.keys().chain(then.keys()).cloned().collect();
            all.into_iter()
                .filter(move |name| now.get(name) != then.get(name))
        });
        Concerned::Namespaces(changed.collect())
    }
}

/// What a report says of a namespace, as far as a status tells it.
#[derive(Debug, Default, PartialEq)]
struct Said {
    digest: String,
    audit: Option<AuditedNamespace>,
    not_applied: Vec<NotApplied>,
}

fn applied(status: &NodeEnforcementStatus) -> BTreeMap<String, Said> {
    let mut all: BTreeMap<String, Said> = BTreeMap::new();
    for AppliedNamespace {
        name, digest, audit, ..
    } in &status.namespaces
    {
        let said = all.entry(name.clone()).or_default();
        said.digest.clone_from(digest);
        said.audit.clone_from(audit);
    }
    for exception in &status.not_applied {
        let said = all.entry(exception.namespace.clone()).or_default();
        said.not_applied.push(exception.clone());
    }
    all
}

/// The newest of what nodes report. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Reports(Arc<RwLock<Arc<NodeReports>>>);

impl Reports {
    /// What is known now.
    #[must_use]
    pub fn now(&self) -> Arc<NodeReports> {
        // A value is put there whole or not at all.
        Arc::clone(&self.0.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// This is known from now on. Returns whom it concerns.
    fn put(&self, reports: NodeReports) -> Concerned {
        let mut known = self.0.write().unwrap_or_else(PoisonError::into_inner);
        let changed = reports.differences(&known);
        *known = Arc::new(reports);
        changed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(alive: bool, namespaces: &[(&str, &str)]) -> NodeReports {
        let status = NodeEnforcementStatus {
            namespaces: namespaces
                .iter()
                .map(|(name, digest)| AppliedNamespace {
                    name: (*name).to_owned(),
                    digest: (*digest).to_owned(),
                    ..AppliedNamespace::default()
                })
                .collect(),
            ..NodeEnforcementStatus::default()
        };
        let report = NodeReport {
            status: Arc::new(status),
            alive,
        };
        NodeReports {
            nodes: [("node".to_owned(), report)].into(),
        }
    }

    fn namespaces(names: &[&str]) -> Concerned {
        Concerned::Namespaces(names.iter().map(|name| (*name).to_owned()).collect())
    }

    #[test]
    fn a_report_concerns_the_namespaces_of_which_it_says_something_else() {
        let before = report(true, &[("a", "1"), ("b", "1"), ("gone", "1")]);
        let after = report(true, &[("a", "1"), ("b", "2"), ("new", "1")]);
        assert_eq!(after.differences(&before), namespaces(&["b", "gone", "new"]));
        assert_eq!(before.differences(&before), namespaces(&[]));
    }

    #[test]
    fn an_enforcer_that_comes_or_falls_silent_concerns_everybody() {
        let (before, after) = (report(true, &[("a", "1")]), report(false, &[("a", "1")]));
        assert_eq!(after.differences(&before), Concerned::All);
        assert_eq!(after.differences(&NodeReports::default()), Concerned::All);
        assert_eq!(NodeReports::default().differences(&before), Concerned::All);
    }

    #[test]
    fn what_is_not_applied_concerns_its_namespace() {
        let before = report(true, &[("a", "1"), ("b", "1")]);
        let mut after = before.clone();
        if let Some(node) = after.nodes.get_mut("node") {
            Arc::make_mut(&mut node.status).not_applied = vec![NotApplied {
                namespace: "b".to_owned(),
                policy: None,
                reason: "NotWritten".to_owned(),
            }];
        }
        assert_eq!(after.differences(&before), namespaces(&["b"]));
    }
}
