//! Writes the report and the Lease to the API server, on tasks of their own.

use std::time::Duration;

use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::jiff::Timestamp;
use kube::api::{Patch, PatchParams};
use kube::{Api, Client};
use ringfence_crd::{GROUP, NodeEnforcement, NodeEnforcementStatus, VERSION};
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, timeout};

use crate::metrics::Counters;

/// Who writes, as the API server records it.
const MANAGER: &str = "ringfence-enforcer";
/// The pause after a write, where there were several in a row: a restless cluster has many nodes that write.
const PAUSE: Duration = Duration::from_secs(3);
/// The pause after one of the first few: somebody may wait for what a single change has led to.
const SHORT_PAUSE: Duration = Duration::from_millis(300);
/// How many those are. One comes back with every long pause without a write.
const FEW: u32 = 5;
/// The pause after a failure: whoever has to install or permit something takes longer than that.
const RETRY: Duration = Duration::from_secs(30);
/// How often to look whether the object is still there.
const LOOK: Duration = Duration::from_secs(60);
/// How often the Lease is renewed.
const RENEW: Duration = Duration::from_secs(10);
/// How long it lasts: three renewals may fail.
const LASTS: Duration = Duration::from_secs(40);

/// Takes reports, and news that the agent lives. Waits for nobody.
#[derive(Debug)]
pub struct Writer {
    status: watch::Sender<Option<NodeEnforcementStatus>>,
    pulse: watch::Sender<Instant>,
}

impl Writer {
    /// Starts to write for `node`; the Lease is in `namespace`, where the enforcer runs.
    pub fn start(client: &Client, node: &str, namespace: Option<&str>, counters: &Counters) -> Self {
        let (status, reports) = watch::channel(None);
        let (pulse, pulses) = watch::channel(Instant::now());
        let api = Api::all(client.clone());
        tokio::spawn(report(api, node.to_owned(), reports.clone(), counters.clone()));
        if let Some(namespace) = namespace {
            let api = Api::namespaced(client.clone(), namespace);
            tokio::spawn(renew(api, node.to_owned(), reports, pulses, counters.clone()));
        }
        Self { status, pulse }
    }

    /// This is what is to be told now.
    pub fn tell(&self, status: NodeEnforcementStatus) {
        self.status.send_if_modified(|last| {
            let new = last.as_ref() != Some(&status);
            *last = Some(status);
            new
        });
    }

    /// The node is gone: there is nothing to tell of.
    pub fn be_silent(&self) {
        self.status.send_replace(None);
    }

    /// The agent lives.
    pub fn pulse(&self) {
        self.pulse.send_replace(Instant::now());
    }
}

async fn report(
    api: Api<NodeEnforcement>,
    node: String,
    mut reports: watch::Receiver<Option<NodeEnforcementStatus>>,
    counters: Counters,
) {
    // The UID of the node in whose name the object was made.
    let mut made_for: Option<String> = None;
    let mut failing = false;
    let mut pace = Pace::default();
    loop {
        match timeout(LOOK, reports.changed()).await {
            Ok(Ok(())) => {}
            // The agent is gone.
            Ok(Err(_)) => return,
            Err(_) => match api.get_metadata_opt(&node).await {
                Ok(None) => made_for = None,
                Ok(Some(_)) | Err(_) => continue,
            },
        }
        let Some(status) = reports.borrow_and_update().clone() else {
            made_for = None;
            continue;
        };
        match write(&api, &node, &status, made_for.as_deref()).await {
            Ok(()) => {
                made_for = Some(status.node_uid);
                failing = false;
                sleep(pace.pause(Instant::now())).await;
            }
            // Somebody deleted it: it is made again at once.
            Err(kube::Error::Api(status)) if status.is_not_found() && made_for.is_some() => {
                made_for = None;
                reports.mark_changed();
            }
            Err(error) => {
                counters.error("ReportFailed");
                if !std::mem::replace(&mut failing, true) {
                    tracing::warn!(
                        %error,
                        "NodeEnforcement {node} cannot be written, trying again; enforcement goes on. If the kind is not known or \
                         not permitted, apply config/crd and config/rbac of this version"
                    );
                }
                made_for = None;
                reports.mark_changed();
                sleep(RETRY).await;
            }
        }
    }
}

/// How fast writes may follow each other: a few at once, many slowly.
#[derive(Debug, Default)]
struct Pace {
    spent: u32,
    last: Option<Instant>,
}

impl Pace {
    /// How long to wait after the write that ends now.
    fn pause(&mut self, now: Instant) -> Duration {
        let rest = self.last.map_or(Duration::MAX, |last| now.duration_since(last));
        let regained = rest.as_millis() / PAUSE.as_millis();
        self.spent = self
            .spent
            .saturating_sub(u32::try_from(regained).unwrap_or(u32::MAX));
        self.last = Some(now);
        if self.spent < FEW {
            self.spent += 1;
            SHORT_PAUSE
        } else {
            PAUSE
        }
    }
}

async fn write(
    api: &Api<NodeEnforcement>,
    node: &str,
    status: &NodeEnforcementStatus,
    made_for: Option<&str>,
) -> kube::Result<()> {
    let parameters = PatchParams::apply(MANAGER).force();
    if made_for != Some(status.node_uid.as_str()) {
        let object = Patch::Apply(object(node, &status.node_uid));
        api.patch(node, &parameters, &object).await?;
    }
    let mut with_status = object(node, &status.node_uid);
    with_status["status"] = json!(status);
    // The node is the owner by the first of the two; here it would be a change of what is not status.
    with_status["metadata"] = json!({"name": node});
    api.patch_status(node, &parameters, &Patch::Apply(with_status))
        .await?;
    Ok(())
}

/// The object, owned by its node so that it goes with it.
fn object(node: &str, uid: &str) -> Value {
    json!({
        "apiVersion": format!("{GROUP}/{VERSION}"),
        "kind": "NodeEnforcement",
        "metadata": {"name": node, "ownerReferences": owners(node, uid)},
        "spec": {},
    })
}

fn owners(node: &str, uid: &str) -> Value {
    json!([{"apiVersion": "v1", "kind": "Node", "name": node, "uid": uid}])
}

async fn renew(
    api: Api<Lease>,
    node: String,
    mut reports: watch::Receiver<Option<NodeEnforcementStatus>>,
    pulses: watch::Receiver<Instant>,
    counters: Counters,
) {
    let name = format!("{MANAGER}-{node}");
    let parameters = PatchParams::apply(MANAGER).force();
    let mut renewals = interval(RENEW);
    renewals.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut failing = false;
    loop {
        // Whoever reads the first report asks at once whether its enforcer lives.
        if reports.wait_for(Option::is_some).await.is_err() {
            return;
        }
        renewals.tick().await;
        if pulses.has_changed().is_err() {
            return;
        }
        let uid = reports.borrow().as_ref().map(|status| status.node_uid.clone());
        // An agent that hangs is to be seen, and a node that is gone has no enforcer.
        let (Some(uid), true) = (uid, pulses.borrow().elapsed() < LASTS) else {
            continue;
        };
        let lease = Patch::Apply(lease(&name, &node, &uid));
        match api.patch(&name, &parameters, &lease).await {
            Ok(_) => failing = false,
            Err(error) => {
                counters.error("LeaseFailed");
                if !std::mem::replace(&mut failing, true) {
                    tracing::warn!(%error, "Lease {name} cannot be renewed, trying again; enforcement goes on");
                }
            }
        }
    }
}

fn lease(name: &str, node: &str, uid: &str) -> Value {
    json!({
        "apiVersion": "coordination.k8s.io/v1",
        "kind": "Lease",
        "metadata": {
            "name": name,
            "labels": {"app.kubernetes.io/part-of": "ringfence"},
            "ownerReferences": owners(node, uid),
        },
        "spec": {
            "holderIdentity": node,
            "leaseDurationSeconds": LASTS.as_secs(),
            "renewTime": format!("{:.6}", Timestamp::now()),
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_writes_come_fast_and_many_slowly() {
        let (mut pace, start) = (Pace::default(), Instant::now());
        for _ in 0..FEW {
            assert_eq!(pace.pause(start), SHORT_PAUSE);
        }
        assert_eq!(pace.pause(start), PAUSE);
        assert_eq!(pace.pause(start + PAUSE / 2), PAUSE);
        assert_eq!(pace.pause(start + PAUSE * 2), SHORT_PAUSE);
        assert_eq!(pace.pause(start + PAUSE * 2), PAUSE);
    }
}
