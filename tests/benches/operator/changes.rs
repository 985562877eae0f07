//! One change after the other: from the request to the policy that it leads to.

use std::pin::pin;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use futures::{Stream, StreamExt, TryStreamExt};
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::networking::v1::NetworkPolicy;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, Client, ResourceExt};
use ringfence_crd::ServiceAccess;
use ringfence_operator::names::ORIGIN_NAME_LABEL;
use serde_json::json;
use tokio::time::timeout;

use crate::common::figures::Figures;
use crate::common::namespaces::name;
use crate::operator::Operator;

/// The grant that comes and goes.
const PROBE: &str = "probe";
/// When one is given up.
const LIMIT: Duration = Duration::from_secs(60);

/// What changes took.
pub(crate) struct Changes {
    /// From the request to the policy, in ms.
    pub(crate) latency: Figures,
    /// Processor time of the operator for one, in ms.
    pub(crate) cpu: f64,
}

/// Makes changes in random namespaces: a grant comes, its Service's port changes, and it goes.
pub(crate) async fn make(
    client: &Client,
    operator: &Operator,
    namespaces: usize,
    count: usize,
) -> Result<Changes> {
    operator.settle()?;
    let policies = Api::<NetworkPolicy>::all(client.clone());
    let ours = watcher::Config::default().labels(&format!("{ORIGIN_NAME_LABEL}={PROBE}"));
    let mut events = pin!(watcher(policies, ours));
    let listed = async {
        while let Some(event) = events.try_next().await? {
            if matches!(event, Event::InitDone) {
                return Ok(());
            }
        }
        bail!("the watch ended")
    };
    timeout(LIMIT, listed).await.context("list the policies")??;
    let before = operator.cpu()?;
    let mut took = Vec::new();
    for number in 0..count.div_ceil(3) {
        let namespace = name(fastrand::usize(..namespaces));
        let accesses = Api::<ServiceAccess>::namespaced(client.clone(), &namespace);
        let services = Api::<Service>::namespaced(client.clone(), &namespace);
        let port = 9000 + i32::try_from(number % 1000)?;

        let started = Instant::now();
        accesses.create(&PostParams::default(), &grant(number)?).await?;
        expect(&mut events, &namespace, "created", |event| {
            matches!(event, Event::Apply(_))
        })
        .await?;
        took.push(started.elapsed());

        let ports = json!({"spec": {"ports": [{"name": "http", "port": 80, "targetPort": port}]}});
        let started = Instant::now();
        services
            .patch("app-0", &PatchParams::default(), &Patch::Merge(ports))
            .await?;
        expect(&mut events, &namespace, "changed", |event| opens(event, port)).await?;
        took.push(started.elapsed());

        let started = Instant::now();
        accesses.delete(PROBE, &DeleteParams::default()).await?;
        expect(&mut events, &namespace, "deleted", |event| {
            matches!(event, Event::Delete(_))
        })
        .await?;
        took.push(started.elapsed());
    }
    operator.settle()?;
    let spent = operator.cpu()? - before;
    let made = f64::from(u32::try_from(took.len())?);
    Ok(Changes {
        latency: Figures::of(took.iter().map(|took| took.as_secs_f64() * 1000.0).collect()),
        cpu: spent.as_secs_f64() * 1000.0 / made,
    })
}

fn grant(number: usize) -> Result<ServiceAccess> {
    let client = json!({"podSelector": {"matchLabels": {"app": format!("caller-{number}")}}});
    let access = json!({
        "apiVersion": "ringfence.dev/v1alpha1", "kind": "ServiceAccess",
        "metadata": {"name": PROBE},
        "spec": {"targetRef": {"name": "app-0"}, "clients": [client]},
    });
    Ok(serde_json::from_value(access)?)
}

/// Whether a policy lets somebody in on this port.
fn opens(event: &Event<NetworkPolicy>, port: i32) -> bool {
    let Event::Apply(policy) = event else {
        return false;
    };
    serde_json::to_value(&policy.spec).is_ok_and(|spec| spec["ingress"][0]["ports"][0]["port"] == port)
}

/// Waits for the ingress policy of the grant in a namespace to be as wanted.
async fn expect(
    events: &mut (impl Stream<Item = watcher::Result<Event<NetworkPolicy>>> + Unpin),
    namespace: &str,
    what: &str,
    wanted: impl Fn(&Event<NetworkPolicy>) -> bool,
) -> Result<()> {
    let waiting = async {
        while let Some(event) = events.next().await {
            let event = event?;
            let (Event::Apply(policy) | Event::Delete(policy)) = &event else {
                continue;
            };
            let ingress = policy.name_any().contains("ingress");
            if ingress && policy.namespace().as_deref() == Some(namespace) && wanted(&event) {
                return Ok(());
            }
        }
        bail!("the watch ended")
    };
    let waited = timeout(LIMIT, waiting).await;
    waited.with_context(|| format!("the policy of {namespace}/{PROBE} was not {what} within {LIMIT:?}"))?
}
