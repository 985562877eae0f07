//! What the watches tell, list by list, means what the world that they tell of means.

use proptest::prelude::*;
use ringfence_enforcer::cluster::{Cluster, Kind, Object, Update};
use ringfence_policy::{World, resolve};

use super::{NODE, next_world, world};

/// A complete list of every kind, in an order of the watches' own.
fn lists(world: &World, order: usize) -> Vec<Update> {
    let mut lists: Vec<(Kind, Vec<Object>)> = vec![
        (Kind::Pod, world.pods.values().cloned().map(Object::Pod).collect()),
        (
            Kind::Namespace,
            world
                .namespaces
                .values()
                .cloned()
                .map(Object::Namespace)
                .collect(),
        ),
        (
            Kind::Policy,
            world.policies.values().cloned().map(Object::Policy).collect(),
        ),
        (
            Kind::Node,
            world.nodes.values().cloned().map(Object::Node).collect(),
        ),
    ];
    lists.rotate_left(order % 4);
    lists
        .into_iter()
        .flat_map(|(kind, objects)| Update::list(kind, objects))
        .collect()
}

fn addresses(world: &World) -> Vec<std::net::IpAddr> {
    let node = world.nodes.get(NODE);
    node.map(|node| node.addresses.clone()).unwrap_or_default()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn lists_lead_to_what_the_world_means_and_a_second_one_that_says_the_same_changes_nothing(
        (first, second) in world().prop_flat_map(next_world), order in 0..4usize
    ) {
        let mut cluster = Cluster::new(NODE);
        for (world, order) in [(&first, order), (&second, order + 1)] {
            for update in lists(world, order) {
                cluster.apply(update);
            }
            prop_assert!(cluster.missing().is_empty());
            prop_assert_eq!(cluster.policies(), resolve(world, NODE));
            prop_assert_eq!(cluster.addresses(), addresses(world));
            for update in lists(world, order) {
                prop_assert!(!cluster.apply(update.clone()), "{:?}", update);
            }
        }
    }
}
