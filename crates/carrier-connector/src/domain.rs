//! What the connector decides, without I/O and without a clock of its own.

pub(crate) mod carrier_id;
pub(crate) mod claim;
pub(crate) mod course;
pub(crate) mod doubt;
pub(crate) mod inbound;
pub(crate) mod lease;
#[cfg(test)]
mod model;
pub(crate) mod pace;
pub(crate) mod question;
pub(crate) mod receipt;
pub(crate) mod reconnect;
pub(crate) mod settle;
pub(crate) mod status;
pub(crate) mod submit;
