//! The cell's certificate authority and the certificates of its processes.

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose,
};
use sotto_core::{CellId, Timestamp};
use sotto_runtime::tls::PeerService;

use super::files;
use crate::{CliError, cell::CellDir};

/// Processes that are not ours and still need a certificate: the broker, Redis, and the test carrier.
const FOREIGN: [&str; 3] = ["nats", "redis", "simulator"];

/// What is dialled by the machine's name and not by its own (`<name>.sotto.internal`). All others are not valid for it:
/// whoever holds the certificate of another service must not pass for the broker or for identity.
const DIALLED_AS_LOCALHOST: [&str; 4] = ["nats", "redis", "ingress", "identity"];

/// What clients on other machines connect to.
const PUBLIC: [&str; 2] = ["ingress", "identity"];

/// What only connects to others, and never serves.
const CLIENTS: [&str; 3] = ["routing", "operator", "provisioner"];

/// Years that the authority is valid.
const CA_YEARS: i16 = 10;

/// Makes `tls/ca.pem`, `ca/ca.key` and a certificate and key for every process.
pub(super) fn create(dir: &CellDir, cell: &CellId, hosts: &[String], now: Timestamp) -> Result<(), CliError> {
    let ca_key = KeyPair::generate().map_err(failed)?;
    let mut ca = CertificateParams::new(Vec::new()).map_err(failed)?;
    ca.distinguished_name = named(&format!("Sotto cell {cell} authority"));
    ca.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    ca.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    validity(&mut ca, now, CA_YEARS)?;
    let certificate = ca.self_signed(&ca_key).map_err(failed)?;
    files::public(&dir.path("tls/ca.pem"), certificate.pem().as_bytes())?;
    files::secret(&dir.path("ca/ca.key"), ca_key.serialize_pem().as_bytes())?;

    let issuer = Issuer::new(ca, ca_key);
    for name in PeerService::ALL.into_iter().map(PeerService::name).chain(FOREIGN) {
        let key = KeyPair::generate().map_err(failed)?;
        let mut params = CertificateParams::new(names(name, hosts)).map_err(failed)?;
        params.distinguished_name = named(&format!("{name}.sotto.internal"));
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = usages(name);
        params.use_authority_key_identifier_extension = true;
        validity(&mut params, now, 1)?;
        let certificate = params.signed_by(&key, &issuer).map_err(failed)?;
        files::public(&dir.path(format!("tls/{name}.pem")), certificate.pem().as_bytes())?;
        files::secret(&dir.path(format!("tls/{name}.key")), key.serialize_pem().as_bytes())?;
    }
    Ok(())
}

/// The names that a process's certificate is valid for.
fn names(name: &str, hosts: &[String]) -> Vec<String> {
    let mut names = vec![format!("{name}.sotto.internal")];
    if DIALLED_AS_LOCALHOST.contains(&name) {
        names.extend(["localhost".to_owned(), "127.0.0.1".to_owned()]);
    }
    if PUBLIC.contains(&name) {
        names.extend(hosts.iter().cloned());
    }
    names
}

fn usages(name: &str) -> Vec<ExtendedKeyUsagePurpose> {
    let serves = !CLIENTS.contains(&name);
    let connects = !FOREIGN.contains(&name);
    let usages =
        [(serves, ExtendedKeyUsagePurpose::ServerAuth), (connects, ExtendedKeyUsagePurpose::ClientAuth)];
    usages.into_iter().filter(|(used, _)| *used).map(|(_, usage)| usage).collect()
}

fn named(common_name: &str) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    name.push(DnType::OrganizationName, "Sotto");
    name.push(DnType::CommonName, common_name);
    name
}

/// From yesterday, so that clocks a little behind accept it, for so many years.
fn validity(params: &mut CertificateParams, now: Timestamp, years: i16) -> Result<(), CliError> {
    let out_of_range = |_| CliError::new("the machine's clock is out of range").fix("set the clock");
    let today = jiff::Timestamp::from_millisecond(now.unix_millis())
        .map_err(out_of_range)?
        .to_zoned(jiff::tz::TimeZone::UTC)
        .date();
    let from = today.yesterday().map_err(out_of_range)?;
    let to = today.checked_add(jiff::Span::new().years(years)).map_err(out_of_range)?;
    let date = |date: jiff::civil::Date| {
        let part = |number: i8| u8::try_from(number).unwrap_or(1);
        rcgen::date_time_ymd(i32::from(date.year()), part(date.month()), part(date.day()))
    };
    params.not_before = date(from);
    params.not_after = date(to);
    Ok(())
}

fn failed(error: rcgen::Error) -> CliError {
    CliError::caused_by("a certificate could not be made", &error)
}
