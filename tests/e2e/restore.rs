//! A cell that has lost everything and is put back from a backup: nothing goes out by itself, and nothing twice unasked. What
//! went out is counted by the carrier, which outlives the cell.

use std::{fs, path::PathBuf, time::Duration};

use serde_json::{Value, json};
use sotto_core::{Clock as _, SystemClock, Timestamp};
use sotto_proto::message::v1::{MessageClass, MessageState, OutboundMessage, SendRequest};
use sotto_testkit::{eventually, eventually_ok};
use tempfile::TempDir;
use tonic::Code;

use crate::{
    cell::{BOUND, Cell, SENDER, carrier_with, number, text, with_token},
    load::states,
};

/// Messages of each class before the backup.
const EACH: u32 = 30;

/// A cell with a backup of a moment at which messages waited, and what went on after that.
struct Lost {
    cell: Cell,
    backup: TempDir,
    /// Messages that were accepted before the backup: one-time codes, others, and one each for soon and for a month later.
    codes: Vec<String>,
    notices: Vec<String>,
    soon: String,
    month: String,
    /// How many of them had ended at the backup.
    delivered: u64,
    /// Waiting one-time codes and other messages at the backup.
    waiting: (u64, u64),
}

async fn send(
    cell: &Cell,
    n: u32,
    class: MessageClass,
    at: Option<Timestamp>,
) -> Result<String, tonic::Status> {
    let request = SendRequest {
        message: Some(OutboundMessage {
            to: number(n),
            from: SENDER.to_owned(),
            text: format!("So {n:06}"),
            class: class.into(),
            send_at: at.map(|at| prost_types::Timestamp { seconds: at.unix_seconds(), nanos: 0 }),
            ..Default::default()
        }),
        idempotency_key: format!("restore-{n}"),
        ..Default::default()
    };
    let sent = cell.messages().send(with_token(request, &cell.token("shop").await)).await;
    sent.map(|accepted| accepted.into_inner().message_id)
}

/// What the carrier took, also what it had taken before.
async fn parts(cell: &Cell) -> u64 {
    cell.count("parts").await + cell.count("duplicates").await
}

async fn all_in(cell: &Cell, ids: &[String], wanted: MessageState) -> bool {
    states(cell, ids).await.iter().all(|(_, state)| *state == wanted)
}

impl Lost {
    fn folder(&self, name: &str) -> PathBuf {
        self.backup.path().join(name)
    }

    /// A cell in the middle of its work is backed up, goes on, sends all that waited, and then all of it is gone.
    async fn start() -> Self {
        let mut cell =
            Cell::start_with(async |root| Some(carrier_with(root, 20, "", &json!({})).await)).await;
        let (mut codes, mut notices) = (Vec::new(), Vec::new());
        // The schedule takes what is further ahead than routing keeps in its hands.
        let now = SystemClock.now();
        let at = |seconds| Some(now.plus(Duration::from_secs(seconds)));
        let soon = send(&cell, 900, MessageClass::Transactional, at(75)).await.unwrap();
        let month = send(&cell, 901, MessageClass::Transactional, at(29 * 86_400)).await.unwrap();
        cell.run(["stop", "--carrier", "slow"]).await;
        eventually(BOUND, "the stop", async || cell.json(["carriers"]).await[0]["bound_by"] == "stopped")
            .await;
        for n in 0..EACH {
            codes.push(send(&cell, n, MessageClass::Otp, None).await.unwrap());
            notices.push(send(&cell, 100 + n, MessageClass::Transactional, None).await.unwrap());
        }
        cell.run(["stop", "--carrier", "slow", "--lift"]).await;
        eventually(BOUND, "some to be sent", async || parts(&cell).await >= 10).await;
        // What is with the carrier comes to its end; the rest waits.
        cell.run(["stop", "--carrier", "slow"]).await;
        eventually(BOUND, "the receipts", async || {
            let told = cell.ledger().await;
            told["in_flight"] == 0 && told["delivered"] == parts(&cell).await
        })
        .await;

        let backup = TempDir::with_prefix("sotto-backup-").unwrap();
        let (folder, secrets) = (backup.path().join("cell"), backup.path().join("apart"));
        let arguments = ["backup", folder.to_str().unwrap(), "--secrets", secrets.to_str().unwrap()];
        let refused = cell.try_run(arguments).await;
        assert!(text(&refused.stderr).contains("is running"), "{}", text(&refused.stderr));
        cell.stop().await;
        let told = cell.json(arguments).await.pop().unwrap();
        assert!(told["files"].as_u64() > Some(30), "{told}");
        assert!(!folder.join("keystore/buckets.sks").exists() && !folder.join("secrets").exists());
        assert!(secrets.join("secrets/unlock-privacy").exists());

        // It goes on: everything that waited is sent, and more.
        cell.start_again().await;
        cell.run(["stop", "--carrier", "slow", "--lift"]).await;
        let more = send(&cell, 500, MessageClass::Transactional, None).await.unwrap();
        for ids in [&codes, &notices, &vec![more, soon.clone()]] {
            eventually(BOUND * 3, "all to be delivered", async || {
                all_in(&cell, ids, MessageState::Delivered).await
            })
            .await;
        }
        assert_eq!(parts(&cell).await, u64::from(2 * EACH + 2));
        assert_eq!(cell.count("duplicates").await, 0);
        let mut lost = Self { cell, backup, codes, notices, soon, month, delivered: 0, waiting: (0, 0) };
        lost.lose().await;
        lost
    }

    /// The whole folder of the cell is gone, but for the keys that die on time, if they lay elsewhere.
    async fn lose(&mut self) {
        let ids = self.cell.pids();
        self.cell.kill_all(&ids).await;
        let keys = self.folder("buckets.sks");
        if !keys.exists() {
            fs::copy(self.cell.root().join("keystore/buckets.sks"), keys).unwrap();
        }
        fs::remove_dir_all(self.cell.root()).unwrap();
    }

    async fn restore(&mut self, with_keys: bool) {
        if with_keys {
            let keystore = self.cell.root().join("keystore");
            fs::create_dir_all(&keystore).unwrap();
            fs::copy(self.folder("buckets.sks"), keystore.join("buckets.sks")).unwrap();
        }
        let (folder, secrets) = (self.folder("cell"), self.folder("apart"));
        let bare = self.cell.try_run(["restore", folder.to_str().unwrap()]).await;
        assert!(text(&bare.stderr).contains("unlock-privacy is missing"), "{}", text(&bare.stderr));
        let arguments = ["restore", folder.to_str().unwrap(), "--secrets", secrets.to_str().unwrap()];
        let told = self.cell.json(arguments).await.pop().unwrap();
        assert_eq!(told["held"], true, "{told}");
        let again = self.cell.try_run(arguments).await;
        assert!(text(&again.stderr).contains("is there already"), "{}", text(&again.stderr));
        self.cell.start_again().await;
    }

    /// Nothing is taken and nothing goes out, whatever is restarted, and everybody who asks is told why.
    async fn is_held(&mut self) {
        let cell = &mut self.cell;
        let before = parts(cell).await;
        for kill in ["carrier", "routing", "ingress"] {
            eventually(BOUND, "the account to be held", async || {
                cell.json(["carriers"]).await[0]["bound_by"] == "restored"
            })
            .await;
            let refused = send(cell, 600, MessageClass::Otp, None).await.unwrap_err();
            assert_eq!(refused.code(), Code::Unavailable, "{refused}");
            assert!(refused.message().contains("backup"), "{refused}");
            cell.kill(kill).await;
        }
        let doctor = cell.try_run(["doctor"]).await;
        assert!(!doctor.status.success() && text(&doctor.stdout).contains("put back from a backup"));
        let held = cell.json(["stop", "--list"]).await;
        assert!(held.iter().any(|held| held["what"] == "restored" && held["how"] == "held"), "{held:?}");
        // All that can move has moved to the account.
        let queued = async || {
            let told = cell.json(["carriers"]).await;
            told[0]["queues"].as_array().is_some_and(|lanes| lanes.iter().any(|lane| lane["batches"] != 0))
        };
        eventually(BOUND, "messages to wait for the account", queued).await;
        cell.stop().await;
        cell.start_again().await;
        eventually(BOUND, "the account to be held", async || {
            cell.json(["carriers"]).await[0]["bound_by"] == "restored"
        })
        .await;
        assert_eq!(parts(cell).await, before, "something was sent by itself");
        let ledger = cell.ledger().await;
        let ended = |kind: &str| ledger[kind].as_u64().unwrap_or(0);
        assert_eq!(
            (&ledger["balanced"], ended("accepted")),
            (&json!(true), u64::from(2 * EACH + 2)),
            "{ledger}"
        );
        assert_eq!((ended("unknown"), ended("in_flight")), (0, 0), "{ledger}");
        let waits = async |ids: &[String]| {
            let states = states(&self.cell, ids).await;
            u64::try_from(states.iter().filter(|(_, state)| *state != MessageState::Delivered).count())
                .unwrap()
        };
        self.waiting = (waits(&self.codes).await, waits(&self.notices).await);
        self.delivered = ended("delivered");
        assert_eq!(self.delivered + self.waiting.0 + self.waiting.1 + 2, u64::from(2 * EACH + 2), "{ledger}");
        assert!(self.waiting.1 > 0, "nothing waited at the backup: it proves nothing");
    }

    async fn release(&self, arguments: &[&str]) {
        self.cell.run([&["release", "--reason", "a test"], arguments].concat()).await;
        let how = if arguments.is_empty() { "as_unknown" } else { "resend" };
        eventually_ok(BOUND, "the act in the log", async || {
            let act = self.cell.json(["audit", "act", "traffic.released"]).await.pop().unwrap();
            let object = act["object"].as_str().unwrap();
            let told = object.starts_with("restored=") && object.ends_with(how);
            if told { Ok(()) } else { Err(act) }
        })
        .await;
        // Other words of operators stand as they did at the backup.
        self.cell.run(["stop", "--carrier", "slow", "--lift"]).await;
    }

    /// Every message of the backup has its end: so many are unknown, and one waits for its month.
    async fn ends(&self, unknown: u64, soon: MessageState) {
        let all = u64::from(2 * EACH + 2);
        let told = eventually_ok(BOUND * 2, "every message to end", async || {
            let told = self.cell.ledger().await;
            if told["waiting"] == 1 && told["in_flight"] == 0 { Ok(told) } else { Err(told) }
        })
        .await;
        assert_eq!((&told["balanced"], &told["unknown"]), (&json!(true), &json!(unknown)), "{told}");
        assert_eq!(told["delivered"], all - 1 - unknown, "{told}");
        assert!(all_in(&self.cell, std::slice::from_ref(&self.month), MessageState::Scheduled).await);
        assert!(all_in(&self.cell, std::slice::from_ref(&self.soon), soon).await);
        let refused = self.cell.try_run(["release"]).await;
        assert!(text(&refused.stderr).contains("is not held"), "{}", text(&refused.stderr));
    }
}

#[tokio::test]
async fn a_cell_that_lost_everything_sends_nothing_by_itself_and_nothing_twice_unasked() {
    let mut lost = Lost::start().await;
    let sent = parts(&lost.cell).await;

    // As a careful operator does it: what may have been sent ends as unknown.
    lost.restore(true).await;
    lost.is_held().await;
    lost.release(&[]).await;
    let (codes, notices) = lost.waiting;
    lost.ends(codes + notices + 1, MessageState::Unknown).await;
    assert_eq!((parts(&lost.cell).await, lost.cell.count("duplicates").await), (sent, 0));
    // It works as before.
    let new = send(&lost.cell, 700, MessageClass::Otp, None).await.unwrap();
    let told: Value = lost.cell.ended(&new).await;
    assert_eq!(told["state"], "delivered", "{told}");
    lost.cell.stop().await;
    assert_eq!(lost.cell.json(["audit", "verify"]).await[0]["verified"], true);
    lost.cell.start_again().await;
    lost.lose().await;

    // As one does it who would rather send twice than not at all: each goes once more, and no code does.
    lost.restore(true).await;
    lost.is_held().await;
    let sent = parts(&lost.cell).await;
    lost.release(&["--resend"]).await;
    lost.ends(lost.waiting.0, MessageState::Delivered).await;
    let again = lost.waiting.1 + 1;
    assert_eq!((parts(&lost.cell).await, lost.cell.count("duplicates").await), (sent + again, again));
    lost.lose().await;

    // Without the keys that die on time nothing can be sent, and nobody says that it was not.
    lost.restore(false).await;
    lost.is_held().await;
    let sent = parts(&lost.cell).await;
    lost.release(&["--resend"]).await;
    let (codes, notices) = lost.waiting;
    lost.ends(codes + notices + 1, MessageState::Unknown).await;
    assert_eq!(parts(&lost.cell).await, sent);
    lost.cell.stop().await;
}
