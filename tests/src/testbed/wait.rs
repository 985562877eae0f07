//! Waiting for something to become true, with a deadline.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// A pause between two looks at something on this machine.
pub(crate) const SHORT: Duration = Duration::from_millis(50);

/// Asks `ready` every `pause` until it gives a value; gives up with `what` in the message after `limit`.
///
/// # Errors
/// The first error of `ready`, or that the time is over.
pub fn until<T>(
    what: &str,
    limit: Duration,
    pause: Duration,
    mut ready: impl FnMut() -> Result<Option<T>>,
) -> Result<T> {
    let deadline = Instant::now() + limit;
    loop {
        if let Some(value) = ready()? {
            return Ok(value);
        }
        if Instant::now() >= deadline {
            bail!("gave up after {} s waiting for {what}", limit.as_secs());
        }
        thread::sleep(pause);
    }
}
