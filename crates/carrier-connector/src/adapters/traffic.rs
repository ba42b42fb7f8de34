//! What operators see of carriers, and how they hold traffic back, by gRPC over mutual TLS.

use std::{path::PathBuf, sync::Arc, time::Duration};

use futures::{
    Stream, StreamExt as _,
    stream::{self, BoxStream},
};
use sotto_bus::{ControlRegister, ControlWord};
use sotto_core::{
    AccountId, Clock,
    control::{Control, Controls, Flow, Target},
    restored::{Release, Restored},
    sender::SenderId,
};
use sotto_crypto::Zeroizing;
use sotto_proto::ops::v1::{
    AccountFlow, AccountState, Answers, BindState, Hold, ListAccountsRequest, ListAccountsResponse,
    ListHoldsRequest, ListHoldsResponse, QueueState, ReleaseRestoredRequest, ReleaseRestoredResponse,
    SetAccountFlowRequest, SetAccountFlowResponse, SetStopRequest, SetStopResponse, TestAccountRequest,
    TestAccountResponse, TestMessage, TestStep, TraceAccountRequest, TraceAccountResponse,
    stop_target::Target as WireTarget,
    traffic_service_server::{TrafficService, TrafficServiceServer},
};
use sotto_runtime::{grpc::peer_service, telemetry::chain, tls::PeerService};
use sotto_smpp::Traced;
use tokio::{sync::broadcast, time::Instant};
use tonic::{Request, Response, Status};
use tonic_types::{ErrorDetails, StatusExt as _};

use super::smpp::try_host;
use crate::{
    app::{
        account::Account,
        status::{Status as AccountStatus, statuses},
        trial::Trial,
    },
    domain::submit::mark,
    ports::{Act, Queues, Witness},
};

/// The most characters of a reason.
const REASON: usize = 200;

/// The most things that there may be a word on: as many as a register is read of at a time.
const MOST_WORDS: usize = 1_000;

/// Serves `sotto.ops.v1.TrafficService`.
pub(crate) struct Traffic {
    pub(crate) replica: String,
    pub(crate) accounts: Vec<Arc<Account>>,
    pub(crate) folder: PathBuf,
    pub(crate) queues: Arc<dyn Queues>,
    pub(crate) words: ControlRegister,
    pub(crate) restored: Option<Restored>,
    pub(crate) witness: Arc<dyn Witness>,
    pub(crate) clock: Arc<dyn Clock>,
}

impl std::fmt::Debug for Traffic {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Traffic").field("replica", &self.replica).finish_non_exhaustive()
    }
}

impl Traffic {
    pub(crate) fn service(self) -> TrafficServiceServer<Self> {
        TrafficServiceServer::new(self)
    }

    fn account(&self, name: &str) -> Result<&Arc<Account>, Status> {
        let found = self.accounts.iter().find(|account| account.settings.id.as_str() == name);
        found.ok_or_else(|| wrong("account", "is not in the carriers file: list them with sotto carriers"))
    }

    /// When the cell was put back from a backup, if it was, and how it was released.
    async fn held(&self) -> Result<Option<(Restored, Option<Release>)>, Status> {
        let Some(restored) = self.restored else { return Ok(None) };
        let words = self.words.all().await.map_err(|error| unavailable(&error))?;
        let controls: Controls = words.into_iter().map(|word| word.control).collect();
        Ok(Some((restored, controls.released(&restored))))
    }

    /// Stores an operator's word and tells it to audit.
    async fn say(&self, control: Control, reason: String) -> Result<(), Status> {
        if reason.chars().count() > REASON || reason.contains(char::is_control) {
            return Err(wrong("reason", "has more than 200 characters, or control characters: shorten it"));
        }
        let known = self.words.all().await.map_err(|error| unavailable(&error))?;
        if known.len() >= MOST_WORDS && !known.iter().any(|word| same_thing(&word.control, &control)) {
            return Err(Status::resource_exhausted(
                "there are words on a thousand things: lift a stop of another one instead",
            ));
        }
        let (act, object) = match &control {
            Control::Stop { target, stopped: true } => (Act::Held, format!("{target},stopped")),
            Control::Stop { target, stopped: false } => (Act::Released, target.to_string()),
            Control::Flow { account, flow: Flow::Running } => (Act::Released, format!("carrier={account}")),
            Control::Flow { account, flow } => (Act::Held, format!("carrier={account},{}", flow.name())),
            Control::Release { restored, how } => {
                (Act::Released, format!("restored={},{}", restored.at, how.name()))
            }
        };
        let word = ControlWord { control, at: self.clock.now(), reason };
        let said = self.words.say(&word).await;
        let outcome = if said.is_ok() { "ok" } else { "not_stored" };
        self.witness.tell(act, &object, outcome);
        tracing::info!(object, outcome, "an operator's word");
        said.map_err(|error| unavailable(&error))
    }
}

fn same_thing(one: &Control, other: &Control) -> bool {
    match (one, other) {
        (Control::Stop { target: one, .. }, Control::Stop { target: other, .. }) => one == other,
        (Control::Flow { account: one, .. }, Control::Flow { account: other, .. }) => one == other,
        (Control::Release { restored: one, .. }, Control::Release { restored: other, .. }) => one == other,
        (Control::Stop { .. } | Control::Flow { .. } | Control::Release { .. }, _) => false,
    }
}

fn wrong(field: &'static str, problem: &str) -> Status {
    let details = ErrorDetails::with_bad_request_violation(field, problem);
    Status::with_error_details(tonic::Code::InvalidArgument, format!("{field} {problem}"), details)
}

fn unavailable(error: &(dyn std::error::Error + 'static)) -> Status {
    Status::unavailable(format!("{}: ask again", chain(error)))
}

fn operator<T>(request: &Request<T>) -> Result<(), Status> {
    if peer_service(request)? == PeerService::Operator {
        Ok(())
    } else {
        Err(Status::permission_denied("only the operator's certificate may ask this"))
    }
}

#[tonic::async_trait]
impl TrafficService for Traffic {
    type TraceAccountStream = BoxStream<'static, Result<TraceAccountResponse, Status>>;

    async fn trace_account(
        &self,
        request: Request<TraceAccountRequest>,
    ) -> Result<Response<Self::TraceAccountStream>, Status> {
        operator(&request)?;
        let TraceAccountRequest { account, seconds } = request.into_inner();
        if !(1..=600).contains(&seconds) {
            return Err(wrong("seconds", "must be 1 to 600"));
        }
        let account = self.account(&account)?;
        let links = account.line.links();
        if links.is_empty() {
            return Err(Status::failed_precondition("no bind is up here: see sotto carriers test"));
        }
        self.witness.tell(Act::Traced, account.settings.id.as_str(), "ok");
        let lines =
            links.into_iter().map(|(bind, link)| trace(bind, link.trace(), Arc::clone(&self.clock)).boxed());
        let end = tokio::time::sleep(Duration::from_secs(seconds.into()));
        Ok(Response::new(stream::select_all(lines).take_until(end).boxed()))
    }

    async fn list_accounts(
        &self,
        request: Request<ListAccountsRequest>,
    ) -> Result<Response<ListAccountsResponse>, Status> {
        operator(&request)?;
        let statuses =
            statuses(&self.accounts, self.queues.as_ref()).await.map_err(|error| unavailable(&error))?;
        let accounts = statuses.into_iter().map(state).collect();
        Ok(Response::new(ListAccountsResponse { replica: self.replica.clone(), accounts }))
    }

    async fn set_account_flow(
        &self,
        request: Request<SetAccountFlowRequest>,
    ) -> Result<Response<SetAccountFlowResponse>, Status> {
        operator(&request)?;
        let request = request.into_inner();
        let account = self.account(&request.account)?.settings.id.clone();
        let flow = match request.flow() {
            AccountFlow::Unspecified => return Err(wrong("flow", "must be running, paused or draining")),
            AccountFlow::Running => Flow::Running,
            AccountFlow::Paused => Flow::Paused,
            AccountFlow::Draining => Flow::Draining,
        };
        self.say(Control::Flow { account, flow }, request.reason).await?;
        Ok(Response::new(SetAccountFlowResponse {}))
    }

    async fn set_stop(&self, request: Request<SetStopRequest>) -> Result<Response<SetStopResponse>, Status> {
        operator(&request)?;
        let SetStopRequest { target, stopped, reason } = request.into_inner();
        let target = match target.and_then(|target| target.target) {
            Some(WireTarget::All(true)) => Target::All,
            Some(WireTarget::All(false)) | None => {
                return Err(wrong("target", "must be all, a tenant, a sender or an account"));
            }
            Some(WireTarget::Tenant(tenant)) => {
                Target::Tenant(tenant.parse().map_err(|_| wrong("target.tenant", "must name a tenant"))?)
            }
            Some(WireTarget::Sender(sender)) => {
                let sender =
                    SenderId::parse(&sender).map_err(|error| wrong("target.sender", &error.to_string()))?;
                Target::Sender(mark(&sender))
            }
            Some(WireTarget::Account(account)) => {
                Target::Account(self.account(&account)?.settings.id.clone())
            }
        };
        self.say(Control::Stop { target, stopped }, reason).await?;
        Ok(Response::new(SetStopResponse {}))
    }

    async fn release_restored(
        &self,
        request: Request<ReleaseRestoredRequest>,
    ) -> Result<Response<ReleaseRestoredResponse>, Status> {
        operator(&request)?;
        let ReleaseRestoredRequest { resend, reason } = request.into_inner();
        let Some((restored, None)) = self.held().await? else {
            return Err(Status::failed_precondition(
                "the cell is not held: it was not put back from a backup, or was released since",
            ));
        };
        let how = if resend { Release::Resend } else { Release::AsUnknown };
        self.say(Control::Release { restored, how }, reason).await?;
        Ok(Response::new(ReleaseRestoredResponse {}))
    }

    async fn list_holds(
        &self,
        request: Request<ListHoldsRequest>,
    ) -> Result<Response<ListHoldsResponse>, Status> {
        operator(&request)?;
        let words = self.words.all().await.map_err(|error| unavailable(&error))?;
        let mut holds: Vec<_> = words.into_iter().filter_map(hold).collect();
        if let Some((restored, None)) = self.held().await? {
            holds.push(Hold {
                what: "restored".to_owned(),
                how: "held".to_owned(),
                since_ms: restored.at.unix_millis(),
                reason: "put back from a backup".to_owned(),
            });
        }
        Ok(Response::new(ListHoldsResponse { holds }))
    }

    async fn test_account(
        &self,
        request: Request<TestAccountRequest>,
    ) -> Result<Response<TestAccountResponse>, Status> {
        operator(&request)?;
        let TestAccountRequest { account, message } = request.into_inner();
        let account = self.account(&account)?;
        let mut steps = Vec::new();
        for host in &account.settings.hosts {
            let begun = Instant::now();
            let tried = try_host(&account.settings, &self.folder, host).await;
            let outcome = tried.map_or_else(|error| chain(&error).to_string(), |()| "ok".to_owned());
            steps.push(step(format!("connection to {}:{}", host.name, host.port), outcome, begun));
        }
        let links = account.line.links();
        if links.is_empty() {
            let outcome = account.trouble().unwrap_or_else(|| "no bind is up here".to_owned());
            steps.push(step("bind".to_owned(), outcome, Instant::now()));
        }
        for (number, link) in links {
            let begun = Instant::now();
            let outcome = if link.enquire().await { "ok" } else { "no answer to enquire_link" };
            steps.push(step(format!("sign of life on bind {number}"), outcome.to_owned(), begun));
        }
        if let Some(TestMessage { to, from }) = message {
            let begun = Instant::now();
            let trial = Trial { to: Zeroizing::new(to), from: Zeroizing::new(from) };
            let tried = account.try_message(trial).await;
            let outcome = if tried.is_ok() { "ok" } else { "not_taken" };
            self.witness.tell(Act::Tried, account.settings.id.as_str(), outcome);
            let outcome = tried.map_or_else(|error| error.to_string(), |()| "ok".to_owned());
            steps.push(step("test message".to_owned(), outcome, begun));
        }
        Ok(Response::new(TestAccountResponse { steps }))
    }
}

/// The PDUs of one bind, until it ends.
fn trace(
    bind: u16,
    seen: broadcast::Receiver<Traced>,
    clock: Arc<dyn Clock>,
) -> impl Stream<Item = Result<TraceAccountResponse, Status>> + Send {
    stream::unfold((seen, clock, 0), move |(mut seen, clock, mut missed)| async move {
        loop {
            match seen.recv().await {
                Ok(Traced { outgoing, header, octets, fields }) => {
                    let line = TraceAccountResponse {
                        at_ms: clock.now().unix_millis(),
                        bind: bind.into(),
                        outgoing,
                        command: header.id.to_string().to_ascii_lowercase(),
                        status: header.status.to_string(),
                        sequence: header.sequence,
                        octets: count(octets),
                        fields,
                        missed,
                    };
                    return Some((Ok(line), (seen, clock, 0)));
                }
                Err(broadcast::error::RecvError::Lagged(more)) => missed += more,
                Err(broadcast::error::RecvError::Closed) => return None,
            }
        }
    })
}

fn step(what: String, outcome: String, begun: Instant) -> TestStep {
    TestStep { what, outcome, took_ms: millis(begun.elapsed()) }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn count(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

fn state(status: AccountStatus) -> AccountState {
    AccountState {
        account: status.account.to_string(),
        bound_by: status.bound_by.to_owned(),
        binds: status
            .binds
            .into_iter()
            .map(|(number, used, window)| BindState {
                number: number.into(),
                window_used: count(used),
                window: count(window),
            })
            .collect(),
        binds_contracted: status.contracted.into(),
        rate_used: count(status.used),
        rate_allowed: count(status.allowed),
        rate_contracted: status.tps.into(),
        paused_for_ms: millis(status.paused_for),
        queues: status
            .queues
            .into_iter()
            .map(|(lane, batches, oldest)| QueueState {
                lane: lane.to_string(),
                batches,
                oldest_ms: millis(oldest),
            })
            .collect(),
        answers: status.answers.into_iter().map(|(kind, parts)| Answers { kind, parts }).collect(),
    }
}

fn hold(word: ControlWord) -> Option<Hold> {
    let ControlWord { control, at, reason } = word;
    let carrier = |account: &AccountId| Target::Account(account.clone()).to_string();
    let (what, how) = match &control {
        Control::Stop { stopped: false, .. }
        | Control::Flow { flow: Flow::Running, .. }
        | Control::Release { .. } => return None,
        Control::Stop { target, stopped: true } => (target.to_string(), "stopped"),
        Control::Flow { account, flow } => (carrier(account), flow.name()),
    };
    Some(Hold { what, how: how.to_owned(), since_ms: at.unix_millis(), reason })
}
