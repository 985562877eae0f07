//! A mount namespace per node.
//!
//! Without one, nodes of one machine would share `/run/xtables.lock`, `/etc/cni/net.d`, `/opt/cni/bin` and
//! `/var/lib/kubelet`, and everything that kubelet and containerd mount would have to be found and unmounted again.
//! With one, a node may write anywhere, and when its last process and the pin are gone the kernel unmounts it all.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::thread;

use anyhow::{Context, Result, anyhow};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use nix::unistd::gettid;

use super::paths::{NodePaths, text};

/// Folders where a node's writes stay its own.
const OVERLAID: [&str; 4] = ["/etc", "/opt", "/usr", "/var"];

const NOTHING: Option<&str> = None;

/// One line of /proc/PID/mountinfo, as far as it matters here.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Mount {
    pub(crate) target: PathBuf,
    pub(crate) kind: String,
}

/// Reads /proc/PID/mountinfo. Spaces in paths are written there as `\040`.
pub(crate) fn parse_mountinfo(text: &str) -> Vec<Mount> {
    let line = |line: &str| {
        let (before, after) = line.split_once(" - ")?;
        let target = before
            .split(' ')
            .nth(4)?
            .replace("\\040", " ")
            .replace("\\011", "\t");
        Some(Mount {
            target: target.into(),
            kind: after.split(' ').next()?.to_owned(),
        })
    };
    text.lines().filter_map(line).collect()
}

/// What is mounted in the calling thread's mount namespace, in mount order.
pub(crate) fn current() -> Result<Vec<Mount>> {
    let text = fs::read_to_string("/proc/thread-self/mountinfo").context("read the table of mounts")?;
    Ok(parse_mountinfo(&text))
}

/// Makes `dir` a place where namespaces can be pinned: the kernel wants a mount that does not propagate.
pub(crate) fn prepare_pins(dir: &Path) -> Result<()> {
    let prepare = || {
        mount(Some(dir), dir, NOTHING, MsFlags::MS_BIND, NOTHING)?;
        mount(NOTHING, dir, NOTHING, MsFlags::MS_PRIVATE, NOTHING)
    };
    prepare().with_context(|| format!("make {} a private mount", dir.display()))
}

/// Makes the node's mount namespace and pins it at `node.mount_ns()`.
pub(crate) fn create(node: &NodePaths) -> Result<()> {
    for dir in [node.cni_state(), node.kubelet(), node.root().join("pod-logs")] {
        fs::create_dir_all(&dir).with_context(|| format!("make folder {}", dir.display()))?;
    }
    File::create(node.mount_ns()).with_context(|| format!("make {}", node.mount_ns().display()))?;
    let (made, is_made) = mpsc::channel();
    let (pinned, is_pinned) = mpsc::channel::<()>();
    thread::scope(|scope| {
        let inside = scope.spawn(move || -> Result<()> {
            populate(node)?;
            // The pin is gone from this side only if pinning failed, which the other side reports.
            made.send(gettid()).ok();
            is_pinned.recv().ok();
            Ok(())
        });
        let outcome = match is_made.recv() {
            Ok(thread) => pin(node.mount_ns(), &format!("/proc/self/task/{thread}/ns/mnt")),
            // The thread ended before its namespace was ready; its own error says why.
            Err(mpsc::RecvError) => Ok(()),
        };
        drop(pinned);
        inside
            .join()
            .map_err(|_| anyhow!("the thread that made {} panicked", node.mount_ns().display()))??;
        outcome
    })
}

fn pin(target: &Path, namespace: &str) -> Result<()> {
    mount(Some(namespace), target, NOTHING, MsFlags::MS_BIND, NOTHING)
        .with_context(|| format!("pin a mount namespace at {}", target.display()))
}

/// Moves the calling thread into a new mount namespace and arranges it.
fn populate(node: &NodePaths) -> Result<()> {
    unshare(CloneFlags::CLONE_NEWNS).context("make a mount namespace (takes root)")?;
    mount(
        NOTHING,
        "/",
        NOTHING,
        MsFlags::MS_REC | MsFlags::MS_PRIVATE,
        NOTHING,
    )
    .context("make all mounts private")?;
    forget_namespaces()?;
    for dir in OVERLAID {
        overlay(node, dir)?;
    }
    mount(
        Some("tmpfs"),
        "/run",
        Some("tmpfs"),
        MsFlags::empty(),
        Some("mode=755"),
    )
    .context("mount /run")?;
    fs::create_dir("/run/netns").context("make /run/netns")?;
    link_cni_plugins()?;
    bind(&node.cni_state(), "/var/lib/cni")?;
    bind(&node.kubelet(), "/var/lib/kubelet")?;
    bind(&node.root().join("pod-logs"), "/var/log/pods")?;
    // Pods may ask for mounts that propagate, which takes a shared root.
    mount(
        NOTHING,
        "/",
        NOTHING,
        MsFlags::MS_REC | MsFlags::MS_SHARED,
        NOTHING,
    )
    .context("make all mounts shared")
}

/// Unmounts copies of other people's pinned namespaces: a copy here would keep them alive after their owner removed
/// them.
fn forget_namespaces() -> Result<()> {
    for found in current()?.iter().rev().filter(|found| found.kind == "nsfs") {
        umount2(&found.target, MntFlags::MNT_DETACH)
            .with_context(|| format!("unmount {}", found.target.display()))?;
    }
    Ok(())
}

/// The machine's `dir` below, the node's own changes above.
fn overlay(node: &NodePaths, dir: &str) -> Result<()> {
    let own = node.overlay(dir);
    let (upper, work) = (own.join("upper"), own.join("work"));
    for part in [&upper, &work] {
        fs::create_dir_all(part).with_context(|| format!("make folder {}", part.display()))?;
    }
    let options = format!("lowerdir={dir},upperdir={},workdir={}", text(&upper), text(&work));
    mount(
        Some("overlay"),
        dir,
        Some("overlay"),
        MsFlags::empty(),
        Some(options.as_str()),
    )
    .with_context(|| {
        format!(
            "lay an overlay over {dir}; the file system of {} must allow that (ext4, xfs, tmpfs do)",
            upper.display()
        )
    })
}

/// The distribution puts CNI plugins in /usr/lib/cni, everybody else looks in /opt/cni/bin.
fn link_cni_plugins() -> Result<()> {
    fs::create_dir_all("/opt/cni/bin").context("make /opt/cni/bin")?;
    for entry in fs::read_dir("/usr/lib/cni").context("read /usr/lib/cni")? {
        let plugin = entry.context("read /usr/lib/cni")?.path();
        let Some(name) = plugin.file_name() else { continue };
        let link = Path::new("/opt/cni/bin").join(name);
        if !link.exists() {
            std::os::unix::fs::symlink(&plugin, &link)
                .with_context(|| format!("make link {}", link.display()))?;
        }
    }
    Ok(())
}

fn bind(source: &Path, target: &str) -> Result<()> {
    fs::create_dir_all(target).with_context(|| format!("make folder {target}"))?;
    mount(Some(source), target, NOTHING, MsFlags::MS_BIND, NOTHING)
        .with_context(|| format!("show {} as {target}", source.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn optional_fields_and_escaped_spaces_do_not_confuse() {
        let text = "\
22 1 254:0 / / rw,relatime - ext4 /dev/vda rw
36 22 0:4 net:[4026532] /run/netns/a\\040b rw shared:12 master:3 - nsfs nsfs rw
";
        let expected = [("/", "ext4"), ("/run/netns/a b", "nsfs")];
        let found = parse_mountinfo(text);
        assert_eq!(found.len(), expected.len());
        for (mount, (target, kind)) in found.iter().zip(expected) {
            assert_eq!((mount.target.to_str(), mount.kind.as_str()), (Some(target), kind));
        }
    }
}
