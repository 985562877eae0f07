//! The plugin's side of the socket. Standard library only: it runs once for each pod, on a foreign host.

use std::io::{BufRead, BufReader, ErrorKind, Write as _};
use std::os::unix::net::UnixStream;
use std::thread::sleep;
use std::time::{Duration, Instant};

use super::message::{Answer, Request, VERSION};

/// The pause between two attempts to reach an enforcer that does not listen, or not yet.
const PAUSE: Duration = Duration::from_millis(50);
/// How much longer than the enforcer waits: its own word why it is too late is better than silence.
const GRACE: Duration = Duration::from_millis(500);

/// Puts a request to the enforcer at `socket` and waits for the answer.
///
/// # Errors
/// There was none in time, or it says no; in words.
pub fn ask(socket: &str, request: &Request, wait: Duration) -> Result<(), String> {
    let started = Instant::now();
    loop {
        let left = wait.saturating_sub(started.elapsed());
        match attempt(socket, request, left) {
            Ok(answer) => return answer.error.map_or(Ok(()), Err),
            // It is being started, or started anew: what it was told before is lost, so tell it again.
            Err(_) if left > PAUSE => sleep(PAUSE),
            Err(error) => {
                let waited = started.elapsed().as_millis();
                return Err(format!(
                    "the enforcer at {socket} did not answer within {waited} ms: {error}"
                ));
            }
        }
    }
}

fn attempt(socket: &str, request: &Request, left: Duration) -> std::io::Result<Answer> {
    let mut stream = UnixStream::connect(socket)?;
    let patience = Some(left + GRACE);
    stream.set_read_timeout(patience)?;
    stream.set_write_timeout(patience)?;
    let request = Request {
        wait_milliseconds: u64::try_from(left.as_millis()).unwrap_or(u64::MAX),
        ..request.clone()
    };
    let mut line = serde_json::to_string(&request)?;
    line.push('\n');
    stream.write_all(line.as_bytes())?;
    let mut said = String::new();
    BufReader::new(stream).read_line(&mut said)?;
    if said.is_empty() {
        return Err(ErrorKind::UnexpectedEof.into());
    }
    let answer: Answer = serde_json::from_str(&said)?;
    if answer.version == VERSION || answer.error.is_some() {
        return Ok(answer);
    }
    Ok(Answer::new(Some(format!(
        "the enforcer speaks version {}, this plugin {VERSION}",
        answer.version
    ))))
}
