//! What a process costs.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result};
use nix::unistd::{SysconfVar, sysconf};

/// The processor time that a process has used, with the processes that it started and waited for.
pub(crate) fn cpu_of(pid: i32) -> Result<Duration> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).context("read the time of a process")?;
    let fields = stat.rsplit_once(')').map_or("", |(_, fields)| fields);
    // utime, stime, cutime, cstime
    let ticks: u64 = fields
        .split_ascii_whitespace()
        .skip(11)
        .take(4)
        .filter_map(|ticks| ticks.parse::<u64>().ok())
        .sum();
    let per_second = sysconf(SysconfVar::CLK_TCK)?.context("no clock ticks")?;
    Ok(Duration::from_millis(ticks * 1000 / u64::try_from(per_second)?))
}

/// The most that a process has held in memory, in MB.
pub(crate) fn memory_of(pid: i32) -> Result<f64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).context("read the memory of a process")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kilobytes = line.and_then(|line| line.trim().strip_suffix(" kB")?.trim().parse::<f64>().ok());
    kilobytes.map(|kb| kb / 1000.0).context("no memory figure")
}
