//! Whether this process may write, asked before every write.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// Whether this process may write. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Fence {
    until: Arc<Mutex<Option<Instant>>>,
}

impl Fence {
    /// Closed: nobody has been elected yet.
    pub(super) fn closed() -> Self {
        Self {
            until: Arc::default(),
        }
    }

    /// A fence that is open for `period`, for work that needs no election.
    pub fn open_for(period: Duration) -> Self {
        let fence = Self::closed();
        fence.set(Some(Instant::now() + period));
        fence
    }

    /// Whether writing is permitted at this moment.
    pub fn is_open(&self) -> bool {
        self.until
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .is_some_and(|until| Instant::now() < until)
    }

    /// Open until a moment, or closed.
    pub(super) fn set(&self, until: Option<Instant>) {
        *self.until.lock().unwrap_or_else(PoisonError::into_inner) = until;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_fence_closes_by_itself() {
        let fence = Fence::open_for(Duration::from_secs(10));
        assert!(fence.is_open());
        tokio::time::sleep(Duration::from_secs(11)).await;
        assert!(!fence.is_open());
        assert!(!Fence::closed().is_open());
    }
}
