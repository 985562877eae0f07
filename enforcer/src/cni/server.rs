//! The enforcer's side of the socket.

use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

use super::message::{self, Answer, LONGEST, News, Request, Sandbox};
use crate::error::{Error, Result};

/// How long a plugin may take to say what it wants.
const HASTE: Duration = Duration::from_secs(5);
/// The longest that anybody waits, whatever the plugin says.
const LONGEST_WAIT: Duration = Duration::from_mins(1);
/// Plugins whose news the agent has not taken yet; more of them wait.
const QUEUE: usize = 256;

/// What a plugin told, and the way to answer it.
#[derive(Debug)]
pub struct Call {
    /// What happened.
    pub news: News,
    /// To which sandbox.
    pub sandbox: Sandbox,
    /// When it was told.
    pub since: Instant,
    /// To be told when it is done. Closed when nobody waits any more.
    pub done: oneshot::Sender<()>,
}

/// Listens at `path`, for root only, until `shutdown`. A socket that was there before is replaced at once.
///
/// # Errors
/// The socket cannot be made.
pub fn listen(path: &Path, shutdown: CancellationToken) -> Result<mpsc::Receiver<Call>> {
    let listener = bind(path).map_err(|source| Error::File {
        what: "listen at",
        path: path.to_owned(),
        source,
    })?;
    let (calls, received) = mpsc::channel(QUEUE);
    tokio::spawn(async move {
        loop {
            let accepted = tokio::select! {
                () = shutdown.cancelled() => return,
                accepted = listener.accept() => accepted,
            };
            match accepted {
                Ok((stream, _)) => drop(tokio::spawn(attend(stream, calls.clone()))),
                Err(error) => {
                    tracing::warn!(%error, "a CNI plugin could not be heard");
                    // Out of files, perhaps. They become free again.
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
    });
    Ok(received)
}

fn bind(path: &Path) -> io::Result<UnixListener> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    let new = path.with_extension("new");
    match fs::remove_file(&new) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(&new)?;
    fs::set_permissions(&new, Permissions::from_mode(0o600))?;
    fs::rename(&new, path)?;
    Ok(listener)
}

async fn attend(stream: UnixStream, calls: mpsc::Sender<Call>) {
    let (reading, mut writing) = stream.into_split();
    let mut line = String::new();
    let limit = u64::try_from(LONGEST).unwrap_or(u64::MAX);
    let mut reading = BufReader::new(reading.take(limit));
    match timeout(HASTE, reading.read_line(&mut line)).await {
        Ok(Ok(length)) if length > 0 => {}
        // It went away, or never spoke.
        _ => return,
    }
    let error = match message::request(&line) {
        Ok(request) => match pass_on(request, &calls).await {
            Some(answer) => answer.err(),
            // The enforcer ends. Who hears nothing asks the next one, as long as its time lasts.
            None => return,
        },
        Err(error) => Some(error),
    };
    if let Some(error) = &error {
        tracing::warn!(%error, "a CNI plugin was told no");
    }
    let Ok(mut answer) = serde_json::to_string(&Answer::new(error)) else {
        return;
    };
    answer.push('\n');
    if let Err(error) = writing.write_all(answer.as_bytes()).await {
        tracing::debug!(%error, "a CNI plugin did not wait for its answer");
    }
}

/// Hands a request on and waits for the answer. `None` is that there will be none.
async fn pass_on(request: Request, calls: &mpsc::Sender<Call>) -> Option<std::result::Result<(), String>> {
    let wait = Duration::from_millis(request.wait_milliseconds).min(LONGEST_WAIT);
    let pod = request.sandbox.key();
    let (done, is_done) = oneshot::channel();
    let call = Call {
        news: request.news,
        sandbox: request.sandbox,
        since: Instant::now(),
        done,
    };
    let answered = timeout(wait, async {
        calls.send(call).await.ok()?;
        is_done.await.ok()
    });
    match answered.await {
        Ok(answer) => answer.map(Ok),
        Err(_) => Some(Err(format!(
            "the kernel did not hold the rules of pod {pod} within {} ms: the enforcer has not heard of the pod from the \
             API server yet, or could not write (see its log)",
            wait.as_millis()
        ))),
    }
}
