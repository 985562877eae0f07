//! One node: containerd, kubelet and kube-proxy in a network and a mount namespace of their own.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::build::{Binaries, KUBE_PROXY, KUBELET};
use super::cgroups;
use super::cni;
use super::command::run;
use super::images::{self, PAUSE};
use super::kubeconfig;
use super::mounts;
use super::netns::command_in;
use super::options::{Iptables, ProxyMode};
use super::paths::{NodePaths, Paths, text};
use super::pki::{Identity, Pki};
use super::plan::{NodePlan, Plan, joined};
use super::process::{self, Home};
use super::wait;

/// What the nodes of a cluster have in common.
pub(crate) struct Nodes<'a> {
    pub(crate) paths: &'a Paths,
    pub(crate) home: &'a Home,
    pub(crate) plan: &'a Plan,
    pub(crate) binaries: &'a Binaries,
    pub(crate) api_url: &'a str,
    pub(crate) proxy_mode: ProxyMode,
    pub(crate) iptables: Iptables,
}

impl Nodes<'_> {
    /// Everything on every node that needs no API server, up to the images.
    pub(crate) fn prepare_all(&self, pki: &Pki, archives: &[PathBuf]) -> Result<()> {
        for node in &self.plan.nodes {
            self.prepare(node, pki)?;
        }
        for node in &self.plan.nodes {
            self.wait_for_containerd(node)?;
        }
        let all: Vec<NodePaths> = self
            .plan
            .nodes
            .iter()
            .map(|node| self.paths.node(&node.name))
            .collect();
        images::load(&all, archives)
    }

    /// Namespaces, cgroup, configuration files and containerd.
    fn prepare(&self, node: &NodePlan, pki: &Pki) -> Result<()> {
        let own = self.paths.node(&node.name);
        fs::create_dir_all(own.root()).with_context(|| format!("make folder {}", own.root().display()))?;
        cgroups::create(&self.paths.cgroup_name(&node.name))?;
        mounts::create(&own)?;
        self.choose_iptables(node)?;
        self.write_configuration(node, &own, pki)?;
        let mut containerd = self.command(node, Path::new("containerd"));
        containerd.arg("--config").arg(own.root().join("containerd.toml"));
        process::spawn(self.home, &format!("containerd-{}", node.name), containerd)?;
        Ok(())
    }

    /// Lets `iptables` on the node be the variant that was asked for, the way Debian does, in the node's own /etc.
    fn choose_iptables(&self, node: &NodePlan) -> Result<()> {
        let variant = self.iptables;
        let link = |tool: &str| {
            let (tables, rest) = tool.split_once("tables").unwrap_or((tool, ""));
            format!("ln -sf /usr/sbin/{tables}tables-{variant}{rest} /etc/alternatives/{tool}")
        };
        let tools = ["iptables", "iptables-save", "iptables-restore"];
        let both = tools
            .iter()
            .flat_map(|tool| [(*tool).to_owned(), tool.replacen("ip", "ip6", 1)]);
        let script: Vec<String> = both.map(|tool| link(&tool)).collect();
        let mut inside = self.command(node, Path::new("sh"));
        inside.args(["-c", &script.join(" && ")]);
        run(&mut inside)
            .map(drop)
            .with_context(|| format!("choose iptables-{variant} on {}", node.name))
    }

    /// kubelet and kube-proxy. containerd must answer, the API server be ready.
    pub(crate) fn start(&self, node: &NodePlan) -> Result<()> {
        let own = self.paths.node(&node.name);
        let mut kubelet = self.command(node, &self.binaries.path(KUBELET));
        kubelet
            .arg(format!("--config={}", text(&own.root().join("kubelet.json"))))
            .arg(format!(
                "--kubeconfig={}",
                text(&own.root().join("kubelet.kubeconfig"))
            ))
            .arg(format!("--hostname-override={}", node.name))
            .arg(format!("--node-ip={}", joined(&node.ips)));
        process::spawn(self.home, &format!("kubelet-{}", node.name), kubelet)?;
        if self.proxy_mode != ProxyMode::None {
            let mut proxy = self.command(node, &self.binaries.path(KUBE_PROXY));
            proxy.args(self.proxy_args(node, &own));
            process::spawn(self.home, &format!("kube-proxy-{}", node.name), proxy)?;
        }
        Ok(())
    }

    /// A command that runs on the node.
    pub(crate) fn command(&self, node: &NodePlan, program: &Path) -> Command {
        let own = self.paths.node(&node.name);
        command_in(&self.paths.netns(&node.name), Some(own.mount_ns()), program)
    }

    fn wait_for_containerd(&self, node: &NodePlan) -> Result<()> {
        let own = self.paths.node(&node.name);
        let name = format!("containerd-{}", node.name);
        wait::until(
            &format!("{name} to answer"),
            Duration::from_secs(30),
            wait::SHORT,
            || {
                if run(ctr(&own).arg("version")).is_ok() {
                    return Ok(Some(()));
                }
                process::still_running(self.home, &name).map(|()| None)
            },
        )
    }

    fn write_configuration(&self, node: &NodePlan, own: &NodePaths, pki: &Pki) -> Result<()> {
        let root = own.root();
        let client = pki.client(
            &format!("kubelet-{}", node.name),
            &format!("system:node:{}", node.name),
            Some("system:nodes"),
        )?;
        let serving = pki.server(
            &format!("kubelet-serving-{}", node.name),
            &[&node.name],
            &node.ips,
        )?;
        let proxy = pki.client(&format!("kube-proxy-{}", node.name), "system:kube-proxy", None)?;
        kubeconfig::write(&root.join("kubelet.kubeconfig"), self.api_url, &pki.ca(), &client)?;
        kubeconfig::write(
            &root.join("kube-proxy.kubeconfig"),
            self.api_url,
            &pki.ca(),
            &proxy,
        )?;
        write(&root.join("containerd.toml"), &containerd_config(own))?;
        write(
            &root.join("resolv.conf"),
            "# Only the cluster's own names resolve.\n",
        )?;
        let cgroup = self.paths.cgroup_name(&node.name);
        let kubelet = kubelet_config(node, own, &cgroup, self.plan, &pki.ca(), &serving);
        write(
            &root.join("kubelet.json"),
            &serde_json::to_string_pretty(&kubelet)?,
        )?;
        let cni = own.overlay("/etc").join("upper/cni/net.d");
        // Written from outside, where the node's namespace shows it as /etc/cni/net.d.
        let script = format!(
            "mkdir -p /etc/cni/net.d && cat > /etc/cni/net.d/10-{}.conflist",
            cni::NETWORK
        );
        let mut inside = self.command(node, Path::new("sh"));
        inside.args(["-c", &script]);
        super::command::run_with_input(&mut inside, &serde_json::to_string_pretty(&cni::conflist(node))?)
            .with_context(|| format!("write the CNI configuration below {}", cni.display()))?;
        Ok(())
    }

    fn proxy_args(&self, node: &NodePlan, own: &NodePaths) -> Vec<String> {
        vec![
            format!("--kubeconfig={}", text(&own.root().join("kube-proxy.kubeconfig"))),
            format!("--hostname-override={}", node.name),
            format!("--cluster-cidr={}", joined(&self.plan.cluster_cidrs)),
            format!("--proxy-mode={}", self.proxy_mode),
            // The table of connections is the machine's, not the node's to size.
            "--conntrack-max-per-core=0".to_owned(),
            "--healthz-bind-address=127.0.0.1:10256".to_owned(),
            "--metrics-bind-address=127.0.0.1:10249".to_owned(),
        ]
    }
}

/// `ctr` for the node's containerd, in the namespace that kubelet uses.
pub(crate) fn ctr(node: &NodePaths) -> Command {
    let mut command = Command::new("ctr");
    command.args([
        "--address",
        &text(&node.containerd_socket()),
        "--namespace",
        "k8s.io",
    ]);
    command
}

fn write(path: &Path, content: &str) -> Result<()> {
    fs::write(path, content).with_context(|| format!("write {}", path.display()))
}

fn containerd_config(node: &NodePaths) -> String {
    let at = |name: &str| text(&node.root().join("containerd").join(name));
    let socket = text(&node.containerd_socket());
    // restrict_oom_score_adj: without CAP_SYS_RESOURCE no sandbox would start otherwise.
    format!(
        r#"version = 2
root = "{root}"
state = "{state}"
[grpc]
  address = "{socket}"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{PAUSE}"
  disable_apparmor = true
  restrict_oom_score_adj = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/opt/cni/bin"
    conf_dir = "/etc/cni/net.d"
"#,
        root = at("root"),
        state = at("state"),
    )
}

fn kubelet_config(
    node: &NodePlan,
    own: &NodePaths,
    cgroup: &str,
    plan: &Plan,
    ca: &Path,
    serving: &Identity,
) -> Value {
    let socket = format!("unix://{}", text(&own.containerd_socket()));
    json!({
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "authentication": {
            "anonymous": {"enabled": false},
            "webhook": {"enabled": true},
            "x509": {"clientCAFile": ca},
        },
        "authorization": {"mode": "Webhook"},
        "tlsCertFile": serving.cert,
        "tlsPrivateKeyFile": serving.key,
        "address": node.ips.first(),
        "containerRuntimeEndpoint": socket,
        "imageServiceEndpoint": socket,
        "clusterDomain": "cluster.local",
        "clusterDNS": [plan.dns_ip],
        "resolvConf": own.root().join("resolv.conf"),
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": format!("/{cgroup}"),
        "failCgroupV1": false,
        "failSwapOn": false,
        "enforceNodeAllocatable": [],
        // The machine's disk and memory are not the node's to defend.
        "evictionHard": {"memory.available": "100Mi"},
        "imageGCHighThresholdPercent": 100,
        "maxPods": 250,
        "syncFrequency": "10s",
        "nodeStatusUpdateFrequency": "2s",
        "kubeAPIQPS": 200,
        "kubeAPIBurst": 400,
        "registryPullQPS": 0,
        "eventRecordQPS": 0,
        "serializeImagePulls": false,
    })
}
