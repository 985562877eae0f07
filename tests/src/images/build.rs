//! Building the project's images.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use super::archive::{ImageSpec, LayerFile, write_archive};
use super::base;
use super::spec::{ENFORCER, OPERATOR, Recipe};
use crate::source;
use crate::testbed::{Progress, run, step};

/// How to build the images.
#[derive(Debug, Clone)]
pub struct ImageOptions {
    /// The images' tag.
    pub tag: String,
    /// The folder that archives are written to.
    pub out: PathBuf,
}

impl Default for ImageOptions {
    /// Tag `dev`, in `target/images`.
    fn default() -> Self {
        Self {
            tag: "dev".to_owned(),
            out: target_dir().join("images"),
        }
    }
}

fn target_dir() -> PathBuf {
    env::var_os("CARGO_TARGET_DIR").map_or_else(|| source::root().join("target"), PathBuf::from)
}

/// Compiles both programs and writes one archive for each; gives the archives.
///
/// # Errors
/// When a program does not compile, or the base layer cannot be made.
pub fn build(options: &ImageOptions, progress: &dyn Progress) -> Result<Vec<PathBuf>> {
    let recipes = [OPERATOR, ENFORCER];
    let programs = step(progress, "compile the programs as static binaries", || {
        compile(&recipes)
    })?;
    fs::create_dir_all(&options.out).with_context(|| format!("make folder {}", options.out.display()))?;
    let mut archives = Vec::new();
    for recipe in recipes {
        let base = match recipe.packages {
            [] => None,
            packages => Some(base::layer(packages, progress)?),
        };
        let archive = options.out.join(format!("{}.tar", recipe.program));
        let image = image(&recipe, &options.tag, base, &programs);
        step(progress, &format!("write {}", archive.display()), || {
            write_archive(&image, &archive)
        })?;
        archives.push(archive);
    }
    Ok(archives)
}

fn image(recipe: &Recipe, tag: &str, base: Option<PathBuf>, programs: &Path) -> ImageSpec {
    let files = recipe.binaries().map(|(program, path)| LayerFile {
        source: programs.join(program),
        target: path.to_owned(),
        mode: 0o755,
    });
    ImageSpec {
        names: vec![format!("{}:{tag}", recipe.name)],
        entrypoint: vec![recipe.path.to_owned()],
        user: recipe.user.to_owned(),
        base,
        files: files.collect(),
    }
}

/// Compiles with profile `image`; gives the folder with the binaries.
fn compile(recipes: &[Recipe]) -> Result<PathBuf> {
    let host = host_triple()?;
    let mut command = source::cargo();
    command.current_dir(source::root()).args([
        "build",
        "--quiet",
        "--locked",
        "--profile=image",
        "--target",
        &host,
    ]);
    for recipe in recipes {
        command.args(["--package", recipe.program]);
        for (program, _) in recipe.binaries() {
            command.args(["--bin", program]);
        }
    }
    // Naming the target keeps the flag away from build scripts and macros, which must stay dynamic.
    command
        .env("RUSTFLAGS", "-Ctarget-feature=+crt-static")
        .env_remove("CARGO_ENCODED_RUSTFLAGS");
    run(&mut command).context("compile the programs")?;
    Ok(target_dir().join(host).join("image"))
}

fn host_triple() -> Result<String> {
    let said = run(Command::new("rustc").arg("-vV")).context("ask rustc for this machine's target")?;
    match said.lines().find_map(|line| line.strip_prefix("host: ")) {
        Some(host) => Ok(host.to_owned()),
        None => bail!("`rustc -vV` names no host"),
    }
}
