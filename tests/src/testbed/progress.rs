//! Telling a waiting person what is going on.

use std::io::{self, IsTerminal, Write};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::sync::{Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::Result;

/// Receives what the testbed does. Steps do not overlap.
pub trait Progress: Sync {
    /// A step begins.
    fn started(&self, step: &str);
    /// The step that began last is over.
    fn finished(&self, step: &str, took: Duration, done: bool);
    /// A fact worth a line of its own.
    fn note(&self, text: &str);
}

/// Says nothing.
#[derive(Debug, Default, Clone, Copy)]
pub struct Silent;

impl Progress for Silent {
    fn started(&self, _step: &str) {}
    fn finished(&self, _step: &str, _took: Duration, _done: bool) {}
    fn note(&self, _text: &str) {}
}

/// Writes to standard error: one line per step; on a terminal the elapsed time ticks while a step runs.
#[derive(Debug, Default)]
pub struct Console {
    ticker: Mutex<Option<Ticker>>,
}

#[derive(Debug)]
struct Ticker {
    stop: Sender<()>,
    thread: JoinHandle<()>,
}

impl Console {
    fn stop_ticker(&self) {
        let ticker = self.ticker.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(Ticker { stop, thread }) = ticker {
            drop(stop);
            // A ticker that panicked has nothing left to say.
            let _ = thread.join();
        }
    }
}

impl Progress for Console {
    fn started(&self, step: &str) {
        let (stop, stopped) = mpsc::channel::<()>();
        let step = step.to_owned();
        let tick = if io::stderr().is_terminal() {
            tick_on_terminal
        } else {
            say_if_it_takes_long
        };
        let thread = thread::spawn(move || tick(&step, &stopped));
        *self.ticker.lock().unwrap_or_else(PoisonError::into_inner) = Some(Ticker { stop, thread });
    }

    fn finished(&self, step: &str, took: Duration, done: bool) {
        self.stop_ticker();
        eprintln!("  {} {step} {}", if done { '✓' } else { '✗' }, seconds(took));
    }

    fn note(&self, text: &str) {
        eprintln!("  · {text}");
    }
}

fn tick_on_terminal(step: &str, stopped: &Receiver<()>) {
    let began = Instant::now();
    while stopped.recv_timeout(Duration::from_millis(200)) == Err(RecvTimeoutError::Timeout) {
        eprint!("\r\x1b[K  … {step} {}", seconds(began.elapsed()));
        let _ = io::stderr().flush();
    }
    eprint!("\r\x1b[K");
}

/// In a log nothing can be overwritten, so a step is named when it begins only if its end is not about to be.
fn say_if_it_takes_long(step: &str, stopped: &Receiver<()>) {
    if stopped.recv_timeout(Duration::from_secs(2)) == Err(RecvTimeoutError::Timeout) {
        eprintln!("  … {step}");
        let _ = stopped.recv();
    }
}

fn seconds(duration: Duration) -> String {
    format!("({:.1} s)", duration.as_secs_f64())
}

/// Runs one step and reports on it.
///
/// # Errors
/// Those of the step.
pub fn step<T>(progress: &dyn Progress, name: &str, run: impl FnOnce() -> Result<T>) -> Result<T> {
    let began = Instant::now();
    progress.started(name);
    let outcome = run();
    progress.finished(name, began.elapsed(), outcome.is_ok());
    outcome
}
