//! The API server away: the last state holds, also through a restart, and is caught up with.

use std::time::{Duration, Instant};

use anyhow::Result;
use fastrand::Rng;
use ringfence_enforcer::kernel::Variant;

use crate::beacon;
use crate::judge::{Allowed, History, Report};
use crate::lab::Lab;
use crate::probes::{Receivers, Senders};
use crate::random;

/// How long the API server is away.
fn length() -> Duration {
    Duration::from_secs(if std::env::var_os("RINGFENCE_LONG").is_some() {
        600
    } else {
        6
    })
}

#[test]
fn the_last_state_holds_while_the_api_server_is_away_and_is_caught_up_with() {
    let lab = Lab::start(Variant::Nft).expect("a laboratory");
    let seed = fastrand::u64(..);
    let report = outage(&lab, seed).unwrap_or_else(|error| panic!("seed {seed}: {error:#}\n{}", lab.log()));
    println!("seed {seed}: {report}");
    assert!(
        report.is_clean(),
        "seed {seed}: {report}\n{}",
        report.examples.join("\n")
    );
    lab.finish().expect("a clean end");
}

fn outage(lab: &Lab, seed: u64) -> Result<Report> {
    let mut random = Rng::with_seed(seed);
    let receivers = Receivers::start(lab)?;
    let mut world = lab.world()?;
    // Something to hold: not everything may pass, or nothing would show it.
    for number in 0.. {
        if number >= 20 && Allowed::of(&world).tells() {
            break;
        }
        lab.make(&random::change(&mut random), &mut world)?;
    }
    beacon::settle(lab)?;
    let mut history = History::new(&world);
    let senders = Senders::start(lab);
    lab.forwarder.cut();
    let began = Instant::now();
    let mut states = Vec::new();
    for _ in 0..20 {
        let change = random::change(&mut random);
        states.extend(change.states(&world));
        lab.make(&change, &mut world)?;
    }
    // A restart knows nothing, and so writes nothing.
    let killed = Instant::now();
    lab.kill()?;
    std::thread::sleep(length().saturating_sub(began.elapsed()));
    for state in states {
        history.may_become(&state, String::new());
    }
    lab.forwarder.mend();
    beacon::settle(lab)?;
    history.has_settled();
    std::thread::sleep(Duration::from_millis(200));
    let sent = senders.finish(&receivers)?;
    Ok(Report {
        changes: 40,
        ..Report::of(&history, &sent, &[killed])
    })
}
