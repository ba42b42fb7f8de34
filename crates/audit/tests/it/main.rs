//! The audit service on real parts: a disk that crashes, a real broker, real TLS, and a verifier that shares no code.

#![expect(clippy::unwrap_used, reason = "test code")]

mod api;
mod cell;
mod crash;
mod files;
mod model;
mod sequence;
mod settings;
mod shelf;
mod trim;
mod vectors;
