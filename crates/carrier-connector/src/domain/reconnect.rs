//! When to bind again.

use std::time::Duration;

use sotto_smpp::CommandStatus;

const FIRST: Duration = Duration::from_secs(1);
const LONGEST: Duration = Duration::from_secs(60);

/// Why there is no bind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Failure {
    /// The carrier cannot be reached, or the session ended.
    Link,
    /// The carrier does not know our name or password, or refuses to let us in: only people can mend it.
    Credentials,
    /// The carrier refused for another reason.
    Refused,
}

impl Failure {
    /// What a status in the answer to a bind means (SMPP 3.4 §5.1.3).
    pub(crate) const fn of_bind(status: CommandStatus) -> Self {
        match status {
            CommandStatus::ESME_RINVPASWD
            | CommandStatus::ESME_RINVSYSID
            | CommandStatus::ESME_RBINDFAIL
            | CommandStatus::ESME_RINVSYSTYP => Self::Credentials,
            _ => Self::Refused,
        }
    }
}

/// Pauses between binds: doubling from 1 s to 60 s, of which up to a half is chance. Wrong credentials wait 60 s at
/// once, since carriers lock accounts that knock too often.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Reconnect {
    failures: u32,
}

impl Reconnect {
    /// A bind worked.
    pub(crate) const fn bound(&mut self) {
        self.failures = 0;
    }

    /// A bind failed or ended: how long to wait. `chance` is any number.
    pub(crate) fn pause(&mut self, failure: Failure, chance: u64) -> Duration {
        let doublings = self.failures.min(6);
        self.failures = self.failures.saturating_add(1);
        let full = match failure {
            Failure::Link | Failure::Refused => FIRST.saturating_mul(1 << doublings).min(LONGEST),
            Failure::Credentials => LONGEST,
        };
        let millis = u64::try_from(full.as_millis()).unwrap_or(u64::MAX);
        Duration::from_millis(millis - chance % (millis / 2 + 1))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn wrong_credentials_are_told_apart() {
        assert_eq!(Failure::of_bind(CommandStatus::ESME_RINVPASWD), Failure::Credentials);
        assert_eq!(Failure::of_bind(CommandStatus::ESME_RALYBND), Failure::Refused);
    }

    proptest! {
        #[test]
        fn pauses_grow_within_bounds(chances: [u64; 12]) {
            let mut reconnect = Reconnect::default();
            for (index, chance) in chances.into_iter().enumerate() {
                let full = (1_u64 << index.min(6)).min(60);
                let pause = reconnect.pause(Failure::Link, chance);
                prop_assert!(pause >= Duration::from_millis(full * 500) && pause <= Duration::from_secs(full));
            }
            prop_assert!(reconnect.pause(Failure::Credentials, chances[0]) >= Duration::from_secs(30));
            reconnect.bound();
            prop_assert!(reconnect.pause(Failure::Link, chances[0]) <= Duration::from_secs(1));
        }
    }
}
