//! What AuditNetworkPolicies were found to do, namespace by namespace.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use ringfence_crd::AuditedNamespace;

use super::Versions;

/// Findings by namespace, since the policies on trial there are what they are.
#[derive(Debug, Default)]
pub(super) struct Findings(BTreeMap<String, AuditedNamespace>);

impl Findings {
    /// So many connections would be dropped or ended by the policies of a namespace. What is found of a namespace that was
    /// never reported on is of policies that are gone.
    pub(super) fn note(&mut self, namespace: &str, connections: u64, now: Timestamp) {
        if let Some(audited) = self.0.get_mut(namespace) {
            let connections = i64::try_from(connections).unwrap_or(i64::MAX);
            audited.findings = audited.findings.saturating_add(connections);
            audited.last_finding_time = Some(Time(now));
        }
    }

    /// What to report of these namespaces; the rest is forgotten.
    pub(super) fn of<'a>(
        &mut self,
        namespaces: impl Iterator<Item = &'a str>,
        versions: &Versions,
        now: Timestamp,
    ) -> BTreeMap<String, AuditedNamespace> {
        let mut before = std::mem::take(&mut self.0);
        for namespace in namespaces {
            let (digest, policies) = versions.audit_digest(namespace);
            if policies == 0 {
                continue;
            }
            let last = before.remove(namespace).filter(|last| last.digest == digest);
            let audited = last.unwrap_or_else(|| AuditedNamespace {
                digest,
                policies: super::number(policies),
                findings: 0,
                last_finding_time: None,
                since: Time(now),
            });
            self.0.insert(namespace.to_owned(), audited);
        }
        self.0.clone()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use ringfence_policy::{ObjectKey, Version};

    use super::*;

    fn version(generation: i64) -> Version {
        Version {
            uid: "1".to_owned(),
            generation,
        }
    }

    #[test]
    fn findings_are_counted_from_the_moment_that_the_policies_are_what_they_are() {
        let (mut findings, mut versions) = (Findings::default(), Versions::default());
        let time = |second| Timestamp::from_second(second).unwrap();
        let names = || ["shop", "quiet"].into_iter();
        assert_eq!(findings.of(names(), &versions, time(0)), BTreeMap::new());
        findings.note("shop", 5, time(0));

        versions.audit(ObjectKey::new("shop", "deny"), version(1));
        let first = findings.of(names(), &versions, time(1));
        assert_eq!(first.keys().collect::<Vec<_>>(), ["shop"]);
        assert_eq!((first["shop"].findings, first["shop"].since.0), (0, time(1)));
        findings.note("shop", 2, time(2));
        findings.note("shop", 3, time(3));
        findings.note("quiet", 3, time(3));
        let second = findings.of(names(), &versions, time(4));
        assert_eq!((second["shop"].findings, second["shop"].since.0), (5, time(1)));
        assert_eq!(second["shop"].last_finding_time, Some(Time(time(3))));

        versions.audit(ObjectKey::new("shop", "deny"), version(2));
        let third = findings.of(names(), &versions, time(5));
        assert_eq!((third["shop"].findings, third["shop"].since.0), (0, time(5)));
        versions.audit_gone(&ObjectKey::new("shop", "deny"));
        assert_eq!(findings.of(names(), &versions, time(6)), BTreeMap::new());
    }
}
