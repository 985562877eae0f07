//! Bringing a cluster up, step by step.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::build::{
    Binaries, CLUSTER_TOOLS, ETCD, KUBE_APISERVER, KUBE_CONTROLLER_MANAGER, KUBE_SCHEDULER, KUBECTL,
};
use super::command::{run, run_with_input};
use super::control_plane::{self, ApiServerConfig};
use super::images;
use super::netns::command_in;
use super::network::{self, CONTROL_PLANE};
use super::node::Nodes;
use super::options::{ClusterOptions, ProxyMode};
use super::packages::{FOR_CLUSTER, ensure_installed, require_root};
use super::paths::{Paths, text};
use super::pki::{Identity, Pki};
use super::plan::Plan;
use super::process::{self, Home};
use super::progress::{Progress, step};
use super::state::{self, State};
use super::{Cluster, dns, kubeconfig, mounts, remains, wait};

/// Port of the API server inside the cluster.
const API_PORT: u16 = 6443;

pub(crate) fn up(options: &ClusterOptions, progress: &dyn Progress) -> Result<Cluster> {
    options.validate()?;
    require_root("a cluster")?;
    ensure_installed(FOR_CLUSTER, progress)?;
    let binaries = Binaries::ensure(CLUSTER_TOOLS, progress)?;
    let archives = images::archives(&binaries)?;
    let paths = Paths::of(&options.name);
    let _lock = state::lock(&paths, progress)?;
    if let Some(cluster) = reusable(&paths, options, &binaries, progress)? {
        return Ok(cluster);
    }
    if remains::exist(&paths)? {
        let name = format!("remove what is left of cluster {}", options.name);
        step(progress, &name, || remains::remove(&paths))?;
    }
    let start = Start::new(paths, options, &binaries, progress);
    start.run(&archives).with_context(|| {
        format!(
            "cluster {} did not come up; its logs are in {}; `cargo xtask cluster down --name {}` removes it",
            options.name,
            start.paths.logs().display(),
            options.name
        )
    })
}

/// The running cluster, if it is what is wanted and in good health.
fn reusable(
    paths: &Paths,
    options: &ClusterOptions,
    binaries: &Binaries,
    progress: &dyn Progress,
) -> Result<Option<Cluster>> {
    let Some(state) = State::read(paths)? else {
        return Ok(None);
    };
    if !state.serves(options, &binaries.fingerprint()) {
        progress.note(&format!(
            "cluster {} is unfinished or was made otherwise: it is made anew",
            options.name
        ));
        return Ok(None);
    }
    let cluster = Cluster::from_state(paths.clone(), state);
    if cluster.status()?.healthy() {
        progress.note(&format!("cluster {} is up already", options.name));
        return Ok(Some(cluster));
    }
    progress.note(&format!(
        "cluster {} is not in good health: it is made anew",
        options.name
    ));
    Ok(None)
}

struct Start<'a> {
    paths: Paths,
    home: Home,
    plan: Plan,
    options: &'a ClusterOptions,
    binaries: &'a Binaries,
    progress: &'a dyn Progress,
}

impl<'a> Start<'a> {
    fn new(
        paths: Paths,
        options: &'a ClusterOptions,
        binaries: &'a Binaries,
        progress: &'a dyn Progress,
    ) -> Self {
        let home = Home {
            records: paths.records(),
            logs: paths.logs(),
            mark: paths.root().to_owned(),
        };
        Self {
            home,
            plan: Plan::of(options),
            paths,
            options,
            binaries,
            progress,
        }
    }

    fn run(&self, archives: &[PathBuf]) -> Result<Cluster> {
        let api_url = control_plane::https(self.plan.control_plane[0], API_PORT);
        let nodes = Nodes {
            paths: &self.paths,
            home: &self.home,
            plan: &self.plan,
            binaries: self.binaries,
            api_url: &api_url,
            proxy_mode: self.options.proxy_mode,
            iptables: self.options.iptables,
        };
        self.paths.create()?;
        let progress = self.progress;
        let (cluster, pki) = step(progress, "make the network and start the control plane", || {
            network::load_modules()?;
            network::create(&self.paths, &self.plan)?;
            mounts::prepare_pins(&self.paths.namespaces())?;
            let pki = Pki::create(&self.paths.pki())?;
            Ok((self.start_api_server(&pki)?, pki))
        })?;
        step(
            progress,
            "start containerd on every node and load the images",
            || nodes.prepare_all(&pki, archives),
        )?;
        step(
            progress,
            "wait for the API server and start the controllers",
            || {
                self.wait_for_api(&cluster)?;
                self.start_controllers(&pki, &api_url)
            },
        )?;
        step(progress, "start the nodes", || {
            let objects = node_objects(&self.plan).to_string();
            run_with_input(&mut cluster.kubectl(["create", "--filename=-"]), &objects)?;
            self.plan.nodes.iter().try_for_each(|node| nodes.start(node))?;
            self.wait_for_nodes(&cluster)
        })?;
        // Only now, so that its pods spread over all nodes.
        step(progress, "start the cluster's DNS", || self.start_dns(&cluster))?;
        let mut state = cluster.state;
        state.ready = true;
        state.write(&self.paths)?;
        Ok(Cluster::from_state(self.paths.clone(), state))
    }

    /// A command in the control plane's namespace.
    fn inside(&self, program: &Path, args: Vec<String>) -> Command {
        let mut command = command_in(&self.paths.netns(CONTROL_PLANE), None, program);
        command.args(args);
        command
    }

    fn start_api_server(&self, pki: &Pki) -> Result<Cluster> {
        let (etcd, peer) = (2379, 2380);
        let etcd_args = control_plane::etcd_args(&self.paths.root().join("etcd"), etcd, peer);
        process::spawn(
            &self.home,
            "etcd",
            self.inside(&self.binaries.path(ETCD), etcd_args),
        )?;
        let v6 = self.options.ip_family.has_v6();
        let any: IpAddr = if v6 {
            Ipv6Addr::UNSPECIFIED.into()
        } else {
            Ipv4Addr::UNSPECIFIED.into()
        };
        let mut ips = vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()];
        ips.extend(self.plan.control_plane.iter().chain(&self.plan.api_service_ips()));
        let serving = pki.server("kube-apiserver", control_plane::API_NAMES, &ips)?;
        let kubelet_client = pki.client("kubelet-client", "kubelet-client", Some("system:masters"))?;
        let config = ApiServerConfig {
            etcd: format!("http://127.0.0.1:{etcd}"),
            bind: any,
            advertise: self.plan.control_plane[0],
            port: API_PORT,
            service_cidrs: self.plan.service_cidrs.clone(),
            ca: pki.ca(),
            serving,
            kubelet_client: Some(kubelet_client),
            token_key: pki.token_key()?,
        };
        let args = control_plane::apiserver_args(&config);
        process::spawn(
            &self.home,
            "kube-apiserver",
            self.inside(&self.binaries.path(KUBE_APISERVER), args),
        )?;
        let port = self.start_relay()?;
        let admin = pki.client("admin", "ringfence-admin", Some("system:masters"))?;
        let url = control_plane::https(Ipv4Addr::LOCALHOST.into(), port);
        kubeconfig::write(&self.paths.kubeconfig(), &url, &pki.ca(), &admin)?;
        let state = State::new(
            self.options,
            self.binaries.fingerprint(),
            port,
            self.binaries.path(KUBECTL),
        );
        state.write(&self.paths)?;
        Ok(Cluster::from_state(self.paths.clone(), state))
    }

    /// Makes the API server reachable from the machine's own namespace without a cable into it: two relays that meet
    /// at a unix socket, which is not bound to any network namespace. Gives the port on 127.0.0.1.
    fn start_relay(&self) -> Result<u16> {
        let socket = text(&self.paths.api_socket());
        let to_api = format!(
            "TCP:{},nodelay",
            std::net::SocketAddr::new(self.plan.control_plane[0], API_PORT)
        );
        let inner = vec![format!("UNIX-LISTEN:{socket},fork,unlink-early,mode=600"), to_api];
        process::spawn(&self.home, "relay-inner", self.inside(Path::new("socat"), inner))?;
        // The port is free now; if somebody takes it before socat does, the log says so and `up` fails.
        let listener =
            TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("find a free port on 127.0.0.1")?;
        let port = listener.local_addr().context("read the free port")?.port();
        drop(listener);
        let mut outer = Command::new("socat");
        outer.arg(format!("TCP-LISTEN:{port},bind=127.0.0.1,fork,reuseaddr,nodelay"));
        outer.arg(format!("UNIX-CONNECT:{socket}"));
        process::spawn(&self.home, "relay-outer", outer)?;
        Ok(port)
    }

    fn wait_for_api(&self, cluster: &Cluster) -> Result<()> {
        let pause = Duration::from_millis(200);
        wait::until(
            "the API server to be ready",
            Duration::from_secs(90),
            pause,
            || {
                for name in ["etcd", "kube-apiserver", "relay-inner", "relay-outer"] {
                    process::still_running(&self.home, name)?;
                }
                let ready =
                    run(&mut cluster.kubectl(["get", "--raw=/readyz", "--request-timeout=5s"])).is_ok();
                Ok(ready.then_some(()))
            },
        )
    }

    fn start_controllers(&self, pki: &Pki, api_url: &str) -> Result<()> {
        let log_in = |name: &str| -> Result<PathBuf> {
            let identity: Identity = pki.client(name, &format!("system:{name}"), None)?;
            let path = self.paths.pki().join(format!("{name}.kubeconfig"));
            kubeconfig::write(&path, api_url, &pki.ca(), &identity)?;
            Ok(path)
        };
        let token_key = self.paths.pki().join("service-account.key");
        let manager = log_in("kube-controller-manager")?;
        let args = control_plane::controller_manager_args(&self.plan, &manager, &pki.ca(), &token_key);
        let program = self.binaries.path(KUBE_CONTROLLER_MANAGER);
        process::spawn(&self.home, "kube-controller-manager", self.inside(&program, args))?;
        let args = control_plane::scheduler_args(&log_in("kube-scheduler")?);
        process::spawn(
            &self.home,
            "kube-scheduler",
            self.inside(&self.binaries.path(KUBE_SCHEDULER), args),
        )?;
        Ok(())
    }

    fn wait_for_nodes(&self, cluster: &Cluster) -> Result<()> {
        let pause = Duration::from_millis(250);
        wait::until("every node to be Ready", Duration::from_secs(90), pause, || {
            for record in process::records(&self.home.records) {
                process::still_running(&self.home, &record.name)?;
            }
            Ok((cluster.ready_nodes()?.len() == self.plan.nodes.len()).then_some(()))
        })
    }

    fn start_dns(&self, cluster: &Cluster) -> Result<()> {
        let direct = (self.options.proxy_mode == ProxyMode::None).then_some(self.plan.control_plane[0]);
        let manifest = dns::manifest(self.plan.dns_ip, direct);
        run_with_input(
            &mut cluster.kubectl(["apply", "--server-side", "--filename=-"]),
            &manifest,
        )?;
        let arguments = [
            "--namespace=kube-system",
            "rollout",
            "status",
            "deployment/coredns",
            "--timeout=90s",
        ];
        run(&mut cluster.kubectl(arguments)).map(drop)
    }
}

/// The Node objects, made before the kubelets register: so each node's pod CIDR is the planned one, and its CNI
/// configuration can be written before anything asks. The controllers find the CIDRs taken and keep them.
fn node_objects(plan: &Plan) -> Value {
    let node = |node: &super::plan::NodePlan| {
        json!({
            "apiVersion": "v1",
            "kind": "Node",
            "metadata": {"name": node.name},
            "spec": {"podCIDR": node.pod_cidrs.first(), "podCIDRs": node.pod_cidrs},
        })
    };
    json!({"apiVersion": "v1", "kind": "List", "items": plan.nodes.iter().map(node).collect::<Vec<_>>()})
}
