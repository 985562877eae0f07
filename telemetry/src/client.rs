//! A connection to the API server on which nothing waits for ever.
//!
//! kube's own defaults have no limit for an answer and repeat a failed request up to 15 times with growing pauses, so
//! that one request can take minutes. Here a request is tried once and is over within [`Limits::request`]: whoever
//! asked has a queue with backoff of its own and can do other things meanwhile. Only watches last; kube's watcher
//! gives up on a silent one by itself.

use std::task::{Context, Poll};
use std::time::Duration;

use ::http::{Request, Response};
use bytes::Bytes;
use clap::Args;
use futures::future::BoxFuture;
use http_body_util::{BodyExt, Either, Full};
use kube::client::ClientBuilder;
use kube::config::{InferConfigError, KubeConfigOptions, Kubeconfig, KubeconfigError};
use kube::{Client, Config};
use tower::{BoxError, Layer, Service};

use crate::api_requests::{ApiRequests, Target};

/// How to reach the API server, to be flattened into a program's own options.
#[derive(Clone, Debug, Default, Args)]
pub struct ClientArgs {
    /// The context of the kubeconfig to use; the current one by default. Inside a cluster no kubeconfig is needed.
    /// KUBECONFIG names the file
    #[arg(long, value_name = "NAME", help_heading = "API server")]
    pub context: Option<String>,
}

/// How long things may take.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Until a connection stands.
    pub connect: Duration,
    /// From sending a request to having its whole answer; watches excepted.
    pub request: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(5),
            request: Duration::from_secs(15),
        }
    }
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// Neither a kubeconfig nor a Pod's service account was found.
    #[error(
        "no way to the API server was found: set KUBECONFIG, or run in a Pod with a service account ({0})"
    )]
    Infer(#[from] InferConfigError),
    /// The kubeconfig cannot be used.
    #[error("the kubeconfig cannot be used: {0}")]
    Kubeconfig(#[from] KubeconfigError),
    /// The client cannot be built from its configuration.
    #[error("a client for {url} cannot be built: {source}")]
    Build {
        /// The API server's URL.
        url: String,
        /// What is wrong.
        source: Box<kube::Error>,
    },
}

/// A request was not answered within its limit.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("the API server did not answer within {0:?}")]
pub struct TimedOut(Duration);

/// A client for the API server that `args`, the kubeconfig or the Pod's service account name. Connects when first
/// used.
///
/// # Errors
///
/// When no configuration is found or it is broken.
pub async fn connect(
    args: &ClientArgs,
    limits: Limits,
    requests: &ApiRequests,
) -> Result<Client, ConnectError> {
    let config = match &args.context {
        None => Config::infer().await?,
        Some(context) => {
            let options = KubeConfigOptions {
                context: Some(context.clone()),
                ..KubeConfigOptions::default()
            };
            Config::from_custom_kubeconfig(Kubeconfig::read()?, &options).await?
        }
    };
    client(config, limits, requests)
}

/// A client for a configuration at hand.
///
/// # Errors
///
/// When the configuration is broken.
pub fn client(mut config: Config, limits: Limits, requests: &ApiRequests) -> Result<Client, ConnectError> {
    config.connect_timeout = Some(limits.connect);
    config.default_retry = false;
    let url = config.cluster_url.to_string();
    let builder = ClientBuilder::try_from(config).map_err(|source| ConnectError::Build {
        url,
        source: Box::new(source),
    })?;
    Ok(builder
        .with_layer(&TimeLimit(limits.request))
        .with_layer(requests)
        .build())
}

/// The layer that ends requests, watches excepted, after a while.
#[derive(Clone, Copy, Debug)]
struct TimeLimit(Duration);

/// A service with [`TimeLimit`].
#[derive(Clone, Debug)]
struct Limited<S> {
    inner: S,
    limit: Duration,
}

impl<S> Layer<S> for TimeLimit {
    type Service = Limited<S>;

    fn layer(&self, inner: S) -> Limited<S> {
        Limited { inner, limit: self.0 }
    }
}

impl<S, B, R> Service<Request<B>> for Limited<S>
where
    S: Service<Request<B>, Response = Response<R>, Error = BoxError>,
    S::Future: Send + 'static,
    R: http_body::Body<Data = Bytes, Error = BoxError> + Send + 'static,
{
    type Response = Response<Either<R, Full<Bytes>>>;
    type Error = BoxError;
    type Future = BoxFuture<'static, Result<Self::Response, BoxError>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let (watch, limit) = (Target::of(&request).verb == "watch", self.limit);
        let answer = self.inner.call(request);
        Box::pin(async move {
            if watch {
                return Ok(answer.await?.map(Either::Left));
            }
            // The body counts too: an API server that dies half way through an answer sends no more of it.
            let whole = async {
                let (head, body) = answer.await?.into_parts();
                let bytes = body.collect().await?.to_bytes();
                Ok(Response::from_parts(head, Either::Right(Full::new(bytes))))
            };
            match tokio::time::timeout(limit, whole).await {
                Ok(response) => response,
                Err(_) => Err(TimedOut(limit).into()),
            }
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use prometheus_client::encoding::text;
    use prometheus_client::registry::Registry;
    use std::time::Instant;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    /// A server that reads one request per connection, sends `answer`, and then says nothing more and keeps the
    /// connection open.
    async fn stalling_server(answer: &'static str) -> Config {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(async move {
            let mut open = Vec::new();
            while let Ok((mut stream, _)) = listener.accept().await {
                let _ = stream.read(&mut [0; 4096]).await;
                let _ = stream.write_all(answer.as_bytes()).await;
                open.push(stream);
            }
        });
        Config::new(url.parse().unwrap())
    }

    fn limits() -> Limits {
        Limits {
            connect: Duration::from_secs(2),
            request: Duration::from_millis(200),
        }
    }

    #[tokio::test]
    async fn a_request_ends_when_the_server_stops_answering() {
        for answer in ["", "HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n{\"major\""] {
            let requests = ApiRequests::default();
            let client = client(stalling_server(answer).await, limits(), &requests).unwrap();
            let start = Instant::now();
            let error = client.apiserver_version().await.unwrap_err();
            assert!(
                start.elapsed() < Duration::from_secs(5),
                "took {:?}",
                start.elapsed()
            );
            assert!(format!("{error:?}").contains("TimedOut"), "{error:?}");
        }
    }

    #[tokio::test]
    async fn a_refusal_is_reported_at_once_and_counted() {
        let answer = "HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n";
        let requests = ApiRequests::default();
        let client = client(stalling_server(answer).await, limits(), &requests).unwrap();
        client.apiserver_version().await.unwrap_err();
        let (mut registry, mut text) = (Registry::default(), String::new());
        requests.register(&mut registry);
        text::encode(&mut text, &registry).unwrap();
        let line = r#"ringfence_api_requests_total{verb="get",resource="version",code="503"} 1"#;
        assert!(text.contains(line), "{text}");
    }
}
