//! `cargo xtask demo`: the main job, end to end, on a real cluster.

use std::io::IsTerminal;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use clap::Args;
use ringfence_tests::deploy;
use ringfence_tests::kube_objects::kubectl;
use ringfence_tests::shop::{self, App, Cell, Matrix, Target};
use ringfence_tests::source;
use ringfence_tests::testbed::{Cluster, ClusterOptions, Console};

/// How to run the demo.
#[derive(Debug, Args)]
pub(crate) struct DemoArgs {
    /// Leave the cluster up afterwards, to try things on.
    #[arg(long)]
    keep: bool,
}

/// The demo's cluster has a name of its own, so that it never meets that of the tests.
const CLUSTER: &str = "demo";

/// Sets everything up, shows the shop before and after, and takes everything down again unless told to keep it.
pub(crate) fn run(args: &DemoArgs) -> Result<ExitCode> {
    let options = ClusterOptions::named(CLUSTER)?;
    heading("Ringfence's images, and a real Kubernetes cluster of two nodes on this machine");
    let cluster = deploy::with_images(&options, &Console::default())?;
    let shown = show(&cluster);
    if args.keep {
        what_next(&cluster);
    } else {
        heading("Taking the cluster down (keep it with --keep)");
        Cluster::remove(CLUSTER, &Console::default())?;
    }
    shown.map(|()| ExitCode::SUCCESS)
}

fn show(cluster: &Cluster) -> Result<()> {
    heading("Ringfence: kubectl apply -k config/default");
    deploy::install(cluster)?;
    heading("A shop of three tiers: kubectl apply -f examples/three-tier/shop.yaml");
    deploy::install_shop(cluster)?;
    let before = settle(cluster, shop::before)?;
    heading("Who reaches whom BEFORE: real connections between real pods");
    print_matrix(&before);

    heading("Zero trust: kubectl apply -f examples/three-tier/zero-trust.yaml");
    println!(
        "{}",
        std::fs::read_to_string(source::path("examples/three-tier/zero-trust.yaml"))?
    );
    deploy::close_shop(cluster)?;
    let after = settle(cluster, shop::after)?;
    heading("Who reaches whom AFTER");
    print_matrix(&after);
    print!("{}", kubectl(cluster, &["get", "ztn,sva", "-A"])?);
    println!();
    print!("{}", kubectl(cluster, &["get", "networkpolicies", "-A"])?);
    compare(&before, shop::before, "before")?;
    compare(&after, shop::after, "after")
}

/// Measures until the shop is as expected, or for half a minute: what is printed is what was measured last.
fn settle(cluster: &Cluster, expected: fn(&App, &Target) -> bool) -> Result<Matrix> {
    let started = Instant::now();
    loop {
        let measured = shop::measure(cluster, Duration::from_secs(1))?;
        if shop::differences(&measured.matrix, expected).is_empty()
            || started.elapsed() > Duration::from_secs(30)
        {
            println!("  {} connections tried", measured.connections);
            return Ok(measured.matrix);
        }
    }
}

fn compare(matrix: &Matrix, expected: fn(&App, &Target) -> bool, when: &str) -> Result<()> {
    let wrong = shop::differences(matrix, expected);
    if !wrong.is_empty() {
        bail!(
            "the paths {when} are not as they should be:\n{}",
            wrong.join("\n")
        );
    }
    let open = matrix.values().filter(|cell| **cell == Cell::Open).count();
    println!(
        "\nAs it should be {when}: {open} of {} paths open, every other closed.",
        matrix.len()
    );
    Ok(())
}

fn print_matrix(matrix: &Matrix) {
    println!("{}", shop::render(matrix, std::io::stdout().is_terminal()));
}

fn heading(text: &str) {
    if std::io::stdout().is_terminal() {
        println!("\n\x1b[1m== {text}\x1b[0m");
    } else {
        println!("\n== {text}");
    }
}

fn what_next(cluster: &Cluster) {
    heading("What to try next");
    println!(
        "export KUBECONFIG={}\n\
         kubectl -n production get netpol                                     # what was generated\n\
         kubectl -n production describe ztn default                           # conditions and coverage\n\
         kubectl -n production delete netpol -l ringfence.dev/purpose=deny-ingress   # comes back at once\n\
         kubectl -n attacker exec deploy/attacker -- /agnhost connect api.production:80 --timeout=2s   # TIMEOUT\n\
         kubectl -n production exec deploy/web -- /agnhost connect api:80 --timeout=2s             # connects\n\
         kubectl -n production delete ztn default                             # everything is open again\n\
         cargo xtask cluster down --name {CLUSTER}                                # when you are done",
        cluster.kubeconfig().display()
    );
}
