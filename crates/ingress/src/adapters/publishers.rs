//! Clients over the broker: sealed requests, opened here, and the same checks, ids and errors as over gRPC.
//!
//! A request is refused or answered with a result for each message, never left without an answer. What is under way is
//! bounded as a whole and for each tenant; a request above that is refused, so that none waits in memory.

use std::{fmt, future::Future, sync::Arc, time::Duration};

use bytes::Bytes;
use futures::future::join_all;
use prost::Message as _;
use sotto_bus::{Request, Requests};
use sotto_core::{CellId, Clock, Sensitive, TenantId};
use sotto_crypto::{
    CryptoError, Zeroizing,
    hpke::{Sealed, SubmissionBinding},
};
use sotto_keystore::{KeyKind, Keystore, KeystoreError};
use sotto_proto::{
    MAX_SUBMIT_BYTES, MAX_SUBMIT_MESSAGES, decode_closed,
    message::v1::{
        SealedSubmission, SendError, SendStreamRequest, SendStreamResponse, Submission, SubmitRequest,
        SubmitResponse, SubmitResults, send_stream_response::Result as Answer, submit_request::Form,
        submit_response::Result as Outcome,
    },
};
use sotto_runtime::{Tasks, telemetry::chain};
use tokio::time::{Instant, timeout_at};
use tonic::Code;

use super::{
    audit::AuditTrail,
    grpc::{Load, SEND, asked, refusal, response},
    room::{Room, Rooms},
    tokens::Tokens,
};
use crate::{
    app::intake::Intake,
    domain::{
        request::{Asked, Violation, key_missing},
        token::{Caller, TokenError},
        waiver::Waivers,
    },
    error::Refusal,
};

/// The ring of the keystore that opens what clients seal.
pub const INTAKE_RING: &str = "intake";

/// How long after the close requests may still come that the broker had on their way.
const DRAIN: Duration = Duration::from_secs(2);

/// What the adapter is made of.
#[derive(Debug)]
pub struct Parts {
    /// The cell.
    pub cell: CellId,
    /// Accepts messages.
    pub intake: Intake,
    /// Says who sends.
    pub tokens: Tokens,
    /// Opens requests.
    pub keystore: Arc<dyn Keystore>,
    /// The places of messages, shared with gRPC.
    pub load: Load,
    /// Requests under way, and of one tenant.
    pub rooms: Rooms,
    /// Who may ask in clear.
    pub waivers: Waivers,
    /// Until when that holds.
    pub clock: Arc<dyn Clock>,
    /// Is told what was refused.
    pub audit: AuditTrail,
    /// Where what was begun comes to its end.
    pub tasks: Tasks,
}

/// Answers clients over the broker. Clones share everything.
#[derive(Clone)]
pub struct Publishers(Arc<Parts>);

impl fmt::Debug for Publishers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Publishers").field("cell", &self.0.cell).finish_non_exhaustive()
    }
}

impl Publishers {
    /// On these parts.
    pub fn new(parts: Parts) -> Self {
        Self(Arc::new(parts))
    }

    /// Answers until `over`, then what had come by then, and returns when all of it is answered.
    pub async fn run(&self, mut requests: Requests, over: impl Future<Output = ()>) {
        tokio::pin!(over);
        loop {
            tokio::select! {
                biased;
                () = &mut over => break,
                request = requests.next() => match request {
                    Some(request) => self.take(request).await,
                    None => return,
                },
            }
        }
        requests.close().await;
        // A broker that is away never says that this was the last one.
        let last = Instant::now() + DRAIN;
        while let Ok(Some(request)) = timeout_at(last, requests.next()).await {
            self.take(request).await;
        }
        self.0.rooms.empty().await;
    }

    /// Begins to answer a request, or refuses it. Never waits for anything but the broker's connection.
    async fn take(&self, request: Request) {
        let Request { tenant, payload, answer } = request;
        if !answer.is_wanted() {
            // Nobody could be told what became of it.
            self.0.audit.refused("no_inbox");
            return;
        }
        let Some(room) = self.0.rooms.try_take(&tenant) else {
            self.0.audit.refused("overloaded");
            answer.send(encoded(Err(refusal::error(&self.0.load.overloaded())))).await;
            return;
        };
        let this = self.clone();
        self.0.tasks.spawn_background("submission", async move {
            let outcome = this.results(&tenant, &payload, room).await;
            answer.send(encoded(outcome)).await;
        });
    }

    /// A result for each message, or why there is none.
    async fn results(
        &self,
        tenant: &TenantId,
        payload: &[u8],
        room: Room,
    ) -> Result<Vec<SendStreamResponse>, SendError> {
        let refused = |why: Refused| {
            self.0.audit.refused(why.name());
            why.error()
        };
        let submission = self.submission(tenant, payload).map_err(refused)?;
        let Submission { access_token, messages } = submission;
        let token = Sensitive::new(access_token);
        // Into memory that is wiped before anything is refused.
        let messages: Vec<_> = messages.into_iter().map(Message::from).collect();
        let caller = self.caller(tenant, &token).await.map_err(refused)?;
        if messages.is_empty() || messages.len() > MAX_SUBMIT_MESSAGES {
            return Err(refused(Refused::Count));
        }
        let results = join_all(messages.into_iter().map(|message| self.send(&caller, message))).await;
        drop(room);
        Ok(results)
    }

    /// What a request says, if it may say it so.
    fn submission(&self, tenant: &TenantId, payload: &[u8]) -> Result<Submission, Refused> {
        if payload.len() > MAX_SUBMIT_BYTES {
            return Err(Refused::TooLarge);
        }
        let request: SubmitRequest = decode_closed(payload).map_err(|error| Refused::Schema(error.into()))?;
        match request.form {
            None => Err(Refused::Empty),
            Some(Form::Sealed(sealed)) => {
                let opened = self.open(tenant, sealed)?;
                decode_closed(&opened).map_err(|error| Refused::Schema(error.into()))
            }
            Some(Form::Clear(submission)) => {
                if self.0.waivers.allow(tenant, self.0.clock.now()) {
                    Ok(submission)
                } else {
                    Err(Refused::Clear)
                }
            }
        }
    }

    fn open(&self, tenant: &TenantId, sealed: SealedSubmission) -> Result<Zeroizing<Vec<u8>>, Refused> {
        let SealedSubmission { key_id, encapsulated_key, ciphertext } = sealed;
        let keystore = self.0.keystore.as_ref();
        // Also the next and the previous ones: clients learn of a rotation one by one.
        let known = keystore.keys(INTAKE_RING).map_err(internal)?;
        if !known.iter().any(|key| key.id == key_id && key.kind == KeyKind::X25519) {
            return Err(Refused::UnknownKey);
        }
        let encapsulated_key = encapsulated_key.as_ref().try_into().map_err(|_| Refused::NotOpenable)?;
        let binding = SubmissionBinding { cell: self.0.cell.as_str(), tenant: tenant.as_str() };
        let sealed = Sealed { encapsulated_key, ciphertext: ciphertext.to_vec() };
        keystore.open_submission(&key_id, &binding, &sealed).map_err(|error| {
            let refused = matches!(error, KeystoreError::Crypto(CryptoError::Refused));
            if refused { Refused::NotOpenable } else { internal(error) }
        })
    }

    async fn caller(&self, tenant: &TenantId, token: &Sensitive<String>) -> Result<Arc<Caller>, Refused> {
        if token.expose().is_empty() {
            return Err(Refused::Token(TokenError::Missing));
        }
        let caller = self.0.tokens.verify(token.expose()).await.map_err(Refused::Token)?;
        if !caller.may(SEND) {
            return Err(Refused::Scope);
        }
        if caller.tenant != *tenant {
            return Err(Refused::Tenant);
        }
        Ok(caller)
    }

    async fn send(&self, caller: &Caller, message: Message) -> SendStreamResponse {
        let Message { reference, asked } = message;
        let sent = if asked.key.expose().is_empty() {
            Err(Refusal::Invalid(vec![key_missing()]))
        } else {
            match self.0.load.try_take(asked.class) {
                Ok(place) => self.0.intake.send(caller, asked, place).await,
                Err(refused) => Err(refused),
            }
        };
        let result = match sent {
            Ok(accepted) => Answer::Accepted(response(accepted)),
            Err(refused) => Answer::Error(refusal::error(&refused)),
        };
        SendStreamResponse { reference, result: Some(result) }
    }
}

/// One message of a request.
struct Message {
    reference: u64,
    asked: Asked,
}

impl From<SendStreamRequest> for Message {
    fn from(request: SendStreamRequest) -> Self {
        let SendStreamRequest { reference, message, idempotency_key } = request;
        Self { reference, asked: asked(message, idempotency_key) }
    }
}

fn encoded(outcome: Result<Vec<SendStreamResponse>, SendError>) -> Bytes {
    let result = match outcome {
        Ok(results) => Outcome::Results(SubmitResults { results }),
        Err(error) => Outcome::Error(error),
    };
    SubmitResponse { result: Some(result) }.encode_to_vec().into()
}

fn internal(error: KeystoreError) -> Refused {
    tracing::error!(error = chain(&error), "what clients seal cannot be opened");
    Refused::Internal
}

/// Why a request as a whole is refused. Never a value of it.
#[derive(Debug)]
enum Refused {
    TooLarge,
    Schema(SendError),
    Empty,
    Clear,
    UnknownKey,
    NotOpenable,
    Token(TokenError),
    Scope,
    Tenant,
    Count,
    Internal,
}

impl Refused {
    /// Its stable name, for audit.
    const fn name(&self) -> &'static str {
        match self {
            Self::TooLarge => "too_large",
            Self::Schema(_) => "malformed",
            Self::Empty => "empty",
            Self::Clear => "clear",
            Self::UnknownKey => "unknown_intake_key",
            Self::NotOpenable => "not_openable",
            Self::Token(error) => error.name(),
            Self::Scope => "insufficient_scope",
            Self::Tenant => "other_tenant",
            Self::Count => "message_count",
            Self::Internal => "internal",
        }
    }

    fn error(self) -> SendError {
        let field = |field: &'static str, reason, description: String| {
            refusal::error(&Refusal::Invalid(vec![Violation { field, reason, description }]))
        };
        match self {
            Self::TooLarge => {
                field("request", "TOO_LARGE", format!("a request has at most {MAX_SUBMIT_BYTES} bytes: send fewer messages"))
            }
            Self::Schema(error) => error,
            Self::Empty => field("form", "FORM_MISSING", "seal a submission and put it into `sealed`".to_owned()),
            Self::Clear => plain(
                Code::PermissionDenied,
                "requests in clear are refused: seal them to the cell's intake key (docs/formats/submission.md)",
            ),
            Self::UnknownKey => field(
                "sealed.key_id",
                "INTAKE_KEY_UNKNOWN",
                "this cell opens nothing with that key: take its present one, nats/intake-key.json".to_owned(),
            ),
            Self::NotOpenable => field(
                "sealed.ciphertext",
                "NOT_OPENABLE",
                "it does not open: sealed with another info (cell, tenant of the subject, key id), or altered".to_owned(),
            ),
            Self::Token(TokenError::Missing) => {
                plain(Code::Unauthenticated, "an access token is required: Submission.access_token")
            }
            Self::Token(TokenError::NoKeys) => refusal::error(&refusal::no_keys()),
            Self::Token(error) => plain(Code::Unauthenticated, error.to_string()),
            Self::Scope => plain(Code::PermissionDenied, format!("the token lacks the scope {SEND}")),
            Self::Tenant => plain(Code::PermissionDenied, "the token is of another tenant than the subject"),
            Self::Count => {
                field("messages", "MESSAGE_COUNT", format!("a request has 1 to {MAX_SUBMIT_MESSAGES} messages"))
            }
            Self::Internal => refusal::error(&Refusal::Internal),
        }
    }
}

fn plain(code: Code, message: impl Into<String>) -> SendError {
    SendError { code: code.into(), message: message.into(), ..SendError::default() }
}
