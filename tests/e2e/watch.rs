//! What happens to messages, watched without a gap over the death of ingress, and by its own tenant alone.

use std::collections::{BTreeMap, BTreeSet};

use sotto_proto::message::v1::{
    GetMessageRequest, JourneyStep, MessageState, WatchEventsRequest, WatchEventsResponse,
};
use sotto_testkit::{Process, eventually, tools};
use tonic::{Code, Status, Streaming};

use crate::{
    cell::{BOUND, Cell, with_token},
    load::{Load, otp},
};

const MESSAGES: u32 = 60;

/// A step as everybody tells it.
type Step = (u64, String, u32, u32);

fn step(step: &JourneyStep) -> Step {
    (step.event_sequence, step.kind.clone(), step.attempt, step.part)
}

async fn watch(
    cell: &Cell,
    token: &str,
    after: &str,
    message_id: &str,
) -> Result<Streaming<WatchEventsResponse>, Status> {
    let request = WatchEventsRequest { after: after.to_owned(), message_id: message_id.to_owned() };
    Ok(cell.messages().watch_events(with_token(request, token)).await?.into_inner())
}

async fn first(cell: &Cell, token: &str) -> String {
    let mut told = watch(cell, token, "", "").await.unwrap();
    let answer = tokio::time::timeout(BOUND, told.message()).await.unwrap().unwrap().unwrap();
    assert!(answer.message_id.is_empty(), "it only says where it is");
    answer.cursor
}

/// What a watcher has been told, by message.
#[derive(Default)]
struct Told {
    steps: BTreeMap<String, Vec<Step>>,
    ended: BTreeSet<String>,
    cursor: String,
}

impl Told {
    fn take(&mut self, answer: WatchEventsResponse) {
        self.cursor = answer.cursor.clone();
        if answer.message_id.is_empty() {
            return;
        }
        // The state may run ahead of the steps; the receipt is the last of them.
        if answer.steps.iter().any(|step| step.kind == "receipt") {
            assert_eq!(answer.state(), MessageState::Delivered);
            self.ended.insert(answer.message_id.clone());
        }
        let known = self.steps.entry(answer.message_id).or_default();
        for step in answer.steps.iter().map(step) {
            // Whoever broke off within a moment is told that moment again.
            if !known.contains(&step) {
                known.push(step);
            }
        }
    }

    /// Reads on until so many messages have ended, or the stream has.
    async fn read(&mut self, mut told: Streaming<WatchEventsResponse>, ended: usize) -> Option<Status> {
        while self.ended.len() < ended {
            match tokio::time::timeout(BOUND, told.message()).await.unwrap() {
                Ok(Some(answer)) => self.take(answer),
                Ok(None) => return Some(Status::unavailable("it ended")),
                Err(status) => return Some(status),
            }
        }
        None
    }
}

#[tokio::test]
async fn a_watcher_is_told_every_step_of_its_tenant_once_over_the_death_of_ingress() {
    let mut cell = Cell::start().await;
    cell.new_client("other", "globex", "GLOBEX").await;
    let (ours, theirs) = (cell.token("shop").await, cell.token("other").await);
    let mut told = Told { cursor: first(&cell, &ours).await, ..Told::default() };
    let start = told.cursor.clone();
    let load = Load::start(&cell, 0..MESSAGES).await;
    for number in 1_000..1_010 {
        let mut request = otp(number);
        request.message.as_mut().unwrap().from = "GLOBEX".to_owned();
        cell.messages().send(with_token(request, &theirs)).await.unwrap();
    }
    // It is cut off in the middle, and goes on at another process.
    let watching = watch(&cell, &ours, &told.cursor, "").await.unwrap();
    assert!(told.read(watching, 20).await.is_none());
    cell.kill("ingress").await;
    let ids = load.finish().await;
    let all = usize::try_from(MESSAGES).unwrap();
    while told.ended.len() < all {
        let watching = watch(&cell, &ours, &told.cursor.clone(), "").await.unwrap();
        if let Some(status) = told.read(watching, all).await {
            assert_eq!(status.code(), Code::Unavailable, "{status}");
        }
    }
    assert_eq!(
        told.steps.keys().collect::<BTreeSet<_>>(),
        ids.iter().collect(),
        "those of the tenant, and no others"
    );
    let mut client = cell.messages();
    for id in &ids {
        let request = GetMessageRequest { message_id: id.clone() };
        let journey = client.get_message(with_token(request, &ours)).await.unwrap().into_inner().journey;
        assert_eq!(told.steps[id], journey.iter().map(step).collect::<Vec<_>>());
    }

    // From the start again, one message alone; and what is no place in this log.
    let mut again = Told::default();
    let watching = watch(&cell, &ours, &start, &ids[0]).await.unwrap();
    assert!(again.read(watching, 1).await.is_none());
    assert_eq!(again.steps.len(), 1);
    assert_eq!(again.steps[&ids[0]], told.steps[&ids[0]]);
    for wrong in ["e1-ffffffff", "e1-01", "1"] {
        let refused = watch(&cell, &ours, wrong, "").await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument, "{wrong}");
    }
    // Another tenant that asks for our message hears nothing of it.
    let mut foreign = watch(&cell, &theirs, &start, &ids[0]).await.unwrap();
    let quiet = tokio::time::timeout(BOUND, foreign.message()).await.unwrap().unwrap().unwrap();
    assert!(quiet.message_id.is_empty());

    // The tool does the same.
    let root = cell.root().display().to_string();
    let arguments = ["--cell", &root, "--json", "watch", "--client", "shop", "--after", &start];
    let none: [(&str, &str); 0] = [];
    let mut tool =
        Process::start(&tools::built("sotto"), arguments, none, &cell.root().join("logs/watch.log"));
    eventually(BOUND, "the tool to tell all ends", || {
        let log = tool.log();
        let told =
            ids.iter().all(|id| log.lines().any(|line| line.contains(id) && line.contains("\"receipt\"")));
        async move { told }
    })
    .await;
    tool.kill().await;
    // A stop tells watchers.
    let watching = watch(&cell, &ours, &told.cursor.clone(), "").await.unwrap();
    let (status, ()) = tokio::join!(told.read(watching, usize::MAX), cell.stop());
    assert_eq!(status.unwrap().code(), Code::Unavailable);
}
