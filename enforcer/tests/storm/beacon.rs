//! Paths that open and close when the enforcer has come so far: one for each kind of object that is watched.
//!
//! The client sends a packet on each path and then one that always passes; when that arrives, the server says which of
//! the others have. No waiting for what does not come: packets that one processor sends arrive in their order, so the client
//! stays on one, and each carries the number of its exchange.

use std::net::{SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use nix::sched::{CpuSet, sched_getcpu, sched_setaffinity};
use nix::unistd::Pid;
use ringfence_policy::ObjectKey;
use ringfence_tests::net_lab::NetLab;
use serde_json::{Value, json};

use crate::lab::Lab;
use crate::random;

pub(crate) const NAMESPACE: &str = "beacon";
/// A server and a client.
pub(crate) const PODS: u8 = 2;
const SERVER: u8 = random::PODS;
const CLIENT: u8 = random::PODS + 1;

/// The paths: by the client's label, by its namespace's, and by a policy.
const BY_POD: u16 = 7100;
const BY_NAMESPACE: u16 = 7101;
const BY_POLICY: u16 = 7102;
const ALWAYS: u16 = 7103;
/// When an exchange is tried again.
const ANSWER: Duration = Duration::from_millis(500);

/// The objects, and the server.
pub(crate) fn install(lab: &Lab) -> Result<()> {
    for (name, place) in [("server", SERVER), ("client", CLIENT)] {
        lab.make_pod(NAMESPACE, name, place, &json!({"name": name}))?;
    }
    let port = |port: u16| json!([{"protocol": "UDP", "port": port}]);
    let rules = json!([
        {"from": [{"podSelector": {"matchLabels": {"beat": "open"}}}], "ports": port(BY_POD)},
        {"from": [{"namespaceSelector": {"matchLabels": {"beat": "open"}}}], "ports": port(BY_NAMESPACE)},
        {"ports": port(ALWAYS)},
    ]);
    lab.write(&policy("paths", &rules)?)?;
    show(lab, true)?;
    let server = &lab.net.pods[usize::from(SERVER)];
    let bind = |port: u16| {
        server
            .inside(|| UdpSocket::bind(("0.0.0.0", port)))?
            .context("serve a beacon")
    };
    let paths = [bind(BY_POD)?, bind(BY_NAMESPACE)?, bind(BY_POLICY)?];
    for path in &paths {
        path.set_nonblocking(true)?;
    }
    let always = bind(ALWAYS)?;
    std::thread::spawn(move || {
        let mut asked = [0; 8];
        while let Ok((_, from)) = always.recv_from(&mut asked) {
            let arrived = paths.each_ref().map(|path| {
                let (mut any, mut number) = (0, [0; 8]);
                while path.recv(&mut number).is_ok() {
                    any |= u8::from(number == asked);
                }
                any
            });
            // Whoever asked may be gone.
            let _ = always.send_to(&arrived, from);
        }
    });
    Ok(())
}

/// Waits until everything that was changed before has reached the kernel. The enforcer must not be killed meanwhile.
///
/// That the beacons are closed shows a transaction at work which knows of everything before; half of it may still be to
/// come. That they are open again shows the next one, so the first is complete.
pub(crate) fn settle(lab: &Lab) -> Result<()> {
    for open in [false, true] {
        show(lab, open)?;
        lab.until("the beacons show what was changed last", || {
            Ok(seen(lab)? == Some([open; 3]))
        })?;
    }
    Ok(())
}

fn show(lab: &Lab, open: bool) -> Result<()> {
    let label = json!({"beat": if open { "open" } else { "closed" }});
    lab.label_pod(&ObjectKey::new(NAMESPACE, "client"), &label)?;
    lab.label_namespace(NAMESPACE, &label)?;
    let peers = json!([{"ports": [{"protocol": "UDP", "port": BY_POLICY}]}]);
    let rules = if open { peers } else { json!([]) };
    lab.write(&policy("beat", &rules)?)?;
    Ok(())
}

/// Which paths are open; `None` where no answer came.
fn seen(lab: &Lab) -> Result<Option<[bool; 3]>> {
    static NUMBER: AtomicU64 = AtomicU64::new(1);
    let [server, _] = NetLab::addresses(SERVER);
    lab.net.pods[usize::from(CLIENT)].inside(|| {
        stay_on_one_processor()?;
        let number = NUMBER.fetch_add(1, Ordering::Relaxed).to_le_bytes();
        let socket = UdpSocket::bind(("0.0.0.0", 0)).context("ask from a port")?;
        socket.set_read_timeout(Some(ANSWER))?;
        for port in [BY_POD, BY_NAMESPACE, BY_POLICY, ALWAYS] {
            socket.send_to(&number, SocketAddr::new(server, port))?;
        }
        let mut arrived = [0; 3];
        Ok(socket
            .recv(&mut arrived)
            .is_ok()
            .then(|| arrived.map(|any| any == 1)))
    })?
}

/// This thread, which ends with the exchange, stays where it is.
fn stay_on_one_processor() -> Result<()> {
    let mut here = CpuSet::new();
    here.set(sched_getcpu()?)?;
    Ok(sched_setaffinity(Pid::from_raw(0), &here)?)
}

fn policy(name: &str, ingress: &Value) -> Result<NetworkPolicy> {
    let value = json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
        "metadata": {"namespace": NAMESPACE, "name": name},
        "spec": {"podSelector": {"matchLabels": {"name": "server"}}, "policyTypes": ["Ingress"], "ingress": ingress},
    });
    Ok(serde_json::from_value(value)?)
}
