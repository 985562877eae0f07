//! The laboratory: API server, router with the enforcer's process, pods, and the objects that stand for them.

use std::fs::File;
use std::net::IpAddr;
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::core::v1::{Namespace, Node, Pod};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Api, Client, Config};
use ringfence_enforcer::kernel::Variant;
use ringfence_policy as policy;
use ringfence_tests::net_lab::{Forwarder, NetLab};
use ringfence_tests::testbed::ApiServer;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::runtime::Runtime;

use crate::beacon;
use crate::random::{Change, LOCAL, NAMESPACES, PODS};

pub(crate) const NODE: &str = "here";
/// Where the enforcer serves its metrics, in the router.
pub(crate) const HTTP_PORT: u16 = 9470;
/// Longer than anything may take.
pub(crate) const LIMIT: Duration = Duration::from_secs(60);

pub(crate) struct Lab {
    pub(crate) net: NetLab,
    pub(crate) forwarder: Forwarder,
    runtime: Runtime,
    client: Client,
    server: ApiServer,
    enforcer: Mutex<Option<Child>>,
    variant: Variant,
    environment: Vec<(String, String)>,
    before: String,
    logs: tempfile::TempDir,
}

impl Lab {
    /// Pods that are all alike, and the enforcer at work.
    pub(crate) fn start(variant: Variant) -> Result<Self> {
        Self::start_with(variant, Vec::new())
    }

    /// The same with an enforcer that has these variables in its environment.
    pub(crate) fn start_with(variant: Variant, environment: Vec<(String, String)>) -> Result<Self> {
        let net = NetLab::new(PODS + beacon::PODS)?;
        // Somebody else's rules, before ours and behind.
        for tables in ["iptables", "ip6tables"] {
            let iptables = format!("{tables}-{variant}");
            net.router.run(&[&iptables, "-N", "KUBE-FORWARD"])?;
            net.router
                .run(&[&iptables, "-A", "FORWARD", "-j", "KUBE-FORWARD"])?;
            let mark = ["-m", "mark", "--mark", "0x4000/0x4000", "-j", "ACCEPT"];
            net.router
                .run(&[&[iptables.as_str(), "-A", "KUBE-FORWARD"], mark.as_slice()].concat())?;
        }
        let before = saved(&net)?;
        let server = ApiServer::start()?;
        let port = server.url().rsplit(':').next().and_then(|port| port.parse().ok());
        let forwarder = Forwarder::start(&net.router, port.context("the API server has no port")?)?;
        let runtime = Runtime::new()?;
        let client = runtime.block_on(connect(&server))?;
        let lab = Self {
            net,
            forwarder,
            runtime,
            client,
            server,
            enforcer: Mutex::new(None),
            variant,
            environment,
            before,
            logs: tempfile::tempdir()?,
        };
        lab.create(
            &json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": NODE}}),
            &Api::<Node>::all(lab.client.clone()),
        )?;
        for namespace in NAMESPACES.into_iter().chain([beacon::NAMESPACE]) {
            let object = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}});
            lab.create(&object, &Api::<Namespace>::all(lab.client.clone()))?;
        }
        for place in 0..PODS {
            lab.make_pod(
                NAMESPACES[usize::from(place % 2)],
                &name(place),
                place,
                &json!({"app": "web"}),
            )?;
        }
        beacon::install(&lab)?;
        lab.launch()?;
        Ok(lab)
    }

    /// Starts the enforcer, the way its container does.
    pub(crate) fn launch(&self) -> Result<()> {
        let prefix = self.net.router.prefix();
        let (program, first) = prefix.split_first().context("no command")?;
        let log = File::options()
            .create(true)
            .append(true)
            .open(self.logs.path().join("enforcer.log"))?;
        let child = Command::new(program)
            .args(first)
            .arg(env!("CARGO_BIN_EXE_ringfence-enforcer"))
            .args([
                "run",
                "--node-name",
                NODE,
                "--iptables-variant",
                &self.variant.to_string(),
                "--http-address",
                &format!("127.0.0.1:{HTTP_PORT}"),
                // So that the comparison with the mark comes and goes many times.
                "--guard-for",
                "1",
            ])
            .envs(self.environment.iter().cloned())
            .env("KUBECONFIG", self.server.kubeconfig())
            .env("RUST_LOG", "info")
            .env("RUST_BACKTRACE", "0")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .context("start the enforcer")?;
        *self.enforcer()? = Some(child);
        Ok(())
    }

    /// Kills the enforcer without warning, and starts it anew.
    pub(crate) fn kill(&self) -> Result<()> {
        self.end()?;
        self.launch()
    }

    /// Kills the enforcer without warning.
    pub(crate) fn end(&self) -> Result<()> {
        if let Some(mut child) = self.enforcer()?.take() {
            child.kill().context("kill the enforcer")?;
            child.wait().context("wait for the enforcer's end")?;
        }
        Ok(())
    }

    /// All that the enforcer has logged.
    pub(crate) fn whole_log(&self) -> String {
        std::fs::read_to_string(self.logs.path().join("enforcer.log")).unwrap_or_default()
    }

    fn enforcer(&self) -> Result<std::sync::MutexGuard<'_, Option<Child>>> {
        self.enforcer
            .lock()
            .map_err(|_| anyhow::anyhow!("a test has failed"))
    }

    /// The end of what the enforcer has logged.
    pub(crate) fn log(&self) -> String {
        let text = self.whole_log();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(60)..].join("\n")
    }

    /// Everything is over: what cleanup leaves is what was there before.
    pub(crate) fn finish(self) -> Result<()> {
        self.end()?;
        self.net
            .router
            .run(&[env!("CARGO_BIN_EXE_ringfence-enforcer"), "cleanup"])?;
        let after = saved(&self.net)?;
        ensure!(
            after == self.before,
            "cleanup left\n{after}\nand before there was\n{}",
            self.before
        );
        Ok(())
    }

    /// Makes a change in the API server and in the world.
    pub(crate) fn make(&self, change: &Change, world: &mut policy::World) -> Result<()> {
        match change {
            Change::Replace {
                place,
                namespace,
                app,
            } => {
                self.remove_pod(*place, world)?;
                let pod = self.make_pod(namespace, &name(*place), *place, &json!({"app": app}))?;
                world.insert_pod(policy::Pod::from_api(&pod));
            }
            Change::Label { place, app } => {
                let Some(key) = at(*place, world) else {
                    return Ok(());
                };
                let pod = self.label_pod(&key, &json!({"app": app}))?;
                world.insert_pod(policy::Pod::from_api(&pod));
            }
            Change::Remove { place } => self.remove_pod(*place, world)?,
            Change::LabelNamespace { namespace, team } => {
                let namespace = self.label_namespace(namespace, &json!({"team": team}))?;
                world.insert_namespace(policy::Namespace::from_api(&namespace));
            }
            Change::Write(policy) => {
                world.insert_policy(policy::Policy::from_api(&self.write(policy)?).context("a policy")?);
            }
            Change::Delete { namespace, name } => {
                self.delete::<NetworkPolicy>(&Api::namespaced(self.client.clone(), namespace), name)?;
                world.policies.remove(&policy::ObjectKey::new(*namespace, name));
            }
        }
        Ok(())
    }

    fn remove_pod(&self, place: u8, world: &mut policy::World) -> Result<()> {
        if let Some(key) = at(place, world) {
            self.delete::<Pod>(&Api::namespaced(self.client.clone(), &key.namespace), &key.name)?;
            world.pods.remove(&key);
        }
        Ok(())
    }

    pub(crate) fn label_pod(&self, key: &policy::ObjectKey, labels: &Value) -> Result<Pod> {
        let api: Api<Pod> = Api::namespaced(self.client.clone(), &key.namespace);
        let patch = Patch::Merge(json!({"metadata": {"labels": labels}}));
        Ok(self
            .runtime
            .block_on(api.patch(&key.name, &PatchParams::default(), &patch))?)
    }

    pub(crate) fn label_namespace(&self, name: &str, labels: &Value) -> Result<Namespace> {
        let api: Api<Namespace> = Api::all(self.client.clone());
        let patch = Patch::Merge(json!({"metadata": {"labels": labels}}));
        Ok(self
            .runtime
            .block_on(api.patch(name, &PatchParams::default(), &patch))?)
    }

    /// Writes a policy, whether it was there or not.
    pub(crate) fn write(&self, policy: &NetworkPolicy) -> Result<NetworkPolicy> {
        let namespace = policy
            .metadata
            .namespace
            .as_deref()
            .context("a policy without a namespace")?;
        let name = policy
            .metadata
            .name
            .as_deref()
            .context("a policy without a name")?;
        let api: Api<NetworkPolicy> = Api::namespaced(self.client.clone(), namespace);
        self.runtime.block_on(async {
            let Some(old) = api.get_opt(name).await? else {
                return Ok(api.create(&PostParams::default(), policy).await?);
            };
            let mut new = policy.clone();
            new.metadata.resource_version = old.metadata.resource_version;
            Ok(api.replace(name, &PostParams::default(), &new).await?)
        })
    }

    /// A pod that runs and has the addresses of its place.
    pub(crate) fn make_pod(&self, namespace: &str, name: &str, place: u8, labels: &Value) -> Result<Pod> {
        let node = if (LOCAL..PODS).contains(&place) {
            "elsewhere"
        } else {
            NODE
        };
        let object = json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"namespace": namespace, "name": name, "labels": labels},
            "spec": {"nodeName": node, "terminationGracePeriodSeconds": 0, "containers": [{"name": "main", "image": "none"}]},
        });
        let api: Api<Pod> = Api::namespaced(self.client.clone(), namespace);
        self.create(&object, &api)?;
        let ips: Vec<Value> = NetLab::addresses(place)
            .iter()
            .map(|ip| json!({"ip": ip}))
            .collect();
        let status = Patch::Merge(
            json!({"status": {"phase": "Running", "podIP": NetLab::addresses(place)[0], "podIPs": ips}}),
        );
        Ok(self
            .runtime
            .block_on(api.patch_status(name, &PatchParams::default(), &status))?)
    }

    fn create<K>(&self, object: &Value, api: &Api<K>) -> Result<K>
    where
        K: Clone + std::fmt::Debug + DeserializeOwned + Serialize,
    {
        let object = serde_json::from_value(object.clone())?;
        Ok(self
            .runtime
            .block_on(api.create(&PostParams::default(), &object))?)
    }

    fn delete<K>(&self, api: &Api<K>, name: &str) -> Result<()>
    where
        K: Clone + std::fmt::Debug + DeserializeOwned,
    {
        let now = DeleteParams::default().grace_period(0);
        match self.runtime.block_on(api.delete(name, &now)) {
            Ok(_) => Ok(()),
            Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// What the API server holds, as the policy engine reads it.
    pub(crate) fn world(&self) -> Result<policy::World> {
        let mut world = policy::World::default();
        let all = Default::default();
        self.runtime.block_on(async {
            for namespace in Api::<Namespace>::all(self.client.clone()).list(&all).await? {
                world.insert_namespace(policy::Namespace::from_api(&namespace));
            }
            for pod in Api::<Pod>::all(self.client.clone()).list(&all).await? {
                world.insert_pod(policy::Pod::from_api(&pod));
            }
            for object in Api::<NetworkPolicy>::all(self.client.clone()).list(&all).await? {
                world.insert_policy(policy::Policy::from_api(&object)?);
            }
            Ok(world)
        })
    }

    /// Polls until something is so.
    pub(crate) fn until(&self, what: &str, mut so: impl FnMut() -> Result<bool>) -> Result<()> {
        let started = Instant::now();
        while !so()? {
            ensure!(started.elapsed() < LIMIT, "never: {what}\n{}", self.log());
            std::thread::sleep(Duration::from_millis(2));
        }
        Ok(())
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        // A test that failed leaves no process behind.
        let _ = self.end();
    }
}

async fn connect(server: &ApiServer) -> Result<Client> {
    let kubeconfig = Kubeconfig::read_from(server.kubeconfig())?;
    let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?;
    Ok(Client::try_from(config)?)
}

fn name(place: u8) -> String {
    format!("pod-{place}")
}

/// The pod that has the place's addresses.
fn at(place: u8, world: &policy::World) -> Option<policy::ObjectKey> {
    let address: IpAddr = NetLab::addresses(place)[0];
    world.pod_at(address).map(|pod| pod.key.clone())
}

/// Everything that the router's tables and sets hold, without counters and comments.
fn saved(net: &NetLab) -> Result<String> {
    let mut lines = Vec::new();
    for words in [
        &["ipset", "save"][..],
        &["iptables-nft-save"],
        &["ip6tables-nft-save"],
        &["iptables-legacy-save"],
        &["ip6tables-legacy-save"],
    ] {
        let text = net.router.run(words)?;
        let kept = text.lines().filter(|line| !line.starts_with('#'));
        lines.extend(kept.map(|line| line.split(" [").next().unwrap_or(line).to_owned()));
    }
    Ok(lines.join("\n"))
}
