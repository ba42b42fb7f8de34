//! What identity decides, without I/O: time, randomness and keys come as parameters.

pub mod access;
pub mod assertion;
pub mod client;
pub mod invitation;
pub mod jwk;
pub mod jws;
pub mod request;
pub mod rotation;
pub mod scope;
pub mod secret;
pub mod throttle;

pub use access::{AccessClaims, TokenRefused};
pub use client::{Authentication, Client, ClientId, Draft, Violation};
pub use request::{Credential, Refusal, TokenRequest};
pub use scope::{Scope, Scopes};
