//! The log's ports on real parts.

pub mod api;
pub mod broker;
pub mod folder;
pub mod keystore;
pub mod shelf;
pub mod wire;
