//! A way from a namespace's loopback to this machine's, which can be cut.

use std::io;
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use anyhow::{Context, Result};

use super::Namespace;

/// Listens on a port of a namespace's loopback and leads to the same port of this machine's.
#[derive(Debug)]
pub struct Forwarder {
    shared: Arc<Shared>,
    address: SocketAddr,
}

#[derive(Debug, Default)]
struct Shared {
    cut: AtomicBool,
    over: AtomicBool,
    streams: Mutex<Vec<TcpStream>>,
}

impl Forwarder {
    /// Begins to lead from `namespace`, as long as this value lives.
    ///
    /// # Errors
    /// When the port is taken there.
    pub fn start(namespace: &Namespace, port: u16) -> Result<Self> {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let listener = namespace.inside(|| TcpListener::bind(address))?;
        let listener = listener.with_context(|| format!("listen on {address} in the namespace"))?;
        let shared = Arc::<Shared>::default();
        let of_thread = Arc::clone(&shared);
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if of_thread.over.load(Ordering::Relaxed) {
                    return;
                }
                // Whoever is refused sees the connection end.
                let _ = of_thread.lead(stream, address);
            }
        });
        Ok(Self { shared, address })
    }

    /// Ends every connection and leads none from now on.
    pub fn cut(&self) {
        self.shared.cut.store(true, Ordering::Relaxed);
        self.shared.end_all();
    }

    /// Leads again.
    pub fn mend(&self) {
        self.shared.cut.store(false, Ordering::Relaxed);
    }

    /// Where it leads to.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Forwarder {
    fn drop(&mut self) {
        // The thread ends with the process, or with the next connection.
        self.shared.over.store(true, Ordering::Relaxed);
        self.cut();
    }
}

impl Shared {
    fn lead(&self, inside: TcpStream, to: SocketAddr) -> io::Result<()> {
        if self.cut.load(Ordering::Relaxed) {
            return Ok(());
        }
        let outside = TcpStream::connect(to)?;
        let mut streams = self.streams.lock().unwrap_or_else(PoisonError::into_inner);
        // Those that have ended are no longer connected, and would be kept open for nothing.
        streams.retain(|stream| stream.peer_addr().is_ok());
        streams.extend([inside.try_clone()?, outside.try_clone()?]);
        pump(inside.try_clone()?, outside.try_clone()?);
        pump(outside, inside);
        Ok(())
    }

    fn end_all(&self) {
        let mut streams = self.streams.lock().unwrap_or_else(PoisonError::into_inner);
        for stream in streams.drain(..) {
            // It may have ended by itself.
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

fn pump(mut from: TcpStream, mut to: TcpStream) {
    thread::spawn(move || {
        // However it ends, both sides end.
        let _ = io::copy(&mut from, &mut to);
        let _ = to.shutdown(Shutdown::Both);
        let _ = from.shutdown(Shutdown::Both);
    });
}
