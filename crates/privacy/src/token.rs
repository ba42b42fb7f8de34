//! The birth of privacy's token where `sotto init` cannot make it: in a container, whose image alone has the module.

use std::{
    fs,
    io::{self, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use sotto_core::{Classified, ErrorClass};
use sotto_keystore::{KeystoreError, Pkcs11Buckets, Token, TokenSettings, prepare_token};

use crate::{config::KeystoreConfig, error::keystore_class, service::SLOT};

/// Why there is no token.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// The configuration has the keys in a file.
    #[error("keystore.kind is not \"pkcs11\": this cell keeps its keys in files")]
    NotAToken,
    /// A file or folder.
    #[error("cannot use {}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The module or the token.
    #[error("the token cannot be made")]
    Keystore(#[source] KeystoreError),
}

impl Classified for TokenError {
    fn class(&self) -> ErrorClass {
        match self {
            Self::NotAToken | Self::File { .. } => ErrorClass::Reject,
            Self::Keystore(e) => keystore_class(e),
        }
    }
}

/// Makes the token that the configuration names, and in it the keystore of buckets, once: `made` is written at the end, and where
/// it is there nothing is made, whatever has become of the token. A lost token must not be made anew unnoticed. Says whether it
/// made something.
///
/// # Errors
/// [`TokenError`]; run again it goes on where it failed.
pub fn make_once(config: &KeystoreConfig, officer_pin: &Path, made: &Path) -> Result<bool, TokenError> {
    let settings = config.token().ok_or(TokenError::NotAToken)?;
    let file = |path: &Path| {
        let path = path.to_owned();
        move |source| TokenError::File { path, source }
    };
    if made.try_exists().map_err(file(made))? {
        return Ok(false);
    }
    if let Some(folder) = &settings.sync_folder {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(file(folder))?;
    }
    there(prepare_token(&settings.module, &settings.label, officer_pin, &settings.pin_file))?;
    slot(settings)?;
    let mut mark =
        fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(made).map_err(file(made))?;
    mark.write_all(b"the token of this folder was made\n")
        .and_then(|()| mark.sync_all())
        .map_err(file(made))?;
    let folder = made.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    fs::File::open(folder).and_then(|folder| folder.sync_all()).map_err(file(folder))?;
    Ok(true)
}

fn slot(settings: TokenSettings) -> Result<(), TokenError> {
    let token = Token::open(settings).map_err(TokenError::Keystore)?;
    there(Pkcs11Buckets::create(token, SLOT).map(drop))
}

/// What an earlier run has made is good.
fn there(made: Result<(), KeystoreError>) -> Result<(), TokenError> {
    match made {
        Ok(()) | Err(KeystoreError::Exists { .. }) => Ok(()),
        Err(error) => Err(TokenError::Keystore(error)),
    }
}
