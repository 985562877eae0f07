//! What was dropped most of late.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::time::{Duration, Instant};

use ringfence_crd::{MOST_DROPS, TopDrop};

use crate::droplog::{Party, Story, Verdict};

/// What has not been seen for so long is not of late.
const OF_LATE: Duration = Duration::from_secs(300);
/// The most kinds of packets that are counted. When there are more, those of which fewest were seen go.
const MOST: usize = 1000;

/// Packets that are alike: a `TopDrop` without its count.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct Alike {
    verdict: Verdict,
    direction: String,
    source: String,
    destination: String,
    protocol: String,
    port: Option<u16>,
}

/// Counts dropped packets of the last minutes.
#[derive(Debug, Default)]
pub struct Drops(HashMap<Alike, (u64, Instant)>);

impl Drops {
    /// Packets were dropped, or connections would be.
    pub fn note(&mut self, story: &Story, now: Instant) {
        let alike = Alike {
            verdict: story.verdict,
            direction: story.direction.clone(),
            source: party(&story.source),
            destination: party(&story.destination),
            protocol: story.protocol.clone(),
            port: story.port,
        };
        if self.0.len() >= MOST && !self.0.contains_key(&alike) {
            self.make_room(now);
        }
        let (packets, seen) = self.0.entry(alike).or_insert((0, now));
        *packets = packets.saturating_add(story.packets + story.connections);
        *seen = now;
    }

    /// What was `really` dropped most, or what would be; most first.
    pub fn top(&mut self, really: bool, now: Instant) -> Vec<TopDrop> {
        self.forget(now);
        let mut all: Vec<_> = self
            .0
            .iter()
            .filter(|(alike, _)| really != alike.verdict.is_on_trial())
            .map(|(alike, (packets, _))| (Reverse(*packets), alike))
            .collect();
        all.sort_unstable();
        let top = all.into_iter().take(MOST_DROPS);
        top.map(|(Reverse(packets), alike)| TopDrop {
            verdict: alike.verdict.as_str().to_owned(),
            direction: alike.direction.clone(),
            source: alike.source.clone(),
            destination: alike.destination.clone(),
            protocol: alike.protocol.clone(),
            port: alike.port.map(i32::from),
            packets: i64::try_from(packets).unwrap_or(i64::MAX),
        })
        .collect()
    }

    fn forget(&mut self, now: Instant) {
        self.0
            .retain(|_, (_, seen)| now.saturating_duration_since(*seen) < OF_LATE);
    }

    /// Leaves half of the room free, so that this is not done for every packet.
    fn make_room(&mut self, now: Instant) {
        self.forget(now);
        let mut counts: Vec<u64> = self.0.values().map(|(packets, _)| *packets).collect();
        if counts.len() > MOST / 2 {
            counts.sort_unstable_by_key(|packets| Reverse(*packets));
            let enough = counts[MOST / 2];
            self.0.retain(|_, (packets, _)| *packets > enough);
        }
    }
}

fn party(party: &Party) -> String {
    match &party.pod {
        Some(pod) => format!("{}/{}", pod.namespace, pod.pod),
        None => party.address.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;

    fn story(last: u32, packets: u64) -> Story {
        let party = |address: u32| Party {
            address: IpAddr::from(address.to_be_bytes()),
            pod: None,
        };
        Story {
            time: String::new(),
            verdict: Verdict::Dropped,
            direction: "ingress".to_owned(),
            source: party(0x0a00_0000 + last),
            destination: party(0x0a00_ffff),
            protocol: "TCP".to_owned(),
            port: Some(80),
            policies: Vec::new(),
            packets,
            connections: 0,
        }
    }

    #[test]
    fn most_comes_first_and_what_is_old_is_forgotten() {
        let (mut drops, start) = (Drops::default(), Instant::now());
        drops.note(&story(1, 5), start);
        drops.note(&story(2, 3), start + OF_LATE / 2);
        drops.note(&story(2, 4), start + OF_LATE / 2);
        let counts = |drops: &mut Drops, now| -> Vec<i64> {
            drops.top(true, now).iter().map(|drop| drop.packets).collect()
        };
        assert_eq!(counts(&mut drops, start + OF_LATE / 2), [7, 5]);
        assert_eq!(counts(&mut drops, start + OF_LATE), [7]);
    }

    #[test]
    fn a_flood_of_kinds_does_not_push_out_what_is_dropped_most() {
        let (mut drops, now) = (Drops::default(), Instant::now());
        drops.note(&story(0, 100), now);
        for number in 1..10_000 {
            drops.note(&story(number, 1), now);
            assert!(drops.0.len() <= MOST);
        }
        let top = drops.top(true, now);
        assert_eq!(top.len(), MOST_DROPS);
        assert_eq!(top[0].packets, 100);
    }
}
