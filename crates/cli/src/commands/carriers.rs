//! `sotto carriers` and `sotto stop`: what carriers do, and holding traffic back.

use sotto_core::{AccountId, Timestamp};
use sotto_proto::ops::v1::{
    AccountFlow, AccountState, ListAccountsRequest, ListHoldsRequest, SetAccountFlowRequest, SetStopRequest,
    StopTarget, TestAccountRequest, TestMessage, TraceAccountRequest, stop_target::Target,
    traffic_service_client::TrafficServiceClient,
};
use tonic::transport::Channel;

use super::{
    channel_at, channel_to, refused,
    send::{content, standard_input},
};
use crate::{CliError, Output, Tone, cell::CellDir};

fn client(dir: &CellDir) -> Result<TrafficServiceClient<Channel>, CliError> {
    Ok(TrafficServiceClient::new(channel_to(dir, "carrier", "grpc")?))
}

/// What bounds an account, for people.
fn explained(bound_by: &str) -> &'static str {
    match bound_by {
        "restored" => "held since the cell was put back from a backup: nothing goes out (sotto release)",
        "stopped" => "stopped by an operator: messages wait (sotto stop --list)",
        "unheard" => "the operators' words cannot be read from the broker: nothing goes out",
        "paused" => "paused by an operator: messages go to other accounts",
        "draining" => "draining: messages go to other accounts, binds end",
        "redis" => "Redis cannot be relied on: nothing goes out",
        "privacy" => "privacy does not answer: nothing goes out",
        "no_bind" => "no bind is up",
        "elsewhere" => "another replica has the binds",
        "throttled" => "the carrier asked to slow down",
        "rate" => "the rate of the contract",
        "window" => "the window: the carrier owes answers",
        "nothing" => "nothing: it has room",
        _ => "something that this tool does not know",
    }
}

/// Whether traffic flows as it should.
fn is_well(bound_by: &str) -> bool {
    matches!(bound_by, "rate" | "window" | "nothing" | "elsewhere")
}

/// `sotto carriers`
pub(crate) async fn list(dir: &CellDir, output: &Output) -> Result<(), CliError> {
    let failed = |status: tonic::Status| refused("the connector did not tell", &status);
    let told = client(dir)?.list_accounts(ListAccountsRequest {}).await.map_err(failed)?.into_inner();
    for account in &told.accounts {
        output.json(&as_json(&told.replica, account))?;
        tell(account, output)?;
    }
    Ok(())
}

/// What bounds each account at the replica at this address.
pub(crate) async fn bounds(dir: &CellDir, address: &str) -> Result<Vec<String>, CliError> {
    let mut client = TrafficServiceClient::new(channel_at(dir, "carrier", address)?);
    let failed = |status: tonic::Status| refused("the connector did not tell", &status);
    let told = client.list_accounts(ListAccountsRequest {}).await.map_err(failed)?.into_inner();
    Ok(told.accounts.into_iter().map(|account| account.bound_by).collect())
}

fn as_json(replica: &str, account: &AccountState) -> serde_json::Value {
    let answers: serde_json::Map<String, serde_json::Value> =
        account.answers.iter().map(|answers| (answers.kind.clone(), answers.parts.into())).collect();
    serde_json::json!({
        "replica": replica,
        "account": account.account,
        "bound_by": account.bound_by,
        "binds": account.binds.iter().map(|bind| serde_json::json!({
            "number": bind.number, "window_used": bind.window_used, "window": bind.window,
        })).collect::<Vec<_>>(),
        "binds_contracted": account.binds_contracted,
        "rate_used": account.rate_used,
        "rate_allowed": account.rate_allowed,
        "rate_contracted": account.rate_contracted,
        "paused_for_ms": account.paused_for_ms,
        "queues": account.queues.iter().map(|queue| serde_json::json!({
            "lane": queue.lane, "batches": queue.batches, "oldest_ms": queue.oldest_ms,
        })).collect::<Vec<_>>(),
        "answers": answers,
    })
}

fn tell(account: &AccountState, output: &Output) -> Result<(), CliError> {
    let tone = if is_well(&account.bound_by) { Tone::Good } else { Tone::Bad };
    output.line(format!(
        "{}  {}",
        output.tone(Tone::Strong, &account.account),
        output.tone(tone, explained(&account.bound_by))
    ))?;
    let windows: Vec<String> =
        account.binds.iter().map(|bind| format!("{}/{}", bind.window_used, bind.window)).collect();
    output.line(format!(
        "    binds {} of {}, windows in use {}",
        account.binds.len(),
        account.binds_contracted,
        if windows.is_empty() { "-".to_owned() } else { windows.join(" ") }
    ))?;
    output.line(format!(
        "    {} parts in the last second, {} allowed now, {} in the contract",
        account.rate_used, account.rate_allowed, account.rate_contracted
    ))?;
    if account.paused_for_ms > 0 {
        output.line(format!("    pauses for {} ms more", account.paused_for_ms))?;
    }
    for queue in account.queues.iter().filter(|queue| queue.batches > 0) {
        let seconds = queue.oldest_ms / 1_000;
        output.line(format!(
            "    {} waiting: {} batches, the oldest accepted {seconds} s ago",
            queue.lane, queue.batches
        ))?;
    }
    if !account.answers.is_empty() {
        let answers: Vec<String> =
            account.answers.iter().map(|answers| format!("{} {}", answers.kind, answers.parts)).collect();
        output.line(format!("    answers: {}", answers.join(", ")))?;
    }
    Ok(())
}

/// `sotto carriers pause | resume | drain`
pub(crate) async fn set_flow(
    dir: &CellDir,
    account: &AccountId,
    flow: AccountFlow,
    reason: String,
    output: &Output,
) -> Result<(), CliError> {
    let request = SetAccountFlowRequest { account: account.to_string(), flow: flow.into(), reason };
    let failed = |status: tonic::Status| refused("the account is run as before", &status);
    client(dir)?.set_account_flow(request).await.map_err(failed)?;
    let word = match flow {
        AccountFlow::Unspecified | AccountFlow::Running => "running",
        AccountFlow::Paused => "paused",
        AccountFlow::Draining => "draining",
    };
    output.json(&serde_json::json!({ "account": account.as_str(), "flow": word }))?;
    output.line(format!("{account} is {word}: every connector heeds it within five seconds"))
}

/// `sotto carriers test`
pub(crate) async fn test(
    dir: &CellDir,
    account: &AccountId,
    message: Option<(String, String)>,
    output: &Output,
) -> Result<(), CliError> {
    let message = message.map(|(to, from)| {
        let (to, _) = content(to, String::new(), standard_input)?;
        Ok(TestMessage { to, from })
    });
    let request = TestAccountRequest { account: account.to_string(), message: message.transpose()? };
    let failed = |status: tonic::Status| refused("the account was not tried", &status);
    let steps = client(dir)?.test_account(request).await.map_err(failed)?.into_inner().steps;
    let mut well = true;
    for step in &steps {
        let good = step.outcome == "ok";
        well &= good;
        output.json(
            &serde_json::json!({ "what": step.what, "outcome": step.outcome, "took_ms": step.took_ms }),
        )?;
        let tone = if good { Tone::Good } else { Tone::Bad };
        output.line(format!("{}: {} ({} ms)", step.what, output.tone(tone, &step.outcome), step.took_ms))?;
    }
    if well {
        Ok(())
    } else {
        Err(CliError::new(format!("{account} is not well")).fix("see docs/CARRIERS.md, the first table"))
    }
}

/// `sotto carriers trace`
pub(crate) async fn trace(
    dir: &CellDir,
    account: &AccountId,
    seconds: u32,
    output: &Output,
) -> Result<(), CliError> {
    let failed = |status: tonic::Status| refused("there is no trace", &status);
    let request = TraceAccountRequest { account: account.to_string(), seconds };
    let mut lines = client(dir)?.trace_account(request).await.map_err(failed)?.into_inner();
    while let Some(line) = lines.message().await.map_err(failed)? {
        let at = Timestamp::from_unix_millis(line.at_ms).to_string();
        output.json(&serde_json::json!({
            "at": at, "bind": line.bind, "outgoing": line.outgoing, "command": line.command,
            "status": line.status, "sequence": line.sequence, "octets": line.octets, "fields": line.fields,
            "missed": line.missed,
        }))?;
        if line.missed > 0 {
            output.line(output.tone(Tone::Bad, &format!("{} PDUs were missed", line.missed)))?;
        }
        let way = if line.outgoing { "->" } else { "<-" };
        output.line(format!(
            "{at}  {} {way} {}  {}  sequence {}  {} octets  {}",
            line.bind,
            output.tone(Tone::Strong, &line.command),
            line.status,
            line.sequence,
            line.octets,
            output.tone(Tone::Faint, &line.fields)
        ))?;
    }
    Ok(())
}

/// What `sotto stop` names.
#[derive(Clone, Debug)]
pub(crate) enum Stopped {
    /// Everything.
    All,
    /// A tenant's messages.
    Tenant(String),
    /// Those with a sender.
    Sender(String),
    /// What goes to an account.
    Carrier(String),
}

impl Stopped {
    const fn kind(&self) -> &'static str {
        match self {
            Self::All => "everything",
            Self::Tenant(_) => "the tenant",
            Self::Sender(_) => "the sender",
            Self::Carrier(_) => "the carrier account",
        }
    }

    fn target(self) -> StopTarget {
        let target = match self {
            Self::All => Target::All(true),
            Self::Tenant(tenant) => Target::Tenant(tenant),
            Self::Sender(sender) => Target::Sender(sender),
            Self::Carrier(account) => Target::Account(account),
        };
        StopTarget { target: Some(target) }
    }
}

/// `sotto stop --all | --tenant | --sender | --carrier [--lift]`
pub(crate) async fn stop(
    dir: &CellDir,
    what: Stopped,
    lift: bool,
    reason: String,
    output: &Output,
) -> Result<(), CliError> {
    let kind = what.kind();
    let request = SetStopRequest { target: Some(what.target()), stopped: !lift, reason };
    let failed = |status: tonic::Status| refused("nothing was changed", &status);
    client(dir)?.set_stop(request).await.map_err(failed)?;
    output.json(&serde_json::json!({ "stopped": !lift }))?;
    let is = if lift { "is not stopped any more" } else { "is stopped" };
    output.line(format!(
        "{kind} {is}: effective within five seconds; what is with a carrier cannot be called back"
    ))
}

/// `sotto stop --list`
pub(crate) async fn holds(dir: &CellDir, output: &Output) -> Result<(), CliError> {
    let failed = |status: tonic::Status| refused("the connector did not tell", &status);
    let holds = client(dir)?.list_holds(ListHoldsRequest {}).await.map_err(failed)?.into_inner().holds;
    for hold in &holds {
        let since = Timestamp::from_unix_millis(hold.since_ms).to_string();
        output.json(&serde_json::json!({
            "what": hold.what, "how": hold.how, "since": since, "reason": hold.reason,
        }))?;
        output.line(format!(
            "{}  {} since {since}  {}",
            hold.what,
            output.tone(Tone::Bad, &hold.how),
            hold.reason
        ))?;
    }
    if holds.is_empty() {
        output.line(output.tone(Tone::Good, "nothing is held back"))?;
    }
    Ok(())
}
