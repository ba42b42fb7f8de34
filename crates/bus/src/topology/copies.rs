//! Where the copies of a cluster's streams stand.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;
use serde_json::Value;

use super::{SetupError, apply::stream_info};
use crate::Bus;

/// The copies of a cell's streams, and what is wrong with them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Copies {
    /// Which broker decides about which stream.
    pub leaders: BTreeMap<String, String>,
    /// Streams of which nobody decides: what is published to them is refused.
    pub without_leader: Vec<String>,
    /// Brokers that the others do not hear.
    pub away: BTreeSet<String>,
    /// Brokers that still fetch what they missed.
    pub behind: BTreeSet<String>,
}

/// The part of a stream's description that tells of its copies.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Cluster {
    leader: String,
    replicas: Vec<Peer>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Peer {
    name: String,
    current: bool,
    offline: bool,
}

impl Copies {
    /// Whether every broker has everything.
    pub fn are_whole(&self) -> bool {
        self.without_leader.is_empty() && self.away.is_empty() && self.behind.is_empty()
    }

    /// Takes over what the broker says of a stream.
    fn take(&mut self, stream: &str, info: &Value) {
        let Some(told) = info.get("cluster") else { return };
        let Cluster { leader, replicas } = Cluster::deserialize(told).unwrap_or_default();
        if leader.is_empty() {
            self.without_leader.push(stream.to_owned());
        } else {
            self.leaders.insert(stream.to_owned(), leader);
        }
        for Peer { name, current, offline } in replicas {
            if offline {
                self.away.insert(name);
            } else if !current {
                self.behind.insert(name);
            }
        }
    }
}

/// Asks for every stream of the cell. A stream that nobody answers for has no leader.
pub async fn copies(bus: &Bus) -> Result<Copies, SetupError> {
    let mut copies = Copies::default();
    let streams = bus.topology().streams(bus.cell());
    // Together: where nobody decides each is waited for.
    let asked = streams.iter().map(|spec| stream_info(bus, &spec.name));
    for (spec, info) in streams.iter().zip(futures::future::join_all(asked).await) {
        match info {
            Ok(info) => copies.take(&spec.name, &info.unwrap_or_default()),
            Err(SetupError::Api { source, .. }) if source.is_nobody_decides() => {
                copies.without_leader.push(spec.name.clone());
            }
            Err(error) => return Err(error),
        }
    }
    copies.behind.retain(|broker| !copies.away.contains(broker));
    Ok(copies)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_the_broker_says_of_its_peers() {
        let mut copies = Copies::default();
        let peer = |name, current, offline| json!({ "name": name, "current": current, "offline": offline });
        let all = json!([peer("vn-2", true, false), peer("vn-3", true, false)]);
        copies.take("A", &json!({ "cluster": { "leader": "vn-1", "replicas": all } }));
        copies.take("ALONE", &json!({ "config": {} }));
        assert!(copies.are_whole());
        assert_eq!(copies.leaders, BTreeMap::from([("A".to_owned(), "vn-1".to_owned())]));
        let some = json!([peer("vn-2", false, true), peer("vn-3", false, false)]);
        copies.take("B", &json!({ "cluster": { "leader": "vn-1", "replicas": some } }));
        copies.take("C", &json!({ "cluster": { "replicas": [] } }));
        assert_eq!(copies.without_leader, ["C"]);
        assert_eq!(copies.away, BTreeSet::from(["vn-2".to_owned()]));
        assert_eq!(copies.behind, BTreeSet::from(["vn-3".to_owned()]));
    }
}
