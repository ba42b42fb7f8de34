//! How a service reaches the broker.

use std::path::PathBuf;

use serde::Deserialize;

/// The part of a service's configuration that names the broker. Every connection is mutual TLS, TLS first, with an
/// nkey; there is no other way in.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, serde::Serialize)]
#[serde(deny_unknown_fields)]
pub struct NatsConfig {
    /// Where the broker listens: `tls://host:port`; several servers separated by commas. The host must be in the
    /// server's certificate.
    pub url: String,
    /// Certificates of the cell's CA, PEM. Read again at each connection, so they are renewed without restart.
    pub ca_file: PathBuf,
    /// The service's certificate chain, PEM. Read again at each connection.
    pub cert_file: PathBuf,
    /// The key of the certificate, PEM. Read again at each connection.
    pub key_file: PathBuf,
    /// The seed of the service's nkey (`SU…`). Only the path is kept here.
    pub nkey_seed_file: PathBuf,
    /// How long one attempt to connect may take, milliseconds.
    #[serde(default = "default_connect_timeout_ms")]
    pub connect_timeout_ms: u64,
}

const fn default_connect_timeout_ms() -> u64 {
    5_000
}

impl NatsConfig {
    /// Every fault of the settings, each with the name of its field; empty when there is none.
    pub fn faults(&self) -> Vec<String> {
        let mut faults = Vec::new();
        for url in self.urls() {
            let host = url.strip_prefix("tls://").unwrap_or("");
            if host.is_empty() || !host.contains(':') || host.contains('@') {
                faults.push("url: expected tls://host:port".to_owned());
            }
        }
        for (name, path) in [
            ("ca_file", &self.ca_file),
            ("cert_file", &self.cert_file),
            ("key_file", &self.key_file),
            ("nkey_seed_file", &self.nkey_seed_file),
        ] {
            if path.as_os_str().is_empty() {
                faults.push(format!("{name}: a path is needed"));
            }
        }
        if !(100..=60_000).contains(&self.connect_timeout_ms) {
            faults.push("connect_timeout_ms: expected 100 to 60000".to_owned());
        }
        faults
    }

    pub(crate) fn urls(&self) -> impl Iterator<Item = &str> {
        self.url.split(',').map(str::trim)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> NatsConfig {
        NatsConfig {
            url: "tls://localhost:4222".to_owned(),
            ca_file: "ca.pem".into(),
            cert_file: "cert.pem".into(),
            key_file: "key.pem".into(),
            nkey_seed_file: "seed".into(),
            connect_timeout_ms: 5_000,
        }
    }

    #[test]
    fn a_good_config_has_no_fault() {
        assert_eq!(config().faults(), Vec::<String>::new());
        let two = NatsConfig { url: "tls://a:4222, tls://b:4222".to_owned(), ..config() };
        assert_eq!(two.faults(), Vec::<String>::new());
    }

    #[test]
    fn every_fault_is_told_at_once() {
        let bad = NatsConfig {
            url: "nats://user@host:1".to_owned(),
            ca_file: PathBuf::new(),
            cert_file: PathBuf::new(),
            key_file: PathBuf::new(),
            nkey_seed_file: PathBuf::new(),
            connect_timeout_ms: 0,
        };
        assert_eq!(bad.faults().len(), 6);
    }

    #[test]
    fn unknown_fields_are_refused() {
        let text = "url='tls://a:1'\nca_file='a'\ncert_file='b'\nkey_file='c'\nnkey_seed_file='d'\n";
        toml::from_str::<NatsConfig>(text).unwrap();
        assert!(toml::from_str::<NatsConfig>(&format!("{text}\npassword='x'\n")).is_err());
    }
}
