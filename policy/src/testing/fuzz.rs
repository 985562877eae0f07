//! What fuzzers feed with bytes. They panic where something is wrong, and so do the tests that run them on the seeds.

use std::net::IpAddr;

use k8s_openapi::api::networking::v1::NetworkPolicy;

use super::bytes::Choices;
use super::resolved_allows;
use crate::coverage::coverage;
use crate::evaluate::{Flow, IndexedWorld, evaluate};
use crate::explain::explain;
use crate::model::{Namespace, Node, ObjectKey, Pod, Policy, Protocol};
use crate::resolve::incremental::Resolver;
use crate::resolve::resolve;
use crate::world::World;

/// A NetworkPolicy as JSON, whatever it is: it is read, or refused with the field, and either way it isolates and the two
/// readings agree on it.
pub fn policy_json(bytes: &[u8]) {
    let Ok(policy) = serde_json::from_slice::<NetworkPolicy>(bytes) else {
        return;
    };
    let closed = Policy::closed(&policy);
    let read = match Policy::from_api(&policy) {
        Ok(read) => {
            assert_eq!(
                Policy::from_api(&policy).as_ref(),
                Ok(&read),
                "reading has no memory"
            );
            read
        }
        Err(error) => {
            assert!(
                error.field.starts_with("spec.") && !error.reason.is_empty(),
                "{error}"
            );
            closed
        }
    };
    let world = around(read);
    let addresses: Vec<IpAddr> = world
        .pods
        .values()
        .flat_map(|pod| pod.addresses.clone())
        .collect();
    for source in &addresses {
        for destination in &addresses {
            for port in [80, 8080] {
                check(
                    &world,
                    &Flow {
                        source: *source,
                        destination: *destination,
                        protocol: Protocol::Tcp,
                        port,
                    },
                );
            }
        }
    }
    check_whole(&world);
}

/// A world and flows in it, each choice made by a byte.
pub fn world(bytes: &[u8]) {
    let mut choices = Choices(bytes);
    let world = choices.world();
    for _ in 0..8 {
        check(&world, &choices.flow(&world));
    }
    check_whole(&world);
}

/// A small world around a policy: pods it may select in its namespace, and one in another.
fn around(policy: Policy) -> World {
    let mut world = World::default();
    let own = policy.key.namespace.clone();
    let other = format!("{own}-other");
    world.insert_node(Node {
        name: "node".to_owned(),
        addresses: [[172, 30, 0, 3]].map(IpAddr::from).to_vec(),
    });
    for name in [&own, &other] {
        world.insert_namespace(Namespace {
            name: name.clone(),
            labels: [("kubernetes.io/metadata.name".to_owned(), name.clone())].into(),
        });
    }
    // The labels that the policy asks for, so that it selects something.
    let labels = super::meeting(&policy.pod_selector);
    let pods = [
        (&own, "a", labels),
        (&own, "b", [].into()),
        (&other, "c", [].into()),
    ];
    for (number, (namespace, name, labels)) in (2..).zip(pods) {
        world.insert_pod(Pod {
            key: ObjectKey::new(namespace.clone(), name),
            uid: name.to_owned(),
            labels,
            node: Some("node".to_owned()),
            addresses: vec![IpAddr::from([10, 244, 0, number])],
            host_network: false,
            finished: false,
            terminating: false,
            ports: Vec::new(),
            service_account: "default".to_owned(),
        });
    }
    world.insert_policy(policy);
    world
}

/// Every reading says the same of a flow, and a denial can be remedied.
fn check(world: &World, flow: &Flow) {
    let verdict = evaluate(world, flow);
    assert_eq!(
        resolved_allows(world, flow),
        verdict.allowed(),
        "{flow:?}: {verdict:?}"
    );
    assert_eq!(IndexedWorld::new(world).evaluate(flow), verdict);
    let explanation = explain(world, flow);
    assert_eq!(explanation.verdict(), verdict);
    assert!(!explanation.to_string().is_empty());
    let remedied = explanation
        .near_misses()
        .fold(world.clone(), |world, near| near.remedy.apply(&world));
    assert!(evaluate(&remedied, flow).allowed(), "{explanation}");
}

/// The incremental reading agrees with the whole one, and every pod that policies can act on is looked at.
fn check_whole(world: &World) {
    for node in world.nodes.keys() {
        assert_eq!(
            Resolver::from_world(node, world).node_policies(),
            resolve(world, node)
        );
    }
    let covered = coverage(world, |_| false);
    assert_eq!(
        covered.pods.len(),
        world
            .pods
            .values()
            .filter(|pod| !pod.finished && !pod.host_network)
            .count()
    );
}
