//! The ledger of a cell, folded from its log: every accepted message is somewhere (INV-2).
//!
//! What has ended can be closed: it then counts in [`Sums`], and its events are needed no more. A ledger goes on from
//! such sums and the events of what was not closed ([`Ledger::resume`]), and says the same as one that was folded from
//! the whole log.

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    Facts, MessageId,
    delivery::{Delivery, Event, EventKind, ExpiryCause, Outcome, PartState, Stage},
};

/// Every message of the log up to a cut.
#[derive(Clone, Debug, Default)]
pub struct Ledger {
    messages: BTreeMap<MessageId, Entry>,
    closed: Sums,
}

/// What is left of messages that are closed, and of events that fit none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sums {
    /// How they ended.
    pub ended: BTreeMap<Outcome, u64>,
    /// How many of them have another end by later evidence.
    pub corrected: u64,
    /// Events about messages whose acceptance is not in the log, or that contradict it; of all messages.
    pub strange: u64,
}

impl Sums {
    /// How many messages are closed.
    pub fn closed(&self) -> u64 {
        self.ended.values().sum()
    }
}

/// One message.
#[derive(Clone, Debug)]
struct Entry {
    delivery: Delivery,
    /// Parts (from 0) that were pending when silence was closed, and of which no service that held the message has
    /// told anything since.
    in_silence: BTreeSet<usize>,
}

impl Entry {
    fn new(facts: &Facts) -> Self {
        Self { delivery: Delivery::accepted(facts.clone()), in_silence: BTreeSet::new() }
    }

    /// Whether the event fits.
    fn take(&mut self, event: &Event) -> bool {
        let pending = || self.numbers(|part| *part == PartState::Pending);
        match &event.kind {
            // Both are the sweep's word; it knows no more of what it closes than that nothing was heard.
            EventKind::Expired { cause: ExpiryCause::Silence } | EventKind::ClosedUnknown => {
                let pending = pending();
                self.in_silence.extend(pending);
            }
            // Who had the message ended it, before or after silence was closed.
            EventKind::Expired { cause: ExpiryCause::Validity | ExpiryCause::KeyDestroyed }
            | EventKind::Rejected { .. }
            | EventKind::Cancelled
            | EventKind::Doubted => self.in_silence.clear(),
            // The carrier had the part.
            EventKind::Receipt { part, .. } | EventKind::Submitted { part, .. } => {
                self.in_silence.remove(&usize::from(part.saturating_sub(1)));
            }
            EventKind::Accepted(_)
            | EventKind::Routed { .. }
            | EventKind::Submitting { .. }
            | EventKind::Refused { .. }
            | EventKind::Unsent { .. }
            | EventKind::NoResponse { .. } => {}
        }
        self.delivery.step(event).is_ok()
    }

    fn numbers(&self, which: impl Fn(&PartState) -> bool) -> BTreeSet<usize> {
        let parts = self.delivery.parts().iter().enumerate();
        parts.filter(|(_, part)| which(part)).map(|(number, _)| number).collect()
    }

    /// Whether a part is with nobody: its sealed content must be in a work stream, or the message is lost. An end in
    /// silence does not excuse it: the sweep closes what was lost just as it closes what waits too long.
    fn must_be_stored(&self) -> bool {
        let expired = self.numbers(|part| *part == PartState::Expired);
        self.delivery.parts().contains(&PartState::Pending) || !self.in_silence.is_disjoint(&expired)
    }
}

/// Where the accepted messages are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Balance {
    /// All of them.
    pub accepted: u64,
    /// Not taken by a carrier yet.
    pub waiting: u64,
    /// Being written to, or with, a carrier.
    pub in_flight: u64,
    /// Ended, and how.
    pub ended: BTreeMap<Outcome, u64>,
    /// Those whose end later evidence contradicts.
    pub corrected: u64,
}

impl Balance {
    /// Whether the sum is right: accepted = waiting + in flight + ended.
    pub fn holds(&self) -> bool {
        self.accepted == self.waiting + self.in_flight + self.ended.values().sum::<u64>()
    }
}

impl Ledger {
    /// Goes on from sums and the events of what was not closed, as [`Self::close`] left both.
    pub fn resume<'a>(sums: Sums, carried: impl IntoIterator<Item = &'a Event>) -> Self {
        let strange = sums.strange;
        let mut ledger = Self { messages: BTreeMap::new(), closed: sums };
        carried.into_iter().for_each(|event| ledger.take(event));
        // One of them that does not fit is in the sums.
        ledger.closed.strange = strange;
        ledger
    }

    /// Takes an event of the log, in the log's order.
    pub fn take(&mut self, event: &Event) {
        let fits = match (&event.kind, self.messages.get_mut(&event.message)) {
            (EventKind::Accepted(facts), None) => {
                self.accept(facts);
                true
            }
            (_, None) => false,
            (_, Some(entry)) => entry.take(event),
        };
        self.closed.strange += u64::from(!fits);
    }

    /// Takes a message that intake has stored: the record there is its acceptance, before any event.
    pub fn accept(&mut self, facts: &Facts) {
        self.messages.entry(facts.message).or_insert_with(|| Entry::new(facts));
    }

    /// Takes the messages that another ledger has and this one has not.
    pub fn absorb(&mut self, other: Self) {
        for (id, entry) in other.messages {
            self.messages.entry(id).or_insert(entry);
        }
        self.closed.strange += other.closed.strange;
    }

    /// Closes what has ended and of which nothing more comes, as `is_over` knows: it is counted and not known any more.
    /// What must still be in a work stream stays, so that one that was lost is found for good.
    pub fn close(&mut self, mut is_over: impl FnMut(&Facts) -> bool) {
        let Self { messages, closed } = self;
        messages.retain(|_, entry| {
            let Some(outcome) = entry.delivery.outcome() else { return true };
            if entry.must_be_stored() || !is_over(entry.delivery.facts()) {
                return true;
            }
            *closed.ended.entry(outcome).or_default() += 1;
            closed.corrected += u64::from(entry.delivery.correction().is_some());
            false
        });
    }

    /// How many messages are known one by one.
    pub fn open(&self) -> usize {
        self.messages.len()
    }

    /// Whether a message is known by itself.
    pub fn knows(&self, message: &MessageId) -> bool {
        self.messages.contains_key(message)
    }

    /// What was closed, and the events that fit no message.
    pub const fn sums(&self) -> &Sums {
        &self.closed
    }

    /// Where the messages are, closed ones included.
    pub fn balance(&self) -> Balance {
        let Sums { ended, corrected, .. } = self.closed.clone();
        let accepted = self.closed.closed();
        let mut balance = Balance { accepted, ended, corrected, ..Balance::default() };
        for Entry { delivery, .. } in self.messages.values() {
            balance.accepted += 1;
            match delivery.stage() {
                Stage::Accepted | Stage::Routed => balance.waiting += 1,
                Stage::Submitted | Stage::InDoubt => balance.in_flight += 1,
                Stage::Ended(outcome) => *balance.ended.entry(outcome).or_default() += 1,
            }
            balance.corrected += u64::from(delivery.correction().is_some());
        }
        balance
    }

    /// Messages with a part that no carrier has and nobody but silence ended: their sealed content must be in a work
    /// stream.
    pub fn must_be_stored(&self) -> BTreeSet<MessageId> {
        self.messages.iter().filter(|(_, entry)| entry.must_be_stored()).map(|(id, _)| *id).collect()
    }

    /// How a message ended, if it has and is not closed.
    pub fn outcome(&self, message: MessageId) -> Option<Outcome> {
        self.messages.get(&message)?.delivery.outcome()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use crate::{
        MessageClass, Timestamp,
        delivery::{ReceiptState, RejectCause},
        text::Encoding,
        work::AttemptEnd,
    };

    use super::*;

    fn facts(seed: u8) -> Facts {
        Facts {
            message: MessageId::from_keyed_hash([seed; 16]),
            tenant: "acme".parse().unwrap(),
            class: MessageClass::Otp,
            country: "VN".parse().unwrap(),
            operator_range: "8498".parse().unwrap(),
            encoding: Encoding::Gsm7,
            parts: 1,
            units: 1,
            accepted_at: Timestamp::from_unix_seconds(0),
            expires_at: Timestamp::from_unix_seconds(0).plus(Duration::from_secs(300)),
            content_mac: None,
            send_at: None,
        }
    }

    fn event(seed: u8, kind: EventKind) -> Event {
        Event { message: facts(seed).message, at: Timestamp::from_unix_seconds(1), kind }
    }

    fn submitting(seed: u8) -> Event {
        event(seed, EventKind::Submitting { attempt: 1, account: "a".parse().unwrap(), parts: vec![1] })
    }

    fn expired(seed: u8, cause: ExpiryCause) -> Event {
        event(seed, EventKind::Expired { cause })
    }

    /// A message with these events after its acceptance.
    fn ledger(events: &[Event]) -> Ledger {
        let mut ledger = Ledger::default();
        ledger.take(&event(1, EventKind::Accepted(Box::new(facts(1)))));
        events.iter().for_each(|event| ledger.take(event));
        assert_eq!(ledger.sums().strange, 0);
        ledger
    }

    fn unsent(seed: u8) -> Event {
        let (account, end) = ("a".parse().unwrap(), AttemptEnd::LinkDown);
        event(seed, EventKind::Unsent { attempt: 1, account, end, parts: vec![1] })
    }

    #[test]
    fn an_end_in_silence_does_not_hide_a_lost_message() {
        let lost = ledger(&[expired(1, ExpiryCause::Silence)]);
        assert_eq!(lost.outcome(facts(1).message), Some(Outcome::Expired));
        assert!(lost.balance().holds());
        assert_eq!(lost.must_be_stored(), BTreeSet::from([facts(1).message]));
    }

    #[test]
    fn an_end_told_by_whoever_had_the_message_needs_no_copy() {
        let rejected = event(1, EventKind::Rejected { cause: RejectCause::NoRoute });
        for events in [
            vec![expired(1, ExpiryCause::Validity)],
            vec![expired(1, ExpiryCause::KeyDestroyed)],
            vec![expired(1, ExpiryCause::Validity), expired(1, ExpiryCause::Silence)],
            vec![expired(1, ExpiryCause::Silence), expired(1, ExpiryCause::Validity)],
            vec![expired(1, ExpiryCause::Silence), rejected],
            vec![event(1, EventKind::Cancelled), expired(1, ExpiryCause::Silence)],
        ] {
            assert!(ledger(&events).must_be_stored().is_empty(), "{events:?}");
        }
    }

    #[test]
    fn a_carrier_that_has_the_part_after_silence_needs_no_copy_and_one_that_gave_it_back_does() {
        assert!(ledger(&[expired(1, ExpiryCause::Silence), submitting(1)]).must_be_stored().is_empty());
        let back = ledger(&[expired(1, ExpiryCause::Silence), submitting(1), unsent(1)]);
        assert_eq!(back.must_be_stored().len(), 1);
        let ended = ledger(&[
            expired(1, ExpiryCause::Silence),
            submitting(1),
            unsent(1),
            expired(1, ExpiryCause::Validity),
        ]);
        assert!(ended.must_be_stored().is_empty());
        // The carrier's own word: it had it.
        let (account, state) = ("a".parse().unwrap(), ReceiptState::Expired);
        let receipt = EventKind::Receipt { attempt: 1, account, part: 1, state, error: String::new() };
        let told = ledger(&[expired(1, ExpiryCause::Silence), submitting(1), event(1, receipt)]);
        assert!(told.must_be_stored().is_empty());
    }

    #[test]
    fn every_message_is_counted_once_where_it_is() {
        let mut ledger = Ledger::default();
        for seed in 1..=4 {
            ledger.take(&event(seed, EventKind::Accepted(Box::new(facts(seed)))));
        }
        ledger.take(&submitting(2));
        ledger.take(&expired(3, ExpiryCause::Validity));
        ledger.take(&expired(3, ExpiryCause::Validity));
        // Stored by intake, not yet taken over by routing; and one that routing has, seen again in intake.
        ledger.accept(&facts(5));
        ledger.accept(&facts(2));
        let balance = ledger.balance();
        assert!(balance.holds());
        assert_eq!((balance.accepted, balance.waiting, balance.in_flight), (5, 3, 1));
        assert_eq!(balance.ended, BTreeMap::from([(Outcome::Expired, 1)]));
        let stored: Vec<_> = ledger.must_be_stored().into_iter().collect();
        assert_eq!(stored, [1, 4, 5].map(|seed| facts(seed).message));
        assert_eq!(ledger.sums().strange, 0);
    }

    #[test]
    fn events_of_nowhere_are_counted_and_change_nothing() {
        let mut ledger = Ledger::default();
        ledger.take(&submitting(9));
        assert_eq!((ledger.sums().strange, ledger.balance().accepted), (1, 0));
    }
}
