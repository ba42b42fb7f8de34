//! The tool as people use it: the built `sotto`, and cells of real processes. Needs the workspace's programs:
//! `cargo build --workspace`.
#![expect(clippy::unwrap_used, reason = "test code")]

mod cell;
mod doctor;
mod forged;
mod offline;
mod running;
