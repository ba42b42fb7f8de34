//! `sotto.privacy.v1.KeyAdminService`: what people do with keys, for the operator's certificate.

use std::time::Duration;

use sotto_proto::{
    privacy::v1::{
        self as wire, DestroyKeysRequest, DestroyKeysResponse, ListKeysRequest, ListKeysResponse,
        RotateKeysRequest, RotateKeysResponse,
        key_admin_service_server::{KeyAdminService, KeyAdminServiceServer},
    },
    to_wire_time,
};
use sotto_runtime::grpc::peer_service;
use tonic::{Request, Response, Status};

use super::grpc::{read_time, status};
use crate::{
    app::{KeyFacts, KeyState, Keys},
    domain::{approval::Signed, bucket::Contents, limits::Rule},
    error::KeyError,
};

/// The largest request: an act with every bucket it may name, and its signatures.
const MAX_REQUEST_BYTES: usize = 64 * 1024;

/// So many names fit into the object of an act in the audit log.
const MOST_SIGNATURES: usize = 3;

/// The service on the wire.
#[derive(Clone, Debug)]
pub struct AdminServer(Keys);

impl AdminServer {
    /// The gRPC service over `keys`.
    pub fn service(keys: Keys) -> KeyAdminServiceServer<Self> {
        KeyAdminServiceServer::new(Self(keys)).max_decoding_message_size(MAX_REQUEST_BYTES)
    }
}

fn refused(field: &'static str, problem: &'static str) -> Status {
    status(&KeyError::Field { field, problem })
}

#[tonic::async_trait]
impl KeyAdminService for AdminServer {
    async fn list_keys(
        &self,
        request: Request<ListKeysRequest>,
    ) -> Result<Response<ListKeysResponse>, Status> {
        let caller = peer_service(&request)?.name();
        let since = request
            .into_inner()
            .destroyed_since
            .map(|since| read_time(since).ok_or_else(|| refused("destroyed_since", "must be a time")));
        let inventory = self.0.inventory(caller, since.transpose()?).await.map_err(|error| status(&error))?;
        let rules = self.0.rules().iter().map(|one| rule(one, self.0.submit_margin()));
        Ok(Response::new(ListKeysResponse {
            keys: inventory.keys.into_iter().map(facts).collect(),
            rules: rules.collect(),
            receipt_key: inventory.receipt_key,
        }))
    }

    async fn rotate_keys(
        &self,
        request: Request<RotateKeysRequest>,
    ) -> Result<Response<RotateKeysResponse>, Status> {
        let caller = peer_service(&request)?.name();
        let RotateKeysRequest { class } = request.into_inner();
        let contents = (!class.is_empty()).then(|| {
            let problem = "must be otp, transactional, promotional, ad-invite, inbound, index or abuse, or empty for all";
            Contents::from_name(&class).ok_or_else(|| refused("class", problem))
        });
        let made = self.0.rotate(caller, contents.transpose()?).await.map_err(|error| status(&error))?;
        Ok(Response::new(RotateKeysResponse { made: made.into_iter().map(facts).collect() }))
    }

    async fn destroy_keys(
        &self,
        request: Request<DestroyKeysRequest>,
    ) -> Result<Response<DestroyKeysResponse>, Status> {
        let caller = peer_service(&request)?.name();
        let DestroyKeysRequest { act, approvals } = request.into_inner();
        if approvals.len() > MOST_SIGNATURES {
            return Err(refused("approvals", "must be at most 3"));
        }
        let signed =
            approvals.into_iter().map(|one| Signed { by: one.by, signature: one.signature.to_vec() });
        let destroyed =
            self.0.destroy(caller, act, signed.collect()).await.map_err(|error| status(&error))?;
        Ok(Response::new(DestroyKeysResponse { destroyed: destroyed.into_iter().map(facts).collect() }))
    }
}

fn rule(rule: &Rule, margin: Duration) -> wire::RetentionRule {
    wire::RetentionRule {
        class: rule.limit.class.to_owned(),
        kept_s: rule.kept.as_secs(),
        least_s: rule.limit.least.as_secs(),
        most_s: rule.limit.most.as_secs(),
        longer_s: rule.grain.saturating_add(margin).as_secs(),
        why: rule.limit.why.to_owned(),
    }
}

fn facts(key: KeyFacts) -> wire::KeyFacts {
    let (state, destroyed_at, generation) = match key.state {
        KeyState::Current => (wire::KeyState::Current, None, 0),
        KeyState::Superseded => (wire::KeyState::Superseded, None, 0),
        KeyState::Destroyed { at, generation } => {
            (wire::KeyState::Destroyed, Some(to_wire_time(at)), generation)
        }
    };
    wire::KeyFacts {
        bucket: key.bucket,
        state: state.into(),
        made_at: Some(to_wire_time(key.made_at)),
        dies_at: Some(to_wire_time(key.dies_at)),
        destroyed_at,
        wraps_at_most: key.wraps_at_most,
        generation,
        rotates_at: key.rotates_at.map(to_wire_time),
    }
}
