//! What the process costs, read from `/proc/self` at every scrape, under the names every Prometheus client uses.

use std::fmt;
use std::fs;

use nix::unistd::{SysconfVar, sysconf};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;

/// Reads `/proc` when scraped. What cannot be read is left out: a wrong zero would be worse than no line.
#[derive(Debug)]
pub(crate) struct ProcessCollector;

/// Part of what `/proc/<pid>/stat` holds.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Stat {
    /// User and system time, in clock ticks.
    cpu: u64,
    threads: u64,
    /// Clock ticks between boot and start.
    start: u64,
}

impl Stat {
    /// The second field is the command in parentheses and may itself hold spaces and parentheses, so fields are
    /// counted from the last closing one: proc(5) numbers the state, which follows it, as field 3.
    fn parse(text: &str) -> Option<Self> {
        let fields: Vec<&str> = text.rsplit_once(')')?.1.split_whitespace().collect();
        let field = |number: usize| fields.get(number - 3)?.parse::<u64>().ok();
        Some(Self {
            cpu: field(14)? + field(15)?,
            threads: field(20)?,
            start: field(22)?,
        })
    }
}

/// A line `key value …` of a `/proc` file.
fn value(text: &str, key: &str) -> Option<u64> {
    text.lines()
        .find_map(|line| line.strip_prefix(key)?.split_whitespace().next()?.parse().ok())
}

fn ticks_per_second() -> Option<f64> {
    sysconf(SysconfVar::CLK_TCK)
        .ok()
        .flatten()
        .map(|ticks| ticks as f64)
}

fn gauge(encoder: &mut DescriptorEncoder, name: &str, help: &str, value: f64) -> fmt::Result {
    let gauge = ConstGauge::new(value);
    gauge.encode(encoder.encode_descriptor(name, help, None, gauge.metric_type())?)
}

impl Collector for ProcessCollector {
    fn encode(&self, mut encoder: DescriptorEncoder) -> fmt::Result {
        let encoder = &mut encoder;
        let stat = fs::read_to_string("/proc/self/stat")
            .ok()
            .and_then(|text| Stat::parse(&text));
        let boot = fs::read_to_string("/proc/stat")
            .ok()
            .and_then(|text| value(&text, "btime"));
        if let (Some(stat), Some(ticks)) = (stat, ticks_per_second()) {
            let cpu = ConstCounter::new(stat.cpu as f64 / ticks);
            let help = "User and system time spent, in seconds";
            cpu.encode(encoder.encode_descriptor("process_cpu_seconds", help, None, cpu.metric_type())?)?;
            gauge(
                encoder,
                "process_threads",
                "Threads of the process",
                stat.threads as f64,
            )?;
            if let Some(boot) = boot {
                let start = boot as f64 + stat.start as f64 / ticks;
                gauge(
                    encoder,
                    "process_start_time_seconds",
                    "When the process started, in Unix time",
                    start,
                )?;
            }
        }
        let status = fs::read_to_string("/proc/self/status").ok();
        if let Some(kilobytes) = status.and_then(|text| value(&text, "VmRSS:")) {
            let help = "Resident memory, in bytes";
            gauge(
                encoder,
                "process_resident_memory_bytes",
                help,
                kilobytes as f64 * 1024.0,
            )?;
        }
        if let Ok(entries) = fs::read_dir("/proc/self/fd") {
            // One of them is the directory being read.
            let open = entries.count().saturating_sub(1);
            gauge(encoder, "process_open_fds", "Open file descriptors", open as f64)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_with_spaces_and_parentheses_does_not_shift_the_fields() {
        let text = "42 (a) b (c)) S 1 42 42 0 -1 4194560 1 0 0 0 150 50 0 0 20 0 7 0 12345 1 1";
        assert_eq!(
            Stat::parse(text),
            Some(Stat {
                cpu: 200,
                threads: 7,
                start: 12345
            })
        );
        assert_eq!(Stat::parse("42 (a) S 1"), None);
    }

    #[test]
    fn values_are_found_by_their_key() {
        let text = "Name:\ta\nVmHWM:\t 9 kB\nVmRSS:\t   5120 kB\n";
        assert_eq!(value(text, "VmRSS:"), Some(5120));
        assert_eq!(value(text, "VmSwap:"), None);
    }
}
