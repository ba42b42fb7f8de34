//! The ingress service: takes messages, seals them, stores them, and tells what became of them.
//!
//! It owns the public gRPC interface `sotto.message.v1` and the projection of messages in Redis. It publishes to
//! `accepted.<lane>.<shard>`, to `event.<shard>` (closing events) and to `audit.ingress.*`, and consumes `event.<shard>`.
//!
//! Promises:
//! - a client hears "accepted" only after the broker stored the message and fsynced it (INV-1);
//! - number, sender and text exist in clear for one request and in memory only; ingress keeps nothing that opens a
//!   stored message (INV-3);
//! - the same idempotency key of a tenant gives the same message, also after a crash, and an error for another content
//!   (MSG-4);
//! - `GetMessage` never says "not found" of an accepted message that lives or ended within a day;
//! - losing Redis loses nothing: keyed sends wait, the others go on, and everything is rebuilt from the log (INV-9);
//! - every silent message is closed at its deadline, as expired or as unknown (MSG-6);
//! - memory is bounded whatever clients do.

pub mod adapters;
pub mod app;
pub mod config;
pub mod domain;
pub mod error;
pub mod metrics;
pub mod ports;
pub mod service;
