//! What each message costs in pure code: no socket, no store, one thread.

#![expect(clippy::unwrap_used, reason = "benches stop where something is wrong")]

/// The decision of routing as it is, without the service around it.
#[expect(dead_code, reason = "cargo builds benches as tests: those of this module come along")]
#[path = "../../crates/routing/src/domain"]
mod domain {
    pub(crate) mod decide;
}
mod messages;
mod route;
mod seal;
mod smpp;
mod state;
mod text;
mod wire;

use criterion::Criterion;

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    seal::benches(&mut criterion);
    text::benches(&mut criterion);
    smpp::benches(&mut criterion);
    route::benches(&mut criterion);
    state::benches(&mut criterion);
    wire::benches(&mut criterion);
    criterion.final_summary();
}
