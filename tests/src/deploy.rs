//! Putting the product on a cluster the way a user does: images, then `kubectl apply -k`.

use std::fs;
use std::os::unix::fs::MetadataExt;

use anyhow::{Context, Result, bail};

use crate::images::{self, ImageOptions};
use crate::kube_objects::kubectl;
use crate::source;
use crate::testbed::{Cluster, ClusterOptions, Node, Progress, step};

/// A cluster with the product on it. A cluster of that name that is already up and well is taken as it is.
///
/// # Errors
/// Those of [`with_images`] and [`install`].
pub fn bring_up(options: &ClusterOptions, progress: &dyn Progress) -> Result<Cluster> {
    let cluster = with_images(options, progress)?;
    step(progress, "install Ringfence", || install(&cluster))?;
    Ok(cluster)
}

/// A cluster whose nodes have both images. They are built before it starts: beside a running cluster the compiler needs
/// half as much time again.
///
/// # Errors
/// Those of [`Cluster::up`]; when a build fails or a node refuses an image.
pub fn with_images(options: &ClusterOptions, progress: &dyn Progress) -> Result<Cluster> {
    let images = images::build(&ImageOptions::default(), progress)?;
    let cluster = Cluster::up(options, progress)?;
    for image in images {
        cluster.load_image(&image)?;
    }
    Ok(cluster)
}

/// Applies `config/default` and waits until operator and enforcers are ready. Programs that run already are started
/// anew: their images may have changed under the same name.
///
/// # Errors
/// When kubectl refuses something or a program does not become ready within two minutes.
pub fn install(cluster: &Cluster) -> Result<()> {
    let running = [
        "-n",
        "ringfence-system",
        "get",
        "daemonset,deployment",
        "--ignore-not-found",
        "-o",
        "name",
    ];
    let before = kubectl(cluster, &running)?;
    kubectl(cluster, &["apply", "-k", &source::path("config/default")])?;
    for program in before.lines() {
        kubectl(
            cluster,
            &["-n", "ringfence-system", "rollout", "restart", program],
        )?;
    }
    wait_until_ready(cluster)
}

/// Waits until operator and enforcers are ready.
///
/// # Errors
/// When one does not become ready within two minutes.
pub fn wait_until_ready(cluster: &Cluster) -> Result<()> {
    let rollout = |what| {
        kubectl(
            cluster,
            &[
                "-n",
                "ringfence-system",
                "rollout",
                "status",
                what,
                "--timeout=120s",
            ],
        )
    };
    rollout("daemonset/ringfence-enforcer")?;
    rollout("deployment/ringfence-operator")?;
    Ok(())
}

/// The shop of `examples/three-tier`: its Deployments by namespace.
const SHOP: [(&str, &str); 5] = [
    ("production", "web"),
    ("production", "api"),
    ("production", "db"),
    ("monitoring", "prometheus"),
    ("attacker", "attacker"),
];

/// Applies the shop and waits until its pods are ready.
///
/// # Errors
/// When kubectl refuses something or a pod does not become ready within two minutes.
pub fn install_shop(cluster: &Cluster) -> Result<()> {
    kubectl(
        cluster,
        &["apply", "-f", &source::path("examples/three-tier/shop.yaml")],
    )?;
    for (namespace, name) in SHOP {
        let what = format!("deployment/{name}");
        kubectl(
            cluster,
            &["-n", namespace, "rollout", "status", &what, "--timeout=120s"],
        )?;
    }
    Ok(())
}

/// Applies the shop's zero-trust resources and waits until they are ready.
///
/// # Errors
/// When kubectl refuses something or a resource does not become ready within a minute.
pub fn close_shop(cluster: &Cluster) -> Result<()> {
    kubectl(
        cluster,
        &[
            "apply",
            "-f",
            &source::path("examples/three-tier/zero-trust.yaml"),
        ],
    )?;
    kubectl(
        cluster,
        &[
            "-n",
            "production",
            "wait",
            "--for=condition=Ready",
            "ztn,sva",
            "--all",
            "--timeout=60s",
        ],
    )?;
    Ok(())
}

/// The host's process id of a node's enforcer.
///
/// # Errors
/// When none runs there.
pub fn enforcer_process(node: &Node) -> Result<i32> {
    let namespace = fs::metadata(&node.netns)
        .context("look at the node's network namespace")?
        .ino();
    for entry in fs::read_dir("/proc")? {
        let path = entry?.path();
        let Some(pid) = path
            .file_name()
            .and_then(|name| name.to_str()?.parse::<i32>().ok())
        else {
            continue;
        };
        // A process that ended meanwhile is none we look for.
        let Ok(command) = fs::read_to_string(path.join("cmdline")) else {
            continue;
        };
        let Ok(net) = fs::metadata(path.join("ns/net")) else {
            continue;
        };
        let mut words = command.split('\0');
        let is_enforcer = words
            .next()
            .is_some_and(|program| program.ends_with("ringfence-enforcer"));
        if net.ino() == namespace && is_enforcer && words.next() == Some("run") {
            return Ok(pid);
        }
    }
    bail!("no enforcer runs on {}", node.name)
}
