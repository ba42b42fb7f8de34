//! Binds to carriers: TCP, TLS, `bind_transceiver`, for ever.

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use futures::future::{join_all, select_all};
use sotto_core::{
    Sensitive,
    carriers::{
        Account as Settings, BindKind, ClientCertificate, Host, InterfaceVersion, PASSWORD_MAX_OCTETS, Tls,
        Tolerance,
    },
};
use sotto_crypto::{hash::sha256, random::random_array};
use sotto_runtime::{Stop, telemetry::chain};
use sotto_smpp::{
    Address, COctets, CloseReason, Link, Session, SessionOptions,
    client::{BindError, BindOptions, bind},
    pdu as smpp,
};
use tokio::{net::TcpStream, task::JoinSet, time::timeout};
use tokio_rustls::{
    TlsConnector,
    client::TlsStream,
    rustls::{
        ClientConfig, RootCertStore,
        crypto::ring::default_provider,
        pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject as _},
    },
};
use tokio_util::sync::CancellationToken;
use webpki::EndEntityCert;

use crate::{
    app::{
        account::Account,
        line::Bind,
        tenure::{Guard, Post},
    },
    domain::{
        receipt::About,
        reconnect::{Failure, Reconnect},
    },
    ports::Act,
};

/// How long a connection may take, TLS included.
const CONNECT: Duration = Duration::from_secs(10);
/// How long the next bind waits until what the last session brought is stored. What takes longer, because Redis or the
/// log is away, is finished beside the next session.
const LEFTOVERS: Duration = Duration::from_secs(5);
/// How long a session that is given up may take to write what it has begun.
const LAST_WORDS: Duration = Duration::from_secs(1);
/// Sessions whose leftovers may be under way at a time; at the limit the next bind waits for them after all.
const MOST_LEFTOVERS: usize = 8;
/// Receipts that may wait for their answer; beyond it we stop reading.
const INCOMING: usize = 512;

/// Why there is no bind.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConnectError {
    /// The password cannot be read.
    #[error("the password file {} cannot be used: {why}", path.display())]
    Password {
        /// The file.
        path: PathBuf,
        /// Why.
        why: String,
    },
    /// The kernel gives no timer.
    #[error("the end of the lease cannot be guarded")]
    Fuse(#[source] io::Error),
    /// The carrier's authorities cannot be read.
    #[error("the certificate authorities {} cannot be used", from.display())]
    Authorities {
        /// The file, or the system's.
        from: PathBuf,
    },
    /// The certificate's name is none.
    #[error("tls_server_name is not a name that a certificate can have")]
    ServerName,
    /// rustls refuses the settings.
    #[error("TLS cannot be set up")]
    Tls(#[source] tokio_rustls::rustls::Error),
    /// Our certificate or its key cannot be read.
    #[error("our certificate or key {} cannot be used: it is missing, no PEM, or a key that is open to all users", path.display())]
    Certificate {
        /// The file.
        path: PathBuf,
    },
    /// The certificate is valid and has another key.
    #[error("the carrier's certificate has another key than tls_pin")]
    Pin,
    /// No connection.
    #[error("the carrier cannot be reached")]
    Connect(#[source] io::Error),
    /// No TLS.
    #[error("TLS with the carrier failed")]
    Handshake(#[source] io::Error),
    /// It took too long.
    #[error("the carrier did not answer in time")]
    TimedOut,
    /// No session.
    #[error("the carrier did not let us in")]
    Bind(#[source] BindError),
}

impl ConnectError {
    const fn failure(&self) -> Failure {
        match self {
            Self::Password { .. }
            | Self::Authorities { .. }
            | Self::Certificate { .. }
            | Self::ServerName
            | Self::Pin
            | Self::Tls(_) => Failure::Credentials,
            Self::Bind(BindError::Refused(status)) => Failure::of_bind(*status),
            Self::Connect(_) | Self::Handshake(_) | Self::TimedOut | Self::Bind(_) | Self::Fuse(_) => {
                Failure::Link
            }
        }
    }
}

/// Reads what an account's bind needs from files: done at the start to tell mistakes at once, and again at each bind,
/// so that they may be renewed.
pub(crate) fn check_files(settings: &Settings, folder: &Path) -> Result<(), ConnectError> {
    password(settings, folder)?;
    tls(settings, folder).map(drop)
}

fn password(settings: &Settings, folder: &Path) -> Result<Sensitive<String>, ConnectError> {
    let path = folder.join(&settings.password_file);
    let fail = |why: String| ConnectError::Password { path: path.clone(), why };
    let about = std::fs::metadata(&path).map_err(|error| fail(error.to_string()))?;
    if open_to_all(&about) {
        return Err(fail("it is open to every user of this machine: chmod 600 it".to_owned()));
    }
    let text = std::fs::read_to_string(&path).map(Sensitive::new).map_err(|error| fail(error.to_string()))?;
    let password = text.expose().trim_end_matches(['\r', '\n']).to_owned();
    if password.len() > PASSWORD_MAX_OCTETS || !password.is_ascii() {
        return Err(fail(format!("a password has at most {PASSWORD_MAX_OCTETS} ASCII characters")));
    }
    Ok(Sensitive::new(password))
}

#[cfg(unix)]
fn open_to_all(about: &std::fs::Metadata) -> bool {
    use std::os::unix::fs::PermissionsExt as _;
    about.permissions().mode() & 0o007 != 0
}

#[cfg(not(unix))]
const fn open_to_all(_: &std::fs::Metadata) -> bool {
    false
}

/// How to make a connection safe.
struct Safe {
    connector: TlsConnector,
    /// The name that the certificate must have, if not the host's.
    name: Option<String>,
    /// The key that it must have besides.
    pin: Option<[u8; 32]>,
}

/// `None` where TLS was waived.
fn tls(settings: &Settings, folder: &Path) -> Result<Option<Safe>, ConnectError> {
    let Tls::Required { ca_file, server_name, pin, client } = &settings.tls else { return Ok(None) };
    let mut roots = RootCertStore::empty();
    let from = match ca_file {
        Some(file) => {
            let path = folder.join(file);
            let pem = std::fs::read(&path).unwrap_or_default();
            roots.add_parsable_certificates(CertificateDer::pem_slice_iter(&pem).filter_map(Result::ok));
            path
        }
        None => {
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
            PathBuf::from("of this system")
        }
    };
    if roots.is_empty() {
        return Err(ConnectError::Authorities { from });
    }
    let builder = ClientConfig::builder_with_provider(Arc::new(default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(ConnectError::Tls)?
        .with_root_certificates(roots);
    let config = match client {
        None => builder.with_no_client_auth(),
        Some(files) => {
            let (chain, key) = certificate(files, folder)?;
            builder.with_client_auth_cert(chain, key).map_err(ConnectError::Tls)?
        }
    };
    let connector = TlsConnector::from(Arc::new(config));
    Ok(Some(Safe { connector, name: server_name.clone(), pin: *pin }))
}

/// Our own certificate and its key.
fn certificate(
    files: &ClientCertificate,
    folder: &Path,
) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>), ConnectError> {
    let fail = |path: &Path| ConnectError::Certificate { path: path.to_owned() };
    let path = folder.join(&files.cert_file);
    let chain = CertificateDer::pem_file_iter(&path).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    let chain = chain.ok().filter(|chain| !chain.is_empty()).ok_or_else(|| fail(&path))?;
    let path = folder.join(&files.key_file);
    if std::fs::metadata(&path).is_ok_and(|about| open_to_all(&about)) {
        return Err(fail(&path));
    }
    let key = PrivateKeyDer::from_pem_file(&path).map_err(|_| fail(&path))?;
    Ok((chain, key))
}

impl Safe {
    async fn handshake(&self, host: &Host, stream: TcpStream) -> Result<TlsStream<TcpStream>, ConnectError> {
        let name = self.name.clone().unwrap_or_else(|| host.name.clone());
        let name = ServerName::try_from(name).map_err(|_| ConnectError::ServerName)?;
        let stream = timeout(CONNECT, self.connector.connect(name, stream)).await;
        let stream = stream.map_err(|_| ConnectError::TimedOut)?.map_err(ConnectError::Handshake)?;
        let Some(pin) = self.pin else { return Ok(stream) };
        let shown = stream.get_ref().1.peer_certificates().and_then(<[_]>::first);
        // Nothing of ours was sent yet.
        let key = shown.and_then(|shown| EndEntityCert::try_from(shown).ok());
        if key.is_some_and(|key| sha256(&key.subject_public_key_info()) == pin) {
            Ok(stream)
        } else {
            Err(ConnectError::Pin)
        }
    }
}

const fn tolerance(settings: &Settings) -> sotto_smpp::Tolerance {
    match settings.tolerance {
        Tolerance::Carrier => sotto_smpp::Tolerance::CARRIER,
        Tolerance::Strict => sotto_smpp::Tolerance::STRICT,
    }
}

/// One session of a bind, to one place of the carrier.
async fn connect(
    settings: &Settings,
    folder: &Path,
    host: &Host,
    kind: smpp::BindKind,
) -> Result<Session<About>, ConnectError> {
    let password = password(settings, folder)?;
    let options = SessionOptions {
        window: usize::from(settings.window),
        incoming_window: INCOMING,
        response_timeout: settings.response_timeout,
        enquire_link_interval: settings.enquire_link,
        ..SessionOptions::default()
    };
    let (ton, npi) = settings.addressing.bind;
    let bound = BindOptions {
        kind,
        system_id: COctets::from(settings.system_id.as_str()),
        password: COctets::from(password.expose().as_str()),
        system_type: COctets::from(settings.system_type.as_str()),
        interface_version: match settings.interface_version {
            InterfaceVersion::V34 => smpp::INTERFACE_VERSION_34,
            InterfaceVersion::V50 => smpp::INTERFACE_VERSION_50,
        },
        address_range: Address { ton, npi, value: COctets::from(settings.address_range.as_str()) },
        tolerance: tolerance(settings),
    };
    let session = match reach(settings, folder, host).await? {
        Reached::Tls(stream) => bind(*stream, bound, options).await,
        Reached::Tcp(stream) => bind(stream, bound, options).await,
    };
    session.map(|(session, _)| session).map_err(ConnectError::Bind)
}

/// A connection to a carrier over which nothing of SMPP was said yet.
enum Reached {
    /// As it is.
    Tcp(TcpStream),
    /// Encrypted, to whom we wanted.
    Tls(Box<TlsStream<TcpStream>>),
}

async fn reach(settings: &Settings, folder: &Path, host: &Host) -> Result<Reached, ConnectError> {
    let safe = tls(settings, folder)?;
    let stream = async {
        let stream = TcpStream::connect((host.name.as_str(), host.port)).await?;
        stream.set_nodelay(true)?;
        Ok(stream)
    };
    let stream = timeout(CONNECT, stream).await.map_err(|_| ConnectError::TimedOut)?;
    let stream = stream.map_err(ConnectError::Connect)?;
    match safe {
        Some(safe) => safe.handshake(host, stream).await.map(Box::new).map(Reached::Tls),
        None => Ok(Reached::Tcp(stream)),
    }
}

/// Tries the way to one place of a carrier: the connection, and TLS with it. Nobody knocks: a bind more than the contract
/// has would be refused, and carriers lock accounts that knock too often.
pub(crate) async fn try_host(settings: &Settings, folder: &Path, host: &Host) -> Result<(), ConnectError> {
    reach(settings, folder, host).await.map(drop)
}

/// The sessions of one bind: that on which messages go out first.
async fn sessions(
    settings: &Settings,
    folder: &Path,
    host: &Host,
) -> Result<Vec<Session<About>>, ConnectError> {
    match settings.bind {
        BindKind::Transceiver => {
            Ok(vec![connect(settings, folder, host, smpp::BindKind::Transceiver).await?])
        }
        BindKind::TransmitterReceiver => {
            // Who listens before anything is said hears every receipt.
            let receiver = connect(settings, folder, host, smpp::BindKind::Receiver).await?;
            let transmitter = connect(settings, folder, host, smpp::BindKind::Transmitter).await?;
            Ok(vec![transmitter, receiver])
        }
    }
}

/// Keeps one bind of an account while it is ours, until the process stops; then unbinds once `drained` says that no work is
/// under way.
pub(crate) async fn keep_bound(
    account: Arc<Account>,
    mut post: Post,
    folder: PathBuf,
    stop: Stop,
    drained: CancellationToken,
) {
    let settings = &account.settings;
    let mut reconnect = Reconnect::default();
    let mut told = None;
    let mut leftovers = JoinSet::new();
    let mut tries = usize::from(post.number) - 1;
    loop {
        if !post.is_ours() {
            // What failed before says nothing about the next time that it is ours.
            reconnect.bound();
        }
        let ours = async {
            post.ours().await;
            account.line.wanted().await;
        };
        tokio::select! {
            () = ours => {}
            // It is to go to another replica, and is unbound by now.
            () = post.leaving() => {
                post.left();
                post.lost().await;
                continue;
            }
            () = stop.requested() => return,
        }
        let Some(host) = settings.hosts.get(tries % settings.hosts.len()) else { return };
        // From before the first octet until after the last.
        let guarded = async {
            let mut guard = post.guard().await.map_err(ConnectError::Fuse)?;
            tokio::select! {
                connected = sessions(settings, &folder, host) => Ok((connected?, guard)),
                error = &mut guard => Err(ConnectError::Fuse(error)),
            }
        };
        let connected = tokio::select! {
            connected = guarded => connected,
            () = post.lost() => continue,
            () = post.leaving() => continue,
            () = stop.requested() => return,
        };
        let failure = match connected {
            Ok((sessions, guard)) => {
                told = None;
                reconnect.bound();
                account.set_trouble(None);
                serve(&account, &mut post, sessions, guard, &drained, &mut leftovers).await;
                Failure::Link
            }
            Err(error) => {
                // The next place, if there is another.
                tries += 1;
                let failure = error.failure();
                account.set_trouble(Some(chain(&error).to_string()));
                if told != Some(failure) {
                    told = Some(failure);
                    tell(&account, post.number, &error, failure);
                }
                post.failed();
                failure
            }
        };
        let chance = random_array().map(u64::from_be_bytes).unwrap_or_default();
        tokio::select! {
            () = tokio::time::sleep(reconnect.pause(failure, chance)) => {}
            () = post.leaving() => {}
            // What is left goes with its tasks: a receipt that is not answered comes again, and a submit without its
            // late answer stays in doubt.
            () = stop.requested() => return,
        }
    }
}

/// Tells once why there is no bind, until there was one or the reason changes.
fn tell(account: &Account, bind: u16, error: &ConnectError, failure: Failure) {
    let id = &account.settings.id;
    let error = chain(error);
    let outcome = match failure {
        Failure::Credentials => {
            tracing::error!(account = %id, bind, error, "no bind, and only people can mend it: see user name, password and certificates");
            "refused"
        }
        Failure::Refused => {
            tracing::warn!(account = %id, bind, error, "no bind: the carrier refuses");
            "refused"
        }
        Failure::Link => {
            tracing::warn!(account = %id, bind, error, "no bind");
            "unreachable"
        }
    };
    account.shared.witness.tell(Act::BindDown, id.as_str(), outcome);
}

/// Runs the sessions of a bind to their end. What they brought and is not stored yet stays in `leftovers`.
async fn serve(
    account: &Arc<Account>,
    post: &mut Post,
    sessions: Vec<Session<About>>,
    mut guard: Guard,
    drained: &CancellationToken,
    leftovers: &mut JoinSet<()>,
) {
    let settings = &account.settings;
    let number = post.number;
    tracing::info!(account = %settings.id, bind = number, "bound");
    account.metrics.binds.one();
    account.shared.witness.tell(Act::BindUp, settings.id.as_str(), "ok");
    let (mut links, mut drivers) = (Vec::new(), JoinSet::new());
    for Session { link, incoming, late, driver } in sessions {
        drivers.spawn(driver);
        let (receiving, waiting) = (Arc::clone(account), Arc::clone(account));
        leftovers.spawn(async move {
            tokio::join!(receiving.receive(incoming), waiting.late(late));
        });
        links.push(link);
    }
    if let Some(link) = links.first().cloned() {
        account.line.up(Bind { number, link, tenure: post.tenure.clone() });
    }
    post.bound();
    let ended = select_all(links.iter().map(|link| Box::pin(link.closed())));
    let work = async {
        tokio::select! {
            (reason, _, _) = ended => reason,
            () = drained.cancelled() => tokio::select! {
                reason = drain(&links, settings.response_timeout) => reason,
                () = post.lost() => CloseReason::Aborted,
            },
            () = left(account, post) => {
                // Nothing new goes this way, and what was let in is still written and answered.
                account.line.down(number);
                tokio::select! {
                    reason = drain(&links, settings.response_timeout) => reason,
                    () = post.lost() => CloseReason::Aborted,
                }
            }
            () = post.lost() => {
                tracing::warn!(account = %settings.id, bind = number, "the lease of a bind ended: it is cut");
                CloseReason::Aborted
            }
        }
    };
    let reason = tokio::select! {
        reason = work => reason,
        error = &mut guard => {
            tell(account, number, &ConnectError::Fuse(error), Failure::Link);
            CloseReason::Aborted
        }
    };
    account.line.down(number);
    // One session without the other is no bind.
    for link in &links {
        link.abort();
    }
    // What waits to be written may still go, but not once another may write in our place.
    tokio::select! {
        () = ended_all(&links) => {}
        () = tokio::time::sleep(LAST_WORDS) => {}
        () = post.lost() => {}
    }
    // Nothing of this bind is open at the carrier when the next one is made.
    drivers.abort_all();
    while let Some(ended) = drivers.join_next().await {
        if ended.is_err_and(|error| error.is_panic()) {
            tracing::error!(account = %settings.id, bind = number, "a session failed");
        }
    }
    drop(guard);
    tracing::info!(account = %settings.id, bind = number, %reason, "the bind ended");
    account.shared.witness.tell(Act::BindDown, settings.id.as_str(), "ended");
    // Elapsed: they go on.
    let _in_time = timeout(LEFTOVERS, settle(account, leftovers, 0)).await;
    settle(account, leftovers, MOST_LEFTOVERS).await;
}

/// Resolves when the bind is to end in order: it goes to another replica, or the account is drained.
async fn left(account: &Account, post: &Post) {
    tokio::select! {
        () = post.leaving() => {}
        () = account.line.unwanted() => {}
    }
}

async fn ended_all(links: &[Link<About>]) {
    join_all(links.iter().map(Link::closed)).await;
}

/// Unbinds in order: why the first session, on which messages went out, ended.
async fn drain(links: &[Link<About>], limit: Duration) -> CloseReason {
    let mut reasons = join_all(links.iter().map(|link| link.drain(limit))).await;
    reasons.drain(..).next().unwrap_or(CloseReason::Unbound)
}

/// Waits until at most so many leftovers are under way.
async fn settle(account: &Account, leftovers: &mut JoinSet<()>, most: usize) {
    while leftovers.len() > most
        && let Some(ended) = leftovers.join_next().await
    {
        if let Err(error) = ended {
            tracing::error!(account = %account.settings.id, panic = error.is_panic(), "a part of a session failed");
        }
    }
}

#[cfg(test)]
mod tests;
