//! Two cells side by side: each with its own broker, Redis and keys. What belongs to one is refused by the other, and nothing of
//! its traffic is in the other's files.

use std::{fs, path::Path, process::Command};

use sotto_core::MessageId;
use sotto_proto::{
    message::v1::{GetMessageRequest, SendRequest},
    pipeline::v1::KeyWrap,
    privacy::v1::{UnwrapRefusal, unwrapped_key::Result as Answer},
};
use sotto_testkit::{canary::Canary, eventually, tools};
use tonic::Code;
use tonic_types::StatusExt as _;

use crate::{
    canary::keys::{ask, waiting},
    cell::{BOUND, Carriers, Cell, SERVICES, text, with_token},
    load::{accepted_at_last, balanced, otp},
};

/// A tenant of each cell, with its client's name and sender.
const TENANTS: [(&str, &str); 2] = [("mekong-bank", "MEKONGBANK"), ("danube-bank", "DANUBEBANK")];

/// Where messages of the cell `eu` go.
const EU: &str = "https://messages.eu.example:7443";

/// A cell with a rule of where its data may go, which knows the cell `eu`.
async fn knows_its_region(root: &Path) -> Option<Carriers> {
    for service in SERVICES {
        let file = root.join(format!("config/{service}.toml"));
        let mut text = fs::read_to_string(&file).unwrap();
        text.push_str("\n[residency]\nhosts = [\"localhost\", \".sotto.internal\", \"127.0.0.0/8\"]\n");
        if service == "ingress" {
            text = text.replacen(
                "[tokens]\n",
                &format!("[tokens]\nelsewhere = {{ \"https://eu.sotto.internal\" = \"{EU}\" }}\n"),
                1,
            );
        }
        fs::write(file, text).unwrap();
    }
    None
}

/// With the surroundings that it runs in, and the broker or the collector of another region.
fn a_place_outside_of_the_region_is_refused_by_every_service(cell: &Cell) {
    for service in SERVICES {
        let check = |more: &[(&str, &str)]| {
            let environment = fs::read(format!("/proc/{}/environ", cell.pid(service))).unwrap();
            let environment = String::from_utf8(environment).unwrap();
            let pairs = environment.split('\0').filter_map(|pair| pair.split_once('='));
            Command::new(tools::built(&format!("sotto-{service}")))
                .current_dir(cell.root())
                .args(["--config", &format!("config/{service}.toml"), "--check-config"])
                .env_clear()
                .envs(pairs)
                .envs(more.iter().copied())
                .output()
                .unwrap()
        };
        let fine = check(&[]);
        assert!(fine.status.success(), "{service}: {}", text(&fine.stderr));
        for (name, key, place) in [
            ("SOTTO__NATS__URL", "nats.url", "tls://nats.elsewhere.example:4222"),
            ("SOTTO__TELEMETRY__OTLP_ENDPOINT", "telemetry.otlp_endpoint", "http://192.0.2.1:4317"),
        ] {
            let refused = check(&[(name, place)]);
            let said = text(&refused.stderr);
            assert_eq!(refused.status.code(), Some(64), "{service}: {said}");
            assert!(said.contains(key) && said.contains("residency.hosts"), "{service}: {said}");
        }
    }
}

fn message(n: u32, sender: &str) -> SendRequest {
    let mut request = otp(n);
    sender.clone_into(&mut request.message.as_mut().unwrap().from);
    request
}

#[tokio::test]
async fn nothing_of_one_cell_is_taken_or_found_by_another() {
    let mut vn = Cell::start_in(&std::env::temp_dir(), knows_its_region).await;
    let mut eu = Cell::start_named("eu").await;
    a_place_outside_of_the_region_is_refused_by_every_service(&vn);
    let mut ids = Vec::new();
    for (cell, (tenant, sender)) in [&vn, &eu].into_iter().zip(TENANTS) {
        cell.new_client(tenant, tenant, sender).await;
        // Held back, so that what is sealed can be looked at.
        cell.run(["stop", "--carrier", "simulator"]).await;
        eventually(BOUND, "the stop", async || cell.json(["carriers"]).await[0]["bound_by"] == "stopped")
            .await;
        let token = cell.token(tenant).await;
        ids.push(accepted_at_last(&cell.messages(), &token, message(1, sender)).await);
        eventually(BOUND, "it to wait for the carrier", async || waiting(cell).await.len() == 1).await;
    }
    for (other, cell, foreign) in [(1, &vn, &eu), (0, &eu, &vn)] {
        let (tenant, sender) = TENANTS[other];
        // A client of the other cell, with a token of the other cell: refused to send, and to read anybody's message.
        let token = foreign.token(tenant).await;
        let refused = cell.messages().send(with_token(message(2, sender), &token)).await.unwrap_err();
        assert_eq!(refused.code(), Code::Unauthenticated, "{refused:?}");
        // One of the two knows the other, and says where its clients belong.
        let told = refused.get_details_error_info();
        let home = told.as_ref().and_then(|told| told.metadata.get("endpoint")).map(String::as_str);
        assert_eq!(home, (cell.root() == vn.root()).then_some(EU), "{refused:?}");
        for id in &ids {
            let ask = GetMessageRequest { message_id: id.clone() };
            let refused = cell.messages().get_message(with_token(ask, &token)).await.unwrap_err();
            assert_eq!(refused.code(), Code::Unauthenticated, "{refused:?}");
        }
        // A connector of the other cell does not even get a connection.
        let wraps: Vec<_> =
            waiting(foreign).await.iter().map(|one| KeyWrap::from(one.wrap.as_ref())).collect();
        ask(cell, &foreign.tls("carrier"), wraps.clone()).await.unwrap_err();
        // And what the other sealed does not open here, for anybody.
        let answers = ask(cell, &cell.tls("carrier"), wraps).await.unwrap();
        assert_eq!(answers.len(), 1);
        let refusals =
            [UnwrapRefusal::Invalid, UnwrapRefusal::UnknownBucket].map(|why| Answer::Refusal(why.into()));
        assert!(refusals.contains(&answers[0]), "opened");
    }
    for cell in [&vn, &eu] {
        cell.run(["stop", "--carrier", "simulator", "--lift"]).await;
        balanced(cell, 1, 0).await;
        assert_eq!((cell.count("parts").await, cell.count("duplicates").await), (1, 0));
    }
    // Sender and message are in the files of their own cell, and not in those of the other. (The tenant's name is: privacy told
    // audit whose wrap it refused to open.)
    vn.stop().await;
    eu.stop().await;
    for (at, cell, foreign) in [(0, &vn, &eu), (1, &eu, &vn)] {
        // Ids stand in files as their sixteen bytes: those of its own message are found in the broker's.
        let bytes = ids[at].parse::<MessageId>().unwrap();
        let stored = |root: &Path| {
            let mut folders = vec![root.join("data/nats")];
            let mut found = false;
            while let Some(folder) = folders.pop() {
                for entry in fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
                    if entry.is_dir() {
                        folders.push(entry);
                    } else {
                        let bytes = bytes.as_bytes();
                        found |= fs::read(entry).unwrap().windows(bytes.len()).any(|window| window == bytes);
                    }
                }
            }
            found
        };
        assert!(stored(&cell.root()) && !stored(&foreign.root()), "the message of {}", TENANTS[at].0);
        let canary = Canary::new([("sender", TENANTS[at].1), ("message", ids[at].as_str())]);
        canary.prove();
        let own = canary.search_files(&cell.root()).unwrap();
        assert!(
            own.iter().any(|found| found.label == "sender"),
            "the sender of {} is nowhere",
            TENANTS[at].0
        );
        let elsewhere = canary.search_files(&foreign.root()).unwrap();
        assert!(elsewhere.is_empty(), "{elsewhere:#?}");
    }
}
