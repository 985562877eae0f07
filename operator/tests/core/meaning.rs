//! What users mean, worked out from their words alone, and what the generated policies let pass: the same.

use proptest::prelude::*;
use ringfence_policy::{Flow, Pod, Protocol, evaluate};
use serde_json::Value;

use crate::cluster::{ApiServer, world};
use crate::random::{AWAY, HOME, Wishes, cluster, ground, wishes};

/// One connection, by its ends.
struct Connection<'a> {
    from: Option<&'a Pod>,
    to: Option<&'a Pod>,
    protocol: Protocol,
    port: u16,
}

/// Whether labels satisfy a selector of the few shapes that random clusters have.
fn selects(selector: &Value, pod: &Pod) -> bool {
    let label = |key: &str| pod.labels.get(key).map(String::as_str);
    let equal = selector["matchLabels"]
        .as_object()
        .into_iter()
        .flatten()
        .all(|(key, value)| label(key) == value.as_str());
    equal
        && selector["matchExpressions"]
            .as_array()
            .into_iter()
            .flatten()
            .all(|expression| meets(expression, pod))
}

/// Whether labels meet one requirement.
fn meets(expression: &Value, pod: &Pod) -> bool {
    let value = pod
        .labels
        .get(expression["key"].as_str().unwrap())
        .map(String::as_str);
    let listed = || {
        let values = expression["values"].as_array().unwrap();
        values.iter().any(|listed| listed.as_str() == value)
    };
    match expression["operator"].as_str().unwrap() {
        "Exists" => value.is_some(),
        "DoesNotExist" => value.is_none(),
        "In" => listed(),
        "NotIn" => !listed(),
        other => panic!("no random selector has {other}"),
    }
}

/// Whether a pod of the home namespace is left alone.
pub(crate) fn is_exempt(wishes: &Wishes, pod: &Pod) -> bool {
    let spec = wishes.zero_trust.as_ref().map(|object| &object["spec"]["exempt"]);
    let mut requirements = spec.and_then(Value::as_array).into_iter().flatten();
    requirements.any(|requirement| meets(requirement, pod))
}

/// Whether a peer, written in the home namespace, means a pod.
fn means(peer: &Value, pod: &Pod) -> bool {
    let namespace = match peer.get("namespaceSelector") {
        None => pod.key.namespace == HOME,
        Some(all) if all.as_object().unwrap().is_empty() => true,
        Some(_) => pod.key.namespace == AWAY,
    };
    namespace && selects(&peer["podSelector"], pod)
}

/// Whether a port of a pod, by number or by name, is the one that a connection goes to.
fn is_port(port: &Value, connection: &Connection<'_>, protocol: &str) -> bool {
    let number = match port.as_str() {
        None => port.as_u64() == Some(connection.port.into()),
        Some(name) => connection.to.is_some_and(|pod| {
            pod.ports
                .iter()
                .any(|declared| declared.name.as_deref() == Some(name) && declared.number == connection.port)
        }),
    };
    number && protocol == "TCP" && connection.protocol == Protocol::Tcp
}

fn objects<'a>(wishes: &'a Wishes, kind: &'a str) -> impl Iterator<Item = &'a Value> {
    wishes.others.iter().filter(move |object| object["kind"] == kind)
}

/// Whether a grant, a monitoring rule or the same-namespace rule is about this connection, at either of its ends.
fn granted(wishes: &Wishes, connection: &Connection<'_>) -> bool {
    let (Some(from), Some(to)) = (connection.from, connection.to) else {
        return false;
    };
    if to.key.namespace != HOME {
        return false;
    }
    let allow = &wishes.zero_trust.as_ref().unwrap()["spec"]["allow"];
    let same = allow["sameNamespace"] == "All" && from.key.namespace == HOME;
    let scraped = allow.get("monitoring").is_some_and(|rule| {
        let ports = rule["ports"].as_array().unwrap();
        rule["from"]
            .as_array()
            .unwrap()
            .iter()
            .any(|peer| means(peer, from))
            && (ports.is_empty() || ports.iter().any(|port| is_port(&port["port"], connection, "TCP")))
    });
    same || scraped
        || objects(wishes, "ServiceAccess").any(|access| opens(wishes, access, from, to, connection))
}

fn opens(wishes: &Wishes, access: &Value, from: &Pod, to: &Pod, connection: &Connection<'_>) -> bool {
    let spec = &access["spec"];
    let target =
        objects(wishes, "Service").find(|service| service["metadata"]["name"] == spec["targetRef"]["name"]);
    let Some(service) = target.map(|service| &service["spec"]) else {
        return false;
    };
    let backend = service["selector"]
        .as_object()
        .unwrap()
        .iter()
        .all(|(key, value)| to.labels.get(key).map(String::as_str) == value.as_str());
    let chosen = spec["ports"].as_array().unwrap();
    let mut offered = service["ports"].as_array().unwrap().iter();
    backend
        && spec["clients"]
            .as_array()
            .unwrap()
            .iter()
            .any(|peer| means(peer, from))
        && offered.any(|port| {
            (chosen.is_empty() || chosen.contains(&port["port"]))
                && is_port(&port["targetPort"], connection, "TCP")
        })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn generated_policies_let_pass_exactly_what_users_mean(mut ground in ground(), wishes in wishes()) {
        ground.foreign.clear();
        let mut view = cluster(&ground, &wishes);
        ApiServer::new().settle(&mut view, HOME);
        let (world, denied) = (world(&view), view.denied(HOME));
        let outside = "192.0.2.1".parse().unwrap();
        let ends: Vec<Option<&Pod>> = world.pods.values().map(Some).chain([None]).collect();
        let closed = |end: Option<&Pod>| {
            end.is_some_and(|pod| pod.key.namespace == HOME && !is_exempt(&wishes, pod))
        };
        for (from, to) in ends.iter().flat_map(|from| ends.iter().map(move |to| (*from, *to))) {
            for (protocol, port) in [(Protocol::Tcp, 8080), (Protocol::Tcp, 8081), (Protocol::Tcp, 9090), (Protocol::Udp, 8080)] {
                let address = |end: Option<&Pod>| end.map_or(outside, |pod| pod.addresses[0]);
                let flow = Flow { source: address(from), destination: address(to), protocol, port };
                if flow.source == flow.destination {
                    continue;
                }
                let verdict = evaluate(&world, &flow);
                let meant = || granted(&wishes, &Connection { from, to, protocol, port });
                let out = !(closed(from) && denied.egress) || meant();
                let inwards = !(closed(to) && denied.ingress) || meant();
                prop_assert_eq!((verdict.egress.allowed(), verdict.ingress.allowed()), (out, inwards), "{:?}", flow);
            }
        }
    }
}
