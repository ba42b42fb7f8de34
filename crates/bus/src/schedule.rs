//! Messages that wait for their time, by the second (docs/adr/0010-scheduled-messages.md).

use std::{ops::RangeInclusive, time::Duration};

use async_nats::StatusCode;
use serde_json::json;
use sotto_core::{Classified, ErrorClass, Timestamp};
use tokio::time::Instant;

use crate::{
    Bus, PublishError, Subject,
    api::ApiError,
    publish::{Outgoing, names},
    read::stored,
    subject::prefix,
    topology::stream_name,
};

/// The stream, as the list writes it.
pub const SCHEDULED: &str = "SCHEDULED";

/// How long a move may take.
const ATTEMPT: Duration = Duration::from_secs(5);
const DEADLINE: Duration = Duration::from_secs(20);

/// Sequence not found: somebody else deleted it.
const NO_SEQUENCE: u64 = 10_043;

/// Why what is due is not moved. It stays where it is.
#[derive(Debug, thiserror::Error)]
pub enum ScheduleError {
    /// The broker refused or did not answer.
    #[error("scheduled messages cannot be read or deleted")]
    Api(#[source] ApiError),
    /// Intake does not take them.
    #[error("scheduled messages that are due cannot be moved")]
    Publish(#[source] PublishError),
}

impl Classified for ScheduleError {
    fn class(&self) -> ErrorClass {
        match self {
            Self::Api(error) => error.class(),
            Self::Publish(error) => error.class(),
        }
    }
}

/// Where messages wait for their time.
#[derive(Clone, Debug)]
pub struct Schedule {
    bus: Bus,
    stream: String,
}

/// A second since the Unix epoch.
pub fn second(at: Timestamp) -> u32 {
    // Rounded up: nothing is sent before its time.
    u32::try_from(at.unix_millis().saturating_add(999).div_euclid(1_000)).unwrap_or(u32::MAX)
}

impl Schedule {
    /// The schedule of the bus's cell.
    pub fn new(bus: &Bus) -> Self {
        Self { bus: bus.clone(), stream: stream_name(&bus.cell().id, SCHEDULED) }
    }

    /// Moves all that is to be sent in one of these seconds. Returns how many batches.
    ///
    /// # Errors
    /// When something of it stays: the same question moves the rest.
    pub async fn release(&self, seconds: RangeInclusive<u32>) -> Result<usize, ScheduleError> {
        let mut moved = 0;
        for second in seconds {
            while self.move_first(&format!("{}.{second}.*.*", second / 3_600), second).await? {
                moved += 1;
            }
        }
        Ok(moved)
    }

    /// The same for everything before `until`, of which the oldest is `back` before it: one question an hour that holds
    /// nothing.
    ///
    /// # Errors
    /// As [`Self::release`].
    pub async fn catch_up(&self, until: u32, back: Duration) -> Result<usize, ScheduleError> {
        let first = until.saturating_sub(u32::try_from(back.as_secs()).unwrap_or(u32::MAX)) / 3_600;
        let mut moved = 0;
        for hour in first..until / 3_600 {
            while self.move_first(&format!("{hour}.*.*.*"), u32::MAX).await? {
                moved += 1;
            }
        }
        moved += self.release(until / 3_600 * 3_600..=until).await?;
        Ok(moved)
    }

    /// Moves the first batch of a filter; false: there is none.
    async fn move_first(&self, filter: &str, until: u32) -> Result<bool, ScheduleError> {
        let cell = self.bus.cell();
        let filter = format!("{}scheduled.{filter}", prefix(&cell.id));
        let api = format!("DIRECT.GET.{}", self.stream);
        let request = json!({ "seq": 1, "next_by_subj": filter });
        let message = self.bus.api_message(&api, &request).await.map_err(ScheduleError::Api)?;
        if message.status == Some(StatusCode::NOT_FOUND) {
            return Ok(false);
        }
        let header = |name: &str| {
            let headers = message.headers.as_ref()?;
            Some(headers.get_last(name)?.as_str().to_owned())
        };
        let (trace, items) = (header("traceparent"), header(names::ITEMS));
        let Some((message, _)) = stored(message) else { return Ok(false) };
        let to = match Subject::parse(&cell.id, cell.shards, &message.subject) {
            Some(Subject::Scheduled(second, lane, shard)) if second <= until => {
                Subject::Accepted(lane, shard)
            }
            Some(_) | None => return Ok(false),
        };
        // Moved by two processes, or again after a crash, it has the same name. Long after that it is a second record
        // of the same acceptance, which every reader knows as one.
        let mut outgoing =
            Outgoing::new(&self.bus, &to.in_cell(&cell.id), message.payload, 0, trace.as_deref());
        outgoing.headers.insert(names::MESSAGE_ID, format!("scheduled-{}", message.sequence).as_str());
        if let Some(items) = items {
            outgoing.headers.insert(names::ITEMS, items.as_str());
        }
        let moved = self.bus.store(&outgoing, ATTEMPT, Instant::now() + DEADLINE).await;
        moved.map_err(ScheduleError::Publish)?;
        self.delete(message.sequence).await?;
        Ok(true)
    }

    async fn delete(&self, sequence: u64) -> Result<(), ScheduleError> {
        let api = format!("STREAM.MSG.DELETE.{}", self.stream);
        // What is in it is sealed, and its key dies on time: no need to write over it.
        let request = json!({ "seq": sequence, "no_erase": true });
        match self.bus.api(&api, &request).await {
            Ok(_) => Ok(()),
            Err(ApiError::Refused { code: NO_SEQUENCE, .. }) => Ok(()),
            Err(error) => Err(ScheduleError::Api(error)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_waits_for_the_second_after_its_time() {
        let second = |millis| second(Timestamp::from_unix_millis(millis));
        assert_eq!((second(0), second(1), second(1_000), second(1_001)), (0, 1, 1, 2));
    }
}
