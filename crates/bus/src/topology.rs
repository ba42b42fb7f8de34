//! The one list of streams and consumers (`deploy/streams.toml`) and what follows from it.

mod apply;
mod copies;
mod expand;
pub(crate) mod permissions;
mod server_conf;
pub(crate) mod settings;

use std::{collections::BTreeMap, fs, path::Path, time::Duration};

use serde::Deserialize;
use sotto_core::{AccountId, Classified, ErrorClass};

use crate::Service;

pub(crate) use apply::verify_consumer;
pub use apply::{Applied, SetupError, apply, check_ack_wait, is_there, verify};
pub use copies::{Copies, copies};
pub use expand::{Cell, ConsumerSpec, StreamSpec, consumer_name, stream_name};
pub use permissions::{Permissions, client_permissions, permissions};
pub use server_conf::{
    CLIENTS_FILE, ClientUser, ClusterOptions, MAX_PAYLOAD, ServerOptions, nats_clients_conf,
    nats_server_conf, renewed_server_conf,
};

/// The list that is built in.
const EMBEDDED: &str = include_str!("../../../deploy/streams.toml");

/// Stands for the publishing service's own name.
const SERVICE: &str = "{service}";

/// Why a list of streams is refused.
#[derive(Debug, thiserror::Error)]
pub enum TopologyError {
    /// The file cannot be read.
    #[error("cannot read the list of streams {path}")]
    Read {
        /// Its path.
        path: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// It is not TOML of this shape.
    #[error("the list of streams is not valid")]
    Parse(#[source] Box<toml::de::Error>),
    /// It contradicts itself.
    #[error("the list of streams: {0}")]
    Invalid(String),
}

impl Classified for TopologyError {
    fn class(&self) -> ErrorClass {
        ErrorClass::Reject
    }
}

/// The list as written, with placeholders.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Topology {
    /// How much a cell may have.
    pub limits: Limits,
    /// The streams.
    #[serde(rename = "stream")]
    pub streams: Vec<Stream>,
    /// What clients ask.
    #[serde(rename = "request")]
    pub requests: Vec<Asked>,
    /// Seconds until redelivery of the consumers of single accounts, where they are not those of the list.
    #[serde(skip)]
    pub(crate) ack_waits: BTreeMap<AccountId, u64>,
}

/// How much a cell may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Limits {
    /// Carrier accounts.
    pub accounts: u16,
    /// Shards.
    pub shards: u16,
}

/// What a stream does with a message that was handled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Retention {
    /// Kept until acknowledged by its one consumer.
    WorkQueue,
    /// Kept: a log.
    Limits,
    /// Kept until it is too old: what is told of something else, never a message.
    Aged,
    /// The latest message of each subject is kept, and makes the one before it go: a register.
    Latest,
}

/// What clients ask, and who answers. It is never kept.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Asked {
    /// Its subject without the cell's prefix.
    pub subject: String,
    /// Who answers.
    pub service: Service,
}

/// A stream as written.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Stream {
    /// Its name without the cell.
    pub name: String,
    /// Its subjects without the cell's prefix.
    pub subjects: Vec<String>,
    /// When messages leave it.
    pub retention: Retention,
    /// Whether services work without it: a cell that was made before it was in the list has none until it is set up again.
    #[serde(default)]
    pub may_be_missing: bool,
    /// Its bound in bytes; beyond it, publishes are refused.
    pub max_bytes: i64,
    /// The bound of each subject in messages; none means no bound.
    #[serde(default)]
    pub max_messages_per_subject: Option<i64>,
    /// Seconds after which a message goes by itself; none means never.
    #[serde(default)]
    pub max_age_s: Option<u64>,
    /// Whether deleting single messages by the API is refused for good.
    pub deny_delete: bool,
    /// Whether purging by the API is refused for good.
    pub deny_purge: bool,
    /// Who publishes what.
    #[serde(rename = "publisher", default)]
    pub publishers: Vec<StreamPublisher>,
    /// Who else reads it, by direct get.
    #[serde(rename = "reader", default)]
    pub readers: Vec<Reader>,
    /// Its consumers.
    #[serde(rename = "consumer", default)]
    pub consumers: Vec<Consumer>,
}

/// A service or every service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(from = "Who")]
pub enum Party {
    /// All six services and the tools that act.
    Every,
    /// One.
    One(Service),
}

#[derive(Clone, Copy, Deserialize)]
#[serde(untagged)]
enum Who {
    Every(Every),
    One(Service),
}

#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Every {
    Every,
}

impl From<Who> for Party {
    fn from(who: Who) -> Self {
        match who {
            Who::Every(Every::Every) => Self::Every,
            Who::One(service) => Self::One(service),
        }
    }
}

impl Party {
    /// Whether `service` is meant. Tools are never meant by "every".
    pub fn includes(self, service: Service) -> bool {
        match self {
            Self::Every => service.is_service(),
            Self::One(one) => one == service,
        }
    }
}

/// Who publishes what.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StreamPublisher {
    /// Who.
    pub service: Party,
    /// What, without the cell's prefix; `{service}` stands for its own name.
    pub subjects: Vec<String>,
}

impl StreamPublisher {
    /// What `service` publishes by this entry.
    pub fn subjects_of(&self, service: Service) -> Vec<String> {
        if !self.service.includes(service) {
            return Vec::new();
        }
        self.subjects.iter().map(|subject| subject.replace(SERVICE, service.name())).collect()
    }
}

/// Who reads a stream by direct get.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Reader {
    /// Who.
    pub service: Service,
    /// Whether it also deletes what it has read.
    #[serde(default)]
    pub deletes: bool,
    /// Whether it also takes away everything before a sequence.
    #[serde(default)]
    pub trims: bool,
}

/// A consumer as written.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Consumer {
    /// Its name, with placeholders.
    pub name: String,
    /// Who consumes.
    pub service: Service,
    /// Its filters without the cell's prefix, with placeholders.
    pub filters: Vec<String>,
    /// Seconds until an unacknowledged message is delivered again.
    pub ack_wait_s: u64,
    /// Messages that may be delivered and not acknowledged, over all instances.
    pub max_ack_pending: i64,
}

impl Topology {
    /// The list that is built in.
    pub fn embedded() -> Result<Self, TopologyError> {
        Self::parse(EMBEDDED)
    }

    /// A list from a file instead of the one built in.
    pub fn from_file(path: &Path) -> Result<Self, TopologyError> {
        let text = fs::read_to_string(path)
            .map_err(|source| TopologyError::Read { path: path.display().to_string(), source })?;
        Self::parse(&text)
    }

    /// A list from text.
    pub fn parse(text: &str) -> Result<Self, TopologyError> {
        let topology: Self = toml::from_str(text).map_err(|error| TopologyError::Parse(Box::new(error)))?;
        topology.check()?;
        Ok(topology)
    }

    /// The same list, in which what an account's consumers deliver and nobody acknowledges comes again after a time of the
    /// account's own: as soon as its carrier's patience allows. Whoever sets the broker up and whoever pulls must say the same.
    #[must_use]
    pub fn with_ack_waits(mut self, waits: impl IntoIterator<Item = (AccountId, Duration)>) -> Self {
        self.ack_waits = waits.into_iter().map(|(account, wait)| (account, wait.as_secs())).collect();
        self
    }

    fn check(&self) -> Result<(), TopologyError> {
        let invalid = |what: String| Err(TopologyError::Invalid(what));
        for stream in &self.streams {
            let name = &stream.name;
            if name.is_empty() || !name.bytes().all(|b| b.is_ascii_uppercase()) {
                return invalid(format!("stream {name}: a name is A to Z"));
            }
            // What clients ask is in the broker's memory for a moment, and nowhere else.
            let first = |subject: &str| subject.split('.').next().map(ToOwned::to_owned);
            let kept = |subject: &&String| {
                subject.starts_with(['*', '>'])
                    || self.requests.iter().any(|asked| first(&asked.subject) == first(subject))
            };
            if let Some(kept) = stream.subjects.iter().find(kept) {
                return invalid(format!("stream {name}: {kept} would keep what clients ask"));
            }
            if stream.max_bytes <= 0 {
                return invalid(format!("stream {name}: max_bytes must bound it"));
            }
            let keeps_latest = stream.retention == Retention::Latest;
            match (stream.retention, stream.max_age_s) {
                (Retention::WorkQueue | Retention::Limits, Some(_)) => {
                    return invalid(format!(
                        "stream {name}: what is a queue or a log forgets nothing by age"
                    ));
                }
                (Retention::Aged, None) => {
                    return invalid(format!("stream {name}: max_age_s says when it is too old"));
                }
                (Retention::Aged | Retention::Latest, _) | (_, None) => {}
            }
            if stream.may_be_missing && !stream.consumers.is_empty() {
                return invalid(format!("stream {name}: one that may be missing is not consumed"));
            }
            if keeps_latest && (stream.max_messages_per_subject.is_some() || !stream.consumers.is_empty()) {
                return invalid(format!(
                    "stream {name}: a register keeps one message a subject and is not consumed"
                ));
            }
            for publisher in &stream.publishers {
                let held = |s: &String| stream.subjects.contains(&s.replace(SERVICE, "*"));
                if let Some(foreign) = publisher.subjects.iter().find(|s| !held(s)) {
                    return invalid(format!(
                        "stream {name}: {foreign} is published but not one of its subjects"
                    ));
                }
            }
            for consumer in &stream.consumers {
                let name = &consumer.name;
                // A permission cannot match a part of a token: consumers by account share the stream's wildcard.
                let foreign = stream.consumers.iter().any(|other| other.service != consumer.service);
                if name.contains("{account}") && foreign {
                    return invalid(format!("consumer {name}: the stream has consumers of another service"));
                }
                if consumer.ack_wait_s == 0 || consumer.max_ack_pending <= 0 || consumer.filters.is_empty() {
                    return invalid(format!(
                        "consumer {name}: ack_wait_s, max_ack_pending and filters are needed"
                    ));
                }
            }
        }
        let mut names: Vec<_> = self.streams.iter().map(|stream| &stream.name).collect();
        names.sort_unstable();
        names.dedup();
        if names.len() != self.streams.len() {
            return invalid("two streams have one name".to_owned());
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_built_in_list_is_valid() {
        let topology = Topology::embedded().unwrap();
        let names: Vec<_> = topology.streams.iter().map(|stream| stream.name.as_str()).collect();
        assert_eq!(
            names,
            [
                "INTAKE",
                "SCHEDULED",
                "WAITING",
                "EVENTS",
                "CARRIED",
                "INBOUND",
                "INDEX",
                "AUDIT",
                "LEASES",
                "CONTROL",
                "QUARANTINE"
            ]
        );
    }

    #[test]
    fn contradictions_are_refused() {
        for (from, to) in [
            ("subjects = [\"event.*\"]\nretention", "subjects = [\"other.*\"]\nretention"),
            ("subjects = [\"inbound.*\"]\nretention", "subjects = [\"inbound.*\", \"client.>\"]\nretention"),
            (
                "subjects = [\"inbound.*\"]\nretention",
                "subjects = [\"inbound.*\", \"*.acme.submit\"]\nretention",
            ),
            ("subjects = [\"inbound.*\"]\nretention", "subjects = [\"inbound.*\", \">\"]\nretention"),
            ("name = \"AUDIT\"", "name = \"EVENTS\""),
            ("name = \"AUDIT\"", "name = \"audit\""),
            ("max_ack_pending = 1024", "max_ack_pending = 0"),
            ("max_bytes = 8_589_934_592", "max_bytes = 0"),
            ("max_bytes = 8_589_934_592", "max_bytes = 8_589_934_592\nmax_age_s = 60"),
            ("max_age_s = 7_948_800", ""),
            ("retention = \"aged\"", "retention = \"limits\""),
            ("max_age_s = 3_600", "max_messages_per_subject = 2"),
            ("max_ack_pending = 1024", "max_ack_pending = 1024\n  speed = 1"),
        ] {
            assert!(EMBEDDED.contains(from), "{from}");
            assert!(Topology::parse(&EMBEDDED.replacen(from, to, 1)).is_err(), "{to}");
        }
    }
}
