//! The broker, typed: group-commit publishing, workers that alone acknowledge, the one list of streams.
//!
//! Promises:
//! - A publish resolves only when the broker says that it is stored and fsynced (INV-1).
//! - Nothing a handler did not finish is acknowledged; what cannot be handled goes to quarantine, never away (INV-2).
//! - Delivery is at least once. Handlers are idempotent by item; the broker's duplicate window is an optimisation.
//! - Nothing personal in logs, errors or quarantine: sealed items, sizes and keyed digests only (INV-3).
//!
//! It owns `deploy/streams.toml`: streams, consumers, permissions and the broker's configuration come from there.

mod api;
mod audit_trail;
mod bus;
pub mod ceiling;
mod client;
mod config;
mod connection;
mod controls;
mod holdings;
mod leases;
mod measures;
mod publish;
mod quarantine;
mod quorum;
mod read;
mod register;
mod requests;
mod schedule;
mod service;
#[cfg(any(test, feature = "simulated"))]
pub mod simulated;
mod subject;
pub mod topology;
mod trace;
mod wire;
mod work;

pub use api::ApiError;
pub use audit_trail::{Act, AuditTrail, Untold};
pub use bus::{Bus, BusOptions, ConnectError, Digest};
pub use client::{ClientConnection, ClientIdentity, SubmitError};
pub use config::NatsConfig;
pub use connection::ConnectionState;
pub use controls::{CONTROLS_EVERY, ControlRegister, ControlWord, Heard};
pub use holdings::measure_streams;
pub use leases::{Lease, LeaseKey, LeaseRecord, Leases};
pub use publish::{PublishError, Publisher, PublisherConfig, Stored};
pub use quarantine::{Quarantine, Quarantined};
pub use read::{
    CARRIED, ConsumerState, ReadError, Reading, StoredBatch, StoredMessage, StreamReader, StreamState,
    Subjects,
};
pub use register::{Entry, Register, RegisterError};
pub use requests::{Answer, Request, Requests, RequestsError};
pub use schedule::{SCHEDULED, Schedule, ScheduleError, second};
pub use service::{Service, UnknownService};
pub use subject::{AuditCategory, Subject, Topic};
pub use topology::Topology;
pub use work::{Delivery, Handler, Outcome, WorkError, Worker, WorkerConfig};

/// What connections and streams measure, for docs/METRICS.md.
pub fn described() -> Vec<sotto_metrics::Described> {
    measures::described().into_iter().chain(holdings::described()).collect()
}
