//! Entering a network namespace from this process.

use std::fs::File;
use std::path::Path;
use std::process::Command;
use std::thread;

use anyhow::{Context, Result, anyhow};
use nix::sched::{CloneFlags, setns};

/// Runs `work` on a thread of its own inside the network namespace at `netns` (a path such as `/run/netns/NAME` or
/// `/proc/PID/ns/net`) and gives its result.
///
/// Sockets that `work` opens belong to that namespace for ever, also when they are handed back; files it opens under
/// `/proc/sys/net` are the namespace's own. No other thread of this process moves.
///
/// # Errors
/// When the namespace cannot be opened or entered (which takes root), or when `work` panics.
pub fn exec_in_netns<T: Send>(netns: &Path, work: impl FnOnce() -> T + Send) -> Result<T> {
    let file = File::open(netns).with_context(|| format!("open network namespace {}", netns.display()))?;
    thread::scope(|scope| {
        let entered = scope.spawn(move || -> Result<T> {
            setns(&file, CloneFlags::CLONE_NEWNET)
                .with_context(|| format!("enter network namespace {} (takes root)", netns.display()))?;
            Ok(work())
        });
        entered
            .join()
            .map_err(|_| anyhow!("the work in network namespace {} panicked", netns.display()))?
    })
}

/// A command that starts `program` inside a network namespace and, where given, a mount namespace.
///
/// `nsenter` executes the program in its own process, so the process id is the program's. `ip netns exec` would hide
/// the cgroups by mounting a new /sys.
pub(crate) fn command_in(netns: &Path, mount_ns: Option<&Path>, program: &Path) -> Command {
    let mut command = Command::new("nsenter");
    command.arg(format!("--net={}", netns.display()));
    if let Some(mount_ns) = mount_ns {
        command.arg(format!("--mount={}", mount_ns.display()));
    }
    command.arg("--").arg(program);
    command
}
