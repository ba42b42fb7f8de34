//! The pulling loop: room first, then the most urgent message there is.

use std::{collections::VecDeque, sync::Arc};

use futures::future::select_all;
use sotto_proto::Batch;
use tokio::{
    sync::OwnedSemaphorePermit,
    time::{self, Duration},
};
use tokio_util::sync::CancellationToken;

use super::{
    Handler,
    message::Incoming,
    process::{Claim, Work},
    pull::{PAUSE, Pull},
};

/// The loop looks at everything this often even if nothing happens: a lost wake-up costs no more.
const LOOK: Duration = Duration::from_secs(5);
/// Pause before a message that was not started comes to someone else.
const GIVE_BACK: Duration = Duration::from_millis(10);
/// Batches asked for in one pull.
const MOST: usize = 256;

/// A consumer and what it delivered that has not started yet.
struct Lane {
    pull: Pull,
    held: VecDeque<Claim>,
}

pub(super) async fn run<B: Batch, H: Handler<B>>(
    work: Arc<Work<B, H>>,
    pulls: Vec<Pull>,
    stop: CancellationToken,
) {
    let mut lanes: Vec<_> = pulls.into_iter().map(|pull| Lane { pull, held: VecDeque::new() }).collect();
    while !stop.is_cancelled() {
        let Some((permit, room)) = room(&work, &mut lanes, &stop).await else { break };
        if !start_most_urgent(&work, &mut lanes, permit, room).await {
            wait_for_messages(&work, &mut lanes, &stop).await;
        }
    }
    for (index, lane) in lanes.into_iter().enumerate() {
        let ack_wait = lane.pull.ack_wait;
        let sent = lane.pull.close().await;
        let late = sent.into_iter().filter_map(|message| work.claim(index, message, ack_wait));
        for claim in lane.held.into_iter().chain(late) {
            work.give_back(claim, GIVE_BACK).await;
        }
    }
}

/// Waits for a free slot and for the handler; messages that come meanwhile are held.
async fn room<B: Batch, H: Handler<B>>(
    work: &Arc<Work<B, H>>,
    lanes: &mut [Lane],
    stop: &CancellationToken,
) -> Option<(OwnedSemaphorePermit, usize)> {
    let free = async {
        let permit = Arc::clone(work.slots()).acquire_owned().await.ok()?;
        let room = work.ready().await;
        // "Ready" means one at least.
        Some((permit, room.clamp(1, work.slots().available_permits() + 1)))
    };
    tokio::pin!(free);
    loop {
        tokio::select! {
            biased;
            () = stop.cancelled() => return None,
            free = &mut free => return free,
            (index, message) = next_message(lanes) => hold(work, lanes, index, message),
        }
    }
}

/// Starts messages of the first lane that has any. Returns whether it started one.
async fn start_most_urgent<B: Batch, H: Handler<B>>(
    work: &Arc<Work<B, H>>,
    lanes: &mut [Lane],
    permit: OwnedSemaphorePermit,
    room: usize,
) -> bool {
    let mut permit = Some(permit);
    for (index, lane) in lanes.iter_mut().enumerate() {
        if lane.held.is_empty() {
            let ack_wait = lane.pull.ack_wait;
            let messages = lane.pull.fetch_now(room.min(MOST)).await;
            lane.held.extend(messages.into_iter().filter_map(|message| work.claim(index, message, ack_wait)));
        }
        let mut started = 0;
        while started < room && !lane.held.is_empty() {
            let Some(slot) = permit.take().or_else(|| Arc::clone(work.slots()).try_acquire_owned().ok())
            else {
                break;
            };
            if let Some(claim) = lane.held.pop_front() {
                work.start(claim, slot);
                started += 1;
            }
        }
        if started > 0 {
            return true;
        }
    }
    false
}

/// Every queue is empty: one pull for each waits at the broker until something comes.
async fn wait_for_messages<B: Batch, H: Handler<B>>(
    work: &Arc<Work<B, H>>,
    lanes: &mut [Lane],
    stop: &CancellationToken,
) {
    for lane in lanes.iter_mut() {
        lane.pull.wait_for_more().await;
    }
    let look = if lanes.iter().any(|lane| lane.pull.is_blocked()) { PAUSE } else { LOOK };
    let mut state = work.bus().state();
    let generation = state.borrow_and_update().generation;
    tokio::select! {
        biased;
        () = stop.cancelled() => {}
        (index, message) = next_message(lanes) => hold(work, lanes, index, message),
        // A new connection knows nothing of the pulls that waited on the old one.
        _ = state.wait_for(|state| state.generation != generation) => {}
        () = time::sleep(look) => {}
    }
}

async fn next_message(lanes: &mut [Lane]) -> (usize, Option<Incoming>) {
    if lanes.is_empty() {
        return std::future::pending().await;
    }
    let next = lanes.iter_mut().map(|lane| Box::pin(lane.pull.late_message()));
    let (message, index, _) = select_all(next).await;
    (index, message)
}

fn hold<B: Batch, H: Handler<B>>(
    work: &Arc<Work<B, H>>,
    lanes: &mut [Lane],
    index: usize,
    message: Option<Incoming>,
) {
    if let (Some(lane), Some(message)) = (lanes.get_mut(index), message) {
        let ack_wait = lane.pull.ack_wait;
        lane.held.extend(work.claim(index, message, ack_wait));
    }
}
