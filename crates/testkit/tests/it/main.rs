//! The testkit against the real servers it starts.
#![expect(clippy::unwrap_used, reason = "test code")]

mod canary;
mod chaos;
mod servers;
