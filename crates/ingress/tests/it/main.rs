//! Ingress on fakes where order matters, and on a real broker, a real Redis and real TLS where the outside matters.
#![expect(clippy::unwrap_used, reason = "test code")]

mod cancel;
mod cell;
mod clients;
mod config;
mod fakes;
mod index;
mod intake;
mod keys;
mod list;
mod outages;
mod projection;
mod publishers;
mod rebuild;
mod recipients;
mod store;
mod streams;
mod tokens;
mod watch;
mod wire;
