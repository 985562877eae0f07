//! The connections that carry the mark, as far as they are few enough to be remembered.
//!
//! Taking marks away is urgent, and most often there are few or none; but the kernel finds them only by going through its
//! whole table, which costs 10 ms where that has 262,144 buckets. Only walks set marks, so a complete one knows
//! every connection that has one, until the next.

use super::Connection;
use super::wire::Name;

/// The most that are remembered: some hundred bytes each.
const MOST: usize = 4096;

/// The connections that carry the mark.
#[derive(Debug, Default)]
pub(super) struct Standing {
    known: Vec<(Name, Connection)>,
    /// None is missing.
    complete: bool,
}

impl Standing {
    /// Whether all of them are known.
    pub(super) fn is_complete(&self) -> bool {
        self.complete
    }

    /// Nothing is known, until a walk has ended.
    pub(super) fn begin(&mut self) {
        self.known.clear();
        self.complete = true;
    }

    pub(super) fn note(&mut self, connection: Connection, name: impl FnOnce() -> Name) {
        if self.known.len() >= MOST {
            // What is missing has to be asked for all the same.
            *self = Self::default();
        }
        if self.complete {
            self.known.push((name(), connection));
        }
    }

    /// Takes out those that are allowed now.
    pub(super) fn take_allowed(&mut self, mut allowed: impl FnMut(&Connection) -> bool) -> Vec<Name> {
        let (free, held) = std::mem::take(&mut self.known)
            .into_iter()
            .partition(|(_, connection)| allowed(connection));
        let free: Vec<(Name, Connection)> = free;
        self.known = held;
        free.into_iter().map(|(name, _)| name).collect()
    }

    pub(super) fn len(&self) -> u64 {
        self.known.len().try_into().unwrap_or(u64::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn connection(last: u8) -> Connection {
        Connection {
            source: [10, 0, 0, last].into(),
            destination: [10, 0, 0, 1].into(),
            service: None,
            protocol: 1,
            mark: 0,
        }
    }

    #[test]
    fn what_is_allowed_again_is_taken_out_and_the_rest_stays() {
        let mut standing = Standing::default();
        assert!(!standing.is_complete(), "nobody has looked yet");
        standing.begin();
        for last in 2..5 {
            standing.note(connection(last), Name::default);
        }
        let allowed = standing.take_allowed(|connection| connection.source == connection_source(3));
        assert_eq!((allowed.len(), standing.len()), (1, 2));
        assert!(standing.is_complete());
    }

    fn connection_source(last: u8) -> std::net::IpAddr {
        connection(last).source
    }

    #[test]
    fn too_many_to_remember_are_asked_for() {
        let mut standing = Standing::default();
        standing.begin();
        for _ in 0..=MOST {
            standing.note(connection(2), Name::default);
        }
        assert!(!standing.is_complete());
        assert_eq!(standing.len(), 0, "nor is memory kept");
    }
}
