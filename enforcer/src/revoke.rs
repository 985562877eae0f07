//! Ends the connections that policies no longer allow, and lets them go on when they are allowed again.
//!
//! A walk through all connections takes its time, so it has a thread of its own: the next change of rules does not wait
//! for it. A walk that has begun goes to its end; what came meanwhile is judged by one more walk, with the newest
//! policies, so that neither a storm of changes nor a large table can keep a connection from its end.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use crate::conntrack::Judge;
use crate::conntrack::socket::Conntrack;
use crate::conntrack::wire::Name;
use crate::error::Result;
use crate::metrics::Counters;
use crate::ruleset::Family;

/// How many connections are looked at in a second: 200,000 take half of one, and leave room for others.
const PER_SECOND: u32 = 400_000;
/// How long to wait before looking. A packet that has passed the old rules may not be a connection yet; it is after the
/// few microseconds that are left of its way.
const ON_THE_WAY: Duration = Duration::from_millis(5);
/// When to look again after policies tightened, for the packet that something has held up longer than that.
const LOOK_AGAIN: Duration = Duration::from_secs(10);
/// How many times as long as a look takes to wait until the next: even where nothing is tracked, a look goes through the
/// whole of the kernel's table, 10 ms where that has 262,144 buckets.
const REST: u32 = 3;
/// The pause after a failure, doubled up to the longest.
const FIRST_RETRY: Duration = Duration::from_millis(100);
const LONGEST_RETRY: Duration = Duration::from_secs(10);

/// Keeps the marks of connections at what the policies say.
#[derive(Debug)]
pub struct Revoker {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    orders: Mutex<Orders>,
    news: Condvar,
    /// Connections carried the mark when last looked at, so they may be allowed again; or nobody has looked yet.
    marked: AtomicBool,
}

#[derive(Debug, Default)]
struct Orders {
    judge: Option<Arc<Judge>>,
    /// Somebody asked for a look since the last began, and whether policies have tightened.
    due: Option<Due>,
    over: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Due {
    Changed,
    Tightened,
}

impl Revoker {
    /// A revoker for connections of these families. `bit` of the connection mark says "revoked".
    pub fn start(conntrack: Conntrack, bit: u32, families: Vec<Family>, counters: Counters) -> Self {
        // Nobody has looked yet: an earlier run may have been stopped before it had revoked everything.
        let shared = Arc::new(Shared {
            marked: AtomicBool::new(true),
            ..Shared::default()
        });
        let worker = Worker {
            shared: Arc::clone(&shared),
            conntrack,
            bit,
            families,
            counters,
        };
        thread::spawn(move || worker.run());
        Self { shared }
    }

    /// Whether a change that tightens nothing has to be told, too.
    pub fn has_revoked(&self) -> bool {
        self.shared.marked.load(Ordering::Relaxed)
    }

    /// From now on this is what policies say; the kernel's rules say so already.
    pub fn judge_by(&self, judge: Judge, tightened: bool) {
        let mut orders = self.shared.orders();
        orders.judge = Some(Arc::new(judge));
        let due = if tightened { Due::Tightened } else { Due::Changed };
        orders.due = Some(orders.due.filter(|due| *due == Due::Tightened).unwrap_or(due));
        self.shared.news.notify_all();
    }
}

impl Drop for Revoker {
    fn drop(&mut self) {
        self.shared.orders().over = true;
        self.shared.news.notify_all();
    }
}

impl Shared {
    fn orders(&self) -> MutexGuard<'_, Orders> {
        // There is nothing in it that could be half done.
        self.orders.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Looks at connections.
struct Worker {
    shared: Arc<Shared>,
    conntrack: Conntrack,
    bit: u32,
    families: Vec<Family>,
    counters: Counters,
}

impl Worker {
    fn run(mut self) {
        let mut again = None;
        let mut failures = 0;
        // Policies have tightened since all connections were last looked at.
        let mut owed = false;
        while let Some(tightened) = self.wait(again) {
            thread::sleep(ON_THE_WAY);
            // What came meanwhile is looked at as well.
            let Some((judge, also)) = self.take() else {
                continue;
            };
            let began = Instant::now();
            again = again.filter(|due| *due > began);
            owed |= tightened || also;
            match self.look(&judge) {
                Ok(()) => {
                    failures = 0;
                    if std::mem::take(&mut owed) {
                        again = Some(began + LOOK_AGAIN);
                    }
                    thread::sleep(began.elapsed() * REST);
                }
                Err(error) => {
                    let pause = FIRST_RETRY
                        .saturating_mul(2_u32.saturating_pow(failures))
                        .min(LONGEST_RETRY);
                    failures = failures.saturating_add(1);
                    self.counters.error(error.name());
                    tracing::error!(%error, ?pause, "connections were not looked at; trying again");
                    again = Some(began + pause);
                }
            }
        }
    }

    /// The newest to judge by, and whether policies have tightened since it was last taken.
    fn take(&self) -> Option<(Arc<Judge>, bool)> {
        let mut orders = self.shared.orders();
        let tightened = orders.due.take() == Some(Due::Tightened);
        Some((orders.judge.clone()?, tightened))
    }

    /// Waits until a look is due. Returns whether policies have tightened since the last. `None` is the end.
    fn wait(&self, again: Option<Instant>) -> Option<bool> {
        let mut orders = self.shared.orders();
        loop {
            if orders.over {
                return None;
            }
            let waited = again.is_some_and(|due| due <= Instant::now());
            if orders.judge.is_some() && (waited || orders.due.is_some()) {
                return Some(orders.due.take() == Some(Due::Tightened));
            }
            orders = match again {
                None => self
                    .shared
                    .news
                    .wait(orders)
                    .unwrap_or_else(PoisonError::into_inner),
                Some(due) => {
                    let left = due.saturating_duration_since(Instant::now());
                    let waited = self.shared.news.wait_timeout(orders, left);
                    waited.unwrap_or_else(PoisonError::into_inner).0
                }
            };
        }
    }

    /// Looks at all connections, and sets and takes away marks.
    fn look(&mut self, judge: &Judge) -> Result<()> {
        let started = Instant::now();
        let mut marked = false;
        let mut remarks: Vec<(Name, bool)> = Vec::new();
        let seen = self.conntrack.walk(&self.families, PER_SECOND, |entry| {
            let revoke = !judge.allows(&entry.connection);
            marked |= revoke;
            if revoke != (entry.connection.mark & self.bit != 0) {
                remarks.push((entry.name(), revoke));
            }
        })?;
        for (name, revoke) in remarks {
            self.conntrack.remark(&name, revoke, self.bit)?;
            self.counters.remarked(revoke);
        }
        self.shared.marked.store(marked, Ordering::Relaxed);
        self.counters.walked(seen, started.elapsed());
        Ok(())
    }
}
