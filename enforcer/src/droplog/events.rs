//! Events on pods whose policies drop packets, or would: few enough to be read.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::ObjectReference;
use kube::Client;
use kube::runtime::events::{Event, EventType, Recorder, Reporter};
use ringfence_telemetry::events::shortened;
use tokio::sync::mpsc::{Receiver, Sender, channel};

use super::packet::Verdict;
use super::story::Party;
use crate::metrics::Counters;

/// The reason of an Event about packets that policies dropped.
pub const REASON: &str = "NetworkPolicyDrop";
/// The reason of an Event about connections that policies on trial would drop or end.
pub const AUDIT_REASON: &str = "AuditNetworkPolicyDrop";

/// The pause between two Events about one pod.
const EVERY: Duration = Duration::from_secs(60);
/// The most Events of a node within that time.
const MOST: usize = 60;
/// What waits to be sent; more is dropped and counted.
const QUEUE: usize = 64;

/// What happened to a pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Notice {
    /// What became of it.
    pub verdict: Verdict,
    /// The pod.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its UID.
    pub uid: String,
    /// With whom.
    pub other: Party,
    /// What to say.
    pub note: String,
}

/// Sends Events, on a task of its own.
#[derive(Debug, Clone)]
pub struct Events {
    queue: Sender<Notice>,
    counters: Counters,
}

impl Events {
    /// Events that `node`'s enforcer reports.
    pub fn start(client: Client, node: &str, counters: Counters) -> Self {
        let reporter = Reporter {
            controller: "ringfence-enforcer".to_owned(),
            instance: Some(node.to_owned()),
        };
        let (queue, received) = channel(QUEUE);
        tokio::spawn(send(Recorder::new(client, reporter), received, counters.clone()));
        Self { queue, counters }
    }

    /// Sends an Event, if there is room for one more.
    pub fn tell(&self, notice: Notice) {
        if self.queue.try_send(notice).is_err() {
            self.counters.event_dropped();
        }
    }
}

async fn send(recorder: Recorder, mut queue: Receiver<Notice>, counters: Counters) {
    while let Some(notice) = queue.recv().await {
        let pod = ObjectReference {
            api_version: Some("v1".to_owned()),
            kind: Some("Pod".to_owned()),
            namespace: Some(notice.namespace),
            name: Some(notice.name),
            uid: Some(notice.uid),
            ..ObjectReference::default()
        };
        let (reason, action) = match notice.verdict {
            Verdict::Dropped => (REASON, "Drop"),
            Verdict::Ended => (REASON, "End"),
            Verdict::WouldDrop | Verdict::WouldEnd => (AUDIT_REASON, "Audit"),
        };
        let event = Event {
            type_: EventType::Warning,
            reason: reason.to_owned(),
            note: Some(shortened(notice.note)),
            action: action.to_owned(),
            secondary: Some(related(&notice.other)),
        };
        // A failure is no reason to stop: what it tells of is in the log as well.
        if let Err(error) = recorder.publish(&event, &pod).await {
            counters.event_dropped();
            tracing::debug!(%error, "an Event could not be sent");
        }
    }
}

/// The other side, as an Event refers to it. Without it, what is told of the next would only be counted as one more about the
/// first: an Event that is repeated keeps its first note.
fn related(other: &Party) -> ObjectReference {
    let Some(pod) = &other.pod else {
        return ObjectReference {
            api_version: Some("networking.k8s.io/v1".to_owned()),
            kind: Some("IPAddress".to_owned()),
            name: Some(other.address.to_string()),
            ..ObjectReference::default()
        };
    };
    ObjectReference {
        api_version: Some("v1".to_owned()),
        kind: Some("Pod".to_owned()),
        namespace: Some(pod.namespace.clone()),
        name: Some(pod.pod.clone()),
        ..ObjectReference::default()
    }
}

/// Which Events there is room for.
#[derive(Debug, Default)]
pub struct Limits {
    told: HashMap<(String, bool), Instant>,
}

impl Limits {
    /// Whether an Event about the pod with this UID may be sent now. What was really dropped is counted apart from what would
    /// be: neither hides the other.
    pub fn permit(&mut self, uid: &str, really: bool, now: Instant) -> bool {
        self.told.retain(|_, told| now.duration_since(*told) < EVERY);
        let about = (uid.to_owned(), really);
        let permitted = self.told.len() < MOST && !self.told.contains_key(&about);
        if permitted {
            self.told.insert(about, now);
        }
        permitted
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_event_a_minute_about_a_pod_and_so_many_about_all() {
        let (mut limits, start) = (Limits::default(), Instant::now());
        assert!(limits.permit("a", true, start));
        assert!(!limits.permit("a", true, start + EVERY / 2));
        assert!(
            limits.permit("a", false, start + EVERY / 2),
            "what would be dropped is not hidden by what is"
        );
        assert!(limits.permit("a", true, start + EVERY));
        let others = (0..2 * MOST).filter(|number| limits.permit(&number.to_string(), true, start + EVERY));
        assert_eq!(others.count(), MOST - 2);
    }

    #[test]
    fn a_long_note_is_cut_at_a_character() {
        let note = shortened("é".repeat(800));
        assert!(note.len() <= 1000 + '…'.len_utf8() && note.ends_with('…'));
    }
}
