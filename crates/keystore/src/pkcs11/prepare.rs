//! Making a new token in a module that can (SoftHSM): for a laptop and for tests. Tokens of hardware are made by their
//! administrator.

use std::path::Path;

use cryptoki::{
    context::{CInitializeArgs, CInitializeFlags, Pkcs11},
    error::Error,
    session::UserType,
};

use super::token::{Claim, load, read_pin};
use crate::{KeystoreError, error::DeviceError};

/// Makes a token in a free slot of the module, with the PINs of the security officer and the user that these files hold.
///
/// # Errors
/// [`KeystoreError::Exists`] when one of this label is there already; [`KeystoreError::Token`] when no slot is free; [`KeystoreError::Module`], [`KeystoreError::Device`].
pub fn prepare_token(
    module: &Path,
    label: &str,
    officer_pin_file: &Path,
    pin_file: &Path,
) -> Result<(), KeystoreError> {
    let (officer, user) = (read_pin(officer_pin_file)?, read_pin(pin_file)?);
    let claim = Claim::take(module)?;
    let context = load(module)?;
    let failed = |error: Error| KeystoreError::Device {
        label: label.to_owned(),
        operation: "be made",
        source: DeviceError::from(&error),
    };
    context.initialize(CInitializeArgs::new(CInitializeFlags::OS_LOCKING_OK)).map_err(failed)?;
    let made = make(&context, label, &officer, &user, failed);
    // Nothing is to be done when it fails: the process has no more use for the module.
    let _ended = context.finalize();
    drop(claim);
    made
}

fn make(
    context: &Pkcs11,
    label: &str,
    officer: &cryptoki::types::AuthPin,
    user: &cryptoki::types::AuthPin,
    failed: impl Fn(Error) -> KeystoreError + Copy,
) -> Result<(), KeystoreError> {
    let mut free = None;
    for slot in context.get_slots_with_token().map_err(failed)? {
        let info = context.get_token_info(slot).map_err(failed)?;
        if info.token_initialized() {
            if info.label().trim_end() == label {
                return Err(KeystoreError::Exists { path: label.into() });
            }
        } else {
            free = free.or(Some(slot));
        }
    }
    let slot = free.ok_or_else(|| KeystoreError::Token { label: label.to_owned(), found: 0 })?;
    context.init_token(slot, officer, label).map_err(failed)?;
    // The slot's number changes with that.
    let slots = context.get_slots_with_initialized_token().map_err(failed)?;
    let made = slots
        .into_iter()
        .find(|slot| context.get_token_info(*slot).is_ok_and(|info| info.label().trim_end() == label))
        .ok_or_else(|| KeystoreError::Token { label: label.to_owned(), found: 0 })?;
    let session = context.open_rw_session(made).map_err(failed)?;
    session.login(UserType::So, Some(officer)).map_err(failed)?;
    session.init_pin(user).map_err(failed)?;
    session.logout().map_err(failed)
}
