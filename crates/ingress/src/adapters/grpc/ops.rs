//! What an operator may ask: a rebuild. Only over mutual TLS, only with the operator's certificate.

use std::{fmt, sync::Arc};

use futures::{Stream, StreamExt as _};
use sotto_proto::ops::v1::{
    RebuildRequest, RebuildResponse,
    rebuild_response::Scope,
    rebuild_service_server::{RebuildService, RebuildServiceServer},
};
use sotto_runtime::{Tasks, grpc::peer_service, telemetry::chain, tls::PeerService};
use tokio::sync::mpsc;
use tonic::{Request, Response, Status};

use crate::{
    adapters::audit::{AuditTrail, Category},
    app::rebuild::{Progress, Rebuilder},
};

/// The operator's service.
#[derive(Clone, Debug)]
pub struct Operations {
    rebuilder: Arc<Rebuilder>,
    audit: AuditTrail,
    tasks: Tasks,
}

impl Operations {
    /// The service on these parts.
    pub fn new(rebuilder: Arc<Rebuilder>, audit: AuditTrail, tasks: Tasks) -> Self {
        Self { rebuilder, audit, tasks }
    }

    /// As tonic serves it.
    pub fn service(self) -> RebuildServiceServer<Self> {
        RebuildServiceServer::new(self)
    }
}

/// Progress, then the end.
pub struct Steps(std::pin::Pin<Box<dyn Stream<Item = Result<RebuildResponse, Status>> + Send>>);

impl fmt::Debug for Steps {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Steps")
    }
}

impl Stream for Steps {
    type Item = Result<RebuildResponse, Status>;

    fn poll_next(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Self::Item>> {
        self.0.poll_next_unpin(cx)
    }
}

#[tonic::async_trait]
impl RebuildService for Operations {
    type RebuildStream = Steps;

    async fn rebuild(&self, request: Request<RebuildRequest>) -> Result<Response<Steps>, Status> {
        let peer = peer_service(&request)?;
        if peer != PeerService::Operator {
            self.audit.tell(Category::Lifecycle, "redis.rebuild", peer.name(), None, String::new(), "denied");
            return Err(Status::permission_denied("only the operator's certificate may ask for this"));
        }
        self.audit.tell(Category::Lifecycle, "redis.rebuild", peer.name(), None, String::new(), "ok");
        let (progress, steps) = mpsc::unbounded_channel();
        let (failed, failure) = tokio::sync::oneshot::channel();
        let rebuilder = Arc::clone(&self.rebuilder);
        // It goes on when the caller hangs up: half a rebuild helps nobody.
        self.tasks.spawn_background("rebuild", async move {
            if let Err(error) = rebuilder.rebuild_all(&progress).await {
                tracing::warn!(error = chain(&error), "the rebuild that was asked for did not end");
                let why = format!("{}; it goes on by itself", chain(&error));
                let _gone = failed.send(Status::unavailable(why)).is_err();
            }
        });
        let steps = tokio_stream::wrappers::UnboundedReceiverStream::new(steps).map(|step| Ok(wire(step)));
        let end = futures::stream::once(failure).filter_map(async |failure| failure.ok().map(Err));
        Ok(Response::new(Steps(Box::pin(steps.chain(end)))))
    }
}

fn wire(progress: Progress) -> RebuildResponse {
    let Progress { shard, read, written, done } = progress;
    RebuildResponse { scope: Some(Scope::Shard(u32::from(shard.get()))), read, written, done }
}
