//! When to look at which connections: news and results in, the next look out. No clock and no thread of its own.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::conntrack::Judge;

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
}

/// What connections are owed.
#[derive(Debug)]
pub(super) struct Agenda {
    judge: Option<Arc<Judge>>,
    /// Policies have tightened, and how is not told yet.
    untold: bool,
    tightened: Option<Tightened>,
    /// Policies have changed since the last look began.
    changed: bool,
    /// When to look at all once more.
    again: Option<Instant>,
    /// Connections are revoked, as far as is known.
    revoked: bool,
    looking: Option<Look>,
    rest_until: Option<Instant>,
    failures: u32,
    stopped: bool,
}

impl Agenda {
    /// An agenda that owes every connection a look: an earlier run may have been stopped before it had revoked all that
    /// it should.
    pub(super) fn new() -> Self {
        Self {
            judge: None,
            untold: true,
            tightened: None,
            changed: false,
            again: None,
            revoked: false,
            looking: None,
            rest_until: None,
            failures: 0,
            stopped: false,
        }
    }

    /// The kernel's rules have changed. Says whether somebody needs to know what the policies say now: not where they
    /// have not tightened, nothing is revoked and nobody will look with older ones in hand.
    pub(super) fn rules_changed(&mut self, tightened: bool) -> bool {
        self.untold |= tightened;
        let older_in_hand = self.tightened.is_some() || self.again.is_some() || self.looking.is_some();
        self.untold || self.revoked || older_in_hand
    }

    /// What the policies say now.
    pub(super) fn judge_by(&mut self, judge: Judge, now: Instant) {
        self.judge = Some(Arc::new(judge));
        self.changed = true;
        if std::mem::take(&mut self.untold) {
            let first = self.tightened.map_or(now, |earlier| earlier.first);
            self.tightened = Some(Tightened { first, last: now });
        }
    }

    /// Whether all connections have been judged by what the policies say since they last tightened.
    pub(super) fn is_settled(&self) -> bool {
        !self.untold && self.tightened.is_none() && !self.looking.is_some_and(|look| look.for_tightening)
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
        let all = [ready, self.again].into_iter().flatten().min();
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
        self.looking = Some(Look {
            scope,
            began: now,
            for_tightening,
        });
        self.changed = false;
        if scope == Scope::All {
            self.again = self.again.filter(|again| *again > now);
            // A look that begins now may be too early for what has tightened just before: that gets one more.
            self.tightened = self
                .tightened
                .filter(|tightened| tightened.last + ON_THE_WAY > now)
                .map(|Tightened { last, .. }| Tightened { first: last, last });
        }
    }

    /// The look has shown everything; whether it has left any connection revoked.
    pub(super) fn looked(&mut self, revoked: bool, now: Instant) {
        let Some(look) = self.looking.take() else {
            return;
        };
        self.failures = 0;
        self.revoked = revoked;
        if look.for_tightening {
            self.again = Some(look.began + LOOK_AGAIN);
        }
        self.rest_until = Some(now + now.duration_since(look.began) * REST);
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
mod tests {
    #![allow(clippy::unwrap_used)]
    use ringfence_policy::NodePolicies;

    use super::*;

    const MS: Duration = Duration::from_millis(1);

    /// A judge that can be told from others by this number.
    fn judge(number: u8) -> Judge {
        let policies = NodePolicies { pods: [].into() };
        Judge::new(policies, vec![[0, 0, 0, number].into()], false)
    }

    /// An agenda that owes nothing, and its clock.
    fn settled() -> (Agenda, Instant) {
        let start = Instant::now();
        let mut agenda = Agenda::new();
        agenda.judge_by(judge(0), start);
        let now = start + ON_THE_WAY;
        assert!(matches!(agenda.next(now), Next::Look(Scope::All, _)));
        agenda.looked(false, now);
        let later = now + LOOK_AGAIN;
        assert!(matches!(agenda.next(later), Next::Look(Scope::All, _)));
        agenda.looked(false, later);
        assert!(agenda.is_settled());
        assert!(matches!(agenda.next(later), Next::Wait(None)));
        (agenda, later)
    }

    fn scope(next: &Next) -> Option<Scope> {
        match next {
            Next::Look(scope, _) => Some(*scope),
            Next::Wait(_) | Next::Stop => None,
        }
    }

    fn waits_until(next: &Next) -> Option<Instant> {
        match next {
            Next::Wait(until) => *until,
            Next::Look(..) | Next::Stop => None,
        }
    }

    #[test]
    fn an_earlier_run_may_have_been_stopped_before_it_had_revoked_all() {
        let start = Instant::now();
        let mut agenda = Agenda::new();
        assert!(
            matches!(agenda.next(start), Next::Wait(None)),
            "nobody knows the policies"
        );
        assert!(agenda.rules_changed(false), "even where the rules stand already");
        agenda.judge_by(judge(0), start);
        assert!(!agenda.is_settled());
        assert_eq!(scope(&agenda.next(start + ON_THE_WAY)), Some(Scope::All));
    }

    #[test]
    fn what_tightens_is_looked_at_when_packets_under_way_have_arrived_and_once_more_later() {
        let (mut agenda, now) = settled();
        assert!(agenda.rules_changed(true));
        agenda.judge_by(judge(1), now);
        assert_eq!(waits_until(&agenda.next(now)), Some(now + ON_THE_WAY));
        assert_eq!(scope(&agenda.next(now + ON_THE_WAY)), Some(Scope::All));
        assert!(!agenda.is_settled(), "the look goes on");
        agenda.looked(false, now + ON_THE_WAY);
        assert!(agenda.is_settled());
        let later = waits_until(&agenda.next(now + ON_THE_WAY));
        assert_eq!(later, Some(now + ON_THE_WAY + LOOK_AGAIN));
    }

    #[test]
    fn what_tightens_is_not_looked_at_with_the_policies_before_it() {
        let (mut agenda, now) = settled();
        assert!(agenda.rules_changed(true));
        assert!(!agenda.is_settled());
        assert!(
            matches!(agenda.next(now + LOOK_AGAIN), Next::Wait(None)),
            "the new ones are not told"
        );
        assert!(agenda.rules_changed(false), "nor forgotten by then");
        agenda.judge_by(judge(1), now);
        assert_eq!(scope(&agenda.next(now + ON_THE_WAY)), Some(Scope::All));
    }

    #[test]
    fn a_change_that_tightens_nothing_is_none_where_nothing_is_revoked() {
        let (mut agenda, now) = settled();
        assert!(!agenda.rules_changed(false));
        assert!(matches!(agenda.next(now + LOOK_AGAIN), Next::Wait(None)));
    }

    #[test]
    fn what_is_allowed_again_while_a_look_goes_on_is_not_left_revoked() {
        let (mut agenda, now) = settled();
        agenda.rules_changed(true);
        agenda.judge_by(judge(1), now);
        let began = now + ON_THE_WAY;
        assert_eq!(scope(&agenda.next(began)), Some(Scope::All));
        assert!(agenda.rules_changed(false), "the look has older policies in hand");
        agenda.judge_by(judge(2), began);
        agenda.looked(true, began + MS);
        let after = waits_until(&agenda.next(began + MS)).unwrap();
        assert_eq!(after, began + MS + MS * REST);
        let Next::Look(Scope::Revoked, by) = agenda.next(after) else {
            panic!("the revoked ones are looked at again")
        };
        assert_eq!(format!("{by:?}"), format!("{:?}", judge(2)));
        agenda.looked(false, after);
        assert_eq!(waits_until(&agenda.next(after + MS)), Some(began + LOOK_AGAIN));
    }

    #[test]
    fn the_last_look_judges_by_the_newest_policies() {
        let (mut agenda, now) = settled();
        agenda.rules_changed(true);
        agenda.judge_by(judge(1), now);
        let began = now + ON_THE_WAY;
        agenda.next(began);
        agenda.looked(false, began);
        assert!(agenda.rules_changed(false), "a look with older policies is due");
        agenda.judge_by(judge(2), began);
        assert_eq!(
            waits_until(&agenda.next(began)),
            Some(began + LOOK_AGAIN),
            "nothing is revoked"
        );
        let Next::Look(Scope::All, by) = agenda.next(began + LOOK_AGAIN) else {
            panic!("the last look")
        };
        assert_eq!(format!("{by:?}"), format!("{:?}", judge(2)));
    }

    #[test]
    fn a_storm_neither_puts_a_look_off_nor_lets_the_last_change_go_without() {
        let (mut agenda, start) = settled();
        let (mut looks, mut now) = (0, start);
        for _ in 0..1000 {
            agenda.rules_changed(true);
            agenda.judge_by(judge(1), now);
            if scope(&agenda.next(now)).is_some() {
                looks += 1;
                now += MS;
                agenda.looked(true, now);
            }
            now += MS;
        }
        // A look of 1 ms, a rest of 3.
        assert!((100..=340).contains(&looks), "{looks}");
        assert!(!agenda.is_settled());
        let due = waits_until(&agenda.next(now)).unwrap();
        assert_eq!(scope(&agenda.next(due)), Some(Scope::All));
        agenda.looked(true, due);
        // The change just before that look began was too fresh for it, at most once.
        if let Some(Scope::All) = scope(&agenda.next(due + ON_THE_WAY)) {
            agenda.looked(true, due + ON_THE_WAY);
        }
        assert!(agenda.is_settled());
    }

    #[test]
    fn a_look_that_fails_is_repeated_ever_more_slowly_until_it_succeeds() {
        let (mut agenda, now) = settled();
        agenda.rules_changed(true);
        agenda.judge_by(judge(1), now);
        let mut now = now + ON_THE_WAY;
        let mut pauses = Vec::new();
        for _ in 0..9 {
            assert_eq!(scope(&agenda.next(now)), Some(Scope::All));
            pauses.push(agenda.failed(now));
            assert!(!agenda.is_settled());
            now = waits_until(&agenda.next(now)).unwrap();
        }
        assert_eq!(
            (pauses[0], pauses[1], pauses[8]),
            (FIRST_RETRY, FIRST_RETRY * 2, LONGEST_RETRY)
        );
        assert_eq!(scope(&agenda.next(now)), Some(Scope::All));
        agenda.looked(false, now);
        assert!(agenda.is_settled());
    }

    #[test]
    fn a_failed_look_at_the_revoked_ones_is_repeated() {
        let (mut agenda, now) = settled();
        agenda.revoked = true;
        agenda.rules_changed(false);
        agenda.judge_by(judge(1), now);
        assert_eq!(scope(&agenda.next(now)), Some(Scope::Revoked));
        let again = now + agenda.failed(now);
        assert_eq!(scope(&agenda.next(again)), Some(Scope::Revoked));
    }

    #[test]
    fn nothing_is_looked_at_after_the_end() {
        let (mut agenda, now) = settled();
        agenda.rules_changed(true);
        agenda.judge_by(judge(1), now);
        agenda.stop();
        assert!(matches!(agenda.next(now + LOOK_AGAIN), Next::Stop));
    }
}
