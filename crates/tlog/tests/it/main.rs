//! The log's formats against published vectors, against other implementations and against hostile bytes.

#![expect(clippy::unwrap_used, reason = "test code")]

mod differential;
mod fsck;
mod hostile;
mod merkle;
mod notes;
mod support;
mod tiles;
