//! What a round showed.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ringfence_crd::{ProbeFailure, ProbeFailureKind};

use super::answer::{Heard, Met};
use super::plan::{Direction, Round};

/// The longest detail of a failure.
const DETAIL: usize = 256;

/// What became of a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Server {
    /// It runs, at these addresses.
    Runs(Vec<IpAddr>),
    /// It does not, and why.
    NotStarted(String),
}

/// What became of a caller.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Caller {
    /// It told what it met at each server that it was told of, in their order.
    Answered(Vec<Heard>),
    /// It ran and told nothing that could be read.
    Silent(String),
    /// It did not run, and why.
    NotStarted(String),
}

/// What was seen in a round.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// The servers, by node.
    pub servers: BTreeMap<usize, Server>,
    /// The callers, by node.
    pub callers: BTreeMap<(usize, Direction), Caller>,
}

impl Seen {
    /// The addresses of the running servers that a node's callers try, each with its node.
    #[must_use]
    pub fn targets(&self, round: &Round, node: usize) -> Vec<(usize, &[IpAddr])> {
        let peers = round.peers.get(node).into_iter().flatten();
        peers
            .filter_map(|peer| match self.servers.get(peer)? {
                Server::Runs(addresses) => Some((*peer, addresses.as_slice())),
                Server::NotStarted(_) => None,
            })
            .collect()
    }
}

/// What a round showed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verdict {
    /// The nodes that it is about.
    pub nodes: Vec<String>,
    /// Pairs of nodes.
    pub pairs: usize,
    /// Of these, how many were not right, by the worst that was found.
    pub wrong: BTreeMap<ProbeFailureKind, usize>,
    /// Right pairs that were open at first.
    pub open_at_start: usize,
    /// Everything that was not right, the worst first.
    pub failures: Vec<ProbeFailure>,
}

impl Verdict {
    /// Pairs between which everything was right.
    #[must_use]
    pub fn right(&self) -> usize {
        self.pairs - self.wrong.values().sum::<usize>()
    }
}

/// Judges a round.
#[must_use]
pub fn judge(round: &Round, seen: &Seen) -> Verdict {
    let mut verdict = Verdict {
        nodes: round.node_names(),
        ..Verdict::default()
    };
    for (source, peers) in round.peers.iter().enumerate() {
        for destination in peers {
            let pair = Pair {
                round,
                seen,
                source,
                destination: *destination,
            };
            verdict.pairs += 1;
            let failures = pair.failures();
            match failures.iter().map(|failure| failure.what).min() {
                Some(worst) => *verdict.wrong.entry(worst).or_default() += 1,
                None if pair.was_open() => verdict.open_at_start += 1,
                None => {}
            }
            verdict.failures.extend(failures);
        }
    }
    verdict.failures.sort();
    verdict
}

struct Pair<'a> {
    round: &'a Round,
    seen: &'a Seen,
    source: usize,
    destination: usize,
}

impl Pair<'_> {
    fn failures(&self) -> Vec<ProbeFailure> {
        match self.seen.servers.get(&self.destination) {
            Some(Server::Runs(_)) => {}
            Some(Server::NotStarted(why)) => {
                return vec![self.failure(ProbeFailureKind::PodNotStarted, self.destination, why)];
            }
            None => {
                return vec![self.failure(ProbeFailureKind::PodNotStarted, self.destination, "not tried")];
            }
        }
        let each = Direction::BOTH.map(|direction| self.failure_of(direction));
        each.into_iter().flatten().collect()
    }

    fn failure_of(&self, direction: Direction) -> Option<ProbeFailure> {
        let word = direction.as_str();
        let (what, node, detail) = match self.seen.callers.get(&(self.source, direction)) {
            None => (
                ProbeFailureKind::PodNotStarted,
                self.source,
                "not tried".to_owned(),
            ),
            Some(Caller::NotStarted(why)) => (ProbeFailureKind::PodNotStarted, self.source, why.clone()),
            Some(Caller::Silent(why)) => (ProbeFailureKind::NoAnswer, self.source, why.clone()),
            Some(Caller::Answered(_)) => match self.heard(direction) {
                None => (
                    ProbeFailureKind::NoAnswer,
                    self.source,
                    format!("{word}: no word of this server"),
                ),
                Some(heard) => match heard.met {
                    Met::Right | Met::OpenAtStart => return None,
                    Met::Lost => (
                        ProbeFailureKind::AllowedLost,
                        self.destination,
                        format!("{word}: {} is allowed and does not answer", heard.way),
                    ),
                    Met::Leak => (
                        ProbeFailureKind::DeniedArrived,
                        self.enforcing(direction),
                        format!("{word}: {} is denied and answers", heard.way),
                    ),
                },
            },
        };
        Some(self.failure(what, node, &detail))
    }

    /// The node of the pod whose policy denies.
    fn enforcing(&self, direction: Direction) -> usize {
        match direction {
            Direction::Ingress => self.destination,
            Direction::Egress => self.source,
        }
    }

    fn heard(&self, direction: Direction) -> Option<&Heard> {
        let Caller::Answered(heard) = self.seen.callers.get(&(self.source, direction))? else {
            return None;
        };
        let targets = self.seen.targets(self.round, self.source);
        let position = targets.iter().position(|(node, _)| *node == self.destination)?;
        heard.get(position)
    }

    fn was_open(&self) -> bool {
        let mut heard = Direction::BOTH
            .into_iter()
            .filter_map(|direction| self.heard(direction));
        heard.any(|heard| heard.met == Met::OpenAtStart)
    }

    fn failure(&self, what: ProbeFailureKind, node: usize, detail: &str) -> ProbeFailure {
        let name = |node: usize| {
            let node = self.round.nodes.get(node);
            node.map(|node| node.name.clone()).unwrap_or_default()
        };
        ProbeFailure {
            what,
            node: name(node),
            source: name(self.source),
            destination: name(self.destination),
            detail: detail.chars().take(DETAIL).collect(),
        }
    }
}
