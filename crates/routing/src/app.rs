//! Decide a batch, tell what was decided, move the messages.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use futures::future::join_all;
use sotto_core::{
    AccountId, Clock, Lane, Restored, Timestamp, WorkItem,
    carriers::RouteTable,
    delivery::{Event, EventKind, ExpiryCause, RejectCause},
};
use sotto_proto::WorkDelivery;
use sotto_runtime::failpoint;

use crate::{
    domain::{Decision, decide},
    metrics::RoutingMetrics,
    ports::{Later, Outbox},
};

/// What became of one message of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// It is where it belongs, or has ended: the old record can go.
    Done,
    /// Ask again after this time.
    Later(Duration),
}

/// Decides batches.
#[derive(Debug)]
pub(crate) struct Router<O> {
    table: RouteTable,
    clock: Arc<dyn Clock>,
    outbox: O,
    restored: Option<Restored>,
    metrics: RoutingMetrics,
}

/// A message on its way to an account, and its place in the batch.
type Moving = (usize, WorkDelivery);

impl<O: Outbox> Router<O> {
    /// `restored`: the cell was put back from a backup.
    pub(crate) fn new(
        table: RouteTable,
        clock: Arc<dyn Clock>,
        outbox: O,
        restored: Option<Restored>,
        metrics: RoutingMetrics,
    ) -> Self {
        Self { table, clock, outbox, restored, metrics }
    }

    /// One outcome for each message.
    pub(crate) async fn route(&self, batch: Vec<WorkDelivery>) -> Vec<Outcome> {
        let now = self.clock.now();
        let mut outcomes = vec![Outcome::Done; batch.len()];
        let mut events = Vec::new();
        let mut decided = Vec::new();
        let mut moves: BTreeMap<(Lane, AccountId), Vec<Moving>> = BTreeMap::new();
        for (place, mut delivery) in batch.into_iter().enumerate() {
            let decision = decide(&self.table, &delivery.item, now)
                .doubted_if(self.restored.is_some_and(|it| it.concerns(&delivery.item.facts)));
            self.metrics.decided(&delivery.item, &decision, now);
            if let Decision::Hold { until } = decision {
                self.set(&mut outcomes, place, Outcome::Later(until.since(now)));
                continue;
            }
            decided.push(place);
            self.tell(&delivery.item, &decision, now, &mut events);
            if let Decision::Send { account, attempt } = decision {
                delivery.item.attempt = attempt;
                delivery.item.account = Some(account.clone());
                delivery.item.not_before = None;
                let key = (delivery.item.facts.lane(), account);
                moves.entry(key).or_default().push((place, delivery));
            }
        }
        if decided.is_empty() {
            return outcomes;
        }
        // The decision first: an event without a move is repeated and changes nothing, a move without its event
        // would let the connector tell of an attempt that nobody has started.
        if let Err(Later(after)) = self.outbox.record(events).await {
            self.metrics.put_off.add(decided.len());
            for place in decided {
                self.set(&mut outcomes, place, Outcome::Later(after));
            }
            return outcomes;
        }
        failpoint("routing.recorded");
        let moved = moves.into_iter().flat_map(|((lane, account), messages)| {
            let bound = self.batch_bound(&account);
            chunks(messages, bound).into_iter().map(move |chunk| (lane, account.clone(), chunk))
        });
        let results = join_all(moved.map(|(lane, account, chunk)| async move {
            let (places, messages): (Vec<_>, Vec<_>) = chunk.into_iter().unzip();
            (places, self.outbox.enqueue(&account, lane, messages).await)
        }))
        .await;
        failpoint("routing.moved");
        for (places, result) in results {
            if let Err(Later(after)) = result {
                self.metrics.put_off.add(places.len());
                for place in places {
                    self.set(&mut outcomes, place, Outcome::Later(after));
                }
            }
        }
        outcomes
    }

    fn set(&self, outcomes: &mut [Outcome], place: usize, outcome: Outcome) {
        if let Some(slot) = outcomes.get_mut(place) {
            *slot = outcome;
        }
    }

    /// The events of a decision. The first decision also takes the message over from intake.
    fn tell(&self, item: &WorkItem, decision: &Decision, now: Timestamp, events: &mut Vec<Event>) {
        let message = item.facts.message;
        if item.attempt == 0 && item.history.is_empty() {
            let kind = EventKind::Accepted(Box::new(item.facts.clone()));
            events.push(Event { message, at: item.facts.accepted_at, kind });
        }
        let kind = match decision {
            Decision::Send { account, attempt } => EventKind::Routed {
                attempt: *attempt,
                account: account.clone(),
                table_version: self.table.version().to_owned(),
            },
            Decision::Expire => EventKind::Expired { cause: ExpiryCause::Validity },
            Decision::Doubt => EventKind::Doubted,
            Decision::Reject(cause) => {
                let cause = refined(*cause, item);
                self.metrics.rejected.of(cause).one();
                EventKind::Rejected { cause }
            }
            Decision::Hold { .. } => return,
        };
        events.push(Event { message, at: now, kind });
    }

    /// Parts in one batch: about 100 ms of the account's rate, so that a slow carrier's batches are small and the
    /// redelivery of one is cheap.
    fn batch_bound(&self, account: &AccountId) -> u32 {
        self.table.account(account).map_or(1, |account| u32::from(account.tps).div_ceil(10)).max(1)
    }
}

/// "Every account was tried" where the last word was a carrier's refusal says that the carrier refused it.
fn refined(cause: RejectCause, item: &WorkItem) -> RejectCause {
    let refused = item.history.last().is_some_and(|last| last.end == sotto_core::work::AttemptEnd::Refused);
    if cause == RejectCause::RoutesExhausted && refused { RejectCause::Carrier } else { cause }
}

/// Cuts into batches of at most `bound` parts, but at least one message each.
fn chunks(messages: Vec<Moving>, bound: u32) -> Vec<Vec<Moving>> {
    let mut all: Vec<Vec<Moving>> = Vec::new();
    let mut room = 0;
    for moving in messages {
        let parts = u32::try_from(moving.1.item.wanted_parts().len()).unwrap_or(u32::MAX);
        match all.last_mut() {
            Some(chunk) if parts <= room => {
                room -= parts;
                chunk.push(moving);
            }
            Some(_) | None => {
                room = bound.saturating_sub(parts);
                all.push(vec![moving]);
            }
        }
    }
    all
}

#[cfg(test)]
mod tests;
