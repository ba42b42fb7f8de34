//! Whether the broker that we are connected to still is of those that decide. One that is cut off from the others, or stands
//! still, keeps its connections and stores nothing: whoever stays with it waits as long as it does.

use std::{
    sync::{
        Weak,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use async_nats::{ReconnectToServer, Server};
use serde_json::{Value, json};
use tokio::time;

use crate::{Bus, bus::Inner, topology::stream_name};

/// How often it is asked, and how long its answer may take.
const EVERY: Duration = Duration::from_secs(2);
const PATIENCE: Duration = Duration::from_secs(2);

/// Questions in a row that nobody answered before another broker is tried. A leader that dies is followed by another in
/// less.
const MOST_UNANSWERED: u32 = 3;

/// Publishes in a row without an acknowledgement that count as such a question.
const MOST_UNSTORED: u32 = 2;

/// What was heard of late.
#[derive(Clone, Copy, Debug, Default)]
struct Doubt {
    unanswered: u32,
}

impl Doubt {
    /// Whether it is time to try another broker.
    const fn asked(&mut self, answered: bool) -> bool {
        self.unanswered = if answered { 0 } else { self.unanswered + 1 };
        if self.unanswered < MOST_UNANSWERED {
            return false;
        }
        self.unanswered = 0;
        true
    }
}

/// Asks for as long as there is a connection, and goes to another broker when nothing is decided at this one.
pub(crate) async fn keep(bus: Weak<Inner>) {
    let mut doubt = Doubt::default();
    loop {
        time::sleep(EVERY).await;
        let Some(bus) = bus.upgrade().map(Bus::of) else { return };
        // The client looks for another one itself.
        if !bus.client().is_connected() {
            doubt = Doubt::default();
            continue;
        }
        let answered = asked(&bus).await && bus.connection().unstored() < MOST_UNSTORED;
        if doubt.asked(answered) {
            tracing::warn!("the broker decides nothing: another one is tried");
            bus.connection().stored();
            bus.client().go_elsewhere().await;
        }
    }
}

/// Whether who decides about a stream of this service is within reach.
async fn asked(bus: &Bus) -> bool {
    let Some(stream) = bus.topology().used_by(bus.service()).next() else { return true };
    let api = format!("STREAM.INFO.{}", stream_name(&bus.cell().id, &stream.name));
    match time::timeout(PATIENCE, bus.api(&api, &json!({}))).await {
        Ok(Ok(info)) => is_led(&info),
        Ok(Err(error)) => !error.is_nobody_decides(),
        Err(_elapsed) => false,
    }
}

/// A leader that was cut off goes on answering, and says that there is none.
pub(crate) fn is_led(info: &Value) -> bool {
    info.get("cluster")
        .is_none_or(|cluster| cluster.get("leader").and_then(Value::as_str).is_some_and(|it| !it.is_empty()))
}

/// One after the other, so that another one is another one.
#[derive(Debug)]
pub(crate) struct Round(AtomicUsize);

impl Round {
    /// From anywhere: not all begin at the same one.
    pub(crate) const fn from(place: usize) -> Self {
        Self(AtomicUsize::new(place))
    }

    /// Where to connect now.
    pub(crate) fn next(&self, servers: &[Server]) -> Option<ReconnectToServer> {
        let turn = self.0.fetch_add(1, Ordering::Relaxed).checked_rem(servers.len())?;
        servers.get(turn).map(|server| ReconnectToServer { addr: server.addr.clone(), delay: None })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_says_that_nobody_leads_is_no_answer() {
        assert!(is_led(&json!({ "config": {} })));
        assert!(is_led(&json!({ "cluster": { "leader": "vn-2" } })));
        assert!(!is_led(&json!({ "cluster": { "leader": "" } })));
        assert!(!is_led(&json!({ "cluster": { "replicas": [] } })));
    }

    #[test]
    fn one_answer_ends_the_doubt() {
        let mut doubt = Doubt::default();
        let moves = [false, false, true, false, false, false, false].map(|answered| doubt.asked(answered));
        assert_eq!(moves, [false, false, false, false, false, true, false]);
    }
}
