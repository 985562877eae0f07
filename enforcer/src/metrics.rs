//! What the enforcer counts.

use std::collections::HashSet;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family as Labelled;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};

use ringfence_policy::{Direction, ObjectKey};

use crate::cluster::trial;
use crate::conntrack::socket::Walked;
use crate::droplog::Verdict;
use crate::ruleset::Family;

/// The labels of a write.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Write {
    tool: &'static str,
    family: String,
}

/// Counts every run of a tool that writes to the kernel.
#[derive(Debug, Clone)]
pub struct Writes(Labelled<Write, Counter>);

impl Default for Writes {
    /// Counters that stand at 0, so that "nothing was written" can be seen.
    fn default() -> Self {
        let writes = Self(Labelled::default());
        writes.total();
        writes
    }
}

impl Writes {
    /// Everything that writes; `None` serves both families at once.
    const TOOLS: [(&str, Option<Family>); 4] = [
        ("conntrack", None),
        ("ipset", None),
        ("iptables", Some(Family::V4)),
        ("iptables", Some(Family::V6)),
    ];

    /// One run of the tool; `None` where it serves both families.
    pub fn count(&self, tool: &'static str, family: Option<Family>) {
        self.counter(tool, family).inc();
    }

    /// All runs so far.
    pub fn total(&self) -> u64 {
        Self::TOOLS
            .into_iter()
            .map(|(tool, family)| self.counter(tool, family).get())
            .sum()
    }

    fn counter(&self, tool: &'static str, family: Option<Family>) -> Counter {
        let family = family.map_or_else(|| "all".to_owned(), |family| family.to_string());
        self.0.get_or_create_owned(&Write { tool, family })
    }
}

/// The label of an error.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ErrorName {
    error: &'static str,
}

/// The labels of dropped packets.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct DroppedBy {
    direction: String,
    namespace: String,
    policy: String,
}

/// The labels of connections that would be dropped or ended.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct AuditedBy {
    verdict: &'static str,
    direction: String,
    namespace: String,
    policy: String,
}

/// The most series of what policies refuse: what more policies refuse is counted under the policy `other`.
const MOST_DROPPED_BY: usize = 1_000;

/// Where the time from change to kernel is counted apart: finest around the 10 to 50 ms that changes wait for each other.
const CHANGE_TO_KERNEL: [f64; 15] = [
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.3, 0.5, 1.0, 2.5, 5.0, 10.0,
];

/// Everything that the enforcer counts.
#[derive(Debug, Clone)]
pub struct Counters {
    /// Runs of tools that write.
    pub writes: Writes,
    /// Times that the kernel was brought to what is wanted.
    pub syncs: Counter,
    /// How old the oldest change was when the kernel came to hold it, in seconds.
    pub change_to_kernel: Histogram,
    /// How long a pod's start waited for its rules, in seconds.
    pub pod_start_wait: Histogram,
    /// How long the first one came after the start, in seconds.
    pub start_to_sync: Gauge<f64, AtomicU64>,
    /// When the last one ended, in seconds since 1970.
    pub last_sync: Gauge,
    /// Times that something else had changed our rules or sets.
    pub repairs: Counter,
    revoked: Counter,
    restored: Counter,
    /// Walks through all connections.
    pub walks: Histogram,
    walked: Counter,
    dropped: Labelled<DroppedBy, Counter>,
    ended: Labelled<DroppedBy, Counter>,
    would_drop: Labelled<AuditedBy, Counter>,
    refused_by: Arc<Mutex<HashSet<DroppedBy>>>,
    drop_log_lost: Counter,
    events_dropped: Counter,
    /// 1 while policies have tightened and not all connections were looked at since, else 0.
    pub walk_due: Gauge,
    errors: Labelled<ErrorName, Counter>,
    /// Pods of the node that a policy isolates.
    pub isolated_pods: Gauge,
    /// Policies in the cluster.
    pub policies: Gauge,
    /// Sets in the kernel.
    pub sets: Gauge,
    /// Rules in the kernel.
    pub rules: Gauge,
}

impl Default for Counters {
    fn default() -> Self {
        Self {
            writes: Writes::default(),
            syncs: Counter::default(),
            change_to_kernel: Histogram::new(CHANGE_TO_KERNEL),
            pod_start_wait: Histogram::new(exponential_buckets(0.001, 2.0, 14)),
            start_to_sync: Gauge::default(),
            last_sync: Gauge::default(),
            repairs: Counter::default(),
            revoked: Counter::default(),
            restored: Counter::default(),
            walks: Histogram::new(exponential_buckets(0.001, 2.0, 14)),
            walked: Counter::default(),
            dropped: Labelled::default(),
            ended: Labelled::default(),
            would_drop: Labelled::default(),
            refused_by: Arc::default(),
            drop_log_lost: Counter::default(),
            events_dropped: Counter::default(),
            walk_due: Gauge::default(),
            errors: Labelled::default(),
            isolated_pods: Gauge::default(),
            policies: Gauge::default(),
            sets: Gauge::default(),
            rules: Gauge::default(),
        }
    }
}

impl Counters {
    /// One error of this name.
    pub fn error(&self, name: &'static str) {
        self.errors.get_or_create(&ErrorName { error: name }).inc();
    }

    /// Errors of this name so far.
    pub fn errors(&self, name: &'static str) -> u64 {
        self.errors.get_or_create(&ErrorName { error: name }).get()
    }

    /// Connections were looked at, and it took so long.
    pub fn walked(&self, walked: &Walked, took: Duration) {
        self.walks.observe(took.as_secs_f64());
        self.walked.inc_by(walked.seen);
        self.revoked.inc_by(walked.revoked);
        self.restored.inc_by(walked.restored);
        for _ in 0..walked.revoked + walked.restored {
            self.writes.count("conntrack", None);
        }
    }

    /// So many packets were dropped, or connections would be, that none of these policies allows.
    pub fn refused(&self, verdict: Verdict, direction: Direction, policies: &[ObjectKey], count: u64) {
        for policy in policies {
            let by = self.bounded(DroppedBy {
                direction: direction.to_string(),
                namespace: policy.namespace.clone(),
                policy: policy.name.clone(),
            });
            let really = match verdict {
                Verdict::Dropped => Some(&self.dropped),
                Verdict::Ended => Some(&self.ended),
                Verdict::WouldDrop | Verdict::WouldEnd => None,
            };
            if let Some(counter) = really {
                counter.get_or_create(&by).inc_by(count);
                continue;
            }
            let name = by.policy.strip_prefix(trial::PREFIX).unwrap_or(&by.policy);
            let audited = AuditedBy {
                verdict: verdict.as_str(),
                direction: by.direction,
                namespace: by.namespace,
                policy: name.to_owned(),
            };
            self.would_drop.get_or_create(&audited).inc_by(count);
        }
    }

    fn bounded(&self, by: DroppedBy) -> DroppedBy {
        let mut known = self.refused_by.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() < MOST_DROPPED_BY || known.contains(&by) {
            known.insert(by.clone());
            return by;
        }
        DroppedBy {
            namespace: String::new(),
            policy: "other".to_owned(),
            ..by
        }
    }

    /// Some of what was dropped will not be told of.
    pub fn drop_log_lost(&self) {
        self.drop_log_lost.inc();
    }

    /// An Event was not sent.
    pub fn event_dropped(&self) {
        self.events_dropped.inc();
    }

    /// Connections that were revoked so far.
    pub fn revoked(&self) -> u64 {
        self.revoked.get()
    }

    /// Connections that were allowed again so far.
    pub fn restored(&self) -> u64 {
        self.restored.get()
    }

    /// Makes the counters part of what /metrics shows.
    pub fn register(&self, registry: &mut Registry) {
        // Counters get their `_total` from the encoder.
        registry.register(
            "ringfence_kernel_writes",
            "Writes to the kernel: runs of a tool, or marks of connections",
            self.writes.0.clone(),
        );
        registry.register(
            "ringfence_enforcer_syncs",
            "Times that the kernel was brought to what the policies say",
            self.syncs.clone(),
        );
        registry.register_with_unit(
            "ringfence_enforcer_change_to_kernel",
            "Time from the arrival of a change at the enforcer to the kernel holding it; of changes that are written together, the oldest's",
            Unit::Seconds,
            self.change_to_kernel.clone(),
        );
        registry.register(
            "ringfence_enforcer_start_to_sync_seconds",
            "Time from the start to the kernel holding what the policies say for the first time; 0 until then",
            self.start_to_sync.clone(),
        );
        registry.register(
            "ringfence_enforcer_last_sync_timestamp_seconds",
            "When the kernel was last found to hold what the policies say, in seconds since 1970",
            self.last_sync.clone(),
        );
        registry.register(
            "ringfence_enforcer_repairs",
            "Times that something else had changed our rules or sets",
            self.repairs.clone(),
        );
        registry.register(
            "ringfence_enforcer_revoked_connections",
            "Connections that were ended because no policy allows them any more",
            self.revoked.clone(),
        );
        registry.register(
            "ringfence_enforcer_restored_connections",
            "Revoked connections that were allowed again",
            self.restored.clone(),
        );
        registry.register_with_unit(
            "ringfence_enforcer_connection_walk",
            "Time of a walk through all connections after policies changed, from its begin to all marks being set",
            Unit::Seconds,
            self.walks.clone(),
        );
        registry.register(
            "ringfence_enforcer_connection_walk_due",
            "1 while policies have tightened and not all connections were looked at since, or revoked ones are not rejected yet, else 0",
            self.walk_due.clone(),
        );
        registry.register(
            "ringfence_enforcer_walked_connections",
            "Connections that walks have looked at",
            self.walked.clone(),
        );
        registry.register("ringfence_enforcer_errors", "Errors by name", self.errors.clone());
        self.register_drops(registry);
        self.register_pods_and_sizes(registry);
    }

    fn register_drops(&self, registry: &mut Registry) {
        registry.register(
            "ringfence_dropped_packets",
            "Packets that no policy allowed, as far as the kernel logged them, by each policy that isolates the pod in that direction",
            self.dropped.clone(),
        );
        registry.register(
            "ringfence_ended_connections",
            "Connections that were ended, counted for each policy that isolates the pod in that direction and no longer allows it",
            self.ended.clone(),
        );
        registry.register(
            "ringfence_audit_connections",
            "Connections that AuditNetworkPolicies would drop as they begin, or end, by each that isolates the pod in that direction",
            self.would_drop.clone(),
        );
        registry.register(
            "ringfence_enforcer_drop_log_lost",
            "Times that logged packets could not be read or told of, because there were too many",
            self.drop_log_lost.clone(),
        );
        registry.register(
            "ringfence_enforcer_events_dropped",
            "Events about dropped packets that were not sent: too many, or the API server took none",
            self.events_dropped.clone(),
        );
    }

    fn register_pods_and_sizes(&self, registry: &mut Registry) {
        registry.register_with_unit(
            "ringfence_enforcer_pod_start_wait",
            "How long pods that started waited for their rules",
            Unit::Seconds,
            self.pod_start_wait.clone(),
        );
        registry.register(
            "ringfence_enforcer_isolated_pods",
            "Pods of this node that a policy isolates",
            self.isolated_pods.clone(),
        );
        registry.register(
            "ringfence_enforcer_policies",
            "NetworkPolicies in the cluster",
            self.policies.clone(),
        );
        registry.register(
            "ringfence_enforcer_sets",
            "Sets that the kernel holds for us",
            self.sets.clone(),
        );
        registry.register(
            "ringfence_enforcer_rules",
            "Rules that the kernel holds for us, both families",
            self.rules.clone(),
        );
    }
}
