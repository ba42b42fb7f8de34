//! What operators hold back: traffic that is stopped, accounts that are paused or drained.
//!
//! A stop keeps messages where they are; a pause or drain of an account sends them to other accounts.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    str::FromStr,
};

use crate::{
    AccountId, TenantId,
    restored::{Release, Restored},
};

/// The label of the digest that stands for a sender (docs/formats/envelope.md §3, without key).
pub const SENDER_LABEL: &str = "sotto.control.sender";

/// Stands for a sender: a digest, so that the broker need not hold its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SenderMark(pub [u8; 16]);

/// Text that is no mark of a sender.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a sender's mark is 32 hexadecimal digits in lower case")]
pub struct InvalidMark;

impl fmt::Display for SenderMark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|octet| write!(f, "{octet:02x}"))
    }
}

impl FromStr for SenderMark {
    type Err = InvalidMark;
    fn from_str(text: &str) -> Result<Self, InvalidMark> {
        let mark = u128::from_str_radix(text, 16).map(|number| Self(number.to_be_bytes()));
        mark.ok().filter(|mark| mark.to_string() == text).ok_or(InvalidMark)
    }
}

/// What may be stopped.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Target {
    /// Everything.
    All,
    /// The messages of one tenant.
    Tenant(TenantId),
    /// The messages with one sender.
    Sender(SenderMark),
    /// What goes to one carrier account.
    Account(AccountId),
}

/// A name without spaces, for the audit log too.
impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::All => f.write_str("all"),
            Self::Tenant(tenant) => write!(f, "tenant={tenant}"),
            Self::Sender(mark) => write!(f, "sender={mark}"),
            Self::Account(account) => write!(f, "carrier={account}"),
        }
    }
}

/// How an account is run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub enum Flow {
    /// It takes messages.
    #[default]
    Running,
    /// It takes none, and what waits for it goes to others. Its binds stay, so that receipts come.
    Paused,
    /// The same, and its binds end once their answers are here.
    Draining,
}

impl Flow {
    /// The word for people.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Draining => "draining",
        }
    }
}

/// One word of an operator.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Control {
    /// Something is stopped, or is not any more.
    Stop {
        /// What.
        target: Target,
        /// Whether it is.
        stopped: bool,
    },
    /// How an account is run.
    Flow {
        /// Which.
        account: AccountId,
        /// How.
        flow: Flow,
    },
    /// What a cell that was put back from a backup holds is let go.
    Release {
        /// Which time.
        restored: Restored,
        /// How.
        how: Release,
    },
}

/// All that operators hold back at a moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Controls {
    stopped: BTreeSet<Target>,
    flows: BTreeMap<AccountId, Flow>,
    released: BTreeMap<Restored, Release>,
}

impl FromIterator<Control> for Controls {
    /// Of several words on one thing the last counts.
    fn from_iter<I: IntoIterator<Item = Control>>(words: I) -> Self {
        let mut controls = Self::default();
        for word in words {
            match word {
                Control::Stop { target, stopped: true } => {
                    controls.stopped.insert(target);
                }
                Control::Stop { target, stopped: false } => {
                    controls.stopped.remove(&target);
                }
                Control::Flow { account, flow } => {
                    controls.flows.insert(account, flow);
                }
                Control::Release { restored, how } => {
                    controls.released.insert(restored, how);
                }
            }
        }
        controls
    }
}

impl Controls {
    /// Whether messages of this tenant with this sender are stopped wherever they are.
    pub fn stop(&self, tenant: &TenantId, sender: &SenderMark) -> bool {
        self.stop_tenant(tenant) || self.stopped.contains(&Target::Sender(*sender))
    }

    /// Whether everything of this tenant is.
    pub fn stop_tenant(&self, tenant: &TenantId) -> bool {
        self.stopped.contains(&Target::All) || self.stopped.contains(&Target::Tenant(tenant.clone()))
    }

    /// Whether any sender is: only then a sealed message must be opened to know whether it may go.
    pub fn stops_senders(&self) -> bool {
        self.stopped.iter().any(|target| matches!(target, Target::Sender(_)))
    }

    /// Whether nothing may go to this account.
    pub fn stop_account(&self, account: &AccountId) -> bool {
        self.stopped.contains(&Target::All) || self.stopped.contains(&Target::Account(account.clone()))
    }

    /// How this account is run.
    pub fn flow(&self, account: &AccountId) -> Flow {
        self.flows.get(account).copied().unwrap_or_default()
    }

    /// What was decided when the cell had been put back at this time; none: it is held.
    pub fn released(&self, restored: &Restored) -> Option<Release> {
        self.released.get(restored).copied()
    }

    /// What is stopped.
    pub fn stopped(&self) -> impl Iterator<Item = &Target> {
        self.stopped.iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn controls(words: Vec<Control>) -> Controls {
        words.into_iter().collect()
    }

    fn stop(target: Target, stopped: bool) -> Control {
        Control::Stop { target, stopped }
    }

    #[test]
    fn each_stop_holds_what_it_names_and_nothing_else() {
        let tenant: TenantId = "acme".parse().unwrap();
        let other: TenantId = "globex".parse().unwrap();
        let account: AccountId = "vina".parse().unwrap();
        let (mark, another) = (SenderMark([1; 16]), SenderMark([2; 16]));
        let ours = |controls: &Controls| {
            (controls.stop(&tenant, &mark), controls.stop(&other, &another), controls.stop_account(&account))
        };
        for (target, expected) in [
            (Target::All, (true, true, true)),
            (Target::Tenant(tenant.clone()), (true, false, false)),
            (Target::Sender(mark), (true, false, false)),
            (Target::Account(account.clone()), (false, false, true)),
        ] {
            let stopped = controls(vec![stop(target.clone(), true)]);
            assert_eq!(ours(&stopped), expected, "{target}");
            assert_eq!(stopped.stops_senders(), matches!(target, Target::Sender(_)));
            let lifted = controls(vec![stop(target.clone(), true), stop(target, false)]);
            assert_eq!(ours(&lifted), (false, false, false));
            assert_eq!(lifted, Controls::default());
        }
    }

    #[test]
    fn an_account_runs_unless_told_otherwise() {
        let account: AccountId = "vina".parse().unwrap();
        assert_eq!(Controls::default().flow(&account), Flow::Running);
        let flow = |flow| Control::Flow { account: account.clone(), flow };
        assert_eq!(controls(vec![flow(Flow::Paused)]).flow(&account), Flow::Paused);
        assert_eq!(controls(vec![flow(Flow::Paused), flow(Flow::Draining)]).flow(&account), Flow::Draining);
        assert_eq!(controls(vec![flow(Flow::Paused), flow(Flow::Running)]).flow(&account), Flow::Running);
    }

    #[test]
    fn marks_have_one_spelling() {
        for mark in [SenderMark([0; 16]), SenderMark([0xAB; 16])] {
            assert_eq!(mark.to_string().parse(), Ok(mark));
        }
        for wrong in ["", "ab", "AB", &"AB".repeat(16), &"0".repeat(31), &"0".repeat(33), "+0"] {
            assert_eq!(wrong.parse::<SenderMark>(), Err(InvalidMark), "{wrong}");
        }
    }
}
