//! A timeline of what the simulators do wrong: the files that `sotto-simulator --scenario` plays (docs/simulator.md), from
//! the start of the run at full speed.

use std::{path::Path, time::Duration};

use serde::Deserialize;
use serde_json::Value;
use tokio::time::{Instant, sleep_until};

use super::simulator::{self, Simulator};
use crate::{CliError, error::at};

/// Its steps, in their order.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Scenario {
    step: Vec<Step>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Step {
    at_ms: u64,
    behaviour: Option<Value>,
    act: Option<Act>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Act {
    DropLinks,
    Unbind,
    Recover,
}

impl Act {
    const fn path(self) -> &'static str {
        match self {
            Self::DropLinks => "/drop-links",
            Self::Unbind => "/unbind",
            Self::Recover => "/recover",
        }
    }
}

impl Scenario {
    pub(super) fn read(path: &Path) -> Result<Self, CliError> {
        let text = std::fs::read_to_string(path).map_err(at(path))?;
        toml::from_str(&text).map_err(|error| {
            CliError::caused_by(format!("{} is no scenario", path.display()), &error)
                .fix("docs/simulator.md shows one")
        })
    }

    /// Has simulators that nobody uses yet try each behaviour, so that what makes no sense is told before anything runs.
    pub(super) async fn try_out(&self, simulators: &[Simulator]) -> Result<(), CliError> {
        for behaviour in self.step.iter().filter_map(|step| step.behaviour.as_ref()) {
            simulator::post(simulators, "/behaviour", behaviour).await?;
        }
        simulator::post(simulators, Act::Recover.path(), &Value::Null).await
    }

    /// Plays it from now to its end.
    pub(super) async fn play(&self, simulators: &[Simulator]) -> Result<(), CliError> {
        let start = Instant::now();
        for Step { at_ms, behaviour, act } in &self.step {
            sleep_until(start + Duration::from_millis(*at_ms)).await;
            if let Some(act) = act {
                simulator::post(simulators, act.path(), &Value::Null).await?;
            }
            if let Some(behaviour) = behaviour {
                simulator::post(simulators, "/behaviour", behaviour).await?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_the_simulator_reads() {
        let read = |text: &str| {
            let folder = tempfile::tempdir().unwrap();
            let file = folder.path().join("scenario.toml");
            std::fs::write(&file, text).unwrap();
            Scenario::read(&file)
        };
        let good = "[[step]]\nat_ms = 10_000\nbehaviour = { throttle_per_second = 50 }\n[[step]]\nat_ms = 30_000\nact = \"drop-links\"";
        let steps = read(good).unwrap().step;
        assert_eq!(steps.len(), 2);
        assert_eq!((steps[1].at_ms, steps[1].act), (30_000, Some(Act::DropLinks)));
        for bad in ["", "[[step]]\nact = \"unbind\"", "[[step]]\nat_ms = 1\nact = \"explode\""] {
            assert!(read(bad).unwrap_err().to_string().contains("is no scenario"), "{bad}");
        }
    }
}
