//! Coming, going, being killed.

use anyhow::{Context, Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use ringfence_tests::deploy;
use ringfence_tests::shop;
use ringfence_tests::source;

use crate::lab::Lab;
use crate::pod_start::is_without_plugin;
use crate::three_tier::paths_become;

pub(crate) fn kill_and_return(lab: &Lab) -> Result<()> {
    lab.close_shop()?;
    paths_become(lab, "the shop is closed", shop::after)?;
    let node = lab
        .cluster
        .nodes()
        .into_iter()
        .next()
        .context("the cluster has no node")?;
    // An enforcer compares packets with the mark of revoked connections for a minute after its start, and so does one that
    // returns: only within that minute does it find what it would write.
    renew_enforcer(lab, &node.name)?;
    let before = lab.kernel(&node)?;
    ensure!(
        before.ours().next().is_some(),
        "the node holds no rule of ours: the case shows nothing"
    );
    let restarts = lab.enforcer_restarts(&node.name)?;
    let pid = deploy::enforcer_process(&node)?;
    kill(Pid::from_raw(pid), Signal::SIGKILL).context("kill the enforcer")?;
    let killed = lab.kernel(&node)?;
    ensure!(
        killed == before,
        "the kernel changed when the enforcer was killed:\n{before}\n{killed}"
    );
    lab.until("the enforcer is back", || {
        Ok(lab.enforcer_restarts(&node.name)? > restarts)
    })?;
    deploy::wait_until_ready(&lab.cluster)?;
    let returned = lab.kernel(&node)?;
    ensure!(
        returned == before,
        "the kernel changed when the enforcer returned:\n{before}\n{returned}"
    );
    let metrics = lab.enforcer_metrics(&node.name)?;
    let writes: Vec<&str> = metrics
        .lines()
        .filter(|line| line.starts_with("ringfence_kernel_writes_total"))
        .collect();
    ensure!(
        !writes.is_empty(),
        "the enforcer counts no kernel writes:\n{metrics}"
    );
    ensure!(
        writes.iter().all(|line| line.ends_with(" 0")),
        "it wrote what was already right: {writes:?}\n{metrics}"
    );
    paths_become(
        lab,
        "exactly the allowed paths are open after the return",
        shop::after,
    )
}

fn renew_enforcer(lab: &Lab, node: &str) -> Result<()> {
    let on_node = format!("--field-selector=spec.nodeName={node}");
    let pods = [
        "-n",
        "ringfence-system",
        "-l",
        "app.kubernetes.io/name=ringfence-enforcer",
        &on_node,
    ];
    lab.kubectl(&[&["delete", "pod"][..], &pods[..]].concat())?;
    lab.until("a new enforcer is ready", || {
        let wait = ["wait", "pod", "--for=condition=Ready", "--timeout=5s"];
        Ok(lab.kubectl(&[&wait[..], &pods[..]].concat()).is_ok())
    })
}

pub(crate) fn deleting_the_ztn_opens(lab: &Lab) -> Result<()> {
    lab.close_shop()?;
    lab.kubectl(&["-n", "production", "delete", "ztn", "default"])?;
    lab.until("no NetworkPolicy is left", || Ok(lab.policies()?.is_empty()))?;
    paths_become(lab, "everyone reaches everyone", shop::before)?;
    let condition = "jsonpath={range .items[*]}{.status.conditions[?(@.type==\"Accepted\")].reason} {end}";
    lab.until("the ServiceAccesses say that they are not needed", || {
        Ok(lab
            .kubectl(&["-n", "production", "get", "sva", "-o", condition])?
            .trim()
            == "NotNeeded NotNeeded")
    })
}

pub(crate) fn cleanup_leaves_the_node_as_it_was(lab: &Lab) -> Result<()> {
    lab.close_shop()?;
    paths_become(lab, "the shop is closed", shop::after)?;
    let nodes = lab.cluster.nodes();
    let before: Vec<_> = nodes.iter().map(|node| lab.kernel(node)).collect::<Result<_>>()?;
    ensure!(
        before.iter().all(|kernel| kernel.ours().next().is_some()),
        "a node holds no rule of ours"
    );
    // Without the enforcer its rules stay: only cleanup removes them.
    lab.send_enforcers_away()?;
    for (node, before) in nodes.iter().zip(&before) {
        ensure!(
            lab.kernel(node)? == *before,
            "{}: the rules went with the enforcer",
            node.name
        );
    }
    lab.kubectl(&["apply", "-k", &source::path("config/cleanup")])?;
    lab.kubectl(&[
        "-n",
        "ringfence-system",
        "rollout",
        "status",
        "daemonset/ringfence-cleanup",
        "--timeout=60s",
    ])?;
    for (node, before) in nodes.iter().zip(&before) {
        let after = lab.kernel(node)?;
        let ours: Vec<&str> = after.ours().collect();
        ensure!(ours.is_empty(), "{}: cleanup left {ours:?}", node.name);
        ensure!(
            after.foreign().eq(before.foreign()),
            "{}: cleanup changed others' rules:\n{before}\n{after}",
            node.name
        );
        ensure!(
            is_without_plugin(lab, node)?,
            "{}: cleanup left the CNI plugin",
            node.name
        );
    }
    paths_become(lab, "everyone reaches everyone after cleanup", shop::before)?;
    lab.kubectl(&["delete", "-k", &source::path("config/cleanup")])?;
    lab.bring_enforcers_back()?;
    paths_become(lab, "the shop is closed again", shop::after)
}

pub(crate) fn deleting_everything_at_once(lab: &Lab) -> Result<()> {
    lab.close_shop()?;
    lab.kubectl(&["delete", "-k", &source::path("config/default"), "--timeout=120s"])?;
    let gone = lab.kubectl(&[
        "get",
        "namespace,crd,clusterrole,clusterrolebinding",
        "-o",
        "name",
    ])?;
    let left: Vec<&str> = gone.lines().filter(|line| line.contains("ringfence")).collect();
    ensure!(left.is_empty(), "still there: {left:?}");
    lab.until("no NetworkPolicy is left", || Ok(lab.policies()?.is_empty()))?;
    for node in lab.cluster.nodes() {
        lab.until(&format!("{} holds no rule of ours", node.name), || {
            Ok(lab.kernel(&node)?.ours().next().is_none())
        })?;
        ensure!(
            is_without_plugin(lab, &node)?,
            "{}: the uninstall left the CNI plugin",
            node.name
        );
    }
    paths_become(lab, "everyone reaches everyone", shop::before)?;
    // Whoever comes back finds a cluster that takes it.
    lab.install()
}
