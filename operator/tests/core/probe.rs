//! The EnforcementProbe: what its policies mean, how rounds are judged, and what is said of that.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use ringfence_crd::{EnforcementProbe, EnforcementProbeStatus, ProbeFailureKind, Reason};
use ringfence_operator::probe::answer::{Heard, Met};
use ringfence_operator::probe::judge::{Caller, Seen, Server, Verdict, judge};
use ringfence_operator::probe::objects::{PodImage, Pods, is_a_probes, policies};
use ringfence_operator::probe::plan::{Direction, Round};
use ringfence_operator::probe::{FIRST_PORT, SECOND_PORT};
use ringfence_operator::status::{ProbeOutcome, probe_status};
use ringfence_policy::{Flow, Pod, Policy, Protocol, World, evaluate};
use serde_json::{Value, json};

use crate::status::{at, of_namespace, settled};

const NAMESPACE: &str = "ringfence-system";

fn probe() -> EnforcementProbe {
    serde_json::from_value(json!({
        "apiVersion": "ringfence.dev/v1alpha1",
        "kind": "EnforcementProbe",
        "metadata": {"name": "default", "uid": "u", "generation": 3},
        "spec": {},
    }))
    .unwrap()
}

fn round(nodes: &[&str]) -> Round {
    let nodes: BTreeMap<String, bool> = nodes.iter().map(|node| ((*node).to_owned(), true)).collect();
    Round::new("abcdef".to_owned(), &nodes, &probe().spec)
}

fn image() -> PodImage {
    PodImage {
        image: "registry.example.com/operator:1".to_owned(),
        secrets: Vec::new(),
    }
}

fn pods<'a>(probe: &'a EnforcementProbe, image: &'a PodImage, round: &'a Round) -> Pods<'a> {
    Pods {
        probe,
        namespace: NAMESPACE,
        image,
        round,
        deadline: Duration::from_secs(90),
        settle: Duration::from_secs(15),
    }
}

/// The policy engine's pod, as if it ran at this address.
fn running(pod: k8s_openapi::api::core::v1::Pod, address: &str) -> Pod {
    let mut pod = serde_json::to_value(pod).unwrap();
    pod["status"] = json!({"phase": "Running", "podIP": address, "podIPs": [{"ip": address}]});
    Pod::from_api(&serde_json::from_value(pod).unwrap())
}

#[test]
fn each_caller_is_allowed_one_port_and_denied_the_other_by_one_policy_alone() {
    let (probe, image, round) = (probe(), image(), round(&["a"]));
    let make = pods(&probe, &image, &round);
    let server: IpAddr = "10.0.0.1".parse().unwrap();
    let callers = [(Direction::Ingress, "10.0.0.2"), (Direction::Egress, "10.0.0.3")];
    let both = policies(&probe, NAMESPACE);
    let world = |which: &[usize]| {
        let mut world = World::default();
        let namespace = json!({"metadata": {"name": NAMESPACE}});
        world.insert_namespace(ringfence_policy::Namespace::from_api(
            &serde_json::from_value(namespace).unwrap(),
        ));
        world.insert_pod(running(make.server(0), "10.0.0.1"));
        for (direction, address) in callers {
            world.insert_pod(running(make.caller(0, direction, &[vec![server]]), address));
        }
        for policy in which {
            world.insert_policy(Policy::from_api(&both[*policy]).unwrap());
        }
        world
    };
    let open = |world: &World, source: &str, protocol, port| {
        let flow = Flow {
            source: source.parse().unwrap(),
            destination: server,
            protocol,
            port,
        };
        evaluate(world, &flow).allowed()
    };
    let (servers, callers_only, all) = (world(&[0]), world(&[1]), world(&[0, 1]));
    for protocol in [Protocol::Tcp, Protocol::Udp] {
        for (direction, source) in callers {
            let pod = make.caller(0, direction, &[vec![server]]);
            let arguments = pod.spec.unwrap().containers.remove(0).args.unwrap();
            let port = |name: &str| -> u16 {
                let mut values = arguments
                    .iter()
                    .filter_map(|argument| argument.strip_prefix(name));
                values.next().unwrap().parse().unwrap()
            };
            let (allowed, denied) = (port("--allowed="), port("--denied="));
            assert_ne!(allowed, denied);
            assert!(
                [allowed, denied]
                    .iter()
                    .all(|port| [FIRST_PORT, SECOND_PORT].contains(port))
            );
            assert!(open(&all, source, protocol, allowed));
            assert!(!open(&all, source, protocol, denied));
            // Without the policy that its name says, nothing denies it.
            let without = match direction {
                Direction::Ingress => &callers_only,
                Direction::Egress => &servers,
            };
            assert!(open(without, source, protocol, denied));
        }
    }
}

#[test]
fn a_pod_is_restricted_pinned_and_ends_by_itself() {
    let (probe, image, round) = (probe(), image(), round(&["a", "b"]));
    let pod = pods(&probe, &image, &round).server(1);
    assert!(is_a_probes(&pod));
    insta::assert_snapshot!(serde_yaml_ng::to_string(&pod).unwrap());
}

fn heard(met: Met) -> Heard {
    Heard {
        met,
        way: if met == Met::Right {
            ""
        } else {
            "TCP 10.0.0.1:8471"
        }
        .to_owned(),
    }
}

/// A round of two nodes in which everything was right.
fn good() -> (Round, Seen) {
    let address: IpAddr = "10.0.0.1".parse().unwrap();
    let seen = Seen {
        servers: [0, 1].map(|node| (node, Server::Runs(vec![address]))).into(),
        callers: [0, 1]
            .into_iter()
            .flat_map(|node| Direction::BOTH.map(|direction| (node, direction)))
            .map(|who| (who, Caller::Answered(vec![heard(Met::Right); 2])))
            .collect(),
    };
    (round(&["a", "b"]), seen)
}

/// What a caller on node `a` met at the servers on `a` and on `b`.
fn with(direction: Direction, met: [Met; 2]) -> Verdict {
    let (round, mut seen) = good();
    seen.callers
        .insert((0, direction), Caller::Answered(met.map(heard).to_vec()));
    judge(&round, &seen)
}

fn status_of(verdict: Verdict) -> EnforcementProbeStatus {
    probe_status(
        &probe(),
        &EnforcementProbeStatus::default(),
        &ProbeOutcome::Judged(verdict),
        at(60),
    )
}

fn condition<'a>(conditions: &'a [Condition], kind: &str) -> Option<&'a Condition> {
    conditions.iter().find(|condition| condition.type_ == kind)
}

/// `status/reason`, or nothing where the condition is absent.
fn short(conditions: &[Condition], kind: &str) -> String {
    condition(conditions, kind).map_or_else(String::new, |condition| {
        format!("{}/{}", condition.status, condition.reason)
    })
}

/// What the verdict is called, what Ready says, and the pairs.
fn said(verdict: Verdict) -> (String, String, String) {
    let status = status_of(verdict);
    (
        short(&status.conditions, "EnforcementVerified"),
        short(&status.conditions, "Ready"),
        status.pairs.unwrap(),
    )
}

fn words(verified: &str, ready: &str, pairs: &str) -> (String, String, String) {
    (verified.to_owned(), ready.to_owned(), pairs.to_owned())
}

#[test]
fn a_round_in_which_all_is_right_is_a_proof() {
    let (round, seen) = good();
    let verdict = judge(&round, &seen);
    assert_eq!(
        said(verdict.clone()),
        words("True/Verified", "True/AsExpected", "4/4")
    );
    let status = status_of(verdict);
    assert_eq!(status.last_proof_time, status.last_run_time);
    assert_eq!(status.nodes, ["a", "b"]);
    assert!(condition(&status.conditions, "Reconciling").is_none());
}

#[test]
fn denied_traffic_that_arrives_names_the_node_whose_policies_do_not_hold() {
    for (direction, node) in [(Direction::Ingress, "b"), (Direction::Egress, "a")] {
        let verdict = with(direction, [Met::Right, Met::Leak]);
        let failure = &verdict.failures[0];
        assert_eq!(failure.what, ProbeFailureKind::DeniedArrived);
        assert_eq!(
            (
                failure.node.as_str(),
                failure.source.as_str(),
                failure.destination.as_str()
            ),
            (node, "a", "b")
        );
        assert!(failure.detail.contains("8471"), "{}", failure.detail);
        assert_eq!(
            said(verdict.clone()),
            words("False/DeniedTrafficPassed", "True/AsExpected", "3/4")
        );
        let status = status_of(verdict);
        let message = &condition(&status.conditions, "EnforcementVerified")
            .unwrap()
            .message;
        assert!(
            message.contains(&format!("on node {node} does not enforce")),
            "{message}"
        );
        assert!(message.contains("Install the enforcer"), "{message}");
    }
}

#[test]
fn a_round_in_which_nothing_arrives_proves_nothing() {
    let (round, mut seen) = good();
    for caller in seen.callers.values_mut() {
        *caller = Caller::Answered(vec![heard(Met::Lost); 2]);
    }
    let verdict = judge(&round, &seen);
    assert_eq!(verdict.wrong, [(ProbeFailureKind::AllowedLost, 4)].into());
    assert_eq!(
        said(verdict),
        words("Unknown/AllowedTrafficLost", "False/AllowedTrafficLost", "0/4")
    );
}

#[test]
fn what_is_open_at_the_start_only_is_told_apart() {
    let verdict = with(Direction::Ingress, [Met::OpenAtStart, Met::Right]);
    let status = status_of(verdict);
    assert_eq!(short(&status.conditions, "EnforcementVerified"), "True/Verified");
    assert_eq!(status.open_at_start, Some(1));
}

#[test]
fn a_pod_that_does_not_start_leaves_its_pairs_unknown_and_no_others() {
    let (round, mut seen) = good();
    let why = "Pending: ImagePullBackOff".to_owned();
    seen.servers.insert(1, Server::NotStarted(why.clone()));
    for direction in Direction::BOTH {
        // They were told of the one server that ran.
        seen.callers
            .insert((0, direction), Caller::Answered(vec![heard(Met::Right)]));
        seen.callers.remove(&(1, direction));
    }
    let verdict = judge(&round, &seen);
    assert_eq!(verdict.wrong, [(ProbeFailureKind::PodNotStarted, 3)].into());
    assert!(verdict.failures.iter().any(|failure| failure.detail == why));
    assert!(verdict.failures.iter().all(|failure| failure.node == "b"));
    assert_eq!(
        said(verdict),
        words("Unknown/ProbeIncomplete", "False/ProbeIncomplete", "1/4")
    );
}

#[test]
fn a_caller_that_does_not_answer_is_no_proof() {
    for caller in [
        Caller::Silent("what".to_owned()),
        Caller::Answered(vec![heard(Met::Right)]),
        Caller::NotStarted("why".to_owned()),
    ] {
        let (round, mut seen) = good();
        seen.callers.insert((0, Direction::Egress), caller);
        let (verified, ..) = said(judge(&round, &seen));
        assert_eq!(verified, "Unknown/ProbeIncomplete");
    }
}

#[test]
fn a_leak_weighs_more_than_what_is_not_known() {
    let (round, mut seen) = good();
    seen.servers.insert(1, Server::NotStarted("why".to_owned()));
    for direction in Direction::BOTH {
        let leak = Caller::Answered(vec![heard(Met::Leak)]);
        seen.callers.insert((0, direction), leak);
    }
    let (verified, ..) = said(judge(&round, &seen));
    assert_eq!(verified, "False/DeniedTrafficPassed");
}

#[test]
fn no_node_is_no_proof() {
    let (verified, ..) = said(judge(&round(&[]), &Seen::default()));
    assert_eq!(verified, "Unknown/ProbeIncomplete");
}

#[test]
fn a_status_that_is_not_of_a_round_keeps_no_result_but_the_time_of_the_last_proof() {
    let (round, seen) = good();
    let before = status_of(judge(&round, &seen));
    let blocked = |reason| ProbeOutcome::Blocked(reason, "why".to_owned());
    for (outcome, ready, also) in [
        (ProbeOutcome::Pending, "Unknown/NotVerifiedYet", "Reconciling"),
        (blocked(Reason::Invalid), "False/Invalid", "Stalled"),
        (blocked(Reason::NameConflict), "False/NameConflict", "Stalled"),
        (blocked(Reason::WriteFailed), "False/WriteFailed", "Reconciling"),
    ] {
        let status = probe_status(&probe(), &before, &outcome, at(100));
        assert_eq!(
            short(&status.conditions, "EnforcementVerified"),
            "Unknown/NotVerifiedYet"
        );
        assert_eq!(short(&status.conditions, "Ready"), ready);
        assert!(short(&status.conditions, also).starts_with("True"));
        assert_eq!((status.pairs.as_ref(), status.nodes.len()), (None, 0));
        assert_eq!(status.last_proof_time, before.last_proof_time);
        // Said again it is the same.
        assert_eq!(probe_status(&probe(), &status, &outcome, at(200)), status);
    }
}

/// What the namespace `home`, whose pods run on one node, says when the probe's status is this.
fn of_home(node: &str, status: Option<Value>) -> (String, String) {
    let mut view = settled();
    let pods: Vec<_> = view.pods.values().flatten().cloned().collect();
    for mut pod in pods {
        Arc::make_mut(&mut pod).spec.as_mut().unwrap().node_name = Some(node.to_owned());
        view.insert_pod(pod);
    }
    view.probe = status.map(|status| {
        let status: EnforcementProbeStatus = serde_json::from_value(status).unwrap();
        Arc::new(EnforcementProbe {
            status: Some(status),
            ..probe()
        })
    });
    let conditions = of_namespace(&view, &[], 0).conditions;
    (
        short(&conditions, "EnforcementVerified"),
        short(&conditions, "Ready"),
    )
}

fn as_json(verdict: Verdict) -> Value {
    serde_json::to_value(status_of(verdict)).unwrap()
}

#[test]
fn a_namespace_says_of_its_nodes_what_the_probe_found() {
    let leak = as_json(with(Direction::Ingress, [Met::Right, Met::Leak]));
    let lost = as_json(with(Direction::Ingress, [Met::Right, Met::Lost]));
    let (round, seen) = good();
    let good = as_json(judge(&round, &seen));
    let mut many = leak.clone();
    many["failureCount"] = json!(30);
    let pending = probe_status(
        &probe(),
        &EnforcementProbeStatus::default(),
        &ProbeOutcome::Pending,
        at(0),
    );
    let pending = serde_json::to_value(pending).unwrap();
    for (node, status, wanted) in [
        ("a", None, ""),
        ("a", Some(json!({})), "Unknown/NotVerifiedYet"),
        ("a", Some(pending), "Unknown/NotVerifiedYet"),
        ("a", Some(good.clone()), "True/Verified"),
        ("unprobed", Some(good), "Unknown/NotVerifiedYet"),
        ("a", Some(leak.clone()), "True/Verified"),
        ("b", Some(leak), "False/DeniedTrafficPassed"),
        ("a", Some(lost.clone()), "Unknown/AllowedTrafficLost"),
        ("b", Some(lost), "Unknown/AllowedTrafficLost"),
        ("a", Some(many.clone()), "Unknown/ProbeIncomplete"),
        ("b", Some(many), "False/DeniedTrafficPassed"),
    ] {
        let (verified, ready) = of_home(node, status.clone());
        assert_eq!(verified, wanted, "{node}: {status:?}");
        // It informs, and changes nothing else.
        assert_eq!(ready, "True/AsExpected", "{node}: {status:?}");
    }
}
