//! The resolver that is kept up to date event by event, held to the one that reads the whole world.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;

use proptest::prelude::*;
use ringfence_policy::{
    Change, Changes, Compiled, Event, GroupChange, Namespace, ObjectKey, Resolver, World, resolve, testing,
};

const NODE: &str = "node-0";

/// What an event is about.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum About {
    Pod(ObjectKey),
    Namespace(String),
    Policy(ObjectKey),
}

fn about(event: &Event) -> About {
    match event {
        Event::Pod(pod) => About::Pod(pod.key.clone()),
        Event::PodGone(key) => About::Pod(key.clone()),
        Event::Namespace(namespace) => About::Namespace(namespace.name.clone()),
        Event::NamespaceGone(name) => About::Namespace(name.clone()),
        Event::Policy(policy) => About::Policy(policy.key.clone()),
        Event::PolicyGone(key) => About::Policy(key.clone()),
    }
}

/// The event that undoes `event` in `world`.
fn inverse(event: &Event, world: &World) -> Event {
    match about(event) {
        About::Pod(key) => world
            .pods
            .get(&key)
            .cloned()
            .map_or(Event::PodGone(key), Event::Pod),
        About::Policy(key) => world
            .policies
            .get(&key)
            .cloned()
            .map_or(Event::PolicyGone(key), Event::Policy),
        About::Namespace(name) => {
            let namespace: Option<Namespace> = world.namespaces.get(&name).cloned();
            namespace.map_or(Event::NamespaceGone(name), Event::Namespace)
        }
    }
}

fn events() -> impl Strategy<Value = Vec<Event>> {
    prop::collection::vec(testing::event(), 0..40)
}

/// A world as events, so that sequences start in the middle of things.
fn history() -> impl Strategy<Value = Vec<Event>> {
    (testing::world(), events()).prop_map(|(world, events)| {
        let pods = world.pods.into_values().map(Event::Pod);
        let policies = world.policies.into_values().map(Event::Policy);
        let namespaces = world.namespaces.into_values().map(Event::Namespace);
        pods.chain(policies).chain(namespaces).chain(events).collect()
    })
}

fn after(events: &[Event]) -> Compiled {
    let mut resolver = Resolver::new(NODE);
    for event in events {
        resolver.apply(event.clone());
    }
    resolver.compiled().clone()
}

/// Nothing in `changes` is as it was before.
fn assert_smallest(changes: &Changes, before: &Compiled) {
    fn differs<T: PartialEq>(change: &Change<T>, before: Option<&T>) -> bool {
        match change {
            Change::Added(_) => before.is_none(),
            Change::Changed(now) => before.is_some_and(|before| before != now),
            Change::Removed => before.is_some(),
        }
    }
    assert!(
        changes
            .pods
            .iter()
            .all(|(key, change)| differs(change, before.pods.get(key)))
    );
    assert!(
        changes
            .isolations
            .iter()
            .all(|(id, change)| differs(change, before.isolations.get(id)))
    );
    for (id, change) in &changes.groups {
        match (change, before.groups.get(id)) {
            (GroupChange::Added(_), None) | (GroupChange::Removed, Some(_)) => {}
            (GroupChange::Members { added, removed }, Some(before)) => {
                assert!(!added.is_empty() || !removed.is_empty());
                assert!(added.is_disjoint(&before.addresses) && removed.is_subset(&before.addresses));
            }
            (change, before) => panic!("group {id}: {change:?}, and it was {before:?}"),
        }
    }
}

proptest! {
    #![proptest_config(testing::cases(10_000, 100_000))]

    #[test]
    fn after_every_event_the_state_is_that_of_the_whole_world_and_the_changes_lead_there(history in history()) {
        let (mut world, mut mirror, mut resolver) = (World::default(), Compiled::default(), Resolver::new(NODE));
        for event in history {
            let changes = resolver.apply(event.clone());
            event.happen_in(&mut world);
            assert_smallest(&changes, &mirror);
            mirror.apply(&changes);
            prop_assert_eq!(&mirror, resolver.compiled());
            prop_assert_eq!(resolver.node_policies(), resolve(&world, NODE));
        }
        let rebuilt = Resolver::from_world(NODE, &world);
        prop_assert_eq!(rebuilt.compiled(), resolver.compiled());
    }

    #[test]
    fn squashed_and_split_sequences_end_in_the_same_state(history in history(), size in 1usize..12) {
        let expected = after(&history);
        let mut squashed = Resolver::new(NODE);
        let changes = squashed.apply_all(history.clone());
        assert_smallest(&changes, &Compiled::default());
        prop_assert_eq!(squashed.compiled(), &expected);

        let (mut mirror, mut split) = (Compiled::default(), Resolver::new(NODE));
        for batch in history.chunks(size) {
            let changes = split.apply_all(batch.to_vec());
            assert_smallest(&changes, &mirror);
            mirror.apply(&changes);
            prop_assert_eq!(&mirror, split.compiled());
        }
        prop_assert_eq!(mirror, expected);
    }

    #[test]
    fn the_order_does_not_matter_where_the_last_word_on_each_object_is_the_same(history in history()) {
        let last: BTreeMap<About, Event> = history.iter().map(|event| (about(event), event.clone())).collect();
        let last: Vec<Event> = last.into_values().collect();
        let reversed: Vec<Event> = last.iter().rev().cloned().collect();
        let expected = after(&history);
        prop_assert_eq!(&after(&last), &expected);
        prop_assert_eq!(&after(&reversed), &expected);
    }

    #[test]
    fn what_happens_again_changes_nothing(history in history()) {
        let mut resolver = Resolver::new(NODE);
        for event in history {
            resolver.apply(event.clone());
            prop_assert!(resolver.apply(event).is_empty());
            prop_assert!(resolver.apply_all([]).is_empty());
        }
    }

    #[test]
    fn undoing_everything_leaves_nothing(history in history()) {
        let (mut world, mut resolver, mut undo) = (World::default(), Resolver::new(NODE), Vec::new());
        for event in history {
            undo.push(inverse(&event, &world));
            resolver.apply(event.clone());
            event.happen_in(&mut world);
        }
        for event in undo.into_iter().rev() {
            resolver.apply(event);
        }
        prop_assert_eq!(resolver.compiled(), &Compiled::default());
    }
}
