//! The comparison with the mark: there while a connection is revoked, and only then.

use ringfence_enforcer::cluster::{Object, Update};
use ringfence_enforcer::kernel::Variant;

use super::causes::relabelled;
use super::{Scene, assert_over, assert_unharmed, compares, lets_in, tell, upsert};

/// Forbids conversations and allows them again. Returns whether packets are compared at first and then.
async fn revoked_and_restored(variant: Variant) -> [bool; 2] {
    let scene = Scene::new(variant, 5, vec![lets_in(&[2])]).await;
    let mut talks = scene.talks(2, 0);
    let compares = || compares(&scene.lab.router, variant);
    let first = compares();
    tell(&scene.agent, upsert([lets_in(&[4])])).await;
    let then = compares();
    assert_over(&mut talks, "the policy names another client");
    tell(&scene.agent, upsert([lets_in(&[2])])).await;
    let (counters, marks) = (&scene.agent.counters, scene.agent.counters.revoked());
    scene
        .agent
        .until("no mark", || counters.restored() == marks)
        .await;
    scene.agent.until("no comparison again", || !compares()).await;
    let audits = || scene.agent.counters.last_sync.get();
    let before = audits();
    scene.agent.until("an audit", || audits() > before + 1).await;
    assert_eq!(scene.agent.counters.repairs.get(), 0, "what is held is known");
    scene.agent.stop().await;
    [first, then]
}

#[tokio::test(flavor = "multi_thread")]
async fn packets_of_known_connections_are_compared_only_while_one_is_revoked_in_nft() {
    assert_eq!(revoked_and_restored(Variant::Nft).await, [false, true]);
}

#[tokio::test(flavor = "multi_thread")]
async fn packets_of_known_connections_are_compared_only_while_one_is_revoked_in_legacy() {
    assert_eq!(revoked_and_restored(Variant::Legacy).await, [false, true]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lock_that_holds_the_comparison_up_is_told_and_what_is_revoked_ends_after_it() {
    let scene = Scene::new(Variant::Legacy, 5, vec![lets_in(&[2, 4])]).await;
    let (mut forbidden, allowed) = (scene.talks(2, 0), scene.talks(4, 0));
    let (held, agent) = (scene.lab.router.hold_lock(), &scene.agent);
    // That takes sets only, and those have no lock.
    agent.tell([Update::Upsert(Object::Pod(relabelled(2, "other")))]);
    agent.until("not ready", || !agent.is_ready()).await;
    assert!(
        agent.readiness().contains("xtables lock"),
        "{}",
        agent.readiness()
    );
    assert_eq!(agent.counters.revoked(), forbidden.len() as u64);
    assert_eq!(agent.counters.walk_due.get(), 1, "what is revoked goes on");
    drop(held);
    agent.until_ready().await;
    agent
        .until("a look at all", || agent.counters.walk_due.get() == 0)
        .await;
    assert_over(
        &mut forbidden,
        "the client is no longer one that the policy names",
    );
    assert_unharmed(&allowed, "the client is one that the policy names");
    scene.agent.stop().await;
}
