//! Running a program to its end and turning its failure into an error that says what it said.

use std::io::Write;
use std::process::{Command, Output, Stdio};

use anyhow::{Context, Result, bail};

/// The command as a person would type it.
pub(crate) fn line(command: &Command) -> String {
    let mut text = command.get_program().to_string_lossy().into_owned();
    for argument in command.get_args() {
        text.push(' ');
        text.push_str(&argument.to_string_lossy());
    }
    text
}

/// Runs the command and gives its standard output.
pub(crate) fn run(command: &mut Command) -> Result<String> {
    command.stdin(Stdio::null());
    let output = command
        .output()
        .with_context(|| format!("start `{}`", line(command)))?;
    finish(command, &output)
}

/// Runs the command with `input` on its standard input and gives its standard output.
pub(crate) fn run_with_input(command: &mut Command, input: &str) -> Result<String> {
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = command
        .spawn()
        .with_context(|| format!("start `{}`", line(command)))?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin
            .write_all(input.as_bytes())
            .with_context(|| format!("write to `{}`", line(command)))?;
    }
    let output = child
        .wait_with_output()
        .with_context(|| format!("wait for `{}`", line(command)))?;
    finish(command, &output)
}

/// Output of a finished command, or an error with what it wrote to standard error.
fn finish(command: &Command, output: &Output) -> Result<String> {
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        bail!("`{}` failed ({}): {}", line(command), output.status, said.trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
