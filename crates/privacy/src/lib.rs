//! The privacy service: session data keys made, opened and, by the death of their bucket, destroyed on time.
//!
//! It owns the bucket keys. It serves `sotto.privacy.v1.KeyService` over mutual TLS, to ingress (makes keys) and
//! carrier connectors (open them); it publishes to `audit.privacy.keys` and consumes nothing. It never sees a message.
//!
//! Promises (INV-3):
//! - a key hangs on a bucket that lives at least until the time it was asked for, and at most an hour (one-time codes)
//!   or a day longer; the bucket key is on disk before the first wrap leaves;
//! - a key opens only for a carrier connector, for an account that policy allows the tenant, under the binding it was
//!   made with, and never at or after its bucket's time of death, whatever the key file still holds;
//! - a bucket key is destroyed within seconds of its time, after a restart before anything is served, and never comes
//!   back under its name, even when the clock goes back;
//! - every use is counted, every refusal and destruction told to the audit log; neither waits for the broker.

pub mod adapters;
pub mod app;
pub mod config;
pub mod domain;
pub mod error;
pub mod metrics;
pub mod ports;
pub mod service;
pub mod token;
