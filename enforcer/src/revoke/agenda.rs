//! When to look at which connections: news and results in, the next look out. No clock and no thread of its own.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::conntrack::{Connection, Judge};

/// How long to wait before looking. A packet that has passed the old rules may not be a connection yet; it is after the
/// few microseconds that are left of its way.
const ON_THE_WAY: Duration = Duration::from_millis(5);
/// When to look again after policies tightened, for the packet that something has held up longer than that.
const LOOK_AGAIN: Duration = Duration::from_secs(10);
/// How many times as long as a look takes to wait until the next: even where nothing is tracked, a look goes through the
/// whole of the kernel's table, 10 ms where that has 262,144 buckets.
const REST: u32 = 3;
/// The longest of these: a look at a large table goes at a bounded rate anyway, and what tightened meanwhile waits.
const LONGEST_REST: Duration = Duration::from_millis(250);
/// The pause after a failure, doubled up to the longest.
const FIRST_RETRY: Duration = Duration::from_millis(100);
const LONGEST_RETRY: Duration = Duration::from_secs(10);

/// Which connections a look is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Scope {
    /// Any may be forbidden, or allowed again.
    All,
    /// Nothing has tightened, so only revoked ones can have become anything else.
    Revoked,
}

/// What to do now.
#[derive(Debug, Clone)]
pub(super) enum Next {
    /// Look, and then tell how it ended.
    Look(Scope, Arc<Judge>),
    /// Wait for news, or until this moment.
    Wait(Option<Instant>),
    /// The end.
    Stop,
}

/// Policies have tightened: first and last since the look that judges by them began.
#[derive(Debug, Clone, Copy)]
struct Tightened {
    first: Instant,
    last: Instant,
}

/// A look that goes on.
#[derive(Debug, Clone, Copy)]
struct Look {
    scope: Scope,
    began: Instant,
    /// Policies had tightened before it.
    for_tightening: bool,
    /// The last tightening that it is for, or that one before it was for.
    judges: u64,
}

/// What connections are owed.
#[derive(Debug)]
pub(super) struct Agenda {
    judge: Option<Arc<Judge>>,
    /// What policies are about to say: the rules that say so are being written.
    coming: Option<Arc<Judge>>,
    /// Policies have tightened, and how is not told yet.
    untold: bool,
    tightened: Option<Tightened>,
    /// How many times policies have tightened and that was told.
    told: u64,
    /// How many of these times, from the first, are behind the looks that have ended.
    judged: u64,
    /// Policies have changed since the last look began.
    changed: bool,
    /// When to look at all once more.
    again: Option<Instant>,
    /// Connections are revoked, as far as is known.
    revoked: bool,
    /// When connections were last known to be revoked, or not known not to be. Nothing since a look has found none long after.
    stood: Option<Instant>,
    /// How long after that packets are still compared with the mark; `None` is for ever.
    guard_for: Option<Duration>,
    /// The kernel compares them.
    compared: bool,
    looking: Option<Look>,
    rest_until: Option<Instant>,
    failures: u32,
    stopped: bool,
}

impl Agenda {
    /// An agenda that owes every connection a look: an earlier run may have been stopped before it had revoked all that
    /// it should.
    pub(super) fn new(now: Instant, guard_for: Option<Duration>) -> Self {
        Self {
            judge: None,
            coming: None,
            untold: true,
            tightened: None,
            told: 0,
            judged: 0,
            changed: false,
            again: None,
            revoked: false,
            stood: Some(now),
            guard_for,
            compared: true,
            looking: None,
            rest_until: None,
            failures: 0,
            stopped: false,
        }
    }

    /// Whether somebody looks, or is going to look, with what the policies said before.
    pub(super) fn looks_with_older(&self) -> bool {
        let due = [self.again, self.unguarded()];
        let all = self.untold || self.tightened.is_some() || due.iter().any(Option::is_some);
        all || self.revoked || self.looking.is_some()
    }

    /// The kernel's rules have changed. Says whether somebody needs to know what the policies say now: not where they
    /// have not tightened, nothing is revoked and nobody will look with older ones in hand.
    pub(super) fn rules_changed(&mut self, tightened: bool) -> bool {
        self.untold |= tightened;
        self.looks_with_older()
    }

    /// What the policies say once the rules are written. What they allow then is not revoked from now on.
    pub(super) fn expect(&mut self, judge: Arc<Judge>) {
        self.coming = Some(judge);
    }

    /// What the policies say now.
    pub(super) fn judge_by(&mut self, judge: Arc<Judge>, now: Instant) {
        self.judge = Some(judge);
        self.coming = None;
        self.changed = true;
        if std::mem::take(&mut self.untold) {
            self.told += 1;
            let first = self.tightened.map_or(now, |earlier| earlier.first);
            self.tightened = Some(Tightened { first, last: now });
        }
    }

    /// Whether the policies allow the connection that a look finds forbidden by these, after all: what has come since the look
    /// began is in the kernel's rules already, or will be any moment, and the connection may have begun by it.
    pub(super) fn has_come(&self, connection: &Connection, since: &Arc<Judge>) -> bool {
        let judges = [&self.judge, &self.coming].into_iter().flatten();
        let mut newer = judges.filter(|judge| !Arc::ptr_eq(judge, since));
        newer.any(|judge| judge.allows(connection))
    }

    /// The number of the latest tightening of policies, to be compared with [`Agenda::judged`].
    pub(super) fn latest(&self) -> u64 {
        self.told + u64::from(self.untold)
    }

    /// The tightenings by which every connection has been judged, from the first on, as [`Agenda::latest`] counts; not while the
    /// kernel does not heed it.
    pub(super) fn judged(&self) -> u64 {
        if self.is_heeded() { self.judged } else { 0 }
    }

    fn is_heeded(&self) -> bool {
        self.compared || !self.revoked
    }

    /// Whether all connections have been judged by what the policies say since they last tightened, and the kernel heeds it.
    pub(super) fn is_settled(&self) -> bool {
        self.is_heeded()
            && !self.untold
            && self.tightened.is_none()
            && !self.looking.is_some_and(|look| look.for_tightening)
    }

    /// Whether the kernel's rules compare packets with the mark now.
    pub(super) fn compared(&mut self, compared: bool) {
        self.compared = compared;
    }

    /// Whether packets are to be compared with the mark.
    pub(super) fn is_guarded(&self) -> bool {
        self.stood.is_some()
    }

    /// Nobody is to look any more.
    pub(super) fn stop(&mut self) {
        self.stopped = true;
    }

    /// What to do now.
    pub(super) fn next(&mut self, now: Instant) -> Next {
        if self.stopped {
            return Next::Stop;
        }
        let Some(judge) = &self.judge else {
            return Next::Wait(None);
        };
        let ready = self.tightened.map(|tightened| tightened.first + ON_THE_WAY);
        let all = [ready, self.again, self.unguarded()].into_iter().flatten().min();
        let revoked = (self.changed && self.revoked).then_some(now);
        let Some(soonest) = [all, revoked].into_iter().flatten().min() else {
            return Next::Wait(None);
        };
        let due = self.rest_until.map_or(soonest, |rest| rest.max(soonest));
        if due > now {
            return Next::Wait(Some(due));
        }
        let scope = if all.is_some_and(|all| all <= now) {
            Scope::All
        } else {
            Scope::Revoked
        };
        let judge = Arc::clone(judge);
        self.begin(scope, now);
        Next::Look(scope, judge)
    }

    fn begin(&mut self, scope: Scope, now: Instant) {
        let for_tightening = scope == Scope::All && self.tightened.is_some();
        self.changed = false;
        if scope == Scope::All {
            self.again = self.again.filter(|again| *again > now);
            // A look that begins now may be too early for what has tightened just before: that gets one more.
            self.tightened = self
                .tightened
                .filter(|tightened| tightened.last + ON_THE_WAY > now)
                .map(|Tightened { last, .. }| Tightened { first: last, last });
        }
        let is_for_all = scope == Scope::All && self.tightened.is_none();
        self.looking = Some(Look {
            scope,
            began: now,
            for_tightening,
            judges: if is_for_all { self.told } else { self.judged },
        });
    }

    /// The look has shown everything; whether it has left any connection revoked.
    pub(super) fn looked(&mut self, revoked: bool, now: Instant) {
        let Some(look) = self.looking.take() else {
            return;
        };
        self.failures = 0;
        self.judged = look.judges;
        self.revoked = revoked;
        if revoked {
            self.stood = Some(now);
        } else if look.scope == Scope::All {
            self.find_none(look.began);
        }
        if look.for_tightening {
            self.again = Some(look.began + LOOK_AGAIN);
        }
        let rest = now.duration_since(look.began) * REST;
        self.rest_until = Some(now + rest.min(LONGEST_REST));
    }

    /// When packets need no longer be compared with the mark, if a look finds then that no connection carries it.
    fn unguarded(&self) -> Option<Instant> {
        Some(self.stood? + self.guard_for?)
    }

    /// The look has found a connection that is to be revoked; it goes on.
    pub(super) fn finds_one(&mut self, now: Instant) {
        self.stood = Some(now);
    }

    /// A look at all that began then has found no revoked connection.
    fn find_none(&mut self, began: Instant) {
        if self.unguarded().is_some_and(|unguarded| unguarded <= began) {
            self.stood = None;
            // The rule may go any moment.
            self.compared = false;
        }
    }

    /// The look has not shown everything. Returns the pause before the next.
    pub(super) fn failed(&mut self, now: Instant) -> Duration {
        let pause = FIRST_RETRY
            .saturating_mul(2_u32.saturating_pow(self.failures))
            .min(LONGEST_RETRY);
        self.failures = self.failures.saturating_add(1);
        self.rest_until = Some(now + pause);
        // What it has done before it failed is not known.
        self.revoked = true;
        self.stood = Some(now);
        match self.looking.take() {
            Some(look) if look.scope == Scope::All => {
                let last = self.tightened.map_or(look.began, |tightened| tightened.last);
                self.tightened = Some(Tightened {
                    first: look.began,
                    last,
                });
            }
            _ => self.changed = true,
        }
        pause
    }
}

#[cfg(test)]
mod tests;
