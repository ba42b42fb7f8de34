//! The token of an HSM: finding it, what it must be able to do, login, and the way back after it was away.

use std::{
    fmt, fs,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use cryptoki::{
    context::{CInitializeArgs, CInitializeFlags, Pkcs11},
    error::{Error, RvError},
    session::{Session, SessionState, UserType},
    slot::Slot,
    types::AuthPin,
};

use super::{
    objects::MECHANISMS,
    pool::{Conn, Link, Pool},
};
use crate::{KeystoreError, error::DeviceError, secret::read_private};

/// Where a token is and how it is used.
#[derive(Clone, Debug)]
pub struct TokenSettings {
    /// The HSM's library.
    pub module: PathBuf,
    /// The token's label.
    pub label: String,
    /// The file with its user PIN (mode 600).
    pub pin_file: PathBuf,
    /// Most sessions at once, and so most calls at once.
    pub sessions: usize,
    /// How long a call waits for a session.
    pub wait: Duration,
    /// The folder in which a token of software keeps its files; what is there is synced to disk after each change, which
    /// SoftHSM does not do itself. None for hardware.
    pub sync_folder: Option<PathBuf>,
}

/// A module's state belongs to the process: each may be in use once.
static IN_USE: Mutex<Vec<PathBuf>> = Mutex::new(Vec::new());

/// A token that is logged in to. It is used by one keystore; clones share it.
#[derive(Clone)]
pub struct Token(Arc<Inner>);

struct Inner {
    settings: TokenSettings,
    pin: AuthPin,
    pool: Pool,
    _claim: Claim,
}

impl Token {
    /// Loads the module, finds the token, checks what it can do, and logs in.
    ///
    /// # Errors
    /// [`KeystoreError::Module`], [`KeystoreError::ModuleInUse`], [`KeystoreError::Token`], [`KeystoreError::Mechanism`],
    /// [`KeystoreError::Pin`], [`KeystoreError::Mode`], [`KeystoreError::Owner`], [`KeystoreError::Io`].
    pub fn open(settings: TokenSettings) -> Result<Self, KeystoreError> {
        let pin = read_pin(&settings.pin_file)?;
        let claim = Claim::take(&settings.module)?;
        let module = load(&settings.module)?;
        let pool = Pool::new(module, settings.sessions, settings.wait);
        let token = Self(Arc::new(Inner { settings, pin, pool, _claim: claim }));
        // What is wrong at a start is told as it is; later the token is only away.
        match token.connect() {
            Ok(conn) => drop(conn),
            Err(KeystoreError::Away { source: Some(source), .. }) => return Err(*source),
            Err(error) => return Err(error),
        }
        Ok(token)
    }

    /// A session, logged in; the token is looked for again when it was lost.
    pub(super) fn connect(&self) -> Result<Conn<'_>, KeystoreError> {
        let inner = &*self.0;
        inner.pool.take(&inner.settings.label, |module| inner.link(module))
    }

    /// Whether the token can be used now.
    pub(super) fn check(&self) -> Result<(), KeystoreError> {
        let conn = self.connect()?;
        if conn.lives() {
            return Ok(());
        }
        conn.lost();
        self.connect().map(drop)
    }

    /// The token's label, for errors.
    pub(super) fn label(&self) -> &str {
        &self.0.settings.label
    }

    pub(super) fn pin_file(&self) -> &Path {
        &self.0.settings.pin_file
    }

    /// How long somebody waits for somebody else here.
    pub(super) fn wait(&self) -> Duration {
        self.0.settings.wait
    }

    /// Makes what was changed durable, where the module does not do that itself.
    pub(super) fn sync(&self) -> Result<(), KeystoreError> {
        let Some(folder) = &self.0.settings.sync_folder else { return Ok(()) };
        let failed = KeystoreError::io("sync", folder);
        fs::File::open(folder)
            .and_then(|folder| rustix::fs::syncfs(&folder).map_err(Into::into))
            .map_err(failed)
    }

    pub(super) fn failed(&self, operation: &'static str, error: &Error) -> KeystoreError {
        KeystoreError::Device { label: self.label().to_owned(), operation, source: DeviceError::from(error) }
    }

    pub(super) fn unsound(&self, reason: &'static str) -> KeystoreError {
        KeystoreError::Unsound { label: self.label().to_owned(), reason }
    }
}

impl Inner {
    /// The module begins anew: that alone makes one find a token again that was away.
    fn link(&self, module: &Pkcs11) -> Result<(Link, Session), KeystoreError> {
        let broken = |error: Error| KeystoreError::Device {
            label: self.settings.label.clone(),
            operation: "be reached",
            source: DeviceError::from(&error),
        };
        match module.clone().finalize() {
            Ok(()) | Err(Error::Pkcs11(RvError::CryptokiNotInitialized, _)) => {}
            Err(error) => return Err(broken(error)),
        }
        module.initialize(CInitializeArgs::new(CInitializeFlags::OS_LOCKING_OK)).map_err(broken)?;
        let slot = find(module, &self.settings.label).map_err(broken)?;
        let slot =
            slot.map_err(|found| KeystoreError::Token { label: self.settings.label.clone(), found })?;
        let offered = module.get_mechanism_list(slot).map_err(broken)?;
        if let Some(lacking) = MECHANISMS.iter().find(|needed| !offered.contains(needed)) {
            return Err(KeystoreError::Mechanism {
                label: self.settings.label.clone(),
                mechanism: lacking.to_string(),
            });
        }
        let session = module.open_rw_session(slot).map_err(broken)?;
        self.login(&session)?;
        Ok((Link { slot }, session))
    }

    fn login(&self, session: &Session) -> Result<(), KeystoreError> {
        let label = || self.settings.label.clone();
        match session.login(UserType::User, Some(&self.pin)) {
            Ok(()) | Err(Error::Pkcs11(RvError::UserAlreadyLoggedIn, _)) => Ok(()),
            Err(error) if refuses_pin(&error) => {
                Err(KeystoreError::Pin { label: label(), source: DeviceError::from(&error) })
            }
            Err(error) => Err(KeystoreError::Device {
                label: label(),
                operation: "log in",
                source: DeviceError::from(&error),
            }),
        }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        // Before the claim goes, which is the last of the fields.
        self.pool.close();
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Token").field("label", &self.label()).finish_non_exhaustive()
    }
}

/// The one slot whose token has this label; or how many have.
fn find(module: &Pkcs11, label: &str) -> Result<Result<Slot, usize>, Error> {
    let slots = module.get_slots_with_token()?;
    let named: Vec<_> = slots
        .into_iter()
        .filter(|slot| {
            module
                .get_token_info(*slot)
                .is_ok_and(|info| info.token_initialized() && info.label().trim_end() == label)
        })
        .collect();
    Ok(match named.as_slice() {
        [slot] => Ok(*slot),
        several => Err(several.len()),
    })
}

/// Whether the token is there and this session is logged in to it.
pub(super) fn lives(module: &Pkcs11, slot: Slot, session: &Session) -> bool {
    module.get_token_info(slot).is_ok()
        && session
            .get_session_info()
            .is_ok_and(|info| matches!(info.session_state(), SessionState::RwUser | SessionState::RoUser))
}

pub(super) fn refuses_pin(error: &Error) -> bool {
    matches!(
        error,
        Error::Pkcs11(
            RvError::PinIncorrect
                | RvError::PinInvalid
                | RvError::PinLenRange
                | RvError::PinExpired
                | RvError::PinLocked
                | RvError::UserPinNotInitialized,
            _
        )
    )
}

pub(super) fn load(path: &Path) -> Result<Pkcs11, KeystoreError> {
    Pkcs11::new(path)
        .map_err(|error| KeystoreError::Module { path: path.to_owned(), source: DeviceError::from(&error) })
}

/// The PIN of a file that only its owner may use: one line of text.
pub(super) fn read_pin(path: &Path) -> Result<AuthPin, KeystoreError> {
    let bytes = read_private(path)?;
    let owner = fs::metadata(path).map_err(KeystoreError::io("read", path))?.uid();
    if owner != rustix::process::geteuid().as_raw() && owner != 0 {
        return Err(KeystoreError::Owner { path: path.to_owned(), owner });
    }
    let text = std::str::from_utf8(&bytes).unwrap_or_default().trim_end_matches(['\r', '\n']);
    if text.is_empty() {
        return Err(KeystoreError::Format {
            path: path.to_owned(),
            reason: "a PIN file holds the PIN as one line of text",
        });
    }
    Ok(AuthPin::from(text.to_owned()))
}

/// That this process uses a module.
#[derive(Debug)]
pub(super) struct Claim(PathBuf);

impl Claim {
    pub(super) fn take(module: &Path) -> Result<Self, KeystoreError> {
        let mut used = IN_USE.lock().unwrap_or_else(PoisonError::into_inner);
        if used.iter().any(|path| path == module) {
            return Err(KeystoreError::ModuleInUse { path: module.to_owned() });
        }
        used.push(module.to_owned());
        Ok(Self(module.to_owned()))
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        IN_USE.lock().unwrap_or_else(PoisonError::into_inner).retain(|path| *path != self.0);
    }
}
