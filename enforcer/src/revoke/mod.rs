//! Ends the connections that policies no longer allow, and lets them go on when they are allowed again.
//!
//! A walk through all connections takes its time, so it has a thread of its own: the next change of rules does not wait
//! for it. A walk that has begun goes to its end; what came meanwhile is judged by one more walk, with the newest
//! policies, so that neither a storm of changes nor a large table can keep a connection from its end. What is due when
//! is in `agenda`.

mod agenda;
mod ended;

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Instant;

use agenda::{Agenda, Next, Scope};
use ended::Ended;
use tokio::sync::mpsc::Sender;
use tokio::sync::watch;

use crate::conntrack::Judge;
use crate::conntrack::socket::{Conntrack, Request, Walked};
use crate::droplog::Sighting;
use crate::error::Result;
use crate::metrics::Counters;
use crate::options::Options;
use crate::ruleset::Family;

/// How many connections are looked at in a second: 200,000 take half of one, and leave room for others.
pub const PER_SECOND: u32 = 400_000;

/// Keeps the marks of connections at what the policies say.
#[derive(Debug)]
pub struct Revoker {
    shared: Arc<Shared>,
}

/// How far the looks at connections are. Tightenings of policies have numbers, from the first on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// By all tightenings up to this one every connection has been judged.
    pub judged: u64,
    /// The latest.
    pub latest: u64,
}

#[derive(Debug)]
struct Shared {
    agenda: Mutex<Agenda>,
    news: Condvar,
    counters: Counters,
    /// Tells whether packets are to be compared with the mark.
    guarded: watch::Sender<bool>,
    /// Tells by which tightenings connections have been judged.
    judged: watch::Sender<u64>,
}

impl Revoker {
    /// A revoker for connections of these families, with the mark that the options name.
    /// What it ends is told to `ended`.
    pub fn start(
        conntrack: Conntrack,
        options: &Options,
        families: Vec<Family>,
        ended: Option<Sender<Sighting>>,
        counters: Counters,
    ) -> Self {
        // Nobody has looked yet.
        counters.walk_due.set(1);
        let shared = Arc::new(Shared {
            agenda: Mutex::new(Agenda::new(Instant::now(), options.guard_for)),
            news: Condvar::new(),
            counters,
            guarded: watch::Sender::new(true),
            judged: watch::Sender::new(0),
        });
        let worker = Worker {
            shared: Arc::clone(&shared),
            conntrack,
            bit: options.revoked_mark,
            families,
            ended,
        };
        thread::spawn(move || worker.run());
        Self { shared }
    }

    /// Whether packets are to be compared with the mark, because connections carry it or may do so: from the first that is
    /// revoked until some time after the last. True until somebody has looked.
    pub fn guarded(&self) -> watch::Receiver<bool> {
        self.shared.guarded.subscribe()
    }

    /// Tells that [`Progress::judged`] has become another.
    pub fn judged(&self) -> watch::Receiver<u64> {
        self.shared.judged.subscribe()
    }

    /// How far the looks at connections are. Asked of the agenda, not of what is told: whoever holds on to a told value
    /// keeps the worker from telling the next, which it does with the agenda in hand.
    pub fn progress(&self) -> Progress {
        let agenda = self.shared.agenda();
        Progress {
            judged: agenda.judged(),
            latest: agenda.latest(),
        }
    }

    /// The kernel's rules have changed, so that some connection that was allowed may no longer be, where they have
    /// tightened. Says whether [`Revoker::judge_by`] is to follow. What has tightened is not forgotten until it does.
    pub fn rules_changed(&self, tightened: bool) -> bool {
        self.shared.with(|agenda| agenda.rules_changed(tightened))
    }

    /// Whether the kernel's rules compare packets with the mark now.
    pub fn compared(&self, compared: bool) {
        self.shared.with(|agenda| agenda.compared(compared));
    }

    /// Whether somebody looks, or is going to look, with what the policies said before, so that [`Revoker::expect`] is to
    /// precede what is written.
    pub fn looks_with_older(&self) -> bool {
        self.shared.agenda().looks_with_older()
    }

    /// The kernel's rules are about to say this. From now on what it allows is not revoked.
    pub fn expect(&self, judge: Arc<Judge>) {
        self.shared.with(|agenda| agenda.expect(judge));
    }

    /// From now on this is what policies say; the kernel's rules say so already.
    pub fn judge_by(&self, judge: Arc<Judge>) {
        self.shared.with(|agenda| agenda.judge_by(judge, Instant::now()));
        self.shared.news.notify_all();
    }
}

impl Drop for Revoker {
    fn drop(&mut self) {
        self.shared.with(Agenda::stop);
        self.shared.news.notify_all();
    }
}

impl Shared {
    fn agenda(&self) -> MutexGuard<'_, Agenda> {
        // There is nothing in it that could be half done.
        self.agenda.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn with<T>(&self, change: impl FnOnce(&mut Agenda) -> T) -> T {
        let mut agenda = self.agenda();
        let result = change(&mut agenda);
        self.counters.walk_due.set(i64::from(!agenda.is_settled()));
        tell(&self.guarded, agenda.is_guarded());
        tell(&self.judged, agenda.judged());
        result
    }

    /// Waits until a look is due. `None` is the end.
    fn wait(&self) -> Option<(Scope, Arc<Judge>)> {
        let mut agenda = self.agenda();
        loop {
            let now = Instant::now();
            agenda = match agenda.next(now) {
                Next::Look(scope, judge) => return Some((scope, judge)),
                Next::Stop => return None,
                Next::Wait(None) => {
                    let waited = self.news.wait(agenda);
                    waited.unwrap_or_else(PoisonError::into_inner)
                }
                Next::Wait(Some(until)) => {
                    let waited = self.news.wait_timeout(agenda, until.duration_since(now));
                    waited.unwrap_or_else(PoisonError::into_inner).0
                }
            };
        }
    }
}

fn tell<T: PartialEq>(told: &watch::Sender<T>, now: T) {
    told.send_if_modified(|told| {
        let changed = *told != now;
        *told = now;
        changed
    });
}

/// Looks at connections.
struct Worker {
    shared: Arc<Shared>,
    conntrack: Conntrack,
    bit: u32,
    families: Vec<Family>,
    ended: Option<Sender<Sighting>>,
}

impl Worker {
    fn run(mut self) {
        while let Some((scope, judge)) = self.shared.wait() {
            let began = Instant::now();
            let looked = self.look(scope, &judge);
            let now = Instant::now();
            match looked {
                Ok(walked) => {
                    self.shared.counters.walked(&walked, now.duration_since(began));
                    self.shared.with(|agenda| agenda.looked(walked.standing > 0, now));
                }
                Err(error) => {
                    let pause = self.shared.with(|agenda| agenda.failed(now));
                    self.shared.counters.error(error.name());
                    tracing::error!(%error, ?pause, "connections were not looked at; trying again");
                }
            }
        }
    }

    /// Looks at connections, and sets and takes away marks.
    fn look(&mut self, scope: Scope, judge: &Arc<Judge>) -> Result<Walked> {
        let request = Request {
            families: &self.families,
            bit: self.bit,
            only_revoked: scope == Scope::Revoked,
            per_second: PER_SECOND,
        };
        let (mut found, mut ended) = (false, Ended::default());
        let walked = self.conntrack.walk(&request, |connection| {
            let allowed = judge.allows(connection) || self.shared.agenda().has_come(connection, judge);
            if !allowed && !std::mem::replace(&mut found, true) {
                // Not at the end of what may be a long look.
                self.shared.with(|agenda| agenda.finds_one(Instant::now()));
            }
            // Those that are known to be revoked were told of.
            if !allowed && scope == Scope::All && connection.mark & self.bit == 0 {
                ended.note(connection, judge);
            }
            allowed
        });
        let lost = self.ended.as_ref().map_or(0, |tell| ended.tell(tell));
        (0..lost).for_each(|_| self.shared.counters.drop_log_lost());
        walked
    }
}
