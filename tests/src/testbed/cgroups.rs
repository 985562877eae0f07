//! A cgroup per node, in every hierarchy the machine has.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

use super::wait;

const ROOT: &str = "/sys/fs/cgroup";

/// Where node cgroups are made: with cgroup v2 the one tree, with v1 one tree per controller, and where both are
/// mounted all of them, for the container runtime uses them all.
fn hierarchies() -> Result<Vec<PathBuf>> {
    let mounts = super::mounts::current()?.into_iter();
    let is_ours = |mount: &super::mounts::Mount| {
        matches!(mount.kind.as_str(), "cgroup" | "cgroup2") && mount.target.starts_with(ROOT)
    };
    let found: Vec<PathBuf> = mounts.filter(is_ours).map(|mount| mount.target).collect();
    ensure!(
        !found.is_empty(),
        "no cgroups are mounted below {ROOT}: mount cgroup2 there"
    );
    Ok(found)
}

/// Makes cgroup `name` in every hierarchy.
pub(crate) fn create(name: &str) -> Result<()> {
    for hierarchy in hierarchies()? {
        enable_controllers(&hierarchy);
        let dir = hierarchy.join(name);
        fs::create_dir_all(&dir).with_context(|| format!("make cgroup {}", dir.display()))?;
        // A v1 cpuset starts empty, and nothing can run in it until it is given processors and memory.
        for file in ["cpuset.cpus", "cpuset.mems"] {
            if dir.join(file).exists() && !hierarchy.join("cgroup.controllers").exists() {
                let all = fs::read(hierarchy.join(file)).with_context(|| format!("read {file}"))?;
                fs::write(dir.join(file), all)
                    .with_context(|| format!("write {file} of {}", dir.display()))?;
            }
        }
    }
    Ok(())
}

/// With cgroup v2, lets children use the controllers. One the kernel does not let go of is simply not there for
/// kubelet, which then names it itself.
fn enable_controllers(hierarchy: &Path) {
    if !hierarchy.join("cgroup.controllers").exists() {
        return;
    }
    for controller in ["cpu", "cpuset", "memory", "io", "pids"] {
        let _ = fs::write(hierarchy.join("cgroup.subtree_control"), format!("+{controller}"));
    }
}

/// Removes cgroup `name` and everything below it, everywhere. Its processes must be gone.
pub(crate) fn remove(name: &str) -> Result<()> {
    for hierarchy in hierarchies()? {
        let dir = hierarchy.join(name);
        // The kernel may need a moment to let go of the last dead process.
        let limit = std::time::Duration::from_secs(10);
        wait::until(
            &format!("cgroup {} to be empty", dir.display()),
            limit,
            wait::SHORT,
            || match remove_tree(&dir) {
                Err(error) if error.kind() == io::ErrorKind::ResourceBusy => Ok(None),
                outcome => outcome
                    .map(Some)
                    .with_context(|| format!("remove cgroup {}", dir.display())),
            },
        )?;
    }
    Ok(())
}

/// Children first; the files in a cgroup go with it.
fn remove_tree(dir: &Path) -> io::Result<()> {
    let entries = match fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries?,
    };
    for entry in entries {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            remove_tree(&entry.path())?;
        }
    }
    fs::remove_dir(dir)
}

/// Whether /proc/PID/cgroup says that the process is in cgroup `name` or below.
pub(crate) fn holds(name: &str, proc_cgroup: &str) -> bool {
    let paths = proc_cgroup.lines().filter_map(|line| line.splitn(3, ':').nth(2));
    paths.into_iter().any(|path| path.split('/').nth(1) == Some(name))
}

/// Names of cgroups that exist in any hierarchy and satisfy `wanted`.
pub(crate) fn find(wanted: impl Fn(&str) -> bool) -> Result<Vec<String>> {
    let mut found = Vec::new();
    for hierarchy in hierarchies()? {
        for entry in fs::read_dir(&hierarchy).with_context(|| format!("read {}", hierarchy.display()))? {
            let entry = entry.with_context(|| format!("read {}", hierarchy.display()))?;
            let name = entry.file_name().to_string_lossy().into_owned();
            if wanted(&name) && !found.contains(&name) {
                found.push(name);
            }
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cgroup_is_recognised_by_its_whole_first_component() {
        let text = "5:memory:/rf-dev-node-1/kubepods/pod1\n0::/\n";
        assert!(holds("rf-dev-node-1", text));
        assert!(!holds("rf-dev-node", text));
        assert!(!holds("kubepods", text));
        assert!(holds("rf-dev-node-1", "0::/rf-dev-node-1\n"));
    }
}
