//! Packets that wait to be told of, fairly: a crowd waits behind everybody else.

use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;

use super::packet::{Refused, Transport};

/// How many of one source, or to one port of one destination, wait with all others. A scan has many of the one, a flood with
/// forged sources many of the other.
const SHARE: usize = 300;

/// Packets that were never told of.
#[derive(Debug, Default)]
pub(super) struct Waiting {
    /// In the order they were seen.
    first: VecDeque<Refused>,
    /// What exceeds its share, in the order it was seen.
    behind: VecDeque<Refused>,
    sources: HashMap<IpAddr, usize>,
    targets: HashMap<(IpAddr, Transport), usize>,
}

impl Waiting {
    /// How many wait.
    pub(super) fn len(&self) -> usize {
        self.first.len() + self.behind.len()
    }

    /// One more waits.
    pub(super) fn push(&mut self, packet: Refused) {
        let source = self.sources.get(&packet.source).copied().unwrap_or(0);
        let same = self.targets.get(&target(&packet)).copied().unwrap_or(0);
        if source.max(same) >= SHARE {
            self.behind.push_back(packet);
            return;
        }
        self.sources.insert(packet.source, source + 1);
        self.targets.insert(target(&packet), same + 1);
        self.first.push_back(packet);
    }

    /// The next to be told of.
    pub(super) fn next(&mut self) -> Option<Refused> {
        self.leave().or_else(|| self.behind.pop_front())
    }

    /// The one to be forgotten where there are too many: of a crowd, the one that has waited longest.
    pub(super) fn give_up(&mut self) -> Option<Refused> {
        self.behind.pop_front().or_else(|| self.leave())
    }

    fn leave(&mut self) -> Option<Refused> {
        let packet = self.first.pop_front()?;
        less(&mut self.sources, &packet.source);
        less(&mut self.targets, &target(&packet));
        Some(packet)
    }
}

fn target(packet: &Refused) -> (IpAddr, Transport) {
    (packet.destination, packet.transport)
}

/// One less; none is forgotten.
fn less<K: std::hash::Hash + Eq>(counts: &mut HashMap<K, usize>, key: &K) {
    if let Some(count) = counts.get_mut(key) {
        *count -= 1;
        if *count == 0 {
            counts.remove(key);
        }
    }
}

#[cfg(test)]
mod tests {
    use ringfence_policy::Direction;

    use super::super::packet::Verdict;
    use super::*;

    fn packet(source: u32, port: u16) -> Refused {
        Refused {
            verdict: Verdict::Dropped,
            direction: Direction::Ingress,
            source: IpAddr::from(source.to_be_bytes()),
            destination: IpAddr::from([10, 244, 0, 1]),
            transport: Transport::Tcp(port),
        }
    }

    #[test]
    fn a_crowd_waits_behind_others_and_is_given_up_first() {
        let mut waiting = Waiting::default();
        let share = u32::try_from(SHARE).unwrap_or_default();
        (0..2 * share).for_each(|source| waiting.push(packet(source, 80)));
        let rare = packet(share * 3, 443);
        waiting.push(rare);
        assert_eq!(
            waiting.give_up(),
            Some(packet(share, 80)),
            "the first that exceeded"
        );
        for source in 0..share {
            assert_eq!(waiting.next(), Some(packet(source, 80)));
        }
        assert_eq!(waiting.next(), Some(rare));
        assert_eq!(waiting.next(), Some(packet(share + 1, 80)));
        while waiting.next().is_some() {}
        assert!(waiting.sources.is_empty() && waiting.targets.is_empty());
    }
}
