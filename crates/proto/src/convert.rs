//! Between wire and core types, both ways. What comes out of `TryFrom` is valid.

mod event;
mod facts;
mod inbound;
mod index;
mod ledger;
mod work;

pub use event::LogEvent;
pub(crate) use work::envelope_key_id;

use sotto_core::{Classified, ErrorClass, Timestamp};

/// A broker message or item that cannot be read. Holds field names, never values.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// A field that must be there is not.
    #[error("field `{0}` is missing")]
    Missing(&'static str),
    /// A field holds what it must not.
    #[error("field `{0}` is invalid")]
    Invalid(&'static str),
}

impl Classified for WireError {
    fn class(&self) -> ErrorClass {
        ErrorClass::Poison
    }
}

/// A time on the public interface.
pub fn to_wire_time(at: Timestamp) -> prost_types::Timestamp {
    let millis = at.unix_millis();
    let nanos = i32::try_from(millis.rem_euclid(1000)).unwrap_or(0) * 1_000_000;
    prost_types::Timestamp { seconds: millis.div_euclid(1000), nanos }
}

/// A time off the public interface, to the millisecond.
pub fn from_wire_time(time: prost_types::Timestamp) -> Timestamp {
    Timestamp::from_unix_millis(
        time.seconds.saturating_mul(1000).saturating_add(i64::from(time.nanos / 1_000_000)),
    )
}

fn part_number(field: &'static str, part: u32) -> Result<u8, WireError> {
    u8::try_from(part).ok().filter(|part| *part >= 1).ok_or(WireError::Invalid(field))
}

fn attempt_number(attempt: u32) -> Result<u16, WireError> {
    u16::try_from(attempt).map_err(|_| WireError::Invalid("attempt"))
}

fn bucket_name(name: String) -> Result<String, WireError> {
    let fits = !name.is_empty() && name.len() <= 64;
    if fits { Ok(name) } else { Err(WireError::Invalid("key_wrap.bucket")) }
}

fn wrapped_key(wrapped: bytes::Bytes) -> Result<bytes::Bytes, WireError> {
    let fits = !wrapped.is_empty() && wrapped.len() <= 1024;
    if fits { Ok(wrapped) } else { Err(WireError::Invalid("key_wrap.wrapped")) }
}

fn parse<T: std::str::FromStr>(field: &'static str, text: &str) -> Result<T, WireError> {
    text.parse().map_err(|_| WireError::Invalid(field))
}
