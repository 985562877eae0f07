//! What users mean, worked out from their words alone, and what the generated policies let pass: the same.

use std::net::IpAddr;

use ipnet::IpNet;
use proptest::prelude::*;
use ringfence_policy::{Direction, Flow, Pod, Protocol, evaluate};
use serde_json::Value;

use crate::cluster::{ApiServer, world};
use crate::random::{ANNOTATED_PORT, AWAY, Ground, HOME, OUTSIDE, Wishes, cluster, ground, wishes};

/// One connection, by its ends, and the end that is looked at.
struct Connection<'a> {
    ground: &'a Ground,
    direction: Direction,
    everybody: &'a [&'a Pod],
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

/// Whether a peer, written in the home namespace, means a pod, or, for the egress of one, can be told to mean it.
fn means(peer: &Value, pod: &Pod, connection: &Connection<'_>) -> bool {
    let Some(account) = peer.get("serviceAccount").and_then(Value::as_str) else {
        return is_chosen(peer, pod);
    };
    let stamp = |pod: &Pod| pod.labels.get("ringfence.dev/service-account").cloned();
    let runs_as = |pod: &Pod| {
        let mut pods = connection.ground.pods.iter();
        let object = pods.find(|object| object["metadata"]["name"] == pod.key.name.as_str());
        object.is_some_and(|object| object["spec"]["serviceAccountName"] == account)
    };
    let lies = |other: &Pod| {
        let same = other.key.namespace == pod.key.namespace;
        same && stamp(other).as_deref() == Some(account) && !runs_as(other) && is_chosen(peer, other)
    };
    let told = || {
        let honest = !connection.everybody.iter().any(|other| lies(other));
        connection.ground.stamps_protected && honest && stamp(pod).as_deref() == Some(account)
    };
    is_chosen(peer, pod) && runs_as(pod) && (connection.direction == Direction::Ingress || told())
}

/// Whether a pod is of the namespace and has the labels that a peer names.
fn is_chosen(peer: &Value, pod: &Pod) -> bool {
    let namespace = match peer.get("namespaceSelector") {
        None => pod.key.namespace == HOME,
        Some(all) if all.as_object().unwrap().is_empty() => true,
        Some(_) => pod.key.namespace == AWAY,
    };
    namespace
        && peer
            .get("podSelector")
            .is_none_or(|selector| selects(selector, pod))
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
fn granted(ground: &Ground, wishes: &Wishes, connection: &Connection<'_>) -> bool {
    let allow = &wishes.zero_trust.as_ref().unwrap()["spec"]["allow"];
    let (from, to) = match (connection.from, connection.to) {
        (Some(from), Some(to)) => (from, to),
        (Some(from), None) => return leads_outside(wishes, allow, from, connection),
        (None, Some(to)) => return called_from_outside(wishes, allow, to, connection),
        (None, None) => return false,
    };
    if to.key.namespace != HOME {
        return false;
    }
    let peers = allow["sameNamespace"] == "StatefulSetPeers" && are_peers(wishes, from, to, connection);
    let routed = allow.get("ingressControllers").is_some_and(|rule| {
        let mut callers = rule["from"].as_array().unwrap().iter();
        callers.any(|peer| means(peer, from, connection)) && is_backend(wishes, to, connection)
    });
    let same = allow["sameNamespace"] == "All" && from.key.namespace == HOME;
    let scraped = allow.get("monitoring").is_some_and(|rule| {
        let mut scrapers = rule["from"].as_array().unwrap().iter();
        scrapers.any(|peer| means(peer, from, connection)) && serves_metrics(ground, rule, to, connection)
    });
    same || scraped
        || peers
        || routed
        || objects(wishes, "ServiceAccess").any(|access| opens(wishes, access, from, to, connection))
}

/// Whether a port is one that scrapers may reach by this rule: by its number or name, or because a pod whose labels this
/// one carries is annotated with it.
fn serves_metrics(ground: &Ground, rule: &Value, to: &Pod, connection: &Connection<'_>) -> bool {
    let ports = rule["ports"].as_array().unwrap();
    let annotations = !rule["discover"].as_array().unwrap().is_empty();
    let likened = || {
        ground.pods.iter().any(|pod| {
            let metadata = &pod["metadata"];
            let labels = metadata["labels"].as_object().unwrap();
            metadata["namespace"] == HOME
                && metadata["annotations"].get("prometheus.io/scrape").is_some()
                && !labels.is_empty()
                && selects(&serde_json::json!({"matchLabels": labels}), to)
        })
    };
    let anything = ports.is_empty() && !annotations;
    anything
        || ports.iter().any(|port| is_port(&port["port"], connection, "TCP"))
        || annotations && likened() && is_port(&ANNOTATED_PORT.into(), connection, "TCP")
}

fn service<'a>(wishes: &'a Wishes, name: &'a Value) -> Option<&'a Value> {
    let found = objects(wishes, "Service").find(|service| service["metadata"]["name"] == *name);
    found.map(|service| &service["spec"])
}

/// Whether a pod is behind a Service of the home namespace, and a connection goes to a targetPort of one of these ports.
fn is_behind(
    service: &Value,
    pod: &Pod,
    connection: &Connection<'_>,
    wanted: impl Fn(&Value) -> bool,
) -> bool {
    let Some(selector) = service.get("selector") else {
        return false;
    };
    let mut offered = service["ports"].as_array().unwrap().iter();
    pod.key.namespace == HOME
        && selects(&serde_json::json!({"matchLabels": selector}), pod)
        && offered.any(|port| wanted(&port["port"]) && is_port(&port["targetPort"], connection, "TCP"))
}

/// Whether both are pods of the StatefulSet, and the port is one that its governing Service leads to.
fn are_peers(wishes: &Wishes, from: &Pod, to: &Pod, connection: &Connection<'_>) -> bool {
    objects(wishes, "StatefulSet").any(|set| {
        let spec = &set["spec"];
        let member = |pod: &Pod| pod.key.namespace == HOME && selects(&spec["selector"], pod);
        let ports = service(wishes, &spec["serviceName"]).map(|service| &service["ports"]);
        let mut ports = ports.and_then(Value::as_array).into_iter().flatten();
        member(from) && member(to) && ports.any(|port| is_port(&port["targetPort"], connection, "TCP"))
    })
}

/// Whether the Ingress leads to this port of this pod.
fn is_backend(wishes: &Wishes, to: &Pod, connection: &Connection<'_>) -> bool {
    objects(wishes, "Ingress").any(|ingress| {
        let backend = &ingress["spec"]["defaultBackend"]["service"];
        service(wishes, &backend["name"]).is_some_and(|service| {
            is_behind(service, to, connection, |port| *port == backend["port"]["number"])
        })
    })
}

/// Whether an ExternalAccess is about this connection, at the end that is looked at.
fn opened_outside(wishes: &Wishes, connection: &Connection<'_>, source: IpAddr, destination: IpAddr) -> bool {
    let (rules, peers, pod, other) = match connection.direction {
        Direction::Egress => ("egress", "to", connection.from, destination),
        Direction::Ingress => ("ingress", "from", connection.to, source),
    };
    let within = |network: &Value| {
        network
            .as_str()
            .unwrap()
            .parse::<IpNet>()
            .unwrap()
            .contains(&other)
    };
    let is_meant = |peer: &Value| match peer["dnsName"].as_str() {
        // Of the names, only this one stands for an address that is not inside the cluster.
        Some(name) => name == "outside.example.com" && other.to_string() == "192.0.2.1",
        None => within(&peer["cidr"]) && !peer["except"].as_array().into_iter().flatten().any(within),
    };
    let is_open = |port: &Value| {
        let first = port["port"].as_u64().unwrap();
        let last = port["endPort"].as_u64().unwrap_or(first);
        let protocol = if port["protocol"] == "UDP" {
            Protocol::Udp
        } else {
            Protocol::Tcp
        };
        (first..=last).contains(&connection.port.into()) && protocol == connection.protocol
    };
    pod.is_some_and(|pod| {
        objects(wishes, "ExternalAccess").any(|external| {
            let mut all = external["spec"][rules].as_array().into_iter().flatten();
            selects(&external["spec"]["podSelector"], pod)
                && all.any(|rule| {
                    let ports = rule["ports"].as_array().unwrap();
                    rule[peers].as_array().unwrap().iter().any(is_meant)
                        && (ports.is_empty() || ports.iter().any(is_open))
                })
        })
    })
}

/// Whether a call to the address outside goes to the API server or to a Service without selector, and is allowed.
fn leads_outside(wishes: &Wishes, allow: &Value, from: &Pod, connection: &Connection<'_>) -> bool {
    let told = |service: &str| {
        objects(wishes, "EndpointSlice").any(|slice| {
            slice["metadata"]["labels"]["kubernetes.io/service-name"] == service
                && is_port(&slice["ports"][0]["port"], connection, "TCP")
        })
    };
    let is_client = allow.get("apiServer").is_some_and(|rule| {
        let mut clients = rule["clients"].as_array().unwrap().iter();
        clients.any(|peer| means(peer, from, connection))
    });
    let is_granted = || {
        objects(wishes, "ServiceAccess").any(|access| {
            let spec = &access["spec"];
            let mut clients = spec["clients"].as_array().unwrap().iter();
            let ports = spec["ports"].as_array().unwrap();
            spec["targetRef"]["name"] == "elsewhere"
                && (ports.is_empty() || ports.contains(&80.into()))
                && clients.any(|peer| means(peer, from, connection))
        })
    };
    is_client && told("kubernetes") || is_granted() && told("elsewhere")
}

/// Whether a call from outside goes to a Service that is opened to it.
fn called_from_outside(wishes: &Wishes, allow: &Value, to: &Pod, connection: &Connection<'_>) -> bool {
    // The API server is at that address where its slice says so.
    let is_api_server = objects(wishes, "EndpointSlice")
        .any(|slice| slice["metadata"]["labels"]["kubernetes.io/service-name"] == "kubernetes");
    let hooked = objects(wishes, "ValidatingWebhookConfiguration").any(|hooks| {
        let named = &hooks["webhooks"][0]["clientConfig"]["service"];
        service(wishes, &named["name"])
            .is_some_and(|service| is_behind(service, to, connection, |port| *port == named["port"]))
    });
    let mut opened = allow["external"].as_array().into_iter().flatten();
    let called = allow.get("webhooks").is_some() && is_api_server && hooked;
    called
        || opened.any(|rule| {
            service(wishes, &rule["service"])
                .is_some_and(|service| is_behind(service, to, connection, |_| true))
        })
}

fn opens(wishes: &Wishes, access: &Value, from: &Pod, to: &Pod, connection: &Connection<'_>) -> bool {
    let spec = &access["spec"];
    let chosen = spec["ports"].as_array().unwrap();
    let mut clients = spec["clients"].as_array().unwrap().iter();
    clients.any(|peer| means(peer, from, connection))
        && service(wishes, &spec["targetRef"]["name"]).is_some_and(|service| {
            is_behind(service, to, connection, |port| {
                chosen.is_empty() || chosen.contains(port)
            })
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
        let outside = OUTSIDE.parse().unwrap();
        let everybody: Vec<&Pod> = world.pods.values().collect();
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
                let meant = |direction| {
                    let (ground, everybody) = (&ground, everybody.as_slice());
                    let connection = Connection { ground, direction, everybody, from, to, protocol, port };
                    granted(ground, &wishes, &connection)
                        || opened_outside(&wishes, &connection, flow.source, flow.destination)
                };
                let out = !(closed(from) && denied.egress) || meant(Direction::Egress);
                let inwards = !(closed(to) && denied.ingress) || meant(Direction::Ingress);
                prop_assert_eq!((verdict.egress.allowed(), verdict.ingress.allowed()), (out, inwards), "{:?}", flow);
            }
        }
    }
}
