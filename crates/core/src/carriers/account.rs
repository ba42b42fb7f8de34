//! Reads one `[[account]]`.

use std::{net::IpAddr, path::PathBuf, time::Duration};

use toml::{Table, Value};

use super::{
    Account, CarrierFileError, Concatenation, Countries, DefaultAlphabet, Licence, MessageIdForm,
    RESPONSE_TIMEOUT_MAX, Tenants, Tls,
    read::{self, Section},
};
use crate::AccountId;

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
    let host =
        s.required("host", "give the DNS name or IP address of the carrier's SMSC, without port", host);
    let port = s.required("port", "give a whole number from 1 to 65535", |v| read::integer(v, 1..=u16::MAX));
    let system_id =
        s.required("system_id", "give the user name at the carrier, 1 to 15 ASCII characters", |v| {
            read::ascii(v, 1..=15)
        });
    let password_file = s.required("password_file", "give the path of a file with the password", file);
    let system_type =
        s.or("system_type", String::new(), "give up to 12 ASCII characters", |v| read::ascii(v, 0..=12));
    let tls = tls(s, host.as_deref());
    let window = s.or("window", 10, "give a whole number from 1 to 1000 (submits not yet answered)", |v| {
        read::integer(v, 1..=1000)
    });
    let tps = s.required("tps", "give a whole number from 1 to 10000 (parts a second)", |v| {
        read::integer(v, 1..=10_000)
    });
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
    let message_id_in_response = message_id_form(s, "message_id_in_response");
    let message_id_in_receipt = message_id_form(s, "message_id_in_receipt");
    let default_alphabet = s.or("default_alphabet", DefaultAlphabet::Gsm7, "write \"gsm7\"", |v| {
        read::choice(v, &[("gsm7", DefaultAlphabet::Gsm7)])
    });
    let concatenation = s.or("concatenation", Concatenation::Udh, "write \"udh\"", |v| {
        read::choice(v, &[("udh", Concatenation::Udh)])
    });
    let countries = s.or(
        "countries",
        Countries::All,
        "list ISO 3166-1 codes such as [\"VN\"], or leave it out for all",
        countries,
    );
    let tenants = s.or("tenants", Tenants::All, "list tenant ids, or [\"*\"] for all", tenants);
    let simulator = s.or("simulator", false, "write true or false", read::boolean);
    let licence = licence(s);
    section.finish();

    let licensed = licence.as_ref().is_none_or(Option::is_some) || simulator.unwrap_or(true);
    let assemble = || {
        Some(Account {
            id: id.clone()?,
            host: host?,
            port: port?,
            system_id: system_id?,
            password_file: password_file?,
            system_type: system_type?,
            tls: tls?,
            window: window?,
            tps: tps?,
            enquire_link: enquire_link?,
            response_timeout: response_timeout?,
            receipt_wait: receipt_wait?,
            message_id_in_response: message_id_in_response?,
            message_id_in_receipt: message_id_in_receipt?,
            default_alphabet: default_alphabet?,
            concatenation: concatenation?,
            countries: countries.clone()?,
            tenants: tenants?,
            licence: licence?,
            simulator: simulator?,
        })
    };
    let account = assemble();
    AccountDraft { path, id, countries, licensed, account }
}

fn host(value: &Value) -> Result<String, String> {
    let host = read::text(value)?;
    let is_name = (1..=253).contains(&host.len())
        && host.split('.').all(|label| {
            (1..=63).contains(&label.len())
                && !label.starts_with('-')
                && !label.ends_with('-')
                && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
        });
    if is_name || host.parse::<IpAddr>().is_ok() {
        Ok(host.to_owned())
    } else {
        Err("is neither a DNS name nor an IP address".to_owned())
    }
}

fn file(value: &Value) -> Result<PathBuf, String> {
    let path = read::text(value)?;
    if path.is_empty() || path.contains('\0') { Err("is not a path".to_owned()) } else { Ok(path.into()) }
}

fn tls(s: &mut Section<'_, '_>, default_name: Option<&str>) -> Option<Tls> {
    let required = s.or("tls", true, "write \"required\", or \"waived\" with a tls_waiver_reason", |v| {
        read::choice(v, &[("required", true), ("waived", false)])
    });
    let reason_fix = "say in at least 10 characters why this connection needs no TLS";
    let reason = s.optional("tls_waiver_reason", reason_fix, |v| read::words(v, 10));
    let ca_file =
        s.optional("tls_ca_file", "give the path of a PEM file, or leave it out for the system's", file);
    let server_name = s.optional("tls_server_name", "give the name in the carrier's certificate", host);
    let (required, reason, ca_file, server_name) = (required?, reason?, ca_file?, server_name?);
    if required {
        if reason.is_some() {
            let fix = "remove it, or write tls = \"waived\"";
            s.error("tls_waiver_reason", "is given although TLS is required".to_owned(), fix);
            return None;
        }
        let server_name = server_name.or_else(|| default_name.map(str::to_owned))?;
        return Some(Tls::Required { ca_file, server_name });
    }
    let mut sound = true;
    for (key, given) in [("tls_ca_file", ca_file.is_some()), ("tls_server_name", server_name.is_some())] {
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

fn message_id_form(s: &mut Section<'_, '_>, key: &'static str) -> Option<MessageIdForm> {
    let forms =
        [("decimal", MessageIdForm::Decimal), ("hex", MessageIdForm::Hex), ("opaque", MessageIdForm::Opaque)];
    s.or(key, MessageIdForm::Opaque, "write \"decimal\", \"hex\" or \"opaque\"", |v| read::choice(v, &forms))
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
