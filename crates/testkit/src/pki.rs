//! A throw-away certificate authority.

use std::{
    fs,
    net::{IpAddr, Ipv4Addr},
    path::{Path, PathBuf},
};

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose, SanType, date_time_ymd,
};
use tempfile::TempDir;

use crate::wait::must;

/// Where a certificate, its key and its authority are (PEM). The key has mode 600.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertFiles {
    /// The authority.
    pub ca: PathBuf,
    /// The certificate.
    pub cert: PathBuf,
    /// Its private key.
    pub key: PathBuf,
}

/// An authority and its certificates in a temporary folder. Two of them do not trust one another.
#[derive(Debug)]
pub struct Pki {
    folder: TempDir,
    issuer: CertifiedIssuer<'static, KeyPair>,
}

impl Default for Pki {
    fn default() -> Self {
        Self::new()
    }
}

impl Pki {
    /// A new authority.
    ///
    /// # Panics
    /// When it cannot be made.
    pub fn new() -> Self {
        let folder = must("a temporary folder", TempDir::with_prefix("sotto-pki-"));
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.distinguished_name.push(DnType::CommonName, "Sotto test authority");
        let key = must("a key", KeyPair::generate());
        let issuer = must("a certificate authority", CertifiedIssuer::self_signed(params, key));
        must("writing ca.pem", fs::write(folder.path().join("ca.pem"), issuer.pem()));
        Self { folder, issuer }
    }

    /// The authority's certificate.
    pub fn ca(&self) -> PathBuf {
        self.folder.path().join("ca.pem")
    }

    /// The folder that holds all files.
    pub fn dir(&self) -> &Path {
        self.folder.path()
    }

    /// A certificate for a service, as server and as client: `<name>.sotto.internal`, `localhost`, 127.0.0.1. Asked
    /// for again, it is renewed: the same files with another certificate and key.
    ///
    /// # Panics
    /// When it cannot be made.
    pub fn service(&self, name: &str) -> CertFiles {
        self.issue(name, &[&format!("{name}.sotto.internal"), "localhost"], (4096, 1, 1))
    }

    /// A service's certificate that ended in 2020.
    ///
    /// # Panics
    /// When it cannot be made.
    pub fn expired_service(&self, name: &str) -> CertFiles {
        self.issue(
            &format!("{name}-expired"),
            &[&format!("{name}.sotto.internal"), "localhost"],
            (2020, 1, 1),
        )
    }

    /// A certificate for other names (and 127.0.0.1), in files called `file`.
    ///
    /// # Panics
    /// When it cannot be made.
    pub fn named(&self, file: &str, names: &[&str]) -> CertFiles {
        self.issue(file, names, (4096, 1, 1))
    }

    fn issue(&self, file: &str, names: &[&str], (year, month, day): (i32, u8, u8)) -> CertFiles {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut params = must("certificate names", CertificateParams::new(names));
        params.subject_alt_names.push(SanType::IpAddress(IpAddr::V4(Ipv4Addr::LOCALHOST)));
        params.distinguished_name.push(DnType::CommonName, file);
        params.not_after = date_time_ymd(year, month, day);
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let key = must("a key", KeyPair::generate());
        let cert = must("a certificate", params.signed_by(&key, &self.issuer));
        let folder = self.folder.path();
        let files = CertFiles {
            ca: self.ca(),
            cert: folder.join(format!("{file}.pem")),
            key: folder.join(format!("{file}.key")),
        };
        must("writing a certificate", fs::write(&files.cert, cert.pem()));
        must("writing a key", write_private(&files.key, &key.serialize_pem()));
        files
    }
}

fn write_private(path: &Path, text: &str) -> std::io::Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    fs::write(path, text)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o600))
}
