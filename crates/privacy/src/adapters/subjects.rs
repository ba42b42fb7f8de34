//! `sotto.privacy.v1.SubjectService`: from a number's pseudonyms to its messages, for ingress.

use sotto_core::{TenantId, index::Pseudonym};
use sotto_crypto::hpke::MOST_KEYS;
use sotto_proto::privacy::v1::{
    BucketPseudonym, FindSubjectRequest, FindSubjectResponse, IndexedMessage, ListPseudonymKeysRequest,
    ListPseudonymKeysResponse,
    subject_service_server::{SubjectService, SubjectServiceServer},
};
use sotto_runtime::grpc::peer_service;
use tonic::{Request, Response, Status};

use super::grpc::{Reply, status};
use crate::{
    app::{Asked, Keys, MOST_PSEUDONYMS},
    domain::tally::{Deed, Outcome},
    error::KeyError,
};

/// The largest request: every pseudonym with the longest name of a bucket, with room to spare.
const MAX_REQUEST_BYTES: usize = 256 * 1024;

/// The longest name of a client: it stands in the audit log.
const LONGEST_CLIENT: usize = 64;

/// The service on the wire.
#[derive(Clone, Debug)]
pub struct SubjectServer(Keys);

impl SubjectServer {
    /// The gRPC service over `keys`.
    pub fn service(keys: Keys) -> SubjectServiceServer<Self> {
        SubjectServiceServer::new(Self(keys)).max_decoding_message_size(MAX_REQUEST_BYTES)
    }

    fn unread(&self, caller: &'static str, error: &KeyError) -> Status {
        self.0.refused_unread(caller, Deed::ListPseudonymKeys, Outcome::Invalid);
        status(error)
    }
}

#[tonic::async_trait]
impl SubjectService for SubjectServer {
    async fn list_pseudonym_keys(
        &self,
        request: Request<ListPseudonymKeysRequest>,
    ) -> Result<Response<ListPseudonymKeysResponse>, Status> {
        let caller = peer_service(&request)?.name();
        let ListPseudonymKeysRequest { tenant, reply_key } = request.into_inner();
        let asked = tenant_of(&tenant).and_then(|tenant| Ok((tenant, Reply::needed(&reply_key)?)));
        let (tenant, reply) = asked.map_err(|error| self.unread(caller, &error))?;
        let keys = self.0.pseudonym_keys(caller, tenant).await.map_err(|error| status(&error))?;
        let sealed = keys
            .chunks(MOST_KEYS)
            .map(|keys| reply.all(keys.iter().map(|key| &key.key)))
            .filter_map(Result::transpose)
            .collect::<Result<_, _>>()
            .map_err(|error| status(&error))?;
        let buckets = keys.into_iter().map(|key| key.bucket).collect();
        Ok(Response::new(ListPseudonymKeysResponse { buckets, sealed }))
    }

    async fn find_subject(
        &self,
        request: Request<FindSubjectRequest>,
    ) -> Result<Response<FindSubjectResponse>, Status> {
        let caller = peer_service(&request)?.name();
        let asked = asked(request.into_inner()).map_err(|error| self.unread(caller, &error))?;
        let found = self.0.find(caller, asked).await.map_err(|error| status(&error))?;
        let message = |(id, hour): (sotto_core::MessageId, u32)| IndexedMessage {
            message_id: id.as_bytes().to_vec().into(),
            hour,
        };
        Ok(Response::new(FindSubjectResponse {
            messages: found.messages.into_iter().map(message).collect(),
            next: found.next.unwrap_or(0),
        }))
    }
}

pub(super) fn tenant_of(tenant: &str) -> Result<TenantId, KeyError> {
    tenant.parse().map_err(|_| KeyError::Field { field: "tenant", problem: "must name a tenant" })
}

fn asked(request: FindSubjectRequest) -> Result<Asked, KeyError> {
    let FindSubjectRequest { tenant, client, pseudonyms, from } = request;
    let is_name = (1..=LONGEST_CLIENT).contains(&client.len())
        && client.bytes().all(|byte| byte.is_ascii_graphic() && byte != b',');
    if !is_name {
        return Err(KeyError::Field { field: "client", problem: "must name the client that asks" });
    }
    if pseudonyms.len() > MOST_PSEUDONYMS {
        return Err(KeyError::Field { field: "pseudonyms", problem: "must be at most 1024" });
    }
    let read = |BucketPseudonym { bucket, pseudonym }: BucketPseudonym| {
        let pseudonym = pseudonym.as_ref().try_into().map(Pseudonym);
        let wrong = |_| KeyError::Field { field: "pseudonyms", problem: "must have 16 bytes each" };
        Ok((bucket, pseudonym.map_err(wrong)?))
    };
    let pseudonyms = pseudonyms.into_iter().map(read).collect::<Result<_, KeyError>>()?;
    Ok(Asked { tenant: tenant_of(&tenant)?, client, pseudonyms, from })
}
