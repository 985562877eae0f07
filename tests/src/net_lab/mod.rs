//! A node without Kubernetes: a network namespace that routes, and pods around it, each on a link of its own. What is
//! measured and tested here are rules and packets.

mod forward;

pub use forward::Forwarder;

use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, Result};

use crate::testbed::{exec_in_netns, require_root, run};

/// Begin of the names of the namespaces.
const PREFIX: &str = "ringfence-lab";

static NEXT: AtomicU32 = AtomicU32::new(0);

/// A network namespace that lives as long as this value.
#[derive(Debug)]
pub struct Namespace {
    name: String,
    path: PathBuf,
}

impl Namespace {
    /// A new one with loopback up.
    ///
    /// # Errors
    /// Without root, or without `ip`.
    pub fn new() -> Result<Self> {
        require_root("making network namespaces")?;
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("{PREFIX}-{}-{number}", std::process::id());
        run(Command::new("ip").args(["netns", "add", &name]))?;
        let namespace = Self {
            path: Path::new("/run/netns").join(&name),
            name,
        };
        namespace.run(&["ip", "link", "set", "lo", "up"])?;
        Ok(namespace)
    }

    /// Where it can be entered.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What starts a command inside, with a lock file of its own for iptables: the tables are its own, too.
    pub fn prefix(&self) -> Vec<String> {
        let lock = format!("XTABLES_LOCKFILE=/tmp/{}.lock", self.name);
        let net = format!("--net={}", self.path.display());
        ["env", &lock, "nsenter", &net].map(str::to_owned).to_vec()
    }

    /// Runs a command inside and gives what it printed.
    ///
    /// # Errors
    /// When it cannot be started, or fails: with its own words.
    pub fn run(&self, words: &[&str]) -> Result<String> {
        let prefix = self.prefix();
        let (program, first) = prefix.split_first().context("no command")?;
        run(Command::new(program).args(first).args(words))
    }

    /// Does some work with the namespace's network.
    ///
    /// # Errors
    /// When it cannot be entered.
    pub fn inside<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T> {
        exec_in_netns(&self.path, work)
    }

    /// Sets a sysctl of the namespace: `net.ipv4.ip_forward`, `1`.
    ///
    /// # Errors
    /// When there is no such sysctl.
    pub fn sysctl(&self, name: &str, value: &str) -> Result<()> {
        let path = format!("/proc/sys/{}", name.replace('.', "/"));
        let written = self.inside(|| fs::write(&path, value))?;
        written.with_context(|| format!("set {name} in {}", self.name))
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        // Somebody else may have removed it; there is nobody to tell.
        let _ = run(Command::new("ip").args(["netns", "del", &self.name]));
        let _ = fs::remove_file(format!("/tmp/{}.lock", self.name));
    }
}

/// A router with pods around it.
#[derive(Debug)]
pub struct NetLab {
    /// The node.
    pub router: Namespace,
    /// The pods, by number.
    pub pods: Vec<Namespace>,
}

impl NetLab {
    /// A router with so many pods.
    ///
    /// # Errors
    /// Without root, or when the kernel refuses a link or an address.
    pub fn new(pods: u8) -> Result<Self> {
        let router = Namespace::new()?;
        router.sysctl("net.ipv4.ip_forward", "1")?;
        router.sysctl("net.ipv6.conf.all.forwarding", "1")?;
        let pods = (0..pods).map(|number| pod(&router, number));
        Ok(Self {
            pods: pods.collect::<Result<_>>()?,
            router,
        })
    }

    /// The addresses of a pod: IPv4, IPv6.
    pub fn addresses(number: u8) -> [IpAddr; 2] {
        let hex = u16::from(number);
        [
            IpAddr::from([10, 244, number, 2]),
            IpAddr::from([0xfd00, 0x244, 0, hex, 0, 0, 0, 2]),
        ]
    }
}

fn pod(router: &Namespace, number: u8) -> Result<Namespace> {
    let pod = Namespace::new()?;
    let link = format!("pod{number}");
    router.run(&[
        "ip", "link", "add", &link, "type", "veth", "peer", "name", "eth0", "netns", &pod.name,
    ])?;
    router.sysctl(&format!("net.ipv6.conf.{link}.accept_dad"), "0")?;
    pod.sysctl("net.ipv6.conf.eth0.accept_dad", "0")?;
    router.run(&["ip", "link", "set", &link, "up"])?;
    pod.run(&["ip", "link", "set", "eth0", "up"])?;
    let [v4, v6] = NetLab::addresses(number);
    let (gateway4, gateway6) = (format!("10.244.{number}.1"), format!("fd00:244:0:{number:x}::1"));
    router.run(&["ip", "address", "add", &format!("{gateway4}/24"), "dev", &link])?;
    router.run(&[
        "ip",
        "address",
        "add",
        &format!("{gateway6}/64"),
        "dev",
        &link,
        "nodad",
    ])?;
    pod.run(&["ip", "address", "add", &format!("{v4}/24"), "dev", "eth0"])?;
    pod.run(&[
        "ip",
        "address",
        "add",
        &format!("{v6}/64"),
        "dev",
        "eth0",
        "nodad",
    ])?;
    pod.run(&["ip", "route", "add", "default", "via", &gateway4])?;
    pod.run(&["ip", "-6", "route", "add", "default", "via", &gateway6])?;
    Ok(pod)
}
