//! The cell's certificate authority and the certificates of its processes.

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose,
};
use sotto_core::{CellId, Timestamp};
use sotto_runtime::tls::PeerService;

use super::files;
use crate::{CliError, cell::CellDir, error::at};

/// Processes that are not ours and still need a certificate: the broker, Redis, and the test carrier.
pub(crate) const FOREIGN: [&str; 3] = ["nats", "redis", "simulator"];

/// What is dialled by the machine's name and not by its own (`<name>.sotto.internal`). All others are not valid for it:
/// whoever holds the certificate of another service must not pass for the broker or for identity.
const DIALLED_AS_LOCALHOST: [&str; 4] = ["nats", "redis", "ingress", "identity"];

/// What clients on other machines connect to.
const PUBLIC: [&str; 3] = ["ingress", "identity", "nats"];

/// What only connects to others, and never serves.
const CLIENTS: [&str; 3] = ["routing", "operator", "provisioner"];

/// The authority of the broker's clients, and what it signs with: their certificates open the broker's door and no other.
pub(crate) const CLIENTS_CA: &str = "nats/clients-ca.pem";
pub(crate) const CLIENTS_CA_KEY: &str = "ca/clients.key";

/// Whom the broker lets in: the cell's own and its clients.
pub(super) const BROKER_CA: &str = "nats/ca.pem";

/// Years that an authority is valid.
const CA_YEARS: i16 = 10;

/// Makes `tls/ca.pem`, `ca/ca.key` and a certificate and key for every process.
pub(super) fn create(dir: &CellDir, cell: &CellId, hosts: &[String], now: Timestamp) -> Result<(), CliError> {
    let ca_key = KeyPair::generate().map_err(failed)?;
    let ca = authority(&format!("Sotto cell {cell} authority"), now)?;
    let certificate = ca.self_signed(&ca_key).map_err(failed)?.pem();
    files::public(&dir.path("tls/ca.pem"), certificate.as_bytes())?;
    files::secret(&dir.path("ca/ca.key"), ca_key.serialize_pem().as_bytes())?;
    let clients_key = KeyPair::generate().map_err(failed)?;
    let clients = authority(&clients_authority(cell), now)?.self_signed(&clients_key).map_err(failed)?.pem();
    files::public(&dir.path(CLIENTS_CA), clients.as_bytes())?;
    files::secret(&dir.path(CLIENTS_CA_KEY), clients_key.serialize_pem().as_bytes())?;
    files::public(&dir.path(BROKER_CA), [certificate, clients].concat().as_bytes())?;

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

fn authority(name: &str, now: Timestamp) -> Result<CertificateParams, CliError> {
    let mut ca = CertificateParams::new(Vec::new()).map_err(failed)?;
    ca.distinguished_name = named(name);
    ca.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    ca.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    validity(&mut ca, now, CA_YEARS)?;
    Ok(ca)
}

fn clients_authority(cell: &CellId) -> String {
    format!("Sotto cell {cell} clients")
}

/// A certificate for a client of the broker, and its key (PEM), good for a year. Its name is no process's.
pub(crate) fn of_client(
    dir: &CellDir,
    cell: &CellId,
    client: &str,
    now: Timestamp,
) -> Result<(String, String), CliError> {
    let path = dir.path(CLIENTS_CA_KEY);
    let key = std::fs::read_to_string(&path).map_err(at(&path)).map_err(|error| {
        error.fix("bring back the key of the clients' authority: it is needed for each new client")
    })?;
    let issuer =
        Issuer::new(authority(&clients_authority(cell), now)?, KeyPair::from_pem(&key).map_err(failed)?);
    let name = format!("{client}.client.sotto.internal");
    let key = KeyPair::generate().map_err(failed)?;
    let mut params = CertificateParams::new(vec![name.clone()]).map_err(failed)?;
    params.distinguished_name = named(&name);
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    params.use_authority_key_identifier_extension = true;
    validity(&mut params, now, 1)?;
    let certificate = params.signed_by(&key, &issuer).map_err(failed)?;
    Ok((certificate.pem(), key.serialize_pem()))
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
