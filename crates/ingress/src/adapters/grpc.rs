//! The public gRPC service: tokens, scopes, and the translation of requests and answers.

mod door;
mod find;
mod list;
mod load;
mod ops;
pub(super) mod refusal;
mod stream;
mod view;
mod watch;

use std::{str::FromStr as _, sync::Arc, time::Duration};

use http::{HeaderMap, header::AUTHORIZATION};
use sotto_core::{MessageClass, MessageId, TenantId, Timestamp};
use sotto_proto::message::v1::{
    self as public, CancelMessageRequest, CancelMessageResponse, FindMessagesRequest, FindMessagesResponse,
    GetMessageRequest, GetMessageResponse, ListMessagesRequest, ListMessagesResponse, OutboundMessage,
    SendRequest, SendResponse, SendStreamRequest, WatchEventsRequest,
    message_service_server::{MessageService, MessageServiceServer},
};
use sotto_proto::to_wire_time;
use sotto_runtime::{Context, Stop, Tasks};
use tokio::{sync::Semaphore, time::Instant};
use tonic::{Request, Response, Status, Streaming};

pub use door::Door;
pub use load::Load;
pub use ops::Operations;

use crate::{
    adapters::{
        audit::AuditTrail,
        room::{Room, Rooms},
        tokens::Tokens,
    },
    app::{
        cancel::Canceller,
        intake::{Accepted, Intake, Seen, Valid},
        list::Lister,
        subjects::Finder,
        watch::Source,
    },
    domain::{
        pace::{LocalPace, Pace},
        request::Asked,
        token::{Caller, TokenError},
    },
    error::Refusal,
};

/// The largest request, in bytes: ten parts of text have at most 6 KiB, also with every accent a character of its own.
const MAX_REQUEST: usize = 16 * 1024;

pub(super) const SEND: &str = "message:send";
const READ: &str = "message:read";
const SUBJECTS: &str = "subject:read";

/// What one process carries.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Messages under way.
    pub in_flight: usize,
    /// Questions under way.
    pub reads_in_flight: usize,
    /// The pace of a tenant's questions.
    pub reading: Pace,
    /// Results outstanding on one stream.
    pub outstanding: usize,
    /// Streams at a time.
    pub streams: usize,
    /// Streams of one tenant.
    pub streams_of_tenant: usize,
    /// How long results may wait to be read, and a single request may take to come.
    pub stall: Duration,
    /// How long a stream may be silent.
    pub idle: Duration,
}

/// What the service can do.
#[derive(Clone, Debug)]
pub struct Acts {
    /// Takes messages and finds them.
    pub intake: Intake,
    /// Cancels them.
    pub canceller: Canceller,
    /// Lists them.
    pub lister: Lister,
    /// Tells what happens to them.
    pub events: Source,
    /// Finds them by numbers.
    pub finder: Finder,
}

/// The public service. Clones share everything.
#[derive(Clone, Debug)]
pub struct Messages(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    acts: Acts,
    tokens: Tokens,
    audit: AuditTrail,
    bounds: Bounds,
    load: Load,
    /// Single calls, from before they are decoded.
    calls: Semaphore,
    reads: Semaphore,
    reading: std::sync::Mutex<LocalPace>,
    started: Instant,
    streams: Rooms,
    tasks: Tasks,
    stop: Stop,
}

impl Messages {
    /// The service on these parts; `load` holds the places of messages.
    pub fn new(
        acts: Acts,
        tokens: Tokens,
        audit: AuditTrail,
        load: Load,
        bounds: Bounds,
        context: &Context,
    ) -> Self {
        Self(Arc::new(Inner {
            acts,
            tokens,
            audit,
            bounds,
            load,
            calls: Semaphore::new(bounds.in_flight.saturating_add(bounds.reads_in_flight)),
            reads: Semaphore::new(bounds.reads_in_flight),
            reading: std::sync::Mutex::new(LocalPace::new(bounds.reading)),
            started: Instant::now(),
            streams: Rooms::new(bounds.streams, bounds.streams_of_tenant),
            tasks: context.tasks.clone(),
            stop: context.stop.clone(),
        }))
    }

    /// As tonic serves it.
    pub fn service(&self) -> Door {
        let server = MessageServiceServer::new(self.clone()).max_decoding_message_size(MAX_REQUEST);
        Door::new(self.clone(), server)
    }

    fn now(&self) -> Timestamp {
        self.0.acts.lister.clock.now()
    }

    /// Who calls, if a token for `scope` says so.
    async fn authorise(&self, headers: &HeaderMap, scope: &'static str) -> Result<Arc<Caller>, Status> {
        let denied = |error: TokenError| {
            self.0.audit.denied(error.name());
            refusal::unauthenticated(error)
        };
        let token = bearer(headers).ok_or_else(|| denied(TokenError::Missing))?;
        let caller = self.0.tokens.verify(token).await.map_err(|error| {
            let status = denied(error);
            let home = if error.is_foreign() { self.0.tokens.home_of(token) } else { None };
            home.map_or(status, refusal::elsewhere)
        })?;
        if !caller.may(scope) {
            self.0.audit.denied("insufficient_scope");
            return Err(refusal::insufficient_scope(scope));
        }
        Ok(caller)
    }

    /// One more question of this tenant.
    fn pace_reading(&self, tenant: &TenantId) -> Result<(), Refusal> {
        let mut reading = self.0.reading.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        reading.take(tenant, self.0.started.elapsed()).map_err(|after| Refusal::TooFast { after })
    }

    /// Room for one more stream of this tenant.
    fn room(&self, tenant: &TenantId) -> Result<Room, Refusal> {
        self.0.streams.try_take(tenant).ok_or_else(|| self.0.load.overloaded())
    }
}

/// The token of `authorization: Bearer <token>` (RFC 6750 §2.1); the scheme in any case (RFC 9110 §11.1).
fn bearer(headers: &HeaderMap) -> Option<&str> {
    let mut given = headers.get_all(AUTHORIZATION).iter();
    let (scheme, token) = given.next()?.to_str().ok()?.split_once(' ')?;
    let only = given.next().is_none();
    (only && scheme.eq_ignore_ascii_case("bearer")).then_some(token.trim_start_matches(' '))
}

/// Who the door let in.
fn caller<T>(request: &Request<T>) -> Result<Arc<Caller>, Status> {
    let caller = request.extensions().get::<Arc<Caller>>().cloned();
    caller.ok_or_else(|| Status::internal("nobody was let in"))
}

/// Takes a request apart; its strings move into memory that is wiped.
pub(super) fn asked(message: Option<OutboundMessage>, key: String) -> Asked {
    let Some(message) = message else { return Asked { key: key.into(), ..Asked::default() } };
    let class = public::MessageClass::try_from(message.class).ok();
    Asked {
        present: true,
        class: class.and_then(|class| MessageClass::try_from(class).ok()),
        to: message.to.into(),
        from: message.from.into(),
        text: message.text.into(),
        transliterate: message.transliterate,
        validity: message.validity.map(|validity| (validity.seconds, validity.nanos)),
        send_at: message.send_at.map(|at| (at.seconds, at.nanos)),
        key: key.into(),
    }
}

pub(super) fn response(accepted: Accepted) -> SendResponse {
    SendResponse {
        message_id: accepted.id.to_string(),
        encoding: public::Encoding::from(accepted.encoding).into(),
        parts: u32::from(accepted.parts),
        units: accepted.units,
        accepted_at: Some(to_wire_time(accepted.accepted_at)),
        expires_at: Some(to_wire_time(accepted.expires_at)),
        repeated: accepted.repeated,
        transliterated: accepted.transliterated,
        send_at: accepted.send_at.map(to_wire_time),
        route: None,
    }
}

fn message_id(text: &str) -> Result<MessageId, Status> {
    MessageId::from_str(text)
        .map_err(|error| refusal::invalid("message_id", "MESSAGE_ID_INVALID", error.to_string()))
}

/// What a message that was only checked would cost.
fn preview(valid: Valid) -> SendResponse {
    SendResponse {
        encoding: public::Encoding::from(valid.count.encoding).into(),
        parts: u32::from(valid.count.parts),
        units: valid.count.units,
        expires_at: Some(to_wire_time(valid.expires_at)),
        transliterated: valid.transliterated,
        send_at: valid.send_at.map(to_wire_time),
        route: valid.route.as_ref().map(view::outlook),
        ..SendResponse::default()
    }
}

#[tonic::async_trait]
impl MessageService for Messages {
    async fn send(&self, request: Request<SendRequest>) -> Result<Response<SendResponse>, Status> {
        let caller = caller(&request)?;
        let SendRequest { message, idempotency_key, validate_only } = request.into_inner();
        let asked = asked(message, idempotency_key);
        // The place is held until the message is accepted or refused, also when the client hangs up before.
        let place = self.0.load.try_take(asked.class).map_err(|refused| refusal::status(&refused))?;
        if validate_only {
            let valid = self.0.acts.intake.validate(&caller, asked).await;
            return valid.map(preview).map(Response::new).map_err(|refused| refusal::status(&refused));
        }
        match self.0.acts.intake.send(&caller, asked, place).await {
            Ok(accepted) => Ok(Response::new(response(accepted))),
            Err(refused) => Err(refusal::status(&refused)),
        }
    }

    type SendStreamStream = stream::Results;

    async fn send_stream(
        &self,
        request: Request<Streaming<SendStreamRequest>>,
    ) -> Result<Response<Self::SendStreamStream>, Status> {
        let caller = caller(&request)?;
        let room = self.room(&caller.tenant).map_err(|refused| refusal::status(&refused))?;
        Ok(Response::new(stream::start(self, caller, request.into_inner(), room)))
    }

    type WatchEventsStream = watch::Events;

    async fn watch_events(
        &self,
        request: Request<WatchEventsRequest>,
    ) -> Result<Response<Self::WatchEventsStream>, Status> {
        let caller = caller(&request)?;
        self.pace_reading(&caller.tenant).map_err(|refused| refusal::status(&refused))?;
        watch::start(self, caller, request.into_inner()).await.map(Response::new)
    }

    async fn get_message(
        &self,
        request: Request<GetMessageRequest>,
    ) -> Result<Response<GetMessageResponse>, Status> {
        let caller = caller(&request)?;
        let id = message_id(&request.into_inner().message_id)?;
        self.pace_reading(&caller.tenant).map_err(|refused| refusal::status(&refused))?;
        let _under_way = self.0.reads.try_acquire().map_err(|_| refusal::status(&Refusal::Overloaded))?;
        match self.0.acts.intake.find(&caller, &id).await {
            Ok(Seen::Known(journal)) => {
                view::response(&journal, self.now()).map(Response::new).ok_or_else(refusal::not_yet)
            }
            Ok(Seen::NotYet) => Err(refusal::not_yet()),
            Ok(Seen::Unknown) => Err(Status::not_found("no message of this tenant has this id")),
            Err(error) => Err(refusal::unreadable(error)),
        }
    }

    async fn list_messages(
        &self,
        request: Request<ListMessagesRequest>,
    ) -> Result<Response<ListMessagesResponse>, Status> {
        let caller = caller(&request)?;
        let list::Asked { filter, after, size } = list::asked(request.into_inner())?;
        self.pace_reading(&caller.tenant).map_err(|refused| refusal::status(&refused))?;
        let _under_way = self.0.reads.try_acquire().map_err(|_| refusal::status(&Refusal::Overloaded))?;
        let page = self.0.acts.lister.page(&caller.tenant, &filter, after, size).await;
        page.map(|page| Response::new(list::response(&page, self.now()))).map_err(refusal::unreadable)
    }

    async fn find_messages(
        &self,
        request: Request<FindMessagesRequest>,
    ) -> Result<Response<FindMessagesResponse>, Status> {
        let caller = caller(&request)?;
        let find::Asked { number, from } = find::asked(request.into_inner())?;
        self.pace_reading(&caller.tenant).map_err(|refused| refusal::status(&refused))?;
        let _under_way = self.0.reads.try_acquire().map_err(|_| refusal::status(&Refusal::Overloaded))?;
        let found = self.0.acts.finder.find(&caller, &number, from).await;
        found.map(|found| Response::new(find::response(found))).map_err(refusal::unsearchable)
    }

    async fn cancel_message(
        &self,
        request: Request<CancelMessageRequest>,
    ) -> Result<Response<CancelMessageResponse>, Status> {
        let caller = caller(&request)?;
        let id = message_id(&request.into_inner().message_id)?;
        self.pace_reading(&caller.tenant).map_err(|refused| refusal::status(&refused))?;
        let _under_way = self.0.reads.try_acquire().map_err(|_| refusal::status(&Refusal::Overloaded))?;
        let cancelled_at = self
            .0
            .acts
            .canceller
            .cancel(&caller, &id)
            .await
            .map_err(|error| refusal::not_cancelled(&id, error))?;
        Ok(Response::new(CancelMessageResponse {
            message_id: id.to_string(),
            cancelled_at: Some(to_wire_time(cancelled_at)),
        }))
    }
}
