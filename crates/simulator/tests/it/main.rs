//! The simulator from outside: bound to by a session of ours, steered in process and over HTTP.
#![expect(clippy::unwrap_used, reason = "test code")]

mod admin;
mod knobs;
mod process;
mod support;
mod tls;
