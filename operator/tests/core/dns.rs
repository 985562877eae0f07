//! The address book, and what is inside the cluster: pure, with a clock of the test's own.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use proptest::prelude::*;
use ringfence_operator::dns::{Answer, Book, Inside, Limits, Place, Room, State};
use serde_json::{Value, json};
use tokio::time::Instant;

const NAME: &str = "api.example.com";

const LIMITS: Limits = Limits {
    floor: Duration::from_secs(5),
    ceiling: Duration::from_secs(60),
    grace: Duration::from_secs(100),
    answer: 4,
    kept: 6,
};

const ROOM: Room = Room {
    reliable: 10,
    others: 10,
};

fn ip(n: u8) -> IpAddr {
    IpAddr::from([203, 0, 113, n])
}

fn answer(addresses: &[u8], seconds: u64) -> Answer {
    Answer {
        addresses: addresses.iter().map(|n| ip(*n)).collect(),
        time_to_live: Duration::from_secs(seconds),
    }
}

fn wanting(remembered: &[u8], now: Instant) -> Book {
    let mut book = Book::new(LIMITS);
    let remembered = remembered.iter().map(|n| ip(*n)).collect();
    book.want(&BTreeMap::from([(NAME.to_owned(), remembered)]), now);
    book
}

fn open(book: &Book) -> Vec<IpAddr> {
    book.resolution(NAME).unwrap().addresses.into_iter().collect()
}

fn after(start: Instant, seconds: u64) -> Instant {
    start + Duration::from_secs(seconds)
}

#[test]
fn a_name_is_closed_until_it_is_answered_for() {
    let start = Instant::now();
    let mut book = wanting(&[], start);
    assert_eq!(book.due(start, ROOM), [(NAME.to_owned(), false)]);
    assert!(open(&book).is_empty());
    assert!(book.failed(NAME, start));
    assert!(open(&book).is_empty());
    assert!(book.answered(NAME, &answer(&[1], 30), start));
    assert_eq!(open(&book), [ip(1)]);
    assert!(
        !book.answered(NAME, &answer(&[1], 30), start),
        "nothing is different"
    );
}

#[test]
fn it_is_asked_for_again_when_its_time_is_up_within_floor_and_ceiling() {
    let start = Instant::now();
    for (life, due) in [(0, 5), (30, 30), (3600, 60)] {
        let mut book = wanting(&[], start);
        book.due(start, ROOM);
        book.answered(NAME, &answer(&[1], life), start);
        assert_eq!(book.next(ROOM), Some(after(start, due)));
        assert!(book.due(after(start, due - 1), ROOM).is_empty());
        assert_eq!(book.due(after(start, due), ROOM), [(NAME.to_owned(), true)]);
        assert!(
            book.due(after(start, due), ROOM).is_empty(),
            "it is being asked for"
        );
    }
}

#[test]
fn an_address_that_left_stays_for_the_grace_period() {
    let start = Instant::now();
    let mut book = wanting(&[], start);
    book.answered(NAME, &answer(&[1, 2], 30), start);
    book.answered(NAME, &answer(&[2, 3], 30), after(start, 30));
    assert_eq!(open(&book), [ip(1), ip(2), ip(3)]);
    book.answered(NAME, &answer(&[2, 3], 30), after(start, 60));
    assert!(book.expire(after(start, 129)).is_empty());
    assert_eq!(book.expire(after(start, 130)), BTreeSet::from([NAME.to_owned()]));
    assert_eq!(open(&book), [ip(2), ip(3)]);
}

#[test]
fn a_name_that_ceased_to_exist_closes_after_the_grace_period() {
    let start = Instant::now();
    let mut book = wanting(&[], start);
    book.answered(NAME, &answer(&[1], 30), start);
    book.answered(NAME, &answer(&[], 30), after(start, 30));
    assert_eq!(open(&book), [ip(1)]);
    book.expire(after(start, 130));
    assert!(open(&book).is_empty());
}

#[test]
fn the_last_good_answer_is_held_while_nobody_answers() {
    let start = Instant::now();
    let mut book = wanting(&[], start);
    book.answered(NAME, &answer(&[1], 30), start);
    for hour in 1..100 {
        book.failed(NAME, after(start, hour * 3600));
        book.expire(after(start, hour * 3600));
    }
    assert_eq!(open(&book), [ip(1)]);
    assert_eq!(book.resolution(NAME).unwrap().state, State::Failing);
}

#[test]
fn a_restart_begins_with_what_was_remembered() {
    let start = Instant::now();
    let mut book = wanting(&[7], start);
    assert_eq!(open(&book), [ip(7)]);
    book.failed(NAME, start);
    book.expire(after(start, 100_000));
    assert_eq!(open(&book), [ip(7)]);
    book.answered(NAME, &answer(&[8], 30), after(start, 100_000));
    assert_eq!(open(&book), [ip(7), ip(8)]);
    book.expire(after(start, 100_100));
    assert_eq!(open(&book), [ip(8)]);
}

#[test]
fn of_too_many_addresses_those_that_are_known_already_stay() {
    let start = Instant::now();
    let mut book = wanting(&[], start);
    book.answered(NAME, &answer(&[9], 30), start);
    book.answered(NAME, &answer(&[1, 2, 3, 4, 5, 9], 30), start);
    assert_eq!(open(&book), [ip(1), ip(2), ip(3), ip(9)]);
    assert_eq!(book.resolution(NAME).unwrap().left_out, 2);
}

#[test]
fn a_name_that_nobody_wants_any_more_is_forgotten() {
    let start = Instant::now();
    let mut book = wanting(&[1], start);
    book.want(&BTreeMap::new(), start);
    assert_eq!((book.resolution(NAME), book.next(ROOM)), (None, None));
    assert!(!book.answered(NAME, &answer(&[1], 30), start), "a late answer");
}

#[test]
fn an_address_in_the_other_familys_clothes_is_the_address() {
    let start = Instant::now();
    let mut book = wanting(&[], start);
    let mapped = Answer {
        addresses: BTreeSet::from(["::ffff:203.0.113.1".parse().unwrap()]),
        time_to_live: Duration::from_secs(30),
    };
    book.answered(NAME, &mapped, start);
    assert_eq!(open(&book), [ip(1)]);
}

/// What happens to a name.
#[derive(Clone, Debug)]
enum Event {
    Answer(Vec<u8>, u64),
    Failure,
    Wait(u64),
}

fn events() -> impl Strategy<Value = Vec<Event>> {
    let event = prop_oneof![
        3 => (prop::collection::vec(0..12_u8, 0..6), 0..100_u64).prop_map(|(all, life)| Event::Answer(all, life)),
        1 => Just(Event::Failure),
        3 => (0..80_u64).prop_map(Event::Wait),
    ];
    prop::collection::vec(event, 1..40)
}

proptest! {
    /// The book against the whole history: an address is open exactly if the last answer has it, or an answer that counted it
    /// was the last one to do so within the grace period; but for what bounds cut off.
    #[test]
    fn what_is_open_follows_from_the_history(events in events()) {
        let (start, mut elapsed) = (Instant::now(), 0);
        let roomy = Limits { answer: 100, kept: 100, ..LIMITS };
        let (mut book, mut bounded) = (Book::new(roomy), wanting(&[], start));
        book.want(&BTreeMap::from([(NAME.to_owned(), BTreeSet::new())]), start);
        let mut current: BTreeSet<u8> = BTreeSet::new();
        let mut left: BTreeMap<u8, u64> = BTreeMap::new();
        for event in events {
            let now = after(start, elapsed);
            match event {
                Event::Answer(all, life) => {
                    let said = answer(&all, life);
                    book.answered(NAME, &said, now);
                    bounded.answered(NAME, &said, now);
                    let next: BTreeSet<u8> = all.iter().copied().collect();
                    left.extend(current.difference(&next).map(|gone| (*gone, elapsed + 100)));
                    left.retain(|address, _| !next.contains(address));
                    current = next;
                    let due = book.next(ROOM).unwrap();
                    prop_assert!(due <= now + LIMITS.ceiling);
                }
                Event::Failure => {
                    let before = open(&book);
                    book.failed(NAME, now);
                    bounded.failed(NAME, now);
                    prop_assert_eq!(open(&book), before, "a failure closes nothing");
                }
                Event::Wait(seconds) => elapsed += seconds,
            }
            book.expire(after(start, elapsed));
            bounded.expire(after(start, elapsed));
            left.retain(|_, end| *end > elapsed);
            let expected: BTreeSet<IpAddr> = current.iter().chain(left.keys()).map(|n| ip(*n)).collect();
            prop_assert_eq!(&book.resolution(NAME).unwrap().addresses, &expected);
            let few = bounded.resolution(NAME).unwrap().addresses;
            prop_assert!(few.len() <= LIMITS.kept && few.is_subset(&expected), "{few:?}");
            prop_assert!(few.len() >= current.len().min(LIMITS.answer), "what is current goes last");
        }
    }
}

fn inside() -> Inside {
    fn read<T: serde::de::DeserializeOwned>(value: Value) -> T {
        serde_json::from_value(value).unwrap()
    }
    let mut inside = Inside::default();
    inside.insert_node(&read(json!({"metadata": {"name": "n"},
        "spec": {"podCIDR": "10.244.1.0/24", "podCIDRs": ["10.244.1.0/24", "fd00:10:244::/64"]},
        "status": {"addresses": [{"type": "InternalIP", "address": "192.168.7.4"}, {"type": "Hostname", "address": "n"}]}})));
    inside.insert_service_cidr(&read(
        json!({"metadata": {"name": "kubernetes"}, "spec": {"cidrs": ["10.96.0.0/16"]}}),
    ));
    inside.insert_service(&read(
        json!({"metadata": {"name": "old"}, "spec": {"clusterIP": "10.43.0.1", "clusterIPs": ["10.43.0.1"]}}),
    ));
    inside.insert_service(&read(
        json!({"metadata": {"name": "headless"}, "spec": {"clusterIP": "None", "clusterIPs": ["None"]}}),
    ));
    let asked = BTreeSet::from(["172.20.0.9".parse().unwrap(), "192.168.7.4".parse().unwrap()]);
    for (name, address) in [("a", "172.20.0.9"), ("b", "172.20.0.8"), ("host", "192.168.7.4")] {
        inside.insert_pod(
            &read(json!({"metadata": {"name": name}, "status": {"podIPs": [{"ip": address}]}})),
            &asked,
        );
    }
    inside
}

#[test]
fn what_is_inside_the_cluster_or_a_nodes_own_is_told_from_what_is_not() {
    let inside = inside();
    for (address, place) in [
        ("127.0.0.1", Some(Place::Loopback)),
        ("::1", Some(Place::Loopback)),
        ("::ffff:127.0.0.1", Some(Place::Loopback)),
        ("169.254.169.254", Some(Place::LinkLocal)),
        ("fe80::1", Some(Place::LinkLocal)),
        ("0.0.0.0", Some(Place::Nowhere)),
        ("0.1.2.3", Some(Place::Nowhere)),
        ("::", Some(Place::Nowhere)),
        ("224.0.0.1", Some(Place::Nowhere)),
        ("ff02::1", Some(Place::Nowhere)),
        ("255.255.255.255", Some(Place::Nowhere)),
        ("10.244.1.77", Some(Place::Pod)),
        ("::ffff:10.244.1.77", Some(Place::Pod)),
        ("fd00:10:244::5", Some(Place::Pod)),
        ("172.20.0.9", Some(Place::Pod)),
        ("10.96.3.4", Some(Place::Service)),
        ("10.43.0.1", Some(Place::Service)),
        ("192.168.7.4", Some(Place::Node)),
        ("64:ff9b::10.244.1.77", Some(Place::Pod)),
        ("64:ff9b::127.0.0.1", Some(Place::Loopback)),
        ("64:ff9b::203.0.113.7", None),
        ("64:ff9c::10.244.1.77", None),
        ("203.0.113.7", None),
        ("10.1.2.3", None),
        ("2001:db8::1", None),
    ] {
        assert_eq!(inside.place(address.parse().unwrap()), place, "{address}");
    }
}
