//! The application: what happens to a request, to a batch of events, to a deadline and to a lost Redis.

pub mod cancel;
mod fold;
pub mod intake;
pub mod list;
pub mod projection;
pub mod rebuild;
mod recent;
pub mod schedule;
pub mod subjects;
pub mod sweep;
pub mod watch;
