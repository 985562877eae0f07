//! AuditNetworkPolicies: tells which connections they would drop or end, and touches none.
//!
//! ```text
//!  Cluster ─► trial: policies with those on trial ─► Judge ─┐
//!  kernel: connections that begin, all connections ─► Docket ─► Ledger ─► Sighting ─► names (agent)
//!                                                    (pure)
//! ```
//!
//! Connections are judged where the kernel tracks them, behind all rules: what real policies drop never gets there, and no
//! packet takes another way because it is audited. The price of a mistake here is a wrong line, never a lost packet.
//! Nothing runs while no AuditNetworkPolicy applies to the cluster.

mod docket;

use std::sync::mpsc::{self, TryRecvError};
use std::thread;
use std::time::{Duration, Instant};

use docket::Docket;
pub use docket::Trial;
use tokio::sync::mpsc::Sender;
use tokio::sync::mpsc::error::TrySendError;

use crate::conntrack::begun::{Begun, Heard};
use crate::conntrack::socket::{Conntrack, Request};
use crate::droplog::{Ledger, Sighting};
use crate::error::Error;
use crate::metrics::Counters;
use crate::revoke;
use crate::ruleset::Family;

/// How long to wait for connections before looking whether something else is due.
const PATIENCE: Duration = Duration::from_millis(200);

/// Judges connections by policies on trial, on a thread of its own.
#[derive(Debug)]
pub struct Auditor {
    trials: mpsc::Sender<Option<Trial>>,
}

impl Auditor {
    /// An auditor of the network namespace of the thread that calls this. `revoked` is the bit of a connection's mark that
    /// says that it was ended. What is found is told to `tell`.
    pub fn start(families: Vec<Family>, revoked: u32, tell: Sender<Sighting>, counters: Counters) -> Self {
        let (trials, received) = mpsc::channel();
        let worker = Worker {
            trials: received,
            families,
            revoked,
            tell,
            counters,
        };
        thread::spawn(move || worker.run());
        Self { trials }
    }

    /// From now on this is what the policies say with those on trial; `None` where none is.
    pub fn judge_by(&self, trial: Option<Trial>) {
        // The thread ends with this handle, or when nobody listens to it.
        let _ = self.trials.send(trial);
    }
}

struct Worker {
    trials: mpsc::Receiver<Option<Trial>>,
    families: Vec<Family>,
    revoked: u32,
    tell: Sender<Sighting>,
    counters: Counters,
}

impl Worker {
    fn run(self) {
        while let Ok(trial) = self.trials.recv() {
            let Some(trial) = trial else { continue };
            tracing::info!("AuditNetworkPolicies apply: connections are judged by them, and left alone");
            if self
                .audit(Docket::new(trial, self.revoked, Instant::now()))
                .is_none()
            {
                return;
            }
            tracing::info!("no AuditNetworkPolicy is left");
        }
    }

    /// Audits until no policy is on trial any more. `None` is the end.
    fn audit(&self, mut docket: Docket) -> Option<()> {
        let mut ledger = Ledger::default();
        let mut begun = Begun::open(PATIENCE)
            .inspect_err(|error| self.say("new connections are found late, by looking at all", error))
            .ok();
        let mut table = None;
        while !self.tell.is_closed() {
            match self.newest() {
                Ok(Some(Some(trial))) => {
                    if docket.judge_by(trial, Instant::now()) {
                        // What is untold was found by other policies than those that it would be counted with.
                        ledger = Ledger::default();
                    }
                }
                Ok(Some(None)) => return Some(()),
                Ok(None) => {}
                Err(mpsc::RecvError) => return None,
            }
            match &mut begun {
                Some(begun) => self.listen(begun, &mut docket),
                None => thread::sleep(PATIENCE),
            }
            let now = Instant::now();
            docket
                .due(now)
                .into_iter()
                .for_each(|refused| ledger.note(refused, now));
            if docket.look_due() <= now {
                self.look(&mut table, &mut docket, &mut ledger);
            }
            for sighting in ledger.due(Instant::now()) {
                if let Err(TrySendError::Full(_)) = self.tell.try_send(sighting) {
                    self.counters.drop_log_lost();
                }
            }
        }
        None
    }

    /// The newest of what came since this was last asked, if anything came.
    fn newest(&self) -> Result<Option<Option<Trial>>, mpsc::RecvError> {
        let mut newest = None;
        loop {
            match self.trials.try_recv() {
                Ok(trial) => newest = Some(trial),
                Err(TryRecvError::Empty) => return Ok(newest),
                Err(TryRecvError::Disconnected) => return Err(mpsc::RecvError),
            }
        }
    }

    fn listen(&self, begun: &mut Begun, docket: &mut Docket) {
        let now = Instant::now();
        match begun.hear(|connection, print| docket.begins(connection, print, now)) {
            Ok(Heard::All) => {}
            // Those that were not told of are still there, or were a moment ago.
            Ok(Heard::Part) => docket.look_soon(now),
            Err(error) => {
                self.say("new connections are found late, by looking at all", &error);
                thread::sleep(PATIENCE);
            }
        }
    }

    /// Looks at all connections.
    fn look(&self, table: &mut Option<Conntrack>, docket: &mut Docket, ledger: &mut Ledger) {
        let request = Request {
            families: &self.families,
            bit: self.revoked,
            only_revoked: false,
            per_second: revoke::PER_SECOND,
        };
        docket.look_begins(Instant::now());
        let looked = match table.take().map_or_else(Conntrack::open, Ok) {
            Ok(mut open) => {
                let looked = open.look(&request, |entry| {
                    let refused = docket.stands(&entry.connection, entry.print());
                    let now = Instant::now();
                    refused.into_iter().for_each(|refused| ledger.note(refused, now));
                });
                *table = Some(open);
                looked.map(|_| ())
            }
            Err(error) => Err(error),
        };
        match looked {
            Ok(()) => docket.look_ends(Instant::now()),
            Err(error) => {
                self.say("connections were not looked at; trying again", &error);
                docket.look_failed(Instant::now());
            }
        }
    }

    fn say(&self, what: &str, error: &Error) {
        self.counters.error("AuditFailed");
        tracing::warn!(%error, "auditing: {what}");
    }
}
