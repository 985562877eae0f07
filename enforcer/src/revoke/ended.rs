//! The connections that one look ends, to be told of.

use std::collections::HashMap;

use tokio::sync::mpsc::Sender;

use crate::conntrack::{Connection, Judge};
use crate::droplog::{Refused, Sighting, Verdict};

/// The most kinds of connections that are told of after one look: more would be read by nobody.
const MOST: usize = 100;

/// How many connections of each kind were ended.
#[derive(Debug, Default)]
pub(super) struct Ended {
    kinds: HashMap<Refused, u64>,
    lost: u64,
}

impl Ended {
    /// A connection is ended, by what each of these directions says.
    pub(super) fn note(&mut self, connection: &Connection, judge: &Judge) {
        for direction in judge.objections(connection) {
            let kind = Refused::of(connection, direction, Verdict::Ended);
            if self.kinds.len() < MOST || self.kinds.contains_key(&kind) {
                *self.kinds.entry(kind).or_default() += 1;
            } else {
                self.lost += 1;
            }
        }
    }

    /// Tells of them. Returns how many nobody will hear of.
    pub(super) fn tell(self, tell: &Sender<Sighting>) -> u64 {
        let mut lost = self.lost;
        for (packet, packets) in self.kinds {
            let sighting = Sighting {
                packet,
                packets,
                first: true,
            };
            lost += u64::from(tell.try_send(sighting).is_err());
        }
        lost
    }
}
