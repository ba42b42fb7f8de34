//! The carrier that misbehaves on demand: an SMPP centre for tests and for the demo.
//!
//! It takes binds of the accounts it is given, answers every `submit_sm`, sends receipts, and remembers in memory
//! what it was sent, because a carrier does see the text. How badly it behaves is set live, in process
//! ([`Handle::behave`]) or over HTTP (see [`admin`]).
//!
//! Promises: what it remembers is bounded; its counters tell a part sent twice from two parts; nothing it knows is
//! logged, or written to disk unless a journal is asked for ([`Options::journal`]).

pub mod admin;
pub mod behaviour;
mod carrier;
pub mod handset;
pub mod ledger;
mod queries;
mod receipts;
pub mod scenario;
mod simulator;

pub use behaviour::Behaviour;
pub use handset::{Written, WrittenError};
pub use ledger::{Concatenation, Counters, Record};
pub use scenario::{Scenario, ScenarioError};
pub use simulator::{Handle, Options, Simulator, StartError, TlsFiles};
