//! What is measured: a client and a server that wait for each other, on one processor.

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::thread::spawn;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use nix::time::{ClockId, clock_gettime};
use ringfence_enforcer::ruleset::Family;
use ringfence_tests::net_lab::NetLab;
use socket2::SockRef;

use crate::stats;
use crate::worlds::{BULK, CLIENT, FORBIDDEN, PORT, SERVER};

/// How much is written at once.
pub(crate) const CHUNK: usize = 64 * 1024;
/// Longer than anything here may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// What can be measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Load {
    /// A TCP connection is opened; the server resets it, and the client sees that.
    Connections,
    /// A UDP packet is answered, all of one flow.
    RoundTrips,
    /// [`CHUNK`] bytes of one TCP connection.
    Throughput,
}

impl Load {
    pub(crate) const ALL: [Self; 3] = [Self::Connections, Self::RoundTrips, Self::Throughput];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Connections => "connections",
            Self::RoundTrips => "round trips",
            Self::Throughput => "throughput",
        }
    }

    /// How many operations make one figure: some milliseconds of work.
    fn batch(self) -> u32 {
        match self {
            Self::Connections => 100,
            Self::RoundTrips => 400,
            Self::Throughput => 200,
        }
    }
}

/// The client's sockets. A socket belongs to the namespace that it was opened in, whoever uses it.
pub(crate) struct Client {
    server: IpAddr,
    udp: UdpSocket,
    /// Both ends of a connection: one thread writes and reads what it wrote.
    stream: [TcpStream; 2],
}

impl Client {
    /// Starts the servers, on threads that live as long as this process, and opens what stays open. Nothing may be
    /// enforced yet.
    pub(crate) fn start(lab: &NetLab, family: Family) -> Result<Self> {
        let server = address(SERVER, family);
        let bulk = lab.pods[usize::from(SERVER)].inside(|| serve(server))??;
        lab.pods[usize::from(CLIENT)].inside(|| {
            let udp = UdpSocket::bind((address(CLIENT, family), 0)).context("ask from a port")?;
            udp.connect((server, PORT))?;
            udp.set_read_timeout(Some(PATIENCE))?;
            let to = bulk.local_addr()?;
            let stream = TcpStream::connect_timeout(&to, PATIENCE).context("open a connection")?;
            let (accepted, _) = bulk.accept()?;
            stream.set_write_timeout(Some(PATIENCE))?;
            accepted.set_read_timeout(Some(PATIENCE))?;
            let stream = [stream, accepted];
            Ok(Self { server, udp, stream })
        })?
    }

    /// Holds what passes against what must: the rules are there and right, or are not there.
    pub(crate) fn verify(&self, enforced: bool) -> Result<()> {
        let reaches = |port, patience| {
            let attempt = TcpStream::connect_timeout(&SocketAddr::new(self.server, port), patience);
            attempt.map_or_else(|error| error.kind() == ErrorKind::ConnectionReset, |_| true)
        };
        ensure!(
            reaches(PORT, PATIENCE),
            "port {PORT} is closed, and it is granted"
        );
        let open = reaches(FORBIDDEN, Duration::from_millis(50));
        ensure!(
            open != enforced,
            "port {FORBIDDEN} is open: {open}, enforced: {enforced}"
        );
        Ok(())
    }

    /// The median cost of one operation, in microseconds of processor time, over so many batches.
    pub(crate) fn measure(&self, load: Load, batches: u32) -> Result<f64> {
        let mut costs = Vec::new();
        for _ in 0..batches {
            let before = used()?;
            for _ in 0..load.batch() {
                match load {
                    Load::Connections => self.connect()?,
                    Load::RoundTrips => self.round_trip()?,
                    Load::Throughput => self.pass_on()?,
                }
            }
            costs.push((used()? - before).as_secs_f64() * 1e6 / f64::from(load.batch()));
        }
        Ok(stats::quartiles(costs)[1])
    }

    fn connect(&self) -> Result<()> {
        let attempt = TcpStream::connect((self.server, PORT));
        match attempt.and_then(|mut stream| stream.read(&mut [0])) {
            // The server may be that quick that connecting already tells.
            Err(error) if error.kind() == ErrorKind::ConnectionReset => Ok(()),
            other => bail!("a connection was to be opened and reset: {other:?}"),
        }
    }

    fn pass_on(&self) -> Result<()> {
        let [mut client, mut server] = self.stream.each_ref();
        let mut buffer = [0; CHUNK];
        client.write_all(&buffer)?;
        server.read_exact(&mut buffer)?;
        Ok(())
    }

    fn round_trip(&self) -> Result<()> {
        let mut buffer = [0; 64];
        self.udp.send(&buffer)?;
        self.udp.recv(&mut buffer).context("no answer from the echo")?;
        Ok(())
    }
}

/// Starts the servers, and returns the one that nobody serves yet.
fn serve(server: IpAddr) -> Result<TcpListener> {
    let listen = |port| TcpListener::bind((server, port)).with_context(|| format!("serve port {port}"));
    let (resetting, forbidden, bulk) = (listen(PORT)?, listen(FORBIDDEN)?, listen(BULK)?);
    let echo = UdpSocket::bind((server, PORT)).context("serve an echo")?;
    spawn(move || resetting.incoming().flatten().for_each(|stream| reset(&stream)));
    spawn(move || forbidden.incoming().for_each(drop));
    spawn(move || {
        let mut buffer = [0; 64];
        while let Ok((length, from)) = echo.recv_from(&mut buffer) {
            // Whoever asked may be gone.
            let _ = echo.send_to(&buffer[..length], from);
        }
    });
    Ok(bulk)
}

/// Ends the connection for both sides at once when it is dropped, so that no port is held in TIME_WAIT.
fn reset(stream: &TcpStream) {
    if let Err(error) = SockRef::from(stream).set_linger(Some(Duration::ZERO)) {
        eprintln!("connections will wait: {error}");
    }
}

/// The processor time that this process has used: client, server, and the kernel on their behalf.
fn used() -> Result<Duration> {
    Ok(clock_gettime(ClockId::CLOCK_PROCESS_CPUTIME_ID)?.into())
}

/// The address of one of the two pods that talk.
fn address(number: u16, family: Family) -> IpAddr {
    let [_, low] = number.to_be_bytes();
    NetLab::addresses(low)[usize::from(family == Family::V6)]
}
