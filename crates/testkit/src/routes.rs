//! The ways between the brokers of a cluster, which can be cut.

use std::net::{Ipv4Addr, SocketAddr};

use crate::{ChaosProxy, free_port};

/// Nobody listens there.
const NOWHERE: &str = "127.0.0.1:1";

/// Addresses for the brokers of one cluster on free ports of 127.0.0.1, with a proxy on the way from each to each other.
/// Clients reach all of them whatever happens on these ways. They end with this value.
#[derive(Debug)]
pub struct Routes {
    ports: Vec<u16>,
    ways: Vec<Way>,
}

#[derive(Debug)]
struct Way {
    from: usize,
    to: usize,
    proxy: ChaosProxy,
}

impl Routes {
    /// The ways between so many brokers, counted from 0.
    ///
    /// # Panics
    /// When no port can be bound.
    pub async fn new(brokers: usize) -> Self {
        let ports: Vec<u16> = std::iter::repeat_with(free_port).take(brokers).collect();
        let mut ways = Vec::new();
        for from in 0..brokers {
            for (to, port) in ports.iter().enumerate().filter(|(to, _)| *to != from) {
                let backend = SocketAddr::from((Ipv4Addr::LOCALHOST, *port));
                ways.push(Way { from, to, proxy: ChaosProxy::start(backend).await });
            }
        }
        Self { ports, ways }
    }

    /// `host:port` at which a broker listens for the others.
    ///
    /// # Panics
    /// When there is no such broker.
    pub fn listen(&self, broker: usize) -> String {
        let port = self.ports.get(broker).unwrap_or_else(|| panic!("no broker {broker}"));
        format!("{}:{port}", Ipv4Addr::LOCALHOST)
    }

    /// `host:port` of each way from a broker to the others.
    pub fn of(&self, broker: usize) -> Vec<String> {
        self.ways.iter().filter(|way| way.from == broker).map(|way| way.proxy.address().to_string()).collect()
    }

    /// A broker's configuration in which it does not tell the others a way that passes these by.
    pub fn only_these(conf: &str) -> String {
        conf.replace("  no_advertise: true\n", &format!("  no_advertise: true\n  advertise: \"{NOWHERE}\"\n"))
    }

    /// Drops every connection between this broker and the others, and every new one.
    pub fn cut(&self, broker: usize) {
        self.touching(broker).for_each(ChaosProxy::cut);
    }

    /// Connections between this broker and the others stand, and nothing passes.
    pub fn stall(&self, broker: usize) {
        self.touching(broker).for_each(ChaosProxy::stall);
    }

    /// Everything passes again.
    pub fn pass(&self) {
        self.ways.iter().for_each(|way| way.proxy.pass());
    }

    fn touching(&self, broker: usize) -> impl Iterator<Item = &ChaosProxy> {
        let touches = move |way: &&Way| way.from == broker || way.to == broker;
        self.ways.iter().filter(touches).map(|way| &way.proxy)
    }
}
