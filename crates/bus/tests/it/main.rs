//! The bus against a real nats-server: TLS first, nkeys, the generated configuration, fsync on every write.
#![expect(clippy::unwrap_used, reason = "test code")]

mod acts;
mod cell;
mod clients;
mod cluster;
mod connect;
mod controls;
mod faults;
mod gate;
mod lanes;
mod leases;
mod measures;
mod permissions;
mod power;
mod publish;
mod quarantine;
mod read;
mod schedule;
mod trace;
mod work;
