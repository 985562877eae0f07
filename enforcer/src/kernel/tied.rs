//! Programs that end with the process that started them.
//!
//! An `iptables-restore` that waits for a lock would outlive an enforcer that is killed, and write old rules over those of
//! the next. Only the kernel can see to it that it does not, and a process can only ask that for itself. So this program
//! starts itself, asks, and becomes the other.

use std::ffi::OsString;
use std::os::unix::process::CommandExt as _;
use std::process::Command;

use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::Signal;
use nix::unistd::{Pid, getppid};

/// The subcommand of the enforcer's program that does this.
pub const SUBCOMMAND: &str = "tied-to";

/// What stands before a command that is to end with this process, which must be the enforcer's program.
///
/// What the kernel looks at is the thread that starts the command. Whoever starts one waits for it, so the thread stays.
pub fn to_this_process() -> Vec<String> {
    let own = std::process::id().to_string();
    // Not by its path: that may be another version by now, or gone.
    vec![format!("/proc/{own}/exe"), SUBCOMMAND.to_owned(), own]
}

/// Becomes a command that ends with its parent, which must be this process. Returns what went wrong.
pub fn become_tied(parent: u32, command: &[OsString]) -> anyhow::Error {
    let [program, arguments @ ..] = command else {
        return anyhow::anyhow!("no command to start");
    };
    if let Err(error) = set_pdeathsig(Signal::SIGKILL) {
        return anyhow::anyhow!("the kernel refuses to end this with its parent: {error}");
    }
    // It may have died before the kernel knew whom to look at.
    if i32::try_from(parent) != Ok(getppid().as_raw()) || getppid() == Pid::from_raw(0) {
        return anyhow::anyhow!("process {parent}, which started this, is gone");
    }
    let error = Command::new(program).args(arguments).exec();
    anyhow::anyhow!("cannot start {}: {error}", program.display())
}
