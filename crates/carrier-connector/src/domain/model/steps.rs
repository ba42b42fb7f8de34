//! What may happen next, and what it changes.

use std::{collections::BTreeSet, sync::Arc};

use sotto_core::{
    WorkItem,
    delivery::{Event, EventKind, ExpiryCause, PartState, ReceiptState},
    work::AttemptEnd,
};
use sotto_smpp::CommandStatus;
use stateright::{Model, Property};

use super::{
    At, By, Cancelling, Job, Key, LEASE, Late, Receipt, Record, State, Work, World,
    ledger::{Claimed, Fence, keys},
    message, properties, time,
};
use crate::domain::{
    claim::{Claim, ClaimState, PartEnd, Standing},
    settle::{Settled, cancel, expire, settle},
};

/// What the carrier answers to a part.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Reply {
    Taken,
    Refused,
    Nothing,
}

/// One step of the world.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Action {
    Tick,
    Deliver {
        work: usize,
        to: usize,
    },
    Step(usize),
    /// The link is down before the first byte.
    LinkDown(usize),
    Answer {
        connector: usize,
        replies: Vec<Reply>,
    },
    LateAnswer {
        connector: usize,
        key: Key,
    },
    Crash(usize),
    LoseRedis,
    ReadLog,
    Rebuild,
    Route {
        work: usize,
        crash: bool,
    },
    Cancel,
    Receipt(Key),
    /// Who has a receipt in hand dies.
    DropReceipt(Key),
    CloseSilence,
}

fn work_of(at: &At) -> Option<usize> {
    match at {
        At::Idle => None,
        At::Claim { work } | At::Acknowledge { work } => Some(*work),
        At::Intend { job, .. }
        | At::Fence { job, .. }
        | At::Write { job }
        | At::Wait { job }
        | At::Note { job, .. }
        | At::Tell { job, .. }
        | At::Back { job, .. }
        | At::Finish { job, .. }
        | At::TellFound { job, .. } => Some(job.work),
    }
}

impl Model for World {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        vec![State::new(self)]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        if state.now < self.end {
            actions.push(Action::Tick);
        }
        let may_die = state.now < self.end;
        for (index, work) in state.works.iter().enumerate().filter(|(_, work)| work.acknowledged.is_none()) {
            match &work.item.account {
                Some(account) => {
                    // Where two who know nothing could take it, one stands for both.
                    let fresh = |to: usize| {
                        state.connectors[to].at == At::Idle && state.connectors[to].late.is_empty()
                    };
                    let to = (0..2).filter(|to| self.accounts[*to] == *account);
                    let to = to.filter(|to| *to == 0 || self.accounts[0] != *account || !fresh(0));
                    actions.extend(to.map(|to| Action::Deliver { work: index, to }));
                }
                None => {
                    actions.push(Action::Route { work: index, crash: false });
                    if may_die && state.crashes > 0 {
                        actions.push(Action::Route { work: index, crash: true });
                    }
                }
            }
        }
        for (index, connector) in state.connectors.iter().enumerate() {
            match &connector.at {
                At::Idle => {}
                At::Wait { job } => self.answers(state, index, job, actions),
                At::Write { job } => {
                    actions.push(Action::Step(index));
                    if self.refusals && state.item(job).attempt == 1 {
                        actions.push(Action::LinkDown(index));
                    }
                }
                At::Claim { .. }
                | At::Intend { .. }
                | At::Fence { .. }
                | At::Note { .. }
                | At::Tell { .. }
                | At::Back { .. }
                | At::Finish { .. }
                | At::TellFound { .. }
                | At::Acknowledge { .. } => actions.push(Action::Step(index)),
            }
            let late = connector.late.keys().map(|key| Action::LateAnswer { connector: index, key: *key });
            actions.extend(late);
            let has_something = connector.at != At::Idle || !connector.late.is_empty();
            if may_die && state.crashes > 0 && has_something && state.only_copy(index).is_none() {
                actions.push(Action::Crash(index));
            }
        }
        if may_die && state.losses > 0 && state.ledger.ready {
            actions.push(Action::LoseRedis);
        }
        if !state.ledger.ready {
            actions.push(if state.rebuilding.is_none() { Action::ReadLog } else { Action::Rebuild });
        }
        if !matches!(state.cancelling, Cancelling::Told | Cancelling::Over) {
            actions.push(Action::Cancel);
        }
        if self.receipts {
            for (key, part) in &state.carrier {
                let in_hand = matches!(part.receipt, Receipt::Found { .. } | Receipt::Logged);
                if !part.refused && part.writes > 0 && part.receipt != Receipt::Answered {
                    actions.push(Action::Receipt(*key));
                }
                if in_hand && may_die && state.crashes > 0 {
                    actions.push(Action::DropReceipt(*key));
                }
            }
        }
        if state.now >= self.expires && state.delivery().outcome().is_none() {
            actions.push(Action::CloseSilence);
        }
    }

    fn next_state(&self, last: &State, action: Action) -> Option<State> {
        let mut state = last.clone();
        match action {
            Action::Tick => state.now += 1,
            Action::Deliver { work, to } => {
                let idle = state.connectors.get(to)?.at == At::Idle;
                if !idle {
                    return None;
                }
                if state.connectors.iter().any(|connector| work_of(&connector.at) == Some(work)) {
                    state.redeliveries = state.redeliveries.checked_sub(1)?;
                }
                state.connectors.get_mut(to)?.at = At::Claim { work };
            }
            Action::Step(index) => {
                let at = state.connectors.get(index)?.at.clone();
                let next = self.step(&mut state, index, at)?;
                state.connectors.get_mut(index)?.at = next;
            }
            Action::LinkDown(index) => {
                let At::Write { job } = state.connectors.get(index)?.at.clone() else { return None };
                let end = |part| (part, PartEnd::Unsent { end: AttemptEnd::LinkDown });
                let ends = state.item(&job).wanted_parts().into_iter().map(end).collect();
                let at = state.ended(job, ends);
                state.connectors.get_mut(index)?.at = at;
            }
            Action::Answer { connector, replies } => state.answer(connector, &replies, self.late)?,
            Action::LateAnswer { connector, key } => state.answer_late(connector, key)?,
            Action::Crash(index) => {
                state.crashes = state.crashes.checked_sub(1)?;
                let connector = state.connectors.get_mut(index)?;
                (connector.at, connector.late) = (At::Idle, std::collections::BTreeMap::new());
            }
            Action::LoseRedis => {
                state.losses = state.losses.checked_sub(1)?;
                state.ledger.lose();
                state.rebuilding = None;
            }
            Action::ReadLog => state.rebuilding = Some(state.log.len()),
            Action::Rebuild => {
                let read: Vec<_> = state.log.iter().take(state.rebuilding.take()?).cloned().collect();
                let found = state.ledger.restore(&self.rules, &read);
                state.tell_receipts(&found);
            }
            Action::Route { work, crash } => state.route(work, crash, self.expires)?,
            Action::Cancel => self.cancel(&mut state)?,
            Action::Receipt(key) => self.receipt(&mut state, key)?,
            Action::DropReceipt(key) => {
                state.crashes = state.crashes.checked_sub(1)?;
                state.carrier.get_mut(&key)?.receipt = Receipt::Unsent;
            }
            Action::CloseSilence => {
                let closing = state.delivery().closing_event();
                state.tell(closing);
            }
        }
        (state != *last).then_some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        properties::all()
    }
}

impl World {
    fn answers(&self, state: &State, connector: usize, job: &Job, actions: &mut Vec<Action>) {
        let item = state.item(job);
        let mut replies = vec![Reply::Taken, Reply::Nothing];
        if self.refusals && item.attempt == 1 {
            replies.push(Reply::Refused);
        }
        let mut all: Vec<Vec<Reply>> = vec![Vec::new()];
        for _ in item.wanted_parts() {
            let longer = |so_far: &Vec<Reply>| {
                let so_far = so_far.clone();
                replies.iter().map(move |reply| so_far.iter().copied().chain([*reply]).collect())
            };
            all = all.iter().flat_map(longer).collect();
        }
        actions.extend(all.into_iter().map(|replies| Action::Answer { connector, replies }));
    }

    /// One effect of a connector.
    fn step(&self, state: &mut State, index: usize, at: At) -> Option<At> {
        let now = state.now;
        Some(match at {
            At::Idle | At::Wait { .. } => return None,
            At::Claim { work } => self.claim(state, index, work)?,
            At::Intend { job, epoch } => {
                let item = state.item(&job);
                let (attempt, account) = (item.attempt, item.account.clone()?);
                let kind = EventKind::Submitting { attempt, account, parts: item.wanted_parts() };
                state.record(Event { message: message(), at: time(job.at), kind });
                At::Fence { job, epoch: Some(epoch) }
            }
            At::Fence { job, epoch } => {
                let item = state.item(&job);
                let fence = if self.rules.no_fence {
                    Fence::Passed
                } else if now > job.at + LEASE
                    || (epoch.is_none() && now == job.at + LEASE && !self.rules.late_fence)
                {
                    return Some(At::Idle);
                } else {
                    state.ledger.intend(&item, &job.token, epoch, job.at, now)
                };
                match fence {
                    Fence::Passed => At::Write { job },
                    Fence::Taken => At::Idle,
                    Fence::NotReady => At::Fence { job, epoch: None },
                    Fence::Cancelled => {
                        state.ledger.release(&item, &job.token);
                        state.drop_cancelled(job, &item)?
                    }
                }
            }
            At::Write { job } => {
                for key in keys(&state.item(&job)) {
                    state.carrier.entry(key).or_default().writes += 1;
                }
                At::Wait { job }
            }
            At::Note { job, ends, settled } => {
                let attempt = state.item(&job).attempt;
                let early = state.ledger.note(attempt, &ends, &job.token, now + LEASE, false);
                if settled.back.as_ref().is_some_and(|back| !back.pinned) {
                    state.ledger.unmark(attempt);
                }
                At::Tell { job, ends, settled, early }
            }
            At::Tell { job, ends, settled: Settled { events, back }, early } => {
                events.into_iter().for_each(|event| state.record(event));
                state.tell_receipts(&early);
                match back {
                    Some(back) => {
                        if self.rules.acknowledge_first {
                            state.works.get_mut(job.work)?.acknowledged = Some(By::Connector(index));
                        }
                        At::Back { job, ends, back, early }
                    }
                    None if ends.is_empty() => At::Acknowledge { work: job.work },
                    None => At::Finish { job, ends, early },
                }
            }
            At::Back { job, ends, back, early } => {
                state.works.push(Work { item: Arc::new(back), acknowledged: None });
                At::Finish { job, ends, early }
            }
            At::Finish { job, ends, early } => {
                let attempt = state.item(&job).attempt;
                let found = state.ledger.note(attempt, &ends, &job.token, 0, true);
                let found: BTreeSet<_> = found.difference(&early).copied().collect();
                if found.is_empty() {
                    At::Acknowledge { work: job.work }
                } else {
                    At::TellFound { job, found }
                }
            }
            At::TellFound { job, found } => {
                state.tell_receipts(&found);
                At::Acknowledge { work: job.work }
            }
            At::Acknowledge { work } => {
                state.works.get_mut(work)?.acknowledged.get_or_insert(By::Connector(index));
                At::Idle
            }
        })
    }

    fn claim(&self, state: &mut State, index: usize, work: usize) -> Option<At> {
        let (now, item) = (state.now, Arc::clone(&state.works.get(work)?.item));
        let account = item.account.clone()?;
        if !state.ledger.ready {
            return Some(At::Idle);
        }
        let connector = state.connectors.get(index)?;
        let word = [u8::try_from(index).ok()?, connector.claimings, 0, 0, 0, 0, 0, 0];
        let job = Job { work, token: Claim::token(&account, word), at: now };
        let unsent = |part| (part, PartEnd::Unsent { end: AttemptEnd::NotAllowed });
        let over = now >= self.expires;
        let enter = match item.wanted_parts().first().copied().filter(|_| over) {
            Some(part) => ClaimState::Ended(unsent(part).1),
            None => ClaimState::Claimed,
        };
        let epoch = state.ledger.epoch;
        Some(match state.ledger.claim(&self.rules, &item, &job.token, &enter, now) {
            Claimed::Won => {
                state.connectors.get_mut(index)?.claimings += 1;
                if over {
                    let settled = expire(&item, &account, ExpiryCause::Validity, time(0));
                    let ends = item.wanted_parts().into_iter().map(unsent).collect();
                    At::Tell { job, ends, settled, early: BTreeSet::new() }
                } else {
                    At::Intend { job, epoch }
                }
            }
            Claimed::Cancelled => state.drop_cancelled(job, &item)?,
            Claimed::Lost(Standing::Held { .. } | Standing::Free) => At::Idle,
            Claimed::Lost(Standing::Finished) => At::Acknowledge { work },
            Claimed::Lost(Standing::Abandoned(ends)) => state.ended(job, ends),
        })
    }

    /// The three steps of `crates/ingress/src/app/cancel.rs`.
    fn cancel(&self, state: &mut State) -> Option<()> {
        let refused = |marked: bool, next| if marked { next } else { Cancelling::Over };
        state.cancelling = match state.cancelling {
            Cancelling::Possible => {
                let pending = state.delivery().parts().iter().all(|part| *part == PartState::Pending);
                if state.now >= self.expires || !pending || state.delivery().outcome().is_some() {
                    Cancelling::Over
                } else {
                    let next = if self.rules.cancel_at_once { Cancelling::Told } else { Cancelling::Marked };
                    refused(state.ledger.cancel()?, next)
                }
            }
            Cancelling::Marked => {
                state.tell(EventKind::Cancelled);
                Cancelling::Logged
            }
            Cancelling::Logged => refused(state.ledger.cancel()?, Cancelling::Told),
            Cancelling::Told | Cancelling::Over => return None,
        };
        Some(())
    }

    /// The steps of `app/receipts.rs`.
    fn receipt(&self, state: &mut State, key: Key) -> Option<()> {
        let next = match state.carrier.get(&key)?.receipt {
            Receipt::Unsent => Receipt::Found { tied: state.ledger.receipt(key)? },
            Receipt::Found { .. } if self.rules.answer_first => Receipt::Answered,
            Receipt::Found { tied: true } => {
                state.tell_receipts(&BTreeSet::from([key]));
                Receipt::Answered
            }
            Receipt::Found { tied: false } => {
                state.log.push(Arc::new(Record::Parked(key)));
                Receipt::Logged
            }
            Receipt::Logged => {
                if state.ledger.receipt(key)? {
                    state.tell_receipts(&BTreeSet::from([key]));
                }
                Receipt::Answered
            }
            Receipt::Answered => return None,
        };
        state.carrier.get_mut(&key)?.receipt = next;
        Some(())
    }
}

impl State {
    /// A message that only this connector has, or is about to: it was held up beyond its lease, somebody else took the
    /// attempt for abandoned and concludes it as doubt, and then the carrier's answer, that it refused, was found after
    /// all. From the record of that until it is given back it must not die. That is not covered (docs/INVARIANTS.md,
    /// INV-2), and left out here.
    fn only_copy(&self, index: usize) -> Option<&WorkItem> {
        let At::Back { job, back, .. } = &self.connectors[index].at else { return None };
        let others = self.connectors.iter().enumerate().filter(|(other, _)| *other != index);
        let concludes = |at: &At| work_of(at) == Some(job.work) && !matches!(at, At::Claim { .. });
        let by = self.works[job.work].acknowledged;
        let gone = by.is_some_and(|by| by != By::Connector(index));
        (gone || others.into_iter().any(|(_, other)| concludes(&other.at))).then_some(back)
    }

    pub(super) fn in_hand_alone(&self) -> impl Iterator<Item = &WorkItem> {
        (0..self.connectors.len()).filter_map(|index| self.only_copy(index))
    }

    pub(super) fn item(&self, job: &Job) -> Arc<WorkItem> {
        Arc::clone(&self.works[job.work].item)
    }

    fn ended(&self, job: Job, ends: Vec<(u8, PartEnd)>) -> At {
        let item = self.item(&job);
        let account = item.account.clone().unwrap();
        let settled = settle(&item, &account, &ends, time(0));
        At::Note { job, ends, settled }
    }

    fn drop_cancelled(&self, job: Job, item: &WorkItem) -> Option<At> {
        let settled = cancel(item, item.account.as_ref()?, time(0));
        Some(At::Tell { job, ends: Vec::new(), settled, early: BTreeSet::new() })
    }

    /// Tells receipts that found their part; they are not parked any more.
    fn tell_receipts(&mut self, found: &BTreeSet<Key>) {
        for key in found {
            let account = self.account_of(key.0);
            let (state, error) = (ReceiptState::Delivered, String::new());
            self.tell(EventKind::Receipt { attempt: key.0, account, part: key.1, state, error });
            self.ledger.parked.remove(key);
        }
    }

    /// The account that wrote an attempt.
    fn account_of(&self, of: u16) -> sotto_core::AccountId {
        let written = self.events().find_map(|event| {
            let EventKind::Submitting { attempt, account, .. } = &event.kind else { return None };
            (*attempt == of).then(|| account.clone())
        });
        written.unwrap()
    }

    fn answer(&mut self, connector: usize, replies: &[Reply], late: bool) -> Option<()> {
        let At::Wait { job } = self.connectors.get(connector)?.at.clone() else { return None };
        let mut ends = Vec::new();
        for (key, reply) in keys(&self.item(&job)).into_iter().zip(replies) {
            let end = match reply {
                Reply::Taken => PartEnd::Submitted { carrier_id: id_of(key) },
                Reply::Refused => {
                    self.carrier.get_mut(&key)?.refused = true;
                    PartEnd::Refused { status: CommandStatus::ESME_RTHROTTLED.0 }
                }
                Reply::Nothing => {
                    if late {
                        self.connectors.get_mut(connector)?.late.insert(key, Late::Open);
                    }
                    PartEnd::NoResponse
                }
            };
            ends.push((key.1, end));
        }
        let at = self.ended(job, ends);
        self.connectors.get_mut(connector)?.at = at;
        Some(())
    }

    /// The steps of `Account::late_end`.
    fn answer_late(&mut self, connector: usize, key: Key) -> Option<()> {
        let account = self.account_of(key.0);
        let ends = [(key.1, PartEnd::Submitted { carrier_id: id_of(key) })];
        let token = Claim::late(&account);
        let next = match self.connectors.get(connector)?.late.get(&key)? {
            Late::Open => {
                let early = self.ledger.note(key.0, &ends, &token, self.now + LEASE, false);
                Some(Late::Noted { early: !early.is_empty() })
            }
            Late::Noted { early } => {
                let early = if *early { BTreeSet::from([key]) } else { BTreeSet::new() };
                let (attempt, part) = key;
                self.tell(EventKind::Submitted { attempt, account, part, carrier_id: id_of(key) });
                self.tell_receipts(&early);
                Some(Late::Told)
            }
            Late::Told => {
                let found = self.ledger.note(key.0, &ends, &token, 0, true);
                self.tell_receipts(&found);
                None
            }
        };
        let late = &mut self.connectors.get_mut(connector)?.late;
        match next {
            Some(next) => late.insert(key, next),
            None => late.remove(&key),
        };
        Some(())
    }

    /// What routing does with a message that came back: it tells, it moves, it acknowledges.
    fn route(&mut self, work: usize, crash: bool, expires: i64) -> Option<()> {
        let mut item = self.works.get(work)?.item.as_ref().clone();
        if self.now >= expires {
            self.tell(EventKind::Expired { cause: ExpiryCause::Validity });
        } else {
            let last = item.history.last()?.clone();
            item.attempt = last.number + 1;
            item.account = Some(last.account.clone());
            item.not_before = None;
            let (attempt, account) = (item.attempt, last.account);
            self.tell(EventKind::Routed { attempt, account, table_version: String::new() });
            self.works.push(Work { item: Arc::new(item), acknowledged: None });
        }
        if crash {
            self.crashes = self.crashes.checked_sub(1)?;
        } else {
            self.works.get_mut(work)?.acknowledged = Some(By::Routing);
        }
        Some(())
    }
}

fn id_of((attempt, part): Key) -> String {
    format!("{attempt}{part}")
}
