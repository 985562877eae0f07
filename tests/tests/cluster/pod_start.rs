//! Pods start behind their rules: not one packet passes that policies forbid, from the first instruction on.

use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr, TcpListener, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use ringfence_tests::deploy;
use ringfence_tests::kube_objects::{self, get, output, pods_of};
use ringfence_tests::source;
use ringfence_tests::testbed::{Node, exec_in_netns};
use serde_json::{Value, json};

use crate::lab::Lab;

const NAMESPACE: &str = "pod-start";
const IMAGE: &str = "registry.k8s.io/e2e-test-images/agnhost:2.63.0";
const PORT: u16 = 7777;
const CONFLIST: &str = "/etc/cni/net.d/10-ringfence.conflist";
const PLUGIN: &str = "ringfence-cni";
/// How many pods have ended before somebody looks how. They start one after another all the same.
const WAVE: usize = 20;

/// Listens in a pod, and counts what arrives.
struct Listener {
    arrived: Arc<AtomicUsize>,
    stop: Arc<AtomicBool>,
    threads: Vec<thread::JoinHandle<()>>,
}

impl Listener {
    fn start(lab: &Lab, pod: IpAddr) -> Result<Self> {
        let netns = lab.cluster.pod_netns(pod)?;
        let any = SocketAddr::from(([0, 0, 0, 0], PORT));
        let sockets = || -> std::io::Result<_> {
            let tcp = TcpListener::bind(any)?;
            tcp.set_nonblocking(true)?;
            let udp = UdpSocket::bind(any)?;
            udp.set_read_timeout(Some(Duration::from_millis(50)))?;
            Ok((tcp, udp))
        };
        let (tcp, udp) = exec_in_netns(&netns, sockets)?.context("listen in a pod")?;
        let (arrived, stop) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
        let accept = count(&arrived, &stop, move || match tcp.accept() {
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                thread::sleep(Duration::from_millis(2));
                false
            }
            accepted => accepted.is_ok(),
        });
        let receive = count(&arrived, &stop, move || match udp.recv_from(&mut [0; 64]) {
            Ok((_, from)) => {
                // Whoever asked may know that it came through.
                let _ = udp.send_to(b"here", from);
                true
            }
            Err(_) => false,
        });
        Ok(Self {
            arrived,
            stop,
            threads: vec![accept, receive],
        })
    }

    fn arrived(&self) -> usize {
        self.arrived.load(Ordering::SeqCst)
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        self.threads.drain(..).for_each(|thread| drop(thread.join()));
    }
}

fn count(
    arrived: &Arc<AtomicUsize>,
    stop: &Arc<AtomicBool>,
    mut next: impl FnMut() -> bool + Send + 'static,
) -> thread::JoinHandle<()> {
    let (arrived, stop) = (Arc::clone(arrived), Arc::clone(stop));
    thread::spawn(move || {
        while !stop.load(Ordering::SeqCst) {
            if next() {
                arrived.fetch_add(1, Ordering::SeqCst);
            }
        }
    })
}

/// The namespace with two servers; pods labelled `role=starter` may reach the one and not the other.
fn set_up(lab: &Lab) -> Result<(IpAddr, IpAddr)> {
    lab.open_shop()?;
    let server = |name: &str| {
        let container =
            json!({"name": "pause", "image": IMAGE, "imagePullPolicy": "IfNotPresent", "args": ["pause"]});
        json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": name, "namespace": NAMESPACE, "labels": {"server": name}},
            "spec": {"terminationGracePeriodSeconds": 0, "containers": [container]},
        })
    };
    let policy = json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
        "metadata": {"name": "starters", "namespace": NAMESPACE},
        "spec": {
            "podSelector": {"matchLabels": {"role": "starter"}}, "policyTypes": ["Egress", "Ingress"],
            "egress": [{"to": [{"podSelector": {"matchLabels": {"server": "allowed"}}}]}],
        },
    });
    let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}});
    for object in [namespace, policy, server("allowed"), server("forbidden")] {
        apply(lab, &object)?;
    }
    lab.kubectl(&[
        "-n",
        NAMESPACE,
        "wait",
        "--for=condition=Ready",
        "pod/allowed",
        "pod/forbidden",
        "--timeout=60s",
    ])?;
    let address = |name: &str| -> Result<IpAddr> {
        let pods = pods_of(&lab.cluster, NAMESPACE, &format!("server={name}"))?;
        Ok(pods.first().context("no server")?.1)
    };
    Ok((address("allowed")?, address("forbidden")?))
}

fn tear_down(lab: &Lab) -> Result<()> {
    // The next case makes it anew, and nothing can be made in one that is still going.
    lab.kubectl(&["delete", "namespace", NAMESPACE, "--timeout=120s"])?;
    Ok(())
}

fn apply(lab: &Lab, object: &Value) -> Result<()> {
    kube_objects::apply(&lab.cluster, &object.to_string())
}

/// A pod whose containers try what their names say, once, and end.
fn starter(name: &str, role: &str, attempts: &[(&str, &str, IpAddr)]) -> Value {
    let containers: Vec<Value> = attempts
        .iter()
        .map(|(name, protocol, to)| {
            let to = SocketAddr::new(*to, PORT).to_string();
            // What is forbidden is told by the listener, to whom it would come at once; what is allowed may take a while.
            let timeout = if name.starts_with("forbidden") {
                "--timeout=300ms"
            } else {
                "--timeout=1500ms"
            };
            let args = json!(["connect", format!("--protocol={protocol}"), timeout, to]);
            json!({"name": name, "image": IMAGE, "imagePullPolicy": "IfNotPresent", "args": args})
        })
        .collect();
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": name, "namespace": NAMESPACE, "labels": {"role": role}},
        "spec": {"restartPolicy": "Never", "terminationGracePeriodSeconds": 0, "containers": containers},
    })
}

/// The exit codes of a pod's containers, by name, when all have ended.
fn results(lab: &Lab, name: &str) -> Result<Option<Vec<(String, i64)>>> {
    let pod = get(&lab.cluster, &["pod", "-n", NAMESPACE, name])?;
    let statuses = pod["status"]["containerStatuses"]
        .as_array()
        .cloned()
        .unwrap_or_default();
    let ended = statuses.iter().map(|status| {
        let code = status["state"]["terminated"]["exitCode"].as_i64()?;
        Some((status["name"].as_str()?.to_owned(), code))
    });
    let ended: Option<Vec<_>> = ended.collect();
    Ok(ended.filter(|ended| !ended.is_empty()))
}

fn run_to_end(lab: &Lab, pod: &Value) -> Result<Vec<(String, i64)>> {
    let name = pod["metadata"]["name"].as_str().unwrap_or_default();
    apply(lab, pod)?;
    let mut ended = None;
    lab.until(&format!("pod {name} has ended"), || {
        ended = results(lab, name)?;
        Ok(ended.is_some())
    })?;
    lab.kubectl(&["-n", NAMESPACE, "delete", "pod", name, "--wait=false"])?;
    ended.context("the pod has ended")
}

/// Waits for the end of a pod's attempts: the allowed one has succeeded, and no other.
fn did_as_allowed(lab: &Lab, name: &str) -> Result<()> {
    let mut ended = None;
    lab.until(&format!("pod {name} has ended"), || {
        ended = results(lab, name)?;
        Ok(ended.is_some())
    })?;
    for (container, code) in ended.unwrap_or_default() {
        let reached = code == 0;
        ensure!(
            reached == (container == "allowed"),
            "{name}: {container} ended with {code}"
        );
    }
    Ok(())
}

pub(crate) fn no_packet_before_the_rules(lab: &Lab) -> Result<()> {
    let (allowed, forbidden) = set_up(lab)?;
    let counts = (Listener::start(lab, allowed)?, Listener::start(lab, forbidden)?);
    let pods = if lab.long() { 200 } else { 20 };
    let names: Vec<String> = (0..pods).map(|number| format!("starter-{number}")).collect();
    let began = Instant::now();
    for wave in names.chunks(WAVE) {
        for name in wave {
            let attempts = [
                ("forbidden-tcp", "tcp", forbidden),
                ("forbidden-udp", "udp", forbidden),
                ("allowed", "tcp", allowed),
            ];
            let before = counts.0.arrived();
            apply(lab, &starter(name, "starter", &attempts))?;
            // Its last container has started and got through. The next pod need not wait for the kubelet to say so.
            lab.until(&format!("pod {name} reaches the allowed peer"), || {
                Ok(counts.0.arrived() > before)
            })?;
            ensure!(
                counts.1.arrived() == 0,
                "{name}: a packet reached the forbidden peer"
            );
        }
        wave.iter().try_for_each(|name| did_as_allowed(lab, name))?;
        let delete = ["-n", NAMESPACE, "delete", "pod", "--wait=false"];
        let wave = wave.iter().map(String::as_str);
        lab.kubectl(&delete.into_iter().chain(wave).collect::<Vec<_>>())?;
    }
    println!(
        "{pods} pods, one after another, in {:.0} s",
        began.elapsed().as_secs_f64()
    );
    ensure!(
        counts.1.arrived() == 0,
        "a packet reached the forbidden peer after all"
    );
    drop(counts);
    tear_down(lab)
}

/// The conflist of a node, and whether the plugin's binary is there.
fn installed(lab: &Lab, node: &Node) -> Result<(String, bool)> {
    let conflist = output(lab.cluster.on_node(&node.name, "cat")?.arg(CONFLIST))?;
    let binaries = output(lab.cluster.on_node(&node.name, "ls")?.arg("/opt/cni/bin"))?;
    Ok((conflist, binaries.lines().any(|line| line == PLUGIN)))
}

/// Whether the node is as if the plugin had never been there: to the byte, as the testbed writes its configuration.
pub(crate) fn is_without_plugin(lab: &Lab, node: &Node) -> Result<bool> {
    let (conflist, binary) = installed(lab, node)?;
    let written = serde_json::to_string_pretty(&serde_json::from_str::<Value>(&conflist)?)?;
    Ok(!binary && !conflist.contains(PLUGIN) && conflist == written)
}

pub(crate) fn the_entry_is_put_back(lab: &Lab) -> Result<()> {
    let node = lab.cluster.nodes().into_iter().next().context("no node")?;
    let has_entry = || Ok(installed(lab, &node)?.0.contains(PLUGIN));
    lab.until("the plugin is in the chain", has_entry)?;
    let (conflist, binary) = installed(lab, &node)?;
    ensure!(binary, "the configuration names a plugin that is not there");
    let mut original: Value = serde_json::from_str(&conflist)?;
    let plugins = original["plugins"].as_array_mut().context("no list of plugins")?;
    plugins.retain(|plugin| plugin["type"] != PLUGIN);
    let text = serde_json::to_string_pretty(&original)?;
    let script = format!("cat > {CONFLIST} <<'END'\n{text}\nEND");
    output(lab.cluster.on_node(&node.name, "sh")?.args(["-c", &script]))?;
    lab.until("the plugin is in the chain again", has_entry)?;
    // As the testbed writes it, without the last line's end.
    let script = format!("printf %s \"$(cat {CONFLIST})\" > {CONFLIST}.new && mv {CONFLIST}.new {CONFLIST}");
    output(lab.cluster.on_node(&node.name, "sh")?.args(["-c", &script]))?;
    Ok(())
}

fn set_enforcers(lab: &Lab, setting: &str) -> Result<()> {
    let daemonset = "daemonset/ringfence-enforcer";
    lab.kubectl(&["-n", "ringfence-system", "set", "env", daemonset, setting])?;
    deploy::wait_until_ready(&lab.cluster)?;
    let Some((_, fallback)) = setting.split_once("CNI_WITHOUT_ENFORCER=") else {
        return Ok(());
    };
    lab.until("every entry says so", || {
        let says = format!("\"withoutEnforcer\":\"{fallback}\"");
        let nodes = lab.cluster.nodes();
        let all: Result<Vec<bool>> = nodes
            .iter()
            .map(|node| Ok(installed(lab, node)?.0.contains(&says)))
            .collect();
        Ok(all?.into_iter().all(|says| says))
    })
}

pub(crate) fn without_an_enforcer_the_setting_decides(lab: &Lab) -> Result<()> {
    let (allowed, forbidden) = set_up(lab)?;
    let counts = (Listener::start(lab, allowed)?, Listener::start(lab, forbidden)?);
    let attempts = [("forbidden", "tcp", forbidden), ("allowed", "tcp", allowed)];

    lab.send_enforcers_away()?;
    let pod = starter("closed", "starter", &attempts);
    apply(lab, &pod)?;
    lab.until("the kubelet says why the pod does not start", || {
        let about = "involvedObject.name=closed,reason=FailedCreatePodSandBox";
        let events = get(
            &lab.cluster,
            &["events", "-n", NAMESPACE, "--field-selector", about],
        )?;
        let mut events = events["items"]
            .as_array()
            .cloned()
            .unwrap_or_default()
            .into_iter();
        Ok(events.any(|event| {
            event["message"]
                .as_str()
                .is_some_and(|text| text.contains("ringfence-enforcer"))
        }))
    })?;
    ensure!(results(lab, "closed")?.is_none(), "it started all the same");
    lab.bring_enforcers_back()?;
    let mut ended = None;
    lab.until("the pod starts when the enforcer is back", || {
        ended = results(lab, "closed")?;
        Ok(ended.is_some())
    })?;
    let expected = [("allowed".to_owned(), 0), ("forbidden".to_owned(), 1)];
    let mut ended = ended.unwrap_or_default();
    ended.sort();
    ensure!(ended == expected, "{ended:?}");

    set_enforcers(lab, "CNI_WITHOUT_ENFORCER=open")?;
    lab.send_enforcers_away()?;
    let arrived = (counts.0.arrived(), counts.1.arrived());
    run_to_end(lab, &starter("open", "starter", &attempts))?;
    run_to_end(lab, &starter("open-free", "nobody", &attempts))?;
    ensure!(
        arrived == (counts.0.arrived(), counts.1.arrived()),
        "a pod that nobody knows is held back by the rules that stayed"
    );
    lab.bring_enforcers_back()?;
    lab.kubectl(&["apply", "-k", &source::path("config/default")])?;
    set_enforcers(lab, "CNI_WITHOUT_ENFORCER=closed")?;
    drop(counts);
    tear_down(lab)
}

/// From the request for a pod without policies to the end of its one attempt, as a user sees it.
fn pod_times(lab: &Lab, label: &str, pods: usize, to: IpAddr) -> Result<Vec<Duration>> {
    let mut times = Vec::new();
    for number in 0..pods {
        let pod = starter(&format!("{label}-{number}"), "nobody", &[("try", "tcp", to)]);
        let started = Instant::now();
        run_to_end(lab, &pod)?;
        times.push(started.elapsed());
    }
    times.sort();
    Ok(times)
}

/// What the plugin adds to a pod without policies: as the runtime waits for it, and as a user sees it. Figures, not a
/// verdict: the machine is shared.
pub(crate) fn what_a_start_costs(lab: &Lab) -> Result<()> {
    let (allowed, _) = set_up(lab)?;
    let listener = Listener::start(lab, allowed)?;
    let pods = if lab.long() { 30 } else { 5 };
    let with = pod_times(lab, "with", pods, allowed)?;
    let waited: Vec<String> = lab
        .cluster
        .nodes()
        .iter()
        .map(|node| lab.enforcer_metrics(&node.name))
        .collect::<Result<_>>()?;
    let total = |name: &str| -> f64 {
        let lines = waited.iter().flat_map(|text| text.lines());
        lines
            .filter_map(|line| line.strip_prefix(name)?.trim().parse::<f64>().ok())
            .sum()
    };
    let (sum, count) = (
        total("ringfence_enforcer_pod_start_wait_seconds_sum"),
        total("ringfence_enforcer_pod_start_wait_seconds_count"),
    );
    ensure!(count >= 1.0, "no pod has waited for its rules");
    let mean = sum / count * 1000.0;
    println!("{count} pods waited {mean:.1} ms for their rules on average");
    if lab.long() {
        set_enforcers(lab, "CNI=false")?;
        let without = pod_times(lab, "without", pods, allowed)?;
        let median = |times: &[Duration]| times[times.len() / 2].as_secs_f64() * 1000.0;
        println!(
            "a pod without policies, from kubectl to its end, median of {pods}: {:.0} ms with the plugin, {:.0} ms without",
            median(&with),
            median(&without)
        );
        lab.kubectl(&["apply", "-k", &source::path("config/default")])?;
        set_enforcers(lab, "CNI=true")?;
    }
    ensure!(mean < 1000.0, "pods wait for nothing: {mean} ms");
    drop(listener);
    tear_down(lab)
}
