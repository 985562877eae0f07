//! What may pass when, and what did.

use std::collections::BTreeMap;
use std::fmt;
use std::time::{Duration, Instant};

use ringfence_policy::{Direction, Flow, Protocol, World, evaluate};
use ringfence_tests::net_lab::NetLab;

use crate::lab::NODE;
use crate::random::{LOCAL, PODS, PORTS};

/// A packet's way: from which place to which, in which family, to which port. All by number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Way {
    pub(crate) from: u8,
    pub(crate) to: u8,
    pub(crate) family: usize,
    pub(crate) port: usize,
}

impl Way {
    /// All ways that cross the router and its rules.
    pub(crate) fn all() -> impl Iterator<Item = Self> {
        let pairs = (0..PODS).flat_map(|from| (0..PODS).map(move |to| (from, to)));
        let checked = pairs.filter(|(from, to)| from != to && (*from < LOCAL || *to < LOCAL));
        checked.flat_map(|(from, to)| {
            (0..2).flat_map(move |family| {
                (0..PORTS.len()).map(move |port| Self {
                    from,
                    to,
                    family,
                    port,
                })
            })
        })
    }

    fn flow(self) -> Flow {
        Flow {
            source: NetLab::addresses(self.from)[self.family],
            destination: NetLab::addresses(self.to)[self.family],
            protocol: Protocol::Udp,
            port: PORTS[self.port],
        }
    }

    fn index(self) -> usize {
        let pair = usize::from(self.from) * usize::from(PODS) + usize::from(self.to);
        (pair * 2 + self.family) * PORTS.len() + self.port
    }
}

/// What each direction's policies say of every way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Allowed(Vec<(bool, bool)>);

impl Allowed {
    /// What the policies that this node enforces allow in a world.
    pub(crate) fn of(world: &World) -> Self {
        let mut allowed = vec![(true, true); usize::from(PODS) * usize::from(PODS) * 2 * PORTS.len()];
        for way in Way::all() {
            let flow = way.flow();
            let verdict = evaluate(world, &flow);
            let here = |address, direction: Direction| {
                let pod = world.pod_at(address);
                let local = pod.is_some_and(|pod| pod.node.as_deref() == Some(NODE));
                !local
                    || match direction {
                        Direction::Egress => verdict.egress.allowed(),
                        Direction::Ingress => verdict.ingress.allowed(),
                    }
            };
            allowed[way.index()] = (
                here(flow.source, Direction::Egress),
                here(flow.destination, Direction::Ingress),
            );
        }
        Self(allowed)
    }

    /// Whether something passes and something does not: a world in which everything does would show nothing.
    pub(crate) fn tells(&self) -> bool {
        let passes = |way: &Way| {
            let (egress, ingress) = self.0[way.index()];
            egress && ingress
        };
        Way::all().any(|way| passes(&way)) && !Way::all().all(|way| passes(&way))
    }
}

/// From a moment on, any of these states may be the kernel's.
#[derive(Debug)]
struct Epoch {
    from: Instant,
    states: Vec<Allowed>,
    /// Why, for whoever looks into a failure.
    note: String,
}

/// What may have been in force when.
///
/// The API server tells of each kind of object in order, but of one kind before the other as it happens: an enforcer may
/// know of a pod's new label and not yet of the policy that was written before. So while changes are on their way, every
/// combination of a state of the pods, one of the namespaces and one of the policies is possible.
#[derive(Debug)]
pub(crate) struct History {
    epochs: Vec<Epoch>,
    worlds: Vec<World>,
}

impl History {
    /// Only this from now on.
    pub(crate) fn new(world: &World) -> Self {
        let mut history = Self {
            epochs: Vec::new(),
            worlds: vec![world.clone()],
        };
        history.begin(String::new());
        history
    }

    /// From now on this may be in force as well, as far as the enforcer has heard of it.
    pub(crate) fn may_become(&mut self, world: &World, note: String) {
        self.worlds.push(world.clone());
        self.begin(note);
    }

    /// Whether the last that may be in force is this.
    pub(crate) fn expects(&self, world: &World) -> bool {
        let last = self.worlds.last().map(Allowed::of);
        last == Some(Allowed::of(world))
    }

    /// From now on only the last of these is in force.
    pub(crate) fn has_settled(&mut self) {
        let last = self.worlds.len().saturating_sub(1);
        self.worlds.drain(..last);
        self.begin("settled".to_owned());
    }

    fn begin(&mut self, note: String) {
        let states = self.states();
        self.epochs.push(Epoch {
            from: Instant::now(),
            states,
            note,
        });
    }

    fn states(&self) -> Vec<Allowed> {
        let pods = distinct(self.worlds.iter().map(|world| &world.pods));
        let namespaces = distinct(self.worlds.iter().map(|world| &world.namespaces));
        let policies = distinct(self.worlds.iter().map(|world| &world.policies));
        let mut states: Vec<Allowed> = Vec::new();
        for pods in &pods {
            for namespaces in &namespaces {
                for policies in &policies {
                    let mut world = World::default();
                    world.pods.clone_from(pods);
                    world.namespaces.clone_from(namespaces);
                    world.policies.clone_from(policies);
                    let state = Allowed::of(&world);
                    if !states.contains(&state) {
                        states.push(state);
                    }
                }
            }
        }
        states
    }

    /// What was possible for a way between two moments: whether it may have passed, and whether it must have.
    fn verdict(&self, way: Way, from: Instant, to: Instant) -> (bool, bool) {
        let first = self
            .epochs
            .partition_point(|epoch| epoch.from <= from)
            .saturating_sub(1);
        let possible = self.epochs[first..].iter().take_while(|epoch| epoch.from <= to);
        let sides: Vec<(bool, bool)> = possible
            .flat_map(|epoch| &epoch.states)
            .map(|state| state.0[way.index()])
            .collect();
        let may = sides.iter().any(|side| side.0) && sides.iter().any(|side| side.1);
        (may, sides.iter().all(|side| side.0 && side.1))
    }
}

/// Each of these that is not like the one before it.
fn distinct<'a, T: PartialEq>(all: impl Iterator<Item = &'a T>) -> Vec<&'a T> {
    let mut distinct: Vec<&T> = Vec::new();
    for one in all {
        if distinct.last() != Some(&one) {
            distinct.push(one);
        }
    }
    distinct
}

/// A packet that was sent, and whether it arrived.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sent {
    pub(crate) way: Way,
    pub(crate) before: Instant,
    pub(crate) after: Instant,
    pub(crate) arrived: bool,
}

/// How long a packet may be on its way. It is worked off by the thread that sends it, unless the kernel is so busy that it
/// leaves that to a thread of its own, which waits for a processor as others do.
const ON_THE_WAY: Duration = Duration::from_millis(200);

/// Wrong packets of one way that are closer together than this are told as one.
const SPAN: Duration = Duration::from_millis(100);

/// Wrong packets of one way: when the first and the last were sent, and how many there are.
type Span = (Duration, Duration, usize);

/// What a storm did.
#[derive(Debug, Default)]
pub(crate) struct Report {
    pub(crate) changes: usize,
    pub(crate) kills: usize,
    pub(crate) probes: usize,
    pub(crate) passed: usize,
    pub(crate) settled: usize,
    pub(crate) leaks: usize,
    pub(crate) false_drops: usize,
    pub(crate) examples: Vec<String>,
}

impl Report {
    /// Judges what was sent.
    pub(crate) fn of(history: &History, sent: &[Sent], kills: &[Instant]) -> Self {
        let mut report = Self {
            kills: kills.len(),
            ..Self::default()
        };
        report.judge(history, sent, kills);
        report
    }

    fn judge(&mut self, history: &History, sent: &[Sent], kills: &[Instant]) {
        let Some(began) = sent.iter().map(|packet| packet.before).min() else {
            return;
        };
        let mut wrongs: BTreeMap<(bool, Way), Vec<Span>> = BTreeMap::new();
        for packet in sent {
            let (may, must) = history.verdict(packet.way, packet.before, packet.after + ON_THE_WAY);
            self.probes += 1;
            self.passed += usize::from(packet.arrived);
            self.settled += usize::from(may == must);
            let wrong = if packet.arrived { !may } else { must };
            if wrong {
                *(if packet.arrived {
                    &mut self.leaks
                } else {
                    &mut self.false_drops
                }) += 1;
                let at = packet.before.saturating_duration_since(began);
                let spans = wrongs.entry((packet.arrived, packet.way)).or_default();
                match spans.last_mut() {
                    Some((_, last, count)) if at.saturating_sub(*last) < SPAN => {
                        (*last, *count) = (at, *count + 1);
                    }
                    _ => spans.push((at, at, 1)),
                }
            }
        }
        for ((arrived, way), spans) in wrongs {
            let what = if arrived { "leak" } else { "false drop" };
            let spans = spans.into_iter();
            let lines = spans
                .map(|(from, to, count)| format!("{from:.3?} to {to:.3?}: {count} times {what}, {way:?}"));
            self.examples.extend(lines);
        }
        self.examples.truncate(30);
        let since = |at: &Instant| at.saturating_duration_since(began);
        let told = history.epochs.iter().filter(|epoch| !epoch.note.is_empty());
        let mut notes: Vec<(Duration, &str)> = told
            .map(|epoch| (since(&epoch.from), epoch.note.as_str()))
            .collect();
        notes.extend(kills.iter().map(|at| (since(at), "killed")));
        notes.sort_unstable();
        self.examples
            .extend(notes.into_iter().map(|(at, note)| format!("{at:.3?} {note}")));
    }

    pub(crate) fn is_clean(&self) -> bool {
        self.leaks == 0 && self.false_drops == 0 && self.passed > 0 && self.passed < self.probes
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} changes, {} kills, {} packets ({} passed, {} with only one right answer): {} leaks, {} false drops",
            self.changes, self.kills, self.probes, self.passed, self.settled, self.leaks, self.false_drops
        )
    }
}
