//! Certificates and TLS configurations, renewed without a restart.
//!
//! Every hop of ours is mutual TLS (1.3 or 1.2, ring). A [`Tls`] holds the certificates of one configuration
//! section; configurations made from it follow renewed files, see [`Tls::watch`].

use std::{
    fmt, fs, io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime},
};

use rustls::{
    ClientConfig, RootCertStore, ServerConfig, SignatureScheme,
    client::ResolvesClientCert,
    crypto::CryptoProvider,
    server::{ClientHello, ResolvesServerCert, WebPkiClientVerifier},
    sign::CertifiedKey,
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject as _};
use sotto_core::{Classified, ErrorClass};

use crate::{config::TlsConfig, lifecycle::Context};

/// How often the certificate files are looked at.
const WATCH_EVERY: Duration = Duration::from_secs(5);

/// Why TLS cannot be set up from the given files.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read.
    #[error("{} cannot be read", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A file does not hold what it should.
    #[error("{} holds no valid PEM {what}", path.display())]
    Content {
        /// The file.
        path: PathBuf,
        /// What was looked for.
        what: &'static str,
    },
    /// The private key may be read by others.
    #[error("{} is open to every user of this machine: chmod 600 it", path.display())]
    OpenKey {
        /// The file.
        path: PathBuf,
    },
    /// The certificate and the key do not belong together, or the key's kind is not supported.
    #[error("the certificate in {} cannot be used with its key", path.display())]
    Mismatch {
        /// The certificate's file.
        path: PathBuf,
        /// Why.
        #[source]
        source: rustls::Error,
    },
    /// rustls refuses the configuration.
    #[error("the TLS configuration was refused")]
    Refused(#[source] rustls::Error),
    /// The authorities' certificates cannot verify peers.
    #[error("the authorities in {} cannot verify client certificates", path.display())]
    Verifier {
        /// The authorities' file.
        path: PathBuf,
        /// Why.
        #[source]
        source: rustls::server::VerifierBuilderError,
    },
}

impl Classified for TlsError {
    fn class(&self) -> ErrorClass {
        ErrorClass::Reject
    }
}

/// Installs ring as the process's TLS provider. Must come before the first TLS use of any library. Doing it again
/// changes nothing.
pub fn install_provider() {
    // An error means that a provider is installed already; only ring is compiled in.
    let _already = rustls::crypto::ring::default_provider().install_default();
}

/// Whether a server asks its clients for certificates.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientAuth {
    /// Only clients with a certificate of our authority: between services.
    Required,
    /// No client certificates: public endpoints.
    None,
}

/// The certificates of one configuration section. Clones share them.
#[derive(Clone, Debug)]
pub struct Tls(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    files: TlsConfig,
    current: Arc<Mutex<Current>>,
}

#[derive(Debug)]
struct Current {
    generation: u64,
    stamp: Stamp,
    material: Material,
}

#[derive(Clone)]
struct Material {
    roots: Arc<RootCertStore>,
    key: Arc<CertifiedKey>,
    pem: Arc<PemFiles>,
}

impl fmt::Debug for Material {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Material").field("roots", &self.roots.len()).finish_non_exhaustive()
    }
}

/// The files' text, for libraries that take PEM.
struct PemFiles {
    ca: Vec<u8>,
    cert: Vec<u8>,
    key: secrecy::SecretSlice<u8>,
}

/// What changes when a file is replaced.
type Stamp = [Option<(SystemTime, u64)>; 3];

impl Tls {
    /// Reads the files.
    ///
    /// # Errors
    /// When a file cannot be read, holds no PEM of its kind, or key and certificate do not fit.
    pub fn load(files: &TlsConfig) -> Result<Self, TlsError> {
        install_provider();
        let stamp = stamp(files);
        let current = Current { generation: 0, stamp, material: read(files)? };
        Ok(Self(Arc::new(Inner { files: files.clone(), current: Arc::new(Mutex::new(current)) })))
    }

    /// Reads the files again every few seconds when they changed, until the process stops.
    pub fn watch(&self, context: &Context) {
        let (tls, stop) = (self.clone(), context.stop.clone());
        context.tasks.spawn_background("certificate watch", async move {
            let mut tick = tokio::time::interval(WATCH_EVERY);
            loop {
                tokio::select! {
                    _ = tick.tick() => {}
                    () = stop.requested() => return,
                }
                tls.refresh();
            }
        });
    }

    /// Reads the files now if they changed. Returns whether new certificates are in use; unusable files are logged
    /// and the old certificates stay.
    pub fn refresh(&self) -> bool {
        let seen = stamp(&self.0.files);
        if lock(&self.0.current).stamp == seen {
            return false;
        }
        match read(&self.0.files) {
            Ok(material) => {
                let mut current = lock(&self.0.current);
                *current = Current { generation: current.generation + 1, stamp: seen, material };
                tracing::info!(cert_file = %self.0.files.cert_file.display(), "renewed certificates are in use");
                true
            }
            Err(e) => {
                // A renewal may be half written: the next look tries again, the old certificates stay.
                tracing::warn!(error = crate::telemetry::chain(&e), "renewed certificates cannot be used");
                false
            }
        }
    }

    /// A server's configurations, for the given ALPN protocols (`h2`, `http/1.1`).
    ///
    /// # Errors
    /// When rustls refuses the authorities or the protocol versions.
    pub fn server(&self, auth: ClientAuth, alpn: &[&str]) -> Result<TlsServer, TlsError> {
        let alpn = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
        let (generation, material) = self.material();
        let config = server_config(&self.0, &material, auth, &alpn)?;
        let cached = Mutex::new((generation, Arc::new(config)));
        Ok(TlsServer { tls: self.clone(), auth, alpn, cached })
    }

    /// A client's configuration, with our certificate, trusting only our authorities. The certificate follows
    /// renewals; the authorities are those of this moment.
    ///
    /// # Errors
    /// When rustls refuses the protocol versions.
    pub fn client(&self, alpn: &[&str]) -> Result<ClientConfig, TlsError> {
        let (_, material) = self.material();
        let mut config = ClientConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .map_err(TlsError::Refused)?
            .with_root_certificates(material.roots)
            .with_client_cert_resolver(self.resolver());
        config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
        Ok(config)
    }

    /// A number that grows with each renewal.
    pub(crate) fn generation(&self) -> u64 {
        lock(&self.0.current).generation
    }

    /// The authorities, the certificate and the key as PEM, for libraries that take nothing else.
    pub(crate) fn with_pem<R>(&self, use_it: impl FnOnce(&[u8], &[u8], &[u8]) -> R) -> R {
        use secrecy::ExposeSecret as _;
        let (_, material) = self.material();
        use_it(&material.pem.ca, &material.pem.cert, material.pem.key.expose_secret())
    }

    fn material(&self) -> (u64, Material) {
        let current = lock(&self.0.current);
        (current.generation, current.material.clone())
    }

    fn resolver(&self) -> Arc<FollowsFiles> {
        Arc::new(FollowsFiles(Arc::clone(&self.0.current)))
    }
}

/// A server's TLS, rebuilt when certificates or authorities were renewed.
#[derive(Debug)]
pub struct TlsServer {
    tls: Tls,
    auth: ClientAuth,
    alpn: Vec<Vec<u8>>,
    cached: Mutex<(u64, Arc<ServerConfig>)>,
}

impl TlsServer {
    /// The configuration for the next connection.
    pub fn current(&self) -> Arc<ServerConfig> {
        let (generation, material) = self.tls.material();
        let mut cached = lock(&self.cached);
        if cached.0 != generation {
            match server_config(&self.tls.0, &material, self.auth, &self.alpn) {
                Ok(config) => *cached = (generation, Arc::new(config)),
                Err(e) => {
                    tracing::warn!(error = crate::telemetry::chain(&e), "renewed authorities cannot be used")
                }
            }
        }
        Arc::clone(&cached.1)
    }
}

fn server_config(
    inner: &Inner,
    material: &Material,
    auth: ClientAuth,
    alpn: &Vec<Vec<u8>>,
) -> Result<ServerConfig, TlsError> {
    let builder = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(TlsError::Refused)?;
    let builder = match auth {
        ClientAuth::Required => {
            let verifier =
                WebPkiClientVerifier::builder_with_provider(Arc::clone(&material.roots), provider())
                    .build()
                    .map_err(|source| TlsError::Verifier { path: inner.files.ca_file.clone(), source })?;
            builder.with_client_cert_verifier(verifier)
        }
        ClientAuth::None => builder.with_no_client_auth(),
    };
    let mut config = builder.with_cert_resolver(Arc::new(FollowsFiles(Arc::clone(&inner.current))));
    config.alpn_protocols.clone_from(alpn);
    Ok(config)
}

/// Hands out the certificate that the files hold now.
#[derive(Debug)]
struct FollowsFiles(Arc<Mutex<Current>>);

impl ResolvesServerCert for FollowsFiles {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&lock(&self.0).material.key))
    }
}

impl ResolvesClientCert for FollowsFiles {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&lock(&self.0).material.key))
    }

    fn has_certs(&self) -> bool {
        true
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

fn stamp(files: &TlsConfig) -> Stamp {
    [&files.ca_file, &files.cert_file, &files.key_file].map(|path| {
        let about = fs::metadata(path).ok()?;
        Some((about.modified().ok()?, about.len()))
    })
}

fn read(files: &TlsConfig) -> Result<Material, TlsError> {
    let ca = read_file(&files.ca_file)?;
    let cert = read_file(&files.cert_file)?;
    refuse_open_key(&files.key_file)?;
    let key: secrecy::SecretSlice<u8> = read_file(&files.key_file)?.into();
    let mut roots = RootCertStore::empty();
    for root in certificates(&files.ca_file, &ca)? {
        let not_usable = |_| TlsError::Content { path: files.ca_file.clone(), what: "certificate authority" };
        roots.add(root).map_err(not_usable)?;
    }
    let chain = certificates(&files.cert_file, &cert)?;
    let private = {
        use secrecy::ExposeSecret as _;
        PrivateKeyDer::from_pem_slice(key.expose_secret())
            .map_err(|_| TlsError::Content { path: files.key_file.clone(), what: "private key" })?
    };
    let certified = CertifiedKey::from_der(chain, private, &provider())
        .map_err(|source| TlsError::Mismatch { path: files.cert_file.clone(), source })?;
    Ok(Material {
        roots: Arc::new(roots),
        key: Arc::new(certified),
        pem: Arc::new(PemFiles { ca, cert, key }),
    })
}

fn read_file(path: &Path) -> Result<Vec<u8>, TlsError> {
    fs::read(path).map_err(|source| TlsError::Read { path: path.to_owned(), source })
}

fn certificates(path: &Path, pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let invalid = || TlsError::Content { path: path.to_owned(), what: "certificate" };
    let found: Vec<_> =
        CertificateDer::pem_slice_iter(pem).collect::<Result<_, _>>().map_err(|_| invalid())?;
    if found.is_empty() { Err(invalid()) } else { Ok(found) }
}

#[cfg(unix)]
fn refuse_open_key(path: &Path) -> Result<(), TlsError> {
    use std::os::unix::fs::PermissionsExt as _;
    let about = fs::metadata(path).map_err(|source| TlsError::Read { path: path.to_owned(), source })?;
    if about.permissions().mode() & 0o007 == 0 {
        Ok(())
    } else {
        Err(TlsError::OpenKey { path: path.to_owned() })
    }
}

#[cfg(not(unix))]
fn refuse_open_key(_: &Path) -> Result<(), TlsError> {
    Ok(())
}

/// Who is at the other end of a connection, by the names its verified certificate is valid for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PeerService {
    /// Takes messages in.
    Ingress,
    /// Decides their way.
    Routing,
    /// Hands them to carriers.
    Carrier,
    /// Knows clients and people.
    Identity,
    /// Keeps keys.
    Privacy,
    /// Keeps the log.
    Audit,
    /// A person at the command line.
    Operator,
    /// Applies streams and settings.
    Provisioner,
}

impl PeerService {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::Ingress,
        Self::Routing,
        Self::Carrier,
        Self::Identity,
        Self::Privacy,
        Self::Audit,
        Self::Operator,
        Self::Provisioner,
    ];

    /// The service's short name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ingress => "ingress",
            Self::Routing => "routing",
            Self::Carrier => "carrier",
            Self::Identity => "identity",
            Self::Privacy => "privacy",
            Self::Audit => "audit",
            Self::Operator => "operator",
            Self::Provisioner => "provisioner",
        }
    }

    /// The name in its certificate: `<service>.sotto.internal`.
    pub fn tls_name(self) -> String {
        format!("{}.sotto.internal", self.name())
    }

    /// The service a certificate is valid for. The caller has verified the certificate's chain.
    pub fn of(certificate: &CertificateDer<'_>) -> Option<Self> {
        let certificate = webpki::EndEntityCert::try_from(certificate).ok()?;
        Self::ALL.into_iter().find(|service| {
            ServerName::try_from(service.tls_name())
                .is_ok_and(|name| certificate.verify_is_valid_for_subject_name(&name).is_ok())
        })
    }
}

impl fmt::Display for PeerService {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
