//! The list with its placeholders filled in for one cell.

use sotto_core::{AccountId, CellId, Lane, Replicas, ShardId, Shards};

use super::{Consumer, Retention, Stream, Topology, TopologyError};
use crate::{Service, subject};

/// What the placeholders stand for.
#[derive(Clone, Debug)]
pub struct Cell {
    /// The cell.
    pub id: CellId,
    /// Its shards.
    pub shards: Shards,
    /// Copies of each message.
    pub replicas: Replicas,
}

/// A stream of one cell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StreamSpec {
    /// Its name on the broker.
    pub name: String,
    /// Whole subjects.
    pub subjects: Vec<String>,
    /// When messages leave it.
    pub retention: Retention,
    /// Bytes.
    pub max_bytes: i64,
    /// Messages a subject; none means no bound.
    pub max_messages_per_subject: Option<i64>,
    /// Seconds a message stays; none means for ever.
    pub max_age_s: Option<u64>,
    /// Whether deletes are refused.
    pub deny_delete: bool,
    /// Whether purges are refused.
    pub deny_purge: bool,
    /// Copies.
    pub replicas: Replicas,
    /// Consumers it may ever have: fixed when the stream is made.
    pub max_consumers: i64,
}

/// A consumer of one cell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConsumerSpec {
    /// Its stream's name on the broker.
    pub stream: String,
    /// Its name.
    pub name: String,
    /// Who consumes.
    pub service: Service,
    /// Whole subjects.
    pub filters: Vec<String>,
    /// Seconds until redelivery.
    pub ack_wait_s: u64,
    /// Unacknowledged messages.
    pub max_ack_pending: i64,
}

/// The name of a stream on the broker: `<CELL>_<NAME>`, upper case.
pub fn stream_name(cell: &CellId, name: &str) -> String {
    format!("{}_{name}", cell.as_str().to_ascii_uppercase())
}

/// Names of consumers, as the list writes them.
pub mod consumer_name {
    use super::{AccountId, Lane, ShardId};

    /// Routing's consumer of a lane on INTAKE.
    pub fn routing(lane: Lane) -> String {
        format!("routing-{lane}")
    }

    /// The connector's consumer of an account's lane on WAITING.
    pub fn carrier(account: &AccountId, lane: Lane) -> String {
        format!("carrier-{account}-{lane}")
    }

    /// The projection's consumer of a shard on EVENTS.
    pub fn projection(shard: ShardId) -> String {
        format!("projection-{shard}")
    }

    /// Audit's consumer on AUDIT.
    pub const AUDIT_ACTS: &str = "audit-acts";
}

impl Topology {
    /// Every stream of a cell.
    pub fn streams(&self, cell: &Cell) -> Vec<StreamSpec> {
        self.streams.iter().map(|stream| self.stream_spec(stream, cell)).collect()
    }

    pub(super) fn stream_spec(&self, stream: &Stream, cell: &Cell) -> StreamSpec {
        let max_consumers: i64 = stream.consumers.iter().map(|consumer| self.most_of(&consumer.name)).sum();
        StreamSpec {
            name: stream_name(&cell.id, &stream.name),
            subjects: whole(&cell.id, &stream.subjects),
            retention: stream.retention,
            max_bytes: stream.max_bytes,
            max_messages_per_subject: stream.max_messages_per_subject,
            max_age_s: stream.max_age_s,
            deny_delete: stream.deny_delete,
            deny_purge: stream.deny_purge,
            replicas: cell.replicas,
            // Zero and -1 mean "no limit" to the broker.
            max_consumers: max_consumers.max(1),
        }
    }

    /// The streams that a service or tool has to do with.
    pub(crate) fn used_by(&self, service: Service) -> impl Iterator<Item = &Stream> {
        self.streams.iter().filter(move |stream| {
            !service.is_service()
                || stream.publishers.iter().any(|publisher| publisher.service.includes(service))
                || stream.readers.iter().any(|reader| reader.service == service)
                || stream.consumers.iter().any(|consumer| consumer.service == service)
        })
    }

    /// How many consumers a name with placeholders may become.
    fn most_of(&self, name: &str) -> i64 {
        let factor = |placeholder: &str, count: i64| if name.contains(placeholder) { count } else { 1 };
        factor("{lane}", 3)
            * factor("{shard}", i64::from(self.limits.shards))
            * factor("{account}", i64::from(self.limits.accounts))
    }

    /// Every consumer of a cell with these carrier accounts.
    pub fn consumers(&self, cell: &Cell, accounts: &[AccountId]) -> Result<Vec<ConsumerSpec>, TopologyError> {
        if accounts.len() > usize::from(self.limits.accounts) || cell.shards.count() > self.limits.shards {
            return Err(TopologyError::Invalid(format!(
                "at most {} accounts and {} shards",
                self.limits.accounts, self.limits.shards
            )));
        }
        Ok(self
            .streams
            .iter()
            .flat_map(|stream| stream.consumers.iter().map(move |consumer| (stream, consumer)))
            .flat_map(|(stream, consumer)| {
                let accounts: Vec<_> = accounts.iter().map(ToString::to_string).collect();
                self.expand(consumer, stream, cell, &accounts)
            })
            .collect())
    }

    /// One consumer by its stream's short name and its own name.
    pub fn consumer(&self, cell: &Cell, stream: &str, name: &str) -> Option<ConsumerSpec> {
        let stream = self.streams.iter().find(|candidate| candidate.name == stream)?;
        stream.consumers.iter().find_map(|consumer| {
            let accounts: Vec<_> = account_in(&consumer.name, name).into_iter().collect();
            self.expand(consumer, stream, cell, &accounts).into_iter().find(|spec| spec.name == name)
        })
    }

    fn expand(
        &self,
        consumer: &Consumer,
        stream: &Stream,
        cell: &Cell,
        accounts: &[String],
    ) -> Vec<ConsumerSpec> {
        let values = |placeholder: &str, all: Vec<String>| {
            if consumer.name.contains(placeholder) { all } else { vec![String::new()] }
        };
        let lanes = values("{lane}", Lane::ALL.iter().map(ToString::to_string).collect());
        let shards = values("{shard}", cell.shards.iter().map(|shard| shard.to_string()).collect());
        let accounts = values("{account}", accounts.to_vec());
        let mut specs = Vec::new();
        for account in &accounts {
            let of_account = account.parse().ok().and_then(|id: AccountId| self.ack_waits.get(&id).copied());
            for shard in &shards {
                for lane in &lanes {
                    let fill = |text: &str| {
                        text.replace("{account}", account).replace("{shard}", shard).replace("{lane}", lane)
                    };
                    let filters: Vec<_> = consumer.filters.iter().map(|filter| fill(filter)).collect();
                    specs.push(ConsumerSpec {
                        stream: stream_name(&cell.id, &stream.name),
                        name: fill(&consumer.name),
                        service: consumer.service,
                        filters: whole(&cell.id, &filters),
                        ack_wait_s: of_account.unwrap_or(consumer.ack_wait_s),
                        max_ack_pending: consumer.max_ack_pending,
                    });
                }
            }
        }
        specs
    }
}

/// The account in `name` if it was made from `template` (`carrier-{account}-{lane}`).
fn account_in(template: &str, name: &str) -> Option<String> {
    let (before, after) = template.split_once("{account}")?;
    let rest = name.strip_prefix(before)?;
    Lane::ALL
        .iter()
        .find_map(|lane| rest.strip_suffix(&after.replace("{lane}", lane.name())).map(ToOwned::to_owned))
}

/// Subjects with the cell's prefix.
pub(super) fn whole(cell: &CellId, subjects: &[String]) -> Vec<String> {
    subjects.iter().map(|subject| format!("{}{subject}", subject::prefix(cell))).collect()
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU16;

    use super::*;

    fn cell() -> Cell {
        Cell {
            id: "vn".parse().unwrap(),
            shards: Shards::new(NonZeroU16::new(2).unwrap()),
            replicas: Replicas::One,
        }
    }

    #[test]
    fn placeholders_are_filled_in() {
        let topology = Topology::embedded().unwrap();
        let accounts = ["viettel-otp".parse().unwrap(), "mobi".parse().unwrap()];
        let names: Vec<_> =
            topology.consumers(&cell(), &accounts).unwrap().into_iter().map(|spec| spec.name).collect();
        assert_eq!(names.len(), 3 + 2 * 3 + 2 + 1);
        assert!(names.contains(&"carrier-viettel-otp-promotional".to_owned()));
        let spec = topology.consumer(&cell(), "INTAKE", "routing-otp").unwrap();
        assert_eq!(spec.stream, "VN_INTAKE");
        assert_eq!(spec.filters, ["sotto.v1.vn.accepted.otp.*", "sotto.v1.vn.retry.otp.*"]);
    }

    #[test]
    fn an_account_may_be_named_like_a_lane() {
        let topology = Topology::embedded().unwrap();
        let account: AccountId = "otp-otp".parse().unwrap();
        let name = consumer_name::carrier(&account, Lane::Otp);
        let spec = topology.consumer(&cell(), "WAITING", &name).unwrap();
        assert_eq!(spec.filters, ["sotto.v1.vn.waiting.otp-otp.otp"]);
    }

    #[test]
    fn names_in_code_are_those_of_the_list() {
        let topology = Topology::embedded().unwrap();
        let account: AccountId = "a".parse().unwrap();
        let shard = cell().shards.iter().last().unwrap();
        for (stream, name) in [
            ("INTAKE", consumer_name::routing(Lane::Transactional)),
            ("WAITING", consumer_name::carrier(&account, Lane::Promotional)),
            ("EVENTS", consumer_name::projection(shard)),
            ("AUDIT", consumer_name::AUDIT_ACTS.to_owned()),
        ] {
            assert_eq!(topology.consumer(&cell(), stream, &name).unwrap().name, name);
        }
        assert_eq!(topology.consumer(&cell(), "INTAKE", "routing-slow"), None);
    }

    #[test]
    fn an_account_may_have_a_redelivery_of_its_own() {
        let wait = std::time::Duration::from_secs(25);
        let own = Topology::embedded().unwrap().with_ack_waits([("mobi".parse().unwrap(), wait)]);
        let of = |name: &str| own.consumer(&cell(), "WAITING", name).unwrap().ack_wait_s;
        assert_eq!((of("carrier-mobi-otp"), of("carrier-vina-otp")), (25, 90));
        let all = own.consumers(&cell(), &["mobi".parse().unwrap()]).unwrap();
        let short: Vec<_> =
            all.iter().filter(|spec| spec.ack_wait_s == 25).map(|spec| spec.name.as_str()).collect();
        assert_eq!(short, ["carrier-mobi-otp", "carrier-mobi-transactional", "carrier-mobi-promotional"]);
    }

    #[test]
    fn the_limit_is_written_down() {
        let topology = Topology::embedded().unwrap();
        let streams = topology.streams(&cell());
        let most: i64 = streams.iter().map(|stream| stream.max_consumers).sum();
        // 3 + 1 (SCHEDULED has none) + 600 + 64 + 1 (CARRIED has none) + 1 (INBOUND has none) + 1 (INDEX has none) + 1 + 1 (LEASES has none)
        // + 1 (CONTROL has none) + 1 (QUARANTINE has none).
        assert_eq!(most, 675);
        let many: Vec<AccountId> = (0..201).map(|n| format!("a{n}").parse().unwrap()).collect();
        assert!(topology.consumers(&cell(), &many).is_err());
    }
}
