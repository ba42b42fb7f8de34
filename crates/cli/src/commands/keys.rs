//! `sotto keys …`: the keys that messages hang on, seen, replaced, and by two people destroyed.

mod approvals;
mod rings;

pub(super) use rings::open;

use std::{path::PathBuf, time::Duration};

use clap::Subcommand;
use sotto_core::{Clock, Timestamp};
use sotto_proto::{
    from_wire_time,
    privacy::v1::{
        Approval, DestroyKeysRequest, KeyFacts, KeyState, ListKeysRequest, ListKeysResponse,
        RotateKeysRequest, key_admin_service_client::KeyAdminServiceClient,
    },
    to_wire_time,
};
use tonic::transport::Channel;

use self::approvals::ActFile;
use super::{channel, refused};
use crate::{CliError, Output, Tone, cell::CellDir, hsm};

/// `sotto keys …`
#[derive(Debug, Subcommand)]
pub(crate) enum Keys {
    /// List the keys of messages with state, age, use and end, and the rings of the services whose keystores are here
    List {
        /// Also those destroyed in the last so many seconds; default: a week
        #[arg(long, value_name = "SECONDS", default_value = "604800")]
        destroyed: u64,
    },
    /// Give living keys successors: what is sealed from now on hangs on them, what hangs on the old ones still opens
    Rotate {
        /// Of this class (otp, transactional, promotional, ad-invite, inbound, index, abuse); default: of all
        #[arg(long, default_value = "")]
        class: String,
    },
    /// Make the key of a person who may approve the destruction of keys
    Person {
        /// What the cell calls the person (a-z, 0-9, -)
        name: String,
        /// Where the private key goes; it is the person's alone
        #[arg(long, value_name = "FILE")]
        out: PathBuf,
    },
    /// Write down which keys are to be destroyed before their time, for two people to approve
    Propose {
        /// Names of keys, as `sotto keys list` tells them
        #[arg(required_unless_present_any = ["class", "tenant", "all"])]
        buckets: Vec<String>,
        /// Every living key of this class
        #[arg(long, conflicts_with_all = ["buckets", "all"])]
        class: Option<String>,
        /// Every living key that is this tenant's own (privacy's own_keys.tenants)
        #[arg(long, conflicts_with_all = ["buckets", "all"])]
        tenant: Option<String>,
        /// Every living key
        #[arg(long, conflicts_with = "buckets")]
        all: bool,
        /// Where the act goes
        #[arg(long, value_name = "FILE")]
        out: PathBuf,
        /// It must be carried out in so many seconds, 60 to 86400
        #[arg(long, value_name = "SECONDS", default_value = "3600", value_parser = clap::value_parser!(u64).range(60..=86_400))]
        within: u64,
    },
    /// Look at an act and sign it
    Approve {
        /// The act
        file: PathBuf,
        /// Your name, as privacy's configuration has it
        #[arg(long = "as", value_name = "NAME")]
        by: String,
        /// Your private key
        #[arg(long, value_name = "FILE")]
        key: PathBuf,
    },
    /// Destroy the keys of an act that two people signed: what hangs on them is unreadable for ever
    Destroy {
        /// The act
        file: PathBuf,
    },
}

pub(crate) async fn keys(
    dir: &CellDir,
    command: Keys,
    clock: &dyn Clock,
    output: &Output,
) -> Result<(), CliError> {
    match command {
        Keys::List { destroyed } => {
            let since = clock.now().minus(Duration::from_secs(destroyed));
            list(dir, since, clock.now(), output).await
        }
        Keys::Rotate { class } => rotate(dir, class, clock.now(), output).await,
        Keys::Person { name, out } => approvals::person(&name, &out, output),
        Keys::Propose { buckets, class, tenant, all: _, out, within } => {
            let buckets = match buckets.is_empty() {
                true => living(dir, class.as_deref(), tenant.as_deref()).await?,
                false => buckets,
            };
            let expires_at = clock.now().plus(Duration::from_secs(within));
            approvals::propose(dir, buckets, expires_at, &out, output)
        }
        Keys::Approve { file, by, key } => approvals::approve(&file, &by, &key, clock.now(), output),
        Keys::Destroy { file } => destroy(dir, &file, clock.now(), output).await,
    }
}

fn privacy(dir: &CellDir) -> Result<KeyAdminServiceClient<Channel>, CliError> {
    Ok(KeyAdminServiceClient::new(channel(dir, "privacy")?))
}

/// The living keys, those that were destroyed since, and what goes with them.
pub(super) async fn read(dir: &CellDir, destroyed_since: Timestamp) -> Result<ListKeysResponse, CliError> {
    let request = ListKeysRequest { destroyed_since: Some(to_wire_time(destroyed_since)) };
    let answer = privacy(dir)?.list_keys(request).await;
    Ok(answer.map_err(|status| refused("the keys cannot be listed", &status))?.into_inner())
}

async fn list(dir: &CellDir, since: Timestamp, now: Timestamp, output: &Output) -> Result<(), CliError> {
    if hsm::conf(dir).exists() {
        // It may begin the program anew: before anything is told.
        hsm::enter(dir)?;
    }
    let keys = read(dir, since).await?.keys;
    if keys.is_empty() {
        output.line("no message has a key: the first one makes it")?;
    }
    keys.iter().try_for_each(|key| tell(key, now, output))?;
    rings::list(dir, now, output)
}

/// Names of the living keys, of one class or of all, of one tenant that has its own or of all.
async fn living(dir: &CellDir, class: Option<&str>, tenant: Option<&str>) -> Result<Vec<String>, CliError> {
    // None was destroyed that late.
    let keys = read(dir, Timestamp::from_unix_seconds(LAST_SECOND)).await?.keys;
    let wanted = |key: &KeyFacts| {
        class.is_none_or(|class| key.bucket.split_once('/').is_some_and(|(of, _)| of == class))
            && tenant.is_none_or(|tenant| key.bucket.split_once('@').is_some_and(|(_, of)| of == tenant))
    };
    let names: Vec<_> = keys.into_iter().filter(wanted).map(|key| key.bucket).collect();
    if names.is_empty() {
        let fix = "see those there are: sotto keys list; a tenant has keys of its own if privacy's own_keys.tenants names it";
        return Err(CliError::new("no such key lives").fix(fix));
    }
    Ok(names)
}

/// The last second of the year 9999.
const LAST_SECOND: i64 = 253_402_300_799;

async fn rotate(dir: &CellDir, class: String, now: Timestamp, output: &Output) -> Result<(), CliError> {
    let answer = privacy(dir)?.rotate_keys(RotateKeysRequest { class }).await;
    let made = answer.map_err(|status| refused("the keys are not rotated", &status))?.into_inner().made;
    if made.is_empty() {
        return output.line("no such key lives: the next message makes a new one anyway");
    }
    made.iter().try_for_each(|key| tell(key, now, output))?;
    output.line("these seal from now on, within two seconds; those before open until their end")
}

async fn destroy(
    dir: &CellDir,
    file: &std::path::Path,
    now: Timestamp,
    output: &Output,
) -> Result<(), CliError> {
    let ActFile { act, approvals } = ActFile::read(file)?;
    let mut signed = Vec::new();
    for approval in &approvals {
        signed.push(Approval { by: approval.by.clone(), signature: approval.bytes()?.into() });
    }
    let answer = privacy(dir)?.destroy_keys(DestroyKeysRequest { act, approvals: signed }).await;
    let answer = answer.map_err(|status| refused("the keys are not destroyed", &status))?.into_inner();
    answer.destroyed.iter().try_for_each(|key| tell(key, now, output))?;
    output.line(
        "what hangs on them is unreadable; messages that wait with it end as expired (key_destroyed) when it is their turn",
    )
}

/// One key: name, state, age, use, what comes next.
fn tell(key: &KeyFacts, now: Timestamp, output: &Output) -> Result<(), CliError> {
    let made = key.made_at.map(from_wire_time);
    let dies = key.dies_at.map(from_wire_time);
    let gone = key.destroyed_at.map(from_wire_time);
    let rotates = key.rotates_at.map(from_wire_time);
    let text = |time: Option<Timestamp>| time.map(|time| time.to_string());
    let (state, tone) = match key.state() {
        KeyState::Current => ("current", Tone::Good),
        KeyState::Superseded => ("superseded", Tone::Plain),
        KeyState::Destroyed => ("destroyed", Tone::Faint),
        KeyState::Unspecified => ("unknown", Tone::Bad),
    };
    let end = gone.unwrap_or(now);
    let age = made.map(|made| end.since(made).as_secs()).unwrap_or_default();
    let (rotates, ends) = if gone.is_some() { (None, None) } else { (text(rotates), text(dies)) };
    // It rotates only if that is before its end.
    let next = match (&rotates, &ends) {
        (Some(at), _) => Some(("rotate", at)),
        (None, Some(at)) => Some(("destroy", at)),
        (None, None) => None,
    };
    output.json(&serde_json::json!({
        "bucket": key.bucket, "state": state, "made_at": text(made), "dies_at": text(dies),
        "destroyed_at": text(gone), "age_seconds": age, "session_keys_at_most": key.wraps_at_most,
        "generation": (key.generation > 0).then_some(key.generation),
        "next": next.map(|(act, at)| serde_json::json!({ "act": act, "at": at })),
    }))?;
    let comes = match (gone, rotates, ends) {
        (Some(at), _, _) => format!("destroyed {at}, generation {}", key.generation),
        (None, Some(at), Some(ends)) => format!("rotates {at}, dies {ends}"),
        (None, None, Some(at)) => format!("dies {at}"),
        (None, _, None) => String::new(),
    };
    let made = text(made).unwrap_or_default();
    let state = output.tone(tone, &format!("{state:10}"));
    output.line(format!(
        "{:28}  {state}  made {made}  at most {} session keys  {comes}",
        key.bucket, key.wraps_at_most
    ))
}
