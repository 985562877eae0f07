//! The wall clock jumps: the enforcer goes on as if nothing had happened.
//!
//! Only the enforcer's clock does, by a library that answers for it when it asks the time. What is monotonic stays so, as
//! it does when somebody sets a machine's clock.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};
use fastrand::Rng;
use ringfence_enforcer::kernel::Variant;

use crate::beacon;
use crate::judge::{History, Report};
use crate::lab::{HTTP_PORT, Lab};
use crate::probes::{Receivers, Senders};
use crate::random;

const LIBRARY: &str = "faketime/libfaketimeMT.so.1";
/// Far more than any lease, timeout or retry lasts. Never before the moment that the API server's certificate begins.
const JUMPS: [(&str, i64); 3] = [("+1d", 86_400), ("+0", 0), ("+30d", 30 * 86_400)];
/// How many changes follow each jump.
const CHANGES: usize = 10;

#[test]
fn a_clock_that_jumps_delays_nothing_opens_nothing_and_closes_nothing() {
    let clock = tempfile::NamedTempFile::new().expect("a file");
    let lab = lab(clock.path()).expect("a laboratory");
    let seed = fastrand::u64(..);
    let report = jumps(&lab, clock.path(), seed)
        .unwrap_or_else(|error| panic!("seed {seed}: {error:#}\n{}", lab.log()));
    println!("seed {seed}: {report}");
    assert!(
        report.is_clean(),
        "seed {seed}: {report}\n{}",
        report.examples.join("\n")
    );
    lab.finish().expect("a clean end");
}

fn lab(clock: &Path) -> Result<Lab> {
    set(clock, "+0")?;
    let folders = std::fs::read_dir("/usr/lib").context("look for the library that answers for the clock")?;
    let library = folders
        .filter_map(|folder| Some(folder.ok()?.path().join(LIBRARY)))
        .find(|path| path.exists())
        .context("libfaketime is not installed: apt-get install libfaketime")?;
    Lab::start_with(
        Variant::Nft,
        vec![
            ("LD_PRELOAD".to_owned(), library.display().to_string()),
            ("FAKETIME_TIMESTAMP_FILE".to_owned(), clock.display().to_string()),
            ("FAKETIME_NO_CACHE".to_owned(), "1".to_owned()),
            ("FAKETIME_DONT_FAKE_MONOTONIC".to_owned(), "1".to_owned()),
        ],
    )
}

fn set(clock: &Path, to: &str) -> Result<()> {
    std::fs::write(clock, to).context("set the clock")
}

fn jumps(lab: &Lab, clock: &Path, seed: u64) -> Result<Report> {
    let mut random = Rng::with_seed(seed);
    let receivers = Receivers::start(lab)?;
    beacon::settle(lab)?;
    let mut world = lab.world()?;
    let mut history = History::new(&world);
    let senders = Senders::start(lab);
    for (jump, seconds) in JUMPS {
        set(clock, jump)?;
        for _ in 0..CHANGES {
            let change = random::change(&mut random);
            for state in change.states(&world) {
                history.may_become(&state, format!("{change:?}"));
            }
            lab.make(&change, &mut world)?;
        }
        beacon::settle(lab)?;
        history.has_settled();
        let off = last_sync(lab)? - now() - seconds;
        ensure!(
            off.abs() < 600,
            "the enforcer's clock was to be {jump} and is off by {off} s"
        );
        std::thread::sleep(Duration::from_millis(500));
    }
    let sent = senders.finish(&receivers)?;
    Ok(Report {
        changes: JUMPS.len() * CHANGES,
        ..Report::of(&history, &sent, &[])
    })
}

/// When the enforcer says that it last brought the kernel to what the policies say, by its clock.
fn last_sync(lab: &Lab) -> Result<i64> {
    let metrics = lab.net.router.inside(|| {
        let mut stream = TcpStream::connect(("127.0.0.1", HTTP_PORT))?;
        stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: enforcer\r\nConnection: close\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        std::io::Result::Ok(answer)
    })??;
    let mut values = metrics
        .lines()
        .filter_map(|line| line.strip_prefix("ringfence_enforcer_last_sync_timestamp_seconds "));
    let value = values.next().context("no time of the last sync")?;
    Ok(value.trim().parse()?)
}

fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}
