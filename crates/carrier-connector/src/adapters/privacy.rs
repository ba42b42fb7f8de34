//! Session keys from privacy, by gRPC over mutual TLS.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use futures::{FutureExt as _, future::BoxFuture};
use sotto_core::{AccountId, TenantId, inbound::InboundWrap, work::KeyWrap};
use sotto_crypto::{
    AeadKey, Zeroizing,
    envelope::{MAX_SEALS, Sealer},
    hpke::OpeningKey,
};
use sotto_proto::{
    from_wire_time,
    privacy::v1::{
        CreateInboundKeyRequest, CreateInboundKeyResponse, ListEndedBucketsRequest, SealedKeys,
        UnwrapKeysRequest, UnwrapKeysResponse, UnwrapRefusal, UnwrappedKey,
        key_service_client::KeyServiceClient, unwrapped_key,
    },
};
use sotto_runtime::grpc::TraceCalls;
use tonic::{Request, service::interceptor::InterceptedService, transport::Channel};

use crate::ports::{Ended, InboundSession, Keys, KeysError, Unwrapped};

/// How long privacy may take to say which buckets ended. It is asked again after it.
const SOON: Duration = Duration::from_secs(2);

/// An answer that does not answer the question.
#[derive(Debug, thiserror::Error)]
#[error("privacy answered another question")]
struct Misfit;

/// The key service.
#[derive(Debug)]
pub(crate) struct Privacy {
    client: KeyServiceClient<InterceptedService<Channel, TraceCalls>>,
    timeout: Duration,
}

impl Privacy {
    pub(crate) fn new(channel: Channel, timeout: Duration) -> Self {
        Self { client: KeyServiceClient::with_interceptor(channel, TraceCalls), timeout }
    }
}

impl Keys for Privacy {
    fn unwrap<'a>(
        &'a self,
        account: &'a AccountId,
        wraps: &'a [Arc<KeyWrap>],
    ) -> BoxFuture<'a, Result<Vec<Unwrapped>, KeysError>> {
        async move {
            let reply = OpeningKey::generate().map_err(|error| KeysError(error.into()))?;
            let mut request = Request::new(UnwrapKeysRequest {
                account: account.to_string(),
                wraps: wraps.iter().map(|wrap| wrap.as_ref().into()).collect(),
                reply_key: Bytes::copy_from_slice(reply.public().as_bytes()),
            });
            request.set_timeout(self.timeout);
            let mut client = self.client.clone();
            let answer = tokio::time::timeout(self.timeout, client.unwrap_keys(request))
                .await
                .map_err(|late| KeysError(late.into()))?
                .map_err(|status| KeysError(status.into()))?;
            let UnwrapKeysResponse { keys, sealed } = answer.into_inner();
            let opened = opened(&reply, sealed)?;
            let fits = keys.len() == wraps.len()
                && keys.iter().zip(wraps).all(|(key, wrap)| key.key_id.as_ref() == wrap.key_id);
            if !fits {
                return Err(KeysError(Misfit.into()));
            }
            keys.into_iter().map(|key| unwrapped(key, &opened)).collect()
        }
        .boxed()
    }

    fn inbound<'a>(
        &'a self,
        account: &'a AccountId,
        tenant: &'a TenantId,
    ) -> BoxFuture<'a, Result<InboundSession, KeysError>> {
        async move {
            let reply = OpeningKey::generate().map_err(|error| KeysError(error.into()))?;
            let mut request = Request::new(CreateInboundKeyRequest {
                account: account.to_string(),
                tenant: tenant.to_string(),
                reply_key: Bytes::copy_from_slice(reply.public().as_bytes()),
            });
            request.set_timeout(self.timeout);
            let mut client = self.client.clone();
            let answer = tokio::time::timeout(self.timeout, client.create_inbound_key(request))
                .await
                .map_err(|late| KeysError(late.into()))?
                .map_err(|status| KeysError(status.into()))?;
            session(answer.into_inner(), &reply, tenant)?.ok_or_else(|| KeysError(Misfit.into()))
        }
        .boxed()
    }

    fn ended(&self) -> BoxFuture<'_, Result<Ended, KeysError>> {
        async move {
            let mut client = self.client.clone();
            let answer = tokio::time::timeout(SOON, client.list_ended_buckets(ListEndedBucketsRequest {}))
                .await
                .map_err(|late| KeysError(late.into()))?
                .map_err(|status| KeysError(status.into()))?
                .into_inner();
            Ok(Ended {
                destroyed: answer.destroyed.into_iter().collect(),
                superseded: answer.superseded.into_iter().collect(),
            })
        }
        .boxed()
    }
}

/// The keys that came sealed: what libraries keep of the answer opens nothing.
fn opened(reply: &OpeningKey, sealed: Option<SealedKeys>) -> Result<Zeroizing<Vec<[u8; 32]>>, KeysError> {
    let Some(SealedKeys { encapsulated_key, ciphertext }) = sealed else { return Ok(Zeroizing::default()) };
    reply.open_keys(&encapsulated_key, &ciphertext).map_err(|error| KeysError(error.into()))
}

fn session(
    answer: CreateInboundKeyResponse,
    reply: &OpeningKey,
    tenant: &TenantId,
) -> Result<Option<InboundSession>, KeysError> {
    let CreateInboundKeyResponse { wrap, key: clear, seal_until, sealed } = answer;
    let sealed = opened(reply, sealed)?;
    let read = || {
        let key = sealed.first().map(|key| AeadKey::from_bytes(*key)).or_else(|| key(clear))?;
        let wrap = InboundWrap::try_from(wrap?).ok().filter(|wrap| wrap.tenant == *tenant)?;
        let sealer = Sealer::new(wrap.key_id, key, MAX_SEALS);
        Some(InboundSession { sealer, wrap, seal_until: from_wire_time(seal_until?) })
    };
    Ok(read())
}

/// The key in what came in clear, from a privacy of the version before; its copy is wiped if nobody else holds it.
fn key(bytes: Bytes) -> Option<AeadKey> {
    let mut key = Zeroizing::new([0; 32]);
    if bytes.len() != key.len() {
        return None;
    }
    key.copy_from_slice(&bytes);
    if let Ok(mut received) = bytes.try_into_mut() {
        received.fill(0);
    }
    Some(AeadKey::from_bytes(*key))
}

fn unwrapped(answer: UnwrappedKey, opened: &[[u8; 32]]) -> Result<Unwrapped, KeysError> {
    let misfit = || KeysError(Misfit.into());
    let dies_at = answer.dies_at.map(from_wire_time);
    let known = |key: Option<AeadKey>| {
        let key = Arc::new(key.ok_or_else(misfit)?);
        Ok(Unwrapped::Key { key, dies_at: dies_at.ok_or_else(misfit)? })
    };
    match answer.result.ok_or_else(misfit)? {
        unwrapped_key::Result::Key(bytes) => known(key(bytes)),
        unwrapped_key::Result::Sealed(place) => {
            let key = usize::try_from(place).ok().and_then(|place| opened.get(place));
            known(key.map(|key| AeadKey::from_bytes(*key)))
        }
        unwrapped_key::Result::Refusal(refusal) => match UnwrapRefusal::try_from(refusal) {
            Ok(UnwrapRefusal::Destroyed) => Ok(Unwrapped::Destroyed),
            Ok(UnwrapRefusal::NotAllowed) => Ok(Unwrapped::NotAllowed),
            Ok(UnwrapRefusal::Invalid | UnwrapRefusal::UnknownBucket) => Ok(Unwrapped::Invalid),
            Ok(UnwrapRefusal::Unspecified) | Err(_) => Err(misfit()),
        },
    }
}
