//! Every moment of every transition: never more open, never more closed than both what was and what shall be.

use std::collections::BTreeSet;
use std::net::IpAddr;

use proptest::prelude::*;
use ringfence_operator::view::ClusterView;
use ringfence_policy::{Direction, Flow, Policy, Protocol, World, evaluate};

use crate::cluster::{ApiServer, outline, planned, world};
use crate::meaning::is_exempt;
use crate::random::{Ground, HOME, Wishes, cluster, ground, wishes_in_any_mode, with_policies_of};

/// Every connection there can be between the pods, and with an address outside.
pub(crate) fn flows(world: &World) -> Vec<Flow> {
    let mut addresses: Vec<IpAddr> = world
        .pods
        .values()
        .flat_map(|pod| pod.addresses.clone())
        .collect();
    addresses.push("192.0.2.1".parse().unwrap());
    let ports = [
        (Protocol::Tcp, 8080),
        (Protocol::Tcp, 8081),
        (Protocol::Tcp, 9090),
        (Protocol::Udp, 53),
    ];
    let mut flows = Vec::new();
    for source in &addresses {
        for destination in addresses.iter().filter(|destination| *destination != source) {
            for (protocol, port) in ports {
                flows.push(Flow {
                    source: *source,
                    destination: *destination,
                    protocol,
                    port,
                });
            }
        }
    }
    flows
}

/// What is compared from moment to moment.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Measure {
    /// Which connections pass, all things considered.
    Connections,
    /// Which connections each end lets pass, whatever the other end says.
    Ends,
}

/// Which of the flows pass; with [`Measure::Ends`], an even number is the source's end, an odd one the destination's.
pub(crate) fn allowed(view: &ClusterView, flows: &[Flow], measure: Measure) -> BTreeSet<usize> {
    let world = world(view);
    let verdicts = flows
        .iter()
        .enumerate()
        .map(|(n, flow)| (n, evaluate(&world, flow)));
    verdicts
        .flat_map(|(n, verdict)| match measure {
            Measure::Connections => [verdict.allowed().then_some(2 * n), None],
            Measure::Ends => {
                let (out, inwards) = (verdict.egress.allowed(), verdict.ingress.allowed());
                [out.then_some(2 * n), inwards.then_some(2 * n + 1)]
            }
        })
        .flatten()
        .collect()
}

impl Measure {
    /// The measure for a change from one state to another: the ends alone in the one exception that no order of writes can
    /// spare (the documentation of `transition` has it).
    pub(crate) fn sparing(self, before: &ClusterView, after: &ClusterView) -> Self {
        if exchanges(before, after) {
            Self::Ends
        } else {
            self
        }
    }
}

/// Whether, between pods of the namespace, each direction comes to let a connection pass that the other one gives up: then one of
/// the two ends is open before the other one closes, whichever direction goes first.
fn exchanges(before: &ClusterView, after: &ClusterView) -> bool {
    let world = world(after);
    let home = |address: &IpAddr| {
        let mut pods = world.pods.values().filter(|pod| pod.key.namespace == HOME);
        pods.any(|pod| pod.addresses.contains(address))
    };
    let mut flows = flows(&world);
    flows.retain(|flow| home(&flow.source) && home(&flow.destination));
    let [before, after] = [before, after].map(|view| allowed(view, &flows, Measure::Ends));
    let turned = |gains: usize, loses: usize| {
        (0..flows.len()).any(|n| {
            let (gained, lost) = (2 * n + gains, 2 * n + loses);
            after.contains(&gained)
                && !before.contains(&gained)
                && before.contains(&lost)
                && !after.contains(&lost)
        })
    };
    turned(0, 1) && turned(1, 0)
}

/// Carries a plan out step by step and checks every moment. Returns the cluster as it is after `steps` steps at most.
fn carry_out(
    api: &mut ApiServer,
    mut view: ClusterView,
    steps: usize,
    measure: Measure,
) -> Result<ClusterView, TestCaseError> {
    let flows = flows(&world(&view));
    let plan = planned(&view, HOME);
    let mut last = view.clone();
    for step in &plan.steps {
        ApiServer::new().apply_unversioned(&mut last, step);
    }
    let measure = measure.sparing(&view, &last);
    let (before, after) = (allowed(&view, &flows, measure), allowed(&last, &flows, measure));
    let show = |n: &usize| {
        format!(
            "{} {:?}",
            if n.is_multiple_of(2) { "->" } else { "<-" },
            flows[n / 2]
        )
    };
    for (n, step) in plan.steps.iter().take(steps).enumerate() {
        api.apply(&mut view, step);
        let now = allowed(&view, &flows, measure);
        let lost: Vec<String> = before
            .intersection(&after)
            .filter(|n| !now.contains(n))
            .map(show)
            .collect();
        prop_assert!(
            lost.is_empty(),
            "after step {n} of {:#?}\nlost: {lost:#?}",
            outline(&plan)
        );
        let leaked: Vec<String> = now
            .iter()
            .filter(|n| !before.contains(n) && !after.contains(n))
            .map(show)
            .collect();
        prop_assert!(
            leaked.is_empty(),
            "after step {n} of {:#?}\nleaked: {leaked:#?}",
            outline(&plan)
        );
    }
    Ok(view)
}

/// A cluster in which the policies of these wishes are written.
fn settled(api: &mut ApiServer, ground: &Ground, wishes: &Wishes) -> ClusterView {
    let mut view = cluster(ground, wishes);
    api.settle(&mut view, HOME);
    view
}

fn exempt(wishes: &Wishes) -> Option<&serde_json::Value> {
    wishes.zero_trust.as_ref().map(|object| &object["spec"]["exempt"])
}

/// Whether anything is wished for that may open one end of a connection and not the other: peers that are accounts, whose egress
/// stays closed where their stamps can't be relied on, and what is outside.
fn opens_one_end(wishes: &Wishes) -> bool {
    let mut all = wishes.others.iter().chain(&wishes.zero_trust);
    all.any(|object| object["kind"] == "ExternalAccess" || object.to_string().contains("\"serviceAccount\""))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn no_connection_is_lost_or_leaks_at_any_moment(
        mut ground in ground(), old in wishes_in_any_mode(), new in wishes_in_any_mode(),
    ) {
        // Others' policies could let a connection pass at one end that ours stop at the other, before and after, by
        // different ends: see the next property for what holds then.
        ground.foreign.clear();
        // So could pods that are left alone no longer, where the same change opens one end alone for others.
        if exempt(&old) != exempt(&new) && (opens_one_end(&old) || opens_one_end(&new)) {
            return Ok(());
        }
        let mut api = ApiServer::new();
        let before = settled(&mut api, &ground, &old);
        let next = with_policies_of(&before, cluster(&ground, &new));
        carry_out(&mut api, next, usize::MAX, Measure::Connections)?;
    }

    #[test]
    fn no_end_is_more_open_or_more_closed_than_before_and_after_at_any_moment(
        ground in ground(), old in wishes_in_any_mode(), new in wishes_in_any_mode(),
    ) {
        let mut api = ApiServer::new();
        let before = settled(&mut api, &ground, &old);
        let next = with_policies_of(&before, cluster(&ground, &new));
        let after = carry_out(&mut api, next, usize::MAX, Measure::Ends)?;
        prop_assert_eq!(planned(&after, HOME).steps, vec![], "a second plan has nothing left to do");
    }

    #[test]
    fn a_plan_cut_off_anywhere_is_finished_by_the_next(
        ground in ground(), old in wishes_in_any_mode(), new in wishes_in_any_mode(), cut in 0usize..12,
    ) {
        let mut api = ApiServer::new();
        let before = settled(&mut api, &ground, &old);
        let cut_off = carry_out(&mut api, with_policies_of(&before, cluster(&ground, &new)), cut, Measure::Ends)?;
        let after = carry_out(&mut api, cut_off, usize::MAX, Measure::Ends)?;
        prop_assert_eq!(planned(&after, HOME).steps, vec![]);
        let fresh = settled(&mut ApiServer::new(), &ground, &new);
        let flows = flows(&world(&fresh));
        let measured = |view| allowed(view, &flows, Measure::Ends);
        prop_assert_eq!(measured(&after), measured(&fresh));
    }

    #[test]
    fn pods_that_are_and_were_left_alone_are_isolated_at_no_moment(
        mut ground in ground(), old in wishes_in_any_mode(), new in wishes_in_any_mode(),
    ) {
        ground.foreign.clear();
        let mut api = ApiServer::new();
        let mut view = with_policies_of(&settled(&mut api, &ground, &old), cluster(&ground, &new));
        // Where nothing is in force any more nobody is left alone, and a bridge may open any pod.
        if old.zero_trust.is_none() || new.zero_trust.is_none() {
            return Ok(());
        }
        let world = world(&view);
        let at_home = world.pods.values().filter(|pod| pod.key.namespace == HOME);
        let spared: Vec<_> = at_home.filter(|pod| is_exempt(&old, pod) && is_exempt(&new, pod)).collect();
        for step in planned(&view, HOME).steps {
            api.apply(&mut view, &step);
            for policy in view.policies.get(HOME).into_iter().flatten() {
                let policy = Policy::from_api(policy).unwrap();
                for (pod, direction) in spared.iter().flat_map(|pod| [(pod, Direction::Ingress), (pod, Direction::Egress)]) {
                    let opens = policy.rules(direction).is_some_and(|rules| {
                        rules.iter().any(|rule| rule.peers.is_none() && rule.ports.is_none())
                    });
                    prop_assert!(!policy.isolates(pod, direction) || opens, "{policy:?} isolates {pod:?}");
                }
            }
        }
    }

    #[test]
    fn nothing_of_others_is_ever_written(ground in ground(), old in wishes_in_any_mode(), new in wishes_in_any_mode()) {
        let mut api = ApiServer::new();
        let before = settled(&mut api, &ground, &old);
        let next = with_policies_of(&before, cluster(&ground, &new));
        let plan = planned(&next, HOME);
        for line in outline(&plan) {
            prop_assert!(!line.contains("foreign"), "{line}");
        }
    }
}
