//! The end of the conversations that calls.

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::{Kind, MESSAGE, message, read};
use crate::testbed::exec_in_netns;

/// How often something is said.
pub(super) const EVERY: Duration = Duration::from_millis(20);
/// How long opening a conversation may take.
const OPENING: Duration = Duration::from_secs(10);
/// How often a reader looks whether all is over.
const TICK: Duration = Duration::from_millis(100);

static NEXT: AtomicU64 = AtomicU64::new(1);

/// A conversation that goes on until it is ended, or this value goes.
#[derive(Debug)]
pub struct Flow {
    number: u64,
    kind: Kind,
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    over: AtomicBool,
    /// The other side ended it, or a rule did so that could be noticed.
    ended: AtomicBool,
    heard: AtomicU64,
    /// Counts that are missing between others.
    missing: AtomicU64,
}

impl Flow {
    /// Opens a conversation from a network namespace. Returns when something was heard.
    ///
    /// # Errors
    /// When it cannot be opened, or nothing is heard.
    pub fn open(netns: &Path, kind: Kind, to: SocketAddr) -> Result<Self> {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let shared = Arc::<Shared>::default();
        let of_threads = Arc::clone(&shared);
        let what = format!("open a conversation ({kind}) with {to}");
        exec_in_netns(netns, || match kind {
            Kind::Datagrams => datagrams(&of_threads, number, to),
            Kind::ClientTalks | Kind::ServerTalks => stream(&of_threads, number, kind, to),
        })?
        .with_context(|| what.clone())?;
        let flow = Self { number, kind, shared };
        let started = Instant::now();
        while flow.heard() == 0 {
            ensure!(started.elapsed() < OPENING, "{what}: nothing was heard");
            thread::sleep(Duration::from_millis(2));
        }
        Ok(flow)
    }

    /// Its number.
    pub fn number(&self) -> u64 {
        self.number
    }

    /// Its kind.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// How many messages the client has heard.
    pub fn heard(&self) -> u64 {
        self.shared.heard.load(Ordering::Relaxed)
    }

    /// How many messages are missing between those that were heard.
    pub fn missing(&self) -> u64 {
        self.shared.missing.load(Ordering::Relaxed)
    }

    /// Whether the client was told that it is over.
    pub fn ended(&self) -> bool {
        self.shared.ended.load(Ordering::Relaxed)
    }
}

impl Drop for Flow {
    fn drop(&mut self) {
        self.shared.over.store(true, Ordering::Relaxed);
    }
}

impl Shared {
    fn hear(&self, bytes: &[u8; MESSAGE], next: &mut u64) {
        let (_, count) = read(bytes);
        // Before the first one there was no conversation: a Service's rules come a moment after the Service.
        if self.heard.load(Ordering::Relaxed) == 0 {
            *next = count;
        }
        self.missing
            .fetch_add(count.saturating_sub(*next), Ordering::Relaxed);
        *next = count + 1;
        self.heard.fetch_add(1, Ordering::Relaxed);
    }

    fn is_over(&self) -> bool {
        self.over.load(Ordering::Relaxed) || self.ended.load(Ordering::Relaxed)
    }
}

fn stream(shared: &Arc<Shared>, number: u64, kind: Kind, to: SocketAddr) -> Result<()> {
    let reader = TcpStream::connect_timeout(&to, OPENING)?;
    reader.set_nodelay(true)?;
    let writer = reader.try_clone()?;
    let of_reader = Arc::clone(shared);
    thread::spawn(move || listen(reader, &of_reader));
    if kind == Kind::ClientTalks {
        let of_writer = Arc::clone(shared);
        thread::spawn(move || talk(writer, number, &of_writer));
    }
    Ok(())
}

fn listen(mut stream: TcpStream, shared: &Shared) {
    let (mut bytes, mut filled, mut next) = ([0; MESSAGE], 0, 0);
    if stream.set_read_timeout(Some(TICK)).is_err() {
        return;
    }
    while !shared.is_over() {
        match stream.read(&mut bytes[filled..]) {
            Ok(0) => shared.ended.store(true, Ordering::Relaxed),
            Ok(length) => filled += length,
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
            Err(_) => shared.ended.store(true, Ordering::Relaxed),
        }
        if filled == MESSAGE {
            shared.hear(&bytes, &mut next);
            filled = 0;
        }
    }
}

fn talk(mut stream: TcpStream, number: u64, shared: &Shared) {
    for count in 0.. {
        if shared.is_over() {
            return;
        }
        if stream.write_all(&message(number, count)).is_err() {
            shared.ended.store(true, Ordering::Relaxed);
        }
        thread::sleep(EVERY);
    }
}

fn datagrams(shared: &Arc<Shared>, number: u64, to: SocketAddr) -> Result<()> {
    let any: IpAddr = match to.ip() {
        IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let reader = UdpSocket::bind((any, 0))?;
    reader.connect(to)?;
    reader.set_read_timeout(Some(TICK))?;
    let writer = reader.try_clone()?;
    let of_writer = Arc::clone(shared);
    thread::spawn(move || {
        for count in 0.. {
            if of_writer.over.load(Ordering::Relaxed) {
                return;
            }
            // A rule that rejects an earlier one may be told here; a client of UDP does not give up.
            let _ = writer.send(&message(number, count));
            thread::sleep(EVERY);
        }
    });
    let of_reader = Arc::clone(shared);
    thread::spawn(move || {
        let (mut bytes, mut next) = ([0; MESSAGE], 0);
        while !of_reader.over.load(Ordering::Relaxed) {
            match reader.recv(&mut bytes) {
                Ok(MESSAGE) => of_reader.hear(&bytes, &mut next),
                Ok(_) => {}
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
                Err(_) => thread::sleep(Duration::from_millis(1)),
            }
        }
    });
    Ok(())
}
