//! Rounds of connections, round trips and bytes, each counted and timed by both clocks.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike;
use socket2::{SockRef, Socket};

/// What is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Measure {
    /// TCP connections that are opened and reset.
    Connections,
    /// UDP packets that are answered, all of one flow.
    RoundTrips,
    /// Kilobytes of one TCP connection.
    Throughput,
}

/// What one round did.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sample {
    done: f64,
    wall: Duration,
    cpu: Duration,
}

impl Sample {
    pub(crate) fn per_second(&self) -> f64 {
        self.done / self.wall.as_secs_f64()
    }

    pub(crate) fn per_cpu_second(&self) -> f64 {
        self.done / self.cpu.as_secs_f64()
    }
}

/// The ports that the server's pod serves.
pub(crate) const ACCEPT: u16 = 8000;
pub(crate) const SINK: u16 = 8001;
pub(crate) const ECHO: u16 = 8002;

/// Starts the servers on threads that live as long as this process.
pub(crate) fn serve(any: std::net::IpAddr) -> Result<()> {
    let accept = TcpListener::bind((any, ACCEPT)).context("serve connections")?;
    std::thread::spawn(move || accept.incoming().for_each(drop));
    let sink = TcpListener::bind((any, SINK)).context("serve a sink")?;
    std::thread::spawn(move || {
        for mut stream in sink.incoming().flatten() {
            std::thread::spawn(move || {
                let mut buffer = vec![0; 1 << 18];
                while stream.read(&mut buffer).is_ok_and(|length| length > 0) {}
            });
        }
    });
    let echo = UdpSocket::bind((any, ECHO)).context("serve an echo")?;
    std::thread::spawn(move || {
        let mut buffer = [0; 64];
        while let Ok((length, from)) = echo.recv_from(&mut buffer) {
            // Whoever asked may be gone.
            let _ = echo.send_to(&buffer[..length], from);
        }
    });
    Ok(())
}

/// One round from this thread's network namespace.
pub(crate) fn round(measure: Measure, server: std::net::IpAddr, length: Duration) -> Result<Sample> {
    match measure {
        Measure::Connections => timed(length, || open_and_reset((server, ACCEPT).into())),
        Measure::RoundTrips => {
            let socket = UdpSocket::bind((unspecified(server), 0)).context("ask from a port")?;
            socket.connect((server, ECHO)).context("ask the echo")?;
            socket.set_read_timeout(Some(Duration::from_secs(2)))?;
            timed(length, || {
                socket.send(b"x")?;
                socket.recv(&mut [0; 8]).context("no answer from the echo")?;
                Ok(1.0)
            })
        }
        Measure::Throughput => {
            let mut stream = TcpStream::connect((server, SINK)).context("open a connection")?;
            let chunk = vec![0; 1 << 17];
            timed(length, || {
                stream.write_all(&chunk)?;
                Ok(128.0)
            })
        }
    }
}

fn unspecified(like: std::net::IpAddr) -> std::net::IpAddr {
    match like {
        std::net::IpAddr::V4(_) => std::net::Ipv4Addr::UNSPECIFIED.into(),
        std::net::IpAddr::V6(_) => std::net::Ipv6Addr::UNSPECIFIED.into(),
    }
}

/// A reset ends the connection on both sides at once, so that no port is held in TIME_WAIT.
fn open_and_reset(to: SocketAddr) -> Result<f64> {
    let stream = loop {
        match TcpStream::connect(to) {
            Ok(stream) => break stream,
            // The server is not that fast.
            Err(error) if error.kind() == ErrorKind::ConnectionRefused => {}
            Err(error) => return Err(error).context("open a connection"),
        }
    };
    SockRef::from(&stream).set_linger(Some(Duration::ZERO))?;
    drop(Socket::from(stream));
    Ok(1.0)
}

fn timed(length: Duration, mut work: impl FnMut() -> Result<f64>) -> Result<Sample> {
    let (started, before) = (Instant::now(), cpu()?);
    let mut done = 0.0;
    while started.elapsed() < length {
        for _ in 0..8 {
            done += work()?;
        }
    }
    Ok(Sample {
        done,
        wall: started.elapsed(),
        cpu: cpu()? - before,
    })
}

/// The processor time of this process, client and servers, and of the packets they send.
fn cpu() -> Result<Duration> {
    let usage = getrusage(UsageWho::RUSAGE_SELF).context("read the processor time")?;
    let micros = usage.user_time().num_microseconds() + usage.system_time().num_microseconds();
    Ok(Duration::from_micros(u64::try_from(micros)?))
}
