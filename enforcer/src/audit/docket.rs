//! Which connections policies on trial would refuse: as they begin, and among those that are there. Time comes from
//! outside.

use std::collections::{HashSet, VecDeque};
use std::time::{Duration, Instant};

use crate::conntrack::{Connection, Judge};
use crate::droplog::{Refused, Verdict};

/// How long a connection waits for its judgement. A pod's addresses and labels, and what policies say of them, come here on
/// other ways than its packets, and may come a little later.
pub(super) const CONSIDER: Duration = Duration::from_secs(1);
/// The most that wait. What is one too many is judged earlier.
const MOST_WAITING: usize = 100_000;
/// The most connections that are remembered as told of. More may be told of more than once.
const MOST_TOLD: usize = 500_000;
/// The pause between two looks at all connections, where what the policies say changes all the time.
const PAUSE: Duration = Duration::from_secs(5);
/// A look at all connections is due that long after the last, even if nothing has changed: the kernel may not have told of
/// all that began.
pub(super) const EVERY: Duration = Duration::from_secs(30);

/// A connection that waits.
#[derive(Debug, Clone, Copy)]
struct Waiting {
    since: Instant,
    connection: Connection,
    print: u64,
}

/// What the policies say with those on trial.
#[derive(Debug, Clone)]
pub struct Trial {
    /// What they say of connections.
    pub judge: Judge,
    /// Another number where the policies on trial themselves are others, and not only pods or the real policies.
    pub edition: u64,
}

/// The connections that wait, and those that were told of.
#[derive(Debug)]
pub(super) struct Docket {
    trial: Trial,
    /// The bit of a connection's mark that says that the real policies have ended it.
    revoked: u32,
    waiting: VecDeque<Waiting>,
    /// The prints of those that wait.
    expected: HashSet<u64>,
    /// The prints of refused connections that were told of.
    told: HashSet<u64>,
    /// What is to be told from the look that is going on, or was the last.
    standing: HashSet<u64>,
    look_due: Instant,
    looked: Option<Instant>,
}

impl Docket {
    /// An empty one. All connections are to be looked at soon.
    pub(super) fn new(trial: Trial, revoked: u32, now: Instant) -> Self {
        Self {
            trial,
            revoked,
            waiting: VecDeque::new(),
            expected: HashSet::new(),
            told: HashSet::new(),
            standing: HashSet::new(),
            look_due: now + CONSIDER,
            looked: None,
        }
    }

    /// From now on this is what the policies say. Returns whether those on trial are others: what they would end is told of
    /// again then, for nobody knows yet what would become of it by these.
    pub(super) fn judge_by(&mut self, trial: Trial, now: Instant) -> bool {
        let others = trial.edition != self.trial.edition;
        self.trial = trial;
        if others {
            self.told.clear();
        }
        self.look_soon(now);
        others
    }

    /// All connections are to be looked at soon.
    pub(super) fn look_soon(&mut self, now: Instant) {
        let earliest = self.looked.map_or(now, |looked| looked + PAUSE);
        self.look_due = self.look_due.min(earliest.max(now + CONSIDER));
    }

    /// A connection begins.
    pub(super) fn begins(&mut self, connection: Connection, print: u64, now: Instant) {
        self.waiting.push_back(Waiting {
            since: now,
            connection,
            print,
        });
        self.expected.insert(print);
    }

    /// The connections that would have been dropped, of those that have waited.
    pub(super) fn due(&mut self, now: Instant) -> Vec<Refused> {
        let mut refused = Vec::new();
        while let Some(first) = self.waiting.front().copied() {
            if self.waiting.len() <= MOST_WAITING && now.saturating_duration_since(first.since) < CONSIDER {
                break;
            }
            self.waiting.pop_front();
            self.expected.remove(&first.print);
            let found = self.refused(&first.connection, Verdict::WouldDrop);
            if !found.is_empty() {
                remember(&mut self.told, first.print);
                refused.extend(found);
            }
        }
        refused
    }

    /// When all connections are to be looked at.
    pub(super) fn look_due(&self) -> Instant {
        self.look_due
    }

    /// A look begins.
    pub(super) fn look_begins(&mut self, now: Instant) {
        self.look_due = now + EVERY;
        self.standing.clear();
    }

    /// A connection is there. Returns what is to be told of it; nothing, where it is allowed or was told of.
    pub(super) fn stands(&mut self, connection: &Connection, print: u64) -> Vec<Refused> {
        // Those that wait are judged when it is their turn.
        if self.expected.contains(&print) {
            return Vec::new();
        }
        let found = self.refused(connection, Verdict::WouldEnd);
        if found.is_empty() {
            return found;
        }
        remember(&mut self.standing, print);
        if remember(&mut self.told, print) {
            found
        } else {
            Vec::new()
        }
    }

    /// The look has shown everything: whoever was not seen is gone, and told of again when it comes back.
    pub(super) fn look_ends(&mut self, now: Instant) {
        self.told = std::mem::take(&mut self.standing);
        self.looked = Some(now);
    }

    /// The look has not shown everything.
    pub(super) fn look_failed(&mut self, now: Instant) {
        self.looked = Some(now);
        self.look_soon(now);
    }

    /// Each direction whose policies refuse it, for they may be those of two namespaces: what one of them would do by itself
    /// must not be hidden by the other.
    fn refused(&self, connection: &Connection, verdict: Verdict) -> Vec<Refused> {
        if connection.mark & self.revoked != 0 {
            return Vec::new();
        }
        let objections = self.trial.judge.objections(connection);
        objections
            .map(|direction| Refused::of(connection, direction, verdict))
            .collect()
    }
}

/// Returns whether it is new.
fn remember(prints: &mut HashSet<u64>, print: u64) -> bool {
    if prints.len() >= MOST_TOLD {
        return !prints.contains(&print);
    }
    prints.insert(print)
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr};
    use std::sync::Arc;

    use ringfence_policy::{Direction, Isolation, LocalPod, NodePolicies, ObjectKey, Protocol};

    use super::*;
    use crate::droplog::Transport;

    const POD: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 244, 0, 2));
    const REVOKED: u32 = 0x20;

    /// A trial by which nobody may reach the pod; or anybody, where it is open.
    fn trial(open: bool) -> Trial {
        let isolation = Isolation {
            id: "nothing".to_owned(),
            policies: Vec::new(),
            grants: Vec::new(),
        };
        let pod = LocalPod {
            addresses: vec![POD],
            ingress: (!open).then(|| Arc::new(isolation)),
            egress: None,
        };
        let policies = NodePolicies {
            pods: [(ObjectKey::new("shop", "pod"), pod)].into(),
        };
        let judge = Judge::new(policies, Vec::new(), false);
        Trial { judge, edition: 0 }
    }

    fn to_pod(mark: u32) -> Connection {
        Connection {
            source: [10, 244, 0, 9].into(),
            destination: POD,
            service: Some((Protocol::Tcp, 80)),
            protocol: 6,
            mark,
        }
    }

    fn verdicts(found: &[Refused]) -> Vec<Verdict> {
        found.iter().map(|refused| refused.verdict).collect()
    }

    #[test]
    fn a_connection_is_judged_by_what_the_policies_say_a_moment_later() {
        let start = Instant::now();
        let mut docket = Docket::new(trial(true), REVOKED, start);
        docket.begins(to_pod(0), 1, start);
        docket.judge_by(trial(false), start + CONSIDER / 2);
        assert_eq!(docket.due(start + CONSIDER / 2), []);
        let found = docket.due(start + CONSIDER);
        assert_eq!(verdicts(&found), [Verdict::WouldDrop]);
        assert_eq!(found[0].direction, Direction::Ingress);
        assert_eq!(found[0].transport, Transport::Tcp(80));
    }

    #[test]
    fn a_connection_is_told_of_once_whoever_sees_it_and_again_when_it_comes_back() {
        let start = Instant::now();
        let mut docket = Docket::new(trial(false), REVOKED, start);
        docket.begins(to_pod(0), 1, start);
        docket.look_begins(start);
        assert_eq!(docket.stands(&to_pod(0), 1), [], "it waits");
        assert_eq!(verdicts(&docket.stands(&to_pod(0), 2)), [Verdict::WouldEnd]);
        assert_eq!(docket.stands(&to_pod(0), 2), [], "seen twice in one look");
        docket.look_ends(start);
        assert_eq!(verdicts(&docket.due(start + CONSIDER)), [Verdict::WouldDrop]);

        docket.look_begins(start + EVERY);
        assert_eq!(docket.stands(&to_pod(0), 1), []);
        docket.look_ends(start + EVERY);
        docket.look_begins(start + EVERY * 2);
        assert_eq!(docket.stands(&to_pod(0), 1), []);
        assert!(!docket.stands(&to_pod(0), 2).is_empty(), "it was gone");
    }

    /// Findings are counted from the moment that the policies on trial are what they are.
    #[test]
    fn a_connection_is_told_of_again_when_other_policies_are_on_trial() {
        let start = Instant::now();
        let mut docket = Docket::new(trial(false), REVOKED, start);
        docket.look_begins(start);
        assert_eq!(docket.stands(&to_pod(0), 1).len(), 1);
        docket.look_ends(start);
        assert!(!docket.judge_by(trial(false), start), "a pod came, or went");
        docket.look_begins(start);
        assert_eq!(docket.stands(&to_pod(0), 1), []);
        docket.look_ends(start);
        let others = Trial {
            edition: 1,
            ..trial(false)
        };
        assert!(docket.judge_by(others, start));
        docket.look_begins(start);
        assert_eq!(docket.stands(&to_pod(0), 1).len(), 1);
    }

    #[test]
    fn what_the_real_policies_have_ended_is_none_of_the_trials() {
        let start = Instant::now();
        let mut docket = Docket::new(trial(false), REVOKED, start);
        docket.begins(to_pod(REVOKED), 1, start);
        assert_eq!(docket.due(start + CONSIDER), []);
        docket.look_begins(start + CONSIDER);
        assert_eq!(docket.stands(&to_pod(REVOKED), 1), []);
    }

    #[test]
    fn looks_come_soon_after_a_change_and_not_all_the_time() {
        let start = Instant::now();
        let mut docket = Docket::new(trial(true), REVOKED, start);
        assert_eq!(docket.look_due(), start + CONSIDER);
        docket.look_begins(start + CONSIDER);
        docket.look_ends(start + CONSIDER);
        assert_eq!(docket.look_due(), start + CONSIDER + EVERY);
        docket.judge_by(trial(false), start + CONSIDER * 2);
        assert_eq!(docket.look_due(), start + CONSIDER + PAUSE);
    }

    #[test]
    fn a_flood_is_judged_early_and_takes_bounded_room() {
        let start = Instant::now();
        let mut docket = Docket::new(trial(false), REVOKED, start);
        let mut found = 0;
        for print in 0..1_000_000 {
            docket.begins(to_pod(0), print, start);
            found += docket.due(start).len();
        }
        assert!(docket.waiting.len() <= MOST_WAITING && docket.expected.len() <= MOST_WAITING);
        assert!(docket.told.len() <= MOST_TOLD);
        assert_eq!(found, 1_000_000 - MOST_WAITING);
    }
}
