//! Events without end, each of which changes something.

use ringfence_policy::{Event, Namespace, Pod, Policy, PortMatch, PortSpec, Protocol};

/// The same pod again and again with another label, so that every event changes something.
pub(crate) fn relabelled(pod: &Pod) -> impl FnMut() -> Event + use<> {
    let mut pod = pod.clone();
    let mut app = 0;
    move || {
        app = (app + 1) % 10;
        pod.labels.insert("app".to_owned(), format!("app-{app}"));
        Event::Pod(pod.clone())
    }
}

/// The same pod gone and back.
pub(crate) fn gone_and_back(pod: &Pod) -> impl FnMut() -> Event + use<> {
    let pod = pod.clone();
    let mut there = true;
    move || {
        there = !there;
        if there {
            Event::Pod(pod.clone())
        } else {
            Event::PodGone(pod.key.clone())
        }
    }
}

/// A policy whose first rule's port becomes another and another.
pub(crate) fn rewritten(policy: &Policy) -> impl FnMut() -> Event + use<> {
    let mut policy = policy.clone();
    let mut port = 0;
    move || {
        port = port % 1_000 + 1;
        let rule = policy.ingress.iter_mut().flatten().next();
        rule.expect("a rule").ports = Some(vec![PortMatch {
            protocol: Protocol::Tcp,
            port: Some(PortSpec::Range(port, port)),
        }]);
        Event::Policy(policy.clone())
    }
}

/// A namespace that moves to a team that no policy names, and back.
pub(crate) fn moved(namespace: &Namespace) -> impl FnMut() -> Event + use<> {
    let mut namespace = namespace.clone();
    let mut elsewhere = false;
    move || {
        elsewhere = !elsewhere;
        let team = if elsewhere { "none" } else { "team-0" };
        namespace.labels.insert("team".to_owned(), team.to_owned());
        Event::Namespace(namespace.clone())
    }
}
