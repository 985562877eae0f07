//! What can make policies forbid what they allowed: not only a policy that changes.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};

use ringfence_enforcer::cluster::{Kind as ObjectKind, Object, Update};
use ringfence_enforcer::droplog::Verdict;
use ringfence_enforcer::kernel::Variant;
use ringfence_policy::{Direction, ObjectKey, Pod, Protocol};

use super::super::net::Lab;
use super::super::world::{peers, policy, ports, rule, world};
use super::{Scene, assert_over, assert_unharmed, lets_in, talking, tell, upsert};

/// A pod of the laboratory's world, with other labels.
pub(super) fn relabelled(number: u8, label: &str) -> Pod {
    let mut pods = world(8, vec![]).pods;
    let key = ObjectKey::new("default", format!("pod-{number}"));
    let mut pod = pods.remove(&key).expect("it is in the world");
    pod.labels = [("pod".to_owned(), label.to_owned())].into();
    pod
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_that_loses_its_label_loses_its_connections() {
    let scene = Scene::new(Variant::Nft, 5, vec![lets_in(&[2, 4])]).await;
    let (mut forbidden, allowed) = (scene.talks(2, 0), scene.talks(4, 0));
    tell(
        &scene.agent,
        [Update::Upsert(Object::Pod(relabelled(2, "other")))],
    )
    .await;
    assert_over(
        &mut forbidden,
        "the client is no longer one that the policy names",
    );
    assert_unharmed(&allowed, "the client is one that the policy names");
    let ended = scene.agent.ended();
    let (clients, servers) = (Lab::addresses(2), Lab::addresses(0));
    for sighting in &ended {
        let told = sighting.packet;
        assert_eq!(
            (told.verdict, told.direction),
            (Verdict::Ended, Direction::Ingress)
        );
        assert!(
            clients.contains(&told.source) && servers.contains(&told.destination),
            "{told:?}"
        );
    }
    let connections: u64 = ended.iter().map(|sighting| sighting.packets).sum();
    assert_eq!(connections, scene.agent.counters.revoked());
    assert!(connections >= forbidden.len() as u64, "{ended:?}");
    scene.agent.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_that_a_policy_begins_to_select_keeps_only_what_that_allows() {
    let entrance = rule(vec![peers(&[4])], talking());
    let guarded = policy("guarded", &[7], Some(vec![entrance]), None);
    let scene = Scene::new(Variant::Nft, 5, vec![guarded]).await;
    let (mut forbidden, allowed) = (scene.talks(2, 0), scene.talks(4, 0));
    tell(&scene.agent, [Update::Upsert(Object::Pod(relabelled(0, "7")))]).await;
    assert_over(&mut forbidden, "the server's new label isolates it");
    assert_unharmed(&allowed, "the new policy allows these");
    scene.agent.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_that_moves_to_another_pod_leaves_the_connections_of_the_first() {
    let closed = policy("closed", &[7], Some(vec![]), None);
    let scene = Scene::new(Variant::Nft, 5, vec![lets_in(&[2]), closed]).await;
    let (mut forbidden, elsewhere) = (scene.talks(2, 0), scene.talks(2, 3));
    let mut heir = relabelled(0, "7");
    heir.key = ObjectKey::new("default", "heir");
    heir.uid = "heir".to_owned();
    let gone = Update::Remove(ObjectKind::Pod, ObjectKey::new("default", "pod-0"));
    tell(&scene.agent, [Update::Upsert(Object::Pod(heir)), gone]).await;
    assert_over(&mut forbidden, "the address belongs to a pod that lets nobody in");
    assert_unharmed(&elsewhere, "the other server's address is its own");
    scene.agent.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_that_may_no_longer_call_anyone_still_answers() {
    let scene = Scene::new(Variant::Legacy, 5, vec![]).await;
    let (answered, mut called) = (scene.talks(2, 0), scene.talks(0, 3));
    tell(&scene.agent, upsert([policy("silent", &[0], None, Some(vec![]))])).await;
    assert_over(&mut called, "the pod may call nobody");
    assert_unharmed(&answered, "the pod was called, and answers");
    scene.agent.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_policy_that_goes_ends_what_only_it_allowed() {
    let mut second = lets_in(&[2]);
    second.key = ObjectKey::new("default", "second");
    let scene = Scene::new(Variant::Nft, 5, vec![lets_in(&[4]), second.clone()]).await;
    let (mut forbidden, allowed) = (scene.talks(2, 0), scene.talks(4, 0));
    tell(&scene.agent, [Update::Remove(ObjectKind::Policy, second.key)]).await;
    assert_over(&mut forbidden, "the policy that allowed these is gone");
    assert_unharmed(&allowed, "the other policy allows these");
    scene.agent.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_returns_ends_what_became_forbidden_while_it_was_away() {
    let Scene { lab, servers, agent } = Scene::new(Variant::Nft, 5, vec![lets_in(&[2, 4])]).await;
    let (mut forbidden, allowed) = (
        super::talks(&lab, &servers, 2, 0),
        super::talks(&lab, &servers, 4, 0),
    );
    agent.stop().await;
    // The rules are already those of the new policies, as after a kill between writing and looking.
    let (mut engine, _) = lab.router.engine(Variant::Nft);
    let now = world(5, vec![lets_in(&[4])]);
    engine
        .sync(&super::super::world::ruleset(&now))
        .expect("the kernel takes the rules");
    let agent = super::start(&lab.router, Variant::Nft);
    agent.tell(super::updates(&now));
    agent.until_ready().await;
    agent
        .until("a first look", || agent.counters.walk_due.get() == 0)
        .await;
    let marks = agent.counters.revoked();
    assert_eq!(
        (agent.counters.writes.total(), marks),
        (marks, forbidden.len() as u64),
        "the rules stood already"
    );
    assert_over(&mut forbidden, "no policy allows these any more");
    assert_unharmed(&allowed, "the policy always allowed these");
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_said_nothing_while_it_was_forbidden_goes_on_when_it_is_allowed_again() {
    let everyone = |numbers: &[u8]| {
        let entrance = rule(vec![peers(numbers)], vec![ports(Protocol::Tcp, 7003, 7003)]);
        upsert([policy("quiet", &[0], Some(vec![entrance]), None)])
    };
    let scene = Scene::new(Variant::Nft, 5, vec![]).await;
    tell(&scene.agent, everyone(&[2])).await;
    let to = SocketAddr::new(Lab::addresses(0)[0], 7003);
    let listener = scene
        .lab
        .pod(0)
        .inside(|| TcpListener::bind(to).expect("the port is free"));
    let mut client = scene
        .lab
        .pod(2)
        .inside(|| TcpStream::connect(to).expect("it is allowed"));
    let (mut server, _) = listener.accept().expect("it was opened");
    let mut say = |word: u8| {
        client.write_all(&[word]).expect("it is open");
        let mut heard = [0];
        server.read_exact(&mut heard).expect("it is open");
        assert_eq!(heard, [word]);
    };
    say(1);
    tell(&scene.agent, everyone(&[])).await;
    assert_eq!(scene.agent.counters.revoked(), 1);
    tell(&scene.agent, everyone(&[2])).await;
    let counters = &scene.agent.counters;
    scene.agent.until("no mark", || counters.restored() == 1).await;
    say(2);
    scene.agent.stop().await;
}
