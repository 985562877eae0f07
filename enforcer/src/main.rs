//! Makes a node enforce NetworkPolicies.

use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use clap::Parser;
use kube::Client;
use ringfence_enforcer::agent::{Agent, Settings};
use ringfence_enforcer::audit::Auditor;
use ringfence_enforcer::cli::{Cli, CniArgs, Command, DropLogFormat, InstallArgs, Output, RunArgs};
use ringfence_enforcer::cni::service::Service;
use ringfence_enforcer::cni::{install, server};
use ringfence_enforcer::conntrack::socket::Conntrack;
use ringfence_enforcer::droplog::events::Events;
use ringfence_enforcer::droplog::reader::Reader;
use ringfence_enforcer::droplog::{Desk, Sighting};
use ringfence_enforcer::kernel::{News, Tools, Variant, cleanup, detect, tied};
use ringfence_enforcer::metrics::{Counters, Writes};
use ringfence_enforcer::node::{self, Finding, Level};
use ringfence_enforcer::options::Options;
use ringfence_enforcer::report::writer::Writer;
use ringfence_enforcer::watch;
use ringfence_telemetry::api_requests::ApiRequests;
use ringfence_telemetry::client::{self, Limits};
use ringfence_telemetry::health::Health;
use ringfence_telemetry::metrics::{Metrics, Program};
use ringfence_telemetry::{http, shutdown};
use tokio::sync::mpsc::{Sender, channel};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

fn main() -> anyhow::Result<ExitCode> {
    let cli = Cli::parse();
    cli.log.init()?;
    match cli.command {
        Command::Run(args) => {
            tokio::runtime::Runtime::new()
                .context("cannot start the runtime")?
                .block_on(run(args))?;
            Ok(ExitCode::SUCCESS)
        }
        Command::InstallCni(args) => {
            install_cni(&args);
            Ok(ExitCode::SUCCESS)
        }
        Command::Tied { parent, command } => Err(tied::become_tied(parent, &command)),
        Command::Prepare => Ok(report(&node::prepare())),
        Command::Check { output } => Ok(match output {
            Output::Text => report(&node::check()),
            Output::Json => report_json(&node::check())?,
        }),
        Command::Cleanup(args) => {
            wait_until_gone(&args.cni_socket)?;
            // Pods must not wait for who is gone, so the plugin goes first.
            let place = args.place.place();
            let plugin = install::remove(&place.conf_dir, &place.bin_dir);
            let rules = cleanup(&Tools::open(args.tools.lock_timeout, Writes::default())?.tied());
            let removed = [plugin?, rules?].concat();
            if removed.is_empty() {
                println!("nothing to remove");
            }
            removed.iter().for_each(|what| println!("removed {what}"));
            Ok(ExitCode::SUCCESS)
        }
    }
}

/// What goes wrong here is no reason not to enforce: without the binary the enforcer writes no entry that names it.
fn install_cni(args: &InstallArgs) {
    let folder = args.place.place().bin_dir;
    if !args.cni {
        println!("pods are not to wait for their rules (--cni): nothing to install");
        return;
    }
    match install::binary(&args.source, &folder) {
        Ok(true) => println!("copied the CNI plugin to {}", folder.display()),
        Ok(false) => println!("the CNI plugin is in {} already", folder.display()),
        Err(error) => tracing::error!(%error, "pods start without waiting for their rules"),
    }
}

/// How long a clean-up waits for the node's enforcer to end.
const UNTIL_GONE: Duration = Duration::from_secs(30);

/// Waits until no enforcer serves the plugin on this node: it would put back what is removed.
fn wait_until_gone(socket: &Path) -> anyhow::Result<()> {
    let started = std::time::Instant::now();
    while UnixStream::connect(socket).is_ok() {
        anyhow::ensure!(
            started.elapsed() < UNTIL_GONE,
            "an enforcer still runs on this node ({} answers) and would put everything back: delete it first, then run \
             cleanup again",
            socket.display()
        );
        std::thread::sleep(Duration::from_millis(100));
    }
    Ok(())
}

/// Serves the CNI plugin if pods are to wait, or else sees that none waits.
fn plugin(args: &CniArgs, shutdown: &CancellationToken) -> anyhow::Result<Option<Service>> {
    let place = args.place.place();
    if args.cni {
        let calls = server::listen(&args.cni_socket, shutdown.clone())?;
        return Ok(Some(Service::new(calls, place, args.plugin())));
    }
    match install::remove(&place.conf_dir, &place.bin_dir) {
        Ok(removed) if removed.is_empty() => {}
        Ok(removed) => tracing::info!(?removed, "pods are not to wait for their rules any more"),
        Err(error) => {
            tracing::warn!(%error, "an entry of an earlier run may be left: pods would wait for nobody");
        }
    }
    Ok(None)
}

fn report(findings: &[Finding]) -> ExitCode {
    for Finding { level, text } in findings {
        let word = match level {
            Level::Good => "ok     ",
            Level::Warning => "warning",
            Level::Fatal => "FAILED ",
        };
        println!("{word}  {text}");
    }
    outcome(findings)
}

fn report_json(findings: &[Finding]) -> anyhow::Result<ExitCode> {
    println!("{}", serde_json::to_string_pretty(findings)?);
    Ok(outcome(findings))
}

/// Failure only where no enforcement is possible.
fn outcome(findings: &[Finding]) -> ExitCode {
    let fatal = findings.iter().any(|finding| finding.level == Level::Fatal);
    if fatal {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    }
}

const PROGRAM: Program = Program {
    name: "ringfence-enforcer",
    version: env!("CARGO_PKG_VERSION"),
};

async fn run(args: RunArgs) -> anyhow::Result<()> {
    let started = Instant::now();
    let shutdown = shutdown::on_signals()?;
    let options = args.rules.options()?;
    let counters = Counters::default();
    let requests = ApiRequests::default();
    let metrics = Metrics::build(&PROGRAM, |registry| {
        requests.register(registry);
        counters.register(registry);
    });
    let health = Health::new();
    let ready = health.readiness("rules", "not written yet");
    let server = http::bind(args.http_address, health, metrics).await?;
    tokio::spawn(server.serve(shutdown.clone()));

    let tools = Tools::open(args.tools.lock_timeout, counters.writes.clone())?.tied();
    let variant = detect(&tools, args.iptables_variant)?;
    let families = args.ip_families.families(node::families());
    for hazard in node::hazards() {
        tracing::warn!("{}", hazard.text);
    }
    tracing::info!(node = args.node_name, %variant, ?families, "enforcing");
    let client = client::connect(&args.api, Limits::default(), &requests).await?;
    let plugin = plugin(&args.cni, &shutdown)?;
    let updates = watch::updates(&client, &args.node_name, &counters);
    let news = match variant {
        Variant::Nft => News::open().inspect_err(|error| tracing::warn!("{error}")).ok(),
        // Nobody tells of changes to these.
        Variant::Legacy => None,
    };
    let namespace = args.own_namespace.as_deref();
    let report = Some(Writer::start(&client, &args.node_name, namespace, &counters));
    let (drops, tell) = drop_log(&args, &options, &client, &counters)?;
    let ended = Some(tell.clone());
    let auditor = Auditor::start(families.clone(), options.revoked_mark, tell, counters.clone());
    let settings = Settings {
        auditor: Some(auditor),
        ended,
        report,
        node: args.node_name,
        own_namespace: args.own_namespace,
        variant,
        families,
        options,
        tools,
        conntrack: Some(Conntrack::open()?),
        drops: Some(drops),
        news,
        counters,
        started,
        ready,
    };
    let mut agent = Agent::new(settings);
    if let Some(plugin) = plugin {
        agent = agent.with_plugin(plugin);
    }
    agent.run(updates, shutdown).await?;
    Ok(())
}

/// Who tells of what was refused: dropped packets, if any are logged, and whatever else is said to the sender.
fn drop_log(
    args: &RunArgs,
    options: &Options,
    client: &Client,
    counters: &Counters,
) -> anyhow::Result<(Desk, Sender<Sighting>)> {
    let (tell, sightings) = channel(1024);
    if let Some(log) = &options.log {
        let reader = Reader::open(log.group, counters.clone()).context("cannot read what is dropped")?;
        reader.start(tell.clone());
    }
    let events =
        (!args.no_drop_events).then(|| Events::start(client.clone(), &args.node_name, counters.clone()));
    let lines = args.drop_log_format == DropLogFormat::Json;
    Ok((Desk::new(sightings, lines, events, counters.clone()), tell))
}
