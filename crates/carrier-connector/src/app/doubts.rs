//! Submits without an answer, and the receipts that speak of them under ids that are not known.

use sotto_core::WorkItem;
use sotto_proto::LogEvent;
use sotto_runtime::telemetry::chain;
use sotto_smpp::Sm;

use super::account::Account;
use crate::{
    adapters::ledger::{LedgerError, Match},
    domain::{
        carrier_id::CarrierId,
        claim::PartEnd,
        doubt::{self, Mark, Open, Ways},
        receipt::{Said, Span, Submitted},
    },
};

/// What a receipt says besides its id: its recipient, and our reference.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Clue {
    to: Option<Mark>,
    reference: Option<u16>,
}

/// A receipt that found its part without its id.
pub(super) struct Found {
    /// Its place among those asked.
    place: usize,
    to: Mark,
    submit: Open,
}

impl Account {
    fn ways(&self) -> Ways {
        let settings = &self.settings;
        let (reference, recipient) = (settings.user_message_reference, settings.match_by_recipient);
        Ways { reference, recipient, receipt_wait: settings.receipt_wait }
    }

    /// What is about to be submitted, and whom it goes to, where receipts may have to find it by that.
    pub(super) fn submits(&self, item: &WorkItem, messages: &[(Span, Box<Sm>)]) -> (Vec<Open>, Option<Mark>) {
        let (message, attempt, at) = (item.facts.message, item.attempt, self.now());
        let submit = |span| Open { message, attempt, span, reference: doubt::reference(&message, span), at };
        let to =
            messages.first().filter(|_| self.ways().any()).and_then(|(_, sm)| self.mark(&sm.destination));
        (messages.iter().map(|(span, _)| submit(*span)).collect(), to)
    }

    fn mark(&self, address: &sotto_smpp::Address) -> Option<Mark> {
        Mark::of(&self.shared.recipient_key, address.value.as_bytes())
    }

    /// What a receipt says besides its id. Its source is whom the message went to (SMPP 3.4 §5.2.8).
    pub(super) fn clue(&self, sm: &Sm) -> Clue {
        if !self.ways().any() {
            return Clue::default();
        }
        Clue { to: self.mark(&sm.source), reference: sm.tlvs.user_message_reference() }
    }

    /// Notes submits before they are written. Where one that is not noted could make another the only one to its recipient, it
    /// is an error if that does not succeed.
    pub(super) async fn note_open(&self, submits: &[Open], to: Option<Mark>) -> Result<(), LedgerError> {
        let Some(to) = to.filter(|_| !submits.is_empty()) else { return Ok(()) };
        let submits: Vec<_> = submits.iter().map(|submit| (to, *submit)).collect();
        let noted = self.ledger.open(&Mark::of_key(&self.shared.recipient_key), self.now(), &submits).await;
        match noted {
            Err(error) if !self.ways().recipient => {
                tracing::debug!(account = %self.settings.id, error = chain(&error), "receipts will not find a submit by its reference");
                Ok(())
            }
            noted => noted,
        }
    }

    /// Forgets submits of which the end is known. Those that were taken without an id stay: their receipts have no other way
    /// to them.
    pub(super) async fn close<'a>(
        &self,
        to: Option<Mark>,
        ends: impl IntoIterator<Item = (Open, &'a PartEnd)>,
    ) {
        let Some(to) = to else { return };
        let known = |end: &PartEnd| match end {
            PartEnd::NoResponse => false,
            PartEnd::Submitted { carrier_id } => !carrier_id.is_empty(),
            PartEnd::Refused { .. } | PartEnd::Unsent { .. } => true,
        };
        let known = ends.into_iter().filter(|(_, end)| known(end));
        let submits: Vec<_> = known.map(|(submit, _)| (to, submit)).collect();
        if let Err(error) = self.ledger.close(&submits).await {
            tracing::debug!(account = %self.settings.id, error = chain(&error), "submits that are answered stay noted");
        }
    }

    /// Looks for the submits that receipts of unknown ids speak of, and adds their parts to what is found.
    pub(super) async fn find_in_doubt(&self, clues: &[Clue], found: &mut [Vec<Submitted>]) -> Vec<Found> {
        let (mut places, mut to, mut references) = (Vec::new(), Vec::new(), Vec::new());
        for (place, (clue, _)) in
            clues.iter().zip(&*found).enumerate().filter(|(_, (_, parts))| parts.is_empty())
        {
            if let Some(mark) = clue.to {
                places.push(place);
                to.push(mark);
                references.push(clue.reference);
            }
        }
        if to.is_empty() {
            return Vec::new();
        }
        let opened = match self.ledger.opened(&Mark::of_key(&self.shared.recipient_key), &to).await {
            Ok(opened) => opened,
            Err(error) => {
                tracing::warn!(account = %self.settings.id, error = chain(&error), "receipts of unknown ids stay parked");
                return Vec::new();
            }
        };
        let (ways, now) = (self.ways(), self.now());
        let mut matched = Vec::new();
        for (((place, to), reference), opens) in places.into_iter().zip(to).zip(references).zip(opened) {
            let Some(submit) = ways.only(reference, &opens, now) else { continue };
            if let Some(parts) = found.get_mut(place) {
                parts.extend(submit.parts());
                matched.push(Found { place, to, submit });
            }
        }
        matched
    }

    /// What follows when receipts found their submits in this way and are stored: what else comes under their ids finds them
    /// too, and they are not in doubt any more.
    pub(super) async fn resolve(&self, asked: &[(CarrierId, Said)], found: Vec<Found>) {
        if found.is_empty() {
            return;
        }
        let (mut ties, mut told) = (Vec::new(), Vec::new());
        for Found { place, submit, .. } in &found {
            let Some((id, said)) = asked.get(*place) else { continue };
            for part in submit.parts() {
                ties.push((part, id.clone()));
                told.push(Match { part, said: said.clone(), id: id.clone() });
            }
        }
        match self.ledger.tie_ids(&ties).await {
            Ok(parked) => self.tell_parked(parked, &told).await,
            Err(error) => {
                tracing::debug!(account = %self.settings.id, error = chain(&error), "further receipts may not find their part");
            }
        }
        let submits: Vec<_> = found.iter().map(|found| (found.to, found.submit)).collect();
        if let Err(error) = self.ledger.close(&submits).await {
            tracing::debug!(account = %self.settings.id, error = chain(&error), "submits whose receipts are here stay noted");
        }
        tracing::info!(account = %self.settings.id, receipts = found.len(), "receipts found parts in doubt");
    }

    /// Tells receipts that came earlier under the same ids.
    async fn tell_parked(&self, parked: Vec<Match>, told: &[Match]) {
        let new: Vec<_> = parked.iter().filter(|found| !told.contains(found)).collect();
        if !new.is_empty() {
            let events: Vec<LogEvent> = new.into_iter().map(|found| self.matched(found)).collect();
            if let Err(error) = self.shared.log.events(events).await {
                tracing::warn!(account = %self.settings.id, error = chain(&error), "earlier receipts stay parked");
                return;
            }
        }
        if let Err(error) = self.ledger.unpark(&parked).await {
            tracing::debug!(account = %self.settings.id, error = chain(&error), "receipts that were told stay parked");
        }
    }
}
