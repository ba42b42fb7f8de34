//! Redis comes up with nothing in it.

use std::time::Duration;

use tokio::time::Instant;

use super::{LOOK, START, Supervisor, child::log_file, recipes};
use crate::{CliError, redis};

/// How long one look may take.
const PATIENCE: Duration = Duration::from_secs(1);

impl Supervisor<'_> {
    /// Starts Redis, with nothing in it. It takes connections before it has read its configuration whole: only an answer says
    /// that it runs.
    pub(super) async fn start_redis(&mut self) -> Result<(), CliError> {
        self.recipes.clear_redis()?;
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
