//! A simulated world: a cell's services in one process, on paused time, with seeded misfortune.
//!
//! **Production code**: routing (worker, router, outbox), two connectors (accounts, ledger and its Lua scripts, rebuilding, SMPP
//! sessions), and all of `sotto-bus` above the connection (group commit, workers, quarantine, readers).
//! **Simulated**: the broker (`sotto_bus::simulated`), Redis (`sotto_runtime::redis::simulated`, which runs the scripts by Lua), the
//! carriers ([`carrier`]), links (pipes in memory), privacy (one key), and ingress: a client's send is a publish of the sealed
//! message, and silence is closed at its deadline by the event that `Delivery::closing_event` names. Bind leases,
//! cancellation, projection and operators' words are not here; the model in `crates/carrier-connector/src/domain/model.rs` has
//! cancellation, `tests/e2e` has all of them.
//!
//! **What counts as a failure**, looked at after every step: a part that a carrier took twice (INV-5), or was sent without
//! a durable intent; an accepted message that is in no stream, in no carrier's hands and not ended (INV-2); an event that
//! is not legal or a state that is not; anything in quarantine. At the end everything heals, and then: every accepted
//! message has a named end, what was taken and receipted is delivered (INV-6), and without misfortune nothing is unknown.
//!
//! **What does not**: a client that hears "in doubt"; a message in doubt after a crash, a lost Redis or a cut link.
//!
//! A run is its seed. `SOTTO_WORLD_SEEDS=1000` runs more of them. A failing run writes its steps to a file and prints its name;
//! `SOTTO_WORLD_REPLAY=<file>` runs these instead (edit it to make it shorter). Cases that were found are in [`found`].

#![expect(clippy::unwrap_used, clippy::panic, reason = "test code")]

mod carrier;
mod cell;
mod found;
mod invariants;
mod run;
mod steps;
