//! The identity service: who may ask for what, as OAuth 2.0 access tokens (docs/services/identity.md).
//!
//! It owns the registered clients and the keys that sign tokens. It serves tokens, metadata and public keys over
//! HTTPS, and `sotto.identity.v1.ClientService` over mutual TLS; it publishes to `audit.identity.<category>`
//! and consumes nothing. Everybody else checks tokens offline against its keys.
//!
//! Promises:
//! - a token is issued only to a client that proved itself, for scopes it is registered with, for this cell, for at
//!   most an hour; an assertion counts once, also among replicas, and not at all while that cannot be told;
//! - a signing key is published before its first token and until its last one is over;
//! - a client, its being disabled and a redeemed invitation are on disk before the answer; a file that somebody
//!   without the keystore changed is not used;
//! - of a secret only a keyed digest is kept; nothing here prints a secret, a token, an assertion or a sender;
//! - every issue, refusal and change is told to the audit log (INV-8), and none waits for it.

pub mod adapters;
pub mod app;
pub mod config;
pub mod domain;
pub mod error;
pub mod metrics;
pub mod ports;
pub mod service;

pub use service::Identity;
