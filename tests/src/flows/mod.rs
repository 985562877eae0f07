//! Long conversations between pods, watched at both ends: which go on, which lose something, which are over.
//!
//! Every message is a flow's number and a count, so that a missing one is noticed. A client talks first and is answered,
//! or the server talks without being asked; the one that is over must be silent at both ends.

mod client;
mod server;

use std::fmt;

pub use client::Flow;
pub use server::Server;

/// How a conversation goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// TCP: the client says something again and again and is answered.
    ClientTalks,
    /// TCP: the server says something again and again.
    ServerTalks,
    /// UDP: the client says something again and again and is answered.
    Datagrams,
}

impl Kind {
    /// Every kind.
    pub const ALL: [Self; 3] = [Self::ClientTalks, Self::ServerTalks, Self::Datagrams];

    /// The port of a [`Server`] for it.
    pub fn port(self) -> u16 {
        match self {
            Self::ClientTalks => 7000,
            Self::ServerTalks => 7001,
            Self::Datagrams => 7002,
        }
    }

    /// The protocol, as Kubernetes calls it.
    pub fn protocol(self) -> &'static str {
        match self {
            Self::ClientTalks | Self::ServerTalks => "TCP",
            Self::Datagrams => "UDP",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::ClientTalks => "TCP, client talks",
            Self::ServerTalks => "TCP, server talks",
            Self::Datagrams => "UDP",
        })
    }
}

/// The length of a message: a flow's number and a count.
const MESSAGE: usize = 16;

fn message(flow: u64, count: u64) -> [u8; MESSAGE] {
    let mut bytes = [0; MESSAGE];
    bytes[..8].copy_from_slice(&flow.to_le_bytes());
    bytes[8..].copy_from_slice(&count.to_le_bytes());
    bytes
}

/// The flow's number and the count in a message.
fn read(bytes: &[u8; MESSAGE]) -> (u64, u64) {
    let number = |bytes: &[u8]| bytes.first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes));
    (number(&bytes[..8]), number(&bytes[8..]))
}
