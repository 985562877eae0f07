//! The ways to the kernel: iptables-save and iptables-restore as processes, sets by netlink.

use std::io::Write as _;
use std::process::{Command, Output, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::ipset::Sets;
use super::{Variant, tied};
use crate::error::{Error, Result};
use crate::metrics::Writes;
use crate::ruleset::Family;
use crate::state::SetChange;

/// What iptables exits with when it did not get the lock.
const RESOURCE_PROBLEM: i32 = 4;

/// How iptables-save starts to say that it cannot print the filter table.
const UNREADABLE: &str = "# Table `filter' is incompatible";

/// The ways to the kernel of one network namespace.
#[derive(Debug, Clone)]
pub struct Tools {
    /// What stands before each command: nothing, or for instance `nsenter` with a namespace.
    prefix: Vec<String>,
    /// What stands before a command that writes, behind the former.
    tie: Vec<String>,
    /// How long iptables waits for other programs that hold its lock.
    lock_seconds: u64,
    writes: Writes,
    sets: Arc<Mutex<Sets>>,
}

impl Tools {
    /// Those of the network namespace of the thread that calls this. They wait so many seconds for the xtables lock, and
    /// count what they write.
    ///
    /// # Errors
    /// The kernel's sets cannot be reached.
    pub fn open(lock_seconds: u64, writes: Writes) -> Result<Self> {
        Ok(Self {
            prefix: Vec::new(),
            tie: Vec::new(),
            lock_seconds,
            writes,
            sets: Arc::new(Mutex::new(Sets::open()?)),
        })
    }

    /// The same, with iptables started by a command that runs its arguments.
    #[must_use]
    pub fn started_by(self, prefix: &[&str]) -> Self {
        Self {
            prefix: prefix.iter().map(|word| (*word).to_owned()).collect(),
            ..self
        }
    }

    /// The same, where what writes ends with this process: see [`tied`](super::tied).
    #[must_use]
    pub fn tied(self) -> Self {
        Self {
            tie: tied::to_this_process(),
            ..self
        }
    }

    /// The kernel's sets, to be read.
    pub fn sets(&self) -> MutexGuard<'_, Sets> {
        // Whoever panicked with it left a socket, which is as good as before.
        self.sets.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes changes of sets, one after the other. What is there already, or gone already, is no error.
    ///
    /// # Errors
    /// The kernel refuses one; those before it have taken effect.
    pub fn change_sets(&self, changes: &[SetChange]) -> Result<()> {
        self.writes.count("ipset", None);
        self.sets().write(changes)
    }

    /// What iptables-save prints: the filter table, or every table that exists.
    ///
    /// # Errors
    /// It cannot be started, or fails, or cannot read the filter table.
    pub fn save(&self, variant: Variant, family: Family, filter: bool) -> Result<String> {
        let arguments: &[&str] = if filter { &["-t", "filter"] } else { &[] };
        let tool = program(variant, family, "save");
        let saved = self.run(&[], &tool, arguments, None)?;
        // It does not fail then, and prints none of the table's rules: taken for an empty table, ours would be written to it
        // again and again.
        if saved.lines().any(|line| line.starts_with(UNREADABLE)) {
            let table = match family {
                Family::V4 => "ip",
                Family::V6 => "ip6",
            };
            return Err(Error::TableUnreadable { tool, table });
        }
        Ok(saved)
    }

    /// Runs a script through iptables-restore: all of it or nothing.
    ///
    /// # Errors
    /// It cannot be started, fails, or does not get the lock.
    pub fn restore_chains(&self, variant: Variant, family: Family, script: &str) -> Result<()> {
        self.writes.count("iptables", Some(family));
        let wait = self.lock_seconds.to_string();
        let tool = program(variant, family, "restore");
        self.run(&self.tie, &tool, &["-w", &wait, "--noflush"], Some(script))
            .map(|_| ())
    }

    fn run(&self, tie: &[String], program: &str, arguments: &[&str], input: Option<&str>) -> Result<String> {
        let output = self
            .output(tie, program, arguments, input)
            .map_err(|source| Error::ToolMissing {
                tool: program.to_owned(),
                source,
            })?;
        if output.status.success() {
            return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
        }
        let message = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        if output.status.code() == Some(RESOURCE_PROBLEM) && message.contains("xtables lock") {
            return Err(Error::LockHeld {
                tool: program.to_owned(),
                seconds: self.lock_seconds,
            });
        }
        Err(Error::ToolFailed {
            tool: [&[program], arguments].concat().join(" "),
            status: output.status.to_string(),
            message: format!("{message}{}", culprit(&message, input)),
        })
    }

    fn output(
        &self,
        tie: &[String],
        program: &str,
        arguments: &[&str],
        input: Option<&str>,
    ) -> std::io::Result<Output> {
        let before = self.prefix.iter().chain(tie).map(String::as_str);
        let words: Vec<&str> = before.chain([program]).collect();
        let mut command = Command::new(words[0]);
        command
            .args(&words[1..])
            .args(arguments)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command.stdin(if input.is_some() {
            Stdio::piped()
        } else {
            Stdio::null()
        });
        let mut child = command.spawn()?;
        if let (Some(mut stdin), Some(input)) = (child.stdin.take(), input) {
            // These tools read everything before they print, so this cannot block for ever. A tool that fails at once
            // closes the pipe; what it says is worth more than the pipe's error.
            let _ = stdin.write_all(input.as_bytes());
        }
        child.wait_with_output()
    }
}

fn program(variant: Variant, family: Family, action: &str) -> String {
    let tables = match family {
        Family::V4 => "iptables",
        Family::V6 => "ip6tables",
    };
    format!("{tables}-{variant}-{action}")
}

/// The line of the script that a message like "Error in line 3" means.
fn culprit(message: &str, input: Option<&str>) -> String {
    let number = message
        .split("line ")
        .nth(1)
        .map(|rest| rest.trim_start_matches(|c: char| !c.is_ascii_digit()));
    let number = number.and_then(|rest| {
        rest.split(|c: char| !c.is_ascii_digit())
            .next()?
            .parse::<usize>()
            .ok()
    });
    let line = number.and_then(|number| input?.lines().nth(number.checked_sub(1)?));
    line.map_or_else(String::new, |line| format!(" [{line}]"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_line_that_a_tool_objects_to_is_shown() {
        let script = "*filter\n-A X -j Y\n";
        assert_eq!(
            culprit("iptables-restore v1.8.9: Error in line 2: syntax", Some(script)),
            " [-A X -j Y]"
        );
        assert_eq!(
            culprit("iptables-restore: line 1 failed", Some(script)),
            " [*filter]"
        );
        assert_eq!(culprit("out of memory", Some(script)), "");
    }

    #[test]
    fn a_missing_tool_is_named() {
        let tools = Tools::open(1, Writes::default())
            .unwrap()
            .started_by(&["/nonexistent/nsenter"]);
        let error = tools.save(Variant::Nft, Family::V4, true).unwrap_err();
        assert_eq!(error.name(), "ToolMissing");
        assert!(error.to_string().contains("iptables-nft-save"), "{error}");
    }
}
