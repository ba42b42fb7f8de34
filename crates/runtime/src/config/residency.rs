//! Where a cell's data may go: the hosts of its region.
//!
//! Names are compared as they are written, not what they lead to: who answers for a name is proved by certificates.

use std::{net::IpAddr, str::FromStr};

use ipnet::IpNet;
use serde::Deserialize;

use super::{ConfigError, ConfigErrors, KeyPath};

/// Hosts of a region.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
enum Hosts {
    /// One name, in small letters.
    Name(String),
    /// Every name that ends so, with its dot, in small letters.
    Under(String),
    /// Addresses.
    Net(IpNet),
}

/// What names no hosts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "give a name (nats.example), everything under one (.example), an address or a network (10.20.0.0/16)"
)]
struct NoHosts;

impl FromStr for Hosts {
    type Err = NoHosts;
    fn from_str(text: &str) -> Result<Self, NoHosts> {
        if let Ok(net) = text.parse::<IpNet>().or_else(|_| text.parse::<IpAddr>().map(IpNet::from)) {
            return Ok(Self::Net(net.trunc()));
        }
        let text = text.to_ascii_lowercase();
        let name = text.strip_prefix('.').unwrap_or(&text);
        let is_label = |label: &str| {
            !label.is_empty()
                && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
        };
        // What ends in a number is an address that was written wrong (RFC 3696 §2).
        let is_name = name.split('.').all(is_label)
            && name.rsplit('.').next().is_some_and(|last| !last.bytes().all(|byte| byte.is_ascii_digit()));
        match (is_name, name.len() < text.len()) {
            (false, _) => Err(NoHosts),
            (true, false) => Ok(Self::Name(text)),
            (true, true) => Ok(Self::Under(text)),
        }
    }
}

impl TryFrom<String> for Hosts {
    type Error = NoHosts;
    fn try_from(text: String) -> Result<Self, NoHosts> {
        text.parse()
    }
}

impl Hosts {
    fn has(&self, host: &str) -> bool {
        match self {
            Self::Name(name) => host.eq_ignore_ascii_case(name),
            Self::Under(end) => host.to_ascii_lowercase().ends_with(end.as_str()),
            Self::Net(net) => {
                host.parse::<IpAddr>().is_ok_and(|address| net.contains(&address.to_canonical()))
            }
        }
    }
}

/// Where the cell's data may go.
#[derive(Clone, Debug, Deserialize)]
pub struct ResidencyConfig {
    /// The hosts of the region; none: there is no rule.
    hosts: Vec<Hosts>,
}

impl ResidencyConfig {
    /// Whether data may go to a host: a name, or an address with or without brackets.
    pub fn permits(&self, host: &str) -> bool {
        let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        let host = host.strip_suffix('.').unwrap_or(host);
        self.hosts.is_empty() || self.hosts.iter().any(|hosts| hosts.has(host))
    }

    /// Refuses places outside of the region: each a key and its value, one or more URLs with commas. What is no URL is told of
    /// where it stands.
    pub fn check<'a>(
        &self,
        at: &KeyPath,
        places: impl IntoIterator<Item = (&'a str, &'a str)>,
        errors: &mut ConfigErrors,
    ) {
        for (key, urls) in places {
            let outside = |url: &str| {
                let uri: Option<axum::http::Uri> = url.trim().parse().ok();
                uri.and_then(|uri| uri.host().map(|host| !self.permits(host))).unwrap_or(false)
            };
            if urls.split(',').any(outside) {
                errors.push(
                    ConfigError::new(at.key(key), "is outside of the cell's region (residency.hosts)")
                        .fix("use one of the region's hosts, or add this one if it is in it"),
                );
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn region(hosts: &[&str]) -> ResidencyConfig {
        ResidencyConfig { hosts: hosts.iter().map(|hosts| hosts.parse().unwrap()).collect() }
    }

    #[test]
    fn names_ends_addresses_and_networks_are_of_the_region_and_nothing_else() {
        let region = region(&["localhost", ".VN.example", "10.20.0.0/16", "2001:db8::/32", "192.0.2.7"]);
        for host in [
            "localhost",
            "LocalHost",
            "nats.vn.example",
            "a.b.vn.EXAMPLE.",
            "10.20.255.1",
            "[2001:db8::5]",
            "192.0.2.7",
            "[::ffff:10.20.0.9]",
        ] {
            assert!(region.permits(host), "{host}");
        }
        for host in [
            "vn.example",
            "evilvn.example",
            "nats.vn.example.com",
            "10.21.0.1",
            "[2001:db9::1]",
            "192.0.2.8",
            "localhost.com",
            "",
            "10.20.0.0/16",
        ] {
            assert!(!region.permits(host), "{host}");
        }
        assert!(self::region(&[]).permits("anywhere.example"), "no hosts, no rule");
    }

    #[test]
    fn what_names_no_hosts_is_refused() {
        for text in [
            "",
            ".",
            "a..b",
            "10.20.0.0/33",
            "10.20.0",
            "https://a.example",
            "a.example:443",
            "a b",
            "*.example",
        ] {
            assert_eq!(text.parse::<Hosts>(), Err(NoHosts), "{text}");
        }
    }

    #[test]
    fn each_place_outside_is_told_by_its_key_and_without_its_value() {
        let region = region(&[".in.example"]);
        let mut errors = ConfigErrors::default();
        let places = [
            ("nats.url", "tls://a.in.example:4222, tls://b.out.example:4222"),
            ("redis.url", "rediss://r.in.example:6379"),
            ("telemetry.otlp_endpoint", "http://192.0.2.1:4317"),
            ("privacy.endpoint", "not a url"),
        ];
        region.check(&KeyPath::root(), places, &mut errors);
        let paths: Vec<_> = errors.iter().map(|error| error.path.clone()).collect();
        assert_eq!(paths, ["nats.url", "telemetry.otlp_endpoint"]);
        assert!(!errors.to_string().contains("out.example"));
    }
}
