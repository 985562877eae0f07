//! What the machine must have: root, Go, Debian packages. Installs what it can and names the rest.

use std::collections::BTreeSet;
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

use super::command::run;
use super::progress::{Progress, step};

/// Debian packages a cluster needs.
pub const FOR_CLUSTER: &[&str] = &[
    "conntrack",
    "containerd",
    "containernetworking-plugins",
    "iproute2",
    "ipset",
    "iptables",
    "kmod",
    "nftables",
    "runc",
    "socat",
    "util-linux",
];

/// Debian packages that storms need: a library that sets the clock of one program.
pub const FOR_STORMS: &[&str] = &["libfaketime"];

/// Debian packages that Argo CD beside a cluster needs.
pub const FOR_GITOPS: &[&str] = &["git", "redis-server"];

/// Debian packages that building the images needs.
pub const FOR_IMAGES: &[&str] = &["debootstrap"];

/// Refuses to go on without root.
///
/// # Errors
/// When this user is not root; the message says what needs it.
pub fn require_root(what: &str) -> Result<()> {
    ensure!(
        nix::unistd::geteuid().is_root(),
        "{what} needs root, for network namespaces, mounts and cgroups: run the same command as root (sudo -E)"
    );
    Ok(())
}

/// Of `wanted`, those that dpkg's listing (`${Package} ${db:Status-Status}` lines) does not call installed.
fn missing<'a>(wanted: &[&'a str], listing: &str) -> Vec<&'a str> {
    let installed: BTreeSet<&str> = listing
        .lines()
        .filter_map(|line| line.strip_suffix(" installed"))
        .map(str::trim)
        .collect();
    wanted
        .iter()
        .copied()
        .filter(|package| !installed.contains(package))
        .collect()
}

/// Installs those of `wanted` that are missing.
///
/// # Errors
/// Without dpkg (the packages are then named), or when apt-get fails.
pub fn ensure_installed(wanted: &[&str], progress: &dyn Progress) -> Result<()> {
    // dpkg-query exits 1 when it does not know one of the packages; what it does know it lists all the same.
    let known = Command::new("dpkg-query")
        .args(["--show", "--showformat=${Package} ${db:Status-Status}\\n"])
        .args(wanted)
        .output();
    let Ok(known) = known else {
        bail!(
            "this is no Debian machine (no dpkg-query): install these and try again: {}",
            wanted.join(" ")
        );
    };
    let missing = missing(wanted, &String::from_utf8_lossy(&known.stdout));
    if missing.is_empty() {
        return Ok(());
    }
    require_root(&format!("installing the missing packages {}", missing.join(" ")))?;
    step(
        progress,
        &format!("install packages {}", missing.join(" ")),
        || install(&missing),
    )
}

fn install(packages: &[&str]) -> Result<()> {
    let apt = || {
        let mut command = Command::new("apt-get");
        command.env("DEBIAN_FRONTEND", "noninteractive").arg("--quiet=2");
        command
    };
    let fetch = || {
        run(apt()
            .args(["install", "--yes", "--no-install-recommends"])
            .args(packages))
    };
    if fetch().is_ok() {
        return Ok(());
    }
    // The usual cause is a package index that is old or was never fetched.
    run(apt().arg("update")).context("refresh the package index")?;
    fetch().with_context(|| format!("install packages {} by hand, then try again", packages.join(" ")))?;
    Ok(())
}

/// The Go toolchain's version, such as `go1.26.0`.
///
/// # Errors
/// When there is no Go, with the remedy.
pub(crate) fn go_version() -> Result<String> {
    let version = run(Command::new("go").args(["env", "GOVERSION"])).context(
        "no Go toolchain: install Go 1.26 or newer from https://go.dev/dl and put its bin folder on PATH",
    )?;
    Ok(version.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_package_that_is_known_but_removed_is_missing() {
        let listing = "iptables installed\nkmod not-installed\nipset config-files\n";
        assert_eq!(
            missing(&["iptables", "kmod", "ipset", "runc"], listing),
            ["kmod", "ipset", "runc"]
        );
    }

    #[test]
    fn nothing_is_missing_when_all_is_installed() {
        assert!(missing(&["runc"], "runc installed\n").is_empty());
    }
}
