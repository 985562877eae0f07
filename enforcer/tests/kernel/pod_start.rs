//! Pods wait for their rules: the CNI plugin's binary, the socket, the agent and the kernel, without an API server.

use std::io::Write as _;
use std::net::Ipv4Addr;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use ringfence_enforcer::cluster::{Kind, Object, Update};
use ringfence_enforcer::cni::client;
use ringfence_enforcer::cni::conflist::Entry;
use ringfence_enforcer::cni::message::{News, Request, Sandbox, VERSION};
use ringfence_enforcer::cni::protocol::Fallback;
use ringfence_enforcer::cni::server;
use ringfence_enforcer::cni::service::{Place, Plugin, Service};
use ringfence_enforcer::kernel::Variant;
use ringfence_enforcer::options::DEFAULT_REVOKED_MARK;
use ringfence_policy::{Pod, Policy, World};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

use super::agent::{Running, start_with};
use super::net::Namespace;
use super::revoke::crowd::others;
use super::revoke::entries::{count, put, udp};
use super::world::{policy, updates, world};

const BRIDGE: &str = r#"{"cniVersion": "1.0.0", "name": "n", "plugins": [{"type": "bridge"}]}"#;

/// A node's disk, and what ends the plugin's server.
struct Disk {
    folder: TempDir,
    end: CancellationToken,
}

impl Disk {
    fn new() -> Self {
        let disk = Self {
            folder: tempfile::tempdir().expect("a folder"),
            end: CancellationToken::new(),
        };
        std::fs::write(disk.path("10-n.conflist"), BRIDGE).expect("a file");
        std::fs::write(disk.path("ringfence-cni"), "the binary").expect("a file");
        disk
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn conflist(&self) -> String {
        std::fs::read_to_string(self.path("10-n.conflist")).expect("the file is there")
    }

    fn serve(&self) -> Service {
        let socket = self.path("cni.sock");
        let calls = server::listen(&socket, self.end.clone()).expect("a socket");
        let place = Place {
            conf_dir: self.folder.path().to_owned(),
            bin_dir: self.folder.path().to_owned(),
        };
        let entry = Entry {
            socket: socket.display().to_string(),
            timeout_seconds: 5,
            without_enforcer: Fallback::Closed,
        };
        let source = self.path("ringfence-cni");
        Service::new(calls, place, Plugin { source, entry })
    }

    /// Starts an agent that serves the plugin, in a world without its pod 0.
    fn start(&self, namespace: &Namespace, world: &World) -> Running {
        let agent = start_with(namespace, Variant::Nft, Some(self.serve()));
        agent.tell(updates(world));
        agent
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        self.end.cancel();
    }
}

/// Runs the plugin as a container runtime does, for pod 0. Gives whether it succeeded, and what it said.
fn plugin(command: &str, socket: &Path, seconds: u64, fallback: &str) -> (bool, Value) {
    let mut child = Command::new(env!("CARGO_BIN_EXE_ringfence-cni"))
        .env("CNI_COMMAND", command)
        .env("CNI_CONTAINERID", "c")
        .env(
            "CNI_ARGS",
            "IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=pod-0;K8S_POD_UID=0",
        )
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("the plugin starts");
    let input = json!({
        "cniVersion": "1.0.0", "name": "n", "type": "ringfence-cni", "socket": socket, "timeoutSeconds": seconds,
        "withoutEnforcer": fallback,
        "prevResult": {"cniVersion": "1.0.0", "ips": [{"address": "10.244.0.2/24"}, {"address": "fd00:244::2/64"}]},
    });
    let mut stdin = child.stdin.take().expect("a pipe");
    stdin
        .write_all(input.to_string().as_bytes())
        .expect("the plugin reads");
    drop(stdin);
    let output = child.wait_with_output().expect("the plugin ends");
    let said = serde_json::from_slice(&output.stdout).unwrap_or(Value::Null);
    (output.status.success(), said)
}

async fn add(socket: PathBuf, seconds: u64, fallback: &'static str) -> (bool, Value) {
    let run = tokio::task::spawn_blocking(move || plugin("ADD", &socket, seconds, fallback));
    run.await.expect("the plugin does not panic")
}

fn closed() -> Policy {
    policy("closed", &[0], Some(vec![]), Some(vec![]))
}

/// Pod 0 is known, and the API server does not tell its address.
fn starting() -> World {
    let mut world = world(2, vec![closed()]);
    world
        .pods
        .values_mut()
        .filter(|pod| pod.uid == "0")
        .for_each(|pod| pod.addresses.clear());
    world
}

fn pod(world: &World) -> Pod {
    let mut pods = world.pods.values().filter(|pod| pod.uid == "0");
    pods.next().expect("pod 0 is there").clone()
}

fn isolated(namespace: &Namespace) -> bool {
    namespace.run(&["ipset", "save"]).contains("10.244.0.2")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_starts_when_the_kernel_holds_its_rules_though_nobody_else_tells_its_address() {
    let (namespace, disk) = (Namespace::new(), Disk::new());
    let agent = disk.start(&namespace, &starting());
    agent.until_ready().await;
    assert!(!isolated(&namespace));
    let (success, said) = add(disk.path("cni.sock"), 30, "closed").await;
    assert!(success, "{said}");
    assert!(
        isolated(&namespace),
        "the kernel holds the rules when the pod may start"
    );
    assert_eq!(
        said["ips"][1]["address"], "fd00:244::2/64",
        "the result is passed on"
    );
    let (gone, _) = plugin("DEL", &disk.path("cni.sock"), 30, "closed");
    assert!(gone);
    agent
        .until("the address is given back", || !isolated(&namespace))
        .await;
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_with_an_address_that_was_given_out_before_starts_without_the_connections_of_the_last_one() {
    let (namespace, disk) = (Namespace::new(), Disk::new());
    let left = udp(Ipv4Addr::new(10, 244, 2, 2), 4000, Ipv4Addr::new(10, 244, 0, 2));
    // So many that it takes a while to look at them.
    namespace.inside(|| put(others(100_000).chain([left])));
    let revoked = || namespace.inside(|| count(Some(DEFAULT_REVOKED_MARK)));
    let agent = disk.start(&namespace, &starting());
    agent.until_ready().await;
    let looked = || agent.counters.walk_due.get() == 0;
    agent.until("a first look", looked).await;
    assert_eq!(revoked(), 0, "nobody's connection is nobody's concern");
    let (success, said) = add(disk.path("cni.sock"), 30, "closed").await;
    assert!(success, "{said}");
    assert_eq!(revoked(), 1, "the pod has another's connection when it starts");
    agent.stop().await;
}

/// Tells of sandboxes that go, one after another, until it is stopped: at each the agent asks who may start.
fn ask_without_end(socket: &Path, stop: &AtomicBool) {
    let request = Request {
        version: VERSION,
        news: News::Stop,
        sandbox: Sandbox {
            namespace: "default".to_owned(),
            name: "nobody".to_owned(),
            uid: "none".to_owned(),
            container: "none".to_owned(),
            addresses: Vec::new(),
        },
        wait_milliseconds: 0,
    };
    let socket = socket.to_str().expect("a path in UTF-8");
    while !stop.load(Ordering::Relaxed) {
        client::ask(socket, &request, Duration::from_secs(30)).expect("the agent goes on");
    }
}

/// They once did: each held a lock that the other waited for, and the node's rules stood still.
#[test]
fn who_asks_which_pods_may_start_and_who_looks_at_connections_never_wait_for_each_other() {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let outcome = catch_unwind(AssertUnwindSafe(|| runtime.block_on(ask_while_policies_change())));
    // An agent that stands still is not waited for.
    runtime.shutdown_background();
    if let Err(panic) = outcome {
        resume_unwind(panic);
    }
}

async fn ask_while_policies_change() {
    let (namespace, disk) = (Namespace::new(), Disk::new());
    let left = udp(Ipv4Addr::new(10, 244, 2, 2), 4000, Ipv4Addr::new(10, 244, 0, 2));
    namespace.inside(|| put([left].into_iter()));
    let agent = disk.start(&namespace, &world(2, vec![closed()]));
    agent.until_ready().await;
    let (socket, stop) = (disk.path("cni.sock"), Arc::new(AtomicBool::new(false)));
    let ask = || {
        let (socket, stop) = (socket.clone(), Arc::clone(&stop));
        std::thread::spawn(move || ask_without_end(&socket, &stop))
    };
    let asking: Vec<_> = (0..4).map(|_| ask()).collect();
    for number in 0..200 {
        let before = agent.counters.syncs.get();
        let update = if number % 2 == 0 {
            Update::Remove(Kind::Policy, closed().key)
        } else {
            Update::Upsert(Object::Policy(closed()))
        };
        agent.tell([update]);
        agent
            .until("a sync", || agent.counters.syncs.get() > before)
            .await;
    }
    stop.store(true, Ordering::Relaxed);
    asking
        .into_iter()
        .for_each(|thread| thread.join().expect("each was answered"));
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_waits_until_its_object_is_known_and_until_the_first_lists_are_there() {
    let (namespace, disk) = (Namespace::new(), Disk::new());
    let mut later = starting();
    let pod = pod(&later);
    later.pods.remove(&pod.key);
    let agent = start_with(&namespace, Variant::Nft, Some(disk.serve()));
    let plugin = tokio::spawn(add(disk.path("cni.sock"), 30, "closed"));
    agent.tell(updates(&later));
    agent.until_ready().await;
    // Nothing is to happen now, so there is nothing to wait for.
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert!(!plugin.is_finished() && !isolated(&namespace));
    agent.tell([Update::Upsert(Object::Pod(pod))]);
    let (success, said) = plugin.await.expect("the plugin does not panic");
    assert!(success && isolated(&namespace), "{said}");
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_an_enforcer_and_for_a_pod_that_nobody_knows_the_setting_decides() {
    let (namespace, disk) = (Namespace::new(), Disk::new());
    for (fallback, starts) in [("open", true), ("closed", false)] {
        let (success, said) = add(disk.path("nobody.sock"), 1, fallback).await;
        assert_eq!(success, starts, "{said}");
    }
    let mut unknown = starting();
    let pod = pod(&unknown);
    unknown.pods.remove(&pod.key);
    let agent = disk.start(&namespace, &unknown);
    agent.until_ready().await;
    for (fallback, starts) in [("open", true), ("closed", false)] {
        let (success, said) = add(disk.path("cni.sock"), 1, fallback).await;
        assert_eq!(success, starts, "{said}");
        if !starts {
            assert!(
                said["details"]
                    .as_str()
                    .expect("a reason")
                    .contains("default/pod-0"),
                "{said}"
            );
        }
    }
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_entry_comes_with_the_first_sync_is_put_back_and_goes_with_an_uninstall() {
    let (namespace, disk) = (Namespace::new(), Disk::new());
    let agent = start_with(&namespace, Variant::Nft, Some(disk.serve()));
    let mut told = updates(&starting());
    let last = told.pop();
    agent.tell(told);
    // Long enough for the entry to be written if anybody would.
    tokio::time::sleep(Duration::from_millis(1500)).await;
    assert_eq!(
        disk.conflist(),
        BRIDGE,
        "nothing waits for an enforcer that has not written its rules"
    );
    agent.tell(last);
    agent.until_ready().await;
    let has_entry = || disk.conflist().contains("ringfence-cni");
    agent.until("the entry", has_entry).await;
    let rewritten = BRIDGE.replace("bridge", "ptp");
    std::fs::write(disk.path("10-n.conflist"), &rewritten).expect("a file");
    agent.until("the entry again", has_entry).await;
    agent.tell([Update::Terminating("ringfence-system".to_owned())]);
    agent.stop().await;
    assert_eq!(disk.conflist(), rewritten);
    assert!(!disk.path("ringfence-cni").exists());
}
