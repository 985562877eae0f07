//! Asks the kernel for its connections, and marks them.

use std::io;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::ifaddrs::getifaddrs;

use super::wire::{self, Entry, Name};
use crate::error::{Error, Result};
use crate::netlink::Incoming;
use crate::netlink::socket::Socket;
use crate::ruleset::Family;

/// How often a walk is tried while the table becomes another.
const WALKS: usize = 5;
/// A shorter pause costs more than it gives to others.
const WORTH_A_PAUSE: Duration = Duration::from_millis(2);

/// Every address of this network namespace's own interfaces: whoever uses one is the node itself.
///
/// # Errors
/// The kernel does not list them.
pub fn interface_addresses() -> Result<Vec<IpAddr>> {
    let interfaces = getifaddrs().map_err(|errno| failed("list the node's own addresses", errno))?;
    let addresses = interfaces.filter_map(|interface| {
        let address = interface.address?;
        let v4 = address.as_sockaddr_in().map(|v4| IpAddr::V4(v4.ip()));
        v4.or_else(|| address.as_sockaddr_in6().map(|v6| IpAddr::V6(v6.ip())))
    });
    Ok(addresses.collect())
}

/// A connection to the kernel's connection tracking, in the network namespace of the thread that opened it.
#[derive(Debug)]
pub struct Conntrack {
    socket: Socket,
}

impl Conntrack {
    /// Opens it.
    ///
    /// # Errors
    /// The kernel has no connection tracking, or does not let this program ask.
    pub fn open() -> Result<Self> {
        let socket = Socket::open().map_err(|errno| failed("open a netlink socket", errno))?;
        Ok(Self { socket })
    }

    /// Shows every connection of these families, at most so many a second. Returns how many there were.
    ///
    /// # Errors
    /// The kernel does not answer, or refuses; or its table became another so often that no walk was complete.
    pub fn walk(
        &mut self,
        families: &[Family],
        per_second: u32,
        mut show: impl FnMut(&Entry<'_>),
    ) -> Result<u64> {
        for _ in 0..WALKS {
            if let Some(seen) = self.walk_once(families, per_second, &mut show)? {
                return Ok(seen);
            }
        }
        Err(failed(
            "list connections without a change of the table",
            Errno::EAGAIN,
        ))
    }

    /// Shows every connection of these families; `None` where the table became another meanwhile, and some may be missing.
    fn walk_once(
        &mut self,
        families: &[Family],
        per_second: u32,
        show: &mut impl FnMut(&Entry<'_>),
    ) -> Result<Option<u64>> {
        let request = wire::list(families, self.socket.next_sequence());
        self.send(&request)?;
        let (started, mut seen, mut whole) = (Instant::now(), 0_u32, true);
        loop {
            for message in self.receive()? {
                match message {
                    Incoming::Data { interrupted, .. } => {
                        whole &= !interrupted;
                        seen = seen.saturating_add(1);
                        if let Some(entry) = wire::entry(&message) {
                            show(&entry);
                        }
                    }
                    Incoming::Done { interrupted } => {
                        return Ok((whole && !interrupted).then_some(u64::from(seen)));
                    }
                    Incoming::Result { error: 0, .. } => {}
                    Incoming::Result { error, .. } => {
                        return Err(failed("list connections", Errno::from_raw(error)));
                    }
                }
            }
            // The kernel lists on only as far as it is read.
            let due = Duration::from_secs(1) * seen / per_second.max(1);
            let ahead = due.saturating_sub(started.elapsed());
            if ahead > WORTH_A_PAUSE {
                std::thread::sleep(ahead);
            }
        }
    }

    /// Sets or takes away the mark's bit on a connection. One that has ended meanwhile is no error.
    ///
    /// # Errors
    /// The kernel does not answer, or refuses.
    pub fn remark(&mut self, name: &Name, revoke: bool, bit: u32) -> Result<()> {
        let mark = if revoke { bit } else { 0 };
        let sequence = self.socket.next_sequence();
        self.send(&wire::set_mark(name, mark, bit, sequence))?;
        loop {
            for message in self.receive()? {
                match message {
                    Incoming::Result { sequence: other, .. } if other != sequence => {}
                    Incoming::Result { error: 0, .. } => return Ok(()),
                    Incoming::Result { error, .. } if Errno::from_raw(error) == Errno::ENOENT => {
                        return Ok(());
                    }
                    Incoming::Result { error, .. } => {
                        return Err(failed("mark a connection", Errno::from_raw(error)));
                    }
                    Incoming::Data { .. } | Incoming::Done { .. } => {}
                }
            }
        }
    }

    fn send(&self, request: &[u8]) -> Result<()> {
        let sent = self.socket.send(request);
        sent.map_err(|errno| failed("ask for connections", errno))
    }

    fn receive(&mut self) -> Result<Vec<Incoming<'_>>> {
        let received = self.socket.receive();
        received.map_err(|errno| failed("hear about connections", errno))
    }
}

fn failed(what: &'static str, errno: Errno) -> Error {
    Error::Conntrack {
        what,
        source: io::Error::from(errno),
    }
}
