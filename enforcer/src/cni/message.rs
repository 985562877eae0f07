//! What the plugin and the enforcer say to each other: one line of JSON each way, on a connection of its own.

use std::net::IpAddr;

use ringfence_policy::ObjectKey;
use serde::{Deserialize, Serialize};

/// The version of these messages. Another one is refused: binary and enforcer come from one image, and a mix lasts as
/// long as an upgrade.
pub const VERSION: u32 = 1;

/// The longest line that is read.
pub const LONGEST: usize = 16 * 1024;

/// What the plugin tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum News {
    /// The pod's sandbox has these addresses; answer when the kernel holds its rules.
    Start,
    /// The pod's sandbox goes, and its addresses with it.
    Stop,
}

/// A pod's sandbox: what the runtime makes and unmakes. A pod may have several in its life, one after another.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sandbox {
    /// The pod's namespace.
    pub namespace: String,
    /// The pod's name.
    pub name: String,
    /// The pod's UID.
    pub uid: String,
    /// The sandbox's own name.
    pub container: String,
    /// The addresses it was given; none when it goes.
    pub addresses: Vec<IpAddr>,
}

impl Sandbox {
    /// The pod's key.
    pub fn key(&self) -> ObjectKey {
        ObjectKey::new(self.namespace.clone(), self.name.clone())
    }
}

/// The plugin's line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Request {
    /// [`VERSION`].
    pub version: u32,
    /// What happened.
    pub news: News,
    /// To which sandbox.
    pub sandbox: Sandbox,
    /// How long the plugin will wait.
    pub wait_milliseconds: u64,
}

/// The enforcer's line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer {
    /// [`VERSION`].
    pub version: u32,
    /// Why not; `None` is done.
    pub error: Option<String>,
}

impl Answer {
    /// The answer to what was done, or why it was not.
    pub fn new(error: Option<String>) -> Self {
        Self {
            version: VERSION,
            error,
        }
    }
}

/// Reads a line of the plugin.
///
/// # Errors
/// It is none, or of another version; in words.
pub fn request(line: &str) -> Result<Request, String> {
    let request: Request = serde_json::from_str(line).map_err(|error| format!("no request: {error}"))?;
    if request.version == VERSION {
        return Ok(request);
    }
    Err(format!(
        "the request is of version {}, this enforcer speaks {VERSION}: wait until its upgrade is through",
        request.version
    ))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn sample(version: u32) -> Request {
        Request {
            version,
            news: News::Start,
            sandbox: Sandbox {
                namespace: "shop".to_owned(),
                name: "web-0".to_owned(),
                uid: "u".to_owned(),
                container: "c".to_owned(),
                addresses: vec![[10, 0, 0, 1].into(), "fd00::1".parse().unwrap()],
            },
            wait_milliseconds: 5000,
        }
    }

    #[test]
    fn a_request_is_one_line_and_is_read_as_it_was_written() {
        let line = serde_json::to_string(&sample(VERSION)).unwrap();
        assert!(!line.contains('\n'));
        assert_eq!(request(&line), Ok(sample(VERSION)));
    }

    #[test]
    fn another_version_and_what_is_no_request_are_refused() {
        let line = serde_json::to_string(&sample(VERSION + 1)).unwrap();
        assert!(request(&line).unwrap_err().contains("version 2"));
        assert!(request("{}").is_err());
        assert!(request("").is_err());
    }
}
