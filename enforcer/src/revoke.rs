//! Ends the connections that policies no longer allow, and lets them go on when they are allowed again.

use crate::conntrack::Judge;
use crate::conntrack::socket::Conntrack;
use crate::error::Result;
use crate::metrics::Counters;
use crate::ruleset::Family;

/// Keeps the marks of connections at what the policies say.
#[derive(Debug)]
pub struct Revoker {
    conntrack: Conntrack,
    /// The bit of the connection mark that says "revoked".
    bit: u32,
    /// Connections carried the mark when last looked at.
    marked: bool,
    /// Policies have tightened since the connections were last looked at, or nobody has looked yet.
    due: bool,
    /// They were looked at right after policies tightened: one that was just being opened may have been missed.
    again: bool,
}

impl Revoker {
    /// A revoker that has not looked yet.
    pub fn new(conntrack: Conntrack, bit: u32) -> Self {
        Self {
            conntrack,
            bit,
            marked: false,
            due: true,
            again: false,
        }
    }

    /// Policies have tightened: connections that were allowed may no longer be.
    pub fn tightened(&mut self) {
        self.due = true;
    }

    /// Whether another look is due, for connections that were just being opened at the last.
    pub fn wants_another_look(&self) -> bool {
        self.again
    }

    /// Whether anything can have changed for a connection.
    pub fn is_due(&self) -> bool {
        self.due || self.again || self.marked
    }

    /// Looks at all connections, and sets and takes away marks.
    ///
    /// # Errors
    /// The kernel does not answer, or refuses. The next call tries again.
    pub fn review(&mut self, judge: &Judge<'_>, families: &[Family], counters: &Counters) -> Result<()> {
        let was_due = std::mem::replace(&mut self.due, true);
        let mut marked = false;
        for family in families {
            let connections = self.conntrack.list(*family)?;
            for remark in judge.remarks(&connections, self.bit) {
                self.conntrack.remark(&remark, self.bit)?;
                counters.remarked(remark.revoke);
            }
            marked |= connections.iter().any(|connection| !judge.allows(connection));
        }
        (self.marked, self.again, self.due) = (marked, was_due, false);
        Ok(())
    }
}
