//! Events: what people see in `kubectl describe`, few enough to be read.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use k8s_openapi::api::core::v1::ObjectReference;
use kube::runtime::events::{Event, EventType, Recorder, Reporter};
use kube::{Client, Resource};
use ringfence_telemetry::events::shortened;
use tokio::time::Instant;

use crate::metrics::OperatorMetrics;

/// The reason of an Event about a generated policy that was put back.
pub const REPAIRED: &str = "Repaired";

/// What happened, about one object.
#[derive(Clone, Debug)]
pub struct Notice {
    /// Whether a person should know.
    pub warning: bool,
    /// One word of a closed list: a condition's reason, or [`REPAIRED`].
    pub reason: &'static str,
    /// What was done or tried, as one word: `Repair`, `Reconcile`.
    pub action: &'static str,
    /// What happened, for people.
    pub note: String,
    /// Another object it is about.
    pub related: Option<ObjectReference>,
}

/// How many Events of one reason about one object: `burst` at once, and one more after every `interval`.
#[derive(Clone, Copy, Debug)]
pub struct Rate {
    /// At once.
    pub burst: u32,
    /// Until the next.
    pub interval: Duration,
}

impl Default for Rate {
    fn default() -> Self {
        Self {
            burst: 50,
            interval: Duration::from_secs(10),
        }
    }
}

/// Sends Events. Cheap to clone.
#[derive(Clone)]
pub struct Events {
    recorder: Recorder,
    limits: Arc<Mutex<Limits>>,
    metrics: OperatorMetrics,
}

impl Events {
    /// Events reported by `instance`, a replica of the operator.
    pub fn new(client: Client, instance: String, metrics: OperatorMetrics) -> Self {
        let reporter = Reporter {
            controller: "ringfence-operator".to_owned(),
            instance: Some(instance),
        };
        let limits = Arc::new(Mutex::new(Limits::new(Rate::default())));
        Self {
            recorder: Recorder::new(client, reporter),
            limits,
            metrics,
        }
    }

    /// Sends an Event about `object`, unless there were too many of its kind. A failure is no reason to stop what it
    /// tells of: it is logged and counted.
    pub async fn send<K: Resource<DynamicType = ()>>(&self, object: &K, notice: Notice) {
        let regarding = object.object_ref(&());
        let uid = regarding.uid.clone().unwrap_or_default();
        let permitted = self.limits.lock().unwrap_or_else(PoisonError::into_inner).permit(
            &uid,
            notice.reason,
            Instant::now(),
        );
        if !permitted {
            self.metrics.event_dropped();
            return;
        }
        let event = Event {
            type_: if notice.warning {
                EventType::Warning
            } else {
                EventType::Normal
            },
            reason: notice.reason.to_owned(),
            note: Some(shortened(notice.note)),
            action: notice.action.to_owned(),
            secondary: notice.related,
        };
        if let Err(error) = self.recorder.publish(&event, &regarding).await {
            self.metrics.event_dropped();
            tracing::warn!(%error, reason = event.reason, "an Event could not be sent");
        }
    }
}

/// A bucket of permits for each object and reason.
#[derive(Debug)]
struct Limits {
    rate: Rate,
    buckets: HashMap<(String, &'static str), Bucket>,
}

#[derive(Clone, Copy, Debug)]
struct Bucket {
    /// Permits left.
    left: u32,
    /// When the last one was added.
    filled: Instant,
}

impl Limits {
    fn new(rate: Rate) -> Self {
        Self {
            rate,
            buckets: HashMap::new(),
        }
    }

    fn permit(&mut self, uid: &str, reason: &'static str, now: Instant) -> bool {
        let rate = self.rate;
        // A bucket that is full again is as good as none.
        self.buckets
            .retain(|_, bucket| bucket.refill(rate, now) < rate.burst);
        let bucket = self.buckets.entry((uid.to_owned(), reason)).or_insert(Bucket {
            left: rate.burst,
            filled: now,
        });
        match bucket.left.checked_sub(1) {
            Some(left) => {
                bucket.left = left;
                true
            }
            None => false,
        }
    }
}

impl Bucket {
    /// Adds the permits due since the last look. How many there are.
    fn refill(&mut self, rate: Rate, now: Instant) -> u32 {
        let intervals = now.duration_since(self.filled).as_nanos() / rate.interval.as_nanos().max(1);
        let due = u32::try_from(intervals).unwrap_or(u32::MAX);
        if due > 0 {
            self.left = self.left.saturating_add(due).min(rate.burst);
            self.filled += rate.interval.saturating_mul(due);
        }
        self.left
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    #[test]
    fn a_burst_passes_and_then_one_per_interval() {
        let mut limits = Limits::new(Rate {
            burst: 3,
            interval: MINUTE,
        });
        let start = Instant::now();
        let mut permits = |after: Duration, tries: usize| {
            (0..tries)
                .filter(|_| limits.permit("a", "Repaired", start + after))
                .count()
        };
        assert_eq!(permits(Duration::ZERO, 10), 3);
        assert_eq!(permits(MINUTE / 2, 10), 0);
        assert_eq!(permits(MINUTE, 10), 1);
        assert_eq!(permits(MINUTE * 100, 10), 3);
    }

    #[test]
    fn objects_and_reasons_are_limited_apart_and_forgotten_when_quiet() {
        let mut limits = Limits::new(Rate {
            burst: 1,
            interval: MINUTE,
        });
        let start = Instant::now();
        assert!(limits.permit("a", "Repaired", start));
        assert!(limits.permit("a", "NameConflict", start));
        assert!(limits.permit("b", "Repaired", start));
        assert!(!limits.permit("b", "Repaired", start));
        assert!(limits.permit("c", "Repaired", start + MINUTE));
        assert_eq!(limits.buckets.len(), 1);
    }

    #[test]
    fn a_long_note_is_cut_between_characters() {
        let note = shortened("ä".repeat(900));
        assert!(note.len() <= 1024 && note.ends_with('…'));
        assert_eq!(shortened("short".to_owned()), "short");
    }
}
