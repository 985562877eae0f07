//! Asks the kernel for its connections, and marks them.

use std::io;
use std::net::IpAddr;
use std::os::fd::{AsRawFd, OwnedFd};

use nix::errno::Errno;
use nix::ifaddrs::getifaddrs;
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, send, setsockopt, socket, sockopt,
};
use nix::sys::time::{TimeVal, TimeValLike};

use super::wire::{self, Message};
use super::{Connection, Remark};
use crate::error::{Error, Result};
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
    socket: OwnedFd,
    sequence: u32,
}

impl Conntrack {
    /// Opens it.
    ///
    /// # Errors
    /// The kernel has no connection tracking, or does not let this program ask.
    pub fn open() -> Result<Self> {
        let open = || {
            let protocol = SockProtocol::NetlinkNetFilter;
            let socket = socket(
                AddressFamily::Netlink,
                SockType::Raw,
                SockFlag::SOCK_CLOEXEC,
                protocol,
            )?;
            // The kernel answers at once; one that does not must not hold up enforcement for ever.
            setsockopt(&socket, sockopt::ReceiveTimeout, &TimeVal::seconds(5))?;
            Ok(socket)
        };
        let socket = open().map_err(|errno: Errno| failed("open a netlink socket", errno))?;
        Ok(Self { socket, sequence: 0 })
    }

    /// All connections of a family.
    ///
    /// # Errors
    /// The kernel does not answer, or refuses.
    pub fn list(&mut self, family: Family) -> Result<Vec<Connection>> {
        let request = wire::list(family, self.next());
        self.send(&request)?;
        let mut connections = Vec::new();
        loop {
            for message in self.receive()? {
                match message {
                    Message::Connection(connection) => connections.extend(connection),
                    Message::Done => return Ok(connections),
                    Message::Result(0) => {}
                    Message::Result(number) => {
                        return Err(failed("list connections", Errno::from_raw(number)));
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
        let request = wire::set_mark(&remark.connection.name, mark, bit, self.next());
        self.send(&request)?;
        loop {
            for message in self.receive()? {
                match message {
                    Message::Result(0) => return Ok(()),
                    Message::Result(number) if Errno::from_raw(number) == Errno::ENOENT => return Ok(()),
                    Message::Result(number) => {
                        return Err(failed("mark a connection", Errno::from_raw(number)));
                    }
                    Message::Connection(_) | Message::Done => {}
                }
            }
        }
    }

    fn next(&mut self) -> u32 {
        self.sequence = self.sequence.wrapping_add(1);
        self.sequence
    }

    fn send(&self, request: &[u8]) -> Result<()> {
        let sent = send(self.socket.as_raw_fd(), request, MsgFlags::empty());
        sent.map(|_| ())
            .map_err(|errno| failed("ask for connections", errno))
    }

    fn receive(&self) -> Result<Vec<Message>> {
        let mut buffer = vec![0; 64 * 1024];
        let length = recv(self.socket.as_raw_fd(), &mut buffer, MsgFlags::empty())
            .map_err(|errno| failed("hear about connections", errno))?;
        Ok(wire::messages(&buffer[..length]))
    }
}

fn failed(what: &'static str, errno: Errno) -> Error {
    Error::Conntrack {
        what,
        source: io::Error::from(errno),
    }
}
