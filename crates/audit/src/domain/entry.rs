//! What a leaf says.

use sotto_core::{Classified, ErrorClass};
use sotto_tlog::Hash;

use super::ClosingBalance;

/// A leaf of the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Entry {
    /// An act told by a service.
    Act(Act),
    /// A range of the EVENTS stream.
    EventRange(EventRange),
    /// A hole in a producer's numbering.
    Gap(Gap),
    /// What became of events that may go or have gone.
    ClosingBalance(ClosingBalance),
}

/// An act told by a service; only names and ids, nothing personal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Act {
    /// `<service>/<instance>`.
    pub producer: String,
    /// The producer's own count, from 1.
    pub sequence: u64,
    /// When, whole seconds since the Unix epoch.
    pub at_s: i64,
    /// Which kind.
    pub category: Category,
    /// What was done.
    pub action: String,
    /// Who did it.
    pub actor: String,
    /// The tenant concerned; empty for the cell itself.
    pub tenant: String,
    /// What it was done to; may be empty.
    pub object: String,
    /// `ok` or a stable error name.
    pub outcome: String,
}

/// The kinds of acts; each has a subject `audit.<service>.<category>`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Category {
    /// Tokens, sign-ins, clients.
    Authentication,
    /// Keys made, used, destroyed.
    Keys,
    /// Changes of configuration.
    Configuration,
    /// Handling of message content.
    Payload,
    /// Processes starting and stopping, backups, rebuilds.
    Lifecycle,
}

impl Category {
    const ALL: [Self; 5] =
        [Self::Authentication, Self::Keys, Self::Configuration, Self::Payload, Self::Lifecycle];

    /// Its name.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Authentication => "authentication",
            Self::Keys => "keys",
            Self::Configuration => "configuration",
            Self::Payload => "payload",
            Self::Lifecycle => "lifecycle",
        }
    }

    /// The category of this name.
    #[must_use]
    pub fn of(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|category| category.as_str() == name)
    }
}

impl Act {
    /// Checks what a service told. Every field is a name or an id: bounded, visible ASCII, so that no free text
    /// (and nobody's words) can get into a log that nothing is ever removed from.
    ///
    /// # Errors
    /// [`InvalidAct`] with the field's name.
    pub fn check(self) -> Result<Self, InvalidAct> {
        let name = |text: &str, max: usize| {
            (1..=max).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic())
        };
        let optional = |text: &str, max: usize| text.is_empty() || name(text, max);
        let (service, instance) = self.producer.split_once('/').unwrap_or_default();
        for (field, valid) in [
            ("producer", name(service, 32) && name(instance, 64)),
            ("sequence", self.sequence > 0),
            ("at_s", self.at_s > 0),
            ("action", name(&self.action, 64)),
            ("actor", name(&self.actor, 128)),
            ("tenant", optional(&self.tenant, 40)),
            ("object", optional(&self.object, 200)),
            ("outcome", name(&self.outcome, 64)),
        ] {
            if !valid {
                return Err(InvalidAct { field });
            }
        }
        Ok(self)
    }
}

/// A record that no entry can be made of; it never gets better.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the record's {field} is missing, too long or not a name")]
pub struct InvalidAct {
    /// Which field.
    pub field: &'static str,
}

impl Classified for InvalidAct {
    fn class(&self) -> ErrorClass {
        ErrorClass::Poison
    }
}

/// Every batch stored in EVENTS from `first` to `last`, by one Merkle root. Ranges follow one another without a hole
/// from sequence 1, so a batch that the broker no longer had when it was its turn shows in `batches`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EventRange {
    /// First stream sequence.
    pub first: u64,
    /// Last stream sequence.
    pub last: u64,
    /// Root over the batches in stream order, leaf `SHA-256(0x00 || stored bytes)`.
    pub root: Hash,
    /// Number of batches.
    pub batches: u64,
}

/// Numbers of a producer that never came, or come later as acts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gap {
    /// The producer.
    pub producer: String,
    /// First missing number.
    pub first: u64,
    /// Last missing number.
    pub last: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn act() -> Act {
        Act {
            producer: "identity/0011223344556677".to_owned(),
            sequence: 1,
            at_s: 1_795_493_815,
            category: Category::Authentication,
            action: "token.issued".to_owned(),
            actor: "client-1".to_owned(),
            tenant: "acme".to_owned(),
            object: String::new(),
            outcome: "ok".to_owned(),
        }
    }

    #[test]
    fn names_pass_and_text_does_not() {
        assert!(act().check().is_ok());
        type Spoil = fn(&mut Act);
        let cases: [(&str, Spoil); 12] = [
            ("producer", |a| a.producer = "identity".to_owned()),
            ("producer", |a| a.producer = "/x".to_owned()),
            ("producer", |a| a.producer = "identity/".to_owned()),
            ("producer", |a| a.producer = format!("identity/{}", "x".repeat(65))),
            ("sequence", |a| a.sequence = 0),
            ("at_s", |a| a.at_s = 0),
            ("action", |a| a.action = "two words".to_owned()),
            ("actor", |a| a.actor = String::new()),
            ("tenant", |a| a.tenant = "t".repeat(41)),
            ("object", |a| a.object = "m\u{e3}".to_owned()),
            ("object", |a| a.object = "line\nbreak".to_owned()),
            ("outcome", |a| a.outcome = String::new()),
        ];
        for (field, spoil) in cases {
            let mut spoiled = act();
            spoil(&mut spoiled);
            assert_eq!(spoiled.check(), Err(InvalidAct { field }));
        }
    }

    #[test]
    fn categories_have_one_name_each() {
        for category in Category::ALL {
            assert_eq!(Category::of(category.as_str()), Some(category));
        }
        assert_eq!(Category::of("Keys"), None);
    }
}
