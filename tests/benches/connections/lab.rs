//! A node between two of its own pods, with kube-proxy's rules, and ours or none.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use ringfence_enforcer::engine::Engine;
use ringfence_enforcer::kernel::{LocalKernel, Tools, Variant, cleanup};
use ringfence_enforcer::metrics::Writes;
use ringfence_enforcer::ruleset::{Family, Ruleset};
use ringfence_tests::net_lab::NetLab;

/// What kube-proxy has in FORWARD on every node. Its tests of the connection make the kernel track connections here, with
/// an enforcer or without.
const KUBE_PROXY: [&[&str]; 6] = [
    &["-N", "KUBE-FORWARD"],
    &["-N", "KUBE-PROXY-FIREWALL"],
    &[
        "-A",
        "FORWARD",
        "-m",
        "conntrack",
        "--ctstate",
        "NEW",
        "-j",
        "KUBE-PROXY-FIREWALL",
    ],
    &["-A", "FORWARD", "-j", "KUBE-FORWARD"],
    &[
        "-A",
        "KUBE-FORWARD",
        "-m",
        "conntrack",
        "--ctstate",
        "INVALID",
        "-j",
        "DROP",
    ],
    &[
        "-A",
        "KUBE-FORWARD",
        "-m",
        "conntrack",
        "--ctstate",
        "RELATED,ESTABLISHED",
        "-j",
        "ACCEPT",
    ],
];

/// The node and its two pods.
pub(crate) struct Node {
    pub(crate) lab: NetLab,
    tools: Tools,
    variant: Variant,
    engine: Option<Engine<LocalKernel>>,
}

impl Node {
    /// A node whose programs use this variant of iptables.
    pub(crate) fn new(variant: Variant) -> Result<Self> {
        let lab = NetLab::new(2)?;
        for tables in ["iptables", "ip6tables"] {
            let iptables = format!("{tables}-{variant}");
            for rule in KUBE_PROXY {
                lab.router.run(&[&[iptables.as_str()], rule].concat())?;
            }
        }
        // Entries of connections that were reset go soon, or there would be more of them from round to round.
        lab.router
            .sysctl("net.netfilter.nf_conntrack_tcp_timeout_close", "1")?;
        let prefix = lab.router.prefix();
        let prefix: Vec<&str> = prefix.iter().map(String::as_str).collect();
        let tools = lab.router.inside(|| Tools::open(10, Writes::default()))??;
        Ok(Self {
            tools: tools.started_by(&prefix),
            lab,
            variant,
            engine: None,
        })
    }

    /// Makes the node enforce these rules, or nothing at all. Returns how long that took.
    pub(crate) fn enforce(&mut self, rules: Option<&Ruleset>) -> Result<Duration> {
        let started = Instant::now();
        if let Some(rules) = rules {
            let kernel = || LocalKernel::new(self.tools.clone(), self.variant, &Family::ALL);
            let engine = self.engine.get_or_insert_with(|| Engine::new(kernel()));
            engine.sync(rules).context("write the rules")?;
        } else {
            self.engine = None;
            cleanup(&self.tools).context("remove the rules")?;
        }
        Ok(started.elapsed())
    }
}
