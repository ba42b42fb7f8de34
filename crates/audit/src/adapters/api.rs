//! AuditService: what is in the log, and the proofs of it. Reads published state only; every proof is verified
//! before it is handed out, so a damaged disk answers with an error and never with a wrong proof.

use std::{collections::HashMap, sync::Arc, time::Duration};

use sotto_core::{Classified as _, ErrorClass};
use sotto_proto::audit::v1::{
    GetCheckpointRequest, GetCheckpointResponse, GetConsistencyProofRequest, GetConsistencyProofResponse,
    GetEntryRequest, GetEntryResponse, GetEventProofRequest, GetEventProofResponse, GetRetentionRequest,
    GetRetentionResponse, InclusionProof, RunRetentionRequest, RunRetentionResponse,
    audit_service_server::AuditService,
};
use sotto_runtime::{grpc, telemetry::chain, tls::PeerService};
use sotto_tlog::{
    Checkpoint, Frontier, Hash, Leaves, ReadError, TILE_WIDTH, TileNodes, consistency_path, inclusion_path,
    read_bundle, root, verify_consistency, verify_inclusion,
};
use tokio::{
    sync::{Semaphore, mpsc, oneshot},
    task::spawn_blocking,
};
use tonic::{Code, Request, Response, Status};
use tonic_types::{ErrorDetails, StatusExt as _};

use crate::{
    domain::{EventRange, Keep},
    error::LogError,
    log::Published,
    ports::{Disk, Events, Held, Shelf, Signer},
    ranges::ranges_of,
    sequencer::MAX_BATCHES,
    trim::Wanted,
    view::{EventPlace, View},
};

/// Proofs made at a time; each holds a few tiles and, for an event, reads one range of the stream.
const AT_A_TIME: usize = 8;

/// The domain of the errors' reasons (google.rpc.ErrorInfo).
const DOMAIN: &str = "audit.sotto";

/// Answers for the log.
#[derive(Debug)]
pub struct Api<E, S> {
    /// The published state.
    pub view: Arc<View>,
    /// Where the log lies.
    pub disk: Arc<dyn Disk>,
    /// Who signs it.
    pub signer: Arc<dyn Signer>,
    /// Where events are read again.
    pub events: Arc<E>,
    /// How long they are kept.
    pub retention: Retention<S>,
    /// When something that is not there yet is worth asking for again.
    pub retry_after: Duration,
    permits: Semaphore,
}

/// How long events are kept, and who takes them away.
#[derive(Debug)]
pub struct Retention<S> {
    /// Where they are.
    pub shelf: Arc<S>,
    /// Where a look is asked for.
    pub trims: mpsc::Sender<Wanted>,
    /// How long.
    pub keep: Keep,
}

impl<E: Events, S: Shelf> Api<E, S> {
    /// Answers from these parts.
    pub fn new(
        view: Arc<View>,
        disk: Arc<dyn Disk>,
        signer: Arc<dyn Signer>,
        events: Arc<E>,
        retention: Retention<S>,
        retry_after: Duration,
    ) -> Self {
        Self { view, disk, signer, events, retention, retry_after, permits: Semaphore::new(AT_A_TIME) }
    }

    fn published(&self) -> Result<Published, Status> {
        self.view.published().ok_or_else(|| self.not_open())
    }

    fn not_open(&self) -> Status {
        self.refuse(Code::Unavailable, "LOG_NOT_OPEN", "the log is being opened".to_owned(), true)
    }

    fn refuse(&self, code: Code, reason: &str, message: String, retry: bool) -> Status {
        let mut details = ErrorDetails::with_error_info(reason, DOMAIN, HashMap::new());
        if retry {
            details.set_retry_info(Some(self.retry_after));
        }
        Status::with_error_details(code, message, details)
    }

    /// Runs reads of the disk where they may block.
    async fn read<T: Send + 'static>(
        &self,
        work: impl FnOnce(&dyn Disk) -> Result<T, Unproven> + Send + 'static,
    ) -> Result<T, Status> {
        let _permit = self.permits.acquire().await.map_err(|_| self.not_open())?;
        let disk = Arc::clone(&self.disk);
        match spawn_blocking(move || work(&*disk)).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(error)) => {
                tracing::error!(error = %error, cause = error.cause(), "a proof cannot be made from the log's files");
                Err(self.refuse(
                    Code::DataLoss,
                    "LOG_DAMAGED",
                    "the log's files do not lead to what was signed; run sotto audit verify".to_owned(),
                    false,
                ))
            }
            Err(_) => Err(Status::internal("the request was interrupted")),
        }
    }

    async fn entry(&self, published: Published, index: u64) -> Result<(Vec<u8>, InclusionProof), Status> {
        let checkpoint = published.checkpoint.clone();
        let (entry, path) = self.read(move |disk| prove_entry(disk, &checkpoint, index)).await?;
        let hashes = path.iter().map(|hash| hash.as_bytes().to_vec().into()).collect();
        Ok((entry, InclusionProof { index, hashes, checkpoint: published.note.as_ref().to_owned() }))
    }

    async fn prove_event(&self, sequence: u64) -> Result<GetEventProofResponse, Status> {
        let (published, place) = self.view.event(sequence).ok_or_else(|| self.not_open())?;
        let bundle = match place {
            EventPlace::Bundle(bundle) => bundle,
            EventPlace::Beyond(through) => {
                let message = format!(
                    "event {sequence} is not committed yet (committed up to {through}); try again in {} s",
                    self.retry_after.as_secs().max(1)
                );
                return Err(self.refuse(Code::OutOfRange, "EVENT_NOT_COMMITTED", message, true));
            }
        };
        let checkpoint = published.checkpoint.clone();
        let (index, range) = self.read(move |disk| find_range(disk, &checkpoint, bundle, sequence)).await?;
        let leaves = self.events.leaves(range.first, range.last, MAX_BATCHES).await;
        let leaves = leaves.map_err(|_error| self.events_away())?;
        let at = leaves.iter().position(|leaf| leaf.sequence == sequence);
        let hashes: Vec<Hash> = leaves.iter().map(|leaf| leaf.hash).collect();
        let tree: Frontier = hashes.iter().copied().collect();
        if tree.root() != range.root {
            return Err(self.changed(&range, tree.size()));
        }
        let Some(batch) = at.and_then(|at| hashes.get(at)) else {
            let message = format!("the stream had no event {sequence} when its range was committed");
            return Err(self.refuse(Code::NotFound, "EVENT_NOT_FOUND", message, false));
        };
        let index_in_range = u64::try_from(at.unwrap_or(0)).unwrap_or(u64::MAX);
        let path = match inclusion_path(&Leaves(&hashes), index_in_range, tree.size()) {
            Ok(path) => path,
            Err(never) => match never {},
        };
        let (range_entry, proof) = self.entry(published, index).await?;
        Ok(GetEventProofResponse {
            batch_leaf_hash: batch.as_bytes().to_vec().into(),
            index_in_range,
            range_hashes: path.iter().map(|hash| hash.as_bytes().to_vec().into()).collect(),
            range_entry: range_entry.into(),
            proof: Some(proof),
        })
    }

    fn events_away(&self) -> Status {
        let message = "the events cannot be read now; try again".to_owned();
        self.refuse(Code::Unavailable, "EVENTS_UNAVAILABLE", message, true)
    }

    fn changed(&self, range: &EventRange, found: u64) -> Status {
        let EventRange { first, last, batches, .. } = range;
        if found < *batches {
            let message = format!(
                "events {first} to {last} are no longer complete in the stream ({found} of {batches} batches): \
                 they were trimmed"
            );
            return self.refuse(Code::FailedPrecondition, "EVENTS_TRIMMED", message, false);
        }
        tracing::error!(first, last, "the EVENTS stream differs from what the log committed to");
        let message = format!("events {first} to {last} differ from what the log committed to");
        self.refuse(Code::DataLoss, "EVENTS_ALTERED", message, false)
    }
}

#[tonic::async_trait]
impl<E: Events, S: Shelf> AuditService for Api<E, S> {
    async fn get_checkpoint(
        &self,
        request: Request<GetCheckpointRequest>,
    ) -> Result<Response<GetCheckpointResponse>, Status> {
        allow(&request)?;
        let published = self.published()?;
        let key = self.signer.current().map_err(|error| {
            tracing::error!(%error, "the checkpoint key cannot be told");
            Status::internal("the checkpoint key cannot be told")
        })?;
        Ok(Response::new(GetCheckpointResponse {
            checkpoint: published.note.as_ref().to_owned(),
            verifier_key: key.to_string(),
        }))
    }

    async fn get_entry(
        &self,
        request: Request<GetEntryRequest>,
    ) -> Result<Response<GetEntryResponse>, Status> {
        allow(&request)?;
        let index = request.into_inner().index;
        let published = self.published()?;
        let size = published.checkpoint.size;
        if index >= size {
            let message = format!("entry {index} is not in the log: it has {size} entries, counted from 0");
            return Err(self.refuse(Code::OutOfRange, "ENTRY_NOT_FOUND", message, true));
        }
        let (entry, proof) = self.entry(published, index).await?;
        Ok(Response::new(GetEntryResponse { entry: entry.into(), proof: Some(proof) }))
    }

    async fn get_event_proof(
        &self,
        request: Request<GetEventProofRequest>,
    ) -> Result<Response<GetEventProofResponse>, Status> {
        allow(&request)?;
        match request.into_inner().event_sequence {
            0 => Err(invalid("event_sequence", "stream sequences start at 1")),
            sequence => self.prove_event(sequence).await.map(Response::new),
        }
    }

    async fn get_consistency_proof(
        &self,
        request: Request<GetConsistencyProofRequest>,
    ) -> Result<Response<GetConsistencyProofResponse>, Status> {
        allow(&request)?;
        let GetConsistencyProofRequest { old_size, new_size } = request.into_inner();
        if old_size == 0 {
            return Err(invalid("old_size", "an empty tree is a prefix of every tree: ask from 1"));
        }
        if old_size > new_size {
            return Err(invalid("old_size", "must not be larger than new_size"));
        }
        let size = self.published()?.checkpoint.size;
        if new_size > size {
            let message = format!("the log has {size} entries, not {new_size}");
            return Err(self.refuse(Code::OutOfRange, "SIZE_NOT_REACHED", message, true));
        }
        let path = self.read(move |disk| prove_growth(disk, size, old_size, new_size)).await?;
        let hashes = path.iter().map(|hash| hash.as_bytes().to_vec().into()).collect();
        Ok(Response::new(GetConsistencyProofResponse { hashes }))
    }

    async fn get_retention(
        &self,
        request: Request<GetRetentionRequest>,
    ) -> Result<Response<GetRetentionResponse>, Status> {
        allow(&request)?;
        let Retention { shelf, keep, .. } = &self.retention;
        let away = |_error| self.events_away();
        let Held { first, last, bytes, max_bytes } = shelf.held().await.map_err(away)?;
        let oldest = shelf.read(first, last).await.map_err(away)?.into_iter().next();
        let closed = self.view.closing();
        Ok(Response::new(GetRetentionResponse {
            kept_s: keep.usual.as_secs(),
            least_s: keep.least.as_secs(),
            closing_entry: closed.as_ref().map(|closed| closed.entry),
            closed_through: closed.as_ref().map_or(0, |closed| closed.balance.through),
            first_sequence: first,
            last_sequence: last,
            oldest_s: oldest.map(|batch| batch.stored_at.unix_seconds()),
            bytes,
            max_bytes,
        }))
    }

    async fn run_retention(
        &self,
        request: Request<RunRetentionRequest>,
    ) -> Result<Response<RunRetentionResponse>, Status> {
        allow(&request)?;
        let (answer, looked) = oneshot::channel();
        // One waits; whoever else asks meanwhile is told so.
        self.retention.trims.try_send(answer).map_err(|_full| {
            let message = "events are being trimmed already; ask again when that is done".to_owned();
            self.refuse(Code::Unavailable, "RETENTION_RUNS", message, true)
        })?;
        let looked = looked.await.map_err(|_ended| Status::unavailable("the audit service is stopping"))?;
        let trimmed = looked.map_err(|error| {
            let retry = matches!(error.class(), ErrorClass::Retry { .. });
            let code = if retry { Code::Unavailable } else { Code::FailedPrecondition };
            self.refuse(code, "RETENTION_FAILED", chain(&error), retry)
        })?;
        Ok(Response::new(RunRetentionResponse { batches: trimmed.batches, closed_through: trimmed.through }))
    }
}

/// Only the operator's tool asks, by its certificate. Scopes of tokens come with the public face of this service.
fn allow<T>(request: &Request<T>) -> Result<(), Status> {
    match grpc::peer_service(request)? {
        PeerService::Operator => Ok(()),
        PeerService::Ingress
        | PeerService::Routing
        | PeerService::Carrier
        | PeerService::Identity
        | PeerService::Privacy
        | PeerService::Audit
        | PeerService::Provisioner => {
            Err(Status::permission_denied("the audit log answers the operator's certificate only"))
        }
    }
}

fn invalid(field: &str, description: &str) -> Status {
    let details = ErrorDetails::with_bad_request_violation(field, description);
    Status::with_error_details(Code::InvalidArgument, format!("{field}: {description}"), details)
}

fn prove_entry(
    disk: &dyn Disk,
    checkpoint: &Checkpoint,
    index: u64,
) -> Result<(Vec<u8>, Vec<Hash>), Unproven> {
    let bundle = read_bundle(disk, checkpoint.size, index / TILE_WIDTH).map_err(Unproven::Read)?;
    let at = usize::try_from(index % TILE_WIDTH).unwrap_or(usize::MAX);
    let entry = bundle.into_iter().nth(at).ok_or(Unproven::Entry)?;
    let nodes = TileNodes::new(disk, checkpoint.size);
    let path = inclusion_path(&nodes, index, checkpoint.size).map_err(Unproven::Read)?;
    verify_inclusion(&Hash::leaf(&entry), index, checkpoint.size, &path, &checkpoint.root)
        .map_err(|_| Unproven::Root)?;
    Ok((entry, path))
}

fn find_range(
    disk: &dyn Disk,
    checkpoint: &Checkpoint,
    bundle: u64,
    sequence: u64,
) -> Result<(u64, EventRange), Unproven> {
    let ranges = ranges_of(disk, checkpoint.size, bundle).map_err(Unproven::Ranges)?;
    let holds = |range: &EventRange| (range.first..=range.last).contains(&sequence);
    ranges.into_iter().find(|(_, range)| holds(range)).ok_or(Unproven::Entry)
}

fn prove_growth(disk: &dyn Disk, size: u64, old: u64, new: u64) -> Result<Vec<Hash>, Unproven> {
    let nodes = TileNodes::new(disk, size);
    let path = consistency_path(&nodes, old, new).map_err(Unproven::Read)?;
    let old_root = root(&nodes, old).map_err(Unproven::Read)?;
    let new_root = root(&nodes, new).map_err(Unproven::Read)?;
    verify_consistency(old, &old_root, new, &new_root, &path).map_err(|_| Unproven::Root)?;
    Ok(path)
}

/// The files of the log do not give the proof that they must give.
#[derive(Debug, thiserror::Error)]
enum Unproven {
    #[error("a part of the log cannot be read")]
    Read(#[source] ReadError),
    #[error("a part of the log cannot be understood")]
    Ranges(#[source] LogError),
    #[error("an entry is not where it must be")]
    Entry,
    #[error("the tiles do not lead to the signed root")]
    Root,
}

impl Unproven {
    fn cause(&self) -> String {
        std::error::Error::source(self).map(ToString::to_string).unwrap_or_default()
    }
}

impl sotto_core::Classified for Unproven {
    fn class(&self) -> ErrorClass {
        ErrorClass::Bug
    }
}
