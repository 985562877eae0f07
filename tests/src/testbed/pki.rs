//! The cluster's own certificate authority and the certificates it signs.

use std::fs;
use std::net::IpAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType,
};

/// Files of one identity.
#[derive(Debug, Clone)]
pub(crate) struct Identity {
    pub(crate) cert: PathBuf,
    pub(crate) key: PathBuf,
}

/// Files of the key pair that ServiceAccount tokens are signed with and checked by.
#[derive(Debug, Clone)]
pub(crate) struct TokenKey {
    pub(crate) private: PathBuf,
    pub(crate) public: PathBuf,
}

/// A folder with a certificate authority in it: `ca.crt`, and `NAME.crt` and `NAME.key` per identity.
pub(crate) struct Pki {
    dir: PathBuf,
    issuer: Issuer<'static, KeyPair>,
    ca_pem: String,
}

impl Pki {
    /// Makes a new authority in `dir`, which must exist. Its key never touches the disk: what needs a certificate is
    /// known when the cluster starts.
    pub(crate) fn create(dir: &Path) -> Result<Self> {
        let key = KeyPair::generate().context("make the key of the certificate authority")?;
        let mut params = CertificateParams::default();
        params
            .distinguished_name
            .push(DnType::CommonName, "ringfence-testbed");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
        let ca_pem = params
            .self_signed(&key)
            .context("sign the certificate authority")?
            .pem();
        let pki = Self {
            dir: dir.to_owned(),
            issuer: Issuer::new(params, key),
            ca_pem,
        };
        fs::write(pki.ca(), &pki.ca_pem).with_context(|| format!("write {}", pki.ca().display()))?;
        Ok(pki)
    }

    /// The authority's certificate.
    pub(crate) fn ca(&self) -> PathBuf {
        self.dir.join("ca.crt")
    }

    /// A certificate to log in to the API server with: user `user` in `group`.
    pub(crate) fn client(&self, name: &str, user: &str, group: Option<&str>) -> Result<Identity> {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, user);
        if let Some(group) = group {
            params.distinguished_name.push(DnType::OrganizationName, group);
        }
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        self.sign(name, params)
    }

    /// A certificate to serve with under these names and addresses.
    pub(crate) fn server(&self, name: &str, dns: &[&str], ips: &[IpAddr]) -> Result<Identity> {
        let names: Vec<String> = dns.iter().map(ToString::to_string).collect();
        let mut params =
            CertificateParams::new(names).with_context(|| format!("names of certificate {name}"))?;
        params
            .subject_alt_names
            .extend(ips.iter().map(|ip| SanType::IpAddress(*ip)));
        params.distinguished_name.push(DnType::CommonName, name);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        self.sign(name, params)
    }

    /// A key pair for signing ServiceAccount tokens.
    pub(crate) fn token_key(&self) -> Result<TokenKey> {
        let key = KeyPair::generate().context("make the ServiceAccount token key")?;
        let pair = TokenKey {
            private: self.dir.join("service-account.key"),
            public: self.dir.join("service-account.pub"),
        };
        write_secret(&pair.private, &key.serialize_pem())?;
        fs::write(&pair.public, key.public_key_pem())
            .with_context(|| format!("write {}", pair.public.display()))?;
        Ok(pair)
    }

    fn sign(&self, name: &str, mut params: CertificateParams) -> Result<Identity> {
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        let key = KeyPair::generate().with_context(|| format!("make key {name}"))?;
        let cert = params
            .signed_by(&key, &self.issuer)
            .with_context(|| format!("sign certificate {name}"))?;
        let identity = Identity {
            cert: self.dir.join(format!("{name}.crt")),
            key: self.dir.join(format!("{name}.key")),
        };
        fs::write(&identity.cert, cert.pem())
            .with_context(|| format!("write {}", identity.cert.display()))?;
        write_secret(&identity.key, &key.serialize_pem())?;
        Ok(identity)
    }
}

fn write_secret(path: &Path, text: &str) -> Result<()> {
    use std::io::Write;
    fs::OpenOptions::new()
        .create(true)
        .truncate(true)
        .write(true)
        .mode(0o600)
        .open(path)
        .and_then(|mut file| file.write_all(text.as_bytes()))
        .with_context(|| format!("write {}", path.display()))
}
