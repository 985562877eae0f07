#![allow(clippy::unwrap_used)]
use ringfence_policy::{Isolation, LocalPod, NodePolicies, ObjectKey, Protocol};

use super::*;

const MS: Duration = Duration::from_millis(1);
const GUARDED: Duration = Duration::from_secs(60);

/// A judge that can be told from others by this number.
fn judge(number: u8) -> Arc<Judge> {
    let policies = NodePolicies { pods: [].into() };
    Arc::new(Judge::new(policies, vec![[0, 0, 0, number].into()], false))
}

/// An agenda that owes nothing, and its clock.
fn settled() -> (Agenda, Instant) {
    let start = Instant::now();
    let mut agenda = Agenda::new(start, Some(GUARDED));
    agenda.judge_by(judge(0), start);
    let now = start + ON_THE_WAY;
    assert!(matches!(agenda.next(now), Next::Look(Scope::All, _)));
    agenda.looked(false, now);
    let later = now + LOOK_AGAIN;
    assert!(matches!(agenda.next(later), Next::Look(Scope::All, _)));
    agenda.looked(false, later);
    assert!(agenda.is_settled());
    let unguarded = start + GUARDED;
    assert_eq!(waits_until(&agenda.next(later)), Some(unguarded));
    assert!(matches!(agenda.next(unguarded), Next::Look(Scope::All, _)));
    agenda.looked(false, unguarded);
    assert!(matches!(agenda.next(unguarded), Next::Wait(None)));
    (agenda, unguarded)
}

fn scope(next: &Next) -> Option<Scope> {
    match next {
        Next::Look(scope, _) => Some(*scope),
        Next::Wait(_) | Next::Stop => None,
    }
}

fn waits_until(next: &Next) -> Option<Instant> {
    match next {
        Next::Wait(until) => *until,
        Next::Look(..) | Next::Stop => None,
    }
}

#[test]
fn an_earlier_run_may_have_been_stopped_before_it_had_revoked_all() {
    let start = Instant::now();
    let mut agenda = Agenda::new(start, Some(GUARDED));
    assert!(
        matches!(agenda.next(start), Next::Wait(None)),
        "nobody knows the policies"
    );
    assert!(agenda.rules_changed(false), "even where the rules stand already");
    agenda.judge_by(judge(0), start);
    assert!(!agenda.is_settled());
    assert_eq!(scope(&agenda.next(start + ON_THE_WAY)), Some(Scope::All));
}

#[test]
fn what_tightens_is_looked_at_when_packets_under_way_have_arrived_and_once_more_later() {
    let (mut agenda, now) = settled();
    assert!(agenda.rules_changed(true));
    agenda.judge_by(judge(1), now);
    assert_eq!(waits_until(&agenda.next(now)), Some(now + ON_THE_WAY));
    assert_eq!(scope(&agenda.next(now + ON_THE_WAY)), Some(Scope::All));
    assert!(!agenda.is_settled(), "the look goes on");
    agenda.looked(false, now + ON_THE_WAY);
    assert!(agenda.is_settled());
    let later = waits_until(&agenda.next(now + ON_THE_WAY));
    assert_eq!(later, Some(now + ON_THE_WAY + LOOK_AGAIN));
}

#[test]
fn what_tightens_is_not_looked_at_with_the_policies_before_it() {
    let (mut agenda, now) = settled();
    assert!(agenda.rules_changed(true));
    assert!(!agenda.is_settled());
    assert!(
        matches!(agenda.next(now + LOOK_AGAIN), Next::Wait(None)),
        "the new ones are not told"
    );
    assert!(agenda.rules_changed(false), "nor forgotten by then");
    agenda.judge_by(judge(1), now);
    assert_eq!(scope(&agenda.next(now + ON_THE_WAY)), Some(Scope::All));
}

#[test]
fn a_change_that_tightens_nothing_is_none_where_nothing_is_revoked() {
    let (mut agenda, now) = settled();
    assert!(!agenda.rules_changed(false));
    assert!(matches!(agenda.next(now + LOOK_AGAIN), Next::Wait(None)));
}

#[test]
fn what_is_allowed_again_while_a_look_goes_on_is_not_left_revoked() {
    let (mut agenda, now) = settled();
    agenda.rules_changed(true);
    agenda.judge_by(judge(1), now);
    let began = now + ON_THE_WAY;
    assert_eq!(scope(&agenda.next(began)), Some(Scope::All));
    assert!(agenda.rules_changed(false), "the look has older policies in hand");
    agenda.judge_by(judge(2), began);
    agenda.looked(true, began + MS);
    let after = waits_until(&agenda.next(began + MS)).unwrap();
    assert_eq!(after, began + MS + MS * REST);
    let Next::Look(Scope::Revoked, by) = agenda.next(after) else {
        panic!("the revoked ones are looked at again")
    };
    assert_eq!(format!("{by:?}"), format!("{:?}", judge(2)));
    agenda.looked(false, after);
    assert_eq!(waits_until(&agenda.next(after + MS)), Some(began + LOOK_AGAIN));
}

#[test]
fn the_last_look_judges_by_the_newest_policies() {
    let (mut agenda, now) = settled();
    agenda.rules_changed(true);
    agenda.judge_by(judge(1), now);
    let began = now + ON_THE_WAY;
    agenda.next(began);
    agenda.looked(false, began);
    assert!(agenda.rules_changed(false), "a look with older policies is due");
    agenda.judge_by(judge(2), began);
    assert_eq!(
        waits_until(&agenda.next(began)),
        Some(began + LOOK_AGAIN),
        "nothing is revoked"
    );
    let Next::Look(Scope::All, by) = agenda.next(began + LOOK_AGAIN) else {
        panic!("the last look")
    };
    assert_eq!(format!("{by:?}"), format!("{:?}", judge(2)));
}

#[test]
fn a_storm_neither_puts_a_look_off_nor_lets_the_last_change_go_without() {
    let (mut agenda, start) = settled();
    agenda.compared(true);
    let (mut looks, mut now) = (0, start);
    for _ in 0..1000 {
        agenda.rules_changed(true);
        agenda.judge_by(judge(1), now);
        if scope(&agenda.next(now)).is_some() {
            looks += 1;
            now += MS;
            agenda.looked(true, now);
        }
        now += MS;
    }
    // A look of 1 ms, a rest of 3.
    assert!((100..=340).contains(&looks), "{looks}");
    assert!(!agenda.is_settled());
    let due = waits_until(&agenda.next(now)).unwrap();
    assert_eq!(scope(&agenda.next(due)), Some(Scope::All));
    agenda.looked(true, due);
    // The change just before that look began was too fresh for it, at most once.
    if let Some(Scope::All) = scope(&agenda.next(due + ON_THE_WAY)) {
        agenda.looked(true, due + ON_THE_WAY);
    }
    assert!(agenda.is_settled());
}

#[test]
fn a_long_look_does_not_make_the_next_wait_long() {
    let (mut agenda, now) = settled();
    agenda.rules_changed(true);
    agenda.judge_by(judge(1), now);
    assert_eq!(scope(&agenda.next(now + ON_THE_WAY)), Some(Scope::All));
    let end = now + Duration::from_secs(2);
    agenda.rules_changed(true);
    agenda.judge_by(judge(2), end);
    agenda.looked(false, end);
    assert_eq!(waits_until(&agenda.next(end)), Some(end + LONGEST_REST));
}

#[test]
fn a_look_that_fails_is_repeated_ever_more_slowly_until_it_succeeds() {
    let (mut agenda, now) = settled();
    agenda.rules_changed(true);
    agenda.judge_by(judge(1), now);
    let mut now = now + ON_THE_WAY;
    let mut pauses = Vec::new();
    for _ in 0..9 {
        assert_eq!(scope(&agenda.next(now)), Some(Scope::All));
        pauses.push(agenda.failed(now));
        assert!(!agenda.is_settled());
        now = waits_until(&agenda.next(now)).unwrap();
    }
    assert_eq!(
        (pauses[0], pauses[1], pauses[8]),
        (FIRST_RETRY, FIRST_RETRY * 2, LONGEST_RETRY)
    );
    assert_eq!(scope(&agenda.next(now)), Some(Scope::All));
    agenda.looked(false, now);
    assert!(agenda.is_settled());
}

#[test]
fn a_failed_look_at_the_revoked_ones_is_repeated() {
    let (mut agenda, now) = settled();
    agenda.revoked = true;
    agenda.rules_changed(false);
    agenda.judge_by(judge(1), now);
    assert_eq!(scope(&agenda.next(now)), Some(Scope::Revoked));
    let again = now + agenda.failed(now);
    assert_eq!(scope(&agenda.next(again)), Some(Scope::Revoked));
}

#[test]
fn nothing_is_looked_at_after_the_end() {
    let (mut agenda, now) = settled();
    agenda.rules_changed(true);
    agenda.judge_by(judge(1), now);
    agenda.stop();
    assert!(matches!(agenda.next(now + LOOK_AGAIN), Next::Stop));
}

#[test]
fn packets_are_compared_with_the_mark_until_long_after_the_last_revoked_connection() {
    let start = Instant::now();
    assert!(
        Agenda::new(start, Some(GUARDED)).is_guarded(),
        "nobody has looked"
    );
    let (mut agenda, now) = settled();
    assert!(!agenda.is_guarded());
    agenda.rules_changed(true);
    agenda.judge_by(judge(1), now);
    let looked = now + ON_THE_WAY;
    assert_eq!(scope(&agenda.next(looked)), Some(Scope::All));
    agenda.looked(true, looked);
    assert!(agenda.is_guarded());
    // It ends by itself, and the next look finds none.
    let again = looked + LOOK_AGAIN;
    assert_eq!(scope(&agenda.next(again)), Some(Scope::All));
    agenda.looked(false, again);
    assert!(agenda.is_guarded(), "the next change may revoke another");
    assert_eq!(waits_until(&agenda.next(again)), Some(looked + GUARDED));
    assert_eq!(scope(&agenda.next(looked + GUARDED)), Some(Scope::All));
    agenda.looked(false, looked + GUARDED);
    assert!(!agenda.is_guarded());
    assert!(matches!(agenda.next(looked + GUARDED), Next::Wait(None)));
}

#[test]
fn packets_are_compared_with_the_mark_as_long_as_a_look_finds_a_revoked_connection_or_fails() {
    let start = Instant::now();
    let mut agenda = Agenda::new(start, Some(GUARDED));
    agenda.judge_by(judge(0), start);
    let mut now = start;
    for fails in [false, true, false] {
        // Each look is later than the last one would have let the comparison go.
        now += GUARDED;
        assert_eq!(scope(&agenda.next(now)), Some(Scope::All));
        if fails {
            agenda.failed(now);
        } else {
            agenda.looked(true, now);
        }
        assert!(agenda.is_guarded());
    }
    now += GUARDED;
    assert_eq!(scope(&agenda.next(now)), Some(Scope::All));
    agenda.looked(false, now);
    assert!(!agenda.is_guarded());
}

#[test]
fn packets_are_compared_with_the_mark_for_ever_where_a_rule_is_not_to_come_and_go() {
    let start = Instant::now();
    let mut agenda = Agenda::new(start, None);
    agenda.judge_by(judge(0), start);
    for now in [start + ON_THE_WAY, start + ON_THE_WAY + LOOK_AGAIN] {
        assert_eq!(scope(&agenda.next(now)), Some(Scope::All));
        agenda.looked(false, now);
    }
    assert!(
        matches!(agenda.next(start + GUARDED), Next::Wait(None)),
        "and no look is taken for it"
    );
    assert!(agenda.is_guarded());
}

#[test]
fn what_is_revoked_is_settled_when_the_kernel_compares_packets_with_the_mark() {
    let (mut agenda, now) = settled();
    assert!(agenda.is_settled(), "nothing is revoked");
    agenda.rules_changed(true);
    agenda.judge_by(judge(1), now);
    agenda.next(now + ON_THE_WAY);
    agenda.looked(true, now + ON_THE_WAY);
    assert!(!agenda.is_settled());
    agenda.compared(true);
    assert!(agenda.is_settled());
}

/// What opens changes no rule but adds to sets; the look that finds that nothing is revoked any more must know of it, or it
/// would revoke all that has come since.
#[test]
fn the_look_before_the_guard_goes_judges_by_what_has_been_allowed_since() {
    let start = Instant::now();
    let mut agenda = Agenda::new(start, Some(GUARDED));
    agenda.judge_by(judge(0), start);
    for began in [start + ON_THE_WAY, start + ON_THE_WAY + LOOK_AGAIN] {
        assert_eq!(scope(&agenda.next(began)), Some(Scope::All));
        agenda.looked(false, began);
    }
    assert!(agenda.is_settled());
    assert!(agenda.looks_with_older(), "one look is left");
    assert!(agenda.rules_changed(false));
    agenda.judge_by(judge(1), start + LOOK_AGAIN * 2);
    let Next::Look(Scope::All, by) = agenda.next(start + GUARDED) else {
        panic!("the guard is to go")
    };
    assert_eq!(format!("{by:?}"), format!("{:?}", judge(1)));
}

#[test]
fn what_comes_while_a_look_goes_on_is_not_revoked_by_it() {
    let nothing = Arc::new(Isolation {
        id: "nothing".to_owned(),
        policies: Vec::new(),
        grants: Vec::new(),
    });
    let pod = LocalPod {
        addresses: vec![[10, 0, 0, 1].into()],
        ingress: Some(nothing),
        egress: None,
    };
    let policies = NodePolicies {
        pods: [(ObjectKey::new("shop", "api"), pod)].into(),
    };
    let refusing = Arc::new(Judge::new(policies, Vec::new(), false));
    let connection = Connection {
        source: [10, 0, 0, 2].into(),
        destination: [10, 0, 0, 1].into(),
        service: Some((Protocol::Tcp, 80)),
        protocol: 6,
        mark: 0,
    };
    let (mut agenda, now) = settled();
    agenda.rules_changed(true);
    agenda.judge_by(Arc::clone(&refusing), now);
    assert_eq!(scope(&agenda.next(now + ON_THE_WAY)), Some(Scope::All));
    assert!(!agenda.has_come(&connection, &refusing));
    agenda.expect(judge(1));
    assert!(agenda.has_come(&connection, &refusing), "it is being written");
    agenda.judge_by(judge(1), now + ON_THE_WAY);
    assert!(agenda.has_come(&connection, &refusing));
    agenda.judge_by(Arc::new(Judge::clone(&refusing)), now + ON_THE_WAY);
    assert!(!agenda.has_come(&connection, &refusing), "it has gone again");
}

#[test]
fn a_tightening_is_judged_by_when_a_look_that_began_after_it_has_ended_and_the_kernel_heeds_it() {
    let (mut agenda, now) = settled();
    let before = agenda.judged();
    assert_eq!(agenda.latest(), before, "nothing is owed");
    agenda.rules_changed(true);
    let first = agenda.latest();
    assert!(before < first, "before it is told how");
    agenda.judge_by(judge(1), now);
    assert_eq!(agenda.latest(), first, "and after that");
    let began = now + ON_THE_WAY;
    assert_eq!(scope(&agenda.next(began)), Some(Scope::All));
    agenda.rules_changed(true);
    agenda.judge_by(judge(2), began);
    let second = agenda.latest();
    assert_eq!(agenda.judged(), before, "the look goes on");
    agenda.finds_one(began);
    agenda.looked(true, began + MS);
    assert_eq!(agenda.judged(), 0, "the mark means nothing yet");
    agenda.compared(true);
    assert_eq!(agenda.judged(), first, "the second came after its begin");
    let again = began + ON_THE_WAY;
    assert_eq!(scope(&agenda.next(again)), Some(Scope::All));
    agenda.failed(again);
    assert_eq!(agenda.judged(), first, "it has not shown everything");
    let again = waits_until(&agenda.next(again)).unwrap();
    assert_eq!(scope(&agenda.next(again)), Some(Scope::All));
    agenda.looked(true, again + MS);
    assert_eq!(agenda.judged(), second);
}

#[test]
fn changes_without_end_do_not_keep_one_of_them_from_being_judged_by() {
    let (mut agenda, mut now) = settled();
    let mut wanted = None;
    for number in 0..40 {
        agenda.rules_changed(true);
        agenda.judge_by(judge(number), now);
        let wanted = *wanted.get_or_insert(agenda.latest());
        now += MS * 10;
        if scope(&agenda.next(now)).is_some() {
            agenda.looked(false, now + MS * 8);
        }
        if agenda.judged() >= wanted {
            return;
        }
    }
    panic!("never judged");
}
