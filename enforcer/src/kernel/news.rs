//! Hears at once when somebody changes rules of the filter table that matter to us. Only nftables tells; whoever uses
//! iptables-legacy is found out by the next audit.

use std::os::fd::{AsRawFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, socket,
};
use tokio::io::unix::AsyncFd;

use crate::error::{Error, Result};
use crate::names;
use crate::netlink::{Incoming, incoming, string};
use crate::ruleset::Hook;

/// The multicast group of nftables, as a bit.
const GROUP: u32 = 1 << 6;
/// The subsystem of nftables, and its messages about what came or went.
const SUBSYSTEM: u16 = 10 << 8;
const DELETED_TABLE: u16 = SUBSYSTEM | 2;
const CHAINS: [u16; 2] = [SUBSYSTEM | 3, SUBSYSTEM | 5];
const RULES: [u16; 2] = [SUBSYSTEM | 6, SUBSYSTEM | 8];
/// The attributes that name a table and a chain.
const TABLE: u16 = 1;
const RULE_CHAIN: u16 = 2;
const CHAIN_NAME: u16 = 3;

/// More than the kernel puts into one message.
const LARGEST: usize = 64 * 1024;

/// What nftables tells about changes in the network namespace of the thread that opened it.
#[derive(Debug)]
pub struct News {
    socket: OwnedFd,
}

impl News {
    /// Begins to listen.
    ///
    /// # Errors
    /// The kernel does not let this program listen.
    pub fn open() -> Result<Self> {
        let open = || {
            let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
            let protocol = SockProtocol::NetlinkNetFilter;
            let socket = socket(AddressFamily::Netlink, SockType::Raw, flags, protocol)?;
            bind(socket.as_raw_fd(), &NetlinkAddr::new(0, GROUP))?;
            Ok::<_, Errno>(Self { socket })
        };
        open().map_err(|error| Error::News(error.into()))
    }

    /// Listens on the runtime of this task.
    ///
    /// # Errors
    /// The runtime does not take the socket.
    pub fn listen(self) -> Result<Listening> {
        // Deprecated for types that may lend what is not theirs. An `OwnedFd` does not, and the way without this is unsafe.
        #[allow(deprecated)]
        let socket = AsyncFd::new(self.socket).map_err(Error::News)?;
        let buffer = vec![0; LARGEST];
        Ok(Listening { socket, buffer })
    }
}

/// News that are being listened to.
#[derive(Debug)]
pub struct Listening {
    socket: AsyncFd<OwnedFd>,
    buffer: Vec<u8>,
}

impl Listening {
    /// Waits until somebody has changed something that matters. What was told and not waited for counts.
    pub async fn changed(&mut self) {
        loop {
            // A runtime that ends is the one way to fail; nobody waits any more then.
            let Ok(mut ready) = self.socket.readable().await else {
                return std::future::pending().await;
            };
            ready.clear_ready();
            if self.take() {
                return;
            }
        }
    }

    /// Takes all that was told until now. Returns whether any of it matters.
    pub fn take(&mut self) -> bool {
        let mut matters = false;
        loop {
            match recv(self.socket.as_raw_fd(), &mut self.buffer, MsgFlags::empty()) {
                Ok(length) => matters |= incoming(&self.buffer[..length]).iter().any(concerns_us),
                Err(Errno::EAGAIN) => return matters,
                // More was told than the socket could hold: it may have mattered.
                Err(Errno::ENOBUFS) => matters = true,
                Err(error) => {
                    tracing::warn!(%error, "the kernel does not tell of changed rules; the next audit looks");
                    return matters;
                }
            }
        }
    }
}

/// Whether it is about one of our chains, or one that leads to ours.
fn concerns_us(message: &Incoming<'_>) -> bool {
    let Incoming::Data { kind, attributes, .. } = message else {
        return false;
    };
    if string(attributes, TABLE) != Some("filter") {
        return false;
    }
    let chain = match *kind {
        DELETED_TABLE => return true,
        kind if CHAINS.contains(&kind) => string(attributes, CHAIN_NAME),
        kind if RULES.contains(&kind) => string(attributes, RULE_CHAIN),
        _ => return false,
    };
    chain.is_some_and(|chain| {
        chain.starts_with(names::PREFIX) || Hook::ALL.iter().any(|hook| hook.chain() == chain)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::netlink::{message, text};

    fn concerns(kind: u16, attributes: &[Vec<u8>]) -> bool {
        let bytes = message(kind, 0, 0, 2, &attributes.concat());
        incoming(&bytes).iter().any(concerns_us)
    }

    #[test]
    fn only_our_chains_and_those_that_lead_to_them_matter() {
        let rule = |table: &str, chain: &str| {
            let attributes = [text(TABLE, table), text(RULE_CHAIN, chain)];
            RULES.map(|kind| concerns(kind, &attributes))
        };
        assert_eq!(rule("filter", "FORWARD"), [true, true]);
        assert_eq!(rule("filter", names::FORWARD), [true, true]);
        assert_eq!(rule("filter", "KUBE-FORWARD"), [false, false]);
        assert_eq!(rule("nat", "FORWARD"), [false, false]);
        let chain = [text(TABLE, "filter"), text(CHAIN_NAME, names::REVOKED)];
        assert!(concerns(SUBSYSTEM | 5, &chain));
        assert!(concerns(DELETED_TABLE, &[text(TABLE, "filter")]));
        assert!(!concerns(SUBSYSTEM | 9, &[text(TABLE, "filter")]));
    }
}
