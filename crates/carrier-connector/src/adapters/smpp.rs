//! Binds to carriers: TCP, TLS, `bind_transceiver`, for ever.

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use sotto_core::{
    Sensitive,
    carriers::{Account as Settings, PASSWORD_MAX_OCTETS, Tls},
};
use sotto_crypto::random::random_array;
use sotto_runtime::{Stop, telemetry::chain};
use sotto_smpp::{
    COctets, Session, SessionOptions,
    client::{BindError, BindOptions, bind},
};
use tokio::{net::TcpStream, task::JoinSet, time::timeout};
use tokio_rustls::{
    TlsConnector,
    rustls::{
        ClientConfig, RootCertStore,
        crypto::ring::default_provider,
        pki_types::{CertificateDer, ServerName, pem::PemObject as _},
    },
};
use tokio_util::sync::CancellationToken;

use crate::{
    app::account::Account,
    domain::{
        receipt::Submitted,
        reconnect::{Failure, Reconnect},
    },
    ports::Act,
};

/// How long a connection may take, TLS included.
const CONNECT: Duration = Duration::from_secs(10);
/// How long the next bind waits until what the last session brought is stored. What takes longer, because Redis or the
/// log is away, is finished beside the next session.
const LEFTOVERS: Duration = Duration::from_secs(5);
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
            Self::Password { .. } | Self::Authorities { .. } | Self::ServerName | Self::Tls(_) => {
                Failure::Credentials
            }
            Self::Bind(BindError::Refused(status)) => Failure::of_bind(*status),
            Self::Connect(_) | Self::Handshake(_) | Self::TimedOut | Self::Bind(_) => Failure::Link,
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

/// How to make the connection safe; `None` where it was waived.
fn tls(
    settings: &Settings,
    folder: &Path,
) -> Result<Option<(TlsConnector, ServerName<'static>)>, ConnectError> {
    let Tls::Required { ca_file, server_name } = &settings.tls else { return Ok(None) };
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
    let name = ServerName::try_from(server_name.clone()).map_err(|_| ConnectError::ServerName)?;
    let config = ClientConfig::builder_with_provider(Arc::new(default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(ConnectError::Tls)?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(Some((TlsConnector::from(Arc::new(config)), name)))
}

async fn connect(settings: &Settings, folder: &Path) -> Result<Session<Submitted>, ConnectError> {
    let password = password(settings, folder)?;
    let options = SessionOptions {
        window: usize::from(settings.window),
        incoming_window: INCOMING,
        response_timeout: settings.response_timeout,
        enquire_link_interval: settings.enquire_link,
        ..SessionOptions::default()
    };
    let mut bound =
        BindOptions::transceiver(settings.system_id.as_str(), COctets::from(password.expose().as_str()));
    bound.system_type = COctets::from(settings.system_type.as_str());
    let tls = tls(settings, folder)?;
    let stream = async {
        let stream = TcpStream::connect((settings.host.as_str(), settings.port)).await?;
        stream.set_nodelay(true)?;
        Ok(stream)
    };
    let stream = timeout(CONNECT, stream).await.map_err(|_| ConnectError::TimedOut)?;
    let stream = stream.map_err(ConnectError::Connect)?;
    let session = match tls {
        Some((connector, name)) => {
            let stream = timeout(CONNECT, connector.connect(name, stream)).await;
            let stream = stream.map_err(|_| ConnectError::TimedOut)?.map_err(ConnectError::Handshake)?;
            bind(stream, bound, options).await
        }
        None => bind(stream, bound, options).await,
    };
    session.map(|(session, _)| session).map_err(ConnectError::Bind)
}

/// Keeps an account bound until the process stops, then unbinds once `drained` says that no work is under way.
pub(crate) async fn keep_bound(
    account: Arc<Account>,
    folder: PathBuf,
    stop: Stop,
    drained: CancellationToken,
) {
    let settings = &account.settings;
    if let Tls::Waived { reason } = &settings.tls {
        tracing::warn!(account = %settings.id, reason, "the way to this carrier is not encrypted");
        account.shared.witness.tell(Act::TlsWaived, settings.id.as_str(), "ok");
    }
    let mut reconnect = Reconnect::default();
    let mut told = None;
    let mut leftovers = JoinSet::new();
    loop {
        let connected = tokio::select! {
            connected = connect(settings, &folder) => connected,
            () = stop.requested() => return,
        };
        let failure = match connected {
            Ok(session) => {
                told = None;
                reconnect.bound();
                serve(&account, session, &drained, &mut leftovers).await;
                Failure::Link
            }
            Err(error) => {
                let failure = error.failure();
                if told != Some(failure) {
                    told = Some(failure);
                    tell(&account, &error, failure);
                }
                failure
            }
        };
        let chance = random_array().map(u64::from_be_bytes).unwrap_or_default();
        tokio::select! {
            () = tokio::time::sleep(reconnect.pause(failure, chance)) => {}
            // What is left goes with its tasks: a receipt that is not answered comes again, and a submit without its
            // late answer stays in doubt.
            () = stop.requested() => return,
        }
    }
}

/// Tells once why there is no bind, until there was one or the reason changes.
fn tell(account: &Account, error: &ConnectError, failure: Failure) {
    let id = &account.settings.id;
    let error = chain(error);
    let outcome = match failure {
        Failure::Credentials => {
            tracing::error!(account = %id, error, "no bind, and only people can mend it: see user name, password and certificates");
            "refused"
        }
        Failure::Refused => {
            tracing::warn!(account = %id, error, "no bind: the carrier refuses");
            "refused"
        }
        Failure::Link => {
            tracing::warn!(account = %id, error, "no bind");
            "unreachable"
        }
    };
    account.shared.witness.tell(Act::BindDown, id.as_str(), outcome);
}

/// Runs a session to its end. What it brought and is not stored yet stays in `leftovers`.
async fn serve(
    account: &Arc<Account>,
    session: Session<Submitted>,
    drained: &CancellationToken,
    leftovers: &mut JoinSet<()>,
) {
    let Session { link, incoming, late, driver } = session;
    let settings = &account.settings;
    tracing::info!(account = %settings.id, "bound");
    account.shared.witness.tell(Act::BindUp, settings.id.as_str(), "ok");
    leftovers.spawn(async move {
        driver.await;
    });
    let (receiving, waiting) = (Arc::clone(account), Arc::clone(account));
    leftovers.spawn(async move {
        tokio::join!(receiving.receive(incoming), waiting.late(late));
    });
    account.line.up(link.clone());
    let reason = tokio::select! {
        reason = link.closed() => reason,
        () = drained.cancelled() => link.drain(settings.response_timeout).await,
    };
    account.line.down();
    tracing::info!(account = %settings.id, %reason, "the bind ended");
    account.shared.witness.tell(Act::BindDown, settings.id.as_str(), "ended");
    // Elapsed: they go on.
    let _in_time = timeout(LEFTOVERS, settle(account, leftovers, 0)).await;
    settle(account, leftovers, MOST_LEFTOVERS).await;
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
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt as _};

    use sotto_smpp::CommandStatus;

    use super::*;
    use crate::testing::{Reply, TestCarrier, settings};

    fn folder(password: &str, mode: u32) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("password");
        fs::write(&file, password).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(mode)).unwrap();
        folder
    }

    #[test]
    fn files_that_cannot_be_used_are_told_before_anything_starts() {
        let settings = settings("a", 1);
        assert!(check_files(&settings, folder("secret\n", 0o600).path()).is_ok());
        for (password, mode, word) in [
            ("secret", 0o644, "chmod 600"),
            ("ninechars", 0o600, "at most 8"),
            ("m\u{1ead}t", 0o600, "ASCII"),
        ] {
            let error = check_files(&settings, folder(password, mode).path()).unwrap_err();
            assert!(error.to_string().contains(word) && !error.to_string().contains(password), "{error}");
            assert_eq!(error.failure(), Failure::Credentials);
        }
        let nowhere = tempfile::tempdir().unwrap();
        assert!(matches!(check_files(&settings, nowhere.path()), Err(ConnectError::Password { .. })));
        let mut safe = settings;
        safe.tls = Tls::Required { ca_file: Some("none.pem".into()), server_name: "localhost".to_owned() };
        let error = check_files(&safe, folder("secret", 0o600).path()).unwrap_err();
        assert!(matches!(error, ConnectError::Authorities { .. }));
    }

    #[tokio::test]
    async fn each_way_not_to_be_bound_has_its_name() {
        let files = folder("secret", 0o600);
        // Nobody listens.
        let nobody = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = nobody.local_addr().unwrap().port();
        drop(nobody);
        let error = connect(&settings("a", port), files.path()).await.unwrap_err();
        assert!(matches!(error, ConnectError::Connect(_)) && error.failure() == Failure::Link);
        // A carrier without TLS where TLS is required: nothing goes out in clear.
        let carrier = TestCarrier::start(|_| Reply::Ok).await;
        let mut safe = settings("a", carrier.port);
        let pki = sotto_testkit::Pki::new();
        safe.tls = Tls::Required { ca_file: Some(pki.ca()), server_name: "localhost".to_owned() };
        let error = connect(&safe, files.path()).await.unwrap_err();
        assert!(matches!(error, ConnectError::Handshake(_) | ConnectError::TimedOut), "{error:?}");
        assert_eq!((error.failure(), carrier.links()), (Failure::Link, 0));
        // And one that lets us in.
        assert!(connect(&settings("a", carrier.port), files.path()).await.is_ok());
        let refused = ConnectError::Bind(BindError::Refused(CommandStatus::ESME_RINVPASWD));
        assert_eq!(refused.failure(), Failure::Credentials);
    }
}
