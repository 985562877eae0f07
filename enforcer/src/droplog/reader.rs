//! Reads what the kernel logs, on a thread of its own.

use std::io;
use std::thread;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::time::{TimeVal, TimeValLike};
use tokio::sync::mpsc::Sender;
use tokio::sync::mpsc::error::TrySendError;

use super::ledger::{Ledger, Sighting};
use super::wire;
use crate::metrics::Counters;
use crate::netlink::Incoming;
use crate::netlink::socket::Socket;

/// What the kernel may have ready for a reader that is busy.
const BUFFER: usize = 4 << 20;
/// The pause before a group that another program holds is tried again, doubled up to the longest.
const FIRST_RETRY: Duration = Duration::from_secs(1);
const LONGEST_RETRY: Duration = Duration::from_secs(60);

/// A reader of one group.
#[derive(Debug)]
pub struct Reader {
    socket: Socket,
    group: u16,
    counters: Counters,
}

impl Reader {
    /// A reader of what is logged to a group in the network namespace of the thread that calls this.
    ///
    /// # Errors
    /// The kernel lets this program have no socket.
    pub fn open(group: u16, counters: Counters) -> io::Result<Self> {
        let socket = Socket::open()?;
        socket.make_room(BUFFER)?;
        Ok(Self {
            socket,
            group,
            counters,
        })
    }

    /// Reads until nobody wants to hear of it any more. Returns at once.
    pub fn start(self, tell: Sender<Sighting>) {
        thread::spawn(move || self.run(&tell));
    }

    fn run(mut self, tell: &Sender<Sighting>) {
        let mut pause = FIRST_RETRY;
        while let Err(errno) = self.bind() {
            self.counters.error("DropLogBusy");
            tracing::warn!(
                group = self.group,
                error = %io::Error::from(errno),
                ?pause,
                "what is dropped cannot be read: another program may hold the group, name another --drop-log-group; enforcement goes on"
            );
            thread::sleep(pause);
            pause = (pause * 2).min(LONGEST_RETRY);
        }
        // Sums are due also when nothing more is logged.
        if let Err(errno) = self.socket.set_patience(TimeVal::milliseconds(500)) {
            tracing::warn!(error = %io::Error::from(errno), "sums of dropped packets may come late");
        }
        let mut ledger = Ledger::default();
        while !tell.is_closed() {
            self.read(&mut ledger);
            for sighting in ledger.due(Instant::now()) {
                if let Err(TrySendError::Full(_)) = tell.try_send(sighting) {
                    self.counters.drop_log_lost();
                }
            }
        }
    }

    fn bind(&mut self) -> Result<(), Errno> {
        let sequence = self.socket.next_sequence();
        self.socket.send(&wire::bind(self.group, sequence))?;
        loop {
            for message in self.socket.receive()? {
                match message {
                    Incoming::Result { error: 0, .. } => return Ok(()),
                    Incoming::Result { error, .. } => return Err(Errno::from_raw(error)),
                    Incoming::Data { .. } | Incoming::Done { .. } => {}
                }
            }
        }
    }

    /// Takes in what there is; waits a moment where there is nothing.
    fn read(&mut self, ledger: &mut Ledger) {
        let counters = &self.counters;
        match self.socket.receive() {
            Ok(messages) => {
                let packets = messages.iter().filter_map(wire::dropped);
                packets.for_each(|packet| ledger.note(packet, Instant::now()));
            }
            Err(Errno::EAGAIN | Errno::EINTR) => {}
            Err(Errno::ENOBUFS) => counters.drop_log_lost(),
            Err(errno) => {
                counters.error("DropLogFailed");
                tracing::warn!(error = %io::Error::from(errno), "what is dropped cannot be read; trying again");
                thread::sleep(FIRST_RETRY);
            }
        }
    }
}
