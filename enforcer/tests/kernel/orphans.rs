//! What a killed enforcer has started ends with it, and writes nothing any more.

use std::fs;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use ringfence_enforcer::kernel::Variant;
use ringfence_policy::{Policy, Protocol};

use super::net::Namespace;
use super::world::{peers, policy, ports, rule, ruleset, world};

/// How long what is started waits for the lock: whatever is gone well before did not wait for it.
const LOCK: &str = "60";
const PATIENCE: Duration = Duration::from_secs(15);

fn web() -> Policy {
    let rule = rule(vec![peers(&[1])], vec![ports(Protocol::Tcp, 80, 80)]);
    policy("web", &[0], Some(vec![rule]), None)
}

/// The processes of a program in this namespace.
fn running(namespace: &Namespace, program: &str) -> Vec<u32> {
    let lock = format!("XTABLES_LOCKFILE={}", namespace.lock_file());
    let processes = fs::read_dir("/proc").expect("processes").flatten();
    let numbers = processes.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    numbers
        .filter(|number: &u32| {
            let read = |what| fs::read(format!("/proc/{number}/{what}")).unwrap_or_default();
            let words = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
            let command = words(read("cmdline"));
            command
                .split('\0')
                .next()
                .is_some_and(|first| first.ends_with(program))
                && words(read("environ"))
                    .split('\0')
                    .any(|variable| variable == lock)
        })
        .collect()
}

fn until(what: &str, condition: impl Fn() -> bool) {
    let started = Instant::now();
    while !condition() {
        assert!(started.elapsed() < PATIENCE, "waiting for {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Starts the enforcer's program so that it removes its rules.
fn clean_up(namespace: &Namespace) -> Child {
    let prefix = namespace.prefix();
    Command::new(&prefix[0])
        .args(&prefix[1..])
        .arg(env!("CARGO_BIN_EXE_ringfence-enforcer"))
        .args(["cleanup", "--lock-timeout", LOCK])
        // There is no CNI plugin to remove in these.
        .args(["--cni-conf-dir", "/nonexistent", "--cni-bin-dir", "/nonexistent"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("the program starts")
}

#[test]
fn what_waits_for_the_lock_ends_with_the_enforcer_that_started_it() {
    let namespace = Namespace::new();
    let (mut engine, _) = namespace.engine(Variant::Legacy);
    let wanted = ruleset(&world(2, vec![web()]));
    engine.sync(&wanted).expect("the kernel takes the rules");
    let before = namespace.saved();
    let held = namespace.hold_lock();

    let mut enforcer = clean_up(&namespace);
    let restore = "iptables-legacy-restore";
    until("the program that writes", || {
        !running(&namespace, restore).is_empty()
    });
    enforcer.kill().expect("it runs");
    enforcer.wait().expect("it ends");
    until("its end", || running(&namespace, restore).is_empty());

    drop(held);
    assert_eq!(namespace.saved(), before, "somebody wrote after all");
}

/// The same program, without anybody in its way.
#[test]
fn what_ends_with_the_enforcer_does_its_work_while_that_lives() {
    for variant in Variant::ALL {
        let namespace = Namespace::new();
        let (mut engine, _) = namespace.engine(variant);
        let wanted = ruleset(&world(2, vec![web()]));
        engine.sync(&wanted).expect("the kernel takes the rules");
        let status = clean_up(&namespace).wait().expect("it ends");
        assert!(status.success(), "{variant}: {status}");
        assert!(
            !namespace.saved().contains("RINGF-"),
            "{variant}: {}",
            namespace.saved()
        );
    }
}
