//! Malformed protobuf on every subject of a running cell: kept aside without its bytes, and the cell goes on.

use std::{collections::BTreeSet, num::NonZeroU16, sync::Arc};

use sotto_bus::{
    Bus, BusOptions, NatsConfig, Publisher, PublisherConfig, Service, Subject, Topology,
    topology::Cell as BusCell,
};
use sotto_core::{AccountId, Lane, Replicas, Shards, SystemClock};
use sotto_proto::{Batch, WireError};
use sotto_testkit::eventually;

use crate::{
    cell::{BOUND, Cell},
    load::{Load, settled},
};

/// A batch whose bytes are no batch of anybody's.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Garbage {
    #[prost(fixed32, tag = "1")]
    pub(crate) noise: u32,
    #[prost(string, repeated, tag = "2")]
    pub(crate) words: Vec<String>,
}

impl Batch for Garbage {
    type Item = String;

    fn from_items(items: &[String]) -> Self {
        Self { noise: 0xdead_beef, words: items.to_vec() }
    }

    fn into_items(self) -> Vec<Result<String, WireError>> {
        self.words.into_iter().map(Ok).collect()
    }

    fn item_size(item: &String) -> usize {
        item.len()
    }
}

/// A connection to the cell's broker as one of its services.
pub(crate) async fn bus(cell: &Cell, service: Service) -> Bus {
    bus_of(cell, service, Replicas::One).await
}

/// The same, where the cell has so many brokers.
pub(crate) async fn bus_of(cell: &Cell, service: Service, replicas: Replicas) -> Bus {
    let path = |file: String| cell.root().join(file);
    let name = service.name();
    let config = NatsConfig {
        url: cell.nats_url(),
        ca_file: path("tls/ca.pem".to_owned()),
        cert_file: path(format!("tls/{name}.pem")),
        key_file: path(format!("tls/{name}.key")),
        nkey_seed_file: path(format!("nats/nkeys/{name}.current.seed")),
        connect_timeout_ms: 5_000,
    };
    let shards = Shards::new(NonZeroU16::new(4).unwrap());
    let options = BusOptions {
        service,
        instance: "test".to_owned(),
        cell: BusCell { id: cell.id.parse().unwrap(), shards, replicas },
        topology: Topology::embedded().unwrap(),
        clock: Arc::new(SystemClock),
        digest: Arc::new(|_| [0; 32]),
    };
    Bus::connect(&config, options).await.unwrap()
}

/// Stores a text as garbage on a subject, as the service that may publish there.
pub(crate) async fn publish(cell: &Cell, service: Service, subject: Subject, text: &str) {
    let bus = bus(cell, service).await;
    let publisher = Publisher::<Garbage>::new(&bus, PublisherConfig::default());
    publisher.publish(&subject, text.to_owned()).await.unwrap();
    assert!(bus.close(BOUND).await);
}

#[tokio::test]
async fn malformed_messages_on_every_subject_are_kept_aside_and_the_cell_goes_on() {
    let mut cell = Cell::start().await;
    let shards = Shards::new(NonZeroU16::new(4).unwrap());
    let shard = shards.iter().next().unwrap();
    let account: AccountId = "simulator".parse().unwrap();
    let mut subjects = vec![(Service::Routing, Subject::Event(shard))];
    for lane in [Lane::Otp, Lane::Transactional, Lane::Promotional] {
        subjects.push((Service::Ingress, Subject::Accepted(lane, shard)));
        subjects.push((Service::Carrier, Subject::Retry(lane, shard)));
        subjects.push((Service::Routing, Subject::Waiting(account.clone(), lane)));
    }
    for (service, subject) in subjects.clone() {
        publish(&cell, service, subject, "khong-phai-protobuf").await;
    }
    let wanted = subjects.len();
    eventually(BOUND, "every record", async || cell.json(["quarantine", "list"]).await.len() >= wanted).await;
    let listed = cell.json(["quarantine", "list"]).await;
    let named: BTreeSet<_> = listed.iter().map(|one| one["subject"].as_str().unwrap().to_owned()).collect();
    let id = "vn".parse().unwrap();
    for (_, subject) in &subjects {
        assert!(named.contains(&subject.in_cell(&id)), "{subject:?} is not in {named:?}");
    }
    assert!(!format!("{listed:?}").contains("khong-phai"), "{listed:?}");

    let ids = Load::start(&cell, 0..20).await.finish().await;
    assert_eq!(settled(&cell, &ids, false).await, 0);
    let told = cell.ledger().await;
    assert_eq!((told["balanced"].as_bool(), told["delivered"].as_u64()), (Some(true), Some(20)), "{told}");
    cell.redis(&["FLUSHALL"]).await;
    cell.run(["rebuild"]).await;
    assert_eq!(settled(&cell, &ids, false).await, 0);
    cell.stop().await;
}
