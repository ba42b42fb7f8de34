//! The process kit of every Sotto service: start, configuration, telemetry, health, TLS, gRPC, Redis, and an end
//! that loses nothing.
//!
//! A service's `main.rs` is one line, `sotto_runtime::main::<TheService>()`. The service implements [`Service`]:
//! its name, its embedded `default.toml`, its typed configuration, and `run`, which gets a [`Context`].
//!
//! Promises: configuration errors are all told at once and exit with 64 before anything is touched. Every task is
//! spawned through [`Tasks`] with a label; the end or panic of a critical one stops the process with a failure.
//! Health answers from a thread of its own, so a stuck service still tells that it lives. On SIGTERM or SIGINT work
//! under way drains within the grace time, and the labels that still hold the process are logged; a second signal
//! cuts it short. What is counted is served as `/metrics` beside health. Telemetry is flushed in every case. No process leaves a core file: its memory holds secrets.

mod clock;
pub mod config;
mod failpoint;
pub mod fuse;
pub mod grpc;
mod guard;
pub mod health;
pub mod lifecycle;
pub mod listener;
mod measures;
mod memory;
pub mod redis;
pub mod service;
pub mod telemetry;
pub mod tls;

pub use failpoint::{failpoint, shortened};
pub use health::{Condition, Readiness};
pub use lifecycle::{Context, Held, Stop, TaskOutput, Tasks};
pub use measures::described;
pub use service::{Service, main};
