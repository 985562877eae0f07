//! The address book: which addresses each name stands for. Pure: the time is an argument.
//!
//! An address is open while it is in the last answer, and for a grace period from the first answer without it, so that a
//! connection to it may end in peace. An answer that says that there is no address is an answer. While nobody answers at all,
//! the last good answer counts.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use tokio::time::Instant;

/// What bounds the book.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// A name is not asked for more often than this, however short its time to live.
    pub floor: Duration,
    /// And no less often than this.
    pub ceiling: Duration,
    /// How long an address stays after it left the answers.
    pub grace: Duration,
    /// How many addresses of one answer count.
    pub answer: usize,
    /// How many addresses a name may have in all.
    pub kept: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            floor: Duration::from_secs(5),
            ceiling: Duration::from_secs(300),
            grace: Duration::from_secs(600),
            answer: 64,
            kept: 256,
        }
    }
}

/// What a name server said.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Answer {
    /// The addresses, of both families; none if the name has none or does not exist.
    pub addresses: BTreeSet<IpAddr>,
    /// For how long this may be taken for true.
    pub time_to_live: Duration,
}

/// How much is known of a name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum State {
    /// It was not asked for yet.
    #[default]
    Pending,
    /// The last question was answered.
    Answered,
    /// The last question was not answered.
    Failing,
}

/// What a name stands for now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Resolution {
    /// Its addresses.
    pub addresses: BTreeSet<IpAddr>,
    /// How much is known of it.
    pub state: State,
    /// How many addresses of the last answer do not count, because there were too many.
    pub left_out: usize,
}

#[derive(Debug)]
struct Entry {
    /// The addresses, each with the moment at which it goes; None for one of the last answer.
    addresses: BTreeMap<IpAddr, Option<Instant>>,
    state: State,
    left_out: usize,
    failures: u32,
    /// When to ask next.
    due: Instant,
}

/// How many questions may be asked. Names that were answered for have room of their own, so that any number of others, which
/// may keep a question waiting for long, hold up none of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Room {
    /// For names whose last question was answered.
    pub reliable: usize,
    /// For all others.
    pub others: usize,
}

impl Room {
    fn take(&mut self, reliable: bool) -> bool {
        let left = if reliable {
            &mut self.reliable
        } else {
            &mut self.others
        };
        let is_any = *left > 0;
        *left = left.saturating_sub(1);
        is_any
    }
}

/// The addresses of every name that anybody wants.
#[derive(Debug, Default)]
pub struct Book {
    limits: Limits,
    entries: BTreeMap<String, Entry>,
}

impl Book {
    /// An empty book.
    #[must_use]
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            entries: BTreeMap::new(),
        }
    }

    /// Follows exactly these names from now on. One that is new begins with the addresses remembered of it, as if they were
    /// its last answer.
    pub fn want(&mut self, names: &BTreeMap<String, BTreeSet<IpAddr>>, now: Instant) {
        self.entries.retain(|name, _| names.contains_key(name));
        for (name, remembered) in names {
            let kept = self.limits.kept;
            self.entries.entry(name.clone()).or_insert_with(|| Entry {
                addresses: remembered
                    .iter()
                    .take(kept)
                    .map(|address| (*address, None))
                    .collect(),
                state: State::Pending,
                left_out: 0,
                failures: 0,
                due: now,
            });
        }
    }

    /// The names to ask for now, the longest overdue first, and no more than there is room for. Each is due again later,
    /// should its answer never come. With each, whether it took room of the reliable.
    pub fn due(&mut self, now: Instant, room: Room) -> Vec<(String, bool)> {
        let again = now + self.limits.ceiling;
        let mut due: Vec<_> = self
            .entries
            .iter_mut()
            .filter(|(_, entry)| entry.due <= now)
            .collect();
        due.sort_by_key(|(_, entry)| entry.due);
        let mut left = room;
        let mut asked = Vec::new();
        for (name, entry) in due {
            let reliable = entry.is_reliable();
            if left.take(reliable) {
                entry.due = again;
                asked.push((name.clone(), reliable));
            }
        }
        asked
    }

    /// When there is next something to ask for, of those that there is room for, or to strike out.
    #[must_use]
    pub fn next(&self, room: Room) -> Option<Instant> {
        let ends = self
            .entries
            .values()
            .flat_map(|entry| entry.addresses.values().flatten());
        let dues = self.entries.values().filter_map(|entry| {
            let mut room = room;
            room.take(entry.is_reliable()).then_some(&entry.due)
        });
        ends.chain(dues).min().copied()
    }

    /// Enters an answer. Whether anything is different now.
    pub fn answered(&mut self, name: &str, answer: &Answer, now: Instant) -> bool {
        let limits = self.limits;
        let Some(entry) = self.entries.get_mut(name) else {
            return false;
        };
        let before = entry.resolution();
        let (current, left_out) = counted(entry, answer, limits.answer);
        let ends = now + limits.grace;
        for (address, end) in &mut entry.addresses {
            if !current.contains(address) {
                end.get_or_insert(ends);
            }
        }
        entry
            .addresses
            .extend(current.into_iter().map(|address| (address, None)));
        entry.addresses.retain(|_, end| end.is_none_or(|end| end > now));
        entry.bound(limits.kept);
        entry.state = State::Answered;
        entry.left_out = left_out;
        entry.failures = 0;
        entry.due = now + answer.time_to_live.clamp(limits.floor, limits.ceiling);
        entry.resolution() != before
    }

    /// Notes that nobody answered. Whether anything is different now.
    pub fn failed(&mut self, name: &str, now: Instant) -> bool {
        let limits = self.limits;
        let Some(entry) = self.entries.get_mut(name) else {
            return false;
        };
        let before = entry.state;
        entry.state = State::Failing;
        entry.failures = entry.failures.saturating_add(1);
        let patience = limits.floor.saturating_mul(1 << entry.failures.min(6) >> 1);
        entry.due = now + patience.clamp(limits.floor, limits.ceiling);
        before != State::Failing
    }

    /// Strikes out what had its time. The names that have fewer addresses now.
    pub fn expire(&mut self, now: Instant) -> BTreeSet<String> {
        let mut changed = BTreeSet::new();
        for (name, entry) in &mut self.entries {
            let before = entry.addresses.len();
            entry.addresses.retain(|_, end| end.is_none_or(|end| end > now));
            if entry.addresses.len() != before {
                changed.insert(name.clone());
            }
        }
        changed
    }

    /// What a name stands for; None for one that nobody wants.
    #[must_use]
    pub fn resolution(&self, name: &str) -> Option<Resolution> {
        self.entries.get(name).map(Entry::resolution)
    }

    /// The names that stand for an address.
    pub fn names_of(&self, address: IpAddr) -> impl Iterator<Item = &str> {
        self.entries
            .iter()
            .filter(move |(_, entry)| entry.addresses.contains_key(&address))
            .map(|(name, _)| name.as_str())
    }
}

/// The addresses of an answer that count, and how many do not. Those that are known already go first, so that one answer
/// after another does not choose others.
fn counted(entry: &Entry, answer: &Answer, limit: usize) -> (BTreeSet<IpAddr>, usize) {
    let mut all: Vec<IpAddr> = answer.addresses.iter().map(IpAddr::to_canonical).collect();
    all.sort();
    all.dedup();
    all.sort_by_key(|address| !entry.addresses.contains_key(address));
    let left_out = all.len().saturating_sub(limit);
    (all.into_iter().take(limit).collect(), left_out)
}

impl Entry {
    fn is_reliable(&self) -> bool {
        self.state == State::Answered
    }

    fn resolution(&self) -> Resolution {
        Resolution {
            addresses: self.addresses.keys().copied().collect(),
            state: self.state,
            left_out: self.left_out,
        }
    }

    /// Strikes out what is too much: first what would go soonest, never what is in the last answer before that.
    fn bound(&mut self, kept: usize) {
        let excess = self.addresses.len().saturating_sub(kept);
        let mut order: Vec<(Reverse<bool>, Option<Instant>, IpAddr)> = self
            .addresses
            .iter()
            .map(|(address, end)| (Reverse(end.is_some()), *end, *address))
            .collect();
        order.sort();
        for (_, _, address) in order.into_iter().take(excess) {
            self.addresses.remove(&address);
        }
    }
}
