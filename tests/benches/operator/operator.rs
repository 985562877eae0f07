//! The operator as a process of its own.

use std::env;
use std::net::{Ipv4Addr, TcpListener};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use clap::Parser;
use ringfence_operator::args::Args;
use tokio::runtime::Runtime;

use crate::common::process::{cpu_of, memory_of};

/// The argument by which this program is the operator.
pub(crate) const ROLE: &str = "as-operator";

/// The namespace of its Lease.
pub(crate) const NAMESPACE: &str = "ringfence-system";

/// When it is given up that it comes to rest.
const LIMIT: Duration = Duration::from_secs(60);

/// Runs the operator in this process, as its own program does.
pub(crate) fn run() -> Result<()> {
    let arguments = env::args().skip(2);
    let args = Args::try_parse_from(["ringfence-operator".to_owned()].into_iter().chain(arguments))?;
    let runtime = Runtime::new().context("start a runtime")?;
    runtime
        .block_on(ringfence_operator::run::main(&args.run))
        .map_err(|error| anyhow!("{error}"))
}

/// A running operator. It ends with this value.
pub(crate) struct Operator(Child);

impl Operator {
    pub(crate) fn start(kubeconfig: &Path) -> Result<Self> {
        let free = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?;
        // It ends with this process, however that ends; the signal is for the thread that starts it, which is the first one.
        let child = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "--"])
            .arg(env::current_exe()?)
            .arg(ROLE)
            .arg(format!("--http-address={free}"))
            .env("KUBECONFIG", kubeconfig)
            .env("RUST_LOG", "warn")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .context("start the operator")?;
        Ok(Self(child))
    }

    fn pid(&self) -> Result<i32> {
        Ok(i32::try_from(self.0.id())?)
    }

    /// The processor time that it has used.
    pub(crate) fn cpu(&self) -> Result<Duration> {
        cpu_of(self.pid()?)
    }

    /// The most that it has held in memory, in MB.
    pub(crate) fn memory(&self) -> Result<f64> {
        memory_of(self.pid()?)
    }

    /// Waits until it has nothing to do.
    pub(crate) fn settle(&self) -> Result<()> {
        let started = Instant::now();
        loop {
            let before = self.cpu()?;
            sleep(Duration::from_secs(2));
            if self.cpu()? - before < Duration::from_millis(40) {
                return Ok(());
            }
            ensure!(started.elapsed() < LIMIT, "the operator does not come to rest");
        }
    }
}

impl Drop for Operator {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
