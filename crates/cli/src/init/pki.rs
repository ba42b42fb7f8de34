//! The cell's certificate authority and the certificates of its processes.

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose,
};
use sotto_core::{CellId, Replicas, Timestamp};
use sotto_runtime::tls::PeerService;

use super::{NewCell, addresses, files};
use crate::{
    CliError,
    cell::{Broker, CellDir, DOMAIN},
    error::at,
};

/// Processes that are not ours and still need a certificate, besides the brokers: Redis and the test carrier.
const FOREIGN: [&str; 2] = ["redis", "simulator"];

/// What is dialled by the machine's name and not by its own (`<name>.sotto.internal`). All others are not valid for it:
/// whoever holds the certificate of another service must not pass for the broker or for identity.
const DIALLED_AS_LOCALHOST: [&str; 3] = ["redis", "ingress", "identity"];

/// What clients on other machines connect to, besides the brokers.
const PUBLIC: [&str; 2] = ["ingress", "identity"];

/// What only connects to others, and never serves.
const CLIENTS: [&str; 3] = ["routing", "operator", "provisioner"];

/// The authority of the broker's clients, and what it signs with: their certificates open the broker's door and no other.
pub(crate) const CLIENTS_CA: &str = "nats/clients-ca.pem";
pub(crate) const CLIENTS_CA_KEY: &str = "ca/clients.key";

/// Whom the broker lets in: the cell's own and its clients.
pub(super) const BROKER_CA: &str = "nats/ca.pem";

/// The authority of the brokers of a cluster, for one another alone: whoever is let in there sees and changes everything.
pub(crate) const ROUTES_CA: &str = "nats/routes-ca.pem";
const ROUTES_CA_KEY: &str = "ca/routes.key";

/// A broker's certificate for the others of its cluster, and its key.
pub(crate) fn route_certificate(broker: Broker) -> [String; 2] {
    let name = broker.name();
    [format!("nats/routes/{name}.pem"), format!("nats/routes/{name}.key")]
}

/// Years that an authority is valid.
const CA_YEARS: i16 = 10;

/// Makes `tls/ca.pem`, `ca/ca.key` and a certificate and key for every process.
pub(super) fn create(dir: &CellDir, new: &NewCell, now: Timestamp) -> Result<(), CliError> {
    let cell = &new.id;
    let authority =
        |name: &str, certificate: &str, key: &str| new_authority(dir, name, now, certificate, key);
    let (issuer, ca) = authority(&format!("Sotto cell {cell} authority"), "tls/ca.pem", "ca/ca.key")?;
    let (_, clients) = authority(&clients_authority(cell), CLIENTS_CA, CLIENTS_CA_KEY)?;
    files::public(&dir.path(BROKER_CA), [ca, clients].concat().as_bytes())?;

    let process = |name: &str| {
        let role = Role::of(name);
        // One of two servers connects to the other.
        let copies = name == "redis" && new.has_second_redis();
        (name.to_owned(), Role { connects: role.connects || copies, ..role })
    };
    let ours = PeerService::ALL.into_iter().map(PeerService::name).chain(FOREIGN).map(process);
    let brokers = Broker::all(new.replicas).map(|broker| (broker.name(), Role::broker()));
    for (name, role) in ours.chain(brokers) {
        let files = [format!("tls/{name}.pem"), format!("tls/{name}.key")];
        sign(dir, &issuer, &name, role.names(&name, new, &new.hosts), role.usages(), now, &files)?;
    }
    if new.replicas == Replicas::Three {
        let (issuer, _) = authority(&format!("Sotto cell {cell} brokers"), ROUTES_CA, ROUTES_CA_KEY)?;
        for broker in Broker::all(new.replicas) {
            let (name, role) = (broker.name(), Role::broker());
            let usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
            sign(dir, &issuer, &name, role.names(&name, new, &[]), usages, now, &route_certificate(broker))?;
        }
    }
    Ok(())
}

/// Makes an authority; what it signs with, and its certificate.
fn new_authority(
    dir: &CellDir,
    name: &str,
    now: Timestamp,
    certificate: &str,
    key: &str,
) -> Result<(Issuer<'static, KeyPair>, String), CliError> {
    let pair = KeyPair::generate().map_err(failed)?;
    let params = authority(name, now)?;
    let pem = params.self_signed(&pair).map_err(failed)?.pem();
    files::public(&dir.path(certificate), pem.as_bytes())?;
    files::secret(&dir.path(key), pair.serialize_pem().as_bytes())?;
    Ok((Issuer::new(params, pair), pem))
}

/// Makes a certificate of a process and its key, in these files, good for a year.
fn sign(
    dir: &CellDir,
    issuer: &Issuer<'static, KeyPair>,
    process: &str,
    names: Vec<String>,
    usages: Vec<ExtendedKeyUsagePurpose>,
    now: Timestamp,
    [certificate_file, key_file]: &[String; 2],
) -> Result<(), CliError> {
    let key = KeyPair::generate().map_err(failed)?;
    let mut params = CertificateParams::new(names).map_err(failed)?;
    params.distinguished_name = named(&format!("{process}.sotto.internal"));
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = usages;
    params.use_authority_key_identifier_extension = true;
    validity(&mut params, now, 1)?;
    let certificate = params.signed_by(&key, issuer).map_err(failed)?;
    files::public(&dir.path(certificate_file), certificate.pem().as_bytes())?;
    files::secret(&dir.path(key_file), key.serialize_pem().as_bytes())
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

/// What a process does with its certificate.
#[derive(Clone, Copy, Debug)]
struct Role {
    serves: bool,
    connects: bool,
    dialled_as_localhost: bool,
    public: bool,
}

impl Role {
    fn of(process: &str) -> Self {
        Self {
            serves: !CLIENTS.contains(&process),
            connects: !FOREIGN.contains(&process),
            dialled_as_localhost: DIALLED_AS_LOCALHOST.contains(&process),
            public: PUBLIC.contains(&process),
        }
    }

    const fn broker() -> Self {
        Self { serves: true, connects: false, dialled_as_localhost: true, public: true }
    }

    /// The names that its certificate is valid for.
    fn names(self, process: &str, new: &NewCell, hosts: &[String]) -> Vec<String> {
        let mut names = vec![format!("{process}.{DOMAIN}")];
        // Brokers and Redis are believed by the name that they are dialled by, all others by the first.
        if self.serves && new.domain != DOMAIN {
            names.push(addresses::name(process, new));
        }
        if self.dialled_as_localhost {
            names.extend(["localhost".to_owned(), "127.0.0.1".to_owned()]);
        }
        if self.public {
            names.extend(hosts.iter().cloned());
        }
        names
    }

    fn usages(self) -> Vec<ExtendedKeyUsagePurpose> {
        let usages = [
            (self.serves, ExtendedKeyUsagePurpose::ServerAuth),
            (self.connects, ExtendedKeyUsagePurpose::ClientAuth),
        ];
        usages.into_iter().filter(|(used, _)| *used).map(|(_, usage)| usage).collect()
    }
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
