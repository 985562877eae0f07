//! `/healthz`, `/readyz` and `/metrics` over HTTP.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use ::http::{HeaderValue, StatusCode, header};
use axum::Router;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use socket2::{Domain, Socket, Type};
use tokio::net::TcpListener;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use crate::health::{Health, Report};
use crate::metrics::Metrics;

/// Why the endpoints could not be served.
#[derive(Debug, thiserror::Error)]
pub enum HttpError {
    /// The address could not be bound.
    #[error(
        "cannot listen on {address} for probes and metrics ({source}): is another program using the port?"
    )]
    Bind {
        /// The address asked for.
        address: SocketAddr,
        /// What the kernel said.
        source: io::Error,
    },
    /// Accepting connections failed.
    #[error("serving probes and metrics failed: {0}")]
    Serve(io::Error),
}

/// A bound address that is not served yet.
#[derive(Debug)]
pub struct Server {
    listener: TcpListener,
    router: Router,
}

/// Binds `address`; port 0 takes a free port. Binding and serving are apart so that a taken port is an error at the
/// start of a program and not a line in its log.
///
/// # Errors
///
/// When the address cannot be bound.
pub async fn bind(address: SocketAddr, health: Health, metrics: Metrics) -> Result<Server, HttpError> {
    let listener = listen(address)
        .await
        .map_err(|source| HttpError::Bind { address, source })?;
    Ok(Server {
        listener,
        router: router(health, metrics),
    })
}

/// How long an address may be taken. Whoever was killed may leave a child behind that still holds it for a moment.
const PATIENCE: Duration = Duration::from_secs(3);

/// How many connections may wait to be accepted.
const BACKLOG: i32 = 1024;

async fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let started = Instant::now();
    loop {
        match open(address) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && started.elapsed() < PATIENCE => {
                sleep(Duration::from_millis(50)).await;
            }
            // A kernel without IPv6 has only the other of all addresses.
            Err(_) if address.ip() == Ipv6Addr::UNSPECIFIED => {
                return open((Ipv4Addr::UNSPECIFIED, address.port()).into());
            }
            result => return result,
        }
    }
}

/// `[::]` is every address of both families, whatever the node's sysctls say.
fn open(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    if address.is_ipv6() {
        socket.set_only_v6(false)?;
    }
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    socket.set_nonblocking(true)?;
    TcpListener::from_std(socket.into())
}

impl Server {
    /// The address that was bound.
    ///
    /// # Errors
    ///
    /// When the kernel does not say.
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Serves until `shutdown` is cancelled.
    ///
    /// # Errors
    ///
    /// When accepting connections fails.
    pub async fn serve(self, shutdown: CancellationToken) -> Result<(), HttpError> {
        axum::serve(self.listener, self.router)
            .with_graceful_shutdown(shutdown.cancelled_owned())
            .await
            .map_err(HttpError::Serve)
    }
}

fn router(health: Health, metrics: Metrics) -> Router {
    let ready = health.clone();
    Router::new()
        .route("/healthz", get(move || async move { probe(health.live()) }))
        .route("/readyz", get(move || async move { probe(ready.ready()) }))
        .route("/metrics", get(scrape).with_state(metrics))
}

fn probe(report: Report) -> Response {
    let status = if report.ok {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    (status, report.text).into_response()
}

async fn scrape(State(metrics): State<Metrics>) -> Response {
    let kind = HeaderValue::from_static("application/openmetrics-text; version=1.0.0; charset=utf-8");
    ([(header::CONTENT_TYPE, kind)], metrics.text()).into_response()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::metrics::Program;
    use std::net::{IpAddr, Ipv4Addr};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpStream;

    async fn fetch(address: SocketAddr, path: &str) -> String {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    fn metrics(version: &'static str) -> Metrics {
        Metrics::build(
            &Program {
                name: "test",
                version,
            },
            |_| (),
        )
    }

    #[tokio::test]
    async fn probes_and_metrics_are_served_until_shutdown() {
        let (health, token) = (Health::new(), CancellationToken::new());
        let check = health.readiness("stores", "not listed yet");
        let metrics = metrics("1.2.3");
        let server = bind((Ipv4Addr::LOCALHOST, 0).into(), health, metrics)
            .await
            .unwrap();
        let address = server.address().unwrap();
        let serving = tokio::spawn(server.serve(token.clone()));

        assert!(fetch(address, "/healthz").await.starts_with("HTTP/1.1 200"));
        let answer = fetch(address, "/readyz").await;
        assert!(
            answer.starts_with("HTTP/1.1 503") && answer.contains("not listed yet"),
            "{answer}"
        );
        check.ok();
        assert!(fetch(address, "/readyz").await.starts_with("HTTP/1.1 200"));
        let answer = fetch(address, "/metrics").await;
        assert!(
            answer.contains(r#"ringfence_build_info{program="test",version="1.2.3"} 1"#),
            "{answer}"
        );
        assert!(answer.contains("process_resident_memory_bytes "), "{answer}");

        token.cancel();
        serving.await.unwrap().unwrap();
        assert!(
            TcpStream::connect(address).await.is_err(),
            "the port is free again"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_port_that_is_given_back_soon_is_waited_for() {
        let before = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = before.local_addr().unwrap();
        let (bound, ()) = tokio::join!(listen(address), async {
            sleep(PATIENCE / 2).await;
            drop(before);
        });
        assert_eq!(bound.unwrap().local_addr().unwrap(), address);
    }

    /// A kubelet asks at the pod's first address, of whichever family the cluster is.
    #[tokio::test]
    async fn every_address_is_those_of_both_families() {
        let server = bind((Ipv6Addr::UNSPECIFIED, 0).into(), Health::new(), metrics("1"))
            .await
            .unwrap();
        let port = server.address().unwrap().port();
        let token = CancellationToken::new();
        let serving = tokio::spawn(server.serve(token.clone()));
        for address in [Ipv4Addr::LOCALHOST.into(), IpAddr::from(Ipv6Addr::LOCALHOST)] {
            let answer = fetch((address, port).into(), "/healthz").await;
            assert!(answer.starts_with("HTTP/1.1 200"), "{address}: {answer}");
        }
        token.cancel();
        serving.await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn a_taken_port_is_named() {
        let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = taken.local_addr().unwrap();
        let error = bind(address, Health::new(), metrics("1"))
            .await
            .unwrap_err()
            .to_string();
        assert!(error.contains(&address.to_string()), "{error}");
    }
}
