//! The service as a process, on a real broker set up as a cell has it.

use std::{collections::BTreeMap, fs, num::NonZeroU16, path::PathBuf, sync::Arc, time::Duration};

use sotto_audit::{
    adapters::{shelf::BrokerShelf, wire},
    domain::Entry,
    ports::Shelf as _,
};
use sotto_bus::{
    AuditCategory, Bus, BusOptions, NatsConfig, Publisher, PublisherConfig, Service, StreamReader, Subject,
    Topology,
    topology::{self, Cell, ServerOptions},
};
use sotto_core::{
    MessageId, Shards, SystemClock, Timestamp,
    delivery::{Event, EventKind, ExpiryCause},
};
use sotto_keystore::{KeyKind, Keystore as _, SoftKeystore, UnlockSecret};
use sotto_proto::{
    LogEvent,
    audit::v1::{GetCheckpointRequest, GetEventProofRequest, audit_service_client::AuditServiceClient},
    pipeline::v1::{AuditBatch, AuditRecord, EventBatch},
};
use sotto_runtime::{config::TlsConfig, grpc, tls::Tls};
use sotto_testkit::{
    CertFiles, NatsOptions, NatsServer, Pki, Process, eventually, eventually_ok, process::http_get,
};
use sotto_tlog::{Checkpoint, Directory, Hash, Receipt, VerifierKey, fsck, verify_inclusion};
use tempfile::TempDir;
use tonic::transport::Channel;

const BOUND: Duration = Duration::from_secs(30);

struct TestCell {
    server: NatsServer,
    pki: Pki,
    folder: TempDir,
    seeds: BTreeMap<Service, PathBuf>,
    key: VerifierKey,
}

fn vn() -> Cell {
    Cell {
        id: "vn".parse().unwrap(),
        shards: Shards::new(NonZeroU16::new(2).unwrap()),
        replicas: sotto_core::Replicas::One,
    }
}

impl TestCell {
    async fn start() -> Self {
        let (pki, folder, topology) = (Pki::new(), TempDir::new().unwrap(), Topology::embedded().unwrap());
        let mut seeds = BTreeMap::new();
        let mut users = Vec::new();
        for service in Service::ALL {
            let keys = nkeys::KeyPair::new_user();
            let file = pki.dir().join(format!("{service}.nkey"));
            sotto_testkit::write_secret(&file, keys.seed().unwrap());
            seeds.insert(service, file);
            users.push((service, vec![keys.public_key()]));
        }
        let tls = pki.service("nats");
        let options = ServerOptions {
            cell: vn(),
            server_name: "vn-1".to_owned(),
            cluster: None,
            listen: "127.0.0.1:4222".to_owned(),
            store_dir: "/nonexistent/overridden-by-the-test".into(),
            ca_file: tls.ca,
            cert_file: tls.cert,
            key_file: tls.key,
            users,
        };
        let config = pki.dir().join("nats-server.conf");
        // The test's server gets its store folder on the command line, and only once.
        let text = topology::nats_server_conf(&topology, &options);
        let kept: Vec<_> = text.lines().filter(|line| !line.contains("store_dir")).collect();
        fs::write(&config, kept.join("\n")).unwrap();
        let clients = topology::nats_clients_conf(&options.cell.id, &[]);
        fs::write(pki.dir().join(topology::CLIENTS_FILE), clients).unwrap();
        let server =
            NatsServer::start(NatsOptions { config_file: Some(config), ..NatsOptions::default() }).await;
        let secret = UnlockSecret::create(&folder.path().join("unlock")).unwrap();
        let keystore = SoftKeystore::create(&folder.path().join("keys"), secret, "audit").unwrap();
        let key = keystore.generate("checkpoint", KeyKind::Ed25519, 1).unwrap();
        let key = VerifierKey::new("sotto.internal/audit/vn", key.public.unwrap()).unwrap();
        let cell = Self { server, pki, folder, seeds, key };
        let provisioner = cell.bus(Service::Provisioner).await;
        topology::apply(&provisioner, &topology, &[]).await.unwrap();
        cell
    }

    fn nats(&self, service: Service) -> (NatsConfig, CertFiles) {
        let files = self.pki.service(service.name());
        let config = NatsConfig {
            url: self.server.tls_url(),
            ca_file: files.ca.clone(),
            cert_file: files.cert.clone(),
            key_file: files.key.clone(),
            nkey_seed_file: self.seeds.get(&service).unwrap().clone(),
            connect_timeout_ms: 5_000,
        };
        (config, files)
    }

    async fn bus(&self, service: Service) -> Bus {
        let options = BusOptions {
            service,
            instance: "test".to_owned(),
            cell: vn(),
            topology: Topology::embedded().unwrap(),
            clock: Arc::new(SystemClock),
            digest: Arc::new(|_| [0; 32]),
        };
        Bus::connect(&self.nats(service).0, options).await.unwrap()
    }

    fn path(&self, name: &str) -> String {
        self.folder.path().join(name).display().to_string()
    }

    /// Starts `sotto-audit` and waits until it is ready.
    async fn audit(&self) -> (Process, AuditServiceClient<Channel>) {
        self.audit_every("50 ms").await
    }

    async fn audit_every(&self, interval: &str) -> (Process, AuditServiceClient<Channel>) {
        let mut process = self.start_audit(interval);
        let admin = process.wait_until_ready(BOUND, self.path("admin").as_ref()).await;
        let (_, info) = http_get(admin, "/info").await.unwrap();
        let (_, rest) = info.split_once("\"grpc\":\"").unwrap();
        let (address, _) = rest.split_once('"').unwrap();
        let operator = self.pki.service("operator");
        let tls =
            Tls::load(&TlsConfig { ca_file: operator.ca, cert_file: operator.cert, key_file: operator.key })
                .unwrap();
        let channel =
            grpc::channel(&format!("https://{address}"), &tls, "audit.sotto.internal", BOUND).unwrap();
        (process, AuditServiceClient::new(channel))
    }

    fn start_audit(&self, interval: &str) -> Process {
        let (nats, files) = self.nats(Service::Audit);
        let (cert, key, ca) = (files.cert.display(), files.key.display(), files.ca.display());
        let config = format!(
            "[cell]\nid = 'vn'\nshards = 2\n\
             [log]\nfolder = '{}'\ninterval = '{interval}'\n\
             [keystore]\nfile = '{}'\nunlock_secret_file = '{}'\n\
             [nats]\nurl = '{}'\nca_file = '{ca}'\ncert_file = '{cert}'\nkey_file = '{key}'\nnkey_seed_file = '{}'\n\
             [grpc]\nlisten = '127.0.0.1:0'\n\
             [tls]\nca_file = '{ca}'\ncert_file = '{cert}'\nkey_file = '{key}'\n\
             [admin]\naddress_file = '{}'\n",
            self.path("log"),
            self.path("keys"),
            self.path("unlock"),
            nats.url,
            nats.nkey_seed_file.display(),
            self.path("admin"),
        );
        fs::write(self.path("audit.toml"), config).unwrap();
        drop(fs::remove_file(self.path("admin")));
        let environment: [(&str, &str); 0] = [];
        Process::start(
            env!("CARGO_BIN_EXE_sotto-audit").as_ref(),
            ["--config", &self.path("audit.toml")],
            environment,
            self.path("audit.out").as_ref(),
        )
    }

    /// Waits until the log holds what is asked for, by its files alone.
    async fn logged(&self, what: &str, holds: impl Fn(&[Entry]) -> bool) {
        eventually(BOUND, what, || {
            let holds = holds(&self.entries().unwrap_or_default());
            async move { holds }
        })
        .await;
    }

    /// Every entry of the log, which must verify; none while a growth passes by.
    fn entries(&self) -> Option<Vec<Entry>> {
        let mut entries = Vec::new();
        let log = Directory::new(&self.folder.path().join("log"));
        fsck(&log, &self.key, None, |_, bytes| entries.push(wire::decode(bytes).unwrap())).ok()?;
        Some(entries)
    }
}

fn record(sequence: u64) -> AuditRecord {
    AuditRecord {
        producer: "identity/test".to_owned(),
        sequence,
        at_s: 1_795_493_815,
        category: "authentication".to_owned(),
        action: "token.issued".to_owned(),
        actor: "client-1".to_owned(),
        tenant: "acme".to_owned(),
        object: String::new(),
        outcome: "ok".to_owned(),
    }
}

fn event(n: u8) -> LogEvent {
    let message = MessageId::from_keyed_hash([n; 16]);
    LogEvent::Delivery(Event {
        message,
        at: Timestamp::from_unix_seconds(1),
        kind: EventKind::Expired { cause: ExpiryCause::Validity },
    })
}

/// Numbers of the acts of our producer, in the order of the log.
fn numbers(entries: &[Entry]) -> Vec<u64> {
    entries
        .iter()
        .filter_map(|entry| match entry {
            Entry::Act(act) if act.producer == "identity/test" => Some(act.sequence),
            Entry::Act(_) | Entry::EventRange(_) | Entry::Gap(_) | Entry::ClosingBalance(_) => None,
        })
        .collect()
}

fn through(entries: &[Entry]) -> u64 {
    entries
        .iter()
        .filter_map(|entry| match entry {
            Entry::EventRange(range) => Some(range.last),
            Entry::Act(_) | Entry::Gap(_) | Entry::ClosingBalance(_) => None,
        })
        .max()
        .unwrap_or(0)
}

#[tokio::test]
async fn acts_and_events_of_a_cell_are_logged_and_proven() {
    let cell = TestCell::start().await;
    let (mut process, mut client) = cell.audit().await;
    let (identity, routing) = (cell.bus(Service::Identity).await, cell.bus(Service::Routing).await);
    let acts = Publisher::<AuditBatch>::new(&identity, PublisherConfig::default());
    let events = Publisher::<EventBatch>::new(&routing, PublisherConfig::default());
    let subject = Subject::Audit(Service::Identity, AuditCategory::Authentication);
    let shard = Subject::Event(vn().shards.iter().next().unwrap());
    acts.publish_all(&subject, vec![record(1), record(2), record(4)]).await.unwrap();
    for n in 1..=5 {
        events.publish(&shard, event(n)).await.unwrap();
    }
    cell.logged("acts and events", |entries| numbers(entries).len() == 3 && through(entries) == 5).await;
    let entries = cell.entries().unwrap();
    let gaps: Vec<_> = entries.iter().filter(|entry| matches!(entry, Entry::Gap(_))).collect();
    assert_eq!(gaps.len(), 1, "{gaps:?}");
    assert!(entries.iter().any(|entry| matches!(entry, Entry::Act(act) if act.action == "log.opened")));

    let newest = client.get_checkpoint(GetCheckpointRequest {}).await.unwrap().into_inner();
    assert_eq!(newest.verifier_key, cell.key.to_string());
    Checkpoint::open(newest.checkpoint.as_bytes(), &cell.key).unwrap();

    // What an operator checks: the batch as it is stored, its range, the range's entry under the checkpoint.
    let operator = cell.bus(Service::Operator).await;
    let mut stored = StreamReader::<EventBatch>::new(&operator, "EVENTS").unwrap().read(1, 5);
    while let Some(message) = stored.next_message().await.unwrap() {
        let request = GetEventProofRequest { event_sequence: message.sequence };
        let answer = client.get_event_proof(request).await.unwrap().into_inner();
        let batch = Hash::leaf(&message.payload);
        assert_eq!(answer.batch_leaf_hash.as_ref(), batch.as_bytes());
        let Entry::EventRange(range) = wire::decode(&answer.range_entry).unwrap() else {
            panic!("not a range");
        };
        let hashes = |hashes: &[prost::bytes::Bytes]| -> Vec<Hash> {
            hashes.iter().map(|hash| Hash::from_slice(hash).unwrap()).collect()
        };
        let path = hashes(&answer.range_hashes);
        verify_inclusion(&batch, answer.index_in_range, range.batches, &path, &range.root).unwrap();
        let proof = answer.proof.unwrap();
        let path = hashes(&proof.hashes);
        let receipt = Receipt { extra: None, index: proof.index, path, checkpoint: proof.checkpoint };
        receipt.verify(&Hash::leaf(&answer.range_entry), &cell.key).unwrap();
    }
    assert!(process.terminate(BOUND).await.success(), "{}", process.log());
}

#[tokio::test]
async fn killed_again_and_again_it_logs_each_act_once_and_every_event() {
    let cell = TestCell::start().await;
    let (identity, routing) = (cell.bus(Service::Identity).await, cell.bus(Service::Routing).await);
    let acts = Publisher::<AuditBatch>::new(&identity, PublisherConfig::default());
    let events = Publisher::<EventBatch>::new(&routing, PublisherConfig::default());
    let subject = Subject::Audit(Service::Identity, AuditCategory::Authentication);
    let shard = Subject::Event(vn().shards.iter().next().unwrap());
    let mut next = 1;
    for round in 0..4_u8 {
        let (mut process, _) = cell.audit().await;
        for _ in 0..5 {
            acts.publish_all(&subject, (next..next + 40).map(record).collect()).await.unwrap();
            events.publish(&shard, event(round)).await.unwrap();
            next += 40;
        }
        let some = usize::from(round) * 200 + 60;
        cell.logged("some of the acts", |entries| numbers(entries).len() >= some).await;
        process.kill().await;
    }
    let (mut process, _) = cell.audit().await;
    cell.logged("everything", |entries| numbers(entries).len() >= 800 && through(entries) == 20).await;
    assert!(process.terminate(BOUND).await.success(), "{}", process.log());
    let entries = cell.entries().unwrap();
    assert_eq!(numbers(&entries), (1..=800).collect::<Vec<_>>());
    assert!(!entries.iter().any(|entry| matches!(entry, Entry::Gap(_))));
}

#[tokio::test]
async fn acts_go_from_the_broker_when_they_are_logged_and_old() {
    let cell = TestCell::start().await;
    let (mut process, _) = cell.audit().await;
    let identity = cell.bus(Service::Identity).await;
    let acts = Publisher::<AuditBatch>::new(&identity, PublisherConfig::default());
    let subject = Subject::Audit(Service::Identity, AuditCategory::Authentication);
    for n in 1..=5 {
        acts.publish(&subject, record(n)).await.unwrap();
    }
    cell.logged("every act", |entries| numbers(entries).len() == 5).await;
    let audit = cell.bus(Service::Audit).await;
    let reader = StreamReader::<AuditBatch>::new(&audit, "AUDIT").unwrap();
    eventually(BOUND, "the acknowledgements", || async {
        reader.consumer("audit-acts").await.unwrap().acknowledged == 5
    })
    .await;
    assert!(process.terminate(BOUND).await.success(), "{}", process.log());
    // Nobody logs these.
    for n in 6..=7 {
        acts.publish(&subject, record(n)).await.unwrap();
    }
    let shelf = BrokerShelf::new(&audit).unwrap();
    let mut stored = Vec::new();
    let mut reading = reader.read(1, 5);
    while let Some(message) = reading.next_message().await.unwrap() {
        stored.push(message.stored_at);
    }
    let third = stored[2];
    for before in [Timestamp::from_unix_seconds(0), third, third] {
        shelf.forget_acts(before).await.unwrap();
        let older = stored.iter().filter(|at| **at < before).count();
        assert_eq!(reader.state().await.unwrap().first, u64::try_from(older).unwrap() + 1);
    }
    shelf.forget_acts(Timestamp::from_unix_seconds(i64::MAX / 2_000)).await.unwrap();
    assert_eq!(reader.state().await.unwrap().first, 6, "what is not logged stays");
}

#[tokio::test]
async fn many_small_batches_share_a_checkpoint() {
    let cell = TestCell::start().await;
    let (mut process, _) = cell.audit_every("1 s").await;
    let identity = cell.bus(Service::Identity).await;
    let acts = Publisher::<AuditBatch>::new(&identity, PublisherConfig::default());
    let subject = Subject::Audit(Service::Identity, AuditCategory::Authentication);
    let start = tokio::time::Instant::now();
    for n in 1..=100 {
        acts.publish(&subject, record(n)).await.unwrap();
    }
    cell.logged("every act", |entries| numbers(entries).len() == 100).await;
    assert!(start.elapsed() < Duration::from_secs(15), "{:?}", start.elapsed());
    let entries = cell.entries().unwrap();
    assert_eq!(numbers(&entries), (1..=100).collect::<Vec<_>>());
    assert!(!entries.iter().any(|entry| matches!(entry, Entry::Gap(_))));
    assert!(process.terminate(BOUND).await.success(), "{}", process.log());
}

#[tokio::test]
async fn a_record_in_anothers_name_goes_to_quarantine_and_uses_up_no_number() {
    let cell = TestCell::start().await;
    let (mut process, _) = cell.audit().await;
    let (identity, routing) = (cell.bus(Service::Identity).await, cell.bus(Service::Routing).await);
    let (own, foreign) = (
        Publisher::<AuditBatch>::new(&identity, PublisherConfig::default()),
        Publisher::<AuditBatch>::new(&routing, PublisherConfig::default()),
    );
    let forged = AuditRecord { action: "forged".to_owned(), ..record(1) };
    let of = |service| Subject::Audit(service, AuditCategory::Authentication);
    // Under identity's subject the broker refuses it; under its own it is not believed.
    foreign.publish(&of(Service::Identity), forged.clone()).await.unwrap_err();
    foreign.publish(&of(Service::Routing), forged).await.unwrap();
    let operator = cell.bus(Service::Operator).await;
    let quarantine = sotto_bus::Quarantine::new(&operator).unwrap();
    eventually(BOUND, "the quarantine record", || async { quarantine.count().await.is_ok_and(|n| n == 1) })
        .await;
    own.publish(&of(Service::Identity), record(1)).await.unwrap();
    cell.logged("the act", |entries| numbers(entries) == [1]).await;
    let entries = cell.entries().unwrap();
    let forged = |entry: &Entry| matches!(entry, Entry::Act(act) if act.action == "forged");
    assert!(!entries.iter().any(|entry| forged(entry) || matches!(entry, Entry::Gap(_))));
    assert!(process.terminate(BOUND).await.success(), "{}", process.log());
}

#[tokio::test]
async fn a_wiped_folder_stops_the_service_with_a_word_to_the_operator() {
    let cell = TestCell::start().await;
    let (mut process, _) = cell.audit().await;
    assert!(process.terminate(BOUND).await.success());
    fs::remove_dir_all(cell.folder.path().join("log")).unwrap();
    let mut again = cell.start_audit("50 ms");
    assert!(!again.wait(BOUND).await.success());
    assert!(again.log().contains("restore the folder from its backup"), "{}", again.log());
}

#[tokio::test]
async fn a_restarted_broker_is_waited_for() {
    let mut cell = TestCell::start().await;
    let (mut process, mut client) = cell.audit().await;
    cell.server.kill().await;
    // The log still answers.
    client.get_checkpoint(GetCheckpointRequest {}).await.unwrap();
    cell.server.restart().await;
    let identity = cell.bus(Service::Identity).await;
    let acts = Publisher::<AuditBatch>::new(&identity, PublisherConfig::default());
    acts.publish(&Subject::Audit(Service::Identity, AuditCategory::Authentication), record(1)).await.unwrap();
    cell.logged("the act", |entries| numbers(entries) == [1]).await;
    assert!(process.terminate(BOUND).await.success(), "{}", process.log());
}

#[tokio::test]
async fn a_record_with_free_text_goes_to_quarantine_and_leaves_a_gap() {
    let cell = TestCell::start().await;
    let (mut process, _) = cell.audit().await;
    let identity = cell.bus(Service::Identity).await;
    let acts = Publisher::<AuditBatch>::new(&identity, PublisherConfig::default());
    let subject = Subject::Audit(Service::Identity, AuditCategory::Authentication);
    let personal = AuditRecord { object: "Nguyen Van A 0912345678".to_owned(), ..record(2) };
    acts.publish_all(&subject, vec![record(1), personal, record(3)]).await.unwrap();
    cell.logged("the others", |entries| numbers(entries) == [1, 3]).await;
    let operator = cell.bus(Service::Operator).await;
    let kept = eventually_ok(BOUND, "a quarantine record", || async {
        let records = StreamReader::<AuditBatch>::new(&operator, "QUARANTINE").map_err(|e| e.to_string())?;
        match records.read(1, u64::MAX).next_message().await {
            Ok(Some(message)) => Ok(message.payload),
            Ok(None) => Err("none yet".to_owned()),
            Err(error) => Err(error.to_string()),
        }
    })
    .await;
    let text = String::from_utf8_lossy(&kept).into_owned();
    assert!(text.contains("object") && !text.contains("0912345678"), "{text}");
    assert!(!process.log().contains("0912345678"));
    let gaps = cell.entries().unwrap().iter().filter(|entry| matches!(entry, Entry::Gap(_))).count();
    assert_eq!(gaps, 1);
    assert!(process.terminate(BOUND).await.success(), "{}", process.log());
}
