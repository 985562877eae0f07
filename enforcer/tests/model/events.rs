//! Planned and written part by part, event by event: the same as planned and written as a whole.

use proptest::prelude::*;
use ringfence_enforcer::diff::{diff, diff_touched};
use ringfence_enforcer::options::Options;
use ringfence_enforcer::plan::{DIRECTIONS, Planner, Stale};
use ringfence_enforcer::ruleset::Family;
use ringfence_enforcer::simulate::allows;
use ringfence_enforcer::state::State;
use ringfence_policy::{Event, Flow, Resolver, World};

use super::{
    NODE, flows, gated_verdict, moments, next_world, options, ranges, ruleset, same_family, take, world,
};

/// What happens to make one world of another, in an order of its own.
fn events(from: &World, to: &World, order: u64) -> Vec<Event> {
    let gone_pods = from.pods.keys().filter(|key| !to.pods.contains_key(*key));
    let gone_policies = from.policies.keys().filter(|key| !to.policies.contains_key(*key));
    let gone_namespaces = from
        .namespaces
        .keys()
        .filter(|name| !to.namespaces.contains_key(*name));
    let pods = to
        .pods
        .iter()
        .filter(|(key, pod)| from.pods.get(*key) != Some(pod));
    let policies = to
        .policies
        .iter()
        .filter(|(key, policy)| from.policies.get(*key) != Some(policy));
    let namespaces = to
        .namespaces
        .iter()
        .filter(|(name, it)| from.namespaces.get(*name) != Some(it));
    let mut events: Vec<Event> = gone_pods
        .cloned()
        .map(Event::PodGone)
        .chain(gone_policies.cloned().map(Event::PolicyGone))
        .chain(gone_namespaces.cloned().map(Event::NamespaceGone))
        .chain(pods.map(|(_, pod)| Event::Pod(pod.clone())))
        .chain(policies.map(|(_, policy)| Event::Policy(policy.clone())))
        .chain(namespaces.map(|(_, namespace)| Event::Namespace(namespace.clone())))
        .collect();
    let count = events.len().max(1);
    events.rotate_left(usize::try_from(order).unwrap_or(0) % count);
    events
}

/// Everything there is, as the enforcer keeps it.
struct Kept {
    world: World,
    resolver: Resolver,
    planner: Planner,
    state: State,
}

impl Kept {
    fn new(world: &World, options: &Options) -> Self {
        let options = Options {
            police_own_node: world.polices_own_node,
            ..options.clone()
        };
        let mut kept = Self {
            world: World {
                nodes: world.nodes.clone(),
                polices_own_node: world.polices_own_node,
                ..World::default()
            },
            resolver: Resolver::new(NODE),
            planner: Planner::new(&Family::ALL, &options),
            state: State::default(),
        };
        let nothing = kept.world.clone();
        kept.happen(events(&nothing, world, 0));
        kept
    }

    /// Lets events happen and carries out what they change. Returns every moment on the way.
    fn happen(&mut self, events: Vec<Event>) -> Vec<State> {
        let mut stale = Stale::default();
        stale.note(&self.resolver.apply_all(events.clone()));
        events
            .into_iter()
            .for_each(|event| event.happen_in(&mut self.world));
        let node = self.world.nodes.get(NODE).map(|node| node.addresses.clone());
        let (node, compiled) = (node.unwrap_or_default(), self.resolver.compiled());
        self.planner.update(compiled, &node, &stale);
        self.planner.update_gate(compiled, &node, &ranges());
        let touched = self.planner.take_touched();
        let transaction = diff_touched(&self.state, self.planner.ruleset(), &touched).expect("a transaction");
        let moments = moments(&self.state, &transaction.phases);
        transaction
            .phases
            .iter()
            .for_each(|phase| take(&mut self.state, phase));
        self.state.share(transaction.settled);
        moments
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, max_local_rejects: 10_000_000, ..ProptestConfig::default() })]

    #[test]
    fn what_is_planned_event_by_event_is_what_is_planned_at_once(
        (old, new) in world().prop_flat_map(next_world), options in options(), order in any::<u64>(), at_once in 1..4usize
    ) {
        let mut kept = Kept::new(&old, &options);
        prop_assert_eq!(kept.planner.ruleset(), &ruleset(&kept.world, &options));
        for events in events(&kept.world.clone(), &new, order).chunks(at_once) {
            kept.happen(events.to_vec());
            let whole = ruleset(&kept.world, &options);
            prop_assert_eq!(kept.planner.ruleset(), &whole);
            let left = diff(&kept.state, &whole).expect("a transaction").phases;
            prop_assert_eq!(left, vec![], "part of the ruleset was not looked at");
        }
    }

    #[test]
    fn no_moment_between_two_events_is_more_open_or_more_closed_than_before_and_after(
        ((old, new), options, flows, order) in (world().prop_flat_map(next_world), options(), any::<u64>())
            .prop_flat_map(|(worlds, options, order)| {
                let flows = (flows(&worlds.0), flows(&worlds.1));
                (Just(worlds), Just(options), flows.prop_map(|(a, b)| [a, b].concat()), Just(order))
            })
    ) {
        let mut kept = Kept::new(&old, &options);
        let flows: Vec<Flow> = flows.into_iter().filter(same_family).collect();
        for event in events(&kept.world.clone(), &new, order).into_iter().take(8) {
            let before = kept.world.clone();
            let moments = kept.happen(vec![event]);
            for (flow, direction) in flows.iter().flat_map(|flow| DIRECTIONS.map(|direction| (flow, direction))) {
                let (was, is) = (gated_verdict(&before, &options, &ranges(), flow, direction), gated_verdict(&kept.world, &options, &ranges(), flow, direction));
                prop_assert_eq!(allows(&kept.state, flow, direction), Ok(is), "{:?} {}", flow, direction);
                for moment in &moments {
                    let allowed = allows(moment, flow, direction).expect("a sound state");
                    prop_assert!(allowed || !(was && is), "closed for a moment: {:?} {}", flow, direction);
                    prop_assert!(!allowed || was || is, "open for a moment: {:?} {}", flow, direction);
                }
            }
        }
    }
}
