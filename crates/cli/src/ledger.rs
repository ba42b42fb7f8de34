//! The ledger of a cell, folded from its log: every accepted message is somewhere (INV-2).

use std::collections::{BTreeMap, BTreeSet};

use sotto_core::{
    Facts, MessageId,
    delivery::{Delivery, Event, EventKind, Outcome, PartState, Stage},
};

/// Every message of the log up to a cut.
#[derive(Clone, Debug, Default)]
pub(crate) struct Ledger {
    messages: BTreeMap<MessageId, Delivery>,
    /// Events about messages whose acceptance is not in the log, or that contradict it.
    strange: u64,
}

/// Where the accepted messages are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Balance {
    pub(crate) accepted: u64,
    pub(crate) waiting: u64,
    pub(crate) in_flight: u64,
    pub(crate) ended: BTreeMap<Outcome, u64>,
    pub(crate) corrected: u64,
}

impl Balance {
    /// Whether the sum is right: accepted = waiting + in flight + ended.
    pub(crate) fn holds(&self) -> bool {
        self.accepted == self.waiting + self.in_flight + self.ended.values().sum::<u64>()
    }
}

impl Ledger {
    /// Takes an event of the log, in the log's order.
    pub(crate) fn take(&mut self, event: &Event) {
        match (&event.kind, self.messages.get_mut(&event.message)) {
            (EventKind::Accepted(facts), None) => self.accept(facts),
            (_, None) => self.strange += 1,
            (_, Some(delivery)) => {
                if delivery.step(event).is_err() {
                    self.strange += 1;
                }
            }
        }
    }

    /// Takes a message that intake has stored: the record there is its acceptance, before any event.
    pub(crate) fn accept(&mut self, facts: &Facts) {
        self.messages.entry(facts.message).or_insert_with(|| Delivery::accepted(facts.clone()));
    }

    /// Takes the messages that another ledger has and this one has not.
    pub(crate) fn absorb(&mut self, other: Self) {
        for (id, delivery) in other.messages {
            self.messages.entry(id).or_insert(delivery);
        }
        self.strange += other.strange;
    }

    /// Counts something in the log that cannot be read.
    pub(crate) const fn note_strange(&mut self) {
        self.strange += 1;
    }

    /// Events that fit no message.
    pub(crate) const fn strange(&self) -> u64 {
        self.strange
    }

    pub(crate) fn balance(&self) -> Balance {
        let mut balance = Balance::default();
        for delivery in self.messages.values() {
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

    /// Messages with a part that no carrier has yet: their sealed content must be in a work stream.
    pub(crate) fn must_be_stored(&self) -> BTreeSet<MessageId> {
        self.messages
            .iter()
            .filter(|(_, delivery)| {
                delivery.outcome().is_none() && delivery.parts().contains(&PartState::Pending)
            })
            .map(|(id, _)| *id)
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use sotto_core::{MessageClass, Timestamp, text::Encoding};

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
        }
    }

    fn event(seed: u8, kind: EventKind) -> Event {
        Event { message: facts(seed).message, at: Timestamp::from_unix_seconds(1), kind }
    }

    fn submitting(seed: u8) -> Event {
        event(seed, EventKind::Submitting { attempt: 1, account: "a".parse().unwrap(), parts: vec![1] })
    }

    #[test]
    fn every_message_is_counted_once_where_it_is() {
        let mut ledger = Ledger::default();
        for seed in 1..=4 {
            ledger.take(&event(seed, EventKind::Accepted(Box::new(facts(seed)))));
        }
        ledger.take(&submitting(2));
        ledger.take(&event(3, EventKind::Expired));
        ledger.take(&event(3, EventKind::Expired));
        // Stored by intake, not yet taken over by routing; and one that routing has, seen again in intake.
        ledger.accept(&facts(5));
        ledger.accept(&facts(2));
        let balance = ledger.balance();
        assert!(balance.holds());
        assert_eq!((balance.accepted, balance.waiting, balance.in_flight), (5, 3, 1));
        assert_eq!(balance.ended, BTreeMap::from([(Outcome::Expired, 1)]));
        let stored: Vec<_> = ledger.must_be_stored().into_iter().collect();
        assert_eq!(stored, [1, 4, 5].map(|seed| facts(seed).message));
        assert_eq!(ledger.strange(), 0);
    }

    #[test]
    fn events_of_nowhere_are_counted_and_change_nothing() {
        let mut ledger = Ledger::default();
        ledger.take(&submitting(9));
        assert_eq!((ledger.strange(), ledger.balance().accepted), (1, 0));
    }
}
