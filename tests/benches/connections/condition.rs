//! The node, and the rules on it.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use anyhow::{Context, Result};
use ringfence_enforcer::engine::Engine;
use ringfence_enforcer::kernel::{LocalKernel, Tools, Variant, remove_rules};
use ringfence_enforcer::metrics::Writes;
use ringfence_enforcer::options::Options;
use ringfence_enforcer::plan::plan;
use ringfence_enforcer::ruleset::{Family, Ruleset};
use ringfence_policy::{
    Namespace, ObjectKey, Operator, Peer, Pod, Policy, PortMatch, PortSpec, Protocol, Requirement, Rule,
    Selector, World, resolve,
};
use ringfence_tests::net_lab::NetLab;

use crate::measure::{self, Measure, Sample};

const NODE: &str = "node";

/// What the router holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Condition {
    /// No rules of ours.
    None,
    /// So many policies select each of the two pods, in both directions.
    Policies(usize),
    /// One policy each for so many local pods, two of which talk.
    Pods(usize),
}

/// The pods, and the router between them.
pub(crate) struct Node {
    lab: NetLab,
    family: Family,
    variant: Variant,
    tools: Tools,
    engine: Engine<LocalKernel>,
    now: Condition,
    rulesets: BTreeMap<Condition, Ruleset>,
}

impl Node {
    pub(crate) fn new(variant: Variant, family: Family) -> Result<Self> {
        let lab = NetLab::new(2)?;
        // What kube-proxy has on every node, in the same variant: it makes the kernel track connections.
        for tables in ["iptables", "ip6tables"] {
            let iptables = format!("{tables}-{variant}");
            let rule = [
                "-A",
                "FORWARD",
                "-m",
                "conntrack",
                "--ctstate",
                "INVALID",
                "-j",
                "DROP",
            ];
            lab.router
                .run(&[&[iptables.as_str()], rule.as_slice()].concat())?;
        }
        // Entries of connections that were reset go soon, or there would be more of them from round to round.
        lab.router
            .sysctl("net.netfilter.nf_conntrack_tcp_timeout_close", "1")?;
        let any: IpAddr = match family {
            Family::V4 => Ipv4Addr::UNSPECIFIED.into(),
            Family::V6 => Ipv6Addr::UNSPECIFIED.into(),
        };
        lab.pods[1].inside(|| measure::serve(any))??;
        let prefix = lab.router.prefix();
        let prefix: Vec<&str> = prefix.iter().map(String::as_str).collect();
        let tools = lab
            .router
            .inside(|| Tools::open(10, Writes::default()))??
            .started_by(&prefix);
        Ok(Self {
            engine: Engine::new(LocalKernel::new(tools.clone(), variant, &[family])),
            lab,
            family,
            variant,
            tools,
            now: Condition::None,
            rulesets: BTreeMap::new(),
        })
    }

    /// One round of a measure under a condition.
    pub(crate) fn round(
        &mut self,
        condition: Condition,
        measure: Measure,
        length: Duration,
    ) -> Result<Sample> {
        self.switch(condition)?;
        self.lab.router.run(&["conntrack", "-F"])?;
        let server = NetLab::addresses(1)[usize::from(self.family == Family::V6)];
        self.lab.pods[0].inside(|| measure::round(measure, server, length))?
    }

    fn switch(&mut self, condition: Condition) -> Result<()> {
        if condition == self.now {
            return Ok(());
        }
        let wanted = match condition {
            Condition::None => None,
            condition => Some(
                self.rulesets
                    .entry(condition)
                    .or_insert_with(|| ruleset(condition, self.family)),
            ),
        };
        match wanted {
            None => {
                remove_rules(&self.tools, self.variant, &[self.family])?;
                self.engine = Engine::new(LocalKernel::new(self.tools.clone(), self.variant, &[self.family]));
            }
            Some(wanted) => {
                self.engine.sync(wanted).context("write the rules")?;
            }
        }
        self.now = condition;
        Ok(())
    }
}

fn ruleset(condition: Condition, family: Family) -> Ruleset {
    let (policies, pods) = match condition {
        Condition::None => (0, 0),
        Condition::Policies(count) => (count, 2),
        Condition::Pods(count) => (1, count),
    };
    let options = Options::default();
    plan(&resolve(&world(policies, pods), NODE), &[], &[family], &options)
}

/// Pods 0 and 1 are those of the laboratory. Every policy names peers and ports of its own; the last ones let the client
/// reach the server.
fn world(policies: usize, pods: usize) -> World {
    let mut world = World::default();
    world.insert_namespace(Namespace {
        name: "bench".to_owned(),
        labels: [].into(),
    });
    (0..pods.max(2)).for_each(|number| world.insert_pod(pod(number, NODE)));
    (0..20).for_each(|number| world.insert_pod(pod(1_000 + number, "elsewhere")));
    (0..policies).for_each(|number| world.insert_policy(policy(number, number + 1 == policies)));
    world
}

fn pod(number: usize, node: &str) -> Pod {
    let small = u8::try_from(number).ok().filter(|small| *small < 2);
    let addresses = small.map_or_else(
        || {
            let low = u16::try_from(number).unwrap_or(u16::MAX);
            let [high, low] = low.to_be_bytes();
            vec![
                IpAddr::from([10, 245, high, low]),
                IpAddr::from([0xfd00, 0x245, 0, 0, 0, 0, u16::from(high), u16::from(low)]),
            ]
        },
        |small| NetLab::addresses(small).to_vec(),
    );
    Pod {
        key: ObjectKey::new("bench", format!("pod-{number}")),
        uid: number.to_string(),
        labels: [("group".to_owned(), (number % 20).to_string())].into(),
        node: Some(node.to_owned()),
        addresses,
        host_network: false,
        finished: false,
        terminating: false,
        ports: Vec::new(),
        service_account: "default".to_owned(),
    }
}

/// A policy for all pods. One that grants lets everybody in at the ports that are measured, by their labels.
fn policy(number: usize, grants: bool) -> Policy {
    let group = |value: usize| {
        Selector::new(vec![Requirement {
            key: "group".to_owned(),
            operator: Operator::In([value.to_string()].into()),
        }])
    };
    let ports = |protocol, first, last| PortMatch {
        protocol,
        port: Some(PortSpec::Range(first, last)),
    };
    let (groups, ports): (Vec<usize>, Vec<PortMatch>) = if grants {
        let each = |port| move |protocol| ports(protocol, port, port);
        let tcp = [measure::ACCEPT, measure::SINK].map(|port| each(port)(Protocol::Tcp));
        (
            (0..20).collect(),
            [tcp.to_vec(), vec![each(measure::ECHO)(Protocol::Udp)]].concat(),
        )
    } else {
        let port = 10_000 + u16::try_from(number).unwrap_or(0);
        (vec![number % 20], vec![ports(Protocol::Tcp, port, port)])
    };
    let rule = Rule {
        peers: Some(
            groups
                .into_iter()
                .map(|value| Peer::Pods {
                    namespaces: None,
                    pods: Some(group(value)),
                })
                .collect(),
        ),
        ports: Some(ports),
    };
    Policy {
        key: ObjectKey::new("bench", format!("policy-{number}")),
        uid: number.to_string(),
        pod_selector: Selector::everything(),
        ingress: Some(vec![rule.clone()]),
        egress: Some(vec![rule]),
    }
}
