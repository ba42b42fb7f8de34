//! The outside: broker, Redis, privacy, carriers, operators.

pub(crate) mod broker;
pub(crate) mod ledger;
pub(crate) mod ops;
pub(crate) mod privacy;
pub(crate) mod smpp;
pub(crate) mod traffic;
