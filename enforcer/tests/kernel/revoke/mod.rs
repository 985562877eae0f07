//! A policy that tightens ends the connections that it no longer allows, at both ends, and no other loses anything.

mod causes;
pub(super) mod crowd;
pub(super) mod entries;
mod guard;
mod talk;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use ringfence_enforcer::cluster::{Object, Update};
use ringfence_enforcer::kernel::Variant;
use ringfence_enforcer::rules::entrance;
use ringfence_policy::{Policy, PortMatch, Protocol};

use super::agent::{Running, start, start_unguarded};
use super::net::{Lab, Namespace};
use super::world::{peers, policy, ports, rule, updates, world};
use talk::{Kind, Servers, Talk, fall_silent, go_on, list, until_each};

/// The ports of every kind of conversation.
fn talking() -> Vec<PortMatch> {
    vec![ports(Protocol::Tcp, 7000, 7001), ports(Protocol::Udp, 7002, 7002)]
}

/// Lets the pods with these numbers talk to pod 0.
fn lets_in(numbers: &[u8]) -> Policy {
    let rule = rule(vec![peers(numbers)], talking());
    policy("server", &[0], Some(vec![rule]), None)
}

/// Lets pod 1 talk to the pods with these numbers.
fn lets_out(numbers: &[u8]) -> Policy {
    let rule = rule(vec![peers(numbers)], talking());
    policy("client", &[1], None, Some(vec![rule]))
}

/// The address at which the router offers what a pod serves, as kube-proxy offers a Service.
fn service(pod: u8) -> [IpAddr; 2] {
    [
        IpAddr::from([10, 96, 0, pod]),
        IpAddr::from([0xfd00, 0x96, 0, 0, 0, 0, 0, u16::from(pod)]),
    ]
}

fn offer(lab: &Lab, variant: Variant, pod: u8) {
    let programs = ["iptables", "ip6tables"];
    for ((program, service), pod) in programs.into_iter().zip(service(pod)).zip(Lab::addresses(pod)) {
        let (program, service, pod) = (
            format!("{program}-{variant}"),
            service.to_string(),
            pod.to_string(),
        );
        let jump = ["-d", &service, "-j", "DNAT", "--to-destination", &pod];
        lab.router.run(
            &[
                &[&program, "-w", "-t", "nat", "-A", "PREROUTING"],
                jump.as_slice(),
            ]
            .concat(),
        );
    }
}

/// Conversations of a pod with another: of every kind, in both families, by its address and by its Service's.
fn talks(lab: &Lab, servers: &Servers, from: u8, to: u8) -> Vec<Talk> {
    let mut talks = Vec::new();
    for (family, source) in Lab::addresses(from).into_iter().enumerate() {
        for address in [Lab::addresses(to)[family], service(to)[family]] {
            for kind in Kind::ALL {
                let to = SocketAddr::new(address, kind.port());
                talks.push(Talk::open(servers, lab.pod(from), source, to, kind));
            }
        }
    }
    talks
}

async fn tell(agent: &Running, updates: impl IntoIterator<Item = Update>) {
    let (before, walked) = (agent.counters.syncs.get(), agent.counters.walk_due.get());
    assert_eq!(walked, 0, "every connection was looked at before the next change");
    agent.tell(updates);
    agent
        .until("a sync", || agent.counters.syncs.get() > before)
        .await;
    agent
        .until("a look at all", || agent.counters.walk_due.get() == 0)
        .await;
}

fn upsert(policies: impl IntoIterator<Item = Policy>) -> Vec<Update> {
    policies
        .into_iter()
        .map(|policy| Update::Upsert(Object::Policy(policy)))
        .collect()
}

/// Whether packets of known connections are compared with the mark of revoked ones.
fn compares(router: &Namespace, variant: Variant) -> bool {
    let [compare, _] = entrance().map(|rule| format!("-A FORWARD {rule}"));
    router
        .run(&[&format!("iptables-{variant}-save")])
        .contains(&compare)
}

/// A laboratory that enforces, with conversations.
struct Scene {
    lab: Lab,
    servers: Arc<Servers>,
    agent: Running,
}

impl Scene {
    /// Pods 0 and 3 serve, and the router offers what they do as Services.
    async fn new(variant: Variant, pods: u8, policies: Vec<Policy>) -> Self {
        let lab = Lab::new(pods);
        let servers = Servers::start(&lab, &[0, 3]);
        [0, 3].into_iter().for_each(|pod| offer(&lab, variant, pod));
        let agent = start_unguarded(&lab.router, variant);
        agent.tell(updates(&world(pods, policies)));
        agent.until_ready().await;
        agent
            .until("a first look", || agent.counters.walk_due.get() == 0)
            .await;
        // While nothing is revoked, packets of known connections are not compared with the mark.
        agent
            .until("no comparison", || !compares(&lab.router, variant))
            .await;
        // One family comes after the other: the end of that sync must not be taken for the next change's.
        agent
            .until("the end of that sync", || agent.counters.syncs.get() >= 2)
            .await;
        Self { lab, servers, agent }
    }

    fn talks(&self, from: u8, to: u8) -> Vec<Talk> {
        talks(&self.lab, &self.servers, from, to)
    }
}

fn all(talks: &[Talk]) -> Vec<&Talk> {
    talks.iter().collect()
}

/// Nothing is heard any more, and on TCP both ends are told as soon as they have said something.
fn assert_over(talks: &mut [Talk], why: &str) {
    let left = fall_silent(&all(talks));
    assert!(left.is_empty(), "{why}, and still go on:{}", list(&left));
    talks.iter_mut().for_each(Talk::break_silence);
    let tcp: Vec<&Talk> = talks.iter().filter(|talk| talk.kind != Kind::Datagrams).collect();
    // Of two ends that wait for each other, the one that spoke last is told. The other has nothing to say.
    let told = |talk: &Talk| match talk.kind {
        Kind::ServerTalks => talk.ended() == [true, true],
        _ => talk.ended().contains(&true),
    };
    let left = until_each(&tcp, told);
    assert!(left.is_empty(), "{why}, and an end is not told:{}", list(&left));
}

/// They go on, and never missed anything.
fn assert_unharmed(talks: &[Talk], why: &str) {
    let left = go_on(&all(talks));
    assert!(left.is_empty(), "{why}, and are silent:{}", list(&left));
    let harmed: Vec<&Talk> = talks
        .iter()
        .filter(|talk| talk.missing() > 0 || talk.ended().contains(&true))
        .collect();
    assert!(harmed.is_empty(), "{why}, and lost something:{}", list(&harmed));
}

/// From another node and from this, into pod 0, and from pod 1 to another node.
async fn exactly_what_is_forbidden_ends(variant: Variant) {
    let scene = Scene::new(variant, 5, vec![lets_in(&[1, 2, 4]), lets_out(&[0, 3])]).await;
    let mut forbidden: Vec<Talk> = [(2, 0), (1, 0), (1, 3)]
        .into_iter()
        .flat_map(|(from, to)| scene.talks(from, to))
        .collect();
    let allowed: Vec<Talk> = [(4, 0), (4, 3), (2, 3)]
        .into_iter()
        .flat_map(|(from, to)| scene.talks(from, to))
        .collect();

    tell(&scene.agent, upsert([lets_in(&[4]), lets_out(&[])])).await;
    assert_over(&mut forbidden, "no policy allows these any more");
    assert_unharmed(&allowed, "the policies always allowed these");
    assert_eq!(
        scene.agent.counters.revoked(),
        forbidden.len() as u64,
        "each once"
    );

    tell(&scene.agent, upsert([lets_in(&[1, 2, 4]), lets_out(&[0, 3])])).await;
    let datagrams: Vec<&Talk> = forbidden
        .iter()
        .filter(|talk| talk.kind == Kind::Datagrams)
        .collect();
    let left = go_on(&datagrams);
    assert!(left.is_empty(), "allowed again, and still silent:{}", list(&left));
    let anew: Vec<Talk> = [(2, 0), (1, 0), (1, 3)]
        .into_iter()
        .flat_map(|(from, to)| scene.talks(from, to))
        .collect();
    assert_unharmed(&anew, "allowed again, and opened anew");
    assert_unharmed(&allowed, "the policies always allowed these");
    scene.agent.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn exactly_what_is_forbidden_ends_in_nft() {
    exactly_what_is_forbidden_ends(Variant::Nft).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn exactly_what_is_forbidden_ends_in_legacy() {
    exactly_what_is_forbidden_ends(Variant::Legacy).await;
}
