//! The whole process against a real broker: what it does is in `audit.privacy.keys`, and an absent broker holds up no key.

use std::{collections::BTreeMap, fs, num::NonZeroU16, path::PathBuf, sync::Arc};

use sotto_bus::{
    AuditCategory, Bus, BusOptions, NatsConfig, Service as Party, StreamReader, Subject, Topology,
    topology::{self, Cell, ServerOptions},
};
use sotto_core::{Shards, SystemClock};
use sotto_privacy::service::run;
use sotto_proto::pipeline::v1::{AuditBatch, AuditRecord};
use sotto_runtime::Context;
use sotto_testkit::{CertFiles, NatsOptions, NatsServer, Pki, eventually, eventually_ok};

use crate::{
    wire::{BOUND, client, config, make, unwrap},
    world::{MINUTE, NOW, World},
};

struct Broker {
    server: NatsServer,
    seeds: BTreeMap<Party, PathBuf>,
}

fn cell() -> Cell {
    Cell {
        id: "vn".parse().unwrap(),
        shards: Shards::new(NonZeroU16::new(4).unwrap()),
        replicas: sotto_core::Replicas::One,
    }
}

impl Broker {
    async fn start(pki: &Pki) -> Self {
        let mut seeds = BTreeMap::new();
        let mut users = Vec::new();
        for party in Party::ALL {
            let keys = nkeys::KeyPair::new_user();
            let file = pki.dir().join(format!("{party}.nkey"));
            sotto_testkit::write_secret(&file, keys.seed().unwrap());
            seeds.insert(party, file);
            users.push((party, vec![keys.public_key()]));
        }
        let CertFiles { ca, cert, key } = pki.service("nats");
        let options = ServerOptions {
            cell: cell(),
            server_name: "vn-1".to_owned(),
            cluster: None,
            listen: "127.0.0.1:4222".to_owned(),
            store_dir: "given-on-the-command-line".into(),
            ca_file: ca,
            cert_file: cert,
            key_file: key,
            users,
        };
        let list = Topology::embedded().unwrap();
        let text = topology::nats_server_conf(&list, &options);
        // The test's server gets its store folder on the command line, and only once.
        let kept: Vec<_> = text.lines().filter(|line| !line.contains("store_dir")).collect();
        let file = pki.dir().join("nats-server.conf");
        fs::write(&file, kept.join("\n")).unwrap();
        let clients = topology::nats_clients_conf(&options.cell.id, &[]);
        fs::write(pki.dir().join(topology::CLIENTS_FILE), clients).unwrap();
        let options = NatsOptions { config_file: Some(file), ..NatsOptions::default() };
        let broker = Self { server: NatsServer::start(options).await, seeds };
        topology::apply(&broker.bus(pki, Party::Provisioner).await, &list, &[]).await.unwrap();
        broker
    }

    async fn bus(&self, pki: &Pki, party: Party) -> Bus {
        let CertFiles { ca, cert, key } = pki.service(party.name());
        let nats = NatsConfig {
            url: self.server.tls_url(),
            ca_file: ca,
            cert_file: cert,
            key_file: key,
            nkey_seed_file: self.seeds[&party].clone(),
            connect_timeout_ms: 5_000,
        };
        let options = BusOptions {
            service: party,
            instance: "test".to_owned(),
            cell: cell(),
            topology: Topology::embedded().unwrap(),
            clock: Arc::new(SystemClock),
            digest: Arc::new(|_| [0; 32]),
        };
        Bus::connect(&nats, options).await.unwrap()
    }

    /// The configuration lines that lead a service here.
    fn lines(&self) -> String {
        let seed = self.seeds[&Party::Privacy].display();
        format!("nats.url = '{}'\nnats.nkey_seed_file = '{seed}'\n", self.server.tls_url())
    }
}

struct Process {
    context: Context,
    port: String,
}

impl Process {
    async fn start(world: &World, pki: &Pki, more: &str) -> Self {
        let context = Context::detached(world.clock.clone(), "run-1");
        let config = config(world, pki, more);
        context.tasks.spawn_critical("service", run(config, context.clone(), world.steady.clone()));
        eventually(BOUND, "a listener", async || context.ready.conditions().get("listening") == Some(&true))
            .await;
        let port = context.info.addresses()["grpc"].rsplit(':').next().unwrap().to_owned();
        Self { context, port }
    }

    async fn stop(self) {
        self.context.stop.request();
        eventually(BOUND, "the end", async || self.context.tasks.held().is_empty()).await;
    }
}

async fn read(bus: &Bus) -> Result<Vec<AuditRecord>, sotto_bus::ReadError> {
    let reader = StreamReader::<AuditBatch>::new(bus, "AUDIT")?;
    let mut reading = reader.read(1, u64::MAX);
    let mut records = Vec::new();
    while let Some(batch) = reading.next().await? {
        assert_eq!(batch.subject, Some(Subject::Audit(Party::Privacy, AuditCategory::Keys)));
        records.extend(batch.batch.records);
    }
    Ok(records)
}

#[tokio::test]
async fn what_is_done_with_keys_is_in_the_audit_stream_numbered_without_gaps() {
    let (world, pki) = (World::new(), Pki::new());
    let broker = Broker::start(&pki).await;
    let process = Process::start(&world, &pki, &broker.lines()).await;
    let made = make(&mut client(&pki, &process.port, "ingress"), NOW.plus(10 * MINUTE)).await;
    let mut carrier = client(&pki, &process.port, "carrier");
    unwrap(&mut carrier, &made).await.unwrap();
    unwrap(&mut client(&pki, &process.port, "routing"), &made).await.unwrap_err();
    world.clock.set(sotto_proto::from_wire_time(made.dies_at.unwrap()));
    let audit = broker.bus(&pki, Party::Audit).await;
    let heard = eventually_ok(BOUND, "the destruction in the stream", async || {
        let records = read(&audit).await.map_err(|error| error.to_string())?;
        let destroyed = records.iter().any(|record| record.action == "bucket.destroyed");
        destroyed.then_some(records).ok_or_else(|| "not yet".to_owned())
    })
    .await;
    assert!(heard.iter().all(|record| record.category == "keys"));
    process.stop().await;

    let records = read(&audit).await.unwrap();
    let numbers: Vec<_> = records.iter().map(|record| record.sequence).collect();
    assert_eq!(numbers, (1..=u64::try_from(records.len()).unwrap()).collect::<Vec<_>>());
    let told: Vec<_> = records
        .iter()
        .map(|one| {
            let (object, _seconds) = one.object.split_once(",seconds=").unwrap_or((&one.object, ""));
            format!("{} {} {} {object} {}", one.producer, one.action, one.actor, one.outcome)
        })
        .collect();
    let object = |action: &str| records.iter().find(|one| one.action == action).unwrap().object.clone();
    let (generation, key) = (object("bucket.destroyed"), object("receipt_key.current"));
    assert!(generation.starts_with("otp/2026-11-24T05,generation="), "{generation}");
    assert_eq!(
        told,
        [
            format!("privacy/run-1 receipt_key.current privacy {key} ok"),
            "privacy/run-1 session_key.opened routing account=viettel-otp,keys=1 not_this_service".to_owned(),
            format!("privacy/run-1 bucket.destroyed privacy {generation} ok"),
            "privacy/run-1 session_key.opened carrier account=viettel-otp,keys=1 ok".to_owned(),
            "privacy/run-1 session_key.made ingress class=otp,keys=1 ok".to_owned(),
        ]
    );
}

#[tokio::test]
async fn an_absent_broker_holds_up_no_key_and_hears_everything_when_it_is_back() {
    let (world, pki) = (World::new(), Pki::new());
    let mut broker = Broker::start(&pki).await;
    broker.server.stop().await;
    let process = Process::start(&world, &pki, &broker.lines()).await;
    let made = make(&mut client(&pki, &process.port, "ingress"), NOW.plus(10 * MINUTE)).await;
    unwrap(&mut client(&pki, &process.port, "routing"), &made).await.unwrap_err();
    unwrap(&mut client(&pki, &process.port, "carrier"), &made).await.unwrap();

    broker.server.restart().await;
    let audit = broker.bus(&pki, Party::Audit).await;
    eventually(BOUND, "the refusal in the stream", async || {
        read(&audit).await.is_ok_and(|records| records.iter().any(|one| one.outcome == "not_this_service"))
    })
    .await;
    process.stop().await;
}

#[tokio::test]
async fn a_broker_that_never_comes_does_not_hold_up_the_end() {
    let (world, pki) = (World::new(), Pki::new());
    let mut broker = Broker::start(&pki).await;
    broker.server.stop().await;
    let process = Process::start(&world, &pki, &broker.lines()).await;
    make(&mut client(&pki, &process.port, "ingress"), NOW.plus(10 * MINUTE)).await;
    process.stop().await;
}
