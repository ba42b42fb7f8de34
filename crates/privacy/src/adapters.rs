//! The wire on both sides: gRPC in, the broker out.

pub mod admin;
pub mod audit;
pub mod grpc;
pub mod index;
pub mod receipts;
pub mod subjects;
