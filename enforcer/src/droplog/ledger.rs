//! Counts what was refused together: told of at first sight, then in sums.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use super::packet::Refused;
use super::waiting::Waiting;

/// How often packets that are alike are told of.
const EVERY: Duration = Duration::from_secs(60);
/// When those that have not been seen any more are forgotten: seen again, they are new.
const FORGOTTEN: Duration = Duration::from_secs(300);
/// The most kinds of packets that are remembered.
const MOST: usize = 20_000;
/// The most that is told of in a second: more would be read by nobody. What is left waits.
const A_SECOND: usize = 100;
const SECOND: Duration = Duration::from_secs(1);

/// Packets that are alike, as they are told of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sighting {
    /// What they are.
    pub packet: Refused,
    /// How many were logged since they were last told of.
    pub packets: u64,
    /// Whether they were never told of before, or not for long.
    pub first: bool,
}

/// What was seen.
#[derive(Debug, Default)]
pub struct Ledger {
    entries: HashMap<Refused, Entry>,
    /// Those that were never told of.
    new: Waiting,
    /// When the second began that is counted, and how many were told of in it.
    second: Option<(Instant, usize)>,
}

#[derive(Debug)]
struct Entry {
    untold: u64,
    seen: Instant,
    told: Option<Instant>,
}

impl Ledger {
    /// A packet was seen.
    pub fn note(&mut self, packet: Refused, now: Instant) {
        if let Some(entry) = self.entries.get_mut(&packet) {
            entry.untold += 1;
            entry.seen = now;
            return;
        }
        if self.entries.len() >= MOST {
            self.make_room();
        }
        self.new.push(packet);
        let entry = Entry {
            untold: 1,
            seen: now,
            told: None,
        };
        self.entries.insert(packet, entry);
    }

    /// Forgets all that were told of: seen again, they are new. Those that nobody was told of stay, so that a flood of
    /// others does not hide them; where there is nothing else, one of a flood goes.
    fn make_room(&mut self) {
        if self.new.len() < self.entries.len() {
            self.entries.retain(|_, entry| entry.told.is_none());
        }
        if self.entries.len() >= MOST
            && let Some(packet) = self.new.give_up()
        {
            self.entries.remove(&packet);
        }
    }

    /// What is to be told of now.
    pub fn due(&mut self, now: Instant) -> Vec<Sighting> {
        let begins = self
            .second
            .is_none_or(|(began, _)| now.duration_since(began) >= SECOND);
        let (began, told) = self.second.filter(|_| !begins).unwrap_or((now, 0));
        let count = self.new.len().min(A_SECOND - told);
        let mut due: Vec<Sighting> = Vec::new();
        for packet in std::iter::from_fn(|| self.new.next()).take(count) {
            if let Some(entry) = self.entries.get_mut(&packet) {
                due.push(entry.tell(packet, now));
            }
        }
        // Sums can wait a second; looking for them at every packet would cost more than the packets.
        if begins {
            self.entries
                .retain(|_, entry| entry.untold > 0 || now.duration_since(entry.seen) < FORGOTTEN);
            let waits = |entry: &Entry| entry.told.is_some_and(|told| now.duration_since(told) >= EVERY);
            let waiting = self
                .entries
                .iter_mut()
                .filter(|(_, entry)| entry.untold > 0 && waits(entry));
            let room = A_SECOND - due.len();
            due.extend(waiting.take(room).map(|(packet, entry)| entry.tell(*packet, now)));
        }
        self.second = Some((began, told + due.len()));
        due
    }
}

impl Entry {
    fn tell(&mut self, packet: Refused, now: Instant) -> Sighting {
        let first = self.told.replace(now).is_none();
        Sighting {
            packet,
            packets: std::mem::take(&mut self.untold),
            first,
        }
    }
}

#[cfg(test)]
mod tests {
    use ringfence_policy::Direction;

    use super::super::packet::{Transport, Verdict};
    use super::*;

    fn packet(number: u32) -> Refused {
        Refused {
            verdict: Verdict::Dropped,
            direction: Direction::Ingress,
            source: std::net::Ipv4Addr::from(0x0a00_0000 + number).into(),
            destination: std::net::Ipv4Addr::new(10, 244, 0, 1).into(),
            transport: Transport::Tcp(80),
        }
    }

    #[test]
    fn packets_that_are_alike_are_told_of_at_first_sight_and_then_in_sums() {
        let (mut ledger, start) = (Ledger::default(), Instant::now());
        ledger.note(packet(1), start);
        let first = ledger.due(start);
        assert_eq!(
            first.iter().map(|it| (it.packets, it.first)).collect::<Vec<_>>(),
            [(1, true)]
        );
        for second in 1..70 {
            ledger.note(packet(1), start + Duration::from_secs(second));
        }
        assert_eq!(ledger.due(start + EVERY / 2), []);
        let sum = ledger.due(start + EVERY + Duration::from_secs(10));
        assert_eq!(
            sum.iter().map(|it| (it.packets, it.first)).collect::<Vec<_>>(),
            [(69, false)]
        );
        assert_eq!(ledger.due(start + EVERY * 3), [], "nothing new");
    }

    #[test]
    fn a_flood_of_others_does_not_hide_a_rare_one() {
        let (mut ledger, start) = (Ledger::default(), Instant::now());
        let mut told = Vec::new();
        for number in 0..100_000_u32 {
            let now = start + Duration::from_micros(100) * number;
            ledger.note(packet(1 + number % 50), now);
            if number == 50_000 {
                ledger.note(packet(1_000_000), now);
            }
            told.extend(ledger.due(now));
        }
        assert!(told.iter().any(|sighting| sighting.packet == packet(1_000_000)));
        assert!(told.len() < 300, "{} lines for a flood", told.len());
    }

    #[test]
    fn neither_a_scan_nor_forged_sources_hide_a_rare_one() {
        let (mut ledger, start) = (Ledger::default(), Instant::now());
        let mut told = Vec::new();
        let rare = Refused {
            transport: Transport::Tcp(443),
            ..packet(1_000_000)
        };
        for number in 0..100_000_u32 {
            let now = start + Duration::from_micros(200) * number;
            ledger.note(packet(number), now);
            let port = Transport::Udp((number % 60_000) as u16);
            ledger.note(
                Refused {
                    transport: port,
                    ..packet(7)
                },
                now,
            );
            if number == 30_000 {
                ledger.note(rare, now);
            }
            told.extend(ledger.due(now));
        }
        assert!(told.iter().any(|sighting| sighting.packet == rare));
    }

    #[test]
    fn ever_new_ones_take_bounded_room_and_are_told_of_at_a_bounded_rate() {
        let (mut ledger, start) = (Ledger::default(), Instant::now());
        (0..50_000).for_each(|number| ledger.note(packet(number), start));
        assert_eq!(ledger.due(start).len(), A_SECOND);
        assert_eq!(ledger.due(start + SECOND / 2).len(), 0);
        assert_eq!(ledger.due(start + SECOND).len(), A_SECOND);
        assert!(ledger.entries.len() <= MOST && ledger.new.len() <= MOST);
    }
}
