//! Sends what is due: moves scheduled messages to intake, second by second, at every process of the cell.

use std::{sync::Arc, time::Duration};

use sotto_bus::{Schedule, ScheduleError};
use sotto_core::{Clock, Facts};
use sotto_runtime::telemetry::chain;
use tokio::time::{Instant, sleep};

/// How often it is looked whether a second has begun.
const LOOK: Duration = Duration::from_millis(250);

/// How far back is looked at the start. What is older has expired.
const BACK: Duration = Duration::from_secs(Facts::MAX_AHEAD.as_secs() + 4 * 86_400);

/// How often, and how far back, it is looked again: a clock may have been set back and forth.
const AGAIN: Duration = Duration::from_secs(60);
const AGAIN_BACK: u32 = 180;

/// Moves what is due.
#[derive(Debug)]
pub struct Scheduler {
    schedule: Schedule,
    clock: Arc<dyn Clock>,
    /// Everything up to this second is moved.
    done: Option<u32>,
    looked_back: Instant,
}

impl Scheduler {
    /// A scheduler that has moved nothing yet.
    pub fn new(schedule: Schedule, clock: Arc<dyn Clock>) -> Self {
        Self { schedule, clock, done: None, looked_back: Instant::now() }
    }

    /// Moves what is due now. Returns how many batches.
    ///
    /// # Errors
    /// When something of it stays: the next look goes on.
    pub async fn look(&mut self) -> Result<usize, ScheduleError> {
        let now = u32::try_from(self.clock.now().unix_seconds()).unwrap_or(u32::MAX);
        let moved = match self.done {
            None => self.schedule.catch_up(now, BACK).await?,
            Some(_) if self.looked_back.elapsed() >= AGAIN => {
                let moved = self.schedule.release(now.saturating_sub(AGAIN_BACK)..=now).await?;
                self.looked_back = Instant::now();
                moved
            }
            Some(done) => self.schedule.release(done.saturating_add(1)..=now).await?,
        };
        self.done = Some(now);
        Ok(moved)
    }

    /// Looks again and again. Never returns.
    pub async fn run(mut self) {
        let mut failing = false;
        loop {
            match self.look().await {
                Ok(_) => failing = false,
                Err(error) => {
                    if !std::mem::replace(&mut failing, true) {
                        tracing::warn!(error = chain(&error), "scheduled messages that are due wait");
                    }
                }
            }
            sleep(LOOK).await;
        }
    }
}
