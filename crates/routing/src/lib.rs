//! Routing: which carrier account takes a message, when, and when none does (RTE-1, RTE-2).
//!
//! Owns: the route table and every attempt's start. Consumes `accepted.<lane>.*` and `retry.<lane>.*`, one-time codes
//! first. Publishes events and `waiting.<account>.<lane>`.
//!
//! Promises:
//! - It reads neither body nor number: it works on sealed messages and derived facts alone (RTE-5).
//! - The event of a decision is durable before the message moves; the message is durable at its new place before it is
//!   acknowledged at the old one (INV-2).
//! - No message waits at an account that may not carry it (INV-4); the same question has the same answer, so a repeat
//!   after a crash starts the same attempt.

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

pub use metrics::described;
pub use service::Routing;
