//! kubeconfig files.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::pki::Identity;

/// Writes a kubeconfig for `identity` at `server`. Certificates go in by value, so the file can be copied anywhere.
pub(crate) fn write(path: &Path, server: &str, ca: &Path, identity: &Identity) -> Result<()> {
    let config = render(server, &read(ca)?, &read(&identity.cert)?, &read(&identity.key)?);
    fs::write(path, serde_json::to_string_pretty(&config)?)
        .and_then(|()| fs::set_permissions(path, fs::Permissions::from_mode(0o600)))
        .with_context(|| format!("write kubeconfig {}", path.display()))
}

fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).with_context(|| format!("read {}", path.display()))
}

/// JSON is YAML, and needs no quoting rules of its own.
fn render(server: &str, ca: &[u8], cert: &[u8], key: &[u8]) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{
            "name": "ringfence",
            "cluster": {"server": server, "certificate-authority-data": base64(ca)},
        }],
        "users": [{
            "name": "ringfence",
            "user": {"client-certificate-data": base64(cert), "client-key-data": base64(key)},
        }],
        "contexts": [{"name": "ringfence", "context": {"cluster": "ringfence", "user": "ringfence"}}],
        "current-context": "ringfence",
    })
}

/// Base64 with padding, RFC 4648 section 4.
fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let mut group = [0u8; 3];
        group[..chunk.len()].copy_from_slice(chunk);
        let bits = u32::from_be_bytes([0, group[0], group[1], group[2]]);
        for i in 0..4 {
            let sextet = (bits >> (18 - 6 * i)) & 63;
            text.push(if i <= chunk.len() {
                char::from(ALPHABET[sextet as usize])
            } else {
                '='
            });
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_matches_the_examples_of_its_rfc() {
        let examples = [
            ("", ""),
            ("f", "Zg=="),
            ("fo", "Zm8="),
            ("foo", "Zm9v"),
            ("foob", "Zm9vYg=="),
            ("foobar", "Zm9vYmFy"),
        ];
        for (plain, coded) in examples {
            assert_eq!(base64(plain.as_bytes()), coded);
        }
    }

    #[test]
    fn the_api_server_is_verified() {
        let config = render("https://127.0.0.1:1", b"ca", b"cert", b"key");
        let cluster = &config["clusters"][0]["cluster"];
        assert_eq!(cluster["certificate-authority-data"], "Y2E=");
        assert!(cluster.get("insecure-skip-tls-verify").is_none());
    }
}
