//! One packet of a new flow after the other, on every way, and what arrived of them.

use std::collections::HashSet;
use std::net::{IpAddr, Ipv6Addr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use ringfence_tests::net_lab::NetLab;
use socket2::SockRef;

use crate::judge::{Sent, Way};
use crate::lab::Lab;
use crate::random::{PODS, PORTS};

/// The pause between two rounds of all ways of a pod.
const PAUSE: Duration = Duration::from_millis(8);
/// Source ports: none is used again before the kernel has forgotten its flow.
const FIRST_PORT: u16 = 10_000;
const LAST_PORT: u16 = 60_000;

/// Receivers in every pod, for as long as the process lives.
pub(crate) struct Receivers(Arc<Mutex<HashSet<u64>>>);

impl Receivers {
    pub(crate) fn start(lab: &Lab) -> Result<Self> {
        let arrived = Arc::<Mutex<HashSet<u64>>>::default();
        for pod in &lab.net.pods[..usize::from(PODS)] {
            for port in PORTS {
                let any = SocketAddr::from((Ipv6Addr::UNSPECIFIED, port));
                let socket = pod.inside(|| UdpSocket::bind(any))?.context("receive packets")?;
                SockRef::from(&socket).set_recv_buffer_size(8 << 20)?;
                let arrived = Arc::clone(&arrived);
                thread::spawn(move || {
                    let mut number = [0; 8];
                    while socket.recv(&mut number).is_ok() {
                        arrived
                            .lock()
                            .unwrap_or_else(PoisonError::into_inner)
                            .insert(u64::from_le_bytes(number));
                    }
                });
            }
        }
        Ok(Self(arrived))
    }
}

/// What a sender sent, by number.
type Numbered = Vec<(u64, Sent)>;

/// Senders at work in every pod.
pub(crate) struct Senders {
    over: Arc<AtomicBool>,
    threads: Vec<JoinHandle<Result<Numbered>>>,
}

impl Senders {
    pub(crate) fn start(lab: &Lab) -> Self {
        let over = Arc::<AtomicBool>::default();
        let next = Arc::<AtomicU64>::default();
        let threads = (0..PODS).map(|place| {
            let (over, next) = (Arc::clone(&over), Arc::clone(&next));
            let path = lab.net.pods[usize::from(place)].path().to_owned();
            thread::spawn(move || {
                ringfence_tests::testbed::exec_in_netns(&path, || send(place, &over, &next))?
            })
        });
        Self {
            threads: threads.collect(),
            over,
        }
    }

    /// Ends them. Returns everything that was sent, and whether it arrived.
    pub(crate) fn finish(self, receivers: &Receivers) -> Result<Vec<Sent>> {
        self.over.store(true, Ordering::Relaxed);
        let mut all = Vec::new();
        for thread in self.threads {
            all.extend(thread.join().map_err(|_| anyhow::anyhow!("a sender failed"))??);
        }
        // What is under way is in a buffer by now; reading it is all that is left.
        thread::sleep(Duration::from_secs(1));
        let arrived = receivers.0.lock().unwrap_or_else(PoisonError::into_inner);
        let judged = all.into_iter().map(|(number, sent)| Sent {
            arrived: arrived.contains(&number),
            ..sent
        });
        Ok(judged.collect())
    }
}

fn send(place: u8, over: &AtomicBool, next: &AtomicU64) -> Result<Numbered> {
    let ways: Vec<Way> = Way::all().filter(|way| way.from == place).collect();
    let mut ports = (FIRST_PORT..LAST_PORT).cycle();
    let mut sent = Vec::new();
    while !over.load(Ordering::Relaxed) {
        for way in &ways {
            let any: IpAddr = NetLab::addresses(place)[way.family];
            let port = ports.next().unwrap_or(FIRST_PORT);
            let socket = UdpSocket::bind((any, port)).with_context(|| format!("send from port {port}"))?;
            let number = next.fetch_add(1, Ordering::Relaxed);
            let to = SocketAddr::new(NetLab::addresses(way.to)[way.family], PORTS[way.port]);
            let before = Instant::now();
            // What a rule rejects may be told at once; that is a packet that does not arrive.
            let _ = socket.send_to(&number.to_le_bytes(), to);
            let packet = Sent {
                way: *way,
                before,
                after: Instant::now(),
                arrived: false,
            };
            sent.push((number, packet));
        }
        thread::sleep(PAUSE);
    }
    Ok(sent)
}
