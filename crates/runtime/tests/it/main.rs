//! The process kit with real processes, real TLS and a real Redis.
#![expect(clippy::unwrap_used, reason = "test code")]

mod config;
mod grpc;
mod listener;
mod process;
mod redis;
mod tls;

use sotto_runtime::config::TlsConfig;
use sotto_testkit::CertFiles;

fn tls_config(files: CertFiles) -> TlsConfig {
    TlsConfig { ca_file: files.ca, cert_file: files.cert, key_file: files.key }
}
