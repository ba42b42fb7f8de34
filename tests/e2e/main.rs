//! Whole cells of real processes: `sotto init`, `sotto up`, a real broker, a real Redis, SMPP over TLS to the simulator.
//!
//! What counts as a failure: an accepted message without a named end; a part that the carrier got twice; a ledger that
//! does not balance; a number, sender or text found anywhere at rest. What the carrier got is counted by the carrier
//! (the simulator), never by our own projection.
#![expect(clippy::unwrap_used, clippy::panic, reason = "test code")]

mod alerts;
mod canary;
mod cancel;
mod cell;
mod cells;
mod clients;
mod collector;
mod demo;
mod edge;
mod faults;
mod foreign;
mod hsm;
mod inbound;
mod interop;
mod journey;
mod keys;
mod lanes;
mod load;
mod metrics;
mod nats;
mod noise;
mod openings;
mod operators;
mod peer;
mod python;
mod quarantine;
mod replicas;
mod restore;
mod retention;
mod schedule;
mod simulator;
mod subjects;
mod tokens;
mod torture;
mod validity;
mod watch;
