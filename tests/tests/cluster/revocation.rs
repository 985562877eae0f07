//! Policies that tighten end exactly the conversations that they no longer allow: TCP in either talking order, UDP, both
//! families, within a node and across nodes, with the pod's own address and a Service's.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use ringfence_tests::flows::{Flow, Kind, Server};
use ringfence_tests::kube_objects::{self, get};
use ringfence_tests::probe::{self, all_at_once};
use ringfence_tests::testbed::AGNHOST_IMAGE;
use serde_json::Value;

use crate::lab::{DEADLINE, Lab, TIMEOUT};

const NAMESPACE: &str = "revocation";
/// For how long a conversation must be silent, or go on, to count so. Its ends talk every 20 ms.
const WHILE: Duration = Duration::from_millis(600);

/// What becomes of a client's conversations when the policies tighten.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    /// They stay allowed.
    Control,
    /// The server's ingress no longer allows them.
    Ingress,
    /// Their own egress no longer allows them.
    Egress,
}

impl Role {
    const ALL: [Self; 3] = [Self::Control, Self::Ingress, Self::Egress];

    fn label(self) -> &'static str {
        match self {
            Self::Control => "control",
            Self::Ingress => "ingress",
            Self::Egress => "egress",
        }
    }
}

/// A conversation with what is to become of it.
struct Talk {
    role: Role,
    flow: Flow,
    client: PathBuf,
    to: SocketAddr,
    text: String,
}

/// What a run of the matrix found.
#[derive(Debug, Default)]
struct Report {
    flows: usize,
    revoked: usize,
    survivors: Vec<String>,
    false_drops: Vec<String>,
    leaks: Vec<String>,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} flows, {} to be revoked: {} survivors, {} leaks, {} false drops",
            self.flows,
            self.revoked,
            self.survivors.len(),
            self.leaks.len(),
            self.false_drops.len()
        )
    }
}

pub(crate) fn tightening_ends_exactly_what_it_forbids(lab: &Lab) -> Result<()> {
    let pods = install(lab)?;
    let runs = if lab.long() { 10 } else { 1 };
    for run in 1..=runs {
        let report = matrix(lab, &pods)?;
        println!("revocation matrix, run {run}: {report}");
        let wrong = [report.survivors, report.leaks, report.false_drops].concat();
        ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
    }
    lab.kubectl(&["delete", "namespace", NAMESPACE, "--timeout=120s"])?;
    Ok(())
}

/// The pods of the matrix, as they are seen from outside.
struct Pods {
    servers: Vec<Server>,
    /// The Service's addresses.
    service: Vec<IpAddr>,
    clients: Vec<(Role, String, PathBuf)>,
}

fn install(lab: &Lab) -> Result<Pods> {
    let nodes = lab.cluster.nodes();
    let [a, b, ..] = nodes.as_slice() else {
        bail!("the cluster has fewer than two nodes")
    };
    let mut objects = vec![
        format!("apiVersion: v1\nkind: Namespace\nmetadata: {{name: {NAMESPACE}}}"),
        service(),
        pod("server", "server", &a.name),
    ];
    for role in Role::ALL {
        for node in [a, b] {
            objects.push(pod(
                &format!("{}-{}", role.label(), node.name),
                role.label(),
                &node.name,
            ));
        }
    }
    apply(lab, &objects)?;
    let ready = [
        "-n",
        NAMESPACE,
        "wait",
        "pod",
        "--all",
        "--for=condition=Ready",
        "--timeout=60s",
    ];
    lab.kubectl(&ready)?;
    let list = get(&lab.cluster, &["pods", "-n", NAMESPACE])?;
    let (mut servers, mut clients) = (Vec::new(), Vec::new());
    for pod in list["items"].as_array().context("kubectl printed no list")? {
        let name = pod["metadata"]["name"].as_str().unwrap_or_default().to_owned();
        let addresses = addresses(&pod["status"]["podIPs"], Some("ip"))?;
        let netns = lab
            .cluster
            .pod_netns(*addresses.first().context("a pod without an address")?)?;
        match Role::ALL
            .into_iter()
            .find(|role| pod["metadata"]["labels"]["role"] == role.label())
        {
            Some(role) => clients.push((role, name, netns)),
            None => servers.extend(
                addresses
                    .into_iter()
                    .map(|it| Server::start(&netns, it))
                    .collect::<Result<Vec<_>>>()?,
            ),
        }
    }
    let object = get(&lab.cluster, &["service", "-n", NAMESPACE, "server"])?;
    Ok(Pods {
        servers,
        service: addresses(&object["spec"]["clusterIPs"], None)?,
        clients,
    })
}

fn matrix(lab: &Lab, pods: &Pods) -> Result<Report> {
    apply(lab, &policies(true))?;
    let mut ways = Vec::new();
    for (role, name, client) in &pods.clients {
        for server in &pods.servers {
            for kind in Kind::ALL {
                let own = server.at(kind);
                let same = pods.service.iter().find(|it| it.is_ipv4() == own.is_ipv4());
                let service = SocketAddr::new(*same.context("the Service lacks a family")?, own.port());
                ways.extend([own, service].map(|to| (*role, name, client, kind, to)));
            }
        }
    }
    let talks = all_at_once(&ways, |(role, name, client, kind, to)| {
        Ok(Talk {
            role: *role,
            flow: open(client, *kind, *to)?,
            client: (*client).clone(),
            to: *to,
            text: format!("{name} to {to}, {kind}"),
        })
    });
    let talks = talks.into_iter().collect::<Result<Vec<Talk>>>()?;
    let mut report = Report {
        flows: talks.len(),
        revoked: talks.iter().filter(|talk| talk.role != Role::Control).count(),
        ..Report::default()
    };
    ensure!(
        silent(pods, &talks).is_empty(),
        "a conversation is silent before the policies tighten"
    );
    apply(lab, &policies(false))?;
    let started = Instant::now();
    loop {
        let silent = silent(pods, &talks);
        let left = talks
            .iter()
            .filter(|it| it.role != Role::Control && !silent.contains(&it.flow.number()));
        report.survivors = left.map(|talk| format!("goes on: {}", talk.text)).collect();
        if report.survivors.is_empty() || started.elapsed() > DEADLINE {
            break;
        }
    }
    let quiet = silent(pods, &talks);
    for talk in talks.iter().filter(|talk| talk.role == Role::Control) {
        let (ended, missing) = (talk.flow.ended(), talk.flow.missing());
        if quiet.contains(&talk.flow.number()) || ended || missing > 0 {
            let line = format!("false drop: {} (ended: {ended}, missing: {missing})", talk.text);
            report.false_drops.push(line);
        }
    }
    report.leaks = reopened(&talks)?;
    allowed_again(lab, pods, &talks, &mut report)?;
    Ok(report)
}

/// Opens a conversation. A Service's rules come a moment after the Service: until then its address leads nowhere.
fn open(client: &Path, kind: Kind, to: SocketAddr) -> Result<Flow> {
    let started = Instant::now();
    loop {
        match Flow::open(client, kind, to) {
            Err(_) if started.elapsed() < DEADLINE => sleep(Duration::from_millis(100)),
            opened => return opened,
        }
    }
}

/// New connections that should not be possible.
fn reopened(talks: &[Talk]) -> Result<Vec<String>> {
    let tcp: Vec<&Talk> = talks
        .iter()
        .filter(|it| it.role != Role::Control && it.flow.kind() != Kind::Datagrams)
        .collect();
    let outcomes = all_at_once(&tcp, |talk| probe::tcp_connect(&talk.client, talk.to, TIMEOUT));
    let mut leaks = Vec::new();
    for (talk, outcome) in tcp.iter().zip(outcomes) {
        if outcome?.is_open() {
            leaks.push(format!("leak: {} can be opened anew", talk.text));
        }
    }
    Ok(leaks)
}

/// What is allowed again works: a UDP conversation goes on, a TCP connection can be opened.
fn allowed_again(lab: &Lab, pods: &Pods, talks: &[Talk], report: &mut Report) -> Result<()> {
    apply(lab, &policies(true))?;
    let revoked: Vec<&Talk> = talks.iter().filter(|talk| talk.role != Role::Control).collect();
    let started = Instant::now();
    loop {
        let silent = silent(pods, talks);
        let dead =
            |talk: &&&Talk| talk.flow.kind() == Kind::Datagrams && silent.contains(&talk.flow.number());
        let dead: Vec<&&Talk> = revoked.iter().filter(dead).collect();
        if dead.is_empty() {
            break;
        }
        if started.elapsed() > DEADLINE {
            let lines = dead
                .iter()
                .map(|talk| format!("false drop: {} is allowed again and silent", talk.text));
            report.false_drops.extend(lines);
            break;
        }
    }
    let tcp: Vec<&&Talk> = revoked
        .iter()
        .filter(|it| it.flow.kind() != Kind::Datagrams)
        .collect();
    let opened = all_at_once(&tcp, |talk| Flow::open(&talk.client, talk.flow.kind(), talk.to));
    for (talk, flow) in tcp.iter().zip(opened) {
        if let Err(error) = flow {
            let line = format!("false drop: {} is allowed again: {error:#}", talk.text);
            report.false_drops.push(line);
        }
    }
    Ok(())
}

/// The numbers of the conversations in which neither end hears anything for a while.
fn silent(pods: &Pods, talks: &[Talk]) -> Vec<u64> {
    let heard = || -> Vec<(u64, u64)> {
        let each = talks.iter().map(|talk| {
            let number = talk.flow.number();
            (
                talk.flow.heard(),
                pods.servers.iter().map(|server| server.heard(number)).sum(),
            )
        });
        each.collect()
    };
    let before = heard();
    sleep(WHILE);
    let after = heard();
    let same = talks
        .iter()
        .zip(before.iter().zip(&after))
        .filter(|(_, (before, after))| before == after);
    same.map(|(talk, _)| talk.flow.number()).collect()
}

fn apply(lab: &Lab, objects: &[String]) -> Result<()> {
    kube_objects::apply(&lab.cluster, &objects.join("\n---\n"))
}

fn addresses(list: &Value, field: Option<&str>) -> Result<Vec<IpAddr>> {
    let each = list.as_array().context("no addresses")?.iter().map(|entry| {
        let text = field
            .map_or(entry, |field| &entry[field])
            .as_str()
            .unwrap_or_default();
        text.parse().with_context(|| format!("{text} is no address"))
    });
    each.collect()
}

fn pod(name: &str, role: &str, node: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{namespace: {NAMESPACE}, name: {name}, labels: {{role: {role}}}}}\nspec:\n  \
         nodeName: {node}\n  terminationGracePeriodSeconds: 0\n  containers: [{{name: main, image: {AGNHOST_IMAGE}, \
         imagePullPolicy: IfNotPresent, args: [pause]}}]"
    )
}

fn service() -> String {
    let ports = Kind::ALL.map(|kind| {
        let (port, protocol) = (kind.port(), kind.protocol());
        format!("{{name: p{port}, port: {port}, protocol: {protocol}}}")
    });
    format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{namespace: {NAMESPACE}, name: server}}\nspec:\n  selector: {{role: \
         server}}\n  ipFamilyPolicy: RequireDualStack\n  ports: [{}]",
        ports.join(", ")
    )
}

/// Wide, the server lets every client in, and clients may go to it. Tight, those of one role are not let in, and those of
/// another may not go anywhere.
fn policies(wide: bool) -> Vec<String> {
    let head = |name: &str, role: &str| {
        format!(
            "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {{namespace: {NAMESPACE}, name: {name}}}\nspec:\n  \
             podSelector: {{matchLabels: {{role: {role}}}}}"
        )
    };
    let roles = if wide {
        "control, ingress, egress"
    } else {
        "control, egress"
    };
    let ingress = format!(
        "{}\n  policyTypes: [Ingress]\n  ingress:\n  - from: [{{podSelector: {{matchExpressions: [{{key: role, operator: In, \
         values: [{roles}]}}]}}}}]",
        head("server", "server")
    );
    let to = if wide {
        "[{to: [{podSelector: {matchLabels: {role: server}}}]}]"
    } else {
        "[]"
    };
    let egress = format!(
        "{}\n  policyTypes: [Egress]\n  egress: {to}",
        head("egress", "egress")
    );
    vec![ingress, egress]
}
