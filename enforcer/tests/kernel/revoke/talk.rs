//! Conversations that go on until they are ended, watched at both ends.
//!
//! Every message is a conversation's number and a count, so that a missing one is noticed. On TCP the client introduces
//! itself with the first.

use std::collections::HashMap;
use std::fmt;
use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::super::net::{Lab, Namespace};

/// How often something is said.
const EVERY: Duration = Duration::from_millis(20);
/// How long an end must hear nothing to count as silent: many times as long as the other ever is.
const SILENCE: Duration = Duration::from_millis(700);
/// Longer than anything here may take.
const LIMIT: Duration = Duration::from_secs(20);

static NEXT: AtomicU64 = AtomicU64::new(0);

/// How a conversation goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Kind {
    /// TCP: the client says something again and again and is answered.
    ClientTalks,
    /// TCP: the server says something again and again.
    ServerTalks,
    /// UDP: the client says something again and again and is answered.
    Datagrams,
}

impl Kind {
    pub(super) const ALL: [Self; 3] = [Self::ClientTalks, Self::ServerTalks, Self::Datagrams];

    pub(super) fn port(self) -> u16 {
        match self {
            Self::ClientTalks => 7000,
            Self::ServerTalks => 7001,
            Self::Datagrams => 7002,
        }
    }
}

/// One end.
#[derive(Debug, Default)]
struct End {
    heard: AtomicU64,
    next: AtomicU64,
    missing: AtomicU64,
    /// It was told that the conversation is over.
    ended: AtomicBool,
}

impl End {
    fn hear(&self, count: u64) {
        let next = self.next.swap(count + 1, Ordering::Relaxed);
        self.missing
            .fetch_add(count.saturating_sub(next), Ordering::Relaxed);
        self.heard.fetch_add(1, Ordering::Relaxed);
    }

    fn end(&self) {
        self.ended.store(true, Ordering::Relaxed);
    }
}

#[derive(Debug, Default)]
struct Ends {
    client: End,
    server: End,
    over: AtomicBool,
}

/// The servers of a laboratory: every kind, at every address of some pods.
#[derive(Debug, Default)]
pub(super) struct Servers(Mutex<HashMap<u64, Arc<Ends>>>);

impl Servers {
    /// Servers in these pods, until the test's process ends.
    pub(super) fn start(lab: &Lab, pods: &[u8]) -> Arc<Self> {
        let servers = Arc::new(Self::default());
        for pod in pods {
            servers.serve(lab.pod(*pod));
        }
        servers
    }

    fn serve(self: &Arc<Self>, pod: &Namespace) {
        for kind in Kind::ALL {
            let any = SocketAddr::from(([0_u16; 8], kind.port()));
            let servers = Arc::clone(self);
            if kind == Kind::Datagrams {
                let socket = pod.inside(|| UdpSocket::bind(any).expect("the port is free"));
                std::thread::spawn(move || servers.answer(&socket));
            } else {
                let listener = pod.inside(|| TcpListener::bind(any).expect("the port is free"));
                std::thread::spawn(move || {
                    for stream in listener.incoming().flatten() {
                        let servers = Arc::clone(&servers);
                        std::thread::spawn(move || servers.converse(stream, kind));
                    }
                });
            }
        }
    }

    fn ends(&self, number: u64) -> Option<Arc<Ends>> {
        self.0.lock().expect("nobody panics").get(&number).cloned()
    }

    fn answer(&self, socket: &UdpSocket) {
        let mut bytes = [0; 16];
        loop {
            // An answer that was rejected is told here as an error.
            let Ok((_, from)) = socket.recv_from(&mut bytes) else {
                continue;
            };
            let (number, count) = read(&bytes);
            if let Some(ends) = self.ends(number) {
                ends.server.hear(count);
            }
            let _ = socket.send_to(&bytes, from);
        }
    }

    fn converse(&self, mut stream: TcpStream, kind: Kind) {
        let mut bytes = [0; 16];
        let Some(ends) = stream
            .read_exact(&mut bytes)
            .ok()
            .and_then(|()| self.ends(read(&bytes).0))
        else {
            return;
        };
        ends.server.hear(0);
        if kind == Kind::ServerTalks {
            say(&mut stream, &ends, &ends.server, (read(&bytes).0, 0));
            return;
        }
        while stream.write_all(&bytes).is_ok() && stream.read_exact(&mut bytes).is_ok() {
            ends.server.hear(read(&bytes).1);
        }
        ends.server.end();
    }
}

/// Says something until told that nobody listens.
fn say(stream: &mut TcpStream, ends: &Ends, end: &End, (number, first): (u64, u64)) {
    for count in first.. {
        if ends.over.load(Ordering::Relaxed) {
            return;
        }
        if stream.write_all(&message(number, count)).is_err() {
            end.end();
            return;
        }
        std::thread::sleep(EVERY);
    }
}

/// A conversation, as its client has it.
pub(super) struct Talk {
    pub(super) kind: Kind,
    text: String,
    ends: Arc<Ends>,
    stream: Option<TcpStream>,
    number: u64,
}

impl Talk {
    /// Opens one from an address of a pod, and waits until both ends have heard something.
    pub(super) fn open(
        servers: &Servers,
        from: &Namespace,
        source: IpAddr,
        to: SocketAddr,
        kind: Kind,
    ) -> Self {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let text = format!("{kind:?} {source} -> {to}");
        let ends = Arc::<Ends>::default();
        servers
            .0
            .lock()
            .expect("nobody panics")
            .insert(number, Arc::clone(&ends));
        let mut talk = Self {
            kind,
            text,
            ends,
            stream: None,
            number,
        };
        if kind == Kind::Datagrams {
            let socket = from.inside(|| UdpSocket::bind((source, 0)).expect("a port is free"));
            socket.connect(to).expect("an address");
            talk.run_datagrams(socket);
        } else {
            let stream = from.inside(|| TcpStream::connect_timeout(&to, LIMIT));
            let stream = stream.unwrap_or_else(|error| panic!("{}: {error}", talk.text));
            talk.run_stream(&stream);
            talk.stream = Some(stream);
        }
        let started = Instant::now();
        while talk.heard().contains(&0) {
            assert!(started.elapsed() < LIMIT, "{talk}: nothing is heard");
            std::thread::sleep(Duration::from_millis(2));
        }
        talk
    }

    fn run_stream(&self, stream: &TcpStream) {
        let (mut writer, mut reader) = (clone(stream), clone(stream));
        writer.set_nodelay(true).expect("an option");
        writer.write_all(&message(self.number, 0)).expect("it is open");
        let (ends, number) = (Arc::clone(&self.ends), self.number);
        if self.kind == Kind::ClientTalks {
            std::thread::spawn(move || say(&mut writer, &ends, &ends.client, (number, 1)));
        }
        let ends = Arc::clone(&self.ends);
        std::thread::spawn(move || {
            let mut bytes = [0; 16];
            while reader.read_exact(&mut bytes).is_ok() {
                ends.client.hear(read(&bytes).1);
            }
            ends.client.end();
        });
    }

    fn run_datagrams(&self, writer: UdpSocket) {
        let reader = writer.try_clone().expect("a socket");
        let (ends, number) = (Arc::clone(&self.ends), self.number);
        std::thread::spawn(move || {
            for count in 0.. {
                if ends.over.load(Ordering::Relaxed) {
                    return;
                }
                // One that was rejected is told at the next.
                let _ = writer.send(&message(number, count));
                std::thread::sleep(EVERY);
            }
        });
        let ends = Arc::clone(&self.ends);
        reader.set_read_timeout(Some(SILENCE)).expect("an option");
        std::thread::spawn(move || {
            let mut bytes = [0; 16];
            while !ends.over.load(Ordering::Relaxed) {
                match reader.recv(&mut bytes) {
                    Ok(_) => ends.client.hear(read(&bytes).1),
                    Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                    Err(_) => std::thread::sleep(EVERY),
                }
            }
        });
    }

    fn heard(&self) -> [u64; 2] {
        [&self.ends.client, &self.ends.server].map(|end| end.heard.load(Ordering::Relaxed))
    }

    /// Messages that are missing between those that either end has heard.
    pub(super) fn missing(&self) -> u64 {
        [&self.ends.client, &self.ends.server]
            .map(|end| end.missing.load(Ordering::Relaxed))
            .into_iter()
            .sum()
    }

    /// Whether the client, and whether the server was told that it is over.
    pub(super) fn ended(&self) -> [bool; 2] {
        [&self.ends.client, &self.ends.server].map(|end| end.ended.load(Ordering::Relaxed))
    }

    /// The end of a TCP connection that has only listened says something.
    pub(super) fn break_silence(&mut self) {
        if let Some(stream) = self.stream.as_mut().filter(|_| self.kind == Kind::ServerTalks) {
            let _ = stream.write_all(&message(self.number, 1));
        }
    }
}

impl fmt::Display for Talk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (heard, ended, missing) = (self.heard(), self.ended(), self.missing());
        write!(
            f,
            "{}: heard {heard:?}, ended {ended:?}, missing {missing}",
            self.text
        )
    }
}

impl Drop for Talk {
    fn drop(&mut self) {
        self.ends.over.store(true, Ordering::Relaxed);
        if let Some(stream) = &self.stream {
            let _ = stream.shutdown(std::net::Shutdown::Both);
        }
    }
}

/// Waits until no end of these conversations hears anything for a while. Gives those that go on.
pub(super) fn fall_silent<'a>(talks: &[&'a Talk]) -> Vec<&'a Talk> {
    let started = Instant::now();
    loop {
        let before: Vec<_> = talks.iter().map(|talk| talk.heard()).collect();
        std::thread::sleep(SILENCE);
        let going = talks
            .iter()
            .zip(before)
            .filter(|(talk, before)| talk.heard() != *before);
        let going: Vec<&Talk> = going.map(|(talk, _)| *talk).collect();
        if going.is_empty() || started.elapsed() > LIMIT {
            return going;
        }
    }
}

/// Waits until something more is heard in each. Gives those in which nothing is.
pub(super) fn go_on<'a>(talks: &[&'a Talk]) -> Vec<&'a Talk> {
    let before: Vec<_> = talks.iter().map(|talk| talk.heard()[0]).collect();
    let silent = || {
        let each = talks.iter().zip(&before);
        each.filter(|(talk, before)| talk.heard()[0] == **before)
            .map(|(talk, _)| *talk)
            .collect()
    };
    let started = Instant::now();
    loop {
        let left: Vec<&Talk> = silent();
        if left.is_empty() || started.elapsed() > LIMIT {
            return left;
        }
        std::thread::sleep(EVERY);
    }
}

/// Waits until each satisfies. Gives those that do not.
pub(super) fn until_each<'a>(talks: &[&'a Talk], satisfied: impl Fn(&Talk) -> bool) -> Vec<&'a Talk> {
    let started = Instant::now();
    loop {
        let left: Vec<&Talk> = talks.iter().copied().filter(|talk| !satisfied(talk)).collect();
        if left.is_empty() || started.elapsed() > LIMIT {
            return left;
        }
        std::thread::sleep(EVERY);
    }
}

/// A list of conversations, or nothing.
pub(super) fn list(talks: &[&Talk]) -> String {
    talks.iter().map(|talk| format!("\n  {talk}")).collect()
}

fn clone(stream: &TcpStream) -> TcpStream {
    stream.try_clone().expect("a socket")
}

fn message(number: u64, count: u64) -> [u8; 16] {
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&number.to_le_bytes());
    bytes[8..].copy_from_slice(&count.to_le_bytes());
    bytes
}

fn read(bytes: &[u8; 16]) -> (u64, u64) {
    let number = |bytes: &[u8]| u64::from_le_bytes(*bytes.first_chunk().expect("eight bytes"));
    (number(&bytes[..8]), number(&bytes[8..]))
}
