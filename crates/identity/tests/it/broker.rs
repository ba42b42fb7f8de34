//! The whole process against a real broker: what it does is in the audit stream, and an absent broker holds up no
//! token.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    num::NonZeroU16,
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use sotto_bus::{
    Bus, BusOptions, NatsConfig, Service as Party, StreamReader, Subject, Topology,
    topology::{self, Cell, ServerOptions},
};
use sotto_core::{Clock as _, Shards, SystemClock};
use sotto_identity::service::Identity;
use sotto_proto::{
    identity::v1::DisableClientRequest,
    pipeline::v1::{AuditBatch, AuditRecord},
};
use sotto_runtime::{Context, Service as _};
use sotto_testkit::{CertFiles, NatsOptions, NatsServer, Pki, eventually_ok};

use crate::{
    tokens::{acme, bearing, owner_token},
    world::{BOUND, Key, NOW, Running, World},
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

    /// The configuration lines that lead the service here.
    fn lines(&self) -> String {
        let seed = self.seeds[&Party::Identity].display();
        format!("nats.url = '{}'\nnats.nkey_seed_file = '{seed}'\n", self.server.tls_url())
    }
}

async fn start(world: &World, broker: &Broker) -> Running {
    let context = Context::detached(world.clock.clone(), "run-1");
    let config = world.config(&broker.lines());
    context.tasks.spawn_critical("service", Identity::run(config, context.clone()));
    world.running(context).await
}

/// What the stream holds of this run, by number. A record that is stored twice counts once.
async fn read(bus: &Bus) -> Result<BTreeMap<u64, AuditRecord>, sotto_bus::ReadError> {
    let reader = StreamReader::<AuditBatch>::new(bus, "AUDIT")?;
    let mut reading = reader.read(1, u64::MAX);
    let mut records = BTreeMap::new();
    while let Some(batch) = reading.next().await? {
        let category =
            if let Some(Subject::Audit(_, category)) = &batch.subject { category.name() } else { "none" };
        for record in batch.batch.records {
            assert_eq!((record.producer.as_str(), record.category.as_str()), ("identity/run-1", category));
            let twice = records.insert(record.sequence, record.clone());
            assert!(twice.is_none_or(|first| first == record), "one number, two records");
        }
    }
    Ok(records)
}

/// Waits until the stream holds `count` records and checks that these are the first ones, all of them.
async fn heard(broker: &Broker, world: &World, count: usize) -> Vec<AuditRecord> {
    let audit = broker.bus(&world.pki, Party::Audit).await;
    let records = eventually_ok(BOUND, "all records in the stream", async || {
        let records = read(&audit).await.map_err(|error| error.to_string())?;
        if records.len() >= count { Ok(records) } else { Err(format!("{} of {count}", records.len())) }
    })
    .await;
    let numbers: Vec<_> = records.keys().copied().collect();
    assert_eq!(numbers, (1..=u64::try_from(count).unwrap()).collect::<Vec<_>>());
    records.into_values().collect()
}

/// Asks for tokens and returns their ids, in order.
async fn tokens(world: &World, running: &Running, owner: &Key, count: usize) -> Vec<String> {
    let mut ids = Vec::new();
    for _ in 0..count {
        let asked = owner_token(world, running, owner);
        let token = tokio::time::timeout(Duration::from_secs(5), asked).await.unwrap();
        ids.push(
            jsonwebtoken::dangerous::insecure_decode::<serde_json::Value>(&token).unwrap().claims["jti"]
                .as_str()
                .unwrap()
                .to_owned(),
        );
    }
    ids
}

fn issued(records: &[AuditRecord]) -> Vec<String> {
    let issued = records.iter().filter(|record| record.action == "token.issued");
    issued.map(|record| record.object.clone()).collect()
}

#[tokio::test]
async fn what_is_done_is_in_the_audit_stream_numbered_without_gaps() {
    let world = World::new().await;
    let broker = Broker::start(&world.pki).await;
    let running = start(&world, &broker).await;
    let owner = running.owner().await;
    let token = owner_token(&world, &running, &owner).await;
    let made = running.grpc().create_client(bearing(acme(), &token)).await.unwrap().into_inner();
    let (id, secret) = (made.client.unwrap().client_id, made.client_secret);
    let ask = async |secret: &str| {
        let form = [("grant_type", "client_credentials"), ("client_id", &id), ("client_secret", secret)];
        running.ask(&form, &[]).await
    };
    let sent = ask(&secret).await;
    assert_eq!(sent.status, 200);
    assert_eq!(ask("guess").await.status, 401);
    let request = DisableClientRequest { client_id: id.clone() };
    running.grpc().disable_client(bearing(request, &token)).await.unwrap();
    assert_eq!(ask(&secret).await.status, 400);
    // A key that is made without anybody asking.
    world.clock.advance(Duration::from_secs(24 * 3600));
    let mut records = heard(&broker, &world, 9).await;
    running.stop().await;
    assert_eq!(heard(&broker, &world, 9).await, records, "the end adds and loses nothing");

    let keys = world.token_keys();
    assert_eq!(records.iter().map(|one| one.at_s).max(), Some(world.clock.now().unix_seconds()));
    let last = records.pop().unwrap();
    assert!(records.iter().all(|one| one.at_s == NOW.unix_seconds()));
    let told = |one: &AuditRecord| {
        let AuditRecord { category, action, actor, tenant, object, outcome, .. } = one;
        format!("{category} {action} {actor} [{tenant}] {object} {outcome}")
    };
    let tokens = issued(&records);
    let owner = &owner.id;
    assert_eq!(
        records.iter().map(told).collect::<Vec<_>>(),
        [
            format!("keys key.generated identity [] {} ok", keys[1]),
            format!("configuration invitation.redeemed {owner} [cell] {owner} ok"),
            format!("authentication token.issued {owner} [cell] {} ok", tokens[0]),
            format!("configuration client.created {owner} [acme] {id} ok"),
            format!("authentication token.issued {id} [acme] {} ok", tokens[1]),
            format!("authentication token.refused identity [] {id} wrong_secret"),
            format!("configuration client.disabled {owner} [acme] {id} ok"),
            format!("authentication token.refused {id} []  client_disabled"),
        ]
    );
    assert_eq!(told(&last), format!("keys key.generated identity [] {} ok", keys[0]));
    assert_ne!(tokens[0], tokens[1]);
    for record in &records {
        let text = format!("{record:?}");
        for hidden in [secret.as_str(), token.as_str(), sent.token(), "ACME", "guess"] {
            assert!(!text.contains(hidden), "{text}");
        }
    }
}

#[tokio::test]
async fn an_absent_broker_holds_up_no_token_and_hears_everything_when_it_is_back() {
    let world = World::new().await;
    let mut broker = Broker::start(&world.pki).await;
    broker.server.stop().await;
    let running = start(&world, &broker).await;
    assert!(!running.context.ready.conditions()["broker"]);
    let owner = running.owner().await;
    let ids = tokens(&world, &running, &owner, 20).await;
    assert_eq!(ids.iter().collect::<BTreeSet<_>>().len(), 20);

    broker.server.restart().await;
    let records = heard(&broker, &world, 2 + 20).await;
    assert_eq!(issued(&records), ids);
    assert!(running.context.ready.conditions()["broker"]);
    running.stop().await;
}

#[tokio::test]
async fn a_broker_that_dies_or_freezes_holds_up_no_token_and_misses_none() {
    let world = World::new().await;
    let mut broker = Broker::start(&world.pki).await;
    let running = start(&world, &broker).await;
    let owner = running.owner().await;
    let mut ids = tokens(&world, &running, &owner, 3).await;
    heard(&broker, &world, 2 + 3).await;

    broker.server.kill().await;
    ids.extend(tokens(&world, &running, &owner, 20).await);
    broker.server.restart().await;
    ids.extend(tokens(&world, &running, &owner, 3).await);
    assert_eq!(issued(&heard(&broker, &world, 2 + 26).await), ids);

    broker.server.freeze().await;
    ids.extend(tokens(&world, &running, &owner, 20).await);
    broker.server.thaw();
    ids.extend(tokens(&world, &running, &owner, 3).await);
    assert_eq!(issued(&heard(&broker, &world, 2 + 49).await), ids);
    running.stop().await;
}

#[tokio::test]
async fn what_is_on_its_way_at_the_end_arrives() {
    let world = World::new().await;
    let broker = Broker::start(&world.pki).await;
    let running = start(&world, &broker).await;
    let owner = running.owner().await;
    let ids = tokens(&world, &running, &owner, 50).await;
    running.stop().await;
    assert_eq!(issued(&heard(&broker, &world, 2 + 50).await), ids);
}

#[tokio::test]
async fn a_broker_that_never_comes_does_not_hold_up_the_end() {
    let world = World::new().await;
    let mut broker = Broker::start(&world.pki).await;
    broker.server.stop().await;
    let running = start(&world, &broker).await;
    let owner = running.owner().await;
    tokens(&world, &running, &owner, 1).await;
    running.stop().await;
}

#[tokio::test]
async fn a_broker_that_went_away_does_not_hold_up_the_end() {
    let world = World::new().await;
    let mut broker = Broker::start(&world.pki).await;
    let running = start(&world, &broker).await;
    let owner = running.owner().await;
    heard(&broker, &world, 2).await;
    broker.server.kill().await;
    tokens(&world, &running, &owner, 1).await;
    running.stop().await;
}
