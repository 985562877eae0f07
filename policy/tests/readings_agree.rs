//! The two readings of a world, held together over random worlds.

use proptest::prelude::*;
use ringfence_policy::{Direction, evaluate, isolating, resolve, testing};

proptest! {
    #![proptest_config(testing::cases(5_000, 50_000))]

    #[test]
    fn resolve_allows_exactly_what_evaluate_allows((world, flows) in testing::world_and_flows(20)) {
        for flow in flows {
            let verdict = evaluate(&world, &flow);
            prop_assert_eq!(testing::resolved_allows(&world, &flow), verdict.allowed(), "{:?}: {:?}", flow, verdict);
        }
    }

    #[test]
    fn a_pod_is_isolated_exactly_where_a_policy_isolates_it((world, _) in testing::world_and_flows(20)) {
        for node in world.nodes.keys() {
            for (key, local) in resolve(&world, node).pods {
                let pod = &world.pods[&key];
                for (direction, isolation) in [(Direction::Ingress, local.ingress), (Direction::Egress, local.egress)] {
                    let expected: Vec<_> = isolating(&world, pod, direction).iter().map(|p| p.key.clone()).collect();
                    prop_assert_eq!(isolation.map(|i| i.policies.clone()).unwrap_or_default(), expected);
                }
            }
        }
    }

    #[test]
    fn adding_a_policy_never_closes_what_another_policy_of_the_same_pods_opened((world, flows) in testing::world_and_flows(20), extra in testing::policy()) {
        // Only an unisolated pod can be closed by one more policy: unions have no order and no deny.
        let mut more = world.clone();
        let mut extra = extra;
        extra.key.name = "extra".to_owned();
        more.insert_policy(extra);
        for flow in flows {
            let (before, after) = (evaluate(&world, &flow), evaluate(&more, &flow));
            if matches!(before.ingress, ringfence_policy::DirectionVerdict::Allowed(_)) {
                prop_assert!(after.ingress.allowed());
            }
            if matches!(before.egress, ringfence_policy::DirectionVerdict::Allowed(_)) {
                prop_assert!(after.egress.allowed());
            }
        }
    }
}
