//! Nothing personal outside of ingress and connectors (INV-3). Messages with markers pass by every feature, with logs and traces
//! at their most talkative; then number, sender, text and idempotency key are searched for in everything that the cell leaves
//! on disk, in every trace that it sends, in its backup, in what its services tell over HTTP, and in the memory of every
//! process that has no business with them, by a search that first finds what was planted in each of these places.

pub(crate) mod keys;
mod traffic;

use std::{collections::BTreeSet, path::Path};

use sotto_bus::{AuditCategory, Service, StreamReader, Subject};
use sotto_core::{AccountId, Lane};
use sotto_proto::pipeline::v1::QuarantineRecord;
use sotto_testkit::{
    canary::{Canary, Finding},
    eventually,
    process::http_get,
};
use tempfile::TempDir;
use tokio::{io::AsyncWriteExt as _, net::TcpStream};

use crate::{
    cell::{BOUND, Cell, SERVICES},
    collector, quarantine,
};

/// Processes in whose memory none of it may ever be. Not ingress and connector, whose work it is, and not the carrier.
const BLIND: [&str; 6] = ["routing", "audit", "identity", "privacy", "nats-server", "redis-server"];

/// A search for everything that messages and handsets bring. Long ones: six digits are found by chance.
fn canary() -> Canary {
    let numbers = traffic::NUMBERS.map(|number| ("number", number));
    let others = [
        ("sender", traffic::SENDER),
        ("text", traffic::WORD),
        ("code", traffic::CODE),
        ("idempotency key", traffic::KEY),
        ("handset", traffic::HANDSET),
        ("text from a handset", traffic::HANDSET_WORD),
        ("text in clear by a waiver", traffic::WAIVED_WORD),
        ("sender with a waiver", traffic::WAIVED_SENDER),
    ];
    Canary::new(numbers.into_iter().chain(others))
}

/// What may be where it was found: senders of clients are in identity's register, from which it makes tokens, and what a
/// tenant sends in clear passes the broker in clear.
fn is_expected(found: &Finding) -> bool {
    let sender = found.label.starts_with("sender");
    let identity =
        found.place.contains("data/identity/clients.json") || found.place.contains("memory of identity");
    let waived = found.label.ends_with("waiver");
    sender && identity || waived && found.place.contains("memory of nats-server")
}

fn unexpected(found: Vec<Finding>) -> Vec<Finding> {
    found.into_iter().filter(|found| !is_expected(found)).collect()
}

fn on_disk(canary: &Canary, root: &Path) -> Vec<Finding> {
    unexpected(canary.search_files(root).unwrap())
}

fn in_memory(canary: &Canary, cell: &Cell) -> Vec<Finding> {
    let search = |name: &&str| canary.search_memory(name, cell.pid(name)).unwrap();
    unexpected(BLIND.iter().flat_map(search).collect())
}

/// What every service tells whoever asks.
async fn on_pages(canary: &Canary, cell: &Cell) -> Vec<Finding> {
    let mut found = Vec::new();
    for service in SERVICES {
        for path in ["/live", "/ready", "/info", "/metrics"] {
            let (status, body) = http_get(admin(cell, service), path).await.unwrap();
            assert!(status == 200 || path == "/ready", "{service} has no {path}");
            found.extend(canary.search_bytes(&format!("{path} of {service}"), body.as_bytes()));
        }
    }
    found
}

pub(crate) fn admin(cell: &Cell, service: &str) -> std::net::SocketAddr {
    std::fs::read_to_string(cell.root().join(format!("run/{service}.admin"))).unwrap().parse().unwrap()
}

#[tokio::test]
async fn no_number_sender_or_text_is_found_outside_of_ingress_and_connector() {
    let canary = canary();
    canary.prove();
    let mut cell = Cell::start_with(async |root| {
        collector::listen_to_cell(root).await;
        Some(traffic::carriers(root).await)
    })
    .await;
    traffic::pass_every_feature(&cell, async || {
        let found = in_memory(&canary, &cell);
        assert!(found.is_empty(), "while messages pass: {found:#?}");
    })
    .await;
    // The carrier did get it: the search is for something that was there.
    let at_carrier = cell.carrier("/messages?limit=100000").await.to_string();
    assert!(at_carrier.contains(traffic::WORD) && at_carrier.contains(traffic::NUMBERS[0]));
    assert!(at_carrier.contains(traffic::WAIVED_WORD));
    // Traces did arrive, of the services that saw the messages, and the logs are as talkative as they can be.
    let told = Canary::new([("ingress", "sotto-ingress"), ("carrier", "sotto-carrier")]);
    eventually(BOUND, "traces of both", async || {
        let found = told.search_files(&cell.root().join("traces")).unwrap();
        ["ingress", "carrier"].iter().all(|label| found.iter().any(|one| one.label == *label))
    })
    .await;
    assert!(cell.log("ingress").contains("DEBUG"));
    let found = in_memory(&canary, &cell);
    assert!(found.is_empty(), "{found:#?}");
    let found = on_pages(&canary, &cell).await;
    assert!(found.is_empty(), "{found:#?}");
    let found = on_disk(&canary, &cell.root());
    assert!(found.is_empty(), "{found:#?}");

    planted_in_memory_is_found(&canary, &cell).await;
    garbage_is_kept_aside_without_its_bytes(&canary, &cell).await;
    std::fs::write(cell.root().join("logs/plant.log"), traffic::SENDER).unwrap();
    cell.stop().await;
    let places = ["data/nats", "logs/plant.log"];
    let found = on_disk(&canary, &cell.root());
    for place in places {
        assert!(found.iter().any(|one| one.place.contains(place)), "nothing found in {place}: {found:#?}");
    }
    let elsewhere: Vec<_> =
        found.iter().filter(|one| !places.iter().any(|at| one.place.contains(at))).collect();
    assert!(elsewhere.is_empty(), "{elsewhere:#?}");
    // Nor is a sender configuration anywhere but in the register.
    let register = canary.search_files(&cell.root().join("data/identity/clients.json")).unwrap();
    assert!(register.iter().all(|one| one.label.starts_with("sender")) && !register.is_empty());
    a_backup_holds_what_was_planted_alone(&canary, &cell).await;
}

/// The search of memory is not blind, in any of the processes: what each holds at this moment is found.
async fn planted_in_memory_is_found(canary: &Canary, cell: &Cell) {
    // A question that is never finished stays in a service's memory.
    let mut open = Vec::new();
    for service in SERVICES {
        let mut stream = TcpStream::connect(admin(cell, service)).await.unwrap();
        let question = format!("GET /live?{}-{} HTTP/1.1\r\n", traffic::PLANT, traffic::CODE);
        stream.write_all(question.as_bytes()).await.unwrap();
        open.push(stream);
    }
    // In what the two servers keep.
    // Digits alone would be kept as a number.
    let planted = format!("{}-{}", traffic::PLANT, traffic::CODE);
    cell.redis(&["SET", "sotto:ingress:{s0}:plant", &planted]).await;
    let acts = Subject::Audit(Service::Privacy, AuditCategory::Keys);
    quarantine::publish(cell, Service::Privacy, acts, traffic::CODE).await;
    for process in SERVICES.iter().chain(&["nats-server", "redis-server"]) {
        eventually(BOUND, &format!("the plant in the memory of {process}"), async || {
            let found = canary.search_memory(process, cell.pid(process)).unwrap();
            found.iter().any(|one| one.label == "code")
        })
        .await;
    }
}

/// What cannot be read goes to quarantine, where nothing of it is to be seen.
async fn garbage_is_kept_aside_without_its_bytes(canary: &Canary, cell: &Cell) {
    let account: AccountId = "first".parse().unwrap();
    let plant = format!("{} {} {}", traffic::WORD, traffic::NUMBERS[0], traffic::CODE);
    quarantine::publish(cell, Service::Routing, Subject::Waiting(account, Lane::Otp), &plant).await;
    let bus = quarantine::bus(cell, Service::Operator).await;
    let reader: StreamReader<QuarantineRecord> = StreamReader::new(&bus, "QUARANTINE").unwrap();
    // The plant here, and the one among the acts.
    eventually(BOUND, "both in quarantine", async || {
        let mut kept = BTreeSet::new();
        let state = reader.state().await.unwrap();
        let mut reading = reader.read(state.first.max(1), state.last);
        while let Some(stored) = reading.next().await.unwrap() {
            let found = canary.search_bytes("a record", &prost::Message::encode_to_vec(&stored.batch));
            assert!(found.is_empty(), "{found:#?}");
            kept.insert(stored.batch.subject);
        }
        ["waiting", "audit"].iter().all(|topic| kept.iter().any(|subject| subject.contains(topic)))
    })
    .await;
    assert!(bus.close(BOUND).await);
    cell.run(["quarantine", "list"]).await;
}

async fn a_backup_holds_what_was_planted_alone(canary: &Canary, cell: &Cell) {
    let backup = TempDir::with_prefix("sotto-backup-").unwrap();
    let (folder, secrets) = (backup.path().join("cell"), backup.path().join("apart"));
    cell.run(["backup", folder.to_str().unwrap(), "--secrets", secrets.to_str().unwrap()]).await;
    let found = on_disk(canary, backup.path());
    assert!(found.iter().any(|one| one.place.contains("nats")), "{found:#?}");
    let elsewhere: Vec<_> = found.iter().filter(|one| !one.place.contains("nats")).collect();
    assert!(elsewhere.is_empty(), "{elsewhere:#?}");
}
