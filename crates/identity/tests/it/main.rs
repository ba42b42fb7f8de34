//! The identity service with real files, real TLS, a real Redis and a clock moved by hand.
#![expect(clippy::unwrap_used, reason = "test code")]

mod broker;
mod clients;
mod config;
mod invitations;
mod jwt;
mod rotation;
mod store;
mod tokens;
mod world;
