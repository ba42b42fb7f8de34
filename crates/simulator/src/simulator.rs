//! Starts and stops the carrier.

use crate::{
    admin,
    behaviour::{Behaviour, BehaviourError},
    carrier::Carrier,
    handset::{Written, WrittenError},
    ledger::{Counters, Record},
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use serde_json::Value;
use sotto_core::{Classified, Clock, ErrorClass, Sensitive};
use std::{
    fmt,
    fs::File,
    io,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};
use tokio::{
    net::{TcpListener, TcpStream},
    time::timeout,
};
use tokio_rustls::TlsAcceptor;

/// How long a TLS handshake may take.
const HANDSHAKE: Duration = Duration::from_secs(10);

/// What a simulator starts with. `Debug` shows no password.
#[derive(Clone)]
pub struct Options {
    /// Where SMPP is served; port 0 picks one.
    pub listen: SocketAddr,
    /// Where the admin API is served; port 0 picks one. It shows texts and numbers: keep it on loopback.
    pub admin: SocketAddr,
    /// Who may bind: system id and password.
    pub accounts: Vec<(String, Sensitive<String>)>,
    /// TLS for SMPP; plain TCP without.
    pub tls: Option<TlsFiles>,
    /// How it behaves at first.
    pub behaviour: Behaviour,
    /// A file that every part is added to as a line of JSON, before it is answered; it shows texts and numbers.
    pub journal: Option<PathBuf>,
    /// The time in records and receipts.
    pub clock: Arc<dyn Clock>,
}

impl fmt::Debug for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Options")
            .field("listen", &self.listen)
            .field("admin", &self.admin)
            .field("accounts", &self.accounts.len())
            .field("tls", &self.tls)
            .field("behaviour", &self.behaviour)
            .field("journal", &self.journal)
            .finish_non_exhaustive()
    }
}

/// Where the certificate is.
#[derive(Clone, Debug)]
pub struct TlsFiles {
    /// Certificate chain, PEM.
    pub certificate: PathBuf,
    /// Private key, PEM.
    pub key: PathBuf,
}

/// Why the simulator did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// An address cannot be listened on.
    #[error("cannot listen on {address}")]
    Listen {
        /// Which.
        address: SocketAddr,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The journal cannot be opened.
    #[error("cannot open the journal {}", path.display())]
    Journal {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A PEM file cannot be read.
    #[error("cannot read {}", path.display())]
    Pem {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: rustls_pki_types::pem::Error,
    },
    /// Certificate and key do not make a TLS server.
    #[error("certificate and key do not make a TLS server")]
    Tls(#[source] rustls::Error),
    /// The behaviour makes no sense.
    #[error(transparent)]
    Behaviour(BehaviourError),
}

impl Classified for StartError {
    fn class(&self) -> ErrorClass {
        ErrorClass::Reject
    }
}

/// A running simulator. Dropping it stops it without waiting; [`Simulator::stop`] waits.
#[derive(Debug)]
pub struct Simulator {
    carrier: Arc<Carrier>,
    smpp: SocketAddr,
    admin: SocketAddr,
    initial: Behaviour,
}

impl Simulator {
    /// Listens on both addresses and serves until it is stopped.
    ///
    /// # Errors
    /// See [`StartError`]; nothing runs.
    pub async fn start(options: Options) -> Result<Self, StartError> {
        let Options { listen, admin, accounts, tls, behaviour, journal, clock } = options;
        let behaviour =
            behaviour.patched(Value::Object(serde_json::Map::new())).map_err(StartError::Behaviour)?;
        let tls = tls.as_ref().map(acceptor).transpose()?;
        let (smpp_listener, smpp) = bind(listen).await?;
        let (admin_listener, admin) = bind(admin).await?;
        let journal = journal.map(append).transpose()?;
        let carrier = Arc::new(Carrier::new(accounts, behaviour.clone(), clock, journal));
        for account in carrier.accounts.values() {
            carrier.spawn(Arc::clone(&carrier).dispatch(Arc::clone(account)));
        }
        carrier.spawn(accept(Arc::clone(&carrier), smpp_listener, tls));
        let handle = Handle { carrier: Arc::clone(&carrier), initial: behaviour.clone() };
        let stop = carrier.stop.clone().cancelled_owned();
        let served = axum::serve(admin_listener, admin::router(handle)).with_graceful_shutdown(stop);
        carrier.tasks.spawn(async move {
            // It ends when told to, and cannot fail before.
            drop(served.await);
        });
        Ok(Self { carrier, smpp, admin, initial: behaviour })
    }

    /// Where SMPP is served.
    pub const fn smpp(&self) -> SocketAddr {
        self.smpp
    }

    /// Where the admin API is served.
    pub const fn admin(&self) -> SocketAddr {
        self.admin
    }

    /// What can be asked and set while it runs.
    pub fn handle(&self) -> Handle {
        Handle { carrier: Arc::clone(&self.carrier), initial: self.initial.clone() }
    }

    /// Cuts every link and ends.
    pub async fn stop(self) {
        self.carrier.stop.cancel();
        self.carrier.tasks.close();
        self.carrier.tasks.wait().await;
    }
}

impl Drop for Simulator {
    fn drop(&mut self) {
        self.carrier.stop.cancel();
    }
}

/// The same in process as the admin API over HTTP.
#[derive(Clone, Debug)]
pub struct Handle {
    carrier: Arc<Carrier>,
    initial: Behaviour,
}

impl Handle {
    /// The last `limit` parts taken, oldest first.
    pub fn messages(&self, limit: usize) -> Vec<Record> {
        self.carrier.lock().ledger.last(limit)
    }

    /// Recipient and time of arrival (microseconds since the Unix epoch) of the last `limit` parts, oldest first.
    pub fn arrivals(&self, limit: usize) -> Vec<(String, i64)> {
        self.carrier.lock().ledger.arrivals(limit)
    }

    /// The counters now.
    pub fn counters(&self) -> Counters {
        let state = self.carrier.lock();
        let waiting = state.epoch.owed();
        let mut counters = state.ledger.counters.clone();
        drop(state);
        counters.receipts_waiting = u64::try_from(waiting).unwrap_or(u64::MAX);
        counters
    }

    /// The behaviour now.
    pub fn behaviour(&self) -> Behaviour {
        self.carrier.lock().behaviour.clone()
    }

    /// Changes the fields of the behaviour that `patch`, a JSON object, names.
    ///
    /// # Errors
    /// An unknown field or a value that makes no sense; nothing changed.
    pub fn behave(&self, patch: Value) -> Result<Behaviour, BehaviourError> {
        let mut state = self.carrier.lock();
        let behaviour = state.behaviour.patched(patch)?;
        state.behaviour = behaviour.clone();
        Ok(behaviour)
    }

    /// Sends a message from a handset to a partner, again and again until it is taken; returns its parts.
    ///
    /// # Errors
    /// [`WrittenError`]; nothing is sent.
    pub fn write(&self, written: &Written) -> Result<usize, WrittenError> {
        self.carrier.write(written)
    }

    /// Cuts every link as it stands.
    pub fn drop_links(&self) {
        let mut state = self.carrier.lock();
        let next = self.carrier.stop.child_token();
        std::mem::replace(&mut state.links, next).cancel();
    }

    /// Behaves as at the start.
    pub fn recover(&self) {
        self.carrier.lock().behaviour = self.initial.clone();
    }

    /// Unbinds every link in order.
    pub fn unbind(&self) {
        self.carrier.unbind();
    }

    /// Forgets messages, counters and waiting receipts, also those that wait for their time or are under way, and
    /// behaves as at the start. Links stay.
    pub fn reset(&self) {
        let mut state = self.carrier.lock();
        std::mem::take(&mut state.epoch).over.cancel();
        drop(state);
        for account in self.carrier.accounts.values() {
            account.outbox.clear();
        }
        let mut state = self.carrier.lock();
        state.ledger.reset();
        state.behaviour = self.initial.clone();
    }
}

fn append(path: PathBuf) -> Result<File, StartError> {
    let opened = File::options().create(true).append(true).open(&path);
    opened.map_err(|source| StartError::Journal { path, source })
}

async fn bind(address: SocketAddr) -> Result<(TcpListener, SocketAddr), StartError> {
    let failed = |source| StartError::Listen { address, source };
    let listener = TcpListener::bind(address).await.map_err(failed)?;
    let bound = listener.local_addr().map_err(failed)?;
    Ok((listener, bound))
}

fn acceptor(files: &TlsFiles) -> Result<TlsAcceptor, StartError> {
    let failed = |path: &Path| {
        let path = path.to_owned();
        |source| StartError::Pem { path, source }
    };
    let chain: Result<Vec<_>, _> =
        CertificateDer::pem_file_iter(&files.certificate).and_then(|chain| chain.collect());
    let chain = chain.map_err(failed(&files.certificate))?;
    let key = PrivateKeyDer::from_pem_file(&files.key).map_err(failed(&files.key))?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .and_then(|builder| builder.with_no_client_auth().with_single_cert(chain, key));
    Ok(TlsAcceptor::from(Arc::new(config.map_err(StartError::Tls)?)))
}

async fn accept(carrier: Arc<Carrier>, listener: TcpListener, tls: Option<TlsAcceptor>) {
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            // Out of file descriptors: others must end first.
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        carrier.spawn(connection(Arc::clone(&carrier), stream, tls.clone()));
    }
}

async fn connection(carrier: Arc<Carrier>, stream: TcpStream, tls: Option<TlsAcceptor>) {
    // Without it answers wait for Nagle; a socket that refuses it works all the same.
    drop(stream.set_nodelay(true));
    match tls {
        None => carrier.serve(stream).await,
        Some(tls) => {
            if let Ok(Ok(stream)) = timeout(HANDSHAKE, tls.accept(stream)).await {
                carrier.serve(stream).await;
            }
        }
    }
}
