//! Processes that end with this one, however it ends.

use std::path::Path;
use std::process::Command;
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread;

use anyhow::{Context, Result};

use super::process::{self, Home, Process};

/// Starts processes that the kernel kills when this process is gone.
///
/// The kernel sends that signal when the *thread* that started them ends, and a test's thread ends with the test. So
/// one thread does the starting and lives as long as this value.
#[derive(Debug)]
pub(crate) struct Leash {
    jobs: Sender<Job>,
}

struct Job {
    home: Home,
    name: String,
    command: Command,
    answer: Sender<Result<Process>>,
}

impl Leash {
    pub(crate) fn new() -> Self {
        let (jobs, queue): (Sender<Job>, Receiver<Job>) = mpsc::channel();
        thread::spawn(move || {
            for job in queue {
                // Whoever does not wait for the answer does not want it.
                let _ = job.answer.send(process::spawn(&job.home, &job.name, job.command));
            }
        });
        Self { jobs }
    }

    /// As [`process::spawn`].
    pub(crate) fn spawn(
        &self,
        home: &Home,
        name: &str,
        program: &Path,
        args: Vec<String>,
    ) -> Result<Process> {
        let mut command = Command::new("setpriv");
        command
            .args(["--pdeathsig", "KILL", "--"])
            .arg(program)
            .args(args);
        let (answer, answered) = mpsc::channel();
        let job = Job {
            home: home.clone(),
            name: name.to_owned(),
            command,
            answer,
        };
        self.jobs
            .send(job)
            .ok()
            .context("the thread that starts processes is gone")?;
        answered
            .recv()
            .context("the thread that starts processes is gone")?
    }
}
