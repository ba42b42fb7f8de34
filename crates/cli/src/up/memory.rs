//! Redis comes up, if need be with nothing.

use std::time::Duration;

use tokio::time::Instant;

use super::{LOOK, START, Supervisor, child::log_file, recipes};
use crate::{CliError, Tone, redis};

/// How long one look may take.
const PATIENCE: Duration = Duration::from_secs(1);

impl Supervisor<'_> {
    /// Starts Redis. What it cannot read is put away: a power cut leaves such files, and nothing in them is the only copy of
    /// anything.
    pub(super) async fn start_redis(&mut self) -> Result<(), CliError> {
        let Err(error) = self.launch_redis().await else { return Ok(()) };
        if self.check_newest().is_ok() || !self.recipes.set_redis_aside()? {
            return Err(error);
        }
        self.slots.pop();
        let event = serde_json::json!({ "event": "begins_anew", "process": "redis-server", "why": error.to_string() });
        self.say(&self.output.tone(Tone::Bad, &format!("redis-server begins anew: {error}")), &event);
        self.launch_redis().await
    }

    /// It takes connections before it has read its files: only an answer says that it could.
    async fn launch_redis(&mut self) -> Result<(), CliError> {
        let (recipe, address) = self.recipes.redis()?;
        self.launch(recipe)?;
        let until = Instant::now() + START;
        loop {
            let Err(why) = redis::ping(&self.dir, &recipes::https_address(&address), PATIENCE).await else {
                self.running.addresses.insert("redis".to_owned(), address);
                return Ok(());
            };
            self.check_newest()?;
            if Instant::now() >= until {
                return Err(CliError::new(format!("redis-server was not ready within {START:?}: {why}"))
                    .fix(format!("read {}", log_file(&self.dir, "redis-server").display())));
            }
            tokio::time::sleep(LOOK).await;
        }
    }
}
