//! Our entry in somebody else's network configuration: text in, text out.
//!
//! The text is edited where the entry is, and nowhere else: what its owner wrote stays as it is, to the byte, and taking
//! the entry out gives back the text that it was put into.

use std::ops::Range;

use serde_json::{Value, json};

use super::PLUGIN;
use super::protocol::{Fallback, VERSIONS};

/// Why a configuration cannot have our entry.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unfit {
    /// It is no JSON.
    #[error("it is no JSON: {0}")]
    NoJson(String),
    /// It is a single plugin's.
    #[error(
        "it configures a single plugin, which nothing can be chained to: make it a .conflist, with the plugin in a list \
         `plugins`"
    )]
    SinglePlugin,
    /// Its list is empty: there is nothing to be chained to.
    #[error("its list of plugins is empty")]
    Empty,
    /// It speaks another version of the specification.
    #[error("its cniVersion {0} is not spoken; write one of {VERSIONS:?}")]
    Version(String),
}

/// What the entry says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Where the enforcer listens.
    pub socket: String,
    /// How long a pod waits for its rules, in seconds.
    pub timeout_seconds: u64,
    /// What becomes of a pod whose rules did not come in time.
    pub without_enforcer: Fallback,
}

impl Entry {
    fn to_json(&self) -> Value {
        json!({
            "type": PLUGIN,
            "socket": self.socket,
            "timeoutSeconds": self.timeout_seconds,
            "withoutEnforcer": self.without_enforcer,
        })
    }
}

/// The configuration with our entry: at the end of the chain if it is new, where it is if it is there. `None` is that
/// nothing has to change. One that somebody has put another plugin behind stays where it is: two programs that both want
/// to be last would never come to rest.
///
/// # Errors
/// The configuration cannot have it.
pub fn with_entry(text: &str, entry: &Entry) -> Result<Option<String>, Unfit> {
    let configuration = read(text)?;
    check_version(&configuration)?;
    let wanted = entry.to_json();
    let (base, rest) = match ours(&configuration).as_slice() {
        [] => (text.to_owned(), configuration),
        [one] if configuration["plugins"][*one] == wanted => return Ok(None),
        [one] => {
            let spans = spans(text);
            return Ok(spans
                .get(*one)
                .map(|span| replaced(text, span, &wanted.to_string())));
        }
        _ => {
            let base = without_entry(text)?.unwrap_or_else(|| text.to_owned());
            let rest = read(&base)?;
            (base, rest)
        }
    };
    if rest["plugins"].as_array().is_none_or(Vec::is_empty) {
        return Err(Unfit::Empty);
    }
    let last = spans(&base).pop();
    Ok(last.map(|last| replaced(&base, &(last.end..last.end), &format!(",{wanted}"))))
}

/// The configuration without our entry. `None` is that it has none.
///
/// # Errors
/// It is no configuration of several plugins.
pub fn without_entry(text: &str) -> Result<Option<String>, Unfit> {
    let mut text = text.to_owned();
    let mut changed = false;
    while let Some(index) = ours(&read(&text)?).last().copied() {
        let spans = spans(&text);
        let Some(own) = spans.get(index).cloned() else {
            break;
        };
        let before = index.checked_sub(1).and_then(|before| spans.get(before));
        let hole = match (before, spans.get(index + 1)) {
            (Some(before), _) => before.end..own.end,
            (None, Some(after)) => own.start..after.start,
            (None, None) => own,
        };
        text = replaced(&text, &hole, "");
        changed = true;
    }
    Ok(changed.then_some(text))
}

fn read(text: &str) -> Result<Value, Unfit> {
    let configuration: Value =
        serde_json::from_str(text).map_err(|error| Unfit::NoJson(error.to_string()))?;
    if configuration["plugins"].is_array() {
        Ok(configuration)
    } else {
        Err(Unfit::SinglePlugin)
    }
}

/// All of the versions that the runtime may choose from must be spoken, or no pod would start.
fn check_version(configuration: &Value) -> Result<(), Unfit> {
    let many = configuration["cniVersions"].as_array().into_iter().flatten();
    let mut versions = std::iter::once(&configuration["cniVersion"]).chain(many);
    let spoken = |version: &Value| {
        version
            .as_str()
            .is_some_and(|version| VERSIONS.contains(&version))
    };
    versions
        .find(|version| !spoken(version))
        .map_or(Ok(()), |version| Err(Unfit::Version(version.to_string())))
}

/// The places of our entries in the list.
fn ours(configuration: &Value) -> Vec<usize> {
    let plugins = configuration["plugins"].as_array().into_iter().flatten();
    let ours = plugins.enumerate().filter(|(_, plugin)| plugin["type"] == PLUGIN);
    ours.map(|(index, _)| index).collect()
}

fn replaced(text: &str, span: &Range<usize>, by: &str) -> String {
    format!("{}{by}{}", &text[..span.start], &text[span.end..])
}

/// Where the elements of the list of plugins are in the text, which is known to be JSON. Of two lists the last counts, as
/// it does for every reader.
fn spans(text: &str) -> Vec<Range<usize>> {
    let mut scan = Scan {
        bytes: text.as_bytes(),
        at: 0,
    };
    let mut spans = Vec::new();
    scan.opening(b'{');
    while let Some(key) = scan.item() {
        let is_plugins = serde_json::from_str::<String>(&text[key]).is_ok_and(|key| key == "plugins");
        scan.blank();
        if is_plugins && scan.peek() == Some(b'[') {
            spans.clear();
            scan.opening(b'[');
            while let Some(element) = scan.item() {
                spans.push(element);
            }
        } else {
            scan.value();
        }
    }
    spans
}

/// Walks over JSON that is known to be sound.
struct Scan<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Scan<'_> {
    fn peek(&self) -> Option<u8> {
        self.bytes.get(self.at).copied()
    }

    /// Blanks, and what stands between values.
    fn blank(&mut self) {
        while self
            .peek()
            .is_some_and(|byte| byte.is_ascii_whitespace() || byte == b',' || byte == b':')
        {
            self.at += 1;
        }
    }

    fn opening(&mut self, bracket: u8) {
        self.blank();
        if self.peek() == Some(bracket) {
            self.at += 1;
        }
    }

    /// The next value of the list or object that the scan is in; behind its closing bracket there is none.
    fn item(&mut self) -> Option<Range<usize>> {
        self.blank();
        match self.peek() {
            None => None,
            Some(b']' | b'}') => {
                self.at += 1;
                None
            }
            Some(_) => Some(self.value()),
        }
    }

    fn value(&mut self) -> Range<usize> {
        self.blank();
        let start = self.at;
        match self.peek() {
            Some(b'"') => self.string(),
            Some(b'{' | b'[') => {
                self.at += 1;
                while self.item().is_some() {}
            }
            _ => {
                while self
                    .peek()
                    .is_some_and(|byte| !byte.is_ascii_whitespace() && !b",:]}".contains(&byte))
                {
                    self.at += 1;
                }
            }
        }
        start..self.at
    }

    fn string(&mut self) {
        self.at += 1;
        while let Some(byte) = self.peek() {
            self.at += if byte == b'\\' { 2 } else { 1 };
            if byte == b'"' {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn entry() -> Entry {
        Entry {
            socket: "/run/ringfence/cni.sock".to_owned(),
            timeout_seconds: 5,
            without_enforcer: Fallback::Closed,
        }
    }

    /// As people and programs write them: with every kind of value, odd brackets in strings, and odd blanks.
    const WRITTEN: [&str; 4] = [
        "{\n  \"cniVersion\": \"0.4.0\",\n  \"name\": \"cbr0\",\n  \"plugins\": [\n    {\n      \"type\": \"flannel\",\n      \
         \"delegate\": {\"hairpinMode\": true, \"mtu\": 1450.0}\n    },\n    {\"type\": \"portmap\", \"capabilities\": \
         {\"portMappings\": true}}\n  ]\n}\n",
        r#"{"plugins":[{"type":"bridge"}],"cniVersion":"1.0.0","name":"n"}"#,
        r#"{"name":"]}\"[{\\","x":[[],{},null,-1e5,true],"plugins" : [ {"type":"a","b":"]"} , {"type":"c"} ] ,"cniVersion":"1.1.0"}"#,
        r#"{"plugins":[{"type":"old"}],"plugi\u006es":[{"type":"bridge"}],"cniVersion":"0.3.1"}"#,
    ];

    #[test]
    fn the_entry_comes_last_and_leaves_without_a_trace() {
        for text in WRITTEN {
            let with = with_entry(text, &entry()).unwrap().unwrap();
            let mut expected: Value = serde_json::from_str(text).unwrap();
            expected["plugins"]
                .as_array_mut()
                .unwrap()
                .push(entry().to_json());
            assert_eq!(serde_json::from_str::<Value>(&with).unwrap(), expected, "{text}");
            assert_eq!(with_entry(&with, &entry()), Ok(None), "once is enough: {text}");
            assert_eq!(without_entry(&with).unwrap().as_deref(), Some(text));
            assert_eq!(without_entry(text), Ok(None));
        }
    }

    #[test]
    fn an_entry_that_says_something_else_is_changed_where_it_is() {
        for text in WRITTEN {
            let with = with_entry(text, &entry()).unwrap().unwrap();
            let behind = with_entry(&with.replace(PLUGIN, "other"), &entry())
                .unwrap()
                .unwrap();
            let other = Entry {
                without_enforcer: Fallback::Open,
                timeout_seconds: 9,
                ..entry()
            };
            let changed = with_entry(&behind, &other).unwrap().unwrap();
            assert_eq!(
                with_entry(&changed, &entry()).unwrap().as_deref(),
                Some(behind.as_str())
            );
        }
    }

    #[test]
    fn an_entry_with_another_plugin_behind_it_stays_and_goes_all_the_same() {
        let ours = entry().to_json();
        let text = format!(r#"{{"cniVersion":"1.0.0","plugins":[{ours},{{"type":"istio-cni"}}]}}"#);
        assert_eq!(with_entry(&text, &entry()), Ok(None));
        let without = r#"{"cniVersion":"1.0.0","plugins":[{"type":"istio-cni"}]}"#;
        assert_eq!(without_entry(&text).unwrap().as_deref(), Some(without));
    }

    #[test]
    fn several_entries_become_one() {
        let ours = entry().to_json();
        let text = format!(r#"{{"cniVersion":"1.0.0","plugins":[{ours}, {{"type":"a"}}, {ours}]}}"#);
        let one = with_entry(&text, &entry()).unwrap().unwrap();
        let read: Value = serde_json::from_str(&one).unwrap();
        assert_eq!(read["plugins"], json!([{"type": "a"}, ours]));
        assert_eq!(
            without_entry(&text).unwrap().as_deref(),
            Some(r#"{"cniVersion":"1.0.0","plugins":[{"type":"a"}]}"#)
        );
    }

    #[test]
    fn what_no_pod_could_start_with_is_refused() {
        let refused = |text: &str| with_entry(text, &entry()).unwrap_err();
        assert_eq!(
            refused(r#"{"cniVersion":"1.0.0","type":"bridge"}"#),
            Unfit::SinglePlugin
        );
        assert_eq!(refused(r#"{"cniVersion":"1.0.0","plugins":[]}"#), Unfit::Empty);
        assert!(matches!(refused("{"), Unfit::NoJson(_)));
        for version in [
            r#""cniVersion":"0.2.0""#,
            r#""cniVersion":"1.0.0","cniVersions":["1.0.0","2.0.0"]"#,
            r#""name":"n""#,
        ] {
            let text = format!(r#"{{{version},"plugins":[{{"type":"bridge"}}]}}"#);
            assert!(matches!(refused(&text), Unfit::Version(_)), "{text}");
        }
    }
}
