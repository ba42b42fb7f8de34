//! `sotto`: the tool for people.
//!
//! It makes a cell ([`init`]), runs one on a single machine ([`up`]), and asks a running cell: send, show, prove, check.
//! It never writes the configuration or state of a service: what it changes, it asks the owning service to change.
//! Results go to standard output (JSON with `--json`), errors to standard error with what to do about them.

mod args;
mod bench;
mod cell;
mod commands;
mod credentials;
mod error;
mod hsm;
mod http;
mod init;
mod output;
mod redis;
mod up;

use std::process::ExitCode;

use clap::Parser as _;
use sotto_core::{Clock, SystemClock};
use sotto_proto::ops::v1::AccountFlow;

use crate::{
    args::{
        Args, Audit, Carriers, Client, ClientNats, Command, Flow, IntakeKey, Ledger, Message, Owner,
        Quarantine, Subject,
    },
    cell::Layout,
    init::NewCell,
    up::UpOptions,
};
pub use crate::{
    cell::{CellDir, CellFile, Running},
    error::CliError,
    output::{Output, Tone},
};

/// Runs the command line. Exit codes: 0 done; 1 it went wrong; 2 the command line is wrong.
pub fn main() -> ExitCode {
    let args = Args::parse();
    let output = Output::new(args.json, args.no_colour);
    sotto_runtime::tls::install_provider();
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            output.error(&CliError::caused_by("the program cannot start", &error));
            return ExitCode::FAILURE;
        }
    };
    match runtime.block_on(run(args, &output)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            output.error(&error);
            ExitCode::FAILURE
        }
    }
}

async fn run(args: Args, output: &Output) -> Result<(), CliError> {
    let dir = CellDir::new(args.cell);
    let clock: &dyn Clock = &SystemClock;
    match args.command {
        Command::Init { id, shards, replicas, hosts, issuer, containers: Some(folder), domain, hsm } => {
            let new =
                NewCell { id, shards, replicas, hosts, issuer, layout: Layout::Containers, domain, hsm };
            commands::containers::prepare(&dir, &new, &folder, clock, output)
        }
        Command::Init { id, shards, replicas, hosts, issuer, containers: None, domain, hsm } => {
            let new = NewCell { id, shards, replicas, hosts, issuer, layout: Layout::Machine, domain, hsm };
            init::init(&dir, &new, clock)?;
            output.json(&serde_json::json!({ "cell": dir.root(), "id": new.id, "shards": new.shards }))?;
            output.line(format!("cell {} made in {}", new.id, dir.root().display()))?;
            let never = if new.hsm { "hsm/" } else { "keystore/buckets.sks" };
            output.line(format!("keep ca/ca.key and secrets/ safe; {never} must never be backed up"))?;
            output.line(format!("next: sotto up --cell {}", dir.root().display()))
        }
        Command::Provision { carriers } => commands::provision::provision(&dir, carriers, output).await,
        Command::Up {
            carriers,
            listen,
            token_listen,
            nats_listen,
            programs,
            simulator_tps,
            longest_pause,
        } => {
            let options = UpOptions {
                carriers,
                listen,
                token_listen,
                nats_listen,
                programs,
                simulator_tps,
                longest_pause,
            };
            up::up(&dir, &options, output).await
        }
        Command::Backup { folder, secrets } => {
            commands::backup::backup(&dir, &folder, secrets.as_deref(), clock, output)
        }
        Command::Restore { folder: Some(folder), secrets, .. } => {
            commands::backup::restore(&dir, &folder, secrets.as_deref(), clock, output)
        }
        Command::Restore { folder: None, .. } => commands::backup::restore_in_place(&dir, clock, output),
        Command::Release { resend, reason } => commands::backup::release(&dir, resend, reason, output).await,
        Command::Owner(Owner::Claim) => commands::owner::claim(&dir, output).await,
        Command::Client(Client::Create(new)) => commands::client::create(&dir, new, clock, output).await,
        Command::Client(Client::List) => commands::client::list(&dir, clock, output).await,
        Command::Client(Client::Disable { client_id }) => {
            commands::client::disable(&dir, client_id, clock, output).await
        }
        Command::Client(Client::Nats(ClientNats::Add { name })) => {
            commands::nats::add(&dir, &name, clock, output).await
        }
        Command::Client(Client::Nats(ClientNats::Remove { name })) => {
            commands::nats::remove(&dir, &name, output)
        }
        Command::Send(message) => commands::send::send(&dir, message, clock, output).await,
        Command::IntakeKey(IntakeKey::List) => commands::intake_key::list(&dir, output),
        Command::IntakeKey(IntakeKey::Rotate) => commands::intake_key::rotate(&dir, clock, output).await,
        Command::IntakeKey(IntakeKey::Retire { key_id }) => {
            commands::intake_key::retire(&dir, &key_id, output)
        }
        Command::NatsSend(message) => Box::pin(commands::nats_send::send(&dir, message, clock, output)).await,
        Command::Message(Message::Show { message_id, client, wait }) => {
            commands::message::show(&dir, &client, &message_id, wait, clock, output).await
        }
        Command::Message(Message::List(wanted)) => {
            Box::pin(commands::list::list(&dir, wanted, clock, output)).await
        }
        Command::Message(Message::Cancel { message_id, client }) => {
            commands::message::cancel(&dir, &client, &message_id, clock, output).await
        }
        Command::Watch { client, after, message } => {
            Box::pin(commands::watch::watch(&dir, &client, after, message, clock, output)).await
        }
        Command::Subject(Subject::Find { client, file }) => {
            Box::pin(commands::subject::find(&dir, &client, file, clock, output)).await
        }
        Command::Ledger(Ledger::Check) => commands::ledger::check(&dir, output).await,
        Command::Rebuild => commands::rebuild::rebuild(&dir, output).await,
        Command::Audit(Audit::Prove { event_sequence, wait }) => {
            commands::audit::prove(&dir, event_sequence, wait, output).await
        }
        Command::Audit(Audit::Act { action, actor, object, wait }) => {
            let wanted = commands::audit::Wanted { action, actor, object };
            commands::audit::act(&dir, &wanted, wait, output).await
        }
        Command::Audit(Audit::Verify { log, key, checkpoint }) => {
            commands::audit::verify(&dir, log, key, checkpoint, output)
        }
        Command::Keys(asked) => Box::pin(commands::keys::keys(&dir, asked, clock, output)).await,
        Command::Retention(asked) => {
            Box::pin(commands::retention::retention(&dir, asked, clock, output)).await
        }
        Command::Quarantine(Quarantine::List) => commands::quarantine::list(&dir, output).await,
        Command::Quarantine(Quarantine::Show { number }) => {
            commands::quarantine::show(&dir, number, output).await
        }
        Command::Top(wanted) => commands::top::top(&dir, wanted, output).await,
        Command::Carriers { command: None } => commands::carriers::list(&dir, output).await,
        Command::Carriers { command: Some(Carriers::Test { account, to, from }) } => {
            commands::carriers::test(&dir, &account, to.zip(from), output).await
        }
        Command::Carriers { command: Some(Carriers::Trace { account, seconds }) } => {
            commands::carriers::trace(&dir, &account, seconds, output).await
        }
        Command::Carriers { command: Some(Carriers::Pause(Flow { account, reason })) } => {
            commands::carriers::set_flow(&dir, &account, AccountFlow::Paused, reason, output).await
        }
        Command::Carriers { command: Some(Carriers::Resume(Flow { account, reason })) } => {
            commands::carriers::set_flow(&dir, &account, AccountFlow::Running, reason, output).await
        }
        Command::Carriers { command: Some(Carriers::Drain(Flow { account, reason })) } => {
            commands::carriers::set_flow(&dir, &account, AccountFlow::Draining, reason, output).await
        }
        Command::Stop(stop) => match stop.what() {
            Some(what) => commands::carriers::stop(&dir, what, stop.lift, stop.reason, output).await,
            None => commands::carriers::holds(&dir, output).await,
        },
        Command::Simulator(asked) => commands::simulator::simulator(&dir, asked, output).await,
        Command::Bench(asked) => Box::pin(bench::bench(asked, output)).await,
        Command::Doctor => commands::doctor::doctor(&dir, clock, output).await,
    }
}
