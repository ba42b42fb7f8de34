//! What must hold of every state, and what must be seen at least once.

use sotto_core::delivery::{self, EventKind, Outcome, PartState};
use stateright::{Model as _, Property};

use super::{At, Cancelling, Late, Receipt, State, World};
use crate::domain::claim::Standing;

pub(super) const ONCE: &str = "a part is written once an attempt, and never again after doubt (INV-5)";
pub(super) const DOUBT_STAYS: &str = "what may have been written is not free (INV-5, INV-9)";
pub(super) const NOTHING_DISAPPEARS: &str = "a part that no carrier has lies in a work queue (INV-2)";
pub(super) const LEGAL: &str = "every state is legal";
pub(super) const CANCELLED_IS_NOT_SENT: &str = "what is told to be cancelled is never written (ADR 0009)";
pub(super) const RECEIPTS_STAY: &str = "an answered receipt of a known id is told (INV-6)";
pub(super) const ENDS: &str = "every run reaches a named end (INV-2)";

const SENT: &str = "a carrier has it";
const EXPIRED: &str = "it expires";
const CANCELLED: &str = "it is cancelled";
const DELIVERED: &str = "a receipt finds it";
const AGAIN: &str = "another attempt is made";

/// What must be seen, or the search looks at nothing.
pub(super) fn examples(world: &World) -> Vec<&'static str> {
    let seen = [
        (SENT, world.expires > 0),
        (EXPIRED, true),
        (CANCELLED, world.cancel),
        (DELIVERED, world.receipts),
        (AGAIN, world.refusals),
    ];
    seen.into_iter().filter(|(_, expected)| *expected).map(|(example, _)| example).collect()
}

pub(super) fn all() -> Vec<Property<World>> {
    vec![
        Property::always(ONCE, |_: &World, state: &State| once(state)),
        Property::always(DOUBT_STAYS, |world: &World, state: &State| doubt_stays(world, state)),
        Property::always(NOTHING_DISAPPEARS, |_: &World, state: &State| nothing_disappears(state)),
        Property::always(LEGAL, |_: &World, state: &State| delivery::check(state.delivery()).is_none()),
        Property::always(CANCELLED_IS_NOT_SENT, |_: &World, state: &State| cancelled_is_not_sent(state)),
        Property::always(RECEIPTS_STAY, |_: &World, state: &State| receipts_stay(state)),
        Property::always(ENDS, ends),
        Property::sometimes(SENT, |_: &World, state: &State| {
            is(state, Outcome::Unknown) || is(state, Outcome::Delivered)
        }),
        Property::sometimes(EXPIRED, |_: &World, state: &State| is(state, Outcome::Expired)),
        Property::sometimes(CANCELLED, |_: &World, state: &State| state.cancelling == Cancelling::Told),
        Property::sometimes(DELIVERED, |_: &World, state: &State| is(state, Outcome::Delivered)),
        Property::sometimes(AGAIN, |_: &World, state: &State| state.delivery().attempt() > 1),
    ]
}

fn is(state: &State, outcome: Outcome) -> bool {
    state.delivery().outcome() == Some(outcome)
}

fn once(state: &State) -> bool {
    let parts: Vec<u8> = state.carrier.keys().map(|key| key.1).collect();
    let taken = |part: u8| {
        let taken = state.carrier.iter().filter(|(key, at)| key.1 == part && !at.refused && at.writes > 0);
        taken.count() <= 1
    };
    state.carrier.values().all(|at| at.writes <= 1) && parts.into_iter().all(taken)
}

/// Whoever asks, and however late.
fn doubt_stays(world: &World, state: &State) -> bool {
    if !state.ledger.ready {
        return true;
    }
    let written = state.carrier.iter().filter(|(_, at)| at.writes > 0).map(|(key, _)| *key);
    let all: Vec<_> = written.chain(state.ledger.restored.iter().copied()).collect();
    let items = state.works.iter().map(|work| work.item.as_ref());
    let mut items = items.filter(|item| {
        item.account.is_some() && item.wanted_parts().iter().any(|part| all.contains(&(item.attempt, *part)))
    });
    items.all(|item| {
        let free =
            |account| state.ledger.standing(&world.rules, item, account, world.end + 10) == Standing::Free;
        !world.accounts.iter().any(free)
    })
}

fn nothing_disappears(state: &State) -> bool {
    let delivery = state.delivery();
    if delivery.outcome().is_some() {
        return true;
    }
    let waits = |part: u8| {
        let queued =
            state.works.iter().filter(|work| work.acknowledged.is_none()).map(|work| work.item.as_ref());
        queued.chain(state.in_hand_alone()).any(|item| item.wanted_parts().contains(&part))
    };
    let mut pending = (1_u8..).zip(delivery.parts()).filter(|(_, state)| **state == PartState::Pending);
    pending.all(|(part, _)| waits(part))
}

fn cancelled_is_not_sent(state: &State) -> bool {
    state.cancelling != Cancelling::Told || state.carrier.values().all(|at| at.writes == 0)
}

/// Nobody has anything in hand.
fn is_quiet(state: &State) -> bool {
    let idle = state
        .connectors
        .iter()
        .all(|connector| connector.at == At::Idle && connector.late.values().all(|late| *late == Late::Open));
    idle && state.ledger.ready && state.works.iter().all(|work| work.acknowledged.is_some())
}

fn receipts_stay(state: &State) -> bool {
    let known = |key: (u16, u8)| {
        state.events().any(|event| {
            matches!(&event.kind, EventKind::Submitted { attempt, part, .. } if (*attempt, *part) == key)
        })
    };
    let told = |key: (u16, u8)| {
        state.events().any(|event| {
            matches!(&event.kind, EventKind::Receipt { attempt, part, .. } if (*attempt, *part) == key)
        })
    };
    let answered = state.carrier.iter().filter(|(_, at)| at.receipt == Receipt::Answered);
    !is_quiet(state) || answered.map(|(key, _)| *key).all(|key| !known(key) || told(key))
}

/// Where nothing can happen any more, all is acknowledged and ended.
fn ends(world: &World, state: &State) -> bool {
    if state.now < world.end || state.connectors.iter().any(|connector| connector.at != At::Idle) {
        return true;
    }
    let mut actions = Vec::new();
    world.actions(state, &mut actions);
    let over = actions.into_iter().all(|action| world.next_state(state, action).is_none());
    !over || (is_quiet(state) && state.delivery().outcome().is_some())
}
