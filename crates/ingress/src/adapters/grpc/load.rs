//! How much one process has under way: bounded as a whole, and promotional messages to half of it, so that a campaign
//! never takes the place of one-time codes (MSG-8).

use std::sync::Arc;

use sotto_core::{Lane, MessageClass};
use sotto_metrics::Counter;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::error::Refusal;

/// The places of messages. Clones share them.
#[derive(Clone, Debug)]
pub struct Load {
    all: Arc<Semaphore>,
    promotional: Arc<Semaphore>,
    in_flight: usize,
    refused: Counter,
}

/// The place of one message, until this is dropped.
#[derive(Debug)]
pub struct Place {
    _promotional: Option<OwnedSemaphorePermit>,
    _any: OwnedSemaphorePermit,
}

impl Load {
    /// So many, of which promotional messages get half. Counts what is refused for want of a place.
    pub fn new(in_flight: usize, refused: Counter) -> Self {
        let places = |count: usize| Arc::new(Semaphore::new(count));
        Self { all: places(in_flight), promotional: places(in_flight.div_ceil(2)), in_flight, refused }
    }

    /// How many may be under way.
    pub const fn most(&self) -> usize {
        self.in_flight
    }

    /// Messages under way.
    pub fn under_way(&self) -> usize {
        self.in_flight.saturating_sub(self.all.available_permits())
    }

    /// That there is no room, for whoever looked for another kind of room.
    pub(in crate::adapters) fn overloaded(&self) -> Refusal {
        self.refused.one();
        Refusal::Overloaded
    }

    /// A place now, if there is one. A request whose class is not known is refused soon and takes any.
    pub fn try_take(&self, class: Option<MessageClass>) -> Result<Place, Refusal> {
        self.free(class).ok_or_else(|| self.overloaded())
    }

    fn free(&self, class: Option<MessageClass>) -> Option<Place> {
        let promotional = if is_promotional(class) {
            Some(Arc::clone(&self.promotional).try_acquire_owned().ok()?)
        } else {
            None
        };
        let any = Arc::clone(&self.all).try_acquire_owned().ok()?;
        Some(Place { _promotional: promotional, _any: any })
    }

    /// A place, as soon as there is one. Never `None`: nobody closes the semaphores.
    pub(super) async fn take(&self, class: Option<MessageClass>) -> Option<Place> {
        // First the scarcer, so that nobody holds a place for all while it waits for one of its lane.
        let promotional = if is_promotional(class) {
            Some(Arc::clone(&self.promotional).acquire_owned().await.ok()?)
        } else {
            None
        };
        let any = Arc::clone(&self.all).acquire_owned().await.ok()?;
        Some(Place { _promotional: promotional, _any: any })
    }
}

fn is_promotional(class: Option<MessageClass>) -> bool {
    class.is_some_and(|class| class.lane() == Lane::Promotional)
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;

    use super::*;

    #[test]
    fn promotional_messages_leave_half_to_the_others() {
        let refused = Counter::default();
        let load = Load::new(4, refused.clone());
        let campaign: Vec<_> =
            std::iter::from_fn(|| load.try_take(Some(MessageClass::Promotional)).ok()).collect();
        assert_eq!(campaign.len(), 2);
        assert!(load.try_take(Some(MessageClass::AdInvite)).is_err());
        assert!(load.take(Some(MessageClass::Promotional)).now_or_never().is_none());
        let codes: Vec<_> = std::iter::from_fn(|| load.try_take(Some(MessageClass::Otp)).ok()).collect();
        assert_eq!(codes.len(), 2);
        assert!(load.try_take(None).is_err());
        assert_eq!((load.under_way(), refused.get()), (4, 4));
        drop(campaign);
        assert!(load.take(Some(MessageClass::Promotional)).now_or_never().flatten().is_some());
    }
}
