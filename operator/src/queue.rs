//! The work queue: what has to be looked at, when, and by nobody else meanwhile.
//!
//! A key is in the queue once, however often it is added: the earliest time wins, so a burst of changes is one piece
//! of work and a stream of them can't put it off for ever. A key that is being worked on is not handed out a second
//! time; what is added meanwhile waits until it is done. Failures back off key by key; a change brings the next attempt
//! forward, but not below [`Backoff::floor`], for the change may be the failed attempt's own echo.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::hash::Hash;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};

/// How the work on a key went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Done {
    /// Well. Its failures are forgotten.
    Finished,
    /// Not well. It comes again after a pause that grows with every failure in a row.
    Failed,
    /// It can't be done yet, through no fault of its own. It comes again after this time.
    Again(Duration),
}

/// The pauses between failures in a row: doubled from the first to the longest, each varied by up to a fifth, so that
/// many keys that failed together don't come back together.
#[derive(Clone, Copy, Debug)]
pub struct Backoff {
    /// After the first failure.
    pub first: Duration,
    /// After many failures.
    pub longest: Duration,
    /// How much of a pause no change can cut short.
    pub floor: Duration,
}

impl Default for Backoff {
    fn default() -> Self {
        Self {
            first: Duration::from_millis(200),
            longest: Duration::from_secs(60),
            floor: Duration::from_secs(5),
        }
    }
}

impl Backoff {
    /// The pause after the `failures`th failure in a row, before it is varied.
    fn pause(self, failures: u32) -> Duration {
        let doubled = 2u32.saturating_pow(failures.saturating_sub(1).min(20));
        self.first.saturating_mul(doubled).min(self.longest)
    }
}

/// See the module's documentation. Shared between those who add and those who work.
#[derive(Debug)]
pub struct Queue<K> {
    state: Mutex<State<K>>,
    changed: Notify,
    backoff: Backoff,
}

#[derive(Debug)]
struct State<K> {
    due: BTreeSet<(Instant, K)>,
    times: HashMap<K, Instant>,
    running: HashSet<K>,
    failures: HashMap<K, Failures>,
}

/// Failures in a row.
#[derive(Debug)]
struct Failures {
    count: u32,
    /// Not to be tried again before.
    floor: Instant,
}

impl<K: Clone + Ord + Hash> Queue<K> {
    /// An empty queue.
    pub fn new(backoff: Backoff) -> Self {
        let (due, times) = (BTreeSet::new(), HashMap::new());
        let state = State {
            due,
            times,
            running: HashSet::new(),
            failures: HashMap::new(),
        };
        Self {
            state: Mutex::new(state),
            changed: Notify::new(),
            backoff,
        }
    }

    /// Adds a key, to be worked on after `delay` or when it was to be anyway, whichever comes first.
    pub fn add(&self, key: K, delay: Duration) {
        self.lock().schedule(key, Instant::now() + delay);
        self.changed.notify_waiters();
    }

    /// Whether a key waits, or is being worked on.
    pub fn holds(&self, key: &K) -> bool {
        let state = self.lock();
        state.times.contains_key(key) || state.running.contains(key)
    }

    /// How many keys wait.
    pub fn len(&self) -> usize {
        self.lock().times.len()
    }

    /// Whether no key waits.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The next key that is due and that nobody works on, as soon as there is one. [`done`](Self::done) must follow.
    pub async fn next(&self) -> K {
        loop {
            let mut changed = std::pin::pin!(self.changed.notified());
            // From here on no change is missed, also one between looking and waiting.
            changed.as_mut().enable();
            let earliest = match self.lock().take(Instant::now()) {
                Ok(key) => return key,
                Err(earliest) => earliest,
            };
            match earliest {
                Some(time) => tokio::select! {
                    () = sleep_until(time) => {}
                    () = changed => {}
                },
                None => changed.await,
            }
        }
    }

    /// The key handed out has been worked on.
    pub fn done(&self, key: &K, done: Done) {
        let mut state = self.lock();
        state.running.remove(key);
        match done {
            Done::Finished => {
                state.failures.remove(key);
            }
            Done::Again(delay) => state.schedule(key.clone(), Instant::now() + delay),
            Done::Failed => {
                let now = Instant::now();
                let count = state
                    .failures
                    .get(key)
                    .map_or(1, |failures| failures.count.saturating_add(1));
                let pause = self.backoff.pause(count).mul_f64(0.8 + 0.4 * fastrand::f64());
                let floor = now + pause.min(self.backoff.floor);
                state.failures.insert(key.clone(), Failures { count, floor });
                let earliest = state
                    .times
                    .get(key)
                    .map_or(now + pause, |time| (*time).clamp(floor, now + pause));
                state.postpone(key.clone(), earliest);
            }
        }
        drop(state);
        self.changed.notify_waiters();
    }

    fn lock(&self) -> MutexGuard<'_, State<K>> {
        // No statement below leaves the collections at odds with each other, so a panic elsewhere does no harm.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<K: Clone + Ord + Hash> State<K> {
    fn schedule(&mut self, key: K, time: Instant) {
        let floor = self.failures.get(&key).map_or(time, |failures| failures.floor);
        let time = time.max(floor);
        match self.times.get(&key) {
            Some(earlier) if *earlier <= time => {}
            _ => self.postpone(key, time),
        }
    }

    fn postpone(&mut self, key: K, time: Instant) {
        if let Some(before) = self.times.insert(key.clone(), time) {
            self.due.remove(&(before, key.clone()));
        }
        self.due.insert((time, key));
    }

    /// A key that is due, or the time at which the next one will be.
    fn take(&mut self, now: Instant) -> Result<K, Option<Instant>> {
        let free = self.due.iter().find(|(_, key)| !self.running.contains(key));
        match free.cloned() {
            Some((time, key)) if time <= now => {
                self.due.remove(&(time, key.clone()));
                self.times.remove(&key);
                self.running.insert(key.clone());
                Ok(key)
            }
            later => Err(later.map(|(time, _)| time)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use tokio::time::timeout;

    const SECOND: Duration = Duration::from_secs(1);

    fn queue() -> Queue<&'static str> {
        Queue::new(Backoff {
            first: SECOND,
            longest: 8 * SECOND,
            floor: 2 * SECOND,
        })
    }

    async fn next_within(queue: &Queue<&'static str>, limit: Duration) -> Option<&'static str> {
        timeout(limit, queue.next()).await.ok()
    }

    #[tokio::test(start_paused = true)]
    async fn many_additions_are_one_piece_of_work_at_the_earliest_time() {
        let queue = queue();
        queue.add("a", 5 * SECOND);
        queue.add("a", 2 * SECOND);
        queue.add("a", 9 * SECOND);
        let start = Instant::now();
        assert_eq!(queue.next().await, "a");
        assert_eq!(start.elapsed().as_secs(), 2);
        queue.done(&"a", Done::Finished);
        assert_eq!(next_within(&queue, 100 * SECOND).await, None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_steady_stream_of_changes_does_not_put_work_off() {
        let queue = queue();
        let start = Instant::now();
        for _ in 0..20 {
            queue.add("a", SECOND);
            if next_within(&queue, SECOND / 10).await.is_some() {
                assert!(start.elapsed() <= SECOND + SECOND / 10);
                return;
            }
        }
        panic!("never handed out");
    }

    #[tokio::test(start_paused = true)]
    async fn a_key_is_worked_on_by_one_at_a_time_and_not_forgotten() {
        let queue = queue();
        queue.add("a", Duration::ZERO);
        assert_eq!(queue.next().await, "a");
        queue.add("a", Duration::ZERO);
        queue.add("b", SECOND);
        assert_eq!(next_within(&queue, 10 * SECOND).await, Some("b"));
        assert_eq!(next_within(&queue, 10 * SECOND).await, None);
        queue.done(&"a", Done::Finished);
        assert_eq!(next_within(&queue, SECOND).await, Some("a"));
    }

    #[tokio::test(start_paused = true)]
    async fn failures_back_off_and_success_forgets_them() {
        let queue = queue();
        queue.add("a", Duration::ZERO);
        let mut pauses = Vec::new();
        for _ in 0..5 {
            let start = Instant::now();
            queue.next().await;
            pauses.push(start.elapsed().as_secs_f64());
            queue.done(&"a", Done::Failed);
        }
        for (pause, expected) in pauses[1..].iter().zip([1.0, 2.0, 4.0, 8.0]) {
            assert!((expected * 0.79..expected * 1.21).contains(pause), "{pauses:?}");
        }
        queue.next().await;
        queue.done(&"a", Done::Finished);
        queue.add("a", Duration::ZERO);
        assert_eq!(next_within(&queue, SECOND / 10).await, Some("a"));
    }

    #[tokio::test(start_paused = true)]
    async fn a_change_brings_the_next_attempt_forward_but_an_echo_does_not_spin() {
        let queue = queue();
        queue.add("a", Duration::ZERO);
        for _ in 0..4 {
            queue.next().await;
            queue.add("a", Duration::ZERO);
            queue.done(&"a", Done::Failed);
        }
        queue.add("a", Duration::ZERO);
        let start = Instant::now();
        queue.next().await;
        assert_eq!(
            start.elapsed().as_secs(),
            2,
            "the floor, not the 8 s of the fourth failure and not zero"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn several_workers_share_the_work() {
        let queue = Arc::new(queue());
        let worker = |queue: Arc<Queue<&'static str>>| tokio::spawn(async move { queue.next().await });
        let (one, two) = (worker(queue.clone()), worker(queue.clone()));
        tokio::task::yield_now().await;
        queue.add("a", Duration::ZERO);
        queue.add("b", Duration::ZERO);
        let mut keys =
            [timeout(SECOND, one).await, timeout(SECOND, two).await].map(|key| key.map(Result::ok));
        keys.sort_by_key(|key| format!("{key:?}"));
        assert_eq!(keys, [Ok(Some("a")), Ok(Some("b"))]);
    }
}
