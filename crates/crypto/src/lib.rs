//! Sealing, wrapping, signing and digests: bytes in, bytes out. The only crate that uses `ring` and `hpke`.
//!
//! Promises (INV-3): a sealed message opens only with its key *and* its whole binding (cell, tenant, class,
//! message, schema, key id); a nonce is never used twice under one key; nothing here prints a key or a
//! plaintext. Formats are documented byte by byte in `docs/formats`.
//!
//! Keys rest only in memory that is wiped on drop. `ring` does not wipe its expanded keys, so they are built
//! for one call and dropped with its stack frame: no long-lived copy outlives a key.

#![warn(missing_docs)]

pub mod aead;
mod canonical;
pub mod compare;
pub mod envelope;
mod error;
pub mod hash;
pub mod hpke;
pub mod key;
pub mod random;
pub mod sign;
pub mod wrap;

pub use error::CryptoError;
pub use key::{AeadKey, MacKey};
pub use zeroize::Zeroizing;
