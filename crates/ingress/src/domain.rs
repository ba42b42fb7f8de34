//! What intake decides, without I/O: tokens, requests, idempotency, pace, and the journal of a message.

pub mod cursor;
pub mod idempotency;
pub mod journal;
pub mod pace;
pub mod page;
pub mod pseudonym;
pub mod request;
pub mod token;
pub mod waiver;
