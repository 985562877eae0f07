//! Whether everything is Ready.

use std::collections::HashSet;
use std::fmt::Debug;
use std::pin::pin;
use std::time::Duration;

use anyhow::{Result, bail};
use futures::{StreamExt, stream};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::api::ListParams;
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client, Resource, ResourceExt};
use ringfence_crd::{ServiceAccess, ZeroTrustNamespace};
use serde::de::DeserializeOwned;
use tokio::time::timeout;

use crate::common::namespaces::SERVICES;

/// When it is given up.
const LIMIT: Duration = Duration::from_secs(600);

/// How far it came.
pub(crate) struct Reached {
    /// Objects that are Ready, and how many there are.
    pub(crate) ready: (usize, usize),
    /// Policies that were written.
    pub(crate) policies: usize,
}

/// Waits until every ZeroTrustNamespace and ServiceAccess is Ready, all at one moment, or for as long as is reasonable.
pub(crate) async fn wait(client: &Client, namespaces: usize) -> Result<Reached> {
    let count = namespaces * (SERVICES + 1);
    let mut ready: HashSet<String> = HashSet::new();
    let watching = async {
        let zero_trust = all::<ZeroTrustNamespace>(client, |object| {
            object.status.as_ref().map(|status| &status.conditions)
        });
        let accesses = all::<ServiceAccess>(client, |object| {
            object.status.as_ref().map(|status| &status.conditions)
        });
        let mut news = pin!(stream::select(zero_trust, accesses));
        while let Some(one) = news.next().await {
            let (name, is_ready) = one?;
            if is_ready {
                ready.insert(name);
            } else {
                ready.remove(&name);
            }
            if ready.len() == count {
                return Ok(());
            }
        }
        bail!("the watches ended")
    };
    if let Ok(ended) = timeout(LIMIT, watching).await {
        ended?;
    }
    // Only the names travel.
    let policies = Api::<NetworkPolicy>::all(client.clone());
    let listed = policies.list_metadata(&ListParams::default()).await?;
    Ok(Reached {
        ready: (ready.len(), count),
        policies: listed.items.len(),
    })
}

/// Every object of a kind, whenever it changes, and whether it is Ready then.
fn all<K>(
    client: &Client,
    conditions: fn(&K) -> Option<&Vec<Condition>>,
) -> impl futures::Stream<Item = watcher::Result<(String, bool)>> + use<K>
where
    K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + 'static,
{
    let objects = watcher(Api::<K>::all(client.clone()), watcher::Config::default());
    objects.default_backoff().applied_objects().map(move |object| {
        object.map(|object| {
            let namespace = object.namespace().unwrap_or_default();
            let name = format!("{} {namespace}/{}", K::kind(&()), object.name_any());
            let is_ready = conditions(&object).is_some_and(|conditions| {
                conditions
                    .iter()
                    .any(|condition| condition.type_ == "Ready" && condition.status == "True")
            });
            (name, is_ready)
        })
    })
}
