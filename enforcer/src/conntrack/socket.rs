//! Asks the kernel for its connections, and marks them.

use std::io;
use std::net::IpAddr;

use nix::errno::Errno;
use nix::ifaddrs::getifaddrs;

use super::wire;
use super::{Connection, Remark};
use crate::error::{Error, Result};
use crate::netlink::Incoming;
use crate::netlink::socket::Socket;
use crate::ruleset::Family;

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

    /// All connections of a family.
    ///
    /// # Errors
    /// The kernel does not answer, or refuses.
    pub fn list(&mut self, family: Family) -> Result<Vec<Connection>> {
        let request = wire::list(family, self.socket.next_sequence());
        self.send(&request)?;
        let mut connections = Vec::new();
        loop {
            for message in self.receive()? {
                match message {
                    Incoming::Data { .. } => connections.extend(wire::connection(&message)),
                    Incoming::Done { .. } => return Ok(connections),
                    Incoming::Result { error: 0, .. } => {}
                    Incoming::Result { error, .. } => {
                        return Err(failed("list connections", Errno::from_raw(error)));
                    }
                }
            }
        }
    }

    /// Sets or takes away the mark's bit on a connection. One that has ended meanwhile is no error.
    ///
    /// # Errors
    /// The kernel does not answer, or refuses.
    pub fn remark(&mut self, remark: &Remark<'_>, bit: u32) -> Result<()> {
        let mark = if remark.revoke { bit } else { 0 };
        let request = wire::set_mark(&remark.connection.name, mark, bit, self.socket.next_sequence());
        self.send(&request)?;
        loop {
            for message in self.receive()? {
                match message {
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
