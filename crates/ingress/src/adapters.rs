//! The outside: Redis, the broker, privacy, identity and the gRPC servers.

pub mod audit;
mod breaker;
pub mod broker;
pub mod grpc;
pub mod index;
pub mod keys;
mod lent;
pub mod measured;
pub mod publishers;
pub mod recipients;
pub mod room;
pub mod store;
pub mod subjects;
pub mod tokens;
