//! Hears of connections as they begin: each is told of once, when its first packet has passed all rules.

use std::time::Duration;

use nix::errno::Errno;
use nix::sys::time::{TimeVal, TimeValLike};

use super::Connection;
use super::socket::failed;
use super::wire;
use crate::error::Result;
use crate::netlink::socket::Socket;

/// The multicast group of new connections, as a bit.
const GROUP: u32 = 1;
/// What the kernel may have ready for a reader that is busy: some ten thousand connections.
const BUFFER: usize = 4 << 20;

/// What the kernel tells of connections that begin in the network namespace of the thread that opened it. While somebody
/// listens, the kernel writes a message for every one.
#[derive(Debug)]
pub struct Begun {
    socket: Socket,
}

/// What was heard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Heard {
    /// All that there was.
    All,
    /// Some, and more than there was room for: some connections were not told of.
    Part,
}

impl Begun {
    /// Begins to listen.
    ///
    /// # Errors
    /// The kernel does not tell.
    pub fn open(patience: Duration) -> Result<Self> {
        let open = || {
            let socket = Socket::listening(GROUP)?;
            socket.make_room(BUFFER)?;
            let milliseconds = i64::try_from(patience.as_millis()).unwrap_or(i64::MAX);
            socket.set_patience(TimeVal::milliseconds(milliseconds))?;
            Ok(Self { socket })
        };
        open().map_err(|errno| failed("hear of new connections", errno))
    }

    /// Takes in what there is, and waits a little where there is nothing. Each connection comes with its print.
    ///
    /// # Errors
    /// The kernel does not tell any more.
    pub fn hear(&mut self, mut each: impl FnMut(Connection, u64)) -> Result<Heard> {
        match self.socket.receive() {
            Ok(messages) => {
                for entry in messages.iter().filter_map(wire::entry) {
                    each(entry.connection, entry.print());
                }
                Ok(Heard::All)
            }
            Err(Errno::EAGAIN | Errno::EINTR) => Ok(Heard::All),
            Err(Errno::ENOBUFS) => Ok(Heard::Part),
            Err(errno) => Err(failed("hear of new connections", errno)),
        }
    }
}
