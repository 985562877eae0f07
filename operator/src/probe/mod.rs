//! Shows with packets whether the cluster enforces NetworkPolicies.
//!
//! ```text
//!  EnforcementProbe, nodes ─► schedule ─► plan ─► objects: policies, servers, callers
//!                                                    │ created, run, removed by `round`
//!                                                    ▼
//!             status ◄─ judge ◄─ termination messages: what each caller met
//! ```
//!
//! On every node runs a server with two ports, and two callers that differ in what isolates them:
//!
//! | | port 8471 | port 8472 |
//! | --- | --- | --- |
//! | caller `ingress`: no policy selects it, the servers' policy admits it to 8472 only | denied by ingress | allowed |
//! | caller `egress`: its own policy allows 8471 only, the servers' policy admits it to both | allowed | denied by egress |
//!
//! So each direction is tried by itself, and every denial has its positive control: the same caller reaches the same
//! server at the same time by the other port, and what listens at the denied port is shown by the other caller. What did
//! not arrive counts as denied only between two allowed calls that did, see [`call`]. The pods of a round are new: a node that stopped
//! programming rules is found out even while the rules of older pods are still there.
//!
//! `plan`, `objects`, `observe`, `judge`, `schedule` and `answer` are pure; `feed`, `round` and `run` do the I/O, and `serve` and `call`
//! are what runs in the pods.

pub mod answer;
pub mod call;
mod feed;
pub mod judge;
pub mod objects;
pub mod observe;
pub mod plan;
mod round;
pub mod run;
pub mod schedule;
pub mod serve;

use std::sync::Arc;
use std::time::Duration;

use ringfence_crd::EnforcementProbe;
use tokio::sync::watch;

pub use feed::Feed;

/// The port that the servers' policy keeps the `ingress` callers from.
pub const FIRST_PORT: u16 = 8471;
/// The port that the `egress` callers' own policy keeps them from.
pub const SECOND_PORT: u16 = 8472;

/// How the probe is run, apart from what its resource says.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The image of the pods, where the resource names none. Without it the operator's own pod is asked.
    pub image: Option<String>,
    /// This operator's pod.
    pub own_pod: String,
    /// How long pods may take to start.
    pub start: Duration,
    /// How long callers try until denied traffic has ceased.
    pub settle: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            image: None,
            own_pod: String::new(),
            start: Duration::from_secs(30),
            settle: Duration::from_secs(15),
        }
    }
}

impl Settings {
    /// The longest that a round may take: servers start, callers start, callers try and tell.
    #[must_use]
    pub fn longest(&self) -> Duration {
        2 * self.start + 2 * self.settle
    }
}

/// The EnforcementProbe, as far as it is known. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Known(Arc<watch::Sender<Option<Arc<EnforcementProbe>>>>);

impl Default for Known {
    fn default() -> Self {
        Self(Arc::new(watch::Sender::new(None)))
    }
}

impl Known {
    /// What is known now.
    #[must_use]
    pub fn now(&self) -> Option<Arc<EnforcementProbe>> {
        self.0.borrow().clone()
    }

    /// This is known from now on; gives what was known before.
    fn put(&self, probe: Option<Arc<EnforcementProbe>>) -> Option<Arc<EnforcementProbe>> {
        self.0.send_replace(probe)
    }

    fn changes(&self) -> watch::Receiver<Option<Arc<EnforcementProbe>>> {
        self.0.subscribe()
    }
}
