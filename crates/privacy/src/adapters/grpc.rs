//! `sotto.privacy.v1.KeyService`: wire to work and back.

use std::{collections::HashMap, ops::RangeFrom, time::Duration};

use bytes::Bytes;
use prost_types::Timestamp as WireTime;
use sotto_core::{
    AccountId, Classified, ErrorClass, MessageClass, TenantId, Timestamp,
    work::{KeyWrap, Need},
};
use sotto_crypto::{AeadKey, Zeroizing, hpke::SealingKey};
use sotto_proto::{
    message::v1 as message,
    pipeline::v1 as pipeline,
    privacy::v1::{
        CreateAbuseKeyRequest, CreateAbuseKeyResponse, CreateInboundKeyRequest, CreateInboundKeyResponse,
        CreateIndexKeyRequest, CreateIndexKeyResponse, CreateSessionKeyRequest, CreateSessionKeyResponse,
        ListEndedBucketsRequest, ListEndedBucketsResponse, SealedKeys, UnwrapKeysRequest, UnwrapKeysResponse,
        UnwrapRefusal, UnwrappedKey,
        key_service_server::{KeyService, KeyServiceServer},
        unwrapped_key,
    },
    to_wire_time,
};
use sotto_runtime::{grpc::peer_service, telemetry::chain};
use tonic::{Code, Request, Response, Status};
use tonic_types::{ErrorDetails, StatusExt as _};

use super::subjects::tenant_of;
use crate::{
    app::{Ended, Keys, MAX_WRAPS, Opened, Refusal, SessionKey},
    domain::{
        bucket::Contents,
        retention::SpanError,
        tally::{Deed, Outcome},
    },
    error::KeyError,
};

/// Who our error reasons belong to (google.rpc.ErrorInfo).
const ERROR_DOMAIN: &str = "privacy.sotto.internal";

/// The largest request: 256 wraps with room to spare.
const MAX_REQUEST_BYTES: usize = 512 * 1024;

const REPLY_KEY: &str = "reply_key";

/// The last second of the year 9999, where google.protobuf.Timestamp ends.
const LAST_SECOND: i64 = 253_402_300_799;

/// The service on the wire.
#[derive(Clone, Debug)]
pub struct KeyServer(Keys);

impl KeyServer {
    /// The gRPC service over `keys`.
    pub fn service(keys: Keys) -> KeyServiceServer<Self> {
        KeyServiceServer::new(Self(keys)).max_decoding_message_size(MAX_REQUEST_BYTES)
    }
}

#[tonic::async_trait]
impl KeyService for KeyServer {
    async fn create_session_key(
        &self,
        request: Request<CreateSessionKeyRequest>,
    ) -> Result<Response<CreateSessionKeyResponse>, Status> {
        let caller = peer_service(&request)?.name();
        let asked = match Ask::read(request.get_ref()) {
            Ok(asked) => asked,
            Err(error) => {
                self.0.refused_unread(caller, Deed::Other, Outcome::Invalid);
                return Err(status(&error));
            }
        };
        let made = self.0.make(caller, asked.tenant, asked.class, asked.need).await;
        let answer = made.and_then(|made| session_key(made, asked.reply));
        answer.map(Response::new).map_err(|error| status(&error))
    }

    async fn create_inbound_key(
        &self,
        request: Request<CreateInboundKeyRequest>,
    ) -> Result<Response<CreateInboundKeyResponse>, Status> {
        let caller = peer_service(&request)?.name();
        let CreateInboundKeyRequest { account, tenant, reply_key } = request.into_inner();
        let refused = |field, problem| {
            self.0.refused_unread(caller, Deed::Make { contents: Contents::Inbound }, Outcome::Invalid);
            Err(status(&KeyError::Field { field, problem }))
        };
        let Ok(account) = account.parse::<AccountId>() else {
            return refused("account", "must name a carrier account");
        };
        let Ok(tenant) = tenant.parse::<TenantId>() else {
            return refused("tenant", "must name a tenant");
        };
        let Ok(reply) = Reply::read(&reply_key) else {
            return refused(REPLY_KEY, Reply::EXPECTED);
        };
        let made = self.0.make_inbound(caller, &account, tenant).await.map_err(|error| status(&error))?;
        let (key, sealed) = reply.one(&made.key).map_err(|error| status(&error))?;
        Ok(Response::new(CreateInboundKeyResponse {
            wrap: Some(pipeline::InboundWrap::from(&made.wrap)),
            key,
            seal_until: Some(to_wire_time(made.seal_until)),
            sealed,
        }))
    }

    async fn unwrap_keys(
        &self,
        request: Request<UnwrapKeysRequest>,
    ) -> Result<Response<UnwrapKeysResponse>, Status> {
        let caller = peer_service(&request)?.name();
        let UnwrapKeysRequest { account, wraps, reply_key } = request.into_inner();
        let Ok(account) = account.parse::<AccountId>() else {
            self.0.refused_unread(caller, Deed::Open { account: None }, Outcome::Invalid);
            return Err(status(&KeyError::Field {
                field: "account",
                problem: "must name a carrier account",
            }));
        };
        let reply = match Reply::read(&reply_key) {
            Ok(reply) => reply,
            Err(error) => {
                self.0.refused_unread(caller, Deed::Open { account: Some(account) }, Outcome::Invalid);
                return Err(status(&error));
            }
        };
        if wraps.len() > MAX_WRAPS {
            // Before the wraps are read: the answer costs no more than the refusal.
            self.0.refused_unread(caller, Deed::Open { account: Some(account) }, Outcome::Invalid);
            return Err(status(&KeyError::Field { field: "wraps", problem: "must be 1 to 256" }));
        }
        let key_ids: Vec<Bytes> = wraps.iter().map(|wrap| wrap.key_id.clone()).collect();
        let wraps = wraps.into_iter().map(|wrap| KeyWrap::try_from(wrap).ok()).collect();
        let opened = self.0.open(caller, account, wraps).await.map_err(|error| status(&error))?;
        let sealed = reply.all(opened.iter().filter_map(|opened| opened.result.as_ref().ok()));
        let sealed = sealed.map_err(|error| status(&error))?;
        let mut places = 0..;
        let mut unwrapped = |(id, opened)| unwrapped(id, opened, sealed.as_ref().map(|_| &mut places));
        let keys = key_ids.into_iter().zip(opened).map(&mut unwrapped).collect();
        Ok(Response::new(UnwrapKeysResponse { keys, sealed }))
    }

    async fn create_index_key(
        &self,
        request: Request<CreateIndexKeyRequest>,
    ) -> Result<Response<CreateIndexKeyResponse>, Status> {
        let caller = peer_service(&request)?.name();
        let CreateIndexKeyRequest { tenant, reply_key } = request.into_inner();
        let asked = tenant_of(&tenant).and_then(|tenant| Ok((tenant, Reply::needed(&reply_key)?)));
        let (tenant, reply) = asked.map_err(|error| {
            self.0.refused_unread(caller, Deed::Make { contents: Contents::Index }, Outcome::Invalid);
            status(&error)
        })?;
        let made = self.0.make_index(caller, tenant).await.map_err(|error| status(&error))?;
        let sealed = reply.all([&made.sealing, &made.pseudonyms].into_iter());
        Ok(Response::new(CreateIndexKeyResponse {
            key_id: made.key.key_id.to_vec().into(),
            bucket: made.key.bucket,
            seal_until: Some(to_wire_time(made.seal_until)),
            sealed: sealed.map_err(|error| status(&error))?,
        }))
    }

    async fn create_abuse_key(
        &self,
        request: Request<CreateAbuseKeyRequest>,
    ) -> Result<Response<CreateAbuseKeyResponse>, Status> {
        let caller = peer_service(&request)?.name();
        let reply = Reply::needed(&request.into_inner().reply_key).map_err(|error| {
            self.0.refused_unread(caller, Deed::Make { contents: Contents::Abuse }, Outcome::Invalid);
            status(&error)
        })?;
        let made = self.0.make_abuse(caller).await.map_err(|error| status(&error))?;
        let sealed = reply.all(std::iter::once(&made.key)).map_err(|error| status(&error))?;
        Ok(Response::new(CreateAbuseKeyResponse {
            bucket: made.bucket,
            use_until: Some(to_wire_time(made.use_until)),
            dies_at: Some(to_wire_time(made.dies_at)),
            sealed,
        }))
    }

    async fn list_ended_buckets(
        &self,
        request: Request<ListEndedBucketsRequest>,
    ) -> Result<Response<ListEndedBucketsResponse>, Status> {
        let caller = peer_service(&request)?.name();
        let Ended { destroyed, superseded } = self.0.ended(caller).await.map_err(|error| status(&error))?;
        Ok(Response::new(ListEndedBucketsResponse { destroyed, superseded }))
    }
}

/// For whom an answer's keys are sealed; nobody: they go in clear.
#[derive(Clone, Copy)]
pub(super) struct Reply(Option<SealingKey>);

impl Reply {
    const EXPECTED: &str = "must be an X25519 public key of 32 bytes, or empty";
    const WRONG: KeyError = KeyError::Field { field: REPLY_KEY, problem: Self::EXPECTED };

    fn read(key: &[u8]) -> Result<Self, KeyError> {
        if key.is_empty() {
            return Ok(Self(None));
        }
        let key = key.try_into().map_err(|_| Self::WRONG)?;
        Ok(Self(Some(SealingKey::from_bytes(key))))
    }

    /// Of a request that had one from its first version on.
    pub(super) fn needed(key: &[u8]) -> Result<Self, KeyError> {
        let key = key.try_into().map_err(|_| KeyError::Field {
            field: REPLY_KEY,
            problem: "must be an X25519 public key of 32 bytes",
        })?;
        Ok(Self(Some(SealingKey::from_bytes(key))))
    }

    /// All of these, sealed.
    pub(super) fn all<'a>(
        self,
        keys: impl Iterator<Item = &'a AeadKey>,
    ) -> Result<Option<SealedKeys>, KeyError> {
        let Some(reply) = self.0 else { return Ok(None) };
        let sealed = reply.seal_keys(keys.map(AeadKey::expose)).map_err(|_no_key| Self::WRONG)?;
        Ok(Some(SealedKeys {
            encapsulated_key: Bytes::copy_from_slice(&sealed.encapsulated_key),
            ciphertext: sealed.ciphertext.into(),
        }))
    }

    /// One key, in clear or sealed.
    fn one(self, key: &AeadKey) -> Result<(Bytes, Option<SealedKeys>), KeyError> {
        let sealed = self.all(std::iter::once(key))?;
        Ok((if sealed.is_some() { Bytes::new() } else { wiped(key) }, sealed))
    }
}

struct Ask {
    tenant: TenantId,
    class: MessageClass,
    need: Need,
    reply: Reply,
}

impl Ask {
    fn read(request: &CreateSessionKeyRequest) -> Result<Self, KeyError> {
        let tenant = tenant_of(&request.tenant)?;
        let class = message::MessageClass::try_from(request.class)
            .ok()
            .and_then(|class| MessageClass::try_from(class).ok())
            .ok_or(KeyError::Field { field: "class", problem: "must be a known class" })?;
        let needed_until = request
            .needed_until
            .and_then(read_time)
            .ok_or(KeyError::Field { field: "needed_until", problem: "must be a time" })?;
        let from = request.needed_from.map(|from| {
            read_time(from).ok_or(KeyError::Field { field: "needed_from", problem: "must be a time" })
        });
        let need = Need { from: from.transpose()?, until: needed_until };
        Ok(Self { tenant, class, need, reply: Reply::read(&request.reply_key)? })
    }
}

/// To the millisecond, rounded up: a key needed until a part of it is needed for all of it.
pub(super) fn read_time(time: WireTime) -> Option<Timestamp> {
    let nanos = u32::try_from(time.nanos).ok().filter(|nanos| *nanos < 1_000_000_000)?;
    let seconds = (0..=LAST_SECOND).contains(&time.seconds).then_some(time.seconds)?;
    Some(Timestamp::from_unix_millis(seconds * 1000 + i64::from(nanos.div_ceil(1_000_000))))
}

fn session_key(made: SessionKey, reply: Reply) -> Result<CreateSessionKeyResponse, KeyError> {
    let (key, sealed) = reply.one(&made.key)?;
    Ok(CreateSessionKeyResponse {
        wrap: Some(pipeline::KeyWrap::from(&made.wrap)),
        key,
        seal_until: Some(to_wire_time(made.seal_until)),
        dies_at: Some(to_wire_time(made.dies_at)),
        sealed,
    })
}

/// `places`: those of the sealed keys, if they are sealed.
fn unwrapped(key_id: Bytes, opened: Opened, places: Option<&mut RangeFrom<u32>>) -> UnwrappedKey {
    let result = match opened.result {
        Ok(key) => match places.and_then(Iterator::next) {
            Some(place) => unwrapped_key::Result::Sealed(place),
            None => unwrapped_key::Result::Key(wiped(&key)),
        },
        Err(refusal) => unwrapped_key::Result::Refusal(wire_refusal(refusal).into()),
    };
    UnwrappedKey { key_id, result: Some(result), dies_at: opened.dies_at.map(to_wire_time) }
}

const fn wire_refusal(refusal: Refusal) -> UnwrapRefusal {
    match refusal {
        Refusal::Destroyed => UnwrapRefusal::Destroyed,
        Refusal::NotAllowed => UnwrapRefusal::NotAllowed,
        Refusal::Invalid => UnwrapRefusal::Invalid,
        Refusal::UnknownBucket => UnwrapRefusal::UnknownBucket,
    }
}

/// The key's bytes for the answer, wiped when the answer is dropped. (The encoded frame is tonic's and is not.)
fn wiped(key: &AeadKey) -> Bytes {
    struct Wiped(Zeroizing<[u8; 32]>);
    impl AsRef<[u8]> for Wiped {
        fn as_ref(&self) -> &[u8] {
            self.0.as_ref()
        }
    }
    Bytes::from_owner(Wiped(Zeroizing::new(*key.expose())))
}

/// The one place where an error becomes a gRPC status, and where our own faults are logged.
pub(super) fn status(error: &KeyError) -> Status {
    match error {
        KeyError::NotThisService => {
            Status::permission_denied("this method is not for the service that the client certificate names")
        }
        KeyError::NotThisTenant => Status::permission_denied(
            "no [[unwrap]] rule of privacy allows this account this tenant: add one, or take the number out of the carriers file",
        ),
        KeyError::Field { field, problem } => {
            let details = ErrorDetails::with_bad_request_violation(*field, *problem);
            Status::with_error_details(Code::InvalidArgument, format!("{field} {problem}"), details)
        }
        KeyError::Span(span) => span_status(*span),
        KeyError::Approval(refused) => Status::failed_precondition(refused.to_string()),
        KeyError::TooMany { retry_after } => retry(Code::ResourceExhausted, error, *retry_after),
        KeyError::Keystore(_)
        | KeyError::Index(_)
        | KeyError::Crypto(_)
        | KeyError::Blocking(_)
        | KeyError::Clock { .. }
        | KeyError::Spent
        | KeyError::NotRotated => failed(error),
    }
}

fn span_status(error: SpanError) -> Status {
    let mut details = ErrorDetails::with_bad_request_violation("needed_until", error.to_string());
    let code = match error {
        SpanError::TooSoon => Code::InvalidArgument,
        SpanError::TooFar { max } => {
            let metadata = HashMap::from([("max_seconds".to_owned(), max.as_secs().to_string())]);
            details.set_error_info("RETENTION_EXCEEDED", ERROR_DOMAIN, metadata);
            Code::OutOfRange
        }
    };
    Status::with_error_details(code, format!("needed_until {error}"), details)
}

/// The caller learns nothing of the disk or the code; the log does.
fn failed(error: &KeyError) -> Status {
    tracing::error!(error = chain(error), "a request for keys or for the index could not be answered");
    match error.class() {
        ErrorClass::Retry { after } => retry(Code::Unavailable, error, after),
        ErrorClass::Reject | ErrorClass::Poison | ErrorClass::Bug => Status::internal(error.to_string()),
    }
}

fn retry(code: Code, error: &KeyError, after: Duration) -> Status {
    Status::with_error_details(code, error.to_string(), ErrorDetails::with_retry_info(Some(after)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(seconds: i64, nanos: i32) -> Option<i64> {
        read_time(WireTime { seconds, nanos }).map(Timestamp::unix_millis)
    }

    #[test]
    fn times_are_rounded_up_and_checked() {
        assert_eq!(read(1, 0), Some(1000));
        assert_eq!(read(1, 1), Some(1001));
        assert_eq!(read(1, 999_999_999), Some(2000));
        assert_eq!(read(LAST_SECOND, 0), Some(LAST_SECOND * 1000));
        for (seconds, nanos) in [(-1, 0), (LAST_SECOND + 1, 0), (i64::MAX, 0), (0, -1), (0, 1_000_000_000)] {
            assert_eq!(read(seconds, nanos), None, "{seconds} {nanos}");
        }
    }

    #[test]
    fn each_error_has_its_code() {
        let max = Duration::from_secs(1020);
        for (error, code) in [
            (KeyError::NotThisService, Code::PermissionDenied),
            (KeyError::NotThisTenant, Code::PermissionDenied),
            (KeyError::Field { field: "tenant", problem: "must name a tenant" }, Code::InvalidArgument),
            (KeyError::Span(SpanError::TooSoon), Code::InvalidArgument),
            (KeyError::Span(SpanError::TooFar { max }), Code::OutOfRange),
            (KeyError::TooMany { retry_after: max }, Code::ResourceExhausted),
            (KeyError::Keystore(sotto_keystore::KeystoreError::BucketDestroyed), Code::Unavailable),
            (KeyError::Keystore(sotto_keystore::KeystoreError::Name), Code::Internal),
        ] {
            assert_eq!(status(&error).code(), code, "{error}");
        }
    }
}
