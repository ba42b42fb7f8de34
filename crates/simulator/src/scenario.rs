//! A scenario: what the carrier does at which time, read from a TOML file.
//!
//! ```toml
//! [[step]]
//! at_ms = 10_000                              # from the start of the scenario
//! behaviour = { throttle_per_second = 50 }    # as for POST /behaviour
//!
//! [[step]]
//! at_ms = 30_000
//! act = "drop-links"                          # drop-links | unbind | recover: behave as at the start
//! ```

use std::time::Duration;

use serde::Deserialize;
use serde_json::Value;
use sotto_core::{Classified, ErrorClass};
use tokio::time::{Instant, sleep_until};

use crate::{behaviour::BehaviourError, simulator::Handle};

/// The steps of a scenario, in the order of their times.
#[derive(Clone, Debug, PartialEq)]
pub struct Scenario {
    steps: Vec<Step>,
}

/// What happens at one time.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
struct Step {
    /// Milliseconds from the start of the scenario.
    at_ms: u64,
    /// Fields of the behaviour to change.
    #[serde(default)]
    behaviour: Option<Value>,
    /// What to do besides, before the behaviour changes.
    #[serde(default)]
    act: Option<Act>,
}

/// What a carrier does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Act {
    /// Cuts every link as it stands.
    DropLinks,
    /// Unbinds every link in order.
    Unbind,
    /// Behaves as at the start.
    Recover,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    step: Vec<Step>,
}

/// Why a scenario cannot be played.
#[derive(Debug, thiserror::Error)]
pub enum ScenarioError {
    /// It is not TOML of this form.
    #[error("the scenario cannot be read")]
    Form(#[source] Box<toml::de::Error>),
    /// A step does nothing.
    #[error("step {0} does nothing: give it a behaviour or an act")]
    Empty(usize),
    /// A step comes before the one above it.
    #[error("step {0} comes before the one above it: order steps by at_ms")]
    Order(usize),
    /// A step's behaviour makes no sense.
    #[error("the behaviour of step {number}")]
    Behaviour {
        /// Which step, from 1.
        number: usize,
        /// Why.
        #[source]
        source: BehaviourError,
    },
}

impl Classified for ScenarioError {
    fn class(&self) -> ErrorClass {
        ErrorClass::Reject
    }
}

impl Scenario {
    /// Reads a scenario; every step is tried on the behaviour that the simulator starts with.
    pub fn parse(text: &str, initial: &crate::Behaviour) -> Result<Self, ScenarioError> {
        let File { step: steps } =
            toml::from_str(text).map_err(|error| ScenarioError::Form(Box::new(error)))?;
        let mut before = 0;
        let mut behaviour = initial.clone();
        for (number, step) in (1..).zip(&steps) {
            if step.behaviour.is_none() && step.act.is_none() {
                return Err(ScenarioError::Empty(number));
            }
            if step.at_ms < before {
                return Err(ScenarioError::Order(number));
            }
            before = step.at_ms;
            if step.act == Some(Act::Recover) {
                behaviour = initial.clone();
            }
            if let Some(patch) = &step.behaviour {
                behaviour = behaviour
                    .patched(patch.clone())
                    .map_err(|source| ScenarioError::Behaviour { number, source })?;
            }
        }
        Ok(Self { steps })
    }

    /// Plays it to its end.
    pub async fn play(self, handle: Handle) -> Result<(), BehaviourError> {
        let start = Instant::now();
        for Step { at_ms, behaviour, act } in self.steps {
            sleep_until(start + Duration::from_millis(at_ms)).await;
            match act {
                Some(Act::DropLinks) => handle.drop_links(),
                Some(Act::Unbind) => handle.unbind(),
                Some(Act::Recover) => handle.recover(),
                None => {}
            }
            if let Some(patch) = behaviour {
                // It was tried when it was read. Somebody changed the behaviour by hand meanwhile, and half a scenario must
                // not look like a whole one.
                handle.behave(patch)?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Behaviour;

    #[test]
    fn what_cannot_be_played_is_told() {
        let read = |text: &str| Scenario::parse(text, &Behaviour::default());
        let good = "[[step]]\nat_ms = 5\nbehaviour = { throttle_per_second = 3 }\n[[step]]\nat_ms = 9\nact = \"recover\"";
        assert_eq!(read(good).unwrap().steps.len(), 2);
        for (bad, word) in [
            ("[[step]]\nat_ms = 1", "does nothing"),
            ("[[step]]\nat_ms = 5\nact = \"unbind\"\n[[step]]\nat_ms = 4\nact = \"unbind\"", "step 2"),
            ("[[step]]\nat_ms = 5\nbehaviour = { garbage = 3.0 }", "behaviour of step 1"),
            ("[[step]]\nat_ms = 5\nact = \"explode\"", "cannot be read"),
            ("[[step]]\nat_ms = 5\nact = \"unbind\"\nwhen = 3", "cannot be read"),
        ] {
            let error = read(bad).unwrap_err().to_string();
            assert!(error.contains(word), "{bad}: {error}");
        }
    }
}
