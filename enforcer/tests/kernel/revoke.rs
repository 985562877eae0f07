//! A policy that tightens ends the connections that it no longer allows, and no other.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use ringfence_enforcer::cluster::{Object, Update};
use ringfence_enforcer::kernel::Variant;
use ringfence_policy::{Policy, Protocol};

use super::agent::{Running, start};
use super::net::Lab;
use super::world::{peers, policy, ports, rule, updates, world};

const LIMIT: Duration = Duration::from_secs(10);
/// Many times as long as the server is ever silent. A revoked connection's reset goes to the side that sends: the other
/// only hears nothing more.
const SILENCE: Duration = Duration::from_millis(700);

/// Lets the pods with these numbers reach TCP 7000 and UDP 8080 of pod 0.
fn lets_in(numbers: &[u8]) -> Policy {
    let ports = vec![ports(Protocol::Tcp, 7000, 7000), ports(Protocol::Udp, 8080, 8080)];
    policy(
        "server",
        &[0],
        Some(vec![rule(vec![peers(numbers)], ports)]),
        None,
    )
}

/// A connection to pod 0 on which the server talks without being asked: what is deleted instead of revoked lives on.
struct Chat {
    client: TcpStream,
}

impl Chat {
    fn open(lab: &Lab, from: u8, to: SocketAddr) -> Self {
        let client = lab
            .pod(from)
            .inside(|| TcpStream::connect_timeout(&to, LIMIT).expect("it is allowed"));
        client
            .set_read_timeout(Some(SILENCE))
            .expect("a timeout can be set");
        Self { client }
    }

    /// Whether another word comes, after what has come already.
    fn hears(&mut self) -> bool {
        self.client.read(&mut [0; 1]).is_ok_and(|length| length == 1)
    }

    fn hears_until_the_end(&mut self) -> bool {
        let deadline = Instant::now() + LIMIT;
        while Instant::now() < deadline {
            if !self.hears() {
                return true;
            }
        }
        false
    }
}

/// A server that says a word every few milliseconds until the connection ends.
fn talk(lab: &Lab) {
    let listener = lab
        .pod(0)
        .inside(|| TcpListener::bind(("::", 7000)).expect("the port is free"));
    std::thread::spawn(move || {
        for mut connection in listener.incoming().flatten() {
            std::thread::spawn(move || {
                while connection.write_all(b"x").is_ok() {
                    std::thread::sleep(Duration::from_millis(20));
                }
                let _ = connection.shutdown(Shutdown::Both);
            });
        }
    });
}

/// A UDP "connection" that is asked again and again from one port.
fn dialogue(lab: &Lab, from: u8) -> UdpSocket {
    let to = SocketAddr::new(Lab::addresses(0)[0], 8080);
    let socket = lab
        .pod(from)
        .inside(|| UdpSocket::bind(("0.0.0.0", 0)).expect("a port is free"));
    socket.connect(to).expect("an address");
    socket
        .set_read_timeout(Some(Duration::from_millis(300)))
        .expect("a timeout can be set");
    socket
}

fn answers(socket: &UdpSocket) -> bool {
    socket.send(b"hello").is_ok() && socket.recv(&mut [0; 16]).is_ok()
}

async fn tell_policy(agent: &Running, policy: Policy) {
    let before = agent.counters.syncs.get();
    agent.tell([Update::Upsert(Object::Policy(policy))]);
    agent
        .until("a sync", || agent.counters.syncs.get() > before)
        .await;
}

async fn tightening_ends_what_it_forbids(variant: Variant) {
    let lab = Lab::new(3);
    talk(&lab);
    let agent = start(&lab.router, variant);
    agent.tell(updates(&world(3, vec![lets_in(&[1, 2])])));
    agent.until_ready().await;
    let mut from_2 = Lab::addresses(0).map(|address| Chat::open(&lab, 2, SocketAddr::new(address, 7000)));
    let mut from_1 = Chat::open(&lab, 1, SocketAddr::new(Lab::addresses(0)[0], 7000));
    let (udp_1, udp_2) = (dialogue(&lab, 1), dialogue(&lab, 2));
    assert!(from_2.iter_mut().all(Chat::hears) && from_1.hears() && answers(&udp_1) && answers(&udp_2));

    tell_policy(&agent, lets_in(&[1])).await;
    agent.until("three marks", || agent.counters.revoked() == 3).await;
    assert!(
        from_2.iter_mut().all(Chat::hears_until_the_end),
        "{variant}: a forbidden connection goes on"
    );
    assert!(!answers(&udp_2), "{variant}: a forbidden UDP dialogue goes on");
    assert!(
        from_1.hears() && answers(&udp_1),
        "{variant}: an allowed connection was ended"
    );

    tell_policy(&agent, lets_in(&[1, 2])).await;
    agent.until("a mark less", || agent.counters.restored() > 0).await;
    assert!(answers(&udp_2), "{variant}: what is allowed again does not go on");
    assert!(from_1.hears());
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tightening_ends_what_it_forbids_in_nft() {
    tightening_ends_what_it_forbids(Variant::Nft).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tightening_ends_what_it_forbids_in_legacy() {
    tightening_ends_what_it_forbids(Variant::Legacy).await;
}
