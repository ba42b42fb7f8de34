//! A journal as Redis keeps it: eight bytes of version (the last sequence that changed it), then a `MessageRecord`.

use prost::Message as _;
use sotto_core::{
    Facts, MessageId,
    delivery::{Event, EventKind},
};
use sotto_proto::{
    LogEvent,
    pipeline::v1::{self as wire, MessageRecord, RecordedEvent},
};

use crate::domain::journal::{Journal, Recorded};

/// The sequence of the last batch that changed a journal; 0 while only intake knows of the message.
pub type Version = u64;

pub(super) fn encode(journal: &Journal, version: Version) -> Vec<u8> {
    let facts = journal.delivery().map(|delivery| wire::Facts::from(delivery.facts()));
    let events = journal.events().iter().map(|recorded| {
        let mut event = wire::Event::from(&recorded.event);
        // The facts of the acceptance stand in the record itself.
        if let Some(wire::event::Kind::Accepted(accepted)) = &mut event.kind {
            accepted.facts = None;
        }
        RecordedEvent { event: Some(event), sequence: recorded.sequence }
    });
    let record = MessageRecord { events: events.collect(), facts };
    let mut bytes = version.to_be_bytes().to_vec();
    bytes.reserve_exact(record.encoded_len());
    bytes.extend(record.encode_to_vec());
    bytes
}

/// `None` for anything that no version of this code has written.
pub(super) fn decode(id: MessageId, bytes: &[u8]) -> Option<(Version, Journal)> {
    let (version, record) = bytes.split_first_chunk::<8>()?;
    let record = MessageRecord::decode(record).ok()?;
    let facts = record.facts.map(Facts::try_from).transpose().ok()?;
    let events = record.events.into_iter().map(|recorded| read(recorded, facts.as_ref()));
    let journal = Journal::read(id, events.collect::<Option<_>>()?);
    Some((u64::from_be_bytes(*version), journal))
}

fn read(recorded: RecordedEvent, facts: Option<&Facts>) -> Option<Recorded> {
    let mut event = recorded.event?;
    if let Some(wire::event::Kind::Accepted(accepted)) = &mut event.kind {
        accepted.facts = facts.map(wire::Facts::from);
    }
    match LogEvent::try_from(event).ok()? {
        LogEvent::Delivery(event) => Some(Recorded { event, sequence: recorded.sequence }),
        LogEvent::ParkedReceipt { .. } | LogEvent::OptOut { .. } => None,
    }
}

/// An event that carries the facts, as routing would publish it.
pub(crate) fn acceptance(facts: &Facts) -> Event {
    Event {
        message: facts.message,
        at: facts.accepted_at,
        kind: EventKind::Accepted(Box::new(facts.clone())),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use sotto_core::{MessageClass, Timestamp, text::Encoding};

    use super::*;

    fn facts() -> Facts {
        Facts {
            message: MessageId::from_keyed_hash([3; 16]),
            tenant: "acme".parse().unwrap(),
            class: MessageClass::Transactional,
            country: "VN".parse().unwrap(),
            operator_range: "8491".parse().unwrap(),
            encoding: Encoding::Ucs2,
            parts: 2,
            units: 80,
            accepted_at: Timestamp::from_unix_millis(1_795_493_815_007),
            expires_at: Timestamp::from_unix_millis(1_795_493_915_007),
            content_mac: None,
            send_at: None,
        }
    }

    #[test]
    fn a_journal_survives_its_bytes() {
        let mut journal = Journal::accepted(facts());
        let account: sotto_core::AccountId = "one".parse().unwrap();
        let routed = EventKind::Routed { attempt: 1, account, table_version: "t".to_owned() };
        let event = Event { message: journal.id(), at: Timestamp::from_unix_millis(5), kind: routed };
        let early = event.clone();
        journal.take(event, 7).unwrap();
        assert_eq!(decode(journal.id(), &encode(&journal, 7)), Some((7, journal.clone())));

        let mut waiting = Journal::empty(journal.id());
        waiting.take(early, 9).unwrap();
        assert_eq!(decode(journal.id(), &encode(&waiting, 9)), Some((9, waiting)));
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            drop(decode(MessageId::from_keyed_hash([0; 16]), &bytes));
        }
    }
}
