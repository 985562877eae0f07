//! The end of the conversations that is called.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};

use super::client::EVERY;
use super::{Kind, MESSAGE, message, read};
use crate::testbed::exec_in_netns;

/// Serves every [`Kind`] at an address, as long as this value lives.
#[derive(Debug)]
pub struct Server {
    shared: Arc<Shared>,
    address: IpAddr,
}

#[derive(Debug, Default)]
struct Shared {
    over: AtomicBool,
    /// How many messages of each flow have arrived.
    heard: Mutex<HashMap<u64, u64>>,
}

impl Server {
    /// Serves at an address of a network namespace.
    ///
    /// # Errors
    /// When it cannot be entered, or a port is taken.
    pub fn start(netns: &Path, address: IpAddr) -> Result<Self> {
        let shared = Arc::<Shared>::default();
        let bind = |port| TcpListener::bind((address, port)).with_context(|| format!("serve TCP {port}"));
        let (asked, talking, datagrams) = exec_in_netns(netns, || {
            let datagrams = UdpSocket::bind((address, Kind::Datagrams.port())).context("serve UDP")?;
            Ok::<_, anyhow::Error>((
                bind(Kind::ClientTalks.port())?,
                bind(Kind::ServerTalks.port())?,
                datagrams,
            ))
        })??;
        let of_asked = Arc::clone(&shared);
        thread::spawn(move || accept(&asked, &of_asked, Shared::answer));
        let of_talking = Arc::clone(&shared);
        thread::spawn(move || accept(&talking, &of_talking, |_, stream| talk(stream)));
        let of_datagrams = Arc::clone(&shared);
        thread::spawn(move || of_datagrams.answer_datagrams(&datagrams));
        Ok(Self { shared, address })
    }

    /// Where it serves conversations of a kind.
    pub fn at(&self, kind: Kind) -> SocketAddr {
        SocketAddr::new(self.address, kind.port())
    }

    /// How many messages of a flow have arrived.
    pub fn heard(&self, flow: u64) -> u64 {
        let heard = self.shared.heard.lock().unwrap_or_else(PoisonError::into_inner);
        heard.get(&flow).copied().unwrap_or(0)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // The threads end with what they wait for, or with the process.
        self.shared.over.store(true, Ordering::Relaxed);
    }
}

/// Gives every connection a thread.
fn accept(listener: &TcpListener, shared: &Arc<Shared>, serve: fn(&Shared, TcpStream)) {
    for stream in listener.incoming().flatten() {
        if shared.over.load(Ordering::Relaxed) {
            return;
        }
        let shared = Arc::clone(shared);
        thread::spawn(move || serve(&shared, stream));
    }
}

/// Says something until nobody can hear it any more.
fn talk(mut stream: TcpStream) {
    for count in 0.. {
        if stream.write_all(&message(0, count)).is_err() {
            return;
        }
        thread::sleep(EVERY);
    }
}

impl Shared {
    fn answer(&self, mut stream: TcpStream) {
        let mut bytes = [0; MESSAGE];
        while stream.read_exact(&mut bytes).is_ok() {
            self.note(&bytes);
            if stream.write_all(&bytes).is_err() {
                return;
            }
        }
    }

    fn answer_datagrams(&self, socket: &UdpSocket) {
        let mut bytes = [0; MESSAGE];
        while !self.over.load(Ordering::Relaxed) {
            match socket.recv_from(&mut bytes) {
                Ok((_, from)) => {
                    self.note(&bytes);
                    // What a rule rejects is for the client to notice.
                    let _ = socket.send_to(&bytes, from);
                }
                // An answer that a rule rejected is told here.
                Err(_) => thread::sleep(Duration::from_millis(1)),
            }
        }
    }

    fn note(&self, bytes: &[u8; MESSAGE]) {
        let (flow, _) = read(bytes);
        let mut heard = self.heard.lock().unwrap_or_else(PoisonError::into_inner);
        *heard.entry(flow).or_default() += 1;
    }
}
