//! Asks the kernel for its connections, and marks them.

use std::collections::HashMap;
use std::io;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::ifaddrs::getifaddrs;

use super::Connection;
use super::standing::Standing;
use super::wire::{self, Entry, Name};
use crate::error::{Error, Result};
use crate::netlink::Incoming;
use crate::netlink::socket::Socket;
use crate::ruleset::Family;

/// How often a walk is tried while the table becomes another.
const WALKS: usize = 5;
/// A shorter pause costs more than it gives to others.
const WORTH_A_PAUSE: Duration = Duration::from_millis(2);

/// How many marks are asked for at once: as many as the answers have room for in a socket, by far.
const MARKS_AT_ONCE: usize = 64;

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

/// What a walk is to look at.
#[derive(Debug, Clone, Copy)]
pub struct Request<'a> {
    /// The families.
    pub families: &'a [Family],
    /// The bit of the connection mark that says "revoked".
    pub bit: u32,
    /// Only at connections that are revoked.
    pub only_revoked: bool,
    /// At so many connections a second, at most.
    pub per_second: u32,
}

/// What a walk did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Walked {
    /// Connections that were looked at.
    pub seen: u64,
    /// Those that are not allowed: they carry the mark now, if they have not ended meanwhile.
    pub standing: u64,
    /// Those that were given the mark.
    pub revoked: u64,
    /// Those that it was taken away from.
    pub restored: u64,
}

/// A connection to the kernel's connection tracking, in the network namespace of the thread that opened it.
#[derive(Debug)]
pub struct Conntrack {
    /// Lists connections.
    list: Socket,
    /// Sets marks, while a list is read.
    marks: Socket,
    /// What the last walk left marked.
    standing: Standing,
}

impl Conntrack {
    /// Opens it.
    ///
    /// # Errors
    /// The kernel has no connection tracking, or does not let this program ask.
    pub fn open() -> Result<Self> {
        let open = || Socket::open().map_err(|errno| failed("open a netlink socket", errno));
        Ok(Self {
            list: open()?,
            marks: open()?,
            standing: Standing::default(),
        })
    }

    /// Looks at connections, one after the other, and marks those that are not `allowed`; takes the mark from those that
    /// are. What is not to be marked is not kept, so a large table takes no memory. Where only revoked ones are asked for and
    /// the last walk knows them all, the kernel need not look for them.
    ///
    /// # Errors
    /// The kernel does not answer, or refuses; or its table became another so often that no walk was complete. Marks
    /// that were set are right all the same.
    pub fn walk(
        &mut self,
        request: &Request<'_>,
        mut allowed: impl FnMut(&Connection) -> bool,
    ) -> Result<Walked> {
        let mut standing = std::mem::take(&mut self.standing);
        let walked = if request.only_revoked && standing.is_complete() {
            self.restore(&mut standing, request.bit, allowed)?
        } else {
            let judge = |entry: &Entry<'_>| Some(allowed(&entry.connection));
            self.walk_entries(request, &mut standing, judge)?
        };
        // After an error nobody knows what is marked.
        self.standing = standing;
        Ok(walked)
    }

    /// Takes the mark from those of the known ones that are allowed.
    fn restore(
        &mut self,
        standing: &mut Standing,
        bit: u32,
        allowed: impl FnMut(&Connection) -> bool,
    ) -> Result<Walked> {
        let mut walked = Walked {
            seen: standing.len(),
            ..Walked::default()
        };
        let names = standing.take_allowed(allowed).into_iter();
        let remarks: Vec<(Name, bool)> = names.map(|name| (name, false)).collect();
        for some in remarks.chunks(MARKS_AT_ONCE) {
            self.remark(some, bit, &mut walked)?;
        }
        walked.standing = standing.len();
        Ok(walked)
    }

    /// Looks at connections, one after the other, and changes nothing. One may be shown more than once.
    ///
    /// # Errors
    /// As [`Conntrack::walk`].
    pub fn look(&mut self, request: &Request<'_>, mut show: impl FnMut(&Entry<'_>)) -> Result<Walked> {
        self.walk_entries(request, &mut Standing::default(), |entry| {
            show(entry);
            None
        })
    }

    /// `allowed` says of a connection whether it is to be without the mark; nothing, where its mark is to stay.
    fn walk_entries(
        &mut self,
        request: &Request<'_>,
        standing: &mut Standing,
        mut allowed: impl FnMut(&Entry<'_>) -> Option<bool>,
    ) -> Result<Walked> {
        let mut walked = Walked::default();
        for _ in 0..WALKS {
            // Whoever was seen twice stands once.
            walked.standing = 0;
            standing.begin();
            if self.walk_once(request, &mut allowed, standing, &mut walked)? {
                return Ok(walked);
            }
        }
        Err(failed(
            "list connections without a change of the table",
            Errno::EAGAIN,
        ))
    }

    /// Returns whether it was complete: not where the table became another meanwhile, and some may be missing.
    fn walk_once(
        &mut self,
        request: &Request<'_>,
        allowed: &mut impl FnMut(&Entry<'_>) -> Option<bool>,
        standing: &mut Standing,
        walked: &mut Walked,
    ) -> Result<bool> {
        let marked = request.only_revoked.then_some(request.bit);
        let sequence = self.list.next_sequence();
        let list = wire::list(request.families, marked, sequence);
        let sent = self.list.send(&list);
        sent.map_err(|errno| failed("ask for connections", errno))?;
        let (started, mut seen, mut whole) = (Instant::now(), 0, true);
        // The kernel has not ended an earlier list, which nobody reads any more.
        let mut busy = false;
        let mut remarks = Vec::new();
        loop {
            let mut over = false;
            for message in receive(&mut self.list)? {
                match message {
                    Incoming::Done { sequence: other, .. } if other != sequence && busy => return Ok(false),
                    // The rest of a list that an error had ended.
                    Incoming::Data { sequence: other, .. }
                    | Incoming::Done { sequence: other, .. }
                    | Incoming::Result { sequence: other, .. }
                        if other != sequence => {}
                    Incoming::Data { interrupted, .. } => {
                        whole &= !interrupted;
                        seen += 1;
                        if let Some(entry) = wire::entry(&message)
                            && let Some(allowed) = allowed(&entry)
                        {
                            let revoke = !allowed;
                            walked.standing += u64::from(revoke);
                            if revoke {
                                standing.note(entry.connection, || entry.name());
                            }
                            if revoke != (entry.connection.mark & request.bit != 0) {
                                remarks.push((entry.name(), revoke));
                            }
                        }
                    }
                    Incoming::Done { interrupted, .. } => {
                        whole &= !interrupted;
                        over = true;
                    }
                    Incoming::Result { error: 0, .. } => {}
                    Incoming::Result { error, .. } if Errno::from_raw(error) == Errno::EBUSY => busy = true,
                    Incoming::Result { error, .. } => {
                        return Err(failed("list connections", Errno::from_raw(error)));
                    }
                }
            }
            for some in remarks.chunks(MARKS_AT_ONCE) {
                self.remark(some, request.bit, walked)?;
            }
            remarks.clear();
            if over {
                walked.seen += u64::from(seen);
                return Ok(whole);
            }
            pause(started, seen, request.per_second);
        }
    }

    /// Sets or takes away the mark's bit. A connection that has ended meanwhile is no error.
    fn remark(&mut self, remarks: &[(Name, bool)], bit: u32, walked: &mut Walked) -> Result<()> {
        let mut waiting = HashMap::new();
        let mut requests = Vec::new();
        for (name, revoke) in remarks {
            let sequence = self.marks.next_sequence();
            let mark = if *revoke { bit } else { 0 };
            requests.extend(wire::set_mark(name, mark, bit, sequence));
            waiting.insert(sequence, *revoke);
        }
        let sent = self.marks.send(&requests);
        sent.map_err(|errno| failed("mark connections", errno))?;
        while !waiting.is_empty() {
            for message in receive(&mut self.marks)? {
                let Incoming::Result { sequence, error } = message else {
                    continue;
                };
                let Some(revoke) = waiting.remove(&sequence) else {
                    continue;
                };
                match error {
                    0 if revoke => walked.revoked += 1,
                    0 => walked.restored += 1,
                    error => match Errno::from_raw(error) {
                        Errno::ENOENT => {}
                        errno => return Err(failed("mark a connection", errno)),
                    },
                }
            }
        }
        Ok(())
    }
}

fn receive(socket: &mut Socket) -> Result<Vec<Incoming<'_>>> {
    let received = socket.receive();
    received.map_err(|errno| failed("hear about connections", errno))
}

/// Waits where more were seen than should have been by now. The kernel lists on only as far as it is read.
fn pause(started: Instant, seen: u32, per_second: u32) {
    let due = Duration::from_secs(1) * seen / per_second.max(1);
    let ahead = due.saturating_sub(started.elapsed());
    if ahead > WORTH_A_PAUSE {
        std::thread::sleep(ahead);
    }
}

pub(super) fn failed(what: &'static str, errno: Errno) -> Error {
    Error::Conntrack {
        what,
        source: io::Error::from(errno),
    }
}
