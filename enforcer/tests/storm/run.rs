//! A storm from its beginning to its end.

use std::env;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use fastrand::Rng;
use ringfence_policy::World;

use crate::beacon;
use crate::judge::{History, Report};
use crate::lab::Lab;
use crate::probes::{Receivers, Senders};
use crate::random;

/// The most changes in a burst.
const BURST: usize = 5;

/// How much of a storm.
pub(crate) struct Plan {
    pub(crate) changes: usize,
    pub(crate) runs: usize,
    pub(crate) seed: Option<u64>,
}

impl Plan {
    pub(crate) fn from_env() -> Self {
        let number = |name: &str| {
            let name = format!("RINGFENCE_STORM_{name}");
            let text = env::var(&name).ok()?;
            Some(
                text.parse::<u64>()
                    .unwrap_or_else(|_| panic!("{name}={text}: give a whole number")),
            )
        };
        let long = env::var_os("RINGFENCE_LONG").is_some();
        let (changes, runs) = if long { (1_000, 10) } else { (100, 1) };
        let size = |name, default| {
            number(name)
                .and_then(|it| usize::try_from(it).ok())
                .unwrap_or(default)
        };
        Self {
            changes: size("CHANGES", changes),
            runs: size("RUNS", runs),
            seed: number("SEED"),
        }
    }
}

/// Makes so many random changes, kills the enforcer now and then, and judges what passed meanwhile.
pub(crate) fn storm(lab: &Lab, changes: usize, seed: u64) -> Result<Report> {
    let mut random = Rng::with_seed(seed);
    // Flows of one packet are soon forgotten: none is taken for an old one.
    lab.net
        .router
        .sysctl("net.netfilter.nf_conntrack_udp_timeout", "2")?;
    let receivers = Receivers::start(lab)?;
    beacon::settle(lab)?;
    let mut world = lab.world()?;
    let mut history = History::new(&world);
    let senders = Senders::start(lab);
    let (over, kills, calm) = (AtomicBool::new(false), Mutex::new(Vec::new()), Mutex::new(()));
    let mut killer = random.fork();
    let done = thread::scope(|scope| {
        let killing = scope.spawn(|| kill_now_and_then(lab, &mut killer, &over, (&kills, &calm)));
        let done = change(lab, changes, &mut random, (&mut world, &mut history), &calm);
        over.store(true, Ordering::Relaxed);
        killing
            .join()
            .map_err(|_| anyhow::anyhow!("the killer failed"))??;
        done
    });
    let sent = senders.finish(&receivers)?;
    let kills = kills
        .into_inner()
        .map_err(|_| anyhow::anyhow!("the storm failed"))?;
    Ok(Report {
        changes: done.with_context(|| lab.log())?,
        ..Report::of(&history, &sent, &kills)
    })
}

fn change(
    lab: &Lab,
    changes: usize,
    random: &mut Rng,
    (world, history): (&mut World, &mut History),
    calm: &Mutex<()>,
) -> Result<usize> {
    let mut done = 0;
    while done < changes {
        for _ in 0..random.usize(1..=BURST) {
            let change = random::change(random);
            // In force at the earliest when the API server knows of it, which is before it answers.
            for state in change.states(world) {
                history.may_become(&state, format!("{change:?}"));
            }
            lab.make(&change, world).with_context(|| format!("{change:?}"))?;
            ensure!(
                history.expects(world),
                "{change:?} made something else of the world than was expected"
            );
            done += 1;
        }
        // Time to be killed in the middle of it.
        thread::sleep(Duration::from_millis(random.u64(0..200)));
        let calm = calm.lock().map_err(|_| anyhow::anyhow!("the killer failed"))?;
        beacon::settle(lab)?;
        history.has_settled();
        drop(calm);
        // A moment in which only one state is right, longer than a packet can be on its way.
        thread::sleep(Duration::from_millis(300));
    }
    Ok(done)
}

/// While somebody else holds `calm` nothing is killed.
fn kill_now_and_then(
    lab: &Lab,
    random: &mut Rng,
    over: &AtomicBool,
    (kills, calm): (&Mutex<Vec<Instant>>, &Mutex<()>),
) -> Result<()> {
    while !over.load(Ordering::Relaxed) {
        // From the middle of its start to long after it.
        let mut left = random.u64(20..1_500);
        while left > 0 && !over.load(Ordering::Relaxed) {
            let step = left.min(20);
            thread::sleep(Duration::from_millis(step));
            left -= step;
        }
        let _calm = calm.lock().map_err(|_| anyhow::anyhow!("the storm failed"))?;
        lab.kill()?;
        let mut kills = kills.lock().map_err(|_| anyhow::anyhow!("the storm failed"))?;
        kills.push(Instant::now());
    }
    Ok(())
}
