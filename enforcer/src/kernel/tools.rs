//! Runs ipset, iptables-save and iptables-restore.

use std::io::Write as _;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use super::Variant;
use crate::error::{Error, Result};
use crate::metrics::Writes;
use crate::ruleset::Family;

/// What iptables exits with when it did not get the lock.
const RESOURCE_PROBLEM: i32 = 4;

/// What ipset says of a set that a rule still refers to, and how long to wait for it to be let go.
const IN_USE: &str = "in use by a kernel component";
const DESTROY_ATTEMPTS: usize = 6;
const DESTROY_PAUSE: Duration = Duration::from_millis(50);

/// How the tools are started.
#[derive(Debug, Clone)]
pub struct Tools {
    /// What stands before each command: nothing, or for instance `nsenter` with a namespace.
    prefix: Vec<String>,
    /// How long iptables waits for other programs that hold its lock.
    lock_seconds: u64,
    writes: Writes,
}

impl Tools {
    /// Tools that wait so many seconds for the xtables lock, and count what they write.
    pub fn new(lock_seconds: u64, writes: Writes) -> Self {
        Self {
            prefix: Vec::new(),
            lock_seconds,
            writes,
        }
    }

    /// The same tools, started by a command that runs its arguments.
    #[must_use]
    pub fn started_by(self, prefix: &[&str]) -> Self {
        Self {
            prefix: prefix.iter().map(|word| (*word).to_owned()).collect(),
            ..self
        }
    }

    /// What ipset prints.
    ///
    /// # Errors
    /// It cannot be started, or fails.
    pub fn ipset(&self, arguments: &[&str]) -> Result<String> {
        self.run("ipset", arguments, None)
    }

    /// What iptables-save prints: the filter table, or every table that exists.
    ///
    /// # Errors
    /// It cannot be started, or fails.
    pub fn save(&self, variant: Variant, family: Family, filter: bool) -> Result<String> {
        let arguments: &[&str] = if filter { &["-t", "filter"] } else { &[] };
        self.run(&program(variant, family, "save"), arguments, None)
    }

    /// Runs the lines of a script through ipset. What is there already, or gone already, is no error.
    ///
    /// # Errors
    /// It cannot be started, or fails; the lines before the one that failed have taken effect.
    pub fn restore_sets(&self, script: &str) -> Result<()> {
        self.writes.count("ipset", None);
        for _ in 1..DESTROY_ATTEMPTS {
            match self.run("ipset", &["-exist", "restore"], Some(script)) {
                // nftables lets go of a set a moment after the rule that used it is gone. Lines that took effect may be
                // run again.
                Err(Error::ToolFailed { message, .. }) if message.contains(IN_USE) => {
                    std::thread::sleep(DESTROY_PAUSE);
                }
                result => return result.map(|_| ()),
            }
        }
        self.run("ipset", &["-exist", "restore"], Some(script))
            .map(|_| ())
    }

    /// Runs a script through iptables-restore: all of it or nothing.
    ///
    /// # Errors
    /// It cannot be started, fails, or does not get the lock.
    pub fn restore_chains(&self, variant: Variant, family: Family, script: &str) -> Result<()> {
        self.writes.count("iptables", Some(family));
        let wait = self.lock_seconds.to_string();
        let tool = program(variant, family, "restore");
        self.run(&tool, &["-w", &wait, "--noflush"], Some(script))
            .map(|_| ())
    }

    fn run(&self, program: &str, arguments: &[&str], input: Option<&str>) -> Result<String> {
        let output = self
            .output(program, arguments, input)
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

    fn output(&self, program: &str, arguments: &[&str], input: Option<&str>) -> std::io::Result<Output> {
        let words: Vec<&str> = self.prefix.iter().map(String::as_str).chain([program]).collect();
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
        let script = "create a hash:ip\nadd a b\n";
        assert_eq!(
            culprit("ipset v7.17: Error in line 2: syntax", Some(script)),
            " [add a b]"
        );
        assert_eq!(
            culprit("iptables-restore: line 1 failed", Some(script)),
            " [create a hash:ip]"
        );
        assert_eq!(culprit("out of memory", Some(script)), "");
    }

    #[test]
    fn a_missing_tool_is_named() {
        let tools = Tools::new(1, Writes::default()).started_by(&["/nonexistent/nsenter"]);
        let error = tools.ipset(&["save"]).unwrap_err();
        assert_eq!(error.name(), "ToolMissing");
        assert!(error.to_string().contains("ipset"), "{error}");
    }
}
