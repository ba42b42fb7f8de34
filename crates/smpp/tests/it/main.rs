//! The crate from outside: generated and hostile octets, sessions in memory, other implementations, TLS.
#![expect(clippy::unwrap_used, reason = "test code")]

mod codec;
mod fuzz;
mod interop;
mod memory;
mod oracle;
mod oracle34;
mod requests;
mod session;
mod support;
mod tls;
