//! Packets of every protocol meet what many ranges of ports say, however they overlap.

use std::collections::BTreeSet;
use std::io::Read;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use ringfence_enforcer::kernel::Variant;
use ringfence_enforcer::names;
use ringfence_enforcer::ruleset::Family;
use ringfence_policy::{Flow, ObjectKey, Pod, Policy, Protocol, Selector, World, evaluate};
use socket2::{Domain, Socket, Type};

use super::net::{Lab, Namespace};
use super::world::{block, peers, policy, ports, rule, ruleset, world};

/// How long a packet that is not dropped takes at most, by far.
const PATIENCE: Duration = Duration::from_secs(5);
/// How many packets are on their way at once: as many as a socket holds.
const BATCH: usize = 50;
const PROTOCOLS: [Protocol; 3] = [Protocol::Tcp, Protocol::Udp, Protocol::Sctp];

/// Pod 0 lets the others in, and pod 1 may go out, at forty ranges that overlap and a few that do not.
fn policies() -> Vec<Policy> {
    let mut policies = Vec::new();
    for number in 0..40_u16 {
        let first = 1_000 + 25 * number;
        // Every second range reaches over the next ones.
        let last = first + if number % 2 == 0 { 60 } else { 9 };
        let other = u8::try_from(number % 3).unwrap_or_default();
        // Makes the peers of each policy other ones than another's, by definition.
        let absent = 100 + u8::try_from(number).unwrap_or_default();
        let range = |protocol: usize| ports(PROTOCOLS[protocol % 3], first, last);
        let ranges = vec![range(usize::from(number)), range(usize::from(number) + 1)];
        let ingress = vec![rule(vec![peers(&[1 + other, absent])], ranges.clone())];
        policies.push(policy(&format!("in-{number}"), &[0], Some(ingress), None));
        let egress = vec![rule(vec![peers(&[2 * other % 4, absent])], ranges)];
        policies.push(policy(&format!("out-{number}"), &[1], None, Some(egress)));
    }
    policies
}

/// The first packets of connections between local pods and others, at the ends of ranges and beside them.
fn flows() -> Vec<Flow> {
    let mut flows = Vec::new();
    let pairs = [(1, 0), (2, 0), (3, 0), (1, 2)];
    for port in (990..2_100)
        .step_by(25)
        .flat_map(|port| [port, port + 9, port + 10, port + 20])
    {
        for (from, to) in pairs {
            for (source, destination) in Lab::addresses(from).into_iter().zip(Lab::addresses(to)) {
                flows.extend(PROTOCOLS.map(|protocol| Flow {
                    source,
                    destination,
                    protocol,
                    port,
                }));
            }
        }
    }
    flows
}

/// The first packet of a connection, as far as rules look at it. The port that it comes from tells it from all others.
fn packet(flow: &Flow, number: u16) -> Vec<u8> {
    let ports = [FIRST + number, flow.port].map(u16::to_be_bytes).concat();
    let rest: &[u8] = match flow.protocol {
        // Sequence numbers, five words of header, SYN, a window.
        Protocol::Tcp => &[0, 0, 0, 1, 0, 0, 0, 0, 0x50, 0x02, 0xff, 0xff, 0, 0, 0, 0],
        Protocol::Udp => &[0, 8, 0, 0],
        // A tag, and the beginning of an INIT.
        Protocol::Sctp => &[0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 4],
    };
    [ports.as_slice(), rest].concat()
}

/// The port that the first packet comes from. No flow goes to such a port.
const FIRST: u16 = 20_000;

/// Sockets that send and receive whatever their protocol's header says: this kernel need not know SCTP.
struct Sockets {
    pod: u8,
    family: Family,
    protocol: Protocol,
    socket: Socket,
}

fn sockets(lab: &Lab) -> Vec<Sockets> {
    let mut sockets = Vec::new();
    for (pod, family) in (0..4).flat_map(|pod| Family::ALL.map(|family| (pod, family))) {
        for protocol in PROTOCOLS {
            let domain = match family {
                Family::V4 => Domain::IPV4,
                Family::V6 => Domain::IPV6,
            };
            let number = match protocol {
                Protocol::Tcp => 6,
                Protocol::Udp => 17,
                Protocol::Sctp => 132,
            };
            let socket = lab
                .pod(pod)
                .inside(|| Socket::new(domain, Type::RAW, Some(number.into())).expect("root may have it"));
            socket.set_nonblocking(true).expect("a socket");
            sockets.push(Sockets {
                pod,
                family,
                protocol,
                socket,
            });
        }
    }
    sockets
}

/// The numbers of the packets that have arrived.
fn receive(sockets: &mut [Sockets]) -> BTreeSet<u16> {
    let mut arrived = BTreeSet::new();
    let mut buffer = [0; 256];
    for at in sockets {
        while let Ok(length) = at.socket.read(&mut buffer) {
            // IPv4 comes with its header.
            let header = if at.family == Family::V4 { 20 } else { 0 };
            let from = buffer[..length]
                .get(header..header + 2)
                .and_then(|port| port.first_chunk());
            let number = from.and_then(|port| u16::from_be_bytes(*port).checked_sub(FIRST));
            arrived.extend(number);
        }
    }
    arrived
}

fn send(sockets: &[Sockets], flow: &Flow, number: u16) {
    let from = |at: &&Sockets| {
        Lab::addresses(at.pod).contains(&flow.source)
            && at.family == Family::of(flow.source)
            && at.protocol == flow.protocol
    };
    let at = sockets.iter().find(from).expect("the source is a pod");
    let to = SocketAddr::new(flow.destination, 0);
    at.socket
        .send_to(&packet(flow, number), &to.into())
        .unwrap_or_else(|error| panic!("{flow:?}: {error}"));
}

fn assert_packets_obey(sockets: &mut [Sockets], world: &World, when: &str) {
    // Between pods of other nodes nothing is enforced here, so this one arrives, and after those that were sent before.
    let last = Flow {
        source: Lab::addresses(3)[0],
        destination: Lab::addresses(2)[0],
        protocol: Protocol::Udp,
        port: 1,
    };
    let flows = flows();
    let mut arrived = BTreeSet::new();
    for (batch, chunk) in (0..).zip(flows.chunks(BATCH)) {
        let first = batch * u16::try_from(BATCH + 1).expect("a small number");
        for (number, flow) in (first..).zip(chunk.iter().chain([&last])) {
            send(sockets, flow, number);
        }
        let end = first + u16::try_from(chunk.len()).expect("a small number");
        let started = Instant::now();
        while !arrived.contains(&end) {
            assert!(started.elapsed() < PATIENCE, "{when}: {last:?} does not arrive");
            arrived.extend(receive(sockets));
        }
    }
    arrived.extend(receive(sockets));
    let numbers = (0..).flat_map(|batch| (0..BATCH).map(move |place| batch * (BATCH + 1) + place));
    let wrong = flows.iter().zip(numbers).filter_map(|(flow, number)| {
        let allowed = evaluate(world, flow).allowed();
        let passed = arrived.contains(&u16::try_from(number).expect("a small number"));
        (passed != allowed).then(|| format!("{flow:?} should pass: {allowed}"))
    });
    let wrong: Vec<String> = wrong.collect();
    assert!(wrong.is_empty(), "{when}:\n{}", wrong.join("\n"));
}

fn packets_obey_in(variant: Variant) {
    let lab = Lab::new(4);
    let mut sockets = sockets(&lab);
    let (mut engine, _) = lab.router.engine(variant);
    assert_packets_obey(&mut sockets, &world(4, vec![]), "before anything");
    let many = world(4, policies());
    let rules = ruleset(&many);
    for (family, tables) in &rules.families {
        let chains = tables.chains.keys().filter(|chain| names::is_port_chain(chain));
        assert!(chains.count() > 10, "{family} has no tree");
    }
    engine.sync(&rules).expect("the kernel takes the rules");
    assert_packets_obey(&mut sockets, &many, "with ranges");
    let half = world(4, policies().into_iter().step_by(3).collect());
    engine.sync(&ruleset(&half)).expect("the kernel takes the rules");
    assert_packets_obey(&mut sockets, &half, "with fewer ranges");
}

#[test]
fn packets_obey_many_ranges_in_nft() {
    packets_obey_in(Variant::Nft);
}

#[test]
fn packets_obey_many_ranges_in_legacy() {
    packets_obey_in(Variant::Legacy);
}

/// Rules that could lead a packet deeper than it may jump would be refused, with those of all other pods.
#[test]
fn the_kernel_takes_thousands_of_ranges_at_one_of_many_pods() {
    let ranges = (0..3_500_u16).map(|number| {
        let peer = format!("11.0.{}.{}/32", number / 250, number % 250);
        rule(
            vec![block(&peer, &[])],
            vec![ports(Protocol::Tcp, 1 + number, 30_000 + number)],
        )
    });
    let mut world = world(2, vec![policy("api", &[0], Some(ranges.collect()), None)]);
    let everybody = Policy {
        pod_selector: Selector::everything(),
        ..policy("everybody", &[], Some(vec![]), Some(vec![]))
    };
    world.insert_policy(everybody);
    for number in 0..250_u8 {
        let like = world.pods.values().next().cloned().expect("two pods");
        world.insert_pod(Pod {
            key: ObjectKey::new("default", format!("more-{number}")),
            uid: format!("more-{number}"),
            labels: [].into(),
            addresses: vec![[10, 99, 0, number].into()],
            ..like
        });
    }
    let wanted = ruleset(&world);
    for variant in Variant::ALL {
        let namespace = Namespace::new();
        let (mut engine, _) = namespace.engine(variant);
        engine.sync(&wanted).expect("the kernel takes the rules");
        assert_eq!(
            engine.audit().expect("the kernel can be read"),
            Vec::<String>::new(),
            "{variant}"
        );
    }
}
