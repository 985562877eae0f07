//! The log: one line per event on standard error, as text or as JSON.

use std::io::{self, IsTerminal};

use clap::{Args, ValueEnum};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::ParseError;
use tracing_subscriber::util::TryInitError;
use tracing_subscriber::{fmt, prelude::*};

/// How a log line looks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// Text on a terminal, JSON everywhere else
    #[default]
    Auto,
    /// Lines for people, coloured on a terminal
    Text,
    /// One JSON object per line
    Json,
}

/// The log's options, to be flattened into a program's own.
#[derive(Clone, Debug, Args)]
pub struct LogArgs {
    /// How log lines look
    #[arg(
        long,
        value_enum,
        default_value_t,
        env = "RINGFENCE_LOG_FORMAT",
        help_heading = "Logs"
    )]
    pub log_format: LogFormat,
    /// What is logged: a level, or a filter such as "info,ringfence_operator=debug"
    #[arg(
        long,
        default_value = "info",
        env = "RUST_LOG",
        value_name = "FILTER",
        help_heading = "Logs"
    )]
    pub log_level: String,
}

/// Why the log could not be started.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The filter is none.
    #[error(
        "--log-level {filter:?} is not a log filter ({source}): use a level such as \"info\", or \"info,kube=debug\""
    )]
    Filter {
        /// What was given.
        filter: String,
        /// What is wrong with it.
        source: ParseError,
    },
    /// The process has a log already.
    #[error("the log was already started: start it once per process")]
    Started(#[from] TryInitError),
}

impl LogArgs {
    /// Starts the log of this process. Lines go to standard error, for standard output belongs to results.
    ///
    /// # Errors
    ///
    /// When the filter cannot be read, or the process has a log already.
    pub fn init(&self) -> Result<(), LogError> {
        let terminal = io::stderr().is_terminal();
        let registry = tracing_subscriber::registry().with(self.filter()?);
        if self.json(terminal) {
            let json = fmt::layer().json().flatten_event(true).with_writer(io::stderr);
            registry
                .with(json.with_current_span(true).with_span_list(false))
                .try_init()?;
        } else {
            registry
                .with(fmt::layer().with_ansi(terminal).with_writer(io::stderr))
                .try_init()?;
        }
        Ok(())
    }

    fn filter(&self) -> Result<EnvFilter, LogError> {
        EnvFilter::try_new(&self.log_level).map_err(|source| LogError::Filter {
            filter: self.log_level.clone(),
            source,
        })
    }

    fn json(&self, terminal: bool) -> bool {
        match self.log_format {
            LogFormat::Json => true,
            LogFormat::Text => false,
            LogFormat::Auto => !terminal,
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Program {
        #[command(flatten)]
        log: LogArgs,
    }

    fn args(args: &[&str]) -> LogArgs {
        Program::try_parse_from([&["program"], args].concat())
            .unwrap()
            .log
    }

    #[test]
    fn auto_is_text_for_people_and_json_for_machines() {
        assert!(!args(&[]).json(true));
        assert!(args(&[]).json(false));
        assert!(args(&["--log-format", "json"]).json(true));
        assert!(!args(&["--log-format", "text"]).json(false));
    }

    #[test]
    fn a_filter_that_is_none_is_named_in_the_error() {
        let error = args(&["--log-level", "info,=,"])
            .filter()
            .unwrap_err()
            .to_string();
        assert!(error.contains("info,=,"), "{error}");
        assert!(args(&["--log-level", "info,kube=debug"]).filter().is_ok());
    }
}
