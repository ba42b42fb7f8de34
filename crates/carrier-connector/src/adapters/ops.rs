//! What operators ask for, by gRPC over mutual TLS.

use std::sync::Arc;

use futures::{StreamExt as _, channel::mpsc, stream::BoxStream};
use sotto_proto::ops::v1::{
    RebuildRequest, RebuildResponse,
    rebuild_response::Scope,
    rebuild_service_server::{RebuildService, RebuildServiceServer},
};
use sotto_runtime::{Tasks, grpc::peer_service, telemetry::chain, tls::PeerService};
use tonic::{Request, Response, Status};

use crate::{
    adapters::ledger,
    app::rebuild::{Progress, Rebuilder},
};

/// Serves `sotto.ops.v1.RebuildService`.
#[derive(Debug)]
pub(crate) struct Ops {
    rebuilder: Arc<Rebuilder>,
    tasks: Tasks,
}

impl Ops {
    pub(crate) fn service(rebuilder: Arc<Rebuilder>, tasks: Tasks) -> RebuildServiceServer<Self> {
        RebuildServiceServer::new(Self { rebuilder, tasks })
    }
}

#[tonic::async_trait]
impl RebuildService for Ops {
    type RebuildStream = BoxStream<'static, Result<RebuildResponse, Status>>;

    async fn rebuild(
        &self,
        request: Request<RebuildRequest>,
    ) -> Result<Response<Self::RebuildStream>, Status> {
        if peer_service(&request)? != PeerService::Operator {
            return Err(Status::permission_denied("only the operator's certificate may ask for a rebuild"));
        }
        let (told, progress) = mpsc::unbounded();
        let rebuilder = Arc::clone(&self.rebuilder);
        // On a task of its own: it goes on if the operator leaves.
        self.tasks.spawn_background("rebuild", async move {
            // Nobody may be listening any more.
            let tell = |progress| drop(told.unbounded_send(Ok(response(progress))));
            let ended = rebuilder.all(&mut |progress| tell(progress)).await;
            let failed = match ended {
                Ok(true) => return,
                Ok(false) => Status::aborted("another process rebuilds at this moment: ask again"),
                Err(error) => Status::unavailable(format!("{}: ask again", chain(&error))),
            };
            drop(told.unbounded_send(Err(failed)));
        });
        Ok(Response::new(progress.boxed()))
    }
}

fn response(progress: Progress) -> RebuildResponse {
    let Progress { scope, read, written, done } = progress;
    let scope = match scope {
        ledger::Scope::Shard(shard) => Scope::Shard(shard.get().into()),
        ledger::Scope::Account(account) => Scope::Account(account.to_string()),
    };
    RebuildResponse { scope: Some(scope), read, written, done }
}
