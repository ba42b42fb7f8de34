//! Random bytes from the operating system (`ring::rand::SystemRandom`, getrandom(2) on Linux).

use ring::rand::{SecureRandom, SystemRandom};

use crate::CryptoError;

/// Returns `N` bytes from the operating system's generator.
///
/// # Errors
/// [`CryptoError::Random`] when the generator fails; there is nothing to fall back to.
pub fn random_array<const N: usize>() -> Result<[u8; N], CryptoError> {
    let mut bytes = [0; N];
    SystemRandom::new().fill(&mut bytes).map_err(|_| CryptoError::Random)?;
    Ok(bytes)
}
