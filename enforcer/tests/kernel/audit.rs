//! What policies on trial would drop or end is told of, and goes on.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use ringfence_enforcer::audit::{Auditor, Trial};
use ringfence_enforcer::conntrack::Judge;
use ringfence_enforcer::droplog::{Refused, Sighting, Transport, Verdict};
use ringfence_enforcer::kernel::Variant;
use ringfence_enforcer::metrics::Counters;
use ringfence_enforcer::options::DEFAULT_REVOKED_MARK;
use ringfence_enforcer::ruleset::Family;
use ringfence_policy::{Direction, Flow, Policy, Protocol, resolve};
use tokio::sync::mpsc::{Receiver, channel};

use super::drops::{Ending, flood, send, until};
use super::net::Lab;
use super::world::{NODE, peers, policy, ports, rule, ruleset, world};

/// Longer than it takes to tell of a connection, and of all that there are.
const ALL_IS_TOLD: Duration = Duration::from_secs(8);

struct Audited {
    lab: Lab,
    auditor: Auditor,
    told: Receiver<Sighting>,
}

/// Three pods, of which a real policy keeps pod 2 out of TCP 8080 of pod 1; and an auditor that knows no trial yet.
fn audited() -> Audited {
    let lab = Lab::new(3);
    let (mut engine, _) = lab.router.engine(Variant::Nft);
    engine
        .sync(&ruleset(&world(3, vec![real()])))
        .expect("the kernel takes the rules");
    let (tell, told) = channel(10_000);
    let families = Family::ALL.to_vec();
    let auditor = lab
        .router
        .inside(|| Auditor::start(families, DEFAULT_REVOKED_MARK, tell, Counters::default()));
    Audited { lab, auditor, told }
}

fn real() -> Policy {
    let only = rule(vec![peers(&[0])], vec![]);
    policy("real", &[1], Some(vec![only]), None)
}

impl Audited {
    /// From now on these policies are on trial beside the real one.
    fn try_out(&self, policies: Vec<Policy>) {
        self.try_edition(0, policies);
    }

    fn try_edition(&self, edition: u64, mut policies: Vec<Policy>) {
        policies.push(real());
        let trial = resolve(&world(3, policies), NODE);
        let judge = Judge::new(trial, Vec::new(), false);
        self.auditor.judge_by(Some(Trial { judge, edition }));
    }

    /// What was told of until nothing more comes.
    fn all_told(&mut self) -> Vec<Refused> {
        thread::sleep(ALL_IS_TOLD);
        std::iter::from_fn(|| self.told.try_recv().ok())
            .map(|sighting| sighting.packet)
            .collect()
    }
}

fn is_about(told: &Sighting, verdict: Verdict, flow: &Flow) -> bool {
    let transport = match flow.protocol {
        Protocol::Tcp => Transport::Tcp(flow.port),
        Protocol::Udp => Transport::Udp(flow.port),
        Protocol::Sctp => Transport::Sctp(flow.port),
    };
    let found = told.packet;
    (found.verdict, found.source, found.destination, found.transport)
        == (verdict, flow.source, flow.destination, transport)
}

fn flow(from: u8, to: u8, family: usize, protocol: Protocol, port: u16) -> Flow {
    Flow {
        source: Lab::addresses(from)[family],
        destination: Lab::addresses(to)[family],
        protocol,
        port,
    }
}

/// Both ends of a connection from a pod to another, which goes on.
fn connection(lab: &Lab, flow: &Flow, from: u8, to: u8) -> (TcpStream, TcpStream) {
    let listener = lab.pod(to).inside(|| {
        TcpListener::bind(SocketAddr::new(flow.destination, flow.port)).expect("the port is free")
    });
    let address = SocketAddr::new(flow.destination, flow.port);
    let client = lab
        .pod(from)
        .inside(|| TcpStream::connect(address).expect("it is allowed"));
    let (server, _) = listener.accept().expect("it has connected");
    (client, server)
}

#[test]
fn a_connection_that_is_there_is_told_of_as_one_that_would_end_and_goes_on() {
    let mut audited = audited();
    let flows = [0, 1].map(|family| flow(1, 0, family, Protocol::Tcp, 7000));
    let mut connections = flows.map(|flow| connection(&audited.lab, &flow, 1, 0));
    audited.try_out(vec![policy("trial", &[0], Some(vec![]), None)]);
    let mut told = audited.all_told();
    told.sort();
    let refused = flows.map(|flow| Refused {
        verdict: Verdict::WouldEnd,
        direction: Direction::Ingress,
        source: flow.source,
        destination: flow.destination,
        transport: Transport::Tcp(7000),
    });
    assert_eq!(told, refused);
    for (client, server) in &mut connections {
        client.write_all(b"x").expect("it goes on");
        server.read_exact(&mut [0]).expect("it goes on");
    }
    // Other pods by which they would end too are a reason to look, and none to tell again; other policies are.
    let other = || vec![policy("other", &[0, 2], Some(vec![]), None)];
    audited.try_out(other());
    assert_eq!(audited.all_told(), []);
    audited.try_edition(1, other());
    let mut again = audited.all_told();
    again.sort();
    assert_eq!(again, refused);
}

#[test]
fn a_new_connection_is_told_of_as_one_that_would_be_dropped_and_comes_through() {
    let mut audited = audited();
    let only = rule(vec![peers(&[1])], vec![ports(Protocol::Tcp, 80, 80)]);
    audited.try_out(vec![
        policy("trial", &[0], Some(vec![only]), None),
        policy("out", &[1], None, Some(vec![])),
    ]);
    thread::sleep(Duration::from_secs(2));
    for family in 0..2 {
        let ingress = flow(2, 0, family, Protocol::Udp, 53);
        // Both sides' policies object, and each may come alone.
        let both = flow(1, 0, family, Protocol::Tcp, 8080);
        for (flow, directions) in [
            (ingress, vec![Direction::Ingress]),
            (both, vec![Direction::Egress, Direction::Ingress]),
        ] {
            assert!(audited.lab.obeys(&flow, true), "{flow:?}");
            for direction in directions {
                let told = until(&mut audited.told, "a new connection", |it| {
                    is_about(it, Verdict::WouldDrop, &flow)
                });
                assert_eq!(told.packet.direction, direction);
            }
        }
        // What the trial allows, nobody needs to know.
        assert!(audited.lab.obeys(&flow(0, 1, family, Protocol::Tcp, 80), true));
        // What a real policy drops is none of the trial's.
        assert!(!audited.lab.connects(&flow(2, 1, family, Protocol::Tcp, 8080)));
    }
    let rest = audited.all_told();
    assert_eq!(rest, [], "nobody else would be dropped");
    audited.auditor.judge_by(None);
    thread::sleep(Duration::from_secs(1));
    assert!(audited.lab.obeys(&flow(2, 0, 0, Protocol::Udp, 8080), true));
    assert_eq!(audited.all_told(), [], "nothing is on trial");
}

#[test]
fn a_rare_connection_is_told_of_in_a_flood() {
    let mut audited = audited();
    audited.try_out(vec![policy("trial", &[0], Some(vec![]), None)]);
    let over = AtomicBool::new(false);
    let Audited { lab, told, .. } = &mut audited;
    let lab = &*lab;
    thread::scope(|scope| {
        let flooding = scope.spawn(|| flood(lab, 1_000..65_000, &over));
        let ending = Ending(&over);
        until(told, "the flood", |it| it.packet.source == Lab::addresses(2)[0]);
        thread::sleep(Duration::from_secs(2));
        let rare = flow(1, 0, 0, Protocol::Udp, 7);
        send(lab.pod(1), SocketAddr::new(rare.destination, rare.port));
        until(told, "the rare connection", |it| {
            is_about(it, Verdict::WouldDrop, &rare)
        });
        drop(ending);
        let sent = flooding.join().expect("a flood");
        assert!(sent > 1_000, "{sent} packets are no flood");
    });
}

#[test]
fn a_connection_that_the_kernel_did_not_tell_of_is_found_by_looking() {
    let mut audited = audited();
    // Nobody is told of connections that begin.
    audited
        .lab
        .router
        .inside(|| std::fs::write("/proc/sys/net/netfilter/nf_conntrack_events", "0").expect("it is there"));
    audited.try_out(vec![policy("trial", &[0], Some(vec![]), None)]);
    thread::sleep(Duration::from_secs(2));
    let client = audited.lab.pod(1).inside(|| {
        let socket = UdpSocket::bind("0.0.0.0:0").expect("a port is free");
        socket
            .connect(SocketAddr::new(Lab::addresses(0)[0], 53))
            .expect("an address");
        socket
    });
    let flow = flow(1, 0, 0, Protocol::Udp, 53);
    let started = Instant::now();
    // An answered conversation that goes on stays in the table.
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        let ending = Ending(&over);
        scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                client.send(b"x").expect("it goes on");
                thread::sleep(Duration::from_millis(500));
            }
        });
        // Two looks; a second waits for its time.
        while started.elapsed() < Duration::from_secs(40) {
            thread::sleep(Duration::from_millis(200));
            if let Ok(told) = audited.told.try_recv() {
                assert!(is_about(&told, Verdict::WouldEnd, &flow), "{told:?}");
                drop(ending);
                return;
            }
        }
        panic!("never told of");
    });
}
