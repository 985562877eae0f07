//! Finding and removing what belongs to a cluster, whatever state it was left in.
//!
//! Every trace alone is enough, for a predecessor killed half way may have left only one: a record, the mark in the
//! environment, a namespace, a cgroup, or a containerd shim that names the state folder. A program's name alone never
//! is.

use std::collections::HashSet;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use nix::mount::{MntFlags, umount2};
use nix::sys::signal::Signal;

use super::command::run;
use super::paths::{Paths, netns_path};
use super::process::{self, MARK, Process};
use super::{cgroups, mounts, wait};

/// Programs of a testbed that carry the state folder in their arguments. Others may, too: somebody reading a log.
const PROGRAMS: &[&str] = &[
    "containerd",
    "containerd-shim-runc-v2",
    "etcd",
    "kube-apiserver",
    "kube-controller-manager",
    "kube-proxy",
    "kube-scheduler",
    "kubelet",
    "nsenter",
    "runc",
    "socat",
];

/// Identity of a namespace: device and inode of its file.
type Namespace = (u64, u64);

/// What a process of the cluster is recognised by.
#[derive(Debug, Default)]
struct Traces {
    root: PathBuf,
    recorded: HashSet<Process>,
    namespaces: HashSet<Namespace>,
    cgroups: Vec<String>,
}

/// A process, as far as it matters here.
#[derive(Debug)]
struct Seen {
    process: Process,
    args: Vec<String>,
    mark: Option<String>,
    namespaces: Vec<Namespace>,
    cgroup: String,
}

impl Traces {
    fn claim(&self, seen: &Seen) -> bool {
        self.recorded.contains(&seen.process)
            || seen
                .mark
                .as_deref()
                .is_some_and(|mark| Path::new(mark) == self.root)
            || seen
                .namespaces
                .iter()
                .any(|namespace| self.namespaces.contains(namespace))
            || self.cgroups.iter().any(|name| cgroups::holds(name, &seen.cgroup))
            || self.named_in(&seen.args)
    }

    /// Whether this is the command line of one of our programs working in the state folder.
    fn named_in(&self, args: &[String]) -> bool {
        let Some((program, rest)) = args.split_first() else {
            return false;
        };
        let name = program.rsplit('/').next().unwrap_or_default();
        PROGRAMS.contains(&name) && rest.iter().any(|arg| mentions(arg, &self.root))
    }
}

/// Whether an argument is, or ends in (`--flag=PATH`, `unix://PATH`), a path at or below `root`.
fn mentions(arg: &str, root: &Path) -> bool {
    let root = root.to_string_lossy();
    arg.match_indices(&*root).any(|(at, _)| {
        arg[at + root.len()..]
            .chars()
            .next()
            .is_none_or(|next| next == '/')
    })
}

/// Whether `name` is one that this cluster gives to namespaces or cgroups. Another cluster's name may begin alike.
fn is_ours(paths: &Paths, name: &str) -> bool {
    let Some(member) = name.strip_prefix(&format!("rf-{}-", paths.name())) else {
        return false;
    };
    let is_node = |member: &str| {
        member
            .strip_prefix("node-")
            .is_some_and(|k| !k.is_empty() && k.bytes().all(|b| b.is_ascii_digit()))
    };
    matches!(member, "fabric" | "cp") || is_node(member)
}

fn netns_names(paths: &Paths) -> Result<Vec<String>> {
    let entries = match fs::read_dir("/run/netns") {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.context("read /run/netns")?,
    };
    let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    Ok(names.filter(|name| is_ours(paths, name)).collect())
}

fn traces(paths: &Paths) -> Result<Traces> {
    let mut pins: Vec<PathBuf> = netns_names(paths)?.iter().map(|name| netns_path(name)).collect();
    let mounted = mounts::current()?;
    pins.extend(
        mounted
            .into_iter()
            .filter(|m| m.kind == "nsfs")
            .map(|m| m.target)
            .filter(|t| t.starts_with(paths.root())),
    );
    Ok(Traces {
        root: paths.root().to_owned(),
        recorded: process::records(&paths.records())
            .into_iter()
            .map(|record| record.process)
            .collect(),
        // The pin of a namespace that could not be made is an ordinary file, which no process is in.
        namespaces: pins.iter().filter_map(|pin| namespace(pin)).collect(),
        cgroups: cgroups::find(|name| is_ours(paths, name))?,
    })
}

fn namespace(path: &Path) -> Option<Namespace> {
    fs::metadata(path).ok().map(|meta| (meta.dev(), meta.ino()))
}

/// Every process that may be ended: not this one, nor those that wait for it.
fn look_around() -> Result<Vec<Seen>> {
    let family = ancestry(i32::try_from(std::process::id()).unwrap_or_default());
    let entries = fs::read_dir("/proc").context("read /proc")?;
    let pids = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<i32>().ok());
    Ok(pids
        .filter(|pid| !family.contains(pid))
        .filter_map(look_at)
        .collect())
}

fn ancestry(mut pid: i32) -> HashSet<i32> {
    let mut family = HashSet::from([0, 1]);
    while family.insert(pid) {
        pid = process::stat(pid).map_or(0, |stat| stat.parent);
    }
    family
}

/// Gone processes and kernel threads give nothing.
fn look_at(pid: i32) -> Option<Seen> {
    let read = |file: &str| fs::read(format!("/proc/{pid}/{file}")).unwrap_or_default();
    let split = |bytes: Vec<u8>| -> Vec<String> {
        bytes
            .split(|b| *b == 0)
            .map(|part| String::from_utf8_lossy(part).into_owned())
            .collect()
    };
    let process = Process::of(pid)?;
    let prefix = format!("{MARK}=");
    let ns = |kind: &str| namespace(&PathBuf::from(format!("/proc/{pid}/ns/{kind}")));
    Some(Seen {
        process,
        args: split(read("cmdline")),
        mark: split(read("environ"))
            .iter()
            .find_map(|var| var.strip_prefix(&prefix).map(str::to_owned)),
        namespaces: [ns("net"), ns("mnt")].into_iter().flatten().collect(),
        cgroup: String::from_utf8_lossy(&read("cgroup")).into_owned(),
    })
}

/// Whether anything of the cluster exists.
pub(crate) fn exist(paths: &Paths) -> Result<bool> {
    let traces = traces(paths)?;
    Ok(paths.root().exists()
        || !traces.cgroups.is_empty()
        || !netns_names(paths)?.is_empty()
        || look_around()?.iter().any(|seen| traces.claim(seen)))
}

/// Ends every process of the cluster and removes its mounts, namespaces, cgroups and state folder.
///
/// # Errors
/// When something resists; what was removed stays removed, and trying again is safe.
pub(crate) fn remove(paths: &Paths) -> Result<()> {
    let traces = traces(paths)?;
    kill_all(&traces)?;
    unmount_all(paths.root())?;
    for name in netns_names(paths)? {
        run(Command::new("ip").args(["netns", "del", &name]))?;
    }
    for name in &traces.cgroups {
        cgroups::remove(name)?;
    }
    match fs::remove_dir_all(paths.root()) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("remove state folder {}", paths.root().display()))
        }
        _ => Ok(()),
    }
}

/// Again and again until a look finds none: one that dies may just have started another.
fn kill_all(traces: &Traces) -> Result<()> {
    wait::until(
        "the cluster's processes to end",
        Duration::from_secs(30),
        wait::SHORT,
        || {
            let mut alive = 0;
            for seen in look_around()?.into_iter().filter(|seen| traces.claim(seen)) {
                if seen.process.alive() {
                    alive += 1;
                    seen.process.signal(Signal::SIGKILL)?;
                }
            }
            Ok((alive == 0).then_some(()))
        },
    )
}

fn unmount_all(root: &Path) -> Result<()> {
    for found in mounts::current()?
        .iter()
        .rev()
        .filter(|found| found.target.starts_with(root))
    {
        umount2(&found.target, MntFlags::MNT_DETACH)
            .with_context(|| format!("unmount {}", found.target.display()))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn paths(name: &str) -> Paths {
        Paths::of(&name.parse().unwrap())
    }

    fn seen() -> Seen {
        Seen {
            process: Process {
                pid: 7,
                start_time: 70,
            },
            args: vec!["/usr/bin/less".into(), "/tmp/ringfence-dev/logs/etcd.log".into()],
            mark: None,
            namespaces: vec![(4, 1), (4, 2)],
            cgroup: "0::/user.slice\n".into(),
        }
    }

    fn traces() -> Traces {
        Traces {
            root: "/tmp/ringfence-dev".into(),
            recorded: HashSet::from([Process {
                pid: 8,
                start_time: 80,
            }]),
            namespaces: HashSet::from([(4, 3)]),
            cgroups: vec!["rf-dev-node-1".into()],
        }
    }

    fn args(line: &str) -> Vec<String> {
        line.split(' ').map(str::to_owned).collect()
    }

    #[test]
    fn somebody_reading_a_log_is_left_alone() {
        assert!(!traces().claim(&seen()));
    }

    #[test]
    fn each_trace_alone_is_enough() {
        let recorded = Seen {
            process: Process {
                pid: 8,
                start_time: 80,
            },
            ..seen()
        };
        let marked = Seen {
            mark: Some("/tmp/ringfence-dev".into()),
            ..seen()
        };
        let in_namespace = Seen {
            namespaces: vec![(4, 1), (4, 3)],
            ..seen()
        };
        let in_cgroup = Seen {
            cgroup: "3:cpu:/rf-dev-node-1/kubepods\n".into(),
            ..seen()
        };
        let shim =
            "/usr/bin/containerd-shim-runc-v2 -id x -address /tmp/ringfence-dev/node-1/containerd.sock";
        let named = Seen {
            args: args(shim),
            ..seen()
        };
        for one in [recorded, marked, in_namespace, in_cgroup, named] {
            assert!(traces().claim(&one), "{one:?}");
        }
    }

    #[test]
    fn a_reused_pid_and_a_like_named_cluster_are_left_alone() {
        let reused = Seen {
            process: Process {
                pid: 8,
                start_time: 81,
            },
            ..seen()
        };
        let other_mark = Seen {
            mark: Some("/tmp/ringfence-dev2".into()),
            ..seen()
        };
        let other = Seen {
            args: args("kubelet --config=/tmp/ringfence-dev2/node-1/kubelet.json"),
            ..seen()
        };
        let only_a_name = Seen {
            args: args("/usr/bin/containerd --config /etc/containerd.toml"),
            ..seen()
        };
        for one in [reused, other_mark, other, only_a_name] {
            assert!(!traces().claim(&one), "{one:?}");
        }
    }

    #[test]
    fn paths_are_found_inside_flags_and_urls() {
        let root = Path::new("/tmp/ringfence-dev");
        for arg in [
            "/tmp/ringfence-dev",
            "--data-dir=/tmp/ringfence-dev/etcd",
            "unix:///tmp/ringfence-dev/a.sock",
        ] {
            assert!(mentions(arg, root), "{arg}");
        }
        assert!(!mentions("/tmp/ringfence-dev-2/x", root));
    }

    #[test]
    fn namespaces_of_clusters_with_like_names_are_told_apart() {
        let ours = |cluster: &str, name: &str| is_ours(&paths(cluster), name);
        assert!(ours("a", "rf-a-cp") && ours("a", "rf-a-node-12") && ours("a-node-1", "rf-a-node-1-fabric"));
        assert!(!ours("a", "rf-a-node-1-cp") && !ours("a", "rf-a-b-cp") && !ours("a", "rf-a-node-"));
    }

    #[test]
    fn this_process_and_its_ancestors_are_never_looked_at() {
        let me = i32::try_from(std::process::id()).unwrap();
        let family = ancestry(me);
        assert!(family.contains(&me) && family.contains(&process::stat(me).unwrap().parent));
        assert!(
            look_around()
                .unwrap()
                .iter()
                .all(|seen| !family.contains(&seen.process.pid))
        );
    }
}
