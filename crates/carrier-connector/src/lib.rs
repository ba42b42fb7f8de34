//! The carrier connector: hands messages to carriers by SMPP and tells what they say (CAR-1 to CAR-3).
//!
//! Owns: carrier accounts, their binds, windows and rates; opening and encoding; receipts. Consumes
//! `waiting.<account>.<lane>`, one-time codes first. Publishes events, and gives back to `retry.<lane>.<shard>` what
//! another attempt may save.
//!
//! Promises:
//! - A message is in clear here for one submit only, and wiped after it (INV-3).
//! - Nothing reaches a carrier that its account does not permit at that moment (INV-4).
//! - A part is written at most once an attempt, whichever accounts the attempt waits at: its claim in Redis, which is
//!   no account's own, stands and its intent is in the log before the first byte. What may have been written is never
//!   written again (INV-5, docs/adr/0005).
//! - A receipt is answered only when it is in the log, and finds its message by account and normalised id (INV-6).
//! - Losing all of Redis loses nothing: it is rebuilt from the log, and until then nothing is taken (INV-9).
//! - Accounts do not disturb one another: each has its own binds, queues and rates.

mod adapters;
mod app;
mod config;
mod domain;
mod error;
mod metrics;
mod ports;
mod service;
#[cfg(feature = "simulated")]
pub mod simulated;
#[cfg(test)]
mod testing;

pub use config::CarrierConfig;
pub use error::CarrierError;
pub use metrics::described;
pub use service::Carrier;
