//! Opening, writing, and what the carrier says.

use std::sync::Arc;

use futures::future::join_all;
use sotto_core::{
    WorkItem,
    control::SenderMark,
    delivery::{Event, EventKind, RejectCause},
    restored::Trust,
    work::AttemptEnd,
};
use sotto_crypto::{
    AeadKey,
    envelope::{self, Binding},
};
use sotto_runtime::{failpoint, telemetry::chain};
use sotto_smpp::{COctets, LateResponses, Link, NotSentReason, PendingResponse, Response, Sm, SubmitError};

use super::{
    account::{Account, ConcludeError, Conclusion},
    batch::{Job, unsent},
    line::Place,
};
use crate::{
    adapters::ledger::Ended,
    domain::{
        carrier_id::CarrierId,
        claim::{Claim, PartEnd},
        doubt::{Mark, Open},
        receipt::{About, Span, Submitted},
        settle::settle,
        status::Refusal,
        submit::{Content, ContentError, SCHEMA},
    },
};

/// Why an item cannot be written to any carrier.
#[derive(Debug, thiserror::Error)]
enum UnusableError {
    #[error("the envelope does not open")]
    Open(#[source] envelope::OpenError),
    #[error("the content cannot be submitted")]
    Content(#[source] ContentError),
    #[error("it is stopped by an operator")]
    Stopped,
}

impl UnusableError {
    const fn cause(&self) -> RejectCause {
        match self {
            Self::Open(_) => RejectCause::Unopenable,
            // Never asked: what is stopped is not rejected.
            Self::Content(_) | Self::Stopped => RejectCause::Content,
        }
    }
}

impl Account {
    /// Sends one item whose intent is recorded, and waits for the answers. What follows is still to be concluded.
    pub(super) async fn send(
        self: &Arc<Self>,
        link: &Link<About>,
        job: Job,
        key: Arc<AeadKey>,
    ) -> (usize, Conclusion) {
        let Job { index, delivery, place } = job;
        let item = &delivery.item;
        let (ends, settled) = match self.open(item, &key) {
            Ok(messages) => {
                drop(key);
                let source = messages.first().map(|(_, message)| message.source.clone());
                let (ends, taken) = self.write(link, item, place, messages).await;
                if let Some(source) = source {
                    self.ask_later(&source, &taken).await;
                }
                let settled = settle(item, &self.settings.id, &ends, self.now());
                (ends, settled)
            }
            // Another account may be able to write it.
            Err(UnusableError::Content(ContentError::Alphabet | ContentError::Parts)) => {
                let ends = unsent(item, AttemptEnd::NotAllowed);
                let settled = settle(item, &self.settings.id, &ends, self.now());
                (ends, settled)
            }
            // Stopped since it was claimed: it comes back, and is held then.
            Err(UnusableError::Stopped) => {
                let ends = unsent(item, AttemptEnd::LinkDown);
                let settled = settle(item, &self.settings.id, &ends, self.now());
                (ends, settled)
            }
            Err(error) => {
                tracing::error!(account = %self.settings.id, message = %item.facts.message,
                    error = chain(&error), "a message cannot be submitted");
                self.rejected(item, error.cause())
            }
        };
        let ends = self.ended(item, &ends, self.now());
        (index, Conclusion::of(delivery, ends, settled))
    }

    /// Opens an item and writes its messages. Everything in clear is wiped when it is dropped.
    fn open(&self, item: &WorkItem, key: &AeadKey) -> Result<Vec<(Span, Box<Sm>)>, UnusableError> {
        let content = self.content(item, key)?;
        if self.is_stopped(item, content.sender()) {
            return Err(UnusableError::Stopped);
        }
        content.messages(item, &self.settings).map_err(UnusableError::Content)
    }

    /// Whether operators stopped what this item is, wherever it goes.
    fn is_stopped(&self, item: &WorkItem, sender: Option<SenderMark>) -> bool {
        if self.trust(item, self.now()) == Trust::Held {
            return true;
        }
        let heard = self.shared.heard.borrow();
        let tenant = &item.facts.tenant;
        sender
            .map_or_else(|| heard.controls.stop_tenant(tenant), |sender| heard.controls.stop(tenant, &sender))
    }

    /// Whether an item stays where it is. It is opened only if the stop of a sender may concern it.
    pub(super) fn is_held(&self, item: &WorkItem, key: &AeadKey) -> bool {
        let stops_senders = self.shared.heard.borrow().controls.stops_senders();
        let content = if stops_senders { self.content(item, key).ok() } else { None };
        self.is_stopped(item, content.and_then(|content| content.sender()))
    }

    fn content(&self, item: &WorkItem, key: &AeadKey) -> Result<Content, UnusableError> {
        let facts = &item.facts;
        let binding = Binding {
            cell: self.shared.cell.as_str(),
            tenant: facts.tenant.as_str(),
            class: facts.class.name(),
            message_id: facts.message.as_bytes(),
            schema: SCHEMA,
        };
        let opened = envelope::open(key, &binding, &item.envelope.0).map_err(UnusableError::Open)?;
        Content::read(&opened).map_err(UnusableError::Content)
    }

    /// Writes the parts, consecutively, and waits for their answers. Tells how each ended, and the ids of those that the
    /// carrier took.
    async fn write(
        &self,
        link: &Link<About>,
        item: &WorkItem,
        place: Option<Place>,
        messages: Vec<(Span, Box<Sm>)>,
    ) -> (Vec<(u8, PartEnd)>, Vec<(CarrierId, COctets)>) {
        let not_written = PartEnd::Unsent { end: AttemptEnd::LinkDown };
        let Some(mut place) = place else {
            let parts = messages.iter().flat_map(|(span, _)| span.parts());
            return (parts.map(|part| (part, not_written.clone())).collect(), Vec::new());
        };
        let (submits, to) = self.submits(item, &messages);
        if let Err(error) = self.note_open(&submits, to).await {
            tracing::warn!(account = %self.settings.id, error = chain(&error), "a submit is not noted: it is not written");
            return (unsent(item, AttemptEnd::LinkDown), Vec::new());
        }
        let mut ends = Vec::new();
        let mut pending = Vec::new();
        {
            // Who still needs places in the window must not hold up those who have theirs.
            let _turn =
                if place.is_complete() { Some(self.line.turn(item.facts.lane()).await) } else { None };
            for ((_, message), submit) in messages.into_iter().zip(submits) {
                match self.put(link, &mut place, message, submit, to).await {
                    Ok(response) => pending.push((submit, response)),
                    Err(end) => ends.push((submit, end)),
                }
            }
        }
        drop(place);
        failpoint("carrier.written");
        let written_at = tokio::time::Instant::now();
        let answers = join_all(pending.into_iter().map(async |(submit, response)| {
            let answer = response.await;
            if answer.is_ok() {
                self.metrics.answered_in.took(written_at.elapsed());
            }
            (submit, answer)
        }))
        .await;
        let taken = answers.iter().filter_map(|(_, answer)| self.taken(answer.as_ref().ok()?)).collect();
        ends.extend(answers.into_iter().map(|(submit, answer)| (submit, self.end(answer))));
        ends.sort_unstable_by_key(|(submit, _)| submit.span);
        self.close(to, ends.iter().map(|(submit, end)| (*submit, end))).await;
        let of_part =
            |(submit, end): (Open, PartEnd)| submit.span.parts().map(move |part| (part, end.clone()));
        let ends: Vec<_> = ends.into_iter().flat_map(of_part).collect();
        for (_, end) in &ends {
            self.tally.note(end);
            self.metrics.parts.of(end.into()).one();
        }
        (ends, taken)
    }

    /// The carrier's id of a part that it took: ours, and as it wrote it.
    fn taken(&self, response: &Response) -> Option<(CarrierId, COctets)> {
        let raw = response.message_id.clone().filter(|_| response.status.is_ok())?;
        Some((CarrierId::new(self.settings.message_id_in_response, raw.as_str()?)?, raw))
    }

    async fn put(
        &self,
        link: &Link<About>,
        place: &mut Place,
        message: Box<Sm>,
        submit: Open,
        to: Option<Mark>,
    ) -> Result<PendingResponse, PartEnd> {
        let down = PartEnd::Unsent { end: AttemptEnd::LinkDown };
        // One submit takes its turn in the rate for each of its parts, and one place in the window: those of the parts before
        // the last are given back at once.
        for _ in submit.span.first..submit.span.last {
            drop(place.next().await.ok_or_else(|| down.clone())?);
        }
        let permit = place.next().await.ok_or(down)?;
        link.send(permit, message, About::Submit(submit, to)).map_err(|refused| {
            let end = match refused.reason {
                NotSentReason::Closing => AttemptEnd::LinkDown,
                NotSentReason::Direction | NotSentReason::Encode(_) => {
                    tracing::error!(account = %self.settings.id, message = %submit.message,
                        reason = %refused.reason, "a part cannot be sent on this bind");
                    AttemptEnd::NotAllowed
                }
            };
            PartEnd::Unsent { end }
        })
    }

    /// What an answer, or its absence, says of a part.
    fn end(&self, answer: Result<Response, SubmitError>) -> PartEnd {
        match answer {
            Ok(response) => self.answered(&response),
            Err(SubmitError::NotWritten(_)) => PartEnd::Unsent { end: AttemptEnd::LinkDown },
            Err(SubmitError::TimedOut | SubmitError::LinkLost(_)) => PartEnd::NoResponse,
        }
    }

    fn answered(&self, response: &Response) -> PartEnd {
        if !response.status.is_ok() {
            if Refusal::of(response.status) == Refusal::Throttled {
                self.slow_down();
            }
            return PartEnd::Refused { status: response.status.0 };
        }
        let id = response.message_id.as_ref().and_then(|id| id.as_str());
        let id = id.and_then(|id| CarrierId::new(self.settings.message_id_in_response, id));
        if id.is_none() {
            tracing::warn!(account = %self.settings.id, "the carrier gave no usable message id: no receipt will match");
        }
        PartEnd::Submitted { carrier_id: id.map(|id| id.as_str().to_owned()).unwrap_or_default() }
    }

    /// The carrier asked to slow down.
    pub(super) fn slow_down(&self) {
        // Pauses are of whole seconds.
        let pause = self.line.throttled().as_secs();
        self.metrics.slowed.add(usize::try_from(pause).unwrap_or(usize::MAX));
    }

    /// Takes answers to parts that were given up: they lift the doubt. Nothing is sent again because of them.
    pub(crate) async fn late(&self, mut late: LateResponses<About>) {
        while let Some(answer) = late.recv().await {
            let About::Submit(submit, to) = answer.token else { continue };
            self.metrics.late.one();
            let end = self.answered(&answer.response);
            let parts: Vec<_> = submit.parts().collect();
            match self.late_end(&parts, &end).await {
                Ok(()) => self.close(to, [(submit, &end)]).await,
                Err(error) => {
                    tracing::warn!(account = %self.settings.id, message = %submit.message, error = chain(&error),
                        "a late answer is not recorded: its part stays in doubt");
                }
            }
        }
    }

    async fn late_end(&self, parts: &[Submitted], end: &PartEnd) -> Result<(), ConcludeError> {
        let (mut ends, mut events) = (Vec::new(), Vec::new());
        for part in parts {
            let (attempt, account, number) = (part.attempt, self.settings.id.clone(), part.part);
            let kind = match end {
                PartEnd::Submitted { carrier_id } => {
                    EventKind::Submitted { attempt, account, part: number, carrier_id: carrier_id.clone() }
                }
                // Its sealed content went with its item, and doubt is never sent again (INV-5).
                PartEnd::Refused { status } => {
                    EventKind::Refused { attempt, account, part: number, status: *status, retried: false }
                }
                PartEnd::NoResponse | PartEnd::Unsent { .. } => return Ok(()),
            };
            ends.push(Ended { part: *part, end: end.clone(), keep: self.settings.receipt_wait });
            events.push(Event { message: part.message, at: self.now(), kind });
        }
        let token = Claim::late(&self.settings.id);
        self.conclude_answers(&token, vec![Conclusion { ends, events, back: None }]).await
    }
}
