//! How many messages a number has got today, by what stands for both.

use sotto_core::{Timestamp, index::Pseudonym};

use super::{Store, StoreError, key};

impl Store {
    /// Counts a message that a number gets. False: it has got `most` others until then. Asked twice of one message it says the
    /// same. Nothing of it is kept after `until`.
    ///
    /// # Errors
    /// When Redis does not answer.
    pub async fn count(
        &self,
        number: &Pseudonym,
        message: &[u8; 16],
        most: u32,
        until: Timestamp,
    ) -> Result<bool, StoreError> {
        let mut call = self.0.scripts.count.prepare_invoke();
        call.key(key::recipient(number)).arg(message.as_slice()).arg(most).arg(until.unix_millis());
        let mut connection = self.0.redis.connection();
        self.ask(call.invoke_async(&mut connection)).await
    }
}
