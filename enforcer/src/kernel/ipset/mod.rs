//! The kernel's sets, by netlink: a change of one element costs a system call, not a process.

mod wire;

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use nix::errno::Errno;

use crate::error::{Error, Result};
use crate::names::SetName;
use crate::netlink::Incoming;
use crate::netlink::socket::Socket;
use crate::ruleset::{Element, Family, SetKind};
use crate::state::{HeldSet, SetChange};

/// The fewest buckets that a new set starts with; it doubles them as it grows. Most sets stay small.
const BUCKETS: usize = 64;

/// Errors of ipset's own: no such type, a set that a rule still refers to, a set that is full.
const NO_TYPE: i32 = 4098;
const BUSY: i32 = 4100;
const FULL: i32 = 4352;

/// How long to wait for a set to be let go, doubled each time: nftables does so a moment after the rule that used it is
/// gone. 250 ms in all.
const DESTROY_ATTEMPTS: u32 = 8;
const DESTROY_PAUSE: Duration = Duration::from_millis(2);

/// The sets of a network namespace.
#[derive(Debug)]
pub struct Sets {
    socket: Socket,
    /// The kernel's revision of each type, once it was asked for.
    revisions: BTreeMap<(SetKind, Family), u8>,
}

impl Sets {
    /// Those of the network namespace of the thread that calls this.
    ///
    /// # Errors
    /// The kernel does not let this program ask.
    pub fn open() -> Result<Self> {
        let socket = Socket::open().map_err(|errno| failed("open a netlink socket for sets", errno))?;
        Ok(Self {
            socket,
            revisions: BTreeMap::new(),
        })
    }

    /// Our sets with their elements.
    ///
    /// # Errors
    /// The kernel does not answer, or holds in a set of ours what we never put there.
    pub fn read(&mut self) -> Result<BTreeMap<SetName, HeldSet>> {
        let mut sets: BTreeMap<SetName, (HeldSet, Vec<Element>)> = BTreeMap::new();
        for part in self.list(false)? {
            let Some(name) = SetName::parse(&part.name) else {
                continue;
            };
            if let Some(header) = part.header {
                sets.insert(name.clone(), (header, Vec::new()));
            }
            let Some((held, members)) = sets.get_mut(&name) else {
                continue;
            };
            let elements = part.elements.len();
            members.extend(part.elements.into_iter().flatten());
            if held.kind.is_some() && members.len() < elements {
                // Somebody else's hand: a set like that is made anew.
                held.kind = None;
            }
        }
        let finish = |(name, (held, mut members)): (SetName, (HeldSet, Vec<Element>))| {
            members.sort_unstable();
            let members = Arc::new(members);
            (name, HeldSet { members, ..held })
        };
        Ok(sets.into_iter().map(finish).collect())
    }

    /// The number of elements of each of our sets.
    ///
    /// # Errors
    /// The kernel does not answer.
    pub fn sizes(&mut self) -> Result<BTreeMap<SetName, usize>> {
        let parts = self.list(true)?;
        let sizes = parts
            .into_iter()
            .filter_map(|part| Some((SetName::parse(&part.name)?, part.count.unwrap_or(usize::MAX))));
        Ok(sizes.collect())
    }

    /// Makes changes, one after the other. What is there already, or gone already, is no error.
    ///
    /// # Errors
    /// The kernel refuses one; those before it have taken effect.
    pub fn write(&mut self, changes: &[SetChange]) -> Result<()> {
        changes
            .iter()
            .enumerate()
            .try_for_each(|(at, change)| match change {
                SetChange::Create {
                    name,
                    kind,
                    family,
                    capacity,
                } => {
                    // Room for what comes next: each time a set doubles its buckets, the kernel waits for all processors.
                    let coming = match changes.get(at + 1) {
                        Some(SetChange::Add(next, elements)) if next == name => elements.len(),
                        _ => 0,
                    };
                    let buckets = coming.max(BUCKETS).next_power_of_two();
                    self.create(name, *kind, *family, (buckets, *capacity))
                }
                SetChange::Add(name, elements) => self.change(name, true, elements),
                SetChange::Remove(name, elements) => self.change(name, false, elements),
                SetChange::Destroy(name) => self.destroy(name),
            })
    }

    fn create(&mut self, name: &SetName, kind: SetKind, family: Family, sizes: (usize, usize)) -> Result<()> {
        let revision = self.revision(kind, family)?;
        let number = |size: usize| u32::try_from(size).unwrap_or(u32::MAX);
        let sizes = (number(sizes.0), number(sizes.1));
        let sequence = self.socket.next_sequence();
        let request = wire::create(name, kind, revision, family, sizes, sequence);
        self.request(&request, sequence)
            .map_err(|error| refused(error, format!("create the set {name} ({})", kind.ipset())))
    }

    fn change(&mut self, name: &SetName, add: bool, elements: &[Element]) -> Result<()> {
        elements.chunks(wire::ELEMENTS_AT_ONCE).try_for_each(|elements| {
            let sequence = self.socket.next_sequence();
            let request = wire::change(name, add, elements, sequence);
            self.request(&request, sequence).map_err(|error| {
                let (verb, preposition) = if add { ("add", "to") } else { ("delete", "from") };
                let count = elements.len();
                refused(
                    error,
                    format!("{verb} {count} elements {preposition} the set {name}"),
                )
            })
        })
    }

    fn destroy(&mut self, name: &SetName) -> Result<()> {
        for attempt in 1.. {
            let sequence = self.socket.next_sequence();
            let request = wire::destroy(name, sequence);
            match self.request(&request, sequence) {
                Err(Failure::Refused(BUSY)) if attempt < DESTROY_ATTEMPTS => {
                    std::thread::sleep(DESTROY_PAUSE * 2_u32.pow(attempt - 1));
                }
                // Gone already.
                Err(Failure::Refused(error)) if Errno::from_raw(error) == Errno::ENOENT => break,
                result => return result.map_err(|error| refused(error, format!("destroy the set {name}"))),
            }
        }
        Ok(())
    }

    /// The newest revision of a type that the kernel has. What we use of a type is the same in all of them.
    fn revision(&mut self, kind: SetKind, family: Family) -> Result<u8> {
        if let Some(revision) = self.revisions.get(&(kind, family)) {
            return Ok(*revision);
        }
        let sequence = self.socket.next_sequence();
        let request = wire::revision_of(kind, family, sequence);
        let answer = self.converse(&request, sequence, |message| match message {
            Incoming::Data { attributes, .. } => wire::revision(attributes),
            _ => None,
        });
        let revision = answer.map_err(|error| match error {
            Failure::Refused(NO_TYPE) => Error::SetTypeMissing(kind.ipset()),
            error => refused(error, format!("ask for the set type {}", kind.ipset())),
        })?;
        self.revisions.insert((kind, family), revision);
        Ok(revision)
    }

    fn list(&mut self, headers_only: bool) -> Result<Vec<wire::Listed>> {
        let sequence = self.socket.next_sequence();
        let mut parts = Vec::new();
        let listed = self.converse(
            &wire::list(headers_only, sequence),
            sequence,
            |message| match message {
                Incoming::Data { attributes, .. } => {
                    parts.extend(wire::listed(attributes));
                    None
                }
                Incoming::Done { .. } => Some(()),
                Incoming::Result { .. } => None,
            },
        );
        listed.map_err(|error| refused(error, "list the sets".to_owned()))?;
        Ok(parts)
    }

    /// Sends a request and waits for how it ends.
    fn request(&mut self, request: &[u8], sequence: u32) -> std::result::Result<(), Failure> {
        self.converse(request, sequence, |message| {
            matches!(message, Incoming::Result { .. }).then_some(())
        })
    }

    /// Sends a request and hears what the kernel says to it until `heard` makes an end.
    fn converse<T>(
        &mut self,
        request: &[u8],
        expected: u32,
        mut heard: impl FnMut(&Incoming<'_>) -> Option<T>,
    ) -> std::result::Result<T, Failure> {
        self.socket.send(request)?;
        loop {
            for message in self.socket.receive()? {
                match message {
                    // What is left of an earlier request that was given up.
                    Incoming::Result { sequence, .. } if sequence != expected => {}
                    Incoming::Result { error, .. } if error != 0 => return Err(Failure::Refused(error)),
                    message => {
                        if let Some(end) = heard(&message) {
                            return Ok(end);
                        }
                    }
                }
            }
        }
    }
}

/// Why a request did not succeed.
#[derive(Clone, Copy)]
enum Failure {
    Unreachable(Errno),
    Refused(i32),
}

impl From<Errno> for Failure {
    fn from(errno: Errno) -> Self {
        Self::Unreachable(errno)
    }
}

fn failed(what: &str, errno: Errno) -> Error {
    Error::Sets {
        what: what.to_owned(),
        source: io::Error::from(errno),
    }
}

fn refused(failure: Failure, what: String) -> Error {
    let source = match failure {
        Failure::Unreachable(errno) => io::Error::from(errno),
        Failure::Refused(NO_TYPE) => io::Error::other("the kernel has no such set type"),
        Failure::Refused(BUSY) => io::Error::other("a rule refers to it"),
        Failure::Refused(FULL) => io::Error::other("it is full"),
        Failure::Refused(number @ 4096..) => io::Error::other(format!("ipset's error {number}")),
        Failure::Refused(number) => io::Error::from_raw_os_error(number),
    };
    Error::Sets { what, source }
}
