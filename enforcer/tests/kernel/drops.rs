//! What is dropped is told of, whatever else is dropped at the same time.

use std::net::{IpAddr, SocketAddr, SocketAddrV4, UdpSocket};
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrIn, sendto, socket,
};
use ringfence_enforcer::droplog::reader::Reader;
use ringfence_enforcer::droplog::{Sighting, Transport};
use ringfence_enforcer::kernel::Variant;
use ringfence_enforcer::metrics::Counters;
use ringfence_policy::{Direction, Flow, Protocol};
use tokio::sync::mpsc::{Receiver, channel};

use super::net::{Lab, Namespace};
use super::world::{peers, policy, ports, rule, ruleset, world};

/// Longer than anything here may take.
const LIMIT: Duration = Duration::from_secs(30);

/// A port that no test looks for.
const UNUSED: u16 = 6;

/// Pod 0 lets pod 1 in at TCP 80 and nobody else; pod 1 may go nowhere else.
fn lab(variant: Variant) -> (Lab, Receiver<Sighting>) {
    let lab = Lab::new(3);
    let only = || rule(vec![peers(&[0, 1])], vec![ports(Protocol::Tcp, 80, 80)]);
    let policies = vec![
        policy("server", &[0], Some(vec![only()]), None),
        policy("client", &[1], None, Some(vec![only()])),
    ];
    let (mut engine, _) = lab.router.engine(variant);
    engine
        .sync(&ruleset(&world(3, policies)))
        .expect("the kernel takes the rules");
    let reader = lab
        .router
        .inside(|| Reader::open(100, Counters::default()).expect("a socket"));
    let (tell, mut told) = channel(10_000);
    reader.start(tell);
    // The reader binds its group on its own thread; what is dropped before is not told of.
    let deadline = Instant::now() + LIMIT;
    while told.try_recv().is_err() {
        assert!(Instant::now() < deadline, "the reader tells of nothing");
        send(lab.pod(2), SocketAddr::new(Lab::addresses(0)[0], UNUSED));
        thread::sleep(Duration::from_millis(20));
    }
    (lab, told)
}

/// Waits until packets are told of that are so.
pub(crate) fn until(told: &mut Receiver<Sighting>, what: &str, so: impl Fn(&Sighting) -> bool) -> Sighting {
    let deadline = Instant::now() + LIMIT;
    while Instant::now() < deadline {
        match told.try_recv() {
            Ok(sighting) if so(&sighting) => return sighting,
            Ok(_) => {}
            Err(_) => thread::sleep(Duration::from_millis(5)),
        }
    }
    panic!("never told of: {what}")
}

pub(crate) fn send(from: &Namespace, to: SocketAddr) {
    from.inside(|| {
        let any: SocketAddr = if to.is_ipv4() {
            ([0; 4], 0).into()
        } else {
            ([0_u16; 8], 0).into()
        };
        let socket = UdpSocket::bind(any).expect("a port is free");
        let _ = socket.send_to(b"x", to);
    });
}

#[test]
fn a_packet_that_is_dropped_is_told_of_with_its_direction_addresses_and_port() {
    for variant in Variant::ALL {
        let (lab, mut told) = lab(variant);
        for family in 0..2 {
            let (server, client) = (Lab::addresses(0)[family], Lab::addresses(2)[family]);
            send(lab.pod(2), SocketAddr::new(server, 5353));
            let sighting = until(&mut told, "ingress", |it| it.packet.source == client);
            assert_eq!(sighting.packet.direction, Direction::Ingress, "{variant}");
            assert_eq!(sighting.packet.destination, server);
            assert_eq!(sighting.packet.transport, Transport::Udp(5353));
            let flow = Flow {
                source: Lab::addresses(1)[family],
                destination: Lab::addresses(2)[family],
                protocol: Protocol::Tcp,
                port: 8080,
            };
            assert!(!lab.connects(&flow));
            let sighting = until(&mut told, "egress", |it| it.packet.source == flow.source);
            assert_eq!(sighting.packet.direction, Direction::Egress, "{variant}");
            assert_eq!(sighting.packet.transport, Transport::Tcp(8080));
        }
    }
}

/// Floods pod 0 from pod 2 with packets to these ports, again and again, until told to end. Returns how many it sent.
pub(crate) fn flood(lab: &Lab, ports: std::ops::Range<u16>, over: &AtomicBool) -> u64 {
    let server: IpAddr = Lab::addresses(0)[0];
    lab.pod(2).inside(|| {
        let socket = UdpSocket::bind("0.0.0.0:0").expect("a port is free");
        let mut sent = 0;
        for port in ports.cycle() {
            if over.load(Ordering::Relaxed) {
                break;
            }
            let _ = socket.send_to(b"x", SocketAddr::new(server, port));
            sent += 1;
            if sent % 100 == 0 {
                thread::sleep(Duration::from_millis(5));
            }
        }
        sent
    })
}

/// Ends a flood when it goes, also when an expectation was not met.
pub(crate) struct Ending<'a>(pub(crate) &'a AtomicBool);

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn is_told_of_in_a_flood_to(ports: std::ops::Range<u16>) {
    for variant in Variant::ALL {
        let (lab, mut told) = lab(variant);
        let over = AtomicBool::new(false);
        thread::scope(|scope| {
            let flooding = scope.spawn(|| flood(&lab, ports.clone(), &over));
            let ending = Ending(&over);
            until(&mut told, "the flood", |it| {
                it.packet.source == Lab::addresses(2)[0]
            });
            thread::sleep(Duration::from_secs(2));
            send(lab.pod(1), SocketAddr::new(Lab::addresses(0)[0], 7));
            let rare = |it: &Sighting| {
                it.packet.transport == Transport::Udp(7) && it.packet.source == Lab::addresses(1)[0]
            };
            until(&mut told, "the rare packet", rare);
            drop(ending);
            let sent = flooding.join().expect("a flood");
            assert!(sent > 1_000, "{variant}: {sent} packets are no flood");
        });
    }
}

#[test]
fn a_rare_packet_is_told_of_in_a_flood_to_one_port() {
    is_told_of_in_a_flood_to(9..10);
}

#[test]
fn a_rare_packet_is_told_of_in_a_flood_to_all_ports() {
    is_told_of_in_a_flood_to(1_000..65_000);
}

/// An IPv4 datagram to UDP port 53, from whatever source the number says, of those that are for tests of this kind.
fn forged(number: u32, destination: [u8; 4]) -> Vec<u8> {
    let mut packet = vec![0x45, 0, 0, 28, 0, 0, 0, 0, 64, 17, 0, 0];
    packet.extend((0xc612_0000 | number & 0x1_ffff).to_be_bytes());
    packet.extend(destination);
    packet.extend([0x9c, 0x40, 0, 53, 0, 8, 0, 0]);
    packet
}

/// Floods pod 0 from pod 2 with 10,000 packets a second, each with another source. Returns how many it sent.
fn flood_with_forged_sources(lab: &Lab, over: &AtomicBool) -> u32 {
    let server = [10, 244, 0, 2];
    let to = SockaddrIn::from(SocketAddrV4::new(server.into(), 0));
    lab.pod(2).inside(|| {
        let (family, flags) = (AddressFamily::Inet, SockFlag::SOCK_CLOEXEC);
        let socket = socket(family, SockType::Raw, flags, SockProtocol::Raw).expect("the test runs as root");
        let (started, mut sent) = (Instant::now(), 0);
        while !over.load(Ordering::Relaxed) {
            while f64::from(sent) < started.elapsed().as_secs_f64() * 10_000.0 {
                // A full queue drops packets of a flood, and that is no matter.
                let _ = sendto(socket.as_raw_fd(), &forged(sent, server), &to, MsgFlags::empty());
                sent += 1;
            }
            thread::sleep(Duration::from_millis(1));
        }
        sent
    })
}

#[test]
fn a_rare_packet_is_told_of_in_a_flood_with_forged_sources() {
    let (lab, mut told) = lab(Variant::Nft);
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        let flooding = scope.spawn(|| flood_with_forged_sources(&lab, &over));
        let ending = Ending(&over);
        // By now the kernel's own default limits would have filled up, and hide whatever is new.
        thread::sleep(Duration::from_secs(8));
        send(lab.pod(1), SocketAddr::new(Lab::addresses(0)[0], 7));
        let rare = |it: &Sighting| {
            it.packet.transport == Transport::Udp(7) && it.packet.source == Lab::addresses(1)[0]
        };
        until(&mut told, "the rare packet", rare);
        drop(ending);
        let sent = flooding.join().expect("a flood");
        assert!(sent > 50_000, "{sent} packets are no flood");
    });
}
