//! Long-lived processes: started, written down, recognised again, stopped.
//!
//! A process is a pid *and* its start time: a pid alone may long belong to somebody else.

use std::fs::{self, File, OpenOptions};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};

use super::command::line;
use super::wait;

/// The environment variable every process of a testbed carries; its value is the state folder. It finds a process that
/// was started but not yet written down.
pub(crate) const MARK: &str = "RINGFENCE_TESTBED";

/// One process, beyond doubt.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(crate) struct Process {
    pub(crate) pid: i32,
    /// Field 22 of /proc/PID/stat, in clock ticks since boot.
    pub(crate) start_time: u64,
}

/// A process with the name it was recorded under.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Record {
    pub(crate) name: String,
    #[serde(flatten)]
    pub(crate) process: Process,
}

/// What /proc/PID/stat says that matters here.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Stat {
    pub(crate) state: char,
    pub(crate) parent: i32,
    pub(crate) start_time: u64,
}

/// Reads a line of /proc/PID/stat. The command's name, in parentheses, may itself hold spaces and parentheses.
pub(crate) fn parse_stat(text: &str) -> Option<Stat> {
    let (_, rest) = text.rsplit_once(')')?;
    let fields: Vec<&str> = rest.split_whitespace().collect();
    Some(Stat {
        state: fields.first()?.chars().next()?,
        parent: fields.get(1)?.parse().ok()?,
        start_time: fields.get(19)?.parse().ok()?,
    })
}

pub(crate) fn stat(pid: i32) -> Option<Stat> {
    parse_stat(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

impl Process {
    /// The process that has this pid now.
    pub(crate) fn of(pid: i32) -> Option<Self> {
        stat(pid).map(|stat| Self {
            pid,
            start_time: stat.start_time,
        })
    }

    /// Whether it still runs. A zombie does not.
    pub(crate) fn alive(&self) -> bool {
        // Reaps it in case it is this process's own child; any other answer does not matter here.
        let _ = waitpid(Pid::from_raw(self.pid), Some(WaitPidFlag::WNOHANG));
        stat(self.pid)
            .is_some_and(|stat| stat.start_time == self.start_time && !matches!(stat.state, 'Z' | 'X'))
    }

    /// Sends a signal; a process that is gone is fine.
    pub(crate) fn signal(&self, signal: Signal) -> Result<()> {
        if !self.alive() {
            return Ok(());
        }
        match kill(Pid::from_raw(self.pid), signal) {
            Ok(()) | Err(Errno::ESRCH) => Ok(()),
            Err(error) => Err(error).with_context(|| format!("send {signal} to process {}", self.pid)),
        }
    }
}

/// Starts `command` in the background and writes it down under `name` in `records`; its output goes to
/// `logs/NAME.log`. It outlives this process and does not get its Ctrl-C.
pub(crate) fn spawn(home: &Home, name: &str, mut command: Command) -> Result<Process> {
    let log = home.log(name);
    let out = open_log(&log)?;
    let err = out
        .try_clone()
        .with_context(|| format!("duplicate {}", log.display()))?;
    command
        .stdin(Stdio::null())
        .stdout(out)
        .stderr(err)
        .env(MARK, &home.mark)
        .process_group(0);
    let child = command
        .spawn()
        .with_context(|| format!("start `{}`", line(&command)))?;
    let pid = i32::try_from(child.id()).context("a pid beyond i32")?;
    let Some(process) = Process::of(pid) else {
        bail!("{name} (process {pid}) vanished at once; see {}", log.display());
    };
    let record = Record {
        name: name.to_owned(),
        process: process.clone(),
    };
    write_record(&home.records, &record)?;
    Ok(process)
}

/// Where a group of processes keeps its records and logs, and how its members are marked.
#[derive(Debug, Clone)]
pub(crate) struct Home {
    pub(crate) records: PathBuf,
    pub(crate) logs: PathBuf,
    pub(crate) mark: PathBuf,
}

impl Home {
    pub(crate) fn log(&self, name: &str) -> PathBuf {
        self.logs.join(format!("{name}.log"))
    }

    /// Kills every process that is recorded, for those who go themselves: nobody is there to hear of a failure, and the next
    /// start sweeps up.
    pub(crate) fn kill_all(&self) {
        let all = records(&self.records);
        for record in &all {
            let _ = record.process.signal(Signal::SIGKILL);
        }
        for record in &all {
            let _ = stop(&record.process, Duration::from_secs(5));
        }
    }
}

fn open_log(path: &Path) -> Result<File> {
    OpenOptions::new()
        .create(true)
        .append(true)
        .open(path)
        .with_context(|| format!("open log {}", path.display()))
}

/// Writes by rename, so that a reader never sees half a record.
fn write_record(dir: &Path, record: &Record) -> Result<()> {
    let path = dir.join(&record.name);
    let draft = dir.join(format!(".{}", record.name));
    fs::write(&draft, serde_json::to_vec(record)?)
        .and_then(|()| fs::rename(&draft, &path))
        .with_context(|| format!("write process record {}", path.display()))
}

/// Every record of the folder, sorted by name; unreadable ones are skipped, for half-written state is what a dead
/// predecessor leaves, and the other traces find those processes.
pub(crate) fn records(dir: &Path) -> Vec<Record> {
    let Ok(entries) = fs::read_dir(dir) else {
        return Vec::new();
    };
    let mut all: Vec<Record> = entries
        .filter_map(|entry| serde_json::from_slice(&fs::read(entry.ok()?.path()).ok()?).ok())
        .collect();
    all.sort_by(|a, b| a.name.cmp(&b.name));
    all
}

/// Asks the process to end, and ends it after `grace`.
pub(crate) fn stop(process: &Process, grace: Duration) -> Result<()> {
    process.signal(Signal::SIGTERM)?;
    let gone = || Ok((!process.alive()).then_some(()));
    let pause = Duration::from_millis(20);
    if wait::until("process to end", grace, pause, gone).is_ok() {
        return Ok(());
    }
    process.signal(Signal::SIGKILL)?;
    wait::until(
        &format!("killed process {} to end", process.pid),
        Duration::from_secs(10),
        pause,
        gone,
    )
}

/// An error that explains why `name` died: the end of its log.
pub(crate) fn post_mortem(home: &Home, name: &str) -> anyhow::Error {
    let path = home.log(name);
    let text = fs::read_to_string(&path).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    let tail = lines[lines.len().saturating_sub(15)..].join("\n");
    anyhow::anyhow!("{name} stopped. The end of {}:\n{tail}", path.display())
}

/// The record called `name`.
pub(crate) fn find(dir: &Path, name: &str) -> Option<Record> {
    records(dir).into_iter().find(|record| record.name == name)
}

/// An error with the end of its log unless the process recorded as `name` runs.
pub(crate) fn still_running(home: &Home, name: &str) -> Result<()> {
    match find(&home.records, name) {
        Some(record) if record.process.alive() => Ok(()),
        _ => Err(post_mortem(home, name)),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_command_name_with_parentheses_does_not_shift_the_fields() {
        let text = "42 (a) b) S 7 42 42 0 -1 4194560 1 0 0 0 5 6 0 0 20 0 1 0 987654 1 2 3";
        assert_eq!(
            parse_stat(text),
            Some(Stat {
                state: 'S',
                parent: 7,
                start_time: 987_654
            })
        );
    }

    #[test]
    fn a_reused_pid_is_another_process() {
        let me = Process::of(i32::try_from(std::process::id()).unwrap()).unwrap();
        assert!(me.alive());
        assert!(
            !Process {
                start_time: me.start_time + 1,
                ..me
            }
            .alive()
        );
    }

    #[test]
    fn a_spawned_process_is_recorded_and_stopped() {
        let dir = tempfile::tempdir().unwrap();
        let home = Home {
            records: dir.path().into(),
            logs: dir.path().into(),
            mark: dir.path().into(),
        };
        let mut command = Command::new("sleep");
        command.arg("600");
        let process = spawn(&home, "sleeper", command).unwrap();
        let found = records(dir.path());
        assert_eq!(found.iter().filter(|record| record.process == process).count(), 1);
        stop(&process, Duration::from_secs(5)).unwrap();
        assert!(!process.alive());
    }
}
