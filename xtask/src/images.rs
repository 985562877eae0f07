//! `cargo xtask images`: thin over [`ringfence_tests::images`].

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::Args;
use ringfence_tests::images::{ImageOptions, build};
use ringfence_tests::testbed::Console;

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// The images' tag.
    #[arg(long, default_value_t = ImageOptions::default().tag)]
    tag: String,
    /// Folder to write the archives to.
    #[arg(long, default_value_os_t = ImageOptions::default().out)]
    out: PathBuf,
}

pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode> {
    let options = ImageOptions {
        tag: arguments.tag.clone(),
        out: arguments.out.clone(),
    };
    for archive in build(&options, &Console::default())? {
        println!("{}", archive.display());
    }
    Ok(ExitCode::SUCCESS)
}
