//! What the caches hold, counted when metrics are scraped.

use std::collections::BTreeMap;
use std::fmt;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::Resource;
use kube::runtime::reflector::Store;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::gauge::ConstGauge;
use ringfence_crd::Coverage;

use crate::stores::Stores;
use crate::triggers::is_claimed;

/// Counts of what the caches hold.
pub(crate) struct Inventory(Stores);

impl Inventory {
    pub(crate) fn new(stores: Stores) -> Self {
        Self(stores)
    }

    /// How many objects of each kind there are.
    fn objects(&self) -> [(&'static str, &'static str, usize); 6] {
        let stores = &self.0;
        [
            (
                "ringfence_operator_generated_policies",
                "NetworkPolicies in the cluster that say they are generated",
                stores.policies.state_filter(is_claimed).len(),
            ),
            (
                "ringfence_operator_generated_trials",
                "AuditNetworkPolicies in the cluster that say they are generated",
                stores.trials.state_filter(is_claimed).len(),
            ),
            (
                "ringfence_operator_zero_trust_namespaces",
                "ZeroTrustNamespaces in the cluster",
                stores.zero_trust.len(),
            ),
            (
                "ringfence_operator_zero_trust_baselines",
                "ZeroTrustBaselines in the cluster: 0 or 1",
                stores.baselines.len(),
            ),
            (
                "ringfence_operator_service_accesses",
                "ServiceAccesses in the cluster",
                stores.accesses.len(),
            ),
            (
                "ringfence_operator_external_accesses",
                "ExternalAccesses in the cluster",
                stores.externals.len(),
            ),
        ]
    }

    /// How many objects have each condition, by kind, type and status.
    fn conditions(&self) -> BTreeMap<[String; 3], usize> {
        let (stores, mut counts) = (&self.0, BTreeMap::new());
        count(&mut counts, &stores.zero_trust, |object| {
            object.status.as_ref().map(|status| &status.conditions)
        });
        count(&mut counts, &stores.baselines, |object| {
            object.status.as_ref().map(|status| &status.conditions)
        });
        count(&mut counts, &stores.accesses, |object| {
            object.status.as_ref().map(|status| &status.conditions)
        });
        count(&mut counts, &stores.externals, |object| {
            object.status.as_ref().map(|status| &status.conditions)
        });
        counts
    }

    /// Pods of namespaces with a ZeroTrustNamespace, and what Audit found there.
    fn pods(&self) -> ([(&'static str, i64); 5], i64) {
        let (mut sum, mut findings) = (Coverage::default(), 0_i64);
        for object in self.0.zero_trust.state() {
            let status = object.status.as_ref();
            if let Some(coverage) = status.and_then(|status| status.coverage.as_ref()) {
                sum.pods += coverage.pods;
                sum.isolated_ingress += coverage.isolated_ingress;
                sum.isolated_egress += coverage.isolated_egress;
                sum.exempt += coverage.exempt;
                sum.host_network += coverage.host_network;
            }
            if let Some(audit) = status.and_then(|status| status.audit.as_ref()) {
                findings = findings.saturating_add(audit.findings);
            }
        }
        let pods = [
            ("all", sum.pods),
            ("isolated-ingress", sum.isolated_ingress),
            ("isolated-egress", sum.isolated_egress),
            ("exempt", sum.exempt),
            ("host-network", sum.host_network),
        ];
        (pods.map(|(name, count)| (name, i64::from(count))), findings)
    }
}

/// Counts the conditions of a kind's objects.
fn count<K>(
    counts: &mut BTreeMap<[String; 3], usize>,
    store: &Store<K>,
    conditions: fn(&K) -> Option<&Vec<Condition>>,
) where
    K: Resource<DynamicType = ()> + Clone + 'static,
{
    for object in store.state() {
        for condition in conditions(&object).into_iter().flatten() {
            let labels = [&K::kind(&()), condition.type_.as_str(), condition.status.as_str()];
            *counts.entry(labels.map(str::to_owned)).or_default() += 1;
        }
    }
}

impl fmt::Debug for Inventory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Inventory")
    }
}

impl Collector for Inventory {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        for (name, help, count) in self.objects() {
            let gauge = ConstGauge::new(i64::try_from(count).unwrap_or(i64::MAX));
            gauge.encode(encoder.encode_descriptor(name, help, None, gauge.metric_type())?)?;
        }
        let mut family = encoder.encode_descriptor(
            "ringfence_operator_conditions",
            "Objects by kind, condition and its status",
            None,
            MetricType::Gauge,
        )?;
        for ([kind, condition, status], count) in self.conditions() {
            let labels = [("kind", kind), ("condition", condition), ("status", status)];
            let gauge = ConstGauge::new(i64::try_from(count).unwrap_or(i64::MAX));
            gauge.encode(family.encode_family(&labels)?)?;
        }
        let (pods, findings) = self.pods();
        let mut family = encoder.encode_descriptor(
            "ringfence_operator_pods",
            "Pods of namespaces with a ZeroTrustNamespace, by how policies cover them",
            None,
            MetricType::Gauge,
        )?;
        for (coverage, count) in pods {
            ConstGauge::new(count).encode(family.encode_family(&[("coverage", coverage)])?)?;
        }
        let gauge = ConstGauge::new(findings);
        let found = encoder.encode_descriptor(
            "ringfence_operator_audit_findings",
            "Connections that policies on trial would have denied, of all ZeroTrustNamespaces in mode Audit",
            None,
            gauge.metric_type(),
        )?;
        gauge.encode(found)
    }
}
