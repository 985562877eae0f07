//! Many attempts side by side: most of them only wait.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

/// More would only wait for the processor.
const WORKERS: usize = 48;

/// Does `work` for every item, many at a time; the results are in the items' order.
pub fn all_at_once<T: Sync, R: Send>(items: &[T], work: impl Fn(&T) -> R + Sync) -> Vec<R> {
    let next = AtomicUsize::new(0);
    let results = Mutex::new(Vec::with_capacity(items.len()));
    thread::scope(|scope| {
        for _ in 0..WORKERS.min(items.len()) {
            scope.spawn(|| {
                loop {
                    let index = next.fetch_add(1, Ordering::Relaxed);
                    let Some(item) = items.get(index) else { break };
                    let result = work(item);
                    // A panic in `work` reaches the caller when the scope ends, so nobody sees half a list.
                    if let Ok(mut results) = results.lock() {
                        results.push((index, result));
                    }
                }
            });
        }
    });
    let mut results = results.into_inner().unwrap_or_default();
    results.sort_by_key(|(index, _)| *index);
    results.into_iter().map(|(_, result)| result).collect()
}

#[cfg(test)]
mod tests {
    use super::all_at_once;

    #[test]
    fn results_come_in_the_items_order() {
        let items: Vec<usize> = (0..200).collect();
        let doubled: Vec<usize> = items.iter().map(|n| n * 2).collect();
        assert_eq!(all_at_once(&items, |n| n * 2), doubled);
        assert!(all_at_once(&[] as &[usize], |n| *n).is_empty());
    }
}
