//! Many requests to an API server.

use std::path::Path;

use anyhow::{Context, Result};
use futures::{StreamExt, TryStreamExt, stream};
use kube::api::PostParams;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

/// Requests that are under way at once.
pub(crate) const AT_ONCE: usize = 32;

/// A client for the API server of a kubeconfig.
pub(crate) async fn connect(kubeconfig: &Path) -> Result<Client> {
    let kubeconfig = Kubeconfig::read_from(kubeconfig)?;
    let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?;
    Client::try_from(config).context("make a client")
}

/// Creates objects that are not there yet.
pub(crate) async fn create<K>(count: usize, object: impl Fn(usize) -> (kube::Api<K>, Value)) -> Result<()>
where
    K: Clone + std::fmt::Debug + DeserializeOwned + Serialize,
{
    each(count, |number| {
        let (api, value) = object(number);
        async move {
            let object: K = serde_json::from_value(value)?;
            match api.create(&PostParams::default(), &object).await {
                Ok(_) => Ok(()),
                Err(kube::Error::Api(status)) if status.code == 409 => Ok(()),
                Err(error) => Err(anyhow::Error::from(error)),
            }
        }
    })
    .await
}

/// Does something for each number, many at once.
pub(crate) async fn each<F>(count: usize, request: impl Fn(usize) -> F) -> Result<()>
where
    F: Future<Output = Result<()>>,
{
    stream::iter((0..count).map(request))
        .buffer_unordered(AT_ONCE)
        .try_for_each(|()| async { Ok(()) })
        .await
}
