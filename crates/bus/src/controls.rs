//! What operators hold back, as everybody concerned hears it: a [`Register`] of their words.

use std::{sync::Arc, time::Duration};

use futures::StreamExt as _;
use prost::Message as _;
use sotto_core::{
    AccountId, Timestamp,
    control::{Control, Controls, Flow, Target},
    restored::{Release, Restored},
};
use sotto_proto::pipeline::v1::{self, ControlFlow};
use tokio::{sync::watch, time::Instant};

use crate::{Bus, Entry, ReadError, Register, RegisterError};

/// How often the words are read. With the time that a word takes to be written it stays far below the five seconds within
/// which a stop must be effective.
pub const CONTROLS_EVERY: Duration = Duration::from_secs(1);

const PATTERN: &str = "control.*.*";

/// One word, and who heard it why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ControlWord {
    /// The word.
    pub control: Control,
    /// When it was said.
    pub at: Timestamp,
    /// Why, in the operator's words.
    pub reason: String,
}

/// The words at one moment.
#[derive(Clone, Debug, Default)]
pub struct Heard {
    /// What is held back.
    pub controls: Arc<Controls>,
    /// When this was read; never at the start. Who must not act on what is old counts from here.
    pub at: Option<Instant>,
}

impl Heard {
    /// Whether it was read within this time.
    pub fn is_fresh(&self, now: Instant, within: Duration) -> bool {
        self.at.is_some_and(|at| now.saturating_duration_since(at) < within)
    }
}

/// The register of the operators' words.
#[derive(Clone, Debug)]
pub struct ControlRegister(Register);

impl ControlRegister {
    /// The register of this cell.
    pub fn new(bus: &Bus) -> Self {
        Self(Register::new(bus, "CONTROL"))
    }

    /// Every word, in no order.
    ///
    /// # Errors
    /// [`ReadError`]
    pub async fn all(&self) -> Result<Vec<ControlWord>, ReadError> {
        Ok(self.0.all(PATTERN).await?.into_iter().filter_map(read).collect())
    }

    /// Says a word, whatever was said before. When it returns, the word is stored; everybody hears it within
    /// [`CONTROLS_EVERY`] and the time of one question.
    ///
    /// # Errors
    /// [`RegisterError`]: it is not known to be said.
    pub async fn say(&self, word: &ControlWord) -> Result<(), RegisterError> {
        let (stopped, flow) = match &word.control {
            Control::Stop { stopped, .. } => (*stopped, ControlFlow::Unspecified),
            Control::Flow { flow, .. } => (false, wire_flow(*flow)),
            Control::Release { .. } => (false, ControlFlow::Unspecified),
        };
        let record = v1::ControlRecord {
            stopped,
            flow: flow.into(),
            at_ms: word.at.unix_millis(),
            reason: word.reason.clone(),
            resend: matches!(word.control, Control::Release { how: Release::Resend, .. }),
        };
        self.0.put(&key(&word.control), record.encode_to_vec().into()).await.map(drop)
    }

    /// What is held back, read again and again by the future, for ever.
    pub fn follow(&self) -> (watch::Receiver<Heard>, impl Future<Output = ()> + Send + use<>) {
        let (told, heard) = watch::channel(Heard::default());
        let mut reads = Box::pin(self.0.watch(PATTERN, CONTROLS_EVERY));
        let follow = async move {
            while let Some(read_now) = reads.next().await {
                match read_now {
                    Ok(entries) => {
                        let words = entries.into_iter().filter_map(read);
                        let controls = Arc::new(words.map(|word| word.control).collect());
                        told.send_replace(Heard { controls, at: Some(Instant::now()) });
                    }
                    Err(error) => tracing::debug!(%error, "the operators' words could not be read"),
                }
            }
        };
        (heard, follow)
    }
}

const fn wire_flow(flow: Flow) -> ControlFlow {
    match flow {
        Flow::Running => ControlFlow::Running,
        Flow::Paused => ControlFlow::Paused,
        Flow::Draining => ControlFlow::Draining,
    }
}

fn key(control: &Control) -> String {
    match control {
        Control::Stop { target: Target::All, .. } => "control.stop-all.all".to_owned(),
        Control::Stop { target: Target::Tenant(tenant), .. } => format!("control.stop-tenant.{tenant}"),
        Control::Stop { target: Target::Sender(mark), .. } => format!("control.stop-sender.{mark}"),
        Control::Stop { target: Target::Account(account), .. } => format!("control.stop-account.{account}"),
        Control::Flow { account, .. } => format!("control.flow.{account}"),
        Control::Release { restored, .. } => format!("control.release.{}", restored.at.unix_millis()),
    }
}

/// A word that cannot be read is told and not heard: whoever said it is of another version.
fn read(entry: Entry) -> Option<ControlWord> {
    let word = parse(&entry);
    if word.is_none() {
        tracing::error!(
            key = entry.key,
            "an operator's word cannot be read: say it again with a tool of this version"
        );
    }
    word
}

fn parse(entry: &Entry) -> Option<ControlWord> {
    let record = v1::ControlRecord::decode(entry.payload.clone()).ok()?;
    let (what, name) = entry.key.strip_prefix("control.")?.split_once('.')?;
    let stop = |target| Control::Stop { target, stopped: record.stopped };
    let control = match what {
        "stop-all" if name == "all" => stop(Target::All),
        "stop-tenant" => stop(Target::Tenant(name.parse().ok()?)),
        "stop-sender" => stop(Target::Sender(name.parse().ok()?)),
        "stop-account" => stop(Target::Account(name.parse().ok()?)),
        "flow" => Control::Flow { account: name.parse::<AccountId>().ok()?, flow: flow(record.flow())? },
        "release" => Control::Release {
            restored: Restored { at: Timestamp::from_unix_millis(name.parse().ok()?) },
            how: if record.resend { Release::Resend } else { Release::AsUnknown },
        },
        _ => return None,
    };
    Some(ControlWord { control, at: Timestamp::from_unix_millis(record.at_ms), reason: record.reason })
}

const fn flow(flow: ControlFlow) -> Option<Flow> {
    match flow {
        ControlFlow::Unspecified => None,
        ControlFlow::Running => Some(Flow::Running),
        ControlFlow::Paused => Some(Flow::Paused),
        ControlFlow::Draining => Some(Flow::Draining),
    }
}
