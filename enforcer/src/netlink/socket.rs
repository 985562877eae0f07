//! A socket to the kernel's netfilter.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, send, setsockopt,
    socket, sockopt,
};
use nix::sys::time::{TimeVal, TimeValLike};

use super::Incoming;

/// How long the kernel may take to answer. It answers at once; one that does not must not hold up enforcement for ever.
const PATIENCE_SECONDS: i64 = 5;
/// More than the kernel puts into one datagram.
const LARGEST: usize = 64 * 1024;

/// A socket to netfilter in the network namespace of the thread that opened it.
#[derive(Debug)]
pub struct Socket {
    socket: OwnedFd,
    sequence: u32,
    buffer: Vec<u8>,
}

impl Socket {
    /// Opens it.
    ///
    /// # Errors
    /// The kernel does not let this program ask.
    pub fn open() -> Result<Self, Errno> {
        let socket = socket(
            AddressFamily::Netlink,
            SockType::Raw,
            SockFlag::SOCK_CLOEXEC,
            SockProtocol::NetlinkNetFilter,
        )?;
        setsockopt(
            &socket,
            sockopt::ReceiveTimeout,
            &TimeVal::seconds(PATIENCE_SECONDS),
        )?;
        Ok(Self {
            socket,
            sequence: 0,
            buffer: vec![0; LARGEST],
        })
    }

    /// Opens one that hears what is told to all who listen to these multicast groups, each a bit.
    ///
    /// # Errors
    /// The kernel does not let this program listen.
    pub fn listening(groups: u32) -> Result<Self, Errno> {
        let socket = Self::open()?;
        bind(socket.socket.as_raw_fd(), &NetlinkAddr::new(0, groups))?;
        Ok(socket)
    }

    /// Has room for so many bytes of what the kernel says while nobody reads; less, where this program may not have so much.
    ///
    /// # Errors
    /// The kernel does not take it.
    pub fn make_room(&self, bytes: usize) -> Result<(), Errno> {
        setsockopt(&self.socket, sockopt::RcvBufForce, &bytes)
            .or_else(|_| setsockopt(&self.socket, sockopt::RcvBuf, &bytes))
    }

    /// The number of the next request.
    pub fn next_sequence(&mut self) -> u32 {
        self.sequence = self.sequence.wrapping_add(1);
        self.sequence
    }

    /// Sends requests.
    ///
    /// # Errors
    /// The kernel does not take them.
    pub fn send(&self, requests: &[u8]) -> Result<(), Errno> {
        send(self.socket.as_raw_fd(), requests, MsgFlags::empty()).map(|_| ())
    }

    /// How long to wait for the kernel to say something.
    ///
    /// # Errors
    /// The kernel does not take it.
    pub fn set_patience(&self, patience: TimeVal) -> Result<(), Errno> {
        setsockopt(&self.socket, sockopt::ReceiveTimeout, &patience)
    }

    /// Waits for what the kernel says.
    ///
    /// # Errors
    /// It says nothing for a long time, or more than the socket could hold.
    pub fn receive(&mut self) -> Result<Vec<Incoming<'_>>, Errno> {
        let length = recv(self.socket.as_raw_fd(), &mut self.buffer, MsgFlags::empty())?;
        Ok(super::incoming(&self.buffer[..length]))
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}
