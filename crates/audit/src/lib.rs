//! The audit service: the one sequencer of a cell's transparency log (RFC 9162, C2SP tlog-tiles).
//!
//! It owns the log's folder and the key that signs its checkpoints. It consumes `audit.<service>.<category>` (acts of
//! every service), reads EVENTS by sequence, and takes away what is old enough of both; it publishes the events that go on
//! beyond that, and quarantine records. It serves `sotto.audit.v1.AuditService` over mutual TLS. It sees names, ids, hashes
//! and what happened to messages; never a message.
//!
//! Promises (INV-8):
//! - an act is acknowledged to the broker only under a signed checkpoint that is durable on disk; it is in the log
//!   once, however often it is delivered; a number that a producer skipped shows as a gap;
//! - every batch of EVENTS is committed by its hash in stream order, in ranges without a hole between them;
//! - a checkpoint that was published stays true: the log only grows, also over crashes and failing disks;
//! - a proof that is handed out was verified first; a log on disk that is not the signed one is never served or grown;
//! - nothing leaves EVENTS before what became of it is under a checkpoint (INV-2);
//! - intake never waits for it: it reads, and nobody waits for what it reads.

pub mod adapters;
pub mod config;
pub mod domain;
pub mod error;
pub mod log;
pub mod metrics;
pub mod ports;
pub mod ranges;
pub mod sequencer;
pub mod service;
pub mod trim;
pub mod view;
