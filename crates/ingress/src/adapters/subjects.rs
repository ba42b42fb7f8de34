//! What ingress asks privacy of the index. Keys come sealed for the one request (docs/adr/0021-keys-in-answers.md).

use std::{fmt, time::Duration};

use bytes::Bytes;
use futures::future::BoxFuture;
use sotto_core::{
    MessageId, TenantId, Timestamp,
    index::{IndexKey, Pseudonym},
};
use sotto_crypto::{CryptoError, MacKey, Zeroizing, hpke::OpeningKey};
use sotto_proto::{
    from_wire_time,
    privacy::v1::{
        BucketPseudonym, CreateAbuseKeyRequest, CreateIndexKeyRequest, FindSubjectRequest, IndexedMessage,
        ListPseudonymKeysRequest, SealedKeys, key_service_client::KeyServiceClient,
        subject_service_client::SubjectServiceClient,
    },
};
use sotto_runtime::{grpc::TraceCalls, telemetry::chain};
use tonic::{Code, Response, Status, service::interceptor::InterceptedService, transport::Channel};

use crate::ports::{FoundPart, KeyError, PseudonymKey, Subjects};

type Traced = InterceptedService<Channel, TraceCalls>;

/// A part of the index takes privacy three seconds at most to read.
const READING: Duration = Duration::from_secs(8);

/// Privacy, asked of the index.
#[derive(Clone)]
pub struct SubjectClient {
    keys: KeyServiceClient<Traced>,
    subjects: SubjectServiceClient<Traced>,
    timeout: Duration,
}

impl fmt::Debug for SubjectClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SubjectClient").finish_non_exhaustive()
    }
}

/// What makes and seals index entries of one tenant.
#[derive(Debug)]
pub struct IndexKeys {
    /// The id of the key that seals, and its bucket.
    pub key: IndexKey,
    /// Seals.
    pub sealing: Zeroizing<[u8; 32]>,
    /// Makes pseudonyms.
    pub pseudonyms: Zeroizing<[u8; 32]>,
    /// Use neither after this time.
    pub seal_until: Timestamp,
}

/// What makes what stands for numbers to the whole cell on one day.
#[derive(Debug)]
pub struct AbuseKey {
    /// The key.
    pub key: Zeroizing<[u8; 32]>,
    /// Its bucket.
    pub bucket: String,
    /// Use it no longer.
    pub use_until: Timestamp,
    /// The end of the day.
    pub dies_at: Timestamp,
}

impl SubjectClient {
    /// Asks on this channel for single answers, each of which takes at most `timeout`, and on `reading` for parts of the index.
    pub fn new(channel: Channel, reading: Channel, timeout: Duration) -> Self {
        Self {
            keys: KeyServiceClient::with_interceptor(channel, TraceCalls),
            subjects: SubjectServiceClient::with_interceptor(reading, TraceCalls),
            timeout,
        }
    }

    /// How long a channel for reading may wait for an answer.
    pub const fn reading() -> Duration {
        READING
    }

    /// Keys of index entries.
    ///
    /// # Errors
    /// [`KeyError::Unavailable`], [`KeyError::Refused`]; also of a privacy of the version before, which has none.
    pub async fn index_keys(&self, tenant: &TenantId) -> Result<IndexKeys, KeyError> {
        let reply = reply()?;
        let request = CreateIndexKeyRequest { tenant: tenant.to_string(), reply_key: public(&reply) };
        let mut client = self.keys.clone();
        let answer = answered(self.timeout, client.create_index_key(request)).await?;
        let read = || {
            let keys = open(&reply, answer.sealed.as_ref()?).ok()?;
            let [sealing, pseudonyms] = keys.as_slice() else { return None };
            let key_id = answer.key_id.as_ref().try_into().ok()?;
            let key = IndexKey { key_id, tenant: tenant.clone(), bucket: answer.bucket.clone() };
            Some(IndexKeys {
                key,
                sealing: Zeroizing::new(*sealing),
                pseudonyms: Zeroizing::new(*pseudonyms),
                seal_until: from_wire_time(answer.seal_until?),
            })
        };
        read().ok_or_else(senseless)
    }

    /// The key of the day.
    ///
    /// # Errors
    /// [`KeyError::Unavailable`], [`KeyError::Refused`]; also of a privacy of the version before, which has none.
    pub async fn abuse_key(&self) -> Result<AbuseKey, KeyError> {
        let reply = reply()?;
        let request = CreateAbuseKeyRequest { reply_key: public(&reply) };
        let mut client = self.keys.clone();
        let answer = answered(self.timeout, client.create_abuse_key(request)).await?;
        let read = || {
            let keys = open(&reply, answer.sealed.as_ref()?).ok()?;
            let [key] = keys.as_slice() else { return None };
            Some(AbuseKey {
                key: Zeroizing::new(*key),
                bucket: answer.bucket.clone(),
                use_until: from_wire_time(answer.use_until?),
                dies_at: from_wire_time(answer.dies_at?),
            })
        };
        read().ok_or_else(senseless)
    }

    async fn keys_of(&self, tenant: &TenantId) -> Result<Vec<PseudonymKey>, KeyError> {
        let reply = reply()?;
        let request = ListPseudonymKeysRequest { tenant: tenant.to_string(), reply_key: public(&reply) };
        let mut client = self.subjects.clone();
        let answer = answered(self.timeout, client.list_pseudonym_keys(request)).await?;
        let mut keys = Vec::with_capacity(answer.buckets.len());
        for sealed in &answer.sealed {
            let opened = open(&reply, sealed).map_err(|_| senseless())?;
            keys.extend(opened.iter().map(|key| MacKey::from_bytes(*key)));
        }
        if keys.len() != answer.buckets.len() {
            return Err(senseless());
        }
        let pair = |(bucket, key)| PseudonymKey { bucket, key };
        Ok(answer.buckets.into_iter().zip(keys).map(pair).collect())
    }
}

impl Subjects for SubjectClient {
    fn pseudonym_keys<'a>(
        &'a self,
        tenant: &'a TenantId,
    ) -> BoxFuture<'a, Result<Vec<PseudonymKey>, KeyError>> {
        Box::pin(self.keys_of(tenant))
    }

    fn find<'a>(
        &'a self,
        tenant: &'a TenantId,
        client: &'a str,
        pseudonyms: Vec<(String, Pseudonym)>,
        from: u64,
    ) -> BoxFuture<'a, Result<FoundPart, KeyError>> {
        Box::pin(async move {
            let wire = |(bucket, pseudonym): (String, Pseudonym)| BucketPseudonym {
                bucket,
                pseudonym: Bytes::copy_from_slice(&pseudonym.0),
            };
            let request = FindSubjectRequest {
                tenant: tenant.to_string(),
                client: client.to_owned(),
                pseudonyms: pseudonyms.into_iter().map(wire).collect(),
                from,
            };
            let mut privacy = self.subjects.clone();
            let answer = answered(READING, privacy.find_subject(request)).await?;
            let message =
                |found: IndexedMessage| Some((MessageId::from_bytes(&found.message_id).ok()?, found.hour));
            let messages = answer.messages.into_iter().map(message).collect::<Option<_>>();
            let next = Some(answer.next).filter(|next| *next > 0);
            Ok(FoundPart { messages: messages.ok_or_else(senseless)?, next })
        })
    }
}

fn reply() -> Result<OpeningKey, KeyError> {
    OpeningKey::generate().map_err(|error| {
        tracing::error!(error = chain(&error), "no key for an answer can be made");
        KeyError::Unavailable
    })
}

fn public(reply: &OpeningKey) -> Bytes {
    Bytes::copy_from_slice(reply.public().as_bytes())
}

fn open(reply: &OpeningKey, sealed: &SealedKeys) -> Result<Zeroizing<Vec<[u8; 32]>>, CryptoError> {
    reply.open_keys(&sealed.encapsulated_key, &sealed.ciphertext)
}

fn senseless() -> KeyError {
    tracing::error!("privacy's answer is not what was asked");
    KeyError::Refused
}

async fn answered<T>(
    timeout: Duration,
    asking: impl Future<Output = Result<Response<T>, Status>>,
) -> Result<T, KeyError> {
    match tokio::time::timeout(timeout, asking).await {
        Ok(Ok(answer)) => Ok(answer.into_inner()),
        Ok(Err(status)) => Err(refused(&status)),
        Err(_) => Err(KeyError::Unavailable),
    }
}

fn refused(status: &Status) -> KeyError {
    match status.code() {
        Code::Unavailable
        | Code::DeadlineExceeded
        | Code::ResourceExhausted
        | Code::Cancelled
        | Code::Aborted
        | Code::Unknown
        // Of the version before.
        | Code::Unimplemented => KeyError::Unavailable,
        Code::Ok
        | Code::InvalidArgument
        | Code::NotFound
        | Code::AlreadyExists
        | Code::PermissionDenied
        | Code::FailedPrecondition
        | Code::OutOfRange
        | Code::Internal
        | Code::DataLoss
        | Code::Unauthenticated => {
            tracing::error!(code = ?status.code(), "privacy refuses what is asked of the index");
            KeyError::Refused
        }
    }
}
