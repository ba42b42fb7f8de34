//! A carrier that nobody here wrote the codec of: smpp.pdu3, which Jasmin speaks by.

use std::{fs, path::Path};

use serde_json::Value;
use sotto_proto::message::v1::{MessageClass, SendRequest};
use sotto_testkit::{eventually, tools};

use crate::{
    cell::{BOUND, Cell, SENDER, number, with_token},
    load,
    peer::{Peer, hex},
};

fn carriers(root: &Path, port: u64) -> String {
    format!(
        "[[account]]\nid = \"foreign\"\nhost = \"127.0.0.1\"\nport = {port}\nsystem_id = \"sotto\"\n\
         password_file = \"{}\"\ntls = \"waived\"\ntls_waiver_reason = \"a test on this machine\"\n\
         tps = 50\nenquire_link = \"1 s\"\nsimulator = true\n\
         message_id_in_response = \"hex\"\nmessage_id_in_receipt = \"decimal\"\n\n\
         [[route]]\nprefix = \"84\"\naccounts = [{{ id = \"foreign\", weight = 1 }}]\n",
        root.join("secrets/simulator").display()
    )
}

/// A message of this text to the n-th number.
pub(crate) fn message(n: u32, text: &str) -> SendRequest {
    let mut request = load::otp(n);
    let message = request.message.as_mut().unwrap();
    message.class = MessageClass::Transactional.into();
    message.text = text.to_owned();
    request
}

#[tokio::test]
async fn a_carrier_with_a_foreign_codec_takes_messages_and_its_receipts_find_them() {
    let mut carrier = None;
    let mut cell = Cell::start_on(async |root| {
        let peer = Peer::start(root, &tools::python(), "smsc.py", [root.join("secrets/simulator")]).await;
        let file = root.join("foreign-carriers.toml");
        fs::write(&file, carriers(root, peer.port)).unwrap();
        carrier = Some(peer);
        file
    })
    .await;
    let carrier = carrier.unwrap();
    let (mut client, token) = (cell.messages(), cell.token("shop").await);
    let long = "a".repeat(307);
    let texts = ["Ma {1}: 482913 @", "Mã xác thực: 482913", &long, "again"];
    for (n, text) in [21_u32, 22, 23, 29].into_iter().zip(texts) {
        let sent = client.send(with_token(message(n, text), &token)).await.unwrap().into_inner();
        assert_eq!(cell.ended(&sent.message_id).await["state"], "delivered", "{n}");
    }
    let to = |n: u32| Value::from(&number(n)[1..]);
    let submitted = carrier.events("submitted");
    let octets = |n: u32| -> Vec<String> {
        let parts = submitted.iter().filter(|part| part["to"] == to(n));
        parts.map(|part| part["octets"].as_str().unwrap().to_owned()).collect()
    };
    // GSM 7-bit with extension (3GPP TS 23.038), UCS-2, three parts joined by a user data header.
    assert_eq!(octets(21), [hex("Ma \u{1b}(1\u{1b}): 482913 \0".as_bytes())]);
    let utf16: Vec<u8> = texts[1].encode_utf16().flat_map(u16::to_be_bytes).collect();
    assert_eq!(octets(22), [hex(&utf16)]);
    let parts = octets(23);
    assert_eq!(parts.iter().map(|part| part.len() / 2).collect::<Vec<_>>(), [159, 159, 7]);
    for (part, number) in parts.iter().zip(1..) {
        assert!(part.starts_with("050003") && part.get(8..12) == Some(&format!("03{number:02x}")), "{part}");
    }
    // Refused once for the rate, taken the second time.
    assert_eq!((carrier.count("throttled"), octets(29).len()), (1, 1));
    for part in &submitted {
        assert_eq!(part["sender"], SENDER);
        assert_eq!(part["ton"], serde_json::json!(["ALPHANUMERIC", "INTERNATIONAL"]));
        assert_eq!(part["receipt"], "SMSC_DELIVERY_RECEIPT_REQUESTED");
        assert_ne!(part["validity"], "None");
        let (coding, features) = (part["coding"].as_str().unwrap(), part["features"].as_array().unwrap());
        assert_eq!(coding == "UCS2", part["to"] == to(22), "{part}");
        assert_eq!(features.len(), usize::from(part["to"] == to(23)), "{part}");
    }
    eventually(BOUND, "every receipt to be taken", || async { carrier.receipts_taken() == submitted.len() })
        .await;
    eventually(BOUND, "signs of life in both directions", || async {
        carrier.count("probed") > 0 && carrier.count("alive") > 0
    })
    .await;
    cell.stop().await;
    assert_eq!((carrier.count("unbound"), carrier.count("strange")), (1, 0));
}
