//! Foreign SMSCs as the carrier of a whole cell. What was sent is counted by them.

use std::{collections::BTreeSet, fs, path::Path};

use serde_json::{Value, json};
use sotto_testkit::{Process, eventually, free_port, tools};

use crate::{
    cell::{BOUND, Cell, SENDER, number, with_token},
    foreign::message,
    load::{Load, balanced, settled},
    peer::{Peer, hex},
};

/// One-time codes of a load.
const CODES: u32 = 100;

/// The texts that follow it, to numbers of their own.
const EXTENDED: (u32, &str) = (901, "Ma {1}: 482913 @");
const VIETNAMESE: (u32, &str) = (902, "Mã xác thực: 482913");
/// The carrier smpp34 throttles it once.
const AGAIN: (u32, &str) = (909, "again");
/// Number, text, its octets and parts: GSM 7-bit and UCS-2.
fn long_texts() -> [(u32, String, Vec<u8>, u64); 2] {
    let (plain, vietnamese) = ("a".repeat(307), "ă".repeat(100));
    let octets = (plain.clone().into_bytes(), ucs2(&vietnamese));
    [(903, plain, octets.0, 3), (904, vietnamese, octets.1, 2)]
}

/// One-time codes, three texts of one part, one of three, one of two.
const PARTS: usize = CODES as usize + 3 + 3 + 2;

/// A cell whose carrier is this peer, with these keys of the account.
async fn cell_on(
    peer: impl AsyncFnOnce(&Path) -> (Peer, u64),
    keys: impl FnOnce(&Path) -> String,
) -> (Cell, Peer) {
    let mut started = None;
    let cell = Cell::start_on(async |root| {
        let (peer, port) = peer(root).await;
        started = Some(peer);
        let file = root.join("foreign-carriers.toml");
        let text = format!(
            "[[account]]\nid = \"foreign\"\nhost = \"localhost\"\nport = {port}\nsystem_id = \"sotto\"\n\
             password_file = \"{}\"\ntps = 100\nenquire_link = \"1 s\"\nsimulator = true\n{}\n\n\
             [[route]]\nprefix = \"84\"\naccounts = [{{ id = \"foreign\", weight = 1 }}]\n",
            root.join("secrets/simulator").display(),
            keys(root),
        );
        fs::write(&file, text).unwrap();
        file
    })
    .await;
    (cell, started.unwrap())
}

fn over_tls(root: &Path) -> String {
    let ca = root.join("tls/ca.pem");
    format!("tls_ca_file = \"{}\"\ntls_server_name = \"simulator.sotto.internal\"\n", ca.display())
}

async fn send_texts(cell: &Cell) -> Vec<String> {
    let (mut client, token) = (cell.messages(), cell.token("shop").await);
    let short = [EXTENDED, VIETNAMESE, AGAIN].map(|(n, text)| (n, text.to_owned()));
    let long = long_texts().map(|(n, text, ..)| (n, text));
    let mut ids = Vec::new();
    for (n, text) in short.into_iter().chain(long) {
        let sent = client.send(with_token(message(n, &text), &token)).await.unwrap().into_inner();
        ids.push(sent.message_id);
    }
    ids
}

/// Everything was delivered; the carrier got each part once, and every receipt of it was taken.
async fn settle(cell: &Cell, peer: &Peer, ids: &[String]) {
    assert_eq!(settled(cell, ids, false).await, 0, "in doubt");
    eventually(BOUND, "every receipt to be taken", || async { peer.receipts_taken() == PARTS }).await;
    let submitted = peer.events("submitted");
    let key = |part: &Value| [part["to"].to_string(), part["octets"].to_string(), part["tlvs"].to_string()];
    let distinct: BTreeSet<_> = submitted.iter().map(key).collect();
    assert_eq!((submitted.len(), distinct.len()), (PARTS, PARTS), "lost or sent twice");
    assert!(submitted.iter().all(|part| part["sender"] == SENDER));
    assert_eq!(peer.count("receipt"), PARTS, "a receipt was refused");
    balanced(cell, ids.len(), 0).await;
}

/// The octets that the carrier read of the parts to a number, in order, and the coding that it named.
fn got(peer: &Peer, n: u32) -> (Vec<String>, BTreeSet<String>) {
    let to = Value::from(&number(n)[1..]);
    let parts: Vec<_> = peer.events("submitted").into_iter().filter(|part| part["to"] == to).collect();
    let octets = parts.iter().map(|part| part["octets"].as_str().unwrap().to_owned()).collect();
    (octets, parts.iter().map(|part| part["coding"].to_string()).collect())
}

fn ucs2(text: &str) -> Vec<u8> {
    text.encode_utf16().flat_map(u16::to_be_bytes).collect()
}

/// What single parts look like where `data_coding` 0 is the GSM alphabet or something else.
fn check_single_parts(peer: &Peer, extended: &[u8], default: &Value, ucs: &Value) {
    let one = |coding: &Value| BTreeSet::from([coding.to_string()]);
    assert_eq!(got(peer, EXTENDED.0), (vec![hex(extended)], one(default)));
    assert_eq!(got(peer, VIETNAMESE.0), (vec![hex(&ucs2(VIETNAMESE.1))], one(ucs)));
    assert_eq!(got(peer, AGAIN.0), (vec![hex(AGAIN.1.as_bytes())], one(default)));
}

/// GSM 7-bit, an octet a character (3GPP TS 23.038).
const EXTENDED_GSM: &[u8] = b"Ma \x1b(1\x1b): 482913 \0";

/// Parts joined by a user data header (3GPP TS 23.040 §9.2.3.24.1): their numbers, and the text behind it.
fn check_headers(peer: &Peer) {
    for (n, _, octets, count) in long_texts() {
        let (parts, _) = got(peer, n);
        assert_eq!(parts.len() as u64, count);
        let joined: String = (1..)
            .zip(&parts)
            .map(|(number, part)| {
                assert!(part.starts_with("050003"), "{part}");
                assert_eq!(part[8..12], format!("{count:02x}{number:02x}"), "{part}");
                &part[12..]
            })
            .collect();
        assert_eq!(joined, hex(&octets));
    }
}

async fn check_signs_of_life(peer: &Peer) {
    eventually(BOUND, "signs of life in both directions", || async {
        peer.count("probed") > 0 && peer.count("alive") > 0
    })
    .await;
}

/// The cell stops; the carrier sees each bind unbound, and saw nothing that it does not know.
async fn leave(cell: &mut Cell, peer: &Peer, binds: usize) {
    cell.stop().await;
    eventually(BOUND, "each bind to be unbound", || async { peer.count("unbound") == binds }).await;
    assert_eq!(peer.count("strange"), 0, "{}", peer.log());
}

/// Parts joined by `sar_total_segments` 0x020E and `sar_segment_seqnum` 0x020F (SMPP 3.4 §5.3.2.23, §5.3.2.24). smpp34 hands
/// out what it read in any order.
fn check_parameters(peer: &Peer) {
    for (n, _, octets, count) in long_texts() {
        let to = Value::from(&number(n)[1..]);
        let mut parts = peer.events("submitted");
        parts.retain(|part| part["to"] == to);
        parts.sort_by_key(|part| part["tlvs"]["527"].as_u64());
        let place = |part: &Value| ["526", "527"].map(|tag| part["tlvs"][tag].as_u64().unwrap());
        let places: Vec<_> = parts.iter().map(place).collect();
        assert_eq!(places, (1..=count).map(|number| [count, number]).collect::<Vec<_>>());
        let joined: String = parts.iter().map(|part| part["octets"].as_str().unwrap()).collect();
        assert_eq!(joined, hex(&octets));
    }
}

/// smpp.twisted3, the SMPP server inside Jasmin, over TLS of its own. It unbinds two binds in the middle.
#[tokio::test]
async fn twisted_over_tls() {
    let start = async |root: &Path| {
        let arguments =
            ["secrets/simulator", "tls/simulator.pem", "tls/simulator.key"].map(|file| root.join(file));
        let peer =
            Peer::start(root, &tools::foreign("python"), "interop/carrier_twisted.py", arguments).await;
        let port = peer.port;
        (peer, port)
    };
    let keys = |root: &Path| {
        let ids = "binds = 2\nmessage_id_in_response = \"uuid\"\nmessage_id_in_receipt = \"uuid\"\n";
        format!("{ids}{}", over_tls(root))
    };
    let (mut cell, peer) = cell_on(start, keys).await;
    let mut ids = Load::start(&cell, 0..CODES).await.finish().await;
    assert_eq!(settled(&cell, &ids, false).await, 0, "in doubt");
    peer.signal("HUP");
    eventually(BOUND, "two more binds", || async { peer.count("bound") == 4 }).await;
    ids.extend(send_texts(&cell).await);
    settle(&cell, &peer, &ids).await;
    check_single_parts(&peer, EXTENDED_GSM, &json!("SMSC_DEFAULT_ALPHABET"), &json!("UCS2"));
    check_headers(&peer);
    check_signs_of_life(&peer).await;
    leave(&mut cell, &peer, 2).await;
}

/// stunnel in front of a carrier without TLS, as is common: TLS 1.2, and only for clients of this authority.
async fn stunnel(root: &Path, connect: u64) -> (Process, u64) {
    let port = free_port();
    let path = |name: &str| root.join(name).display().to_string();
    let text = format!(
        "foreground = yes\npid =\n\n[smsc]\naccept = 127.0.0.1:{port}\nconnect = 127.0.0.1:{connect}\n\
         sslVersion = TLSv1.2\ncert = {}\nkey = {}\nverifyChain = yes\nCAfile = {}\n",
        path("tls/simulator.pem"),
        path("tls/simulator.key"),
        path("tls/ca.pem"),
    );
    let file = root.join("stunnel.conf");
    fs::write(&file, text).unwrap();
    let environment: [(&str, &str); 0] = [];
    let log = root.join("logs/stunnel.log");
    let mut process = Process::start(&tools::foreign("stunnel4"), [file], environment, &log);
    process.wait_for_log(BOUND, "Configuration successful").await;
    (process, port.into())
}

/// smpp34 behind stunnel: our own certificate is asked for; parts joined by parameters, receipts by parameters alone, ids
/// in another base.
#[tokio::test]
async fn smpp34_behind_stunnel() {
    let mut tunnel = None;
    let start = async |root: &Path| {
        let port = free_port().to_string();
        let peer = Peer::start(root, &tools::foreign("python"), "interop/carrier_smpp34.py", [port]).await;
        let (process, port) = stunnel(root, peer.port).await;
        tunnel = Some(process);
        (peer, port)
    };
    let keys = |root: &Path| {
        let ids = "message_id_in_response = \"decimal\"\nmessage_id_in_receipt = \"hex\"\n";
        let [certificate, key] = ["tls/carrier.pem", "tls/carrier.key"].map(|file| root.join(file));
        format!(
            "{ids}concatenation = \"sar\"\ntls_cert_file = \"{}\"\ntls_key_file = \"{}\"\n{}",
            certificate.display(),
            key.display(),
            over_tls(root)
        )
    };
    let (mut cell, peer) = cell_on(start, keys).await;
    let mut ids = Load::start(&cell, 0..CODES).await.finish().await;
    ids.extend(send_texts(&cell).await);
    settle(&cell, &peer, &ids).await;
    check_single_parts(&peer, EXTENDED_GSM, &json!(0), &json!(8));
    check_parameters(&peer);
    leave(&mut cell, &peer, 1).await;
    assert_eq!((peer.count("bound"), peer.count("throttled")), (1, 1), "{}", peer.log());
    // stunnel tells which certificate it was shown.
    let log = tunnel.unwrap().log();
    assert!(log.contains("Certificate accepted at depth=0") && log.contains("carrier"), "{log}");
}

/// Net::SMPP of Debian: a transmitter and a receiver, Latin-1 as the default alphabet, receipts that nothing marks.
#[tokio::test]
async fn net_smpp_with_a_pair() {
    let start = async |root: &Path| {
        let peer = Peer::start(
            root,
            Path::new("perl"),
            "interop/carrier_net_smpp.pl",
            [root.join("secrets/simulator")],
        )
        .await;
        let port = peer.port;
        (peer, port)
    };
    let keys = |_: &Path| {
        "bind = \"transmitter_receiver\"\nreceipts = \"text\"\ndefault_alphabet = \"latin1\"\n\
         message_id_in_response = \"hex\"\nmessage_id_in_receipt = \"decimal\"\n\
         tls = \"waived\"\ntls_waiver_reason = \"a test on this machine\"\n"
            .to_owned()
    };
    let (mut cell, peer) = cell_on(start, keys).await;
    let mut ids = Load::start(&cell, 0..CODES).await.finish().await;
    ids.extend(send_texts(&cell).await);
    settle(&cell, &peer, &ids).await;
    check_single_parts(&peer, EXTENDED.1.as_bytes(), &json!(0), &json!(8));
    check_headers(&peer);
    check_signs_of_life(&peer).await;
    leave(&mut cell, &peer, 2).await;
    assert_eq!(peer.count("bound"), 2, "{}", peer.log());
}
