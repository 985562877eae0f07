//! Random clusters: two namespaces and their pods, Services, grants and foreign policies, small enough that things meet.

use proptest::prelude::*;
use ringfence_operator::dns::{Resolution, State};
use ringfence_operator::view::ClusterView;
use serde_json::{Value, json};

use crate::cluster::{anchor, insert};

/// The namespace whose policies are written.
pub(crate) const HOME: &str = "home";
/// Another one.
pub(crate) const AWAY: &str = "away";
/// An address outside the cluster.
pub(crate) const OUTSIDE: &str = "192.0.2.1";

/// The port that annotated pods serve metrics on.
pub(crate) const ANNOTATED_PORT: u16 = 9090;

/// What stays as it is in a transition.
#[derive(Clone)]
pub(crate) struct Ground {
    pub(crate) pods: Vec<Value>,
    pub(crate) foreign: Vec<Value>,
    /// Whether the cluster refuses wrong stamps of ServiceAccounts now. There may be older ones.
    pub(crate) stamps_protected: bool,
}

/// What users change.
#[derive(Clone)]
pub(crate) struct Wishes {
    pub(crate) zero_trust: Option<Value>,
    pub(crate) others: Vec<Value>,
}

impl std::fmt::Debug for Ground {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "\nstamps protected: {}", self.stamps_protected)?;
        self.pods
            .iter()
            .chain(&self.foreign)
            .try_for_each(|object| write!(f, "\n{object}"))
    }
}

impl std::fmt::Debug for Wishes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.zero_trust
            .iter()
            .chain(&self.others)
            .try_for_each(|object| write!(f, "\n{object}"))
    }
}

pub(crate) fn ground() -> impl Strategy<Value = Ground> {
    let pods = prop::collection::vec(
        (prop::sample::select(vec![HOME, HOME, AWAY]), labels(), identity()),
        1..6,
    );
    let foreign = prop::collection::vec(foreign(), 0..3);
    (pods, foreign, prop::bool::weighted(0.7)).prop_map(|(pods, foreign, stamps_protected)| Ground {
        stamps_protected,
        pods: pods
            .into_iter()
            .enumerate()
            .map(|(n, (namespace, labels, identity))| identified(pod(n, namespace, &labels), identity))
            .collect(),
        foreign: foreign
            .into_iter()
            .enumerate()
            .map(|(n, spec)| policy(n, &spec))
            .collect(),
    })
}

pub(crate) fn wishes() -> impl Strategy<Value = Wishes> {
    let accesses = prop::collection::vec(access(), 0..4);
    let externals = prop::collection::vec(external(), 0..3);
    (
        prop::option::weighted(0.8, zero_trust()),
        accesses,
        externals,
        service(),
        service(),
        sources(),
    )
        .prop_map(|(zero_trust, accesses, externals, first, second, sources)| {
            let mut others = vec![
                named("Service", "first", &first),
                named("Service", "second", &second),
            ];
            others.extend(sources);
            for (n, spec) in accesses.iter().enumerate() {
                others.push(named("ServiceAccess", &format!("access-{n}"), spec));
            }
            for (n, spec) in externals.iter().enumerate() {
                others.push(named("ExternalAccess", &format!("external-{n}"), spec));
            }
            Wishes {
                zero_trust: zero_trust.map(|spec| named("ZeroTrustNamespace", "default", &spec)),
                others,
            }
        })
}

/// The cluster with these wishes and nothing written yet.
pub(crate) fn cluster(ground: &Ground, wishes: &Wishes) -> ClusterView {
    let mut view = ClusterView::default();
    view.anchor = Some(anchor());
    view.stamps_protected = ground.stamps_protected;
    for name in [HOME, AWAY, "kube-system"] {
        insert(
            &mut view,
            json!({"kind": "Namespace", "metadata": {"name": name, "labels": {"team": name}}}),
        );
    }
    for (name, addresses) in NAMES {
        let resolution = Resolution {
            addresses: addresses.iter().map(|text| text.parse().unwrap()).collect(),
            state: State::Answered,
            left_out: 0,
        };
        view.names.insert(name.to_owned(), resolution);
    }
    let node = json!({"metadata": {"name": "n"}, "spec": {"podCIDRs": ["10.0.0.0/8"]}});
    view.inside.insert_node(&serde_json::from_value(node).unwrap());
    let dns = json!({"selector": {"app": "dns"}, "ports": [{"port": 53, "protocol": "UDP"}]});
    let mut service = named("Service", "kube-dns", &dns);
    service["metadata"]["namespace"] = json!("kube-system");
    insert(&mut view, service);
    for object in ground
        .pods
        .iter()
        .chain(&ground.foreign)
        .chain(&wishes.others)
        .chain(&wishes.zero_trust)
    {
        insert(&mut view, object.clone());
    }
    view
}

/// The same cluster with other wishes and the policies that are there.
pub(crate) fn with_policies_of(before: &ClusterView, mut after: ClusterView) -> ClusterView {
    after.policies = before.policies.clone();
    after
}

pub(crate) fn labels() -> impl Strategy<Value = Value> {
    prop::sample::select(vec![
        json!({"app": "x"}),
        json!({"app": "y"}),
        json!({"app": "x", "tier": "1"}),
        json!({"app": "y", "tier": "1"}),
        json!({"tier": "2"}),
        json!({}),
    ])
}

fn selector() -> impl Strategy<Value = Value> {
    prop::sample::select(vec![
        json!({}),
        json!({"matchLabels": {"app": "x"}}),
        json!({"matchLabels": {"app": "y"}}),
        json!({"matchLabels": {"app": "x", "tier": "1"}}),
        json!({"matchExpressions": [{"key": "tier", "operator": "Exists"}]}),
        json!({"matchExpressions": [{"key": "app", "operator": "NotIn", "values": ["x"]}]}),
    ])
}

/// What the names of random ExternalAccesses stand for, but for what is refused.
pub(crate) const NAMES: [(&str, &[&str]); 3] = [
    ("outside.example.com", &["192.0.2.1"]),
    ("nobody.example.com", &[]),
    ("inside.example.com", &["10.0.0.0", "10.0.0.1", "127.0.0.1"]),
];

pub(crate) fn external() -> impl Strategy<Value = Value> {
    let network = prop::sample::select(vec![
        json!({"cidr": "192.0.2.0/24"}),
        json!({"cidr": "0.0.0.0/0", "except": ["192.0.2.0/24"]}),
        json!({"cidr": "10.0.0.0/31"}),
        json!({"cidr": "2001:db8::/32"}),
    ]);
    let name = prop::sample::select(NAMES.map(|(name, _)| json!({"dnsName": name})).to_vec());
    let peer = prop_oneof![network.clone(), name];
    let ports = prop::sample::select(vec![
        json!([]),
        json!([{"port": 8080}]),
        json!([{"port": 8080, "endPort": 8081}, {"port": 9090, "protocol": "UDP"}]),
    ]);
    let egress = prop::option::of((prop::collection::vec(peer, 1..3), ports.clone()));
    let ingress = prop::option::of((prop::collection::vec(network, 1..3), ports));
    (selector(), egress, ingress).prop_map(|(pods, egress, ingress)| {
        let mut spec = json!({"podSelector": pods});
        if let Some((to, ports)) = egress {
            spec["egress"] = json!([{"to": to, "ports": ports}]);
        }
        if let Some((from, ports)) = ingress {
            spec["ingress"] = json!([{"from": from, "ports": ports}]);
        }
        spec
    })
}

/// The ServiceAccount a pod runs as, and the one it is stamped as.
pub(crate) fn identity() -> impl Strategy<Value = (&'static str, Option<&'static str>)> {
    prop::sample::select(vec![
        ("default", None),
        ("cart", Some("cart")),
        ("cart", Some("cart")),
        ("cart", None),
        ("other", Some("other")),
        ("other", Some("cart")),
    ])
}

pub(crate) fn identified(mut pod: Value, (account, stamp): (&str, Option<&str>)) -> Value {
    pod["spec"]["serviceAccountName"] = json!(account);
    if let Some(stamp) = stamp {
        pod["metadata"]["labels"]["ringfence.dev/service-account"] = json!(stamp);
    }
    pod
}

/// A peer as users write it.
fn client() -> impl Strategy<Value = Value> {
    let account = (peer(), prop::sample::select(vec!["cart", "default"])).prop_map(|(mut peer, account)| {
        peer["serviceAccount"] = json!(account);
        peer
    });
    prop_oneof![3 => peer(), 1 => account, 1 => Just(json!({"serviceAccount": "cart"}))]
}

/// A peer as users write it, which is a peer as NetworkPolicies write it, too.
fn peer() -> impl Strategy<Value = Value> {
    prop_oneof![
        selector().prop_map(|pods| json!({"podSelector": pods})),
        selector().prop_map(
            |pods| json!({"namespaceSelector": {"matchLabels": {"team": AWAY}}, "podSelector": pods})
        ),
        Just(json!({"namespaceSelector": {}})),
    ]
}

/// Wishes that are in force or on trial.
pub(crate) fn wishes_in_any_mode() -> impl Strategy<Value = Wishes> {
    (wishes(), prop::bool::weighted(0.2)).prop_map(|(mut wishes, on_trial)| {
        if let Some(zero_trust) = wishes.zero_trust.as_mut().filter(|_| on_trial) {
            zero_trust["spec"]["mode"] = json!("Audit");
        }
        wishes
    })
}

pub(crate) fn zero_trust() -> impl Strategy<Value = Value> {
    let denied = prop::sample::select(vec![(true, true), (true, false), (false, true)]);
    let monitoring = prop::option::of((
        prop::collection::vec(client(), 1..3),
        prop::option::of(port()),
        any::<bool>(),
    ));
    let same = prop::sample::select(vec!["None", "All", "StatefulSetPeers"]);
    (denied, any::<bool>(), same, monitoring, derived(), exempt()).prop_map(
        |(
            (ingress, egress),
            dns,
            same,
            monitoring,
            (controllers, clients, external, webhooks, accept),
            exempt,
        )| {
            let mut spec = json!({
                "mode": "Enforce",
                "defaultDeny": {"ingress": ingress, "egress": egress},
                "exempt": exempt,
                "allow": {"dns": {"enabled": dns}, "sameNamespace": same},
            });
            if let Some(from) = controllers {
                spec["allow"]["ingressControllers"] = json!({"from": from});
            }
            if let Some(pods) = clients {
                spec["allow"]["apiServer"] = json!({"clients": [{"podSelector": pods}]});
            }
            if let Some(name) = external {
                spec["allow"]["external"] = json!([{"service": name, "from": [{"cidr": "192.0.2.0/24"}]}]);
            }
            if let Some((from, port, annotated)) = monitoring {
                let ports: Vec<Value> = port.into_iter().map(|port| json!({"port": port})).collect();
                let discover = if annotated {
                    json!(["Annotations"])
                } else {
                    json!([])
                };
                spec["allow"]["monitoring"] = json!({"from": from, "ports": ports, "discover": discover});
            }
            if webhooks {
                spec["allow"]["webhooks"] = json!({});
            }
            if accept {
                spec["acceptEgressFrom"] = json!([{"namespace": AWAY}]);
            }
            spec
        },
    )
}

type Derived = (
    Option<Vec<Value>>,
    Option<Value>,
    Option<&'static str>,
    bool,
    bool,
);

/// Ingress controllers, the API server's clients, a Service for the outside, webhooks, and consent to grants from the other
/// namespace.
fn derived() -> impl Strategy<Value = Derived> {
    (
        prop::option::of(prop::collection::vec(peer(), 1..3)),
        prop::option::of(selector()),
        prop::option::of(prop::sample::select(vec!["first", "second"])),
        any::<bool>(),
        any::<bool>(),
    )
}

/// Requirements of pods that are left alone: one that meets any of them is.
fn exempt() -> impl Strategy<Value = Value> {
    let requirement = prop::sample::select(vec![
        json!({"key": "app", "operator": "In", "values": ["x"]}),
        json!({"key": "app", "operator": "In", "values": ["y", "z"]}),
        json!({"key": "app", "operator": "NotIn", "values": ["y"]}),
        json!({"key": "tier", "operator": "Exists"}),
        json!({"key": "tier", "operator": "DoesNotExist"}),
    ]);
    prop_oneof![
        3 => Just(json!([])),
        2 => prop::collection::vec(requirement, 1..3).prop_map(Value::from),
    ]
}

pub(crate) fn access() -> impl Strategy<Value = Value> {
    let target = prop::sample::select(vec!["first", "second", "elsewhere", "missing"]);
    (target, prop::collection::vec(client(), 1..3), prop::option::of(prop::sample::select(vec![80, 81])))
        .prop_map(|(name, clients, port)| {
            json!({"targetRef": {"name": name}, "clients": clients, "ports": port.into_iter().collect::<Vec<_>>()})
        })
}

pub(crate) fn service() -> impl Strategy<Value = Value> {
    let selected = prop::sample::select(vec![
        json!({"app": "x"}),
        json!({"app": "y"}),
        json!({"tier": "1"}),
    ]);
    (selected, target(), target()).prop_map(|(selector, one, other)| {
        json!({"type": "LoadBalancer", "externalTrafficPolicy": "Local", "selector": selector, "ports": [
            {"name": "one", "port": 80, "targetPort": one},
            {"name": "other", "port": 81, "targetPort": other},
        ]})
    })
}

/// What openings are derived from: a StatefulSet, an Ingress, a webhook, and addresses outside the cluster.
pub(crate) fn sources() -> impl Strategy<Value = Vec<Value>> {
    let set = prop::option::of((
        selector(),
        prop::sample::select(vec!["first", "second", "missing"]),
    ));
    let backend = prop::option::of((
        prop::sample::select(vec!["first", "second", "missing"]),
        prop::sample::select(vec![80, 81]),
    ));
    let hook = prop::option::of(prop::sample::select(vec!["first", "second", "missing"]));
    (
        set,
        backend,
        hook,
        prop::option::of(slice_port()),
        prop::option::of(slice_port()),
    )
        .prop_map(|(set, backend, hook, api_server, elsewhere)| {
            let mut objects = vec![named("Service", "elsewhere", &json!({"ports": [{"port": 80}]}))];
            if let Some((selector, name)) = set {
                let template = json!({"metadata": {}, "spec": {"containers": []}});
                let spec = json!({"selector": selector, "serviceName": name, "template": template});
                objects.push(named("StatefulSet", "set", &spec));
            }
            if let Some((name, port)) = backend {
                let backend = json!({"service": {"name": name, "port": {"number": port}}});
                objects.push(named("Ingress", "site", &json!({"defaultBackend": backend})));
            }
            if let Some(name) = hook {
                let service = json!({"name": name, "namespace": HOME, "port": 80});
                objects.push(json!({
                    "kind": "ValidatingWebhookConfiguration", "metadata": {"name": "hook"},
                    "webhooks": [{"name": "a.b.c", "sideEffects": "None", "admissionReviewVersions": ["v1"], "clientConfig": {"service": service}}],
                }));
            }
            let slices = [
                ("kubernetes", "default", api_server),
                ("elsewhere", HOME, elsewhere),
            ];
            for (name, namespace, port) in slices {
                objects.extend(port.map(|port| slice(name, namespace, port)));
            }
            objects
        })
}

fn slice_port() -> impl Strategy<Value = u16> {
    prop::sample::select(vec![8080, 8081, 9090])
}

fn slice(service: &str, namespace: &str, port: u16) -> Value {
    json!({
        "kind": "EndpointSlice",
        "metadata": {"name": format!("{service}-1"), "namespace": namespace, "labels": {"kubernetes.io/service-name": service}},
        "addressType": "IPv4",
        "endpoints": [{"addresses": [OUTSIDE]}],
        "ports": [{"port": port}],
    })
}

fn target() -> impl Strategy<Value = Value> {
    prop::sample::select(vec![json!(8080), json!(8081), json!("http")])
}

fn port() -> impl Strategy<Value = Value> {
    prop::sample::select(vec![json!(8080), json!(9090), json!("http")])
}

pub(crate) fn foreign() -> impl Strategy<Value = Value> {
    let types = prop::sample::select(vec![
        json!(["Ingress"]),
        json!(["Egress"]),
        json!(["Ingress", "Egress"]),
    ]);
    let opening = prop::option::of((peer(), prop::option::of(port())));
    (selector(), types, opening).prop_map(|(pods, types, opening)| {
        let mut spec = json!({"podSelector": pods, "policyTypes": types});
        if let Some((peer, port)) = opening {
            let ports: Vec<Value> = port
                .into_iter()
                .map(|port| json!({"port": port, "protocol": "TCP"}))
                .collect();
            for direction in types.as_array().unwrap() {
                let (rules, peers) = if direction == "Ingress" {
                    ("ingress", "from")
                } else {
                    ("egress", "to")
                };
                spec[rules] = json!([{peers: [peer], "ports": ports}]);
            }
        }
        spec
    })
}

pub(crate) fn pod(n: usize, namespace: &str, labels: &Value) -> Value {
    // Every pod is on a node of its own: a pod and its own node are always connected, whatever policies say.
    let annotations = if n.is_multiple_of(3) {
        json!({"prometheus.io/scrape": "true", "prometheus.io/port": ANNOTATED_PORT.to_string()})
    } else {
        json!({})
    };
    json!({
        "kind": "Pod",
        "metadata": {"name": format!("pod-{n}"), "namespace": namespace, "labels": labels, "annotations": annotations},
        "spec": {"nodeName": format!("node-{n}"), "containers": [
            {"name": "main", "ports": [{"name": "http", "containerPort": if n.is_multiple_of(2) { 8080 } else { 8081 }}]},
        ]},
        "status": {"phase": "Running", "podIP": format!("10.0.0.{n}"), "podIPs": [{"ip": format!("10.0.0.{n}")}]},
    })
}

pub(crate) fn policy(n: usize, spec: &Value) -> Value {
    json!({"kind": "NetworkPolicy", "metadata": {"name": format!("foreign-{n}"), "namespace": HOME}, "spec": spec})
}

pub(crate) fn named(kind: &str, name: &str, spec: &Value) -> Value {
    json!({"kind": kind, "metadata": {"name": name, "namespace": HOME}, "spec": spec})
}
