//! Claims: who may submit a part, and what is known of it (INV-5).
//!
//! A claim belongs to one (message, attempt, part) and goes `Claimed → Intent → end`. `Intent` is entered only when
//! the record of the intent is in the log and the claim still stands, and nothing is written before it. So a claim
//! that was left in `Claimed` was never written and may be taken over; one that was left in `Intent` may have been.
//!
//! A claim is not an account's: routing may decide an attempt twice, with two tables, and then it waits at two
//! accounts. Whoever claims it first submits it; its word says at which account.

use std::{fmt, str::FromStr, time::Duration};

use sotto_core::{AccountId, Timestamp, work::AttemptEnd};

/// How a part's attempt ended.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum PartEnd {
    /// The carrier took it.
    Submitted {
        /// The carrier's id in canonical form; empty if it gave none.
        carrier_id: String,
    },
    /// The carrier refused it.
    Refused {
        /// SMPP `command_status`.
        status: u32,
    },
    /// Written, and no answer came.
    NoResponse,
    /// Provably not written.
    Unsent {
        /// Why.
        end: AttemptEnd,
    },
}

/// Where a part's attempt stands.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum ClaimState {
    /// Somebody prepares to submit it.
    Claimed,
    /// It may have been written.
    Intent,
    /// It ended, and what follows from that is under way.
    Ended(PartEnd),
    /// It ended, and all that follows from it is stored.
    Done(PartEnd),
}

/// A claim as it is kept.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Claim {
    /// Whose it is: `<account>.<word>`, the word a random one for each claiming.
    pub(crate) token: String,
    /// Until then its owner is presumed to be at work, by the clock of Redis.
    pub(crate) until: Timestamp,
    /// Where it stands.
    pub(crate) state: ClaimState,
}

/// A claim that cannot be read: written by another version or by somebody else.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a claim in Redis is not of a known form")]
pub(crate) struct UnknownForm;

impl ClaimState {
    /// The letter and the detail that stand for it; the letter in capitals when all is done.
    pub(crate) fn words(&self) -> (char, String) {
        let (letter, detail) = match self {
            Self::Claimed => ('c', String::new()),
            Self::Intent => ('i', String::new()),
            Self::Ended(end) | Self::Done(end) => match end {
                PartEnd::Submitted { carrier_id } => ('s', carrier_id.clone()),
                PartEnd::Refused { status } => ('r', status.to_string()),
                PartEnd::NoResponse => ('n', String::new()),
                PartEnd::Unsent { end } => ('u', end.name().to_owned()),
            },
        };
        (if matches!(self, Self::Done(_)) { letter.to_ascii_uppercase() } else { letter }, detail)
    }
}

impl Claim {
    /// The token of one claiming.
    pub(crate) fn token(account: &AccountId, random: [u8; 8]) -> String {
        format!("{account}.{:016x}", u64::from_be_bytes(random))
    }

    /// The token of a claim whose end was learnt late.
    pub(crate) fn late(account: &AccountId) -> String {
        format!("{account}.late")
    }

    /// The token of claims that were restored from the log.
    pub(crate) fn restored_by(account: &AccountId) -> String {
        format!("{account}.restored")
    }

    fn is_of(&self, account: &AccountId) -> bool {
        self.token.split_once('.').is_some_and(|(of, _)| of == account.as_str())
    }
}

impl fmt::Display for Claim {
    /// `<state>|<token>|<until>|<detail>`
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (letter, detail) = self.state.words();
        write!(f, "{letter}|{}|{}|{detail}", self.token, self.until.unix_millis())
    }
}

impl FromStr for Claim {
    type Err = UnknownForm;

    fn from_str(text: &str) -> Result<Self, UnknownForm> {
        let mut fields = text.splitn(4, '|');
        let mut field = || fields.next().ok_or(UnknownForm);
        let (letter, token, until, detail) = (field()?, field()?, field()?, field()?);
        let end = || match letter.to_ascii_lowercase().as_str() {
            "s" => Ok(PartEnd::Submitted { carrier_id: detail.to_owned() }),
            "r" => detail.parse().map(|status| PartEnd::Refused { status }).map_err(|_| UnknownForm),
            "n" => Ok(PartEnd::NoResponse),
            "u" => {
                let end = ALL_ENDS.into_iter().find(|end| end.name() == detail);
                end.map(|end| PartEnd::Unsent { end }).ok_or(UnknownForm)
            }
            _ => Err(UnknownForm),
        };
        let state = match letter {
            "c" => ClaimState::Claimed,
            "i" => ClaimState::Intent,
            _ if letter.chars().all(char::is_uppercase) => ClaimState::Done(end()?),
            _ => ClaimState::Ended(end()?),
        };
        let until = until.parse().map(Timestamp::from_unix_millis).map_err(|_| UnknownForm)?;
        Ok(Self { token: token.to_owned(), until, state })
    }
}

const ALL_ENDS: [AttemptEnd; 4] =
    [AttemptEnd::Throttled, AttemptEnd::Refused, AttemptEnd::LinkDown, AttemptEnd::NotAllowed];

/// What the claims of an item's parts mean for somebody to whom the item is delivered and who did not get it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    /// Nobody holds it: it may be claimed.
    Free,
    /// Somebody is at work: ask again.
    Held {
        /// After this time.
        after: Duration,
    },
    /// Everything that follows from its end is stored, or will be by the account that began it: this delivery is one
    /// too many.
    Finished,
    /// Its owner is gone. Each part's end as far as it is known: what follows from it is to be done again.
    Abandoned(Vec<(u8, PartEnd)>),
}

/// Judges the claims of one item for an account, part by part; `now` is the clock of Redis.
pub(crate) fn judge(claims: &[(u8, Option<Claim>)], account: &AccountId, now: Timestamp) -> Standing {
    let settled = |claim: &Option<Claim>| matches!(claim, Some(Claim { state: ClaimState::Done(_), .. }));
    if claims.iter().all(|(_, claim)| settled(claim)) && !claims.is_empty() {
        return Standing::Finished;
    }
    let held = claims.iter().filter(|(_, claim)| !settled(claim)).filter_map(|(_, claim)| claim.as_ref());
    if let Some(until) = held.map(|claim| claim.until).max().filter(|until| *until > now) {
        return Standing::Held { after: until.since(now) };
    }
    let written =
        |claim: &Option<Claim>| claim.as_ref().is_some_and(|claim| claim.state != ClaimState::Claimed);
    if !claims.iter().any(|(_, claim)| written(claim)) {
        return Standing::Free;
    }
    // The account that began the attempt has a copy of the item until it has concluded it, and only there are the
    // carrier's ids and receipts. This copy goes.
    let elsewhere = |claim: &Option<Claim>| claim.as_ref().is_some_and(|claim| !claim.is_of(account));
    if claims.iter().any(|(_, claim)| written(claim) && elsewhere(claim)) {
        return Standing::Finished;
    }
    let end = |claim: &Option<Claim>| match claim.as_ref().map(|claim| &claim.state) {
        Some(ClaimState::Ended(end) | ClaimState::Done(end)) => end.clone(),
        // Parts of one item pass to intent together: one without a trace beside one that has it is in doubt too.
        Some(ClaimState::Intent | ClaimState::Claimed) | None => PartEnd::NoResponse,
    };
    Standing::Abandoned(claims.iter().map(|(part, claim)| (*part, end(claim))).collect())
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, option, prelude::*};

    use super::*;

    fn end() -> impl Strategy<Value = PartEnd> {
        prop_oneof![
            "[0-9a-z|]{0,20}".prop_map(|carrier_id| PartEnd::Submitted { carrier_id }),
            any::<u32>().prop_map(|status| PartEnd::Refused { status }),
            Just(PartEnd::NoResponse),
            prop::sample::select(&ALL_ENDS[..]).prop_map(|end| PartEnd::Unsent { end }),
        ]
    }

    fn state() -> impl Strategy<Value = ClaimState> {
        prop_oneof![
            Just(ClaimState::Claimed),
            Just(ClaimState::Intent),
            end().prop_map(ClaimState::Ended),
            end().prop_map(ClaimState::Done),
        ]
    }

    fn claim() -> impl Strategy<Value = Claim> {
        ("(a|b)\\.[0-9a-f]{16}", 0_i64..2_000, state()).prop_map(|(token, until, state)| Claim {
            token,
            until: Timestamp::from_unix_millis(until),
            state,
        })
    }

    #[test]
    fn foreign_text_is_refused() {
        for text in ["", "c", "c|t|1", "x|t|1|", "c|t|x|", "r|t|1|no", "u|t|1|gone", "S|t"] {
            assert_eq!(text.parse::<Claim>(), Err(UnknownForm), "{text}");
        }
    }

    proptest! {
        #[test]
        fn claims_survive_text(claim in claim()) {
            prop_assert_eq!(claim.to_string().parse::<Claim>(), Ok(claim));
        }

        #[test]
        fn only_what_was_never_written_is_free(claims in vec(option::of(claim()), 1..4), now in 0_i64..2_000) {
            let now = Timestamp::from_unix_millis(now);
            let claims: Vec<_> = (1_u8..).zip(claims).collect();
            let untouched = claims.iter().all(|(_, claim)| {
                claim.as_ref().is_none_or(|claim| claim.state == ClaimState::Claimed && claim.until <= now)
            });
            let ours: AccountId = "a".parse().unwrap();
            match judge(&claims, &ours, now) {
                Standing::Free => prop_assert!(untouched),
                Standing::Held { after } => {
                    let (_, latest) = claims.iter().max_by_key(|(_, claim)| claim.as_ref().map(|c| c.until)).unwrap();
                    prop_assert!(after > Duration::ZERO && latest.as_ref().unwrap().until >= now.plus(after));
                }
                Standing::Finished => {
                    let done = |claim: &Claim| matches!(claim.state, ClaimState::Done(_));
                    let all = claims.iter().all(|(_, claim)| claim.as_ref().is_some_and(done));
                    let begun = |claim: &Claim| claim.state != ClaimState::Claimed && !claim.is_of(&ours);
                    prop_assert!(all || claims.iter().flat_map(|(_, claim)| claim).any(begun));
                }
                Standing::Abandoned(ends) => {
                    prop_assert!(!untouched);
                    // What another account began is never concluded here.
                    let ours = |claim: &Claim| claim.state == ClaimState::Claimed || claim.is_of(&ours);
                    let all = claims.iter().flat_map(|(_, claim)| claim).all(ours);
                    prop_assert!(all);
                    for ((_, claim), (_, end)) in claims.iter().zip(ends) {
                        // A known end is kept; an unknown one is doubt, never "not written".
                        match claim.as_ref().map(|claim| &claim.state) {
                            Some(ClaimState::Ended(known) | ClaimState::Done(known)) => prop_assert_eq!(known, &end),
                            _ => prop_assert_eq!(end, PartEnd::NoResponse),
                        }
                    }
                }
            }
        }
    }
}
