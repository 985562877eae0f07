//! What the operator measures about itself.

use std::collections::BTreeMap;
use std::time::Duration;

use k8s_openapi::jiff::Timestamp;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;
use ringfence_crd::ProbeFailureKind;

/// The operator's metrics. Cheap to clone; clones share their counts.
#[derive(Clone, Debug)]
pub struct OperatorMetrics {
    reconciles: Family<[(&'static str, &'static str); 2], Counter>,
    durations: Family<[(&'static str, &'static str); 1], Histogram>,
    writes: Family<[(&'static str, &'static str); 2], Counter>,
    repairs: Family<Repair, Counter>,
    watch_errors: Family<[(&'static str, &'static str); 1], Counter>,
    events_dropped: Counter,
    questions: Family<[(&'static str, &'static str); 1], Counter>,
    leader: Gauge,
    queued: Gauge,
    probe_pairs: Family<[(&'static str, &'static str); 1], Gauge>,
    probe_round: Gauge,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Repair {
    field: &'static str,
}

/// What was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verb {
    /// A new object.
    Create,
    /// A whole object in place of another.
    Replace,
    /// An object's end.
    Delete,
    /// A status.
    Status,
}

impl Verb {
    fn name(self) -> &'static str {
        match self {
            Self::Create => "create",
            Self::Replace => "replace",
            Self::Delete => "delete",
            Self::Status => "status",
        }
    }
}

/// Upper bounds in seconds: a look without a write takes milliseconds, a refused request up to its limit.
const BUCKETS: [f64; 9] = [0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0];

impl Default for OperatorMetrics {
    fn default() -> Self {
        Self {
            reconciles: Family::default(),
            durations: Family::new_with_constructor(|| Histogram::new(BUCKETS)),
            writes: Family::default(),
            repairs: Family::default(),
            watch_errors: Family::default(),
            events_dropped: Counter::default(),
            questions: Family::default(),
            leader: Gauge::default(),
            queued: Gauge::default(),
            probe_pairs: Family::default(),
            probe_round: Gauge::default(),
        }
    }
}

impl OperatorMetrics {
    /// Adds the metrics to `registry`.
    pub fn register(&self, registry: &mut Registry) {
        registry.register(
            "ringfence_operator_reconciles",
            "Looks taken at a namespace or at a ServiceAccess, by controller and result: \"ok\", or the error's stable name",
            self.reconciles.clone(),
        );
        registry.register(
            "ringfence_operator_reconcile_duration_seconds",
            "How long a look took, writes included, by controller",
            self.durations.clone(),
        );
        registry.register(
            "ringfence_operator_writes",
            "Objects written, by kind and verb; Leases and Events not counted",
            self.writes.clone(),
        );
        registry.register(
            "ringfence_operator_repairs",
            "Generated policies that somebody else edited or deleted and that were put back, by the field edited",
            self.repairs.clone(),
        );
        registry.register(
            "ringfence_operator_watch_errors",
            "Watches that failed and were started again, by kind",
            self.watch_errors.clone(),
        );
        registry.register(
            "ringfence_operator_events_dropped",
            "Events not sent, because there were too many of their kind or the API server refused them",
            self.events_dropped.clone(),
        );
        registry.register(
            "ringfence_operator_dns_questions",
            "DNS names of ExternalAccesses that were asked for, by result: \"answered\" or \"failed\"",
            self.questions.clone(),
        );
        registry.register(
            "ringfence_operator_leader",
            "1 while this replica is the one that writes",
            self.leader.clone(),
        );
        registry.register(
            "ringfence_operator_queued",
            "Namespaces and ServiceAccesses waiting for a look",
            self.queued.clone(),
        );
        registry.register(
            "ringfence_probe_pairs",
            "Pairs of nodes that the last round of the EnforcementProbe tried, by result: \"Right\", or the worst failure",
            self.probe_pairs.clone(),
        );
        registry.register(
            "ringfence_probe_last_round_timestamp_seconds",
            "When the last round of the EnforcementProbe ended; 0 where none did on this replica",
            self.probe_round.clone(),
        );
    }

    /// A look was taken. `result` is `ok` or the error's stable name.
    pub fn reconciled(&self, controller: &'static str, result: &'static str, took: Duration) {
        self.reconciles
            .get_or_create(&[("controller", controller), ("result", result)])
            .inc();
        self.durations
            .get_or_create(&[("controller", controller)])
            .observe(took.as_secs_f64());
    }

    /// An object was written.
    pub fn wrote(&self, kind: &'static str, verb: Verb) {
        self.writes
            .get_or_create(&[("kind", kind), ("verb", verb.name())])
            .inc();
    }

    /// A policy was put back. `field` is the one that was edited, or "deleted".
    pub fn repaired(&self, field: &'static str) {
        self.repairs.get_or_create(&Repair { field }).inc();
    }

    /// A watch failed.
    pub fn watch_failed(&self, kind: &'static str) {
        self.watch_errors.get_or_create(&[("kind", kind)]).inc();
    }

    /// An Event was not sent.
    pub fn event_dropped(&self) {
        self.events_dropped.inc();
    }

    /// A DNS name was asked for.
    pub fn asked(&self, answered: bool) {
        let result = if answered { "answered" } else { "failed" };
        self.questions.get_or_create(&[("result", result)]).inc();
    }

    #[cfg(test)]
    pub(crate) fn questions_answered(&self) -> u64 {
        self.questions.get_or_create(&[("result", "answered")]).get()
    }

    /// A round of the probe ended: so many pairs were right, and so many wrong.
    pub fn probed(&self, right: usize, wrong: &BTreeMap<ProbeFailureKind, usize>, now: Timestamp) {
        let set = |result, count: usize| {
            self.probe_pairs
                .get_or_create(&[("result", result)])
                .set(i64::try_from(count).unwrap_or(i64::MAX));
        };
        set("Right", right);
        for kind in [
            ProbeFailureKind::DeniedArrived,
            ProbeFailureKind::AllowedLost,
            ProbeFailureKind::NoAnswer,
            ProbeFailureKind::PodNotStarted,
        ] {
            set(kind.as_str(), wrong.get(&kind).copied().unwrap_or_default());
        }
        self.probe_round.set(now.as_second());
    }

    /// This replica does not know what the probe finds, or there is none.
    pub fn probe_unknown(&self) {
        self.probe_pairs.clear();
        self.probe_round.set(0);
    }

    /// Whether this replica leads.
    pub fn leading(&self, leads: bool) {
        self.leader.set(i64::from(leads));
    }

    /// How much work waits.
    pub fn queued(&self, length: usize) {
        self.queued.set(i64::try_from(length).unwrap_or(i64::MAX));
    }
}
