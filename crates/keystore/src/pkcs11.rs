//! Both keystores in the token of an HSM (PKCS#11). What is inside and what is not: docs/adr/0014-hsm.md.

mod buckets;
mod keys;
mod objects;
mod pool;
mod prepare;
mod sealed;
mod token;

pub use buckets::Pkcs11Buckets;
pub use keys::{MacHome, Pkcs11Keystore};
pub use prepare::prepare_token;
pub use token::{Token, TokenSettings};
