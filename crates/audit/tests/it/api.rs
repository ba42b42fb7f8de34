//! AuditService over real mutual TLS: who may ask, what is proven, and what is said when it cannot be.

use std::{sync::Arc, time::Duration};

use sotto_audit::{
    adapters::{
        api::{Api, Retention},
        wire,
    },
    domain::{Entry, EventRange},
    error::TrimError,
    log::{Growth, Log},
    ports::{Disk as _, Signer as _},
    trim::{Trimmed, Wanted},
    view::View,
};
use sotto_proto::audit::v1::{
    GetCheckpointRequest, GetConsistencyProofRequest, GetEntryRequest, GetEventProofRequest,
    GetRetentionRequest, GetRetentionResponse, InclusionProof, RunRetentionRequest,
    audit_service_client::AuditServiceClient, audit_service_server::AuditServiceServer,
};
use sotto_runtime::{
    Stop,
    config::TlsConfig,
    grpc::{self, GrpcServer, ServerLimits},
    tls::{ClientAuth, Tls},
};
use sotto_testkit::Pki;
use sotto_tlog::{Checkpoint, Frontier, Hash, Receipt, Source as _, verify_consistency, verify_inclusion};
use tokio::{sync::mpsc, task::JoinSet};
use tonic::{Code, transport::Channel};
use tonic_types::StatusExt as _;

use crate::{
    model::{ModelDisk, TestEvents, TestSigner, act},
    shelf::{BEGIN, KEEP, TestShelf},
};

const CONNECT: Duration = Duration::from_secs(5);

struct Served {
    pki: Pki,
    address: std::net::SocketAddr,
    disk: Arc<ModelDisk>,
    events: Arc<TestEvents>,
    view: Arc<View>,
    /// Who wants a trim.
    wanted: mpsc::Receiver<Wanted>,
    stop: Stop,
    tasks: JoinSet<()>,
}

/// A log of 300 acts, then events 1 to 40 in two ranges (the stream has no 7), then 10 acts.
fn log(disk: &Arc<ModelDisk>, events: &TestEvents) -> Log {
    let range = |first: u64, last: u64| {
        let batches = events.batches.lock().unwrap();
        let tree: Frontier = batches.range(first..=last).map(|(_, bytes)| Hash::leaf(bytes)).collect();
        EventRange { first, last, root: tree.root(), batches: tree.size() }
    };
    let acts = |from: u64, to: u64| (from..=to).map(|n| act("identity/1", n)).collect();
    let growths = [
        Growth { acts: acts(1, 256), ranges: Vec::new(), balance: None },
        Growth { acts: acts(257, 300), ranges: vec![range(1, 20), range(21, 40)], balance: None },
        Growth { acts: acts(301, 310), ranges: Vec::new(), balance: None },
    ];
    let log = Log::open(Arc::<ModelDisk>::clone(disk), TestSigner::new(1), 64).unwrap();
    growths.into_iter().fold(log, |log, growth| log.append(growth).unwrap())
}

fn tls(pki: &Pki, name: &str) -> Tls {
    let files = pki.service(name);
    Tls::load(&TlsConfig { ca_file: files.ca, cert_file: files.cert, key_file: files.key }).unwrap()
}

impl Served {
    async fn start() -> Self {
        let (pki, disk, events) =
            (Pki::new(), Arc::new(ModelDisk::default()), Arc::new(TestEvents::default()));
        let batches = (1..=40_u64).filter(|n| *n != 7).map(|n| (n, n.to_be_bytes().to_vec()));
        events.batches.lock().unwrap().extend(batches);
        let view = Arc::new(View::default());
        let limits = ServerLimits::default();
        let listen = "127.0.0.1:0".parse().unwrap();
        let server =
            GrpcServer::bind(listen, &tls(&pki, "audit"), ClientAuth::Required, limits).await.unwrap();
        let address = server.local_addr();
        let (stop, mut tasks) = (Stop::default(), JoinSet::new());
        let (shelf, _) = TestShelf::new(&[Vec::new(), Vec::new()]);
        let (trims, wanted) = mpsc::channel(1);
        let retention = Retention { shelf, trims, keep: KEEP };
        let api = Api::new(
            Arc::clone(&view),
            Arc::<ModelDisk>::clone(&disk),
            TestSigner::new(1),
            Arc::clone(&events),
            retention,
            Duration::from_secs(1),
        );
        let stopping = stop.clone();
        tasks.spawn(async move {
            let service = AuditServiceServer::new(api);
            server.serve(&stopping, |server| server.add_service(service)).await.unwrap();
        });
        Self { pki, address, disk, events, view, wanted, stop, tasks }
    }

    async fn with_log() -> Self {
        let served = Self::start().await;
        served.view.show(&log(&served.disk, &served.events));
        served
    }

    fn client(&self, service: &str) -> AuditServiceClient<Channel> {
        let endpoint = format!("https://{}", self.address);
        let channel = grpc::channel(&endpoint, &tls(&self.pki, service), "audit.sotto.internal", CONNECT);
        AuditServiceClient::new(channel.unwrap())
    }

    async fn stop(mut self) {
        self.stop.request();
        while let Some(ended) = self.tasks.join_next().await {
            ended.unwrap();
        }
    }
}

fn hashes<B: AsRef<[u8]>>(hashes: &[B]) -> Vec<Hash> {
    hashes.iter().map(|hash| Hash::from_slice(hash.as_ref()).unwrap()).collect()
}

/// Verifies as a stranger with the verifier key does.
fn included(entry: &[u8], proof: InclusionProof) -> Checkpoint {
    let path = hashes(&proof.hashes);
    let receipt = Receipt { extra: None, index: proof.index, path, checkpoint: proof.checkpoint };
    let receipt: Receipt = receipt.to_string().parse().unwrap();
    receipt.verify(&Hash::leaf(entry), &TestSigner::new(1).current().unwrap()).unwrap()
}

#[tokio::test]
async fn every_entry_is_proven() {
    let served = Served::with_log().await;
    let mut client = served.client("operator");
    let newest = client.get_checkpoint(GetCheckpointRequest {}).await.unwrap().into_inner();
    let key = newest.verifier_key.parse().unwrap();
    let checkpoint = Checkpoint::open(newest.checkpoint.as_bytes(), &key).unwrap();
    assert_eq!((checkpoint.size, checkpoint.origin.as_str()), (312, "sotto.internal/audit/vn"));
    for index in [0, 1, 255, 256, 300, 301, 311] {
        let answer = client.get_entry(GetEntryRequest { index }).await.unwrap().into_inner();
        let proof = answer.proof.unwrap();
        assert_eq!(proof.index, index);
        assert_eq!(included(&answer.entry, proof), checkpoint);
    }
    served.stop().await;
}

#[tokio::test]
async fn every_event_is_proven_twice_over() {
    let served = Served::with_log().await;
    let mut client = served.client("operator");
    for event_sequence in (1..=40).filter(|n| *n != 7) {
        let answer =
            client.get_event_proof(GetEventProofRequest { event_sequence }).await.unwrap().into_inner();
        let batch = Hash::leaf(&event_sequence.to_be_bytes());
        assert_eq!(hashes(&[answer.batch_leaf_hash])[0], batch);
        let Entry::EventRange(range) = wire::decode(&answer.range_entry).unwrap() else {
            panic!("not a range");
        };
        assert!((range.first..=range.last).contains(&event_sequence));
        let path = hashes(&answer.range_hashes);
        verify_inclusion(&batch, answer.index_in_range, range.batches, &path, &range.root).unwrap();
        included(&answer.range_entry, answer.proof.unwrap());
    }
    served.stop().await;
}

#[tokio::test]
async fn growth_is_proven() {
    let served = Served::with_log().await;
    let mut client = served.client("operator");
    let leaves: Vec<Hash> = {
        let mut leaves = Vec::new();
        let key = TestSigner::new(1).current().unwrap();
        sotto_tlog::fsck(&*served.disk, &key, None, |_, entry| leaves.push(Hash::leaf(entry))).unwrap();
        leaves
    };
    let root =
        |size: u64| leaves.iter().take(usize::try_from(size).unwrap()).copied().collect::<Frontier>().root();
    for (old_size, new_size) in [(1, 312), (255, 256), (256, 312), (300, 302), (312, 312)] {
        let request = GetConsistencyProofRequest { old_size, new_size };
        let answer = client.get_consistency_proof(request).await.unwrap().into_inner();
        let path = hashes(&answer.hashes);
        verify_consistency(old_size, &root(old_size), new_size, &root(new_size), &path).unwrap();
    }
    served.stop().await;
}

#[tokio::test]
async fn what_cannot_be_proven_is_said_clearly() {
    let served = Served::with_log().await;
    let mut client = served.client("operator");

    let late = client.get_event_proof(GetEventProofRequest { event_sequence: 41 }).await.unwrap_err();
    assert_eq!(late.code(), Code::OutOfRange);
    assert_eq!(late.message(), "event 41 is not committed yet (committed up to 40); try again in 1 s");
    let delay = late.get_error_details().retry_info().unwrap().retry_delay;
    assert_eq!(delay, Some(Duration::from_secs(1)));

    let hole = client.get_event_proof(GetEventProofRequest { event_sequence: 7 }).await.unwrap_err();
    assert_eq!(hole.code(), Code::NotFound);
    assert!(hole.get_error_details().retry_info().is_none());

    let zero = client.get_event_proof(GetEventProofRequest { event_sequence: 0 }).await.unwrap_err();
    assert_eq!(zero.code(), Code::InvalidArgument);

    let beyond = client.get_entry(GetEntryRequest { index: 312 }).await.unwrap_err();
    assert_eq!(beyond.code(), Code::OutOfRange);
    assert_eq!(beyond.message(), "entry 312 is not in the log: it has 312 entries, counted from 0");

    for (old_size, new_size, code) in [
        (0, 5, Code::InvalidArgument),
        (6, 5, Code::InvalidArgument),
        (1, 313, Code::OutOfRange),
        (u64::MAX, u64::MAX, Code::OutOfRange),
    ] {
        let request = GetConsistencyProofRequest { old_size, new_size };
        let error = client.get_consistency_proof(request).await.unwrap_err();
        assert_eq!(error.code(), code, "{old_size} {new_size}");
    }
    served.stop().await;
}

#[tokio::test]
async fn trimmed_altered_and_unreadable_events_are_told_apart() {
    let served = Served::with_log().await;
    let mut client = served.client("operator");
    let mut ask = async |event_sequence| {
        client.get_event_proof(GetEventProofRequest { event_sequence }).await.unwrap_err().code()
    };
    served.events.batches.lock().unwrap().insert(3, b"other".to_vec());
    assert_eq!(ask(5).await, Code::DataLoss);
    served.events.batches.lock().unwrap().remove(&1);
    assert_eq!(ask(5).await, Code::FailedPrecondition);
    served.events.away.store(true, std::sync::atomic::Ordering::SeqCst);
    assert_eq!(ask(30).await, Code::Unavailable);
    served.stop().await;
}

#[tokio::test]
async fn a_damaged_disk_gives_an_error_and_never_a_false_proof() {
    let served = Served::with_log().await;
    let mut client = served.client("operator");
    // Which proofs read a file: one to the left of the first full tile needs the hashes of both tiles of leaves, one to
    // its right the hash over the whole of it.
    for (path, needed_by) in [
        ("tile/entries/000", [true, false]),
        ("tile/entries/001.p/56", [false, true]),
        ("tile/0/000", [true, false]),
        ("tile/0/001.p/56", [true, true]),
        ("tile/1/000.p/1", [false, true]),
    ] {
        let bytes = served.disk.read(path).unwrap().unwrap();
        let altered: Vec<u8> = bytes.iter().map(|byte| byte ^ 1).collect();
        served.disk.put(path, &altered).unwrap();
        for (index, needed) in [3, 300].into_iter().zip(needed_by) {
            match client.get_entry(GetEntryRequest { index }).await {
                Err(error) if needed => assert_eq!(error.code(), Code::DataLoss, "{path}"),
                Ok(answer) if !needed => {
                    let answer = answer.into_inner();
                    assert_eq!(included(&answer.entry, answer.proof.unwrap()).size, 312, "{path}");
                }
                other => panic!("{path} altered, entry {index}: {other:?}"),
            }
        }
        served.disk.put(path, &bytes).unwrap();
    }
    client.get_entry(GetEntryRequest { index: 3 }).await.unwrap();
    served.stop().await;
}

#[tokio::test]
async fn only_the_operator_is_answered() {
    let served = Served::with_log().await;
    for service in ["ingress", "routing", "carrier", "identity", "privacy", "audit", "provisioner"] {
        let mut client = served.client(service);
        let codes = [
            client.get_checkpoint(GetCheckpointRequest {}).await.unwrap_err().code(),
            client.get_entry(GetEntryRequest { index: 0 }).await.unwrap_err().code(),
            client.get_event_proof(GetEventProofRequest { event_sequence: 1 }).await.unwrap_err().code(),
            client
                .get_consistency_proof(GetConsistencyProofRequest { old_size: 1, new_size: 2 })
                .await
                .unwrap_err()
                .code(),
        ];
        assert_eq!(codes, [Code::PermissionDenied; 4], "{service}");
    }
    // A certificate of the cell that is of no service, and one of another authority.
    let stranger = served.client("stranger").get_checkpoint(GetCheckpointRequest {}).await.unwrap_err();
    assert_eq!(stranger.code(), Code::Unauthenticated);
    let elsewhere = Served { pki: Pki::new(), ..Served::start().await };
    let mut client = elsewhere.client("operator");
    client.get_checkpoint(GetCheckpointRequest {}).await.unwrap_err();
    elsewhere.stop().await;
    served.stop().await;
}

#[tokio::test]
async fn before_the_log_is_open_everything_is_unavailable() {
    let served = Served::start().await;
    let mut client = served.client("operator");
    let error = client.get_checkpoint(GetCheckpointRequest {}).await.unwrap_err();
    assert_eq!(error.code(), Code::Unavailable);
    let error = client.get_event_proof(GetEventProofRequest { event_sequence: 1 }).await.unwrap_err();
    assert_eq!(error.code(), Code::Unavailable);
    served.stop().await;
}

#[tokio::test]
async fn retention_is_told_and_run() {
    let mut served = Served::with_log().await;
    let mut client = served.client("operator");
    let told = client.get_retention(GetRetentionRequest {}).await.unwrap().into_inner();
    let expected = GetRetentionResponse {
        kept_s: 10 * 24 * 3_600,
        least_s: 8 * 24 * 3_600,
        closing_entry: None,
        closed_through: 0,
        first_sequence: 1,
        last_sequence: 2,
        oldest_s: Some(BEGIN.unix_seconds()),
        bytes: 0,
        max_bytes: u64::MAX,
    };
    assert_eq!(told, expected);
    let run = {
        let client = client.clone();
        move || {
            let mut client = client.clone();
            async move { client.run_retention(RunRetentionRequest {}).await }
        }
    };
    let answer = |wanted: Wanted, looked| wanted.send(looked).unwrap();
    let (ran, ()) = tokio::join!(run(), async {
        answer(served.wanted.recv().await.unwrap(), Ok(Trimmed { batches: 18, through: 18 }));
    });
    let ran = ran.unwrap().into_inner();
    assert_eq!((ran.batches, ran.closed_through), (18, 18));
    let (ran, ()) = tokio::join!(run(), async {
        answer(served.wanted.recv().await.unwrap(), Err(TrimError::Altered { first: 5, last: 6 }));
    });
    let status = ran.unwrap_err();
    assert_eq!(status.code(), Code::FailedPrecondition);
    assert_eq!(status.get_details_error_info().unwrap().reason, "RETENTION_FAILED");
    let refused = served.client("ingress").run_retention(RunRetentionRequest {}).await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied);
    drop(client);
    served.stop().await;
}
