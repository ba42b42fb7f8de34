//! Reads one `[[account]]`.

use std::{collections::BTreeMap, net::IpAddr, path::PathBuf, time::Duration};

use toml::{Table, Value};

use super::{
    Account, Addressing, BindKind, CarrierFileError, ClientCertificate, Concatenation, Countries,
    DefaultAlphabet, Host, InterfaceVersion, Licence, MessageIdForm, RESPONSE_TIMEOUT_MAX, ReceiptMark,
    Tenants, Tls, Tolerance, TonNpi,
    read::{self, Section},
};
use crate::{AccountId, TenantId};

/// The most binds of one account.
const BINDS_MAX: u16 = 64;

/// What could be read of an account: enough to check the rest of the file even if the account has problems.
#[derive(Debug)]
pub(super) struct AccountDraft {
    pub(super) path: String,
    pub(super) id: Option<AccountId>,
    pub(super) countries: Option<Countries>,
    /// Has a licence, readable or not, or needs none.
    pub(super) licensed: bool,
    pub(super) account: Option<Account>,
}

pub(super) fn read(path: String, table: &Table, errors: &mut Vec<CarrierFileError>) -> AccountDraft {
    let mut section = Section::new(path.clone(), table, errors);
    let s = &mut section;
    let id: Option<AccountId> =
        s.required("id", "give the account a name of 1 to 40 of a-z, 0-9 and -", |v| {
            read::text(v)?.parse().map_err(|_| "has other characters or another length".to_owned())
        });
    let hosts = hosts(s);
    let bind =
        s.or("bind", BindKind::Transceiver, "write \"transceiver\" or \"transmitter_receiver\"", |v| {
            let kinds = [
                ("transceiver", BindKind::Transceiver),
                ("transmitter_receiver", BindKind::TransmitterReceiver),
            ];
            read::choice(v, &kinds)
        });
    let binds = s.or("binds", 1, "give a whole number from 1 to 64", |v| read::integer(v, 1..=BINDS_MAX));
    let system_id =
        s.required("system_id", "give the user name at the carrier, 1 to 15 ASCII characters", |v| {
            read::ascii(v, 1..=15)
        });
    let password_file = s.required("password_file", "give the path of a file with the password", file);
    let system_type =
        s.or("system_type", String::new(), "give up to 12 ASCII characters", |v| read::ascii(v, 0..=12));
    let version_fix = "write \"3.4\" or \"5.0\"";
    let interface_version = s.or("interface_version", InterfaceVersion::V34, version_fix, |v| {
        read::choice(v, &[("3.4", InterfaceVersion::V34), ("5.0", InterfaceVersion::V50)])
    });
    let address_range =
        s.or("address_range", String::new(), "give up to 40 ASCII characters", |v| read::ascii(v, 0..=40));
    let service_type =
        s.or("service_type", String::new(), "give up to 5 ASCII characters", |v| read::ascii(v, 0..=5));
    let tls = tls(s);
    let window = s.or("window", 10, "give a whole number from 1 to 1000 (submits not yet answered)", |v| {
        read::integer(v, 1..=1000)
    });
    let tps = s.required("tps", "give a whole number from 1 to 10000 (parts a second)", |v| {
        read::integer(v, 1..=10_000)
    });
    if let (Some(binds), Some(tps)) = (binds, tps)
        && binds > tps
    {
        let problem = format!("is {binds}, more than tps: each bind gets a share of it");
        s.error("binds", problem, "give at most as many binds as parts a second");
    }
    let (second, minute, hour) = (Duration::from_secs(1), Duration::from_secs(60), Duration::from_secs(3600));
    let enquire_link = s.or("enquire_link", 30 * second, "give 1 s to 10 m, such as \"30 s\"", |v| {
        read::duration(v, second..=10 * minute)
    });
    let response_timeout = s.or("response_timeout", 10 * second, "give 1 s to 60 s, such as \"10 s\"", |v| {
        read::duration(v, second..=RESPONSE_TIMEOUT_MAX)
    });
    let receipt_wait = s.or("receipt_wait", 72 * hour, "give 1 m to 168 h, such as \"72 h\"", |v| {
        read::duration(v, minute..=168 * hour)
    });
    let query_fix = "give 1 s to 168 h and less than receipt_wait, such as \"30 m\", or leave it out";
    let query_after = s.optional("query_after", query_fix, |v| read::duration(v, second..=168 * hour));
    if let (Some(Some(after)), Some(wait)) = (query_after, receipt_wait)
        && after >= wait
    {
        s.error("query_after", "is not less than receipt_wait".to_owned(), query_fix);
    }
    let user_message_reference = s.or("user_message_reference", false, "write true or false", read::boolean);
    let match_by_recipient = s.or("match_by_recipient", false, "write true or false", read::boolean);
    let tolerance = s.or("tolerance", Tolerance::Carrier, "write \"carrier\" or \"strict\"", |v| {
        read::choice(v, &[("carrier", Tolerance::Carrier), ("strict", Tolerance::Strict)])
    });
    let message_id_in_response = message_id_form(s, "message_id_in_response");
    let message_id_in_receipt = message_id_form(s, "message_id_in_receipt");
    let receipts = s.or("receipts", ReceiptMark::Specified, "write \"specified\" or \"text\"", |v| {
        read::choice(v, &[("specified", ReceiptMark::Specified), ("text", ReceiptMark::Text)])
    });
    let alphabet_fix = "write \"gsm7\", \"latin1\" or \"ascii\"";
    let default_alphabet = s.or("default_alphabet", DefaultAlphabet::Gsm7, alphabet_fix, |v| {
        let alphabets = [
            ("gsm7", DefaultAlphabet::Gsm7),
            ("latin1", DefaultAlphabet::Latin1),
            ("ascii", DefaultAlphabet::Ascii),
        ];
        read::choice(v, &alphabets)
    });
    let concatenation_fix = "write \"udh\", \"udh16\", \"sar\" or \"payload\"";
    let concatenation = s.or("concatenation", Concatenation::Udh, concatenation_fix, |v| {
        let ways = [
            ("udh", Concatenation::Udh),
            ("udh16", Concatenation::Udh16),
            ("sar", Concatenation::Sar),
            ("payload", Concatenation::Payload),
        ];
        read::choice(v, &ways)
    });
    let addressing = addressing(s);
    let countries = s.or(
        "countries",
        Countries::All,
        "list ISO 3166-1 codes such as [\"VN\"], or leave it out for all",
        countries,
    );
    let tenants = s.or("tenants", Tenants::All, "list tenant ids, or [\"*\"] for all", tenants);
    let inbound = inbound(s, tenants.as_ref());
    let simulator = s.or("simulator", false, "write true or false", read::boolean);
    let licence = licence(s);
    section.finish();

    let licensed = licence.as_ref().is_none_or(Option::is_some) || simulator.unwrap_or(true);
    let assemble = || {
        Some(Account {
            id: id.clone()?,
            hosts: hosts?,
            bind: bind?,
            binds: binds?,
            system_id: system_id?,
            password_file: password_file?,
            system_type: system_type?,
            interface_version: interface_version?,
            address_range: address_range?,
            service_type: service_type?,
            tls: tls?,
            window: window?,
            tps: tps?,
            enquire_link: enquire_link?,
            response_timeout: response_timeout?,
            receipt_wait: receipt_wait?,
            query_after: query_after?,
            user_message_reference: user_message_reference?,
            match_by_recipient: match_by_recipient?,
            tolerance: tolerance?,
            message_id_in_response: message_id_in_response?,
            message_id_in_receipt: message_id_in_receipt?,
            receipts: receipts?,
            default_alphabet: default_alphabet?,
            concatenation: concatenation?,
            addressing: addressing?,
            countries: countries.clone()?,
            tenants: tenants?,
            inbound: inbound?,
            licence: licence?,
            simulator: simulator?,
        })
    };
    let account = assemble();
    AccountDraft { path, id, countries, licensed, account }
}

/// `host` and `port`, or `hosts`.
fn hosts(s: &mut Section<'_, '_>) -> Option<Vec<Host>> {
    let many = s.optional("hosts", "list host:port texts, such as [\"smsc1.example:2775\"]", |v| {
        read::filled_list(v, host_and_port)
    });
    let name_fix = "give the DNS name or IP address of the carrier's SMSC, without port";
    let port_fix = "give a whole number from 1 to 65535";
    let name = s.optional("host", name_fix, host);
    let port = s.optional("port", port_fix, |v| read::integer(v, 1..=u16::MAX));
    let (many, name, port) = (many?, name?, port?);
    match (many, name, port) {
        (None, Some(name), Some(port)) => return Some(vec![Host { name, port }]),
        (Some(hosts), None, None) => return Some(hosts),
        (Some(_), _, _) => {
            s.error("hosts", "is given beside host or port".to_owned(), "keep one of the two forms");
        }
        (None, name, port) => {
            if name.is_none() {
                s.error("host", "is missing".to_owned(), name_fix);
            }
            if port.is_none() {
                s.error("port", "is missing".to_owned(), port_fix);
            }
        }
    }
    None
}

/// `name:port`, `1.2.3.4:port` or `[::1]:port`.
fn host_and_port(text: &str) -> Result<Host, String> {
    let (name, port) = text.rsplit_once(':').ok_or_else(|| "has no port".to_owned())?;
    let bare = name.strip_prefix('[').and_then(|name| name.strip_suffix(']')).unwrap_or(name);
    let port =
        port.parse().ok().filter(|port| *port > 0).ok_or_else(|| "has no port from 1 to 65535".to_owned())?;
    let is_address = bare.parse::<IpAddr>().is_ok();
    if (bare.contains(':') && bare.len() == name.len()) || !(is_host_name(bare) || is_address) {
        return Err("is neither a DNS name nor an IP address with a port".to_owned());
    }
    Ok(Host { name: bare.to_owned(), port })
}

fn host(value: &Value) -> Result<String, String> {
    let host = read::text(value)?;
    if is_host_name(host) || host.parse::<IpAddr>().is_ok() {
        Ok(host.to_owned())
    } else {
        Err("is neither a DNS name nor an IP address".to_owned())
    }
}

fn is_host_name(host: &str) -> bool {
    (1..=253).contains(&host.len())
        && host.split('.').all(|label| {
            (1..=63).contains(&label.len())
                && !label.starts_with('-')
                && !label.ends_with('-')
                && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
        })
}

fn file(value: &Value) -> Result<PathBuf, String> {
    let path = read::text(value)?;
    if path.is_empty() || path.contains('\0') { Err("is not a path".to_owned()) } else { Ok(path.into()) }
}

fn tls(s: &mut Section<'_, '_>) -> Option<Tls> {
    let required = s.or("tls", true, "write \"required\", or \"waived\" with a tls_waiver_reason", |v| {
        read::choice(v, &[("required", true), ("waived", false)])
    });
    let reason_fix = "say in at least 10 characters why this connection needs no TLS";
    let reason = s.optional("tls_waiver_reason", reason_fix, |v| read::words(v, 10));
    let ca_file =
        s.optional("tls_ca_file", "give the path of a PEM file, or leave it out for the system's", file);
    let server_name = s.optional("tls_server_name", "give the name in the carrier's certificate", host);
    let pin_fix = "give the SHA-256 of the carrier's public key as 64 hexadecimal digits";
    let pin = s.optional("tls_pin", pin_fix, pin);
    let cert_file = s.optional("tls_cert_file", "give the path of our certificate, PEM", file);
    let key_file = s.optional("tls_key_file", "give the path of our certificate's key, PEM", file);
    let (required, reason, ca_file) = (required?, reason?, ca_file?);
    let (server_name, pin, cert_file, key_file) = (server_name?, pin?, cert_file?, key_file?);
    if required {
        if reason.is_some() {
            let fix = "remove it, or write tls = \"waived\"";
            s.error("tls_waiver_reason", "is given although TLS is required".to_owned(), fix);
            return None;
        }
        let client = match (cert_file, key_file) {
            (None, None) => None,
            (Some(cert_file), Some(key_file)) => Some(ClientCertificate { cert_file, key_file }),
            (cert_file, _) => {
                let missing = if cert_file.is_none() { "tls_cert_file" } else { "tls_key_file" };
                s.error(missing, "is missing".to_owned(), "a certificate and its key go together");
                return None;
            }
        };
        return Some(Tls::Required { ca_file, server_name, pin, client });
    }
    let mut sound = true;
    for (key, given) in [
        ("tls_ca_file", ca_file.is_some()),
        ("tls_server_name", server_name.is_some()),
        ("tls_pin", pin.is_some()),
        ("tls_cert_file", cert_file.is_some()),
        ("tls_key_file", key_file.is_some()),
    ] {
        if given {
            s.error(
                key,
                "is given although TLS is waived".to_owned(),
                "remove it, or write tls = \"required\"",
            );
            sound = false;
        }
    }
    if reason.is_none() {
        s.error("tls_waiver_reason", "is missing".to_owned(), reason_fix);
    }
    reason.filter(|_| sound).map(|reason| Tls::Waived { reason })
}

fn pin(value: &Value) -> Result<[u8; 32], String> {
    let text = read::text(value)?;
    let wrong = || "is not 64 hexadecimal digits".to_owned();
    if text.len() != 64 || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Err(wrong());
    }
    let mut pin = [0; 32];
    for (octet, digits) in pin.iter_mut().zip(text.as_bytes().chunks(2)) {
        let digits = std::str::from_utf8(digits).map_err(|_| wrong())?;
        *octet = u8::from_str_radix(digits, 16).map_err(|_| wrong())?;
    }
    Ok(pin)
}

fn addressing(s: &mut Section<'_, '_>) -> Option<Addressing> {
    let path = s.path_of("addressing");
    let fix = "write a table [account.addressing] of pairs such as alphanumeric = [5, 0]";
    let table = s.optional("addressing", fix, |v| {
        v.as_table().ok_or_else(|| format!("is of type {}, not a table", v.type_str()))
    })?;
    let defaults = Addressing::default();
    let Some(table) = table else { return Some(defaults) };
    let mut inner = s.inner(path, table);
    let fix = "give type of number (0 to 6) and numbering plan (0 to 18), such as [1, 1]";
    let alphanumeric = inner.or("alphanumeric", defaults.alphanumeric, fix, ton_npi);
    let short_code = inner.or("short_code", defaults.short_code, fix, ton_npi);
    let number = inner.or("number", defaults.number, fix, ton_npi);
    let destination = inner.or("destination", defaults.destination, fix, ton_npi);
    let bind = inner.or("bind", defaults.bind, fix, ton_npi);
    inner.finish();
    Some(Addressing {
        alphanumeric: alphanumeric?,
        short_code: short_code?,
        number: number?,
        destination: destination?,
        bind: bind?,
    })
}

fn ton_npi(value: &Value) -> Result<TonNpi, String> {
    match value.as_array().map(Vec::as_slice) {
        Some([ton, npi]) => Ok((read::integer(ton, 0..=6)?, read::integer(npi, 0..=18)?)),
        Some(_) | None => Err("is not a pair of whole numbers".to_owned()),
    }
}

fn message_id_form(s: &mut Section<'_, '_>, key: &'static str) -> Option<MessageIdForm> {
    let forms = [
        ("decimal", MessageIdForm::Decimal),
        ("hex", MessageIdForm::Hex),
        ("uuid", MessageIdForm::Uuid),
        ("opaque", MessageIdForm::Opaque),
    ];
    let fix = "write \"decimal\", \"hex\", \"uuid\" or \"opaque\"";
    s.or(key, MessageIdForm::Opaque, fix, |v| read::choice(v, &forms))
}

fn countries(value: &Value) -> Result<Countries, String> {
    let countries =
        read::filled_list(value, |code| code.parse().map_err(|_| "is no country's code".to_owned()))?;
    Ok(Countries::Only(countries.into_iter().collect()))
}

fn tenants(value: &Value) -> Result<Tenants, String> {
    if value.as_array().is_some_and(|values| matches!(values.as_slice(), [Value::String(all)] if all == "*"))
    {
        return Ok(Tenants::All);
    }
    let tenants = read::filled_list(value, |id| id.parse().map_err(|_| "is not a tenant id".to_owned()))?;
    Ok(Tenants::Only(tenants.into_iter().collect()))
}

/// `[account.inbound]`: owners by number.
fn inbound(s: &mut Section<'_, '_>, served: Option<&Tenants>) -> Option<BTreeMap<String, TenantId>> {
    let fix = "write a table [account.inbound] of your numbers there and their owners, such as \"9029\" = \"acme-bank\"";
    let owners = s.or("inbound", BTreeMap::new(), fix, |v| {
        let table = v.as_table().ok_or_else(|| format!("is of type {}, not a table", v.type_str()))?;
        table
            .iter()
            .map(|(number, owner)| Ok((receiving_number(number)?, owner_of(number, owner)?)))
            .collect()
    })?;
    let foreign = owners.iter().find(|(_, owner)| served.is_some_and(|served| !served.allow(owner)));
    if let Some((number, owner)) = foreign {
        let problem = format!("gives {number} to {owner}, which the account does not serve");
        s.error("inbound", problem, "add the tenant to tenants, or take the number out");
        return None;
    }
    Some(owners)
}

fn receiving_number(number: &str) -> Result<String, String> {
    let fits = (3..=15).contains(&number.len()) && number.bytes().all(|byte| byte.is_ascii_digit());
    if fits { Ok(number.to_owned()) } else { Err(format!("{number}: is not 3 to 15 digits, without +")) }
}

fn owner_of(number: &str, owner: &Value) -> Result<TenantId, String> {
    let owner: Option<TenantId> = read::text(owner)?.parse().ok();
    let owner = owner.filter(|owner| !owner.is_unowned());
    owner.ok_or_else(|| format!("{number}: its owner is not a tenant id"))
}

fn licence(s: &mut Section<'_, '_>) -> Option<Option<Licence>> {
    let path = s.path_of("licence");
    let fix = "write a table [account.licence] with type, number and expires";
    let table = s.optional("licence", fix, |v| {
        v.as_table().ok_or_else(|| format!("is of type {}, not a table", v.type_str()))
    })?;
    let Some(table) = table else { return Some(None) };
    let mut inner = s.inner(path, table);
    let kind = inner.required("type", "name the kind of licence or agreement", |v| read::words(v, 1));
    let number =
        inner.required("number", "give the number of the licence or agreement", |v| read::words(v, 1));
    let expires = inner.required("expires", "give its last day as year-month-day, such as 2028-12-31", |v| {
        let day = v.as_datetime().map_or_else(|| v.as_str().map(str::to_owned), |day| Some(day.to_string()));
        day.and_then(|day| day.parse().ok()).ok_or_else(|| "is not a day".to_owned())
    });
    inner.finish();
    Some(Some(Licence { kind: kind?, number: number?, expires: expires? }))
}
