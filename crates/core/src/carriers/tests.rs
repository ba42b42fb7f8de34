use proptest::prelude::*;

use super::*;

/// A file of one account and one route that uses every key; the keys' lines are replaced one by one.
const COMPLETE: &str = r#"
[[account]]
id = "first"
host = "smsc.example"
port = 3550
system_id = "sotto"
password_file = "secrets/first"
system_type = ""
interface_version = "3.4"
address_range = ""
service_type = ""
tls = "required"
tls_ca_file = "ca.pem"
tls_server_name = "smsc.example"
window = 10
tps = 20
enquire_link = "30 s"
response_timeout = "10 s"
receipt_wait = "72 h"
user_message_reference = false
match_by_recipient = false
message_id_in_response = "hex"
message_id_in_receipt = "decimal"
default_alphabet = "gsm7"
concatenation = "udh"
countries = ["VN", "DE"]
tenants = ["*"]
simulator = false
[account.licence]
type = "agreement"
number = "1/2026"
expires = 2028-12-31

[[account]]
id = "second"
host = "::1"
port = 2775
system_id = "sotto"
password_file = "secrets/second"
tls = "waived"
tls_waiver_reason = "a private circuit"
tps = 1
countries = ["DE"]

[[route]]
prefix = "84"
classes = ["otp", "ad-invite"]
accounts = [{ id = "first", weight = 80 }]
fallback = []

[[route]]
prefix = "49"
accounts = [{ id = "second", weight = 1 }]
fallback = ["first"]
"#;

/// The problems of the file after one replacement.
fn problems_with(old: &str, new: &str) -> Vec<CarrierFileError> {
    assert_eq!(COMPLETE.matches(old).count(), 1, "{old} must stand in the file once");
    CarriersFile::parse(&COMPLETE.replace(old, new)).expect_err(new)
}

fn host(name: &str, port: u16) -> Host {
    Host { name: name.to_owned(), port }
}

#[test]
fn several_hosts_a_pin_and_a_certificate_of_ours() {
    let pin = "0123456789abcdefABCDEF00000000000000000000000000000000000000ffff";
    let text = COMPLETE
        .replace("host = \"smsc.example\"\n", "hosts = [\"a.example:3550\", \"10.0.0.7:2775\", \"[2001:db8::1]:2775\"]\n")
        .replace(
            "port = 3550\n",
            &format!("bind = \"transmitter_receiver\"\nbinds = 3\ntls_pin = \"{pin}\"\ntls_cert_file = \"c\"\ntls_key_file = \"k\"\n"),
        );
    let file = CarriersFile::parse(&text).unwrap();
    let account = file.accounts.first().unwrap();
    let hosts = [host("a.example", 3550), host("10.0.0.7", 2775), host("2001:db8::1", 2775)];
    assert_eq!((account.hosts.as_slice(), account.bind), (&hosts[..], BindKind::TransmitterReceiver));
    let Tls::Required { pin: Some(pin), client: Some(client), .. } = &account.tls else {
        panic!("{:?}", account.tls)
    };
    assert_eq!((pin[0], pin[8], pin[31], client.key_file.to_str().unwrap()), (0x01, 0xab, 0xff, "k"));
}

#[test]
fn reads_the_documented_example() {
    let file = CarriersFile::parse(EXAMPLE).unwrap();
    let ids: Vec<_> = file.accounts.iter().map(|account| account.id.as_str()).collect();
    assert_eq!(ids, ["viettel-otp", "vina-otp", "test-carrier"]);

    let viettel = file.account(&"viettel-otp".parse().unwrap()).unwrap();
    assert_eq!(
        (viettel.hosts.as_slice(), viettel.bind, viettel.binds, viettel.window, viettel.tps),
        (&[host("smsc.viettel.example", 3550)][..], BindKind::Transceiver, 2, 10, 20)
    );
    assert_eq!(viettel.password_file, PathBuf::from("secrets/viettel-otp"));
    let tls = Tls::Required {
        ca_file: Some("secrets/viettel-ca.pem".into()),
        server_name: Some("smsc.viettel.example".to_owned()),
        pin: None,
        client: None,
    };
    assert_eq!(viettel.tls, tls);
    let ids = (viettel.message_id_in_response, viettel.message_id_in_receipt);
    assert_eq!(ids, (MessageIdForm::Hex, MessageIdForm::Decimal));
    assert!(viettel.countries.allow(Country::VIETNAM) && !viettel.countries.allow("DE".parse().unwrap()));
    assert!(viettel.tenants.allow(&"anyone".parse().unwrap()));
    assert_eq!(viettel.licence.as_ref().unwrap().expires, jiff::civil::date(2028, 12, 31));

    let vina = file.account(&"vina-otp".parse().unwrap()).unwrap();
    assert!(matches!(&vina.tls, Tls::Waived { reason } if reason.starts_with("leased line")));
    assert!(
        vina.tenants.allow(&"acme-bank".parse().unwrap()) && !vina.tenants.allow(&"other".parse().unwrap())
    );

    let first = file.routes.first().unwrap();
    assert_eq!(first.prefix.as_str(), "84");
    assert_eq!(first.classes, Some(BTreeSet::from([MessageClass::Otp, MessageClass::Transactional])));
    let weights: Vec<_> =
        first.accounts.iter().map(|account| (account.id.as_str(), account.weight)).collect();
    assert_eq!(weights, [("viettel-otp", 80), ("vina-otp", 20)]);
    assert_eq!(file.routes.last().unwrap().classes, None);
}

#[test]
fn the_example_shows_every_key() {
    for key in COMPLETE.lines().filter_map(|line| line.split_once(" = ")).map(|(key, _)| key) {
        assert!(EXAMPLE.contains(&format!("\n{key} = ")), "{key}");
    }
}

/// The document for people has a row for every key, and its example can be used as it stands.
#[test]
fn the_document_explains_every_key() {
    let document = include_str!("../../../../docs/CARRIERS.md");
    for key in COMPLETE.lines().filter_map(|line| line.split_once(" = ")).map(|(key, _)| key) {
        assert!(document.contains(&format!("\n| `{key}` |")), "{key}");
    }
    let examples: Vec<_> =
        document.split("```toml\n").skip(1).filter_map(|rest| rest.split("```").next()).collect();
    assert_eq!(examples.len(), 1);
    for example in examples {
        CarriersFile::parse(example).unwrap();
    }
}

#[test]
fn defaults_are_those_the_example_documents() {
    let file = CarriersFile::parse(COMPLETE).unwrap();
    let second = file.account(&"second".parse().unwrap()).unwrap();
    assert_eq!((second.system_type.as_str(), second.window, second.simulator), ("", 10, false));
    assert_eq!(second.enquire_link, Duration::from_secs(30));
    assert_eq!(second.response_timeout, Duration::from_secs(10));
    assert_eq!(second.receipt_wait, Duration::from_secs(72 * 3600));
    assert_eq!(
        (second.message_id_in_response, second.message_id_in_receipt),
        (MessageIdForm::Opaque, MessageIdForm::Opaque)
    );
    assert_eq!((second.tenants.clone(), second.licence.clone()), (Tenants::All, None));
    let unnamed = COMPLETE
        .replace("tls_server_name = \"smsc.example\"\n", "")
        .replace("tls_ca_file = \"ca.pem\"\n", "");
    let file = CarriersFile::parse(&unnamed).unwrap();
    let tls = Tls::Required { ca_file: None, server_name: None, pin: None, client: None };
    assert_eq!(file.accounts.first().unwrap().tls, tls);
}

#[test]
fn every_field_wrong_in_turn() {
    for (old, new, path) in [
        ("id = \"first\"\nhost", "host", "account[1].id"),
        ("id = \"first\"\nhost", "id = \"First!\"\nhost", "account[1].id"),
        ("host = \"smsc.example\"", "", "account[1].host"),
        ("host = \"smsc.example\"", "host = \"smsc.example:3550\"", "account[1].host"),
        ("host = \"smsc.example\"", "host = \"\"", "account[1].host"),
        ("host = \"smsc.example\"", "host = \"-x.example\"", "account[1].host"),
        ("port = 3550", "", "account[1].port"),
        ("port = 3550", "port = 3550\nhosts = [\"a:1\"]", "account[1].hosts"),
        ("port = 3550", "port = 3550\nhosts = [\"a\"]", "account[1].hosts"),
        ("port = 3550", "port = 3550\nhosts = [\"::1:2775\"]", "account[1].hosts"),
        ("port = 3550", "port = 3550\nbinds = 0", "account[1].binds"),
        ("port = 3550", "port = 3550\nbinds = 64", "account[1].binds"),
        ("port = 3550", "port = 3550\nbind = \"receiver\"", "account[1].bind"),
        ("port = 3550", "port = 3550\ntls_pin = \"12\"", "account[1].tls_pin"),
        ("port = 3550", "port = 3550\ntls_cert_file = \"c\"", "account[1].tls_key_file"),
        ("port = 3550", "port = 3550\ntolerance = \"loose\"", "account[1].tolerance"),
        ("port = 3550", "port = 3550\nreceipts = \"any\"", "account[1].receipts"),
        ("port = 3550", "port = 3550\naddressing = { number = [7, 1] }", "account[1].addressing.number"),
        ("port = 3550", "port = 3550\naddressing = { number = 1 }", "account[1].addressing.number"),
        ("port = 3550", "port = 3550\naddressing = { sender = [1, 1] }", "account[1].addressing.sender"),
        ("port = 3550", "port = 3550\ninbound = { 90 = \"acme\" }", "account[1].inbound"),
        ("port = 3550", "port = 3550\ninbound = { \"+9029\" = \"acme\" }", "account[1].inbound"),
        ("port = 3550", "port = 3550\ninbound = { 9029 = \"Acme\" }", "account[1].inbound"),
        ("port = 3550", "port = 3550\ninbound = { 9029 = \"unowned\" }", "account[1].inbound"),
        ("port = 3550", "port = 3550\ninbound = 9029", "account[1].inbound"),
        ("port = 3550", "port = 3550\nquery_after = \"72 h\"", "account[1].query_after"),
        ("port = 3550", "port = 3550\nquery_after = \"1 ms\"", "account[1].query_after"),
        ("port = 3550", "port = 0", "account[1].port"),
        ("port = 3550", "port = 65536", "account[1].port"),
        ("port = 3550", "port = \"3550\"", "account[1].port"),
        (
            "system_id = \"sotto\"\npassword_file = \"secrets/first\"",
            "password_file = \"p\"",
            "account[1].system_id",
        ),
        (
            "system_id = \"sotto\"\npassword_file = \"secrets/first\"",
            "system_id = \"\"\npassword_file = \"p\"",
            "account[1].system_id",
        ),
        (
            "system_id = \"sotto\"\npassword_file = \"secrets/first\"",
            "system_id = \"sixteen-octets-x\"\npassword_file = \"p\"",
            "account[1].system_id",
        ),
        ("password_file = \"secrets/first\"", "", "account[1].password_file"),
        ("password_file = \"secrets/first\"", "password_file = \"\"", "account[1].password_file"),
        ("system_type = \"\"", "system_type = \"thirteen-long\"", "account[1].system_type"),
        ("system_type = \"\"", "system_type = \"ä\"", "account[1].system_type"),
        ("interface_version = \"3.4\"", "interface_version = 3.4", "account[1].interface_version"),
        ("interface_version = \"3.4\"", "interface_version = \"3.3\"", "account[1].interface_version"),
        ("service_type = \"\"", "service_type = \"sixsix\"", "account[1].service_type"),
        ("address_range = \"\"", "address_range = \"\\u00e4\"", "account[1].address_range"),
        (
            "address_range = \"\"",
            "address_range = \"forty-one-characters-are-one-too-many-0000\"",
            "account[1].address_range",
        ),
        ("tls = \"required\"", "tls = \"off\"", "account[1].tls"),
        ("tls = \"required\"", "tls = false", "account[1].tls"),
        ("tls = \"required\"", "tls_waiver_reason = \"a private circuit\"", "account[1].tls_waiver_reason"),
        ("tls_ca_file = \"ca.pem\"", "tls_ca_file = 7", "account[1].tls_ca_file"),
        ("tls_server_name = \"smsc.example\"", "tls_server_name = \"a b\"", "account[1].tls_server_name"),
        ("tls_waiver_reason = \"a private circuit\"", "", "account[2].tls_waiver_reason"),
        (
            "tls_waiver_reason = \"a private circuit\"",
            "tls_waiver_reason = \" because  \"",
            "account[2].tls_waiver_reason",
        ),
        (
            "tls_waiver_reason = \"a private circuit\"",
            "tls_waiver_reason = \"a private circuit\"\ntls_ca_file = \"x\"",
            "account[2].tls_ca_file",
        ),
        (
            "tls_waiver_reason = \"a private circuit\"",
            "tls_waiver_reason = \"a private circuit\"\ntls_server_name = \"x\"",
            "account[2].tls_server_name",
        ),
        ("window = 10", "window = 0", "account[1].window"),
        ("window = 10", "window = 1001", "account[1].window"),
        ("tps = 20", "", "account[1].tps"),
        ("tps = 20", "tps = 0", "account[1].tps"),
        ("tps = 20", "tps = 10001", "account[1].tps"),
        ("tps = 20", "tps = -9223372036854775808", "account[1].tps"),
        ("tps = 20", "tps = 2.5", "account[1].tps"),
        ("enquire_link = \"30 s\"", "enquire_link = \"999 ms\"", "account[1].enquire_link"),
        ("enquire_link = \"30 s\"", "enquire_link = \"11 m\"", "account[1].enquire_link"),
        ("enquire_link = \"30 s\"", "enquire_link = 30", "account[1].enquire_link"),
        ("response_timeout = \"10 s\"", "response_timeout = \"0 s\"", "account[1].response_timeout"),
        ("response_timeout = \"10 s\"", "response_timeout = \"61 s\"", "account[1].response_timeout"),
        ("response_timeout = \"10 s\"", "response_timeout = \"10 sec\"", "account[1].response_timeout"),
        ("receipt_wait = \"72 h\"", "receipt_wait = \"59 s\"", "account[1].receipt_wait"),
        ("receipt_wait = \"72 h\"", "receipt_wait = \"169 h\"", "account[1].receipt_wait"),
        ("receipt_wait = \"72 h\"", "receipt_wait = \"99999999999999999999 h\"", "account[1].receipt_wait"),
        ("receipt_wait = \"72 h\"", "receipt_wait = \"18446744073709551615 h\"", "account[1].receipt_wait"),
        ("user_message_reference = false", "user_message_reference = 1", "account[1].user_message_reference"),
        ("match_by_recipient = false", "match_by_recipient = \"no\"", "account[1].match_by_recipient"),
        (
            "message_id_in_response = \"hex\"",
            "message_id_in_response = \"HEX\"",
            "account[1].message_id_in_response",
        ),
        (
            "message_id_in_receipt = \"decimal\"",
            "message_id_in_receipt = 10",
            "account[1].message_id_in_receipt",
        ),
        ("default_alphabet = \"gsm7\"", "default_alphabet = \"ebcdic\"", "account[1].default_alphabet"),
        ("concatenation = \"udh\"", "concatenation = \"udh8\"", "account[1].concatenation"),
        ("countries = [\"VN\", \"DE\"]", "countries = []", "account[1].countries"),
        ("countries = [\"VN\", \"DE\"]", "countries = [\"VN\", \"UK\"]", "account[1].countries"),
        ("countries = [\"VN\", \"DE\"]", "countries = [\"VN\", \"VN\"]", "account[1].countries"),
        ("tenants = [\"*\"]", "tenants = [\"*\", \"acme\"]", "account[1].tenants"),
        ("tenants = [\"*\"]", "tenants = []", "account[1].tenants"),
        ("tenants = [\"*\"]", "tenants = \"*\"", "account[1].tenants"),
        ("simulator = false", "simulator = \"no\"", "account[1].simulator"),
        ("[account.licence]", "licence = \"yes\"\n[other]", "account[1].licence"),
        ("type = \"agreement\"", "", "account[1].licence.type"),
        ("type = \"agreement\"", "type = \" \"", "account[1].licence.type"),
        ("number = \"1/2026\"", "number = 1", "account[1].licence.number"),
        ("expires = 2028-12-31", "", "account[1].licence.expires"),
        ("expires = 2028-12-31", "expires = \"31.12.2028\"", "account[1].licence.expires"),
        ("expires = 2028-12-31", "expires = true", "account[1].licence.expires"),
        ("prefix = \"84\"", "", "route[1].prefix"),
        ("prefix = \"84\"", "prefix = \"+84\"", "route[1].prefix"),
        ("prefix = \"84\"", "prefix = 84", "route[1].prefix"),
        ("prefix = \"84\"", "prefix = \"849812\"", "route[1].prefix"),
        ("classes = [\"otp\", \"ad-invite\"]", "classes = []", "route[1].classes"),
        ("classes = [\"otp\", \"ad-invite\"]", "classes = [\"OTP\"]", "route[1].classes"),
        ("classes = [\"otp\", \"ad-invite\"]", "classes = [\"otp\", \"otp\"]", "route[1].classes"),
        ("accounts = [{ id = \"first\", weight = 80 }]", "", "route[1].accounts"),
        ("accounts = [{ id = \"first\", weight = 80 }]", "accounts = []", "route[1].accounts"),
        ("accounts = [{ id = \"first\", weight = 80 }]", "accounts = [\"first\"]", "route[1].accounts"),
        ("id = \"first\", weight = 80", "weight = 80", "route[1].accounts[1].id"),
        ("id = \"first\", weight = 80", "id = \"first\"", "route[1].accounts[1].weight"),
        ("weight = 80", "weight = 0", "route[1].accounts[1].weight"),
        ("weight = 80", "weight = 101", "route[1].accounts[1].weight"),
        ("fallback = []", "fallback = \"second\"", "route[1].fallback"),
        ("fallback = []", "fallback = [1]", "route[1].fallback"),
        // Keys that are none.
        ("tps = 20", "tps = 20\npassword = \"hunter2\"", "account[1].password"),
        ("type = \"agreement\"", "type = \"agreement\"\nkind = 1", "account[1].licence.kind"),
        ("prefix = \"84\"", "prefix = \"84\"\nweight = 1", "route[1].weight"),
        ("weight = 80", "weight = 80, share = 1", "route[1].accounts[1].share"),
        // What shows only together.
        ("id = \"second\"\nhost", "id = \"first\"\nhost", "account[2].id"),
        ("fallback = []", "fallback = [\"third\"]", "route[1].fallback"),
        ("fallback = []", "fallback = [\"first\"]", "route[1].fallback"),
        ("fallback = []", "fallback = [\"second\"]", "route[1].fallback"),
        ("id = \"second\", weight = 1", "id = \"third\", weight = 1", "route[2].accounts[1].id"),
        (
            "prefix = \"49\"\naccounts = [{ id = \"second\", weight = 1 }]",
            "prefix = \"49\"\naccounts = [{ id = \"first\", weight = 1 }]",
            "account[2]",
        ),
        ("prefix = \"49\"", "prefix = \"84\"\nclasses = [\"otp\"]", "route[2]"),
        (
            "[account.licence]\ntype = \"agreement\"\nnumber = \"1/2026\"\nexpires = 2028-12-31",
            "",
            "account[1].licence",
        ),
    ] {
        let problems = problems_with(old, new);
        assert!(
            problems.iter().any(|problem| problem.path == path),
            "{new:?} must be reported at {path}: {problems:#?}"
        );
        for problem in &problems {
            assert!(!problem.problem.is_empty() && !problem.fix.is_empty());
            assert!(!problem.to_string().contains("hunter2"), "a secret in the wrong place is not repeated");
        }
    }
}

#[test]
fn one_mistake_gives_one_error() {
    for (old, new) in [
        ("tps = 20", "tps = 0"),
        ("tls = \"required\"", "tls = \"off\""),
        ("expires = 2028-12-31", "expires = true"),
        ("countries = [\"VN\", \"DE\"]", "countries = [\"UK\"]"),
        ("id = \"first\"\nhost", "id = \"First!\"\nhost"),
        ("fallback = []", "fallback = 1"),
        ("prefix = \"84\"", "prefix = \"0\""),
        ("weight = 80", "weight = 0"),
    ] {
        let problems = problems_with(old, new);
        assert_eq!(problems.len(), 1, "{new}: {problems:#?}");
    }
}

#[test]
fn all_problems_are_reported_at_once_in_words_that_help() {
    let text = COMPLETE
        .replace("tps = 20", "tps = 0")
        .replace("port = 2775", "")
        .replace("weight = 80", "weight = 300")
        .replace("fallback = [\"first\"]", "fallback = [\"thrid\"]");
    let problems = CarriersFile::parse(&text).unwrap_err();
    let lines: Vec<String> = problems.iter().map(ToString::to_string).collect();
    assert_eq!(
        lines,
        [
            "account[1].tps: is 0: give a whole number from 1 to 10000 (parts a second)",
            "account[2].port: is missing: give a whole number from 1 to 65535",
            "route[1].accounts[1].weight: is 300: give a whole number from 1 to 100",
            "route[2].fallback: names thrid, which no [[account]] has: mend the name or add the account",
        ]
    );
}

#[test]
fn a_file_without_its_tables_says_which() {
    let paths = |text: &str| {
        let problems = CarriersFile::parse(text).unwrap_err();
        problems.into_iter().map(|problem| problem.path).collect::<Vec<_>>()
    };
    assert_eq!(paths(""), ["account", "route"]);
    assert_eq!(paths("account = []\nroute = []"), ["account", "route"]);
    assert_eq!(
        paths("[account]\n[[route]]\nprefix = \"84\"\naccounts = [{ id = \"a\", weight = 1 }]"),
        ["account"]
    );
    assert_eq!(paths("accounts = 1"), ["account", "route", "accounts"]);
    assert_eq!(paths("\n\nid = \n"), ["line 3"]);
}

#[test]
fn vietnamese_numbers_need_a_licence_however_they_come() {
    let unlicensed =
        COMPLETE.replace("countries = [\"DE\"]", "").replace("fallback = []", "fallback = [\"second\"]");
    let problems = CarriersFile::parse(&unlicensed).unwrap_err();
    let paths: Vec<_> = problems.iter().map(|problem| problem.path.as_str()).collect();
    assert_eq!(
        paths,
        ["account[2].licence"],
        "no list of countries, but a Vietnamese route names the account"
    );
    for prefix in ["8498", "8"] {
        let text = unlicensed.replace("prefix = \"84\"", &format!("prefix = \"{prefix}\""));
        assert_eq!(CarriersFile::parse(&text).unwrap_err(), problems, "{prefix}");
    }
    let simulator = unlicensed.replace("tps = 1\n", "tps = 1\nsimulator = true\n");
    assert!(CarriersFile::parse(&simulator).is_ok());
}

#[test]
fn a_licence_holds_to_the_end_of_its_last_day_in_vietnam() {
    let file = CarriersFile::parse(COMPLETE).unwrap();
    let licence = file.accounts.first().unwrap().licence.as_ref().unwrap();
    let midnight = jiff::civil::date(2028, 12, 31).at(17, 0, 0, 0);
    let midnight = jiff::tz::Offset::UTC.to_timestamp(midnight).unwrap().as_millisecond();
    assert!(licence.in_force(Timestamp::from_unix_millis(midnight - 1)));
    assert!(!licence.in_force(Timestamp::from_unix_millis(midnight)));
    assert!(!licence.in_force(Timestamp::from_unix_millis(i64::MAX)), "a broken clock does not prolong it");
}

#[test]
fn the_same_prefix_may_name_classes_beside_a_route_for_all() {
    let text = COMPLETE
        .replace("prefix = \"49\"", "prefix = \"84\"")
        .replace("countries = [\"DE\"]", "simulator = true");
    assert_eq!(CarriersFile::parse(&text).unwrap().routes.len(), 2);
    let problems = CarriersFile::parse(&text.replace("classes = [\"otp\", \"ad-invite\"]", "")).unwrap_err();
    assert_eq!(problems.first().unwrap().to_string().split(": ").next(), Some("route[2]"));
}

proptest! {
    #[test]
    fn damaged_files_give_errors_and_no_panic(cut in 0..COMPLETE.len(), noise in "\\PC{0,4}") {
        let text = format!("{}{noise}{}", &COMPLETE[..cut], &COMPLETE[(cut + 3).min(COMPLETE.len())..]);
        if let Err(problems) = CarriersFile::parse(&text) {
            prop_assert!(!problems.is_empty());
        }
    }
}
