//! `ringfence-operator probe-serve`: answers on every port with one word, by TCP and by UDP.

use std::io::{self, ErrorKind};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use futures::future::select_all;
use futures::{FutureExt, future::BoxFuture};
use ringfence_telemetry::shutdown;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, UdpSocket};
use tokio::time::{sleep, timeout};

use crate::error::Error;

/// How long a client may take to read one word.
const PATIENCE: Duration = Duration::from_secs(2);

/// What to serve.
#[derive(Clone, Debug, Args)]
pub struct ServeArgs {
    /// A port to answer on; repeat it
    #[arg(long = "port", value_name = "PORT", required = true)]
    pub ports: Vec<u16>,
    /// What to answer
    #[arg(long, value_name = "TEXT")]
    pub token: String,
}

/// Serves until SIGTERM.
///
/// # Errors
///
/// When a port is taken.
pub async fn main(args: &ServeArgs) -> Result<(), Error> {
    let told_to_stop = shutdown::on_signals().map_err(Error::Signals)?;
    let mut servers = Vec::new();
    // All of them listen before any of them answers: who hears from one knows that the others are there.
    for port in &args.ports {
        let failed = |error: io::Error| Error::Probe(format!("listen on port {port}: {error}"));
        let listener = bind(*port, async |address| TcpListener::bind(address).await)
            .await
            .map_err(failed)?;
        let socket = bind(*port, async |address| UdpSocket::bind(address).await)
            .await
            .map_err(failed)?;
        servers.push((listener, socket));
    }
    let token: Arc<str> = args.token.as_str().into();
    let answering = servers.into_iter().flat_map(|(listener, socket)| {
        let tcp: BoxFuture<'_, ()> = tcp(listener, Arc::clone(&token)).boxed();
        [tcp, udp(socket, Arc::clone(&token)).boxed()]
    });
    tokio::select! {
        () = told_to_stop.cancelled() => Ok(()),
        _ = select_all(answering) => Err(Error::Ended("a server of the probe")),
    }
}

/// Listens for both families, or for IPv4 where the kernel has no other.
async fn bind<T>(port: u16, bind: impl AsyncFn(SocketAddr) -> io::Result<T>) -> io::Result<T> {
    match bind((Ipv6Addr::UNSPECIFIED, port).into()).await {
        Err(error) if error.kind() != ErrorKind::AddrInUse => {
            bind((Ipv4Addr::UNSPECIFIED, port).into()).await
        }
        bound => bound,
    }
}

async fn tcp(listener: TcpListener, token: Arc<str>) {
    loop {
        let Ok((mut stream, _)) = listener.accept().await else {
            // Too many open files, say: whoever calls again is answered.
            sleep(Duration::from_millis(50)).await;
            continue;
        };
        let token = Arc::clone(&token);
        tokio::spawn(async move {
            // Whoever does not read it is not helped by more.
            let _ = timeout(PATIENCE, stream.write_all(token.as_bytes())).await;
        });
    }
}

async fn udp(socket: UdpSocket, token: Arc<str>) {
    let mut question = [0; 64];
    loop {
        let Ok((length, from)) = socket.recv_from(&mut question).await else {
            sleep(Duration::from_millis(50)).await;
            continue;
        };
        // No answer to strangers, so that it cannot be made to answer another's forged question with more.
        if &question[..length] == token.as_bytes() {
            let _ = socket.send_to(token.as_bytes(), from).await;
        }
    }
}
