//! What must hold at every moment, and at the end.

use std::collections::{BTreeMap, BTreeSet};

use sotto_core::{
    MessageId, WorkItem,
    delivery::{self, Delivery, Event, EventKind, Outcome, PartState},
};
use sotto_proto::{
    Batch, LogEvent,
    pipeline::v1::{EventBatch, WorkBatch},
};

use crate::{
    carrier::Part,
    cell::{Cell, GRACE, Heard, RECEIPT_WAIT},
};

/// The world at one moment, as it is stored.
pub(crate) struct Seen {
    log: BTreeMap<MessageId, Vec<Event>>,
    folded: BTreeMap<MessageId, Delivery>,
    waiting: BTreeSet<MessageId>,
}

fn batches<B: Batch>(cell: &Cell, stream: &str) -> Vec<B::Item> {
    let stored = cell.broker.stored(stream).into_iter();
    let decoded = stored.map(|message| B::decode(message.payload).unwrap());
    decoded.flat_map(|batch| batch.into_items().into_iter().map(Result::unwrap)).collect()
}

impl Seen {
    pub(crate) fn of(cell: &Cell) -> Result<Self, String> {
        let mut log: BTreeMap<MessageId, Vec<Event>> = BTreeMap::new();
        for event in batches::<EventBatch>(cell, "EVENTS") {
            if let LogEvent::Delivery(event) = event {
                log.entry(event.message).or_default().push(event);
            }
        }
        let mut folded = BTreeMap::new();
        for (id, events) in &log {
            let delivery = Delivery::fold(events).map_err(|illegal| format!("{id}: {illegal}"))?;
            if let Some(violation) = delivery::check(&delivery) {
                return Err(format!("{id}: {violation:?}"));
            }
            folded.insert(*id, delivery);
        }
        let work = ["INTAKE", "WAITING"].into_iter().flat_map(|stream| batches::<WorkBatch>(cell, stream));
        let waiting = work
            .map(|delivery| {
                let WorkItem { facts, .. } = delivery.item;
                facts.message
            })
            .collect();
        Ok(Self { log, folded, waiting })
    }

    /// What holds at every moment.
    pub(crate) fn check(&self, cell: &Cell) -> Result<(), String> {
        self.once(cell)?;
        for (id, sent) in &cell.sent {
            if sent.heard == Heard::Accepted && !self.is_somewhere(id) {
                return Err(format!("{id} was accepted and is nowhere: {:?}", self.names(id)));
            }
        }
        match cell.broker.stored("QUARANTINE").len() {
            0 => Ok(()),
            some => Err(format!("{some} records in quarantine")),
        }
    }

    /// INV-5: by the carriers' own count.
    fn once(&self, cell: &Cell) -> Result<(), String> {
        let of: BTreeMap<_, _> = cell.sent.iter().map(|(id, sent)| (sent.recipient.as_str(), *id)).collect();
        let mut taken: BTreeSet<Part> = BTreeSet::new();
        for part in cell.carriers.iter().flat_map(|carrier| carrier.taken()) {
            let id = of.get(part.0.as_str()).ok_or("a carrier took what nobody sent")?;
            let intended = self.events(id).any(
                |event| matches!(&event.kind, EventKind::Submitting { parts, .. } if parts.contains(&part.1)),
            );
            if !intended {
                return Err(format!("part {} of {id} was sent without an intent in the log", part.1));
            }
            if !taken.insert(part.clone()) {
                return Err(format!("part {} of {id} was taken twice: {:?}", part.1, self.names(id)));
            }
        }
        Ok(())
    }

    /// INV-2: a part that no carrier has, or may have, is in a work queue.
    fn is_somewhere(&self, id: &MessageId) -> bool {
        let gone = self.folded.get(id).is_some_and(|delivery| {
            delivery.outcome().is_some() || delivery.parts().iter().all(|part| *part != PartState::Pending)
        });
        gone || self.waiting.contains(id)
    }

    fn events(&self, id: &MessageId) -> impl Iterator<Item = &Event> {
        self.log.get(id).into_iter().flatten()
    }

    fn names(&self, id: &MessageId) -> Vec<&'static str> {
        self.events(id).map(|event| event.kind.name()).collect()
    }

    /// The events by which ingress closes silence now.
    pub(crate) fn closing(&self, cell: &Cell) -> Vec<Event> {
        let now = cell.now();
        let due = self.folded.iter().filter(|(_, delivery)| {
            delivery.deadline(GRACE, RECEIPT_WAIT).is_some_and(|deadline| deadline <= now)
        });
        due.map(|(id, delivery)| Event { message: *id, at: now, kind: delivery.closing_event() }).collect()
    }

    /// Whether every message that a client sent has its end.
    pub(crate) fn is_over(&self, cell: &Cell) -> bool {
        cell.sent.iter().all(|(id, sent)| {
            sent.heard == Heard::Accepted && self.folded.get(id).is_some_and(|it| it.outcome().is_some())
        })
    }

    pub(crate) fn unfinished(&self, cell: &Cell) -> String {
        let open =
            cell.sent.iter().filter(|(id, _)| self.folded.get(id).is_none_or(|it| it.outcome().is_none()));
        let tell = |(id, sent): (&MessageId, &crate::cell::Sent)| {
            format!("{id} {:?} waits {} {:?}", sent.heard, self.waiting.contains(id), self.names(id))
        };
        open.map(tell).collect::<Vec<_>>().join("\n")
    }

    /// What holds at the end.
    pub(crate) fn check_end(&self, cell: &Cell, calm: bool) -> Result<(), String> {
        let receipted: BTreeSet<_> = cell.carriers.iter().flat_map(|carrier| carrier.receipted()).collect();
        for (id, sent) in &cell.sent {
            let Some(delivery) = self.folded.get(id) else { return Err(format!("{id} has no events")) };
            for (number, part) in (1_u8..).zip(delivery.parts()) {
                let known = self.events(id).any(|event| {
                    matches!(&event.kind, EventKind::Submitted { part, carrier_id, .. }
                        if *part == number && !carrier_id.is_empty())
                });
                let delivered = matches!(part, PartState::Delivered { .. });
                // INV-6
                if known && receipted.contains(&(sent.recipient.clone(), number)) && !delivered {
                    return Err(format!(
                        "the receipt of part {number} of {id} is lost: {:?}",
                        self.names(id)
                    ));
                }
            }
            if calm && delivery.outcome() != Some(Outcome::Delivered) {
                return Err(format!(
                    "{id} is {:?} in a calm world: {:?}",
                    delivery.outcome(),
                    self.names(id)
                ));
            }
        }
        Ok(())
    }

    /// How the messages ended.
    pub(crate) fn ends(&self) -> BTreeMap<&'static str, usize> {
        let mut ends = BTreeMap::new();
        for outcome in self.folded.values().filter_map(Delivery::outcome) {
            *ends.entry(outcome.name()).or_default() += 1;
        }
        ends
    }
}
