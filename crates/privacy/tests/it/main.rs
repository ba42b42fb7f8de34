//! The privacy service with its real key file, real TLS and a clock moved by hand.
#![expect(clippy::unwrap_used, reason = "test code")]

mod abuse;
mod ahead;
mod broker;
mod checks;
mod config;
mod destruction;
mod hsm;
mod index;
mod operator;
mod receipts;
mod rotation;
mod wire;
mod world;
