//! The outside: HTTPS, gRPC, files, Redis, the broker.

pub mod audit;
pub mod file_format;
pub mod file_store;
pub mod grpc;
pub mod https;
pub mod invitation_file;
pub mod redis_replay;
