//! The policies that this project was created from, chapter by chapter, and what is generated from the resources that say
//! the same: both let the same connections pass, but for differences that each file names with its reason.
//!
//! A file has the reference's own text, and `foundation`: what that takes for granted (5.1 in the directions concerned, 5.3).
//! 6.5 and 6.6 are other projects' kinds.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::Path;

use ringfence_operator::view::ClusterView;
use ringfence_policy::{Flow, Protocol, evaluate};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::cluster::{ApiServer, insert, view, world};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    foundation: Vec<Foundation>,
    reference: String,
    ours: String,
    differences: Vec<Difference>,
}

/// What stands under the policies of a section.
#[derive(Deserialize)]
#[serde(untagged, deny_unknown_fields)]
enum Foundation {
    /// The default deny of 5.1, in these directions.
    Deny { namespace: String, types: Vec<String> },
    /// Another section.
    Section { section: String },
}

/// Connections that one of the two lets pass and the other does not.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Difference {
    /// Which one lets them pass.
    passes: Side,
    /// Who calls: a name, or the beginning of names before a `*`.
    from: String,
    /// Who is called.
    to: String,
    /// Protocol, port and family: `TCP/443/IPv4`.
    port: String,
    /// How many there are.
    flows: usize,
    /// Why that is right.
    why: String,
}

#[derive(Deserialize, Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[serde(rename_all = "lowercase")]
enum Side {
    Reference,
    Ours,
}

/// One connection, in words.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Words {
    from: String,
    to: String,
    port: String,
}

impl Difference {
    fn covers(&self, side: Side, words: &Words) -> bool {
        let fits = |pattern: &str, text: &str| match pattern.strip_suffix('*') {
            Some(beginning) => text.starts_with(beginning),
            None => text == pattern,
        };
        let ends = fits(&self.from, &words.from) && fits(&self.to, &words.to);
        side == self.passes && ends && fits(&self.port, &words.port)
    }
}

const NAMESPACES: [(&str, &str); 8] = [
    ("production", "production"),
    ("monitoring", "monitoring"),
    ("ingress-nginx", "ingress"),
    ("kube-system", "system"),
    ("elsewhere", "none"),
    ("api", "none"),
    ("payments", "none"),
    ("users", "none"),
];

/// Namespace, name, labels, and the ServiceAccount.
const PODS: [(&str, &str, &str, &str); 15] = [
    ("production", "web-0", "web", "web-service-account"),
    ("production", "web-1", "web", "web-service-account"),
    ("production", "api", "api", "default"),
    ("production", "database", "database", "default"),
    ("production", "controller", "controller", "default"),
    ("production", "liar", "other", "default"),
    ("monitoring", "prometheus", "prometheus", "default"),
    ("ingress-nginx", "controller", "controller", "default"),
    ("kube-system", "dns", "dns", "default"),
    ("kube-system", "other", "other", "default"),
    ("elsewhere", "web", "web", "default"),
    ("elsewhere", "api", "api", "default"),
    ("api", "api", "api", "default"),
    ("payments", "payment", "payment-service", "default"),
    ("users", "user", "user-service", "default"),
];

/// The label by which the reference tells ServiceAccounts. The liar carries it, too.
const CONVENTION: &str = "app.kubernetes.io/service-account";

/// Addresses outside the cluster: the office, the external service, the internet, private networks, the API server.
const OUTSIDE: [&str; 7] = [
    "203.0.113.7",
    "203.0.113.50",
    "198.51.100.1",
    "192.168.1.1",
    "172.16.0.1",
    "192.0.2.10",
    "2001:db8::1",
];

const PORTS: [(Protocol, u16); 9] = [
    (Protocol::Tcp, 53),
    (Protocol::Udp, 53),
    (Protocol::Tcp, 22),
    (Protocol::Tcp, 443),
    (Protocol::Udp, 443),
    (Protocol::Tcp, 5432),
    (Protocol::Tcp, 6443),
    (Protocol::Tcp, 8080),
    (Protocol::Tcp, 9090),
];

/// The cluster that all sections are looked at in, with these objects.
fn cluster(documents: &str) -> ClusterView {
    let mut view = view(documents);
    view.stamps_protected = true;
    for (name, purpose) in NAMESPACES {
        let labels = json!({"purpose": purpose});
        insert(
            &mut view,
            json!({"kind": "Namespace", "metadata": {"name": name, "labels": labels}}),
        );
    }
    for (n, (namespace, name, app, account)) in PODS.into_iter().enumerate() {
        let mut labels = json!({"app": app, "ringfence.dev/service-account": account});
        if namespace == "production" && (name == "liar" || account != "default") {
            labels[CONVENTION] = json!("web-service-account");
        }
        let annotations = match (namespace, app) {
            ("production", "api") => json!({"prometheus.io/scrape": "true", "prometheus.io/port": "9090"}),
            _ => json!({}),
        };
        let addresses = json!([{"ip": format!("10.0.0.{}", n + 1)}, {"ip": format!("fd00::{}", n + 1)}]);
        insert(
            &mut view,
            json!({
                "kind": "Pod",
                "metadata": {"name": name, "namespace": namespace, "labels": labels, "annotations": annotations},
                "spec": {"nodeName": format!("node-{n}"), "serviceAccountName": account, "containers": []},
                "status": {"phase": "Running", "podIP": addresses[0]["ip"], "podIPs": addresses},
            }),
        );
    }
    let ports = json!([{"name": "dns", "port": 53, "protocol": "UDP"}, {"name": "dns-tcp", "port": 53}]);
    insert(
        &mut view,
        json!({"kind": "Service", "metadata": {"name": "kube-dns", "namespace": "kube-system"},
        "spec": {"selector": {"app": "dns"}, "ports": ports}}),
    );
    view
}

/// Everybody by name and address.
fn everybody() -> Vec<(String, IpAddr)> {
    let pods = PODS
        .into_iter()
        .enumerate()
        .flat_map(|(n, (namespace, name, _, _))| {
            let address = |text: String| (format!("{namespace}/{name}"), text.parse().unwrap());
            [
                address(format!("10.0.0.{}", n + 1)),
                address(format!("fd00::{}", n + 1)),
            ]
        });
    let outside = OUTSIDE.map(|text| (text.to_owned(), text.parse().unwrap()));
    pods.chain(outside).collect()
}

/// The connections that a cluster lets pass.
fn passing(view: &ClusterView) -> BTreeSet<Words> {
    let (world, everybody) = (world(view), everybody());
    let mut passing = BTreeSet::new();
    for (from, source) in &everybody {
        let others = everybody.iter().filter(|(name, _)| name != from);
        for (to, destination) in others.filter(|(_, other)| other.is_ipv4() == source.is_ipv4()) {
            for (protocol, port) in PORTS {
                let flow = Flow {
                    source: *source,
                    destination: *destination,
                    protocol,
                    port,
                };
                if evaluate(&world, &flow).allowed() {
                    let family = if source.is_ipv4() { "IPv4" } else { "IPv6" };
                    let name = if protocol == Protocol::Tcp { "TCP" } else { "UDP" };
                    let port = format!("{name}/{port}/{family}");
                    passing.insert(Words {
                        from: from.clone(),
                        to: to.clone(),
                        port,
                    });
                }
            }
        }
    }
    passing
}

fn case(id: &str) -> Case {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/core/reference");
    let text = std::fs::read_to_string(folder.join(format!("{id}.yaml"))).unwrap();
    serde_yaml_ng::from_str(&text).unwrap_or_else(|error| panic!("{id}: {error}"))
}

/// What the reference lets pass.
fn by_the_reference(case: &Case) -> BTreeSet<Words> {
    let mut view = cluster(&case.reference);
    for (n, foundation) in case.foundation.iter().enumerate() {
        match foundation {
            Foundation::Deny { namespace, types } => {
                let metadata = json!({"name": format!("deny-{n}"), "namespace": namespace});
                let spec = json!({"podSelector": {}, "policyTypes": types});
                insert(
                    &mut view,
                    json!({"kind": "NetworkPolicy", "metadata": metadata, "spec": spec}),
                );
            }
            Foundation::Section { section } => {
                for document in serde_yaml_ng::Deserializer::from_str(&self::case(section).reference) {
                    insert(&mut view, Value::deserialize(document).unwrap());
                }
            }
        }
    }
    passing(&view)
}

/// What the generated policies let pass.
fn by_ours(case: &Case) -> BTreeSet<Words> {
    let mut view = cluster(&case.ours);
    for (namespace, _) in NAMESPACES {
        ApiServer::new().settle(&mut view, namespace);
    }
    passing(&view)
}

/// Compares a section with its resources.
fn compare(id: &str) {
    let case = case(id);
    let (reference, ours) = (by_the_reference(&case), by_ours(&case));
    let of = |side, words: BTreeSet<&Words>| {
        words
            .into_iter()
            .map(move |words| (side, words.clone()))
            .collect::<Vec<_>>()
    };
    let mut found = of(Side::Reference, reference.difference(&ours).collect());
    found.extend(of(Side::Ours, ours.difference(&reference).collect()));
    let mut counted: BTreeMap<usize, usize> = BTreeMap::new();
    let mut unexpected = Vec::new();
    for (side, words) in &found {
        match case
            .differences
            .iter()
            .position(|difference| difference.covers(*side, words))
        {
            Some(n) => *counted.entry(n).or_default() += 1,
            None => unexpected.push(format!(
                "passes by {side:?} only: {} -> {} {}",
                words.from, words.to, words.port
            )),
        }
    }
    assert!(unexpected.is_empty(), "{id}: {unexpected:#?}");
    for (n, difference) in case.differences.iter().enumerate() {
        let count = counted.get(&n).copied().unwrap_or_default();
        assert_eq!(
            count, difference.flows,
            "{id}: connections that differ because {}",
            difference.why
        );
    }
    // Nothing is shown where everything passes, or where a direction is looked at that nobody closes.
    let all = passing(&cluster("")).len();
    assert!(reference.len() < all && ours.len() < all, "{id} closes nothing");
}

/// A test for each section.
macro_rules! sections {
    ($($name:ident: $id:literal,)*) => {
        $(
            #[test]
            fn $name() {
                compare($id);
            }
        )*

        #[test]
        fn no_file_is_left_out() {
            let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/core/reference");
            let files: BTreeSet<String> = std::fs::read_dir(folder)
                .unwrap()
                .map(|entry| entry.unwrap().path().file_stem().unwrap().to_string_lossy().into_owned())
                .collect();
            assert_eq!(files, BTreeSet::from([$($id.to_owned()),*]));
        }
    };
}

sections! {
    s5_1: "S5.1",
    s5_2: "S5.2",
    s5_3: "S5.3",
    s5_4: "S5.4",
    s5_5: "S5.5",
    s5_6: "S5.6",
    s5_7: "S5.7",
    s5_8: "S5.8",
    s5_9: "S5.9",
    s5_10: "S5.10",
    s6_1: "S6.1",
    s6_2: "S6.2",
    s6_3: "S6.3",
    s6_4: "S6.4",
    s6_7: "S6.7",
}
