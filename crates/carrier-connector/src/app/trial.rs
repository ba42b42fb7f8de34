//! A message that an operator has sent by an account to a handset of their own.

use std::fmt;

use bytes::Bytes;
use sotto_core::{
    Lane, MessageClass, MessageId, TenantId, WorkItem,
    carriers::Barrier,
    facts::Facts,
    number::{E164, NumberError},
    sender::{SenderError, SenderId},
    text,
    work::Envelope,
};
use sotto_crypto::Zeroizing;
use sotto_smpp::CommandStatus;
use tokio::time::timeout;

use super::{account::Account, line::Admission};
use crate::domain::{
    receipt::About,
    submit::{Content, ContentError, mark},
};

/// Whom it goes to and from whom. Wiped when dropped, never printed.
pub(crate) struct Trial {
    pub(crate) to: Zeroizing<String>,
    pub(crate) from: Zeroizing<String>,
}

impl fmt::Debug for Trial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Trial([REDACTED])")
    }
}

/// Why it was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum TrialError {
    #[error("the recipient: {0}")]
    Recipient(NumberError),
    #[error("the sender: {0}")]
    Sender(SenderError),
    #[error("the account may not carry it: {}", .0.name())]
    Barrier(Barrier),
    #[error("this traffic is stopped: see sotto stop --list")]
    Stopped,
    #[error("nothing can be sent now: no bind is up, or the account is paused or throttled")]
    NotNow,
    #[error("it cannot be written: {0}")]
    Content(ContentError),
    #[error("it was not written")]
    NotWritten,
    #[error("the carrier did not answer: whether it took it is not known")]
    NoAnswer,
    #[error("the carrier refused it with {0}")]
    Refused(CommandStatus),
}

/// What it says, in every alphabet.
const TEXT: &str = "Sotto: a test message. Nothing needs to be done.";

impl Account {
    /// Sends it, at its turn and within the rate, and waits for the carrier's answer. It asks for no receipt: it is in no
    /// ledger, and its receipt would belong to nothing.
    pub(crate) async fn try_message(&self, trial: Trial) -> Result<(), TrialError> {
        let now = self.now();
        let to = E164::parse(&trial.to).map_err(TrialError::Recipient)?;
        let sender = SenderId::parse(&trial.from).map_err(TrialError::Sender)?;
        if let Some(barrier) = self.settings.barrier_to(to.country(), now) {
            return Err(TrialError::Barrier(barrier));
        }
        let tenant = TenantId::unowned();
        if self.shared.heard.borrow().controls.stop(&tenant, &mark(&sender)) {
            return Err(TrialError::Stopped);
        }
        let text = text::count(TEXT).map_err(|_| TrialError::Content(ContentError::Text))?;
        let facts = Facts {
            message: MessageId::from_keyed_hash([0; 16]),
            tenant,
            class: MessageClass::Transactional,
            country: to.country(),
            operator_range: to.operator_range(),
            encoding: text.encoding,
            parts: text.parts,
            units: text.units,
            accepted_at: now,
            expires_at: now.plus(self.settings.response_timeout * 10),
            content_mac: None,
            send_at: None,
        };
        let content = Content::new(to.digits(), &trial.from, TEXT);
        let item = WorkItem::accepted(facts, Envelope(Bytes::new()));
        let mut messages = content.messages(&item, &self.settings).map_err(TrialError::Content)?;
        let (_, mut message) = messages.pop().ok_or(TrialError::Content(ContentError::Text))?;
        message.registered_delivery = 0;

        let admission =
            timeout(self.settings.response_timeout, self.line.admit(Lane::Transactional, vec![1]));
        let Ok(Admission::Send(link, mut places)) = admission.await else { return Err(TrialError::NotNow) };
        let mut place = places.pop().ok_or(TrialError::NotNow)?;
        let permit = place.next().await.ok_or(TrialError::NotNow)?;
        drop(place);
        let pending = link.send(permit, message, About::Trial).map_err(|_| TrialError::NotWritten)?;
        match pending.await {
            Ok(answer) if answer.status.is_ok() => Ok(()),
            Ok(answer) => Err(TrialError::Refused(answer.status)),
            Err(_) => Err(TrialError::NoAnswer),
        }
    }
}
