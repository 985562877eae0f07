//! An operator inside this process, and what it says about itself.

use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::lab::{LIMIT, until};

/// An operator that runs inside this process.
pub(crate) struct Running {
    pub(crate) address: SocketAddr,
    pub(crate) shutdown: CancellationToken,
    pub(crate) task: JoinHandle<Result<(), ringfence_operator::error::Error>>,
}

impl Running {
    /// Ends it in good order.
    pub(crate) async fn stop(self) {
        self.shutdown.cancel();
        let mut running = self;
        let ended = tokio::time::timeout(LIMIT, &mut running.task).await;
        ended.expect("the operator ends when told to").unwrap().unwrap();
    }

    /// Ends it as a crash would, without a last request.
    pub(crate) async fn kill(self) {
        let mut running = self;
        running.task.abort();
        let _ = (&mut running.task).await;
    }

    /// Its metrics, one line each.
    pub(crate) async fn metrics(&self) -> Vec<String> {
        let mut stream = until("the operator to listen", LIMIT, async || {
            TcpStream::connect(self.address)
                .await
                .map_err(|error| error.to_string())
        })
        .await;
        stream
            .write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            .await
            .unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
            .lines()
            .filter(|line| !line.starts_with('#'))
            .map(str::to_owned)
            .collect()
    }

    /// Whether it leads, as its metrics say.
    pub(crate) async fn leads(&self) -> bool {
        self.metrics()
            .await
            .iter()
            .any(|line| line == "ringfence_operator_leader 1")
    }

    /// Counters of requests that change something, Leases left out.
    pub(crate) async fn writes(&self) -> Vec<String> {
        let reads = [r#"verb="get""#, r#"verb="list""#, r#"verb="watch""#];
        let lines = self.metrics().await.into_iter();
        let requests = lines.filter(|line| line.starts_with("ringfence_api_requests_total"));
        let writes = requests.filter(|line| reads.iter().all(|read| !line.contains(read)));
        writes
            .filter(|line| !line.contains("leases.coordination.k8s.io"))
            .collect()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.task.abort();
    }
}
