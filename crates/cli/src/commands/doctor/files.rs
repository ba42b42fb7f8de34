//! The cell's files: who can read the secret ones, what is missing, how long certificates are valid.

use std::{
    os::unix::fs::{MetadataExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    time::Duration,
};

use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime, pem::PemObject as _};
use sotto_core::{Clock, Timestamp};
use webpki::{EndEntityCert, ExtendedKeyUsageValidator, KeyPurposeIdIter, anchor_from_trusted_cert};

use super::Finding;
use crate::{
    cell::{Broker, CellDir, CellFile, DOMAIN, SERVICES},
    commands::audit::{KEY_FILE, LOG_DIR},
    hsm,
    init::pki::{CLIENTS_CA, ROUTES_CA},
};

/// Certificates are to be renewed this long before their end.
const RENEW: Duration = Duration::from_secs(30 * 24 * 3600);

/// Folders of which nobody else may read a file.
const SECRET_FOLDERS: [&str; 7] =
    ["ca", "secrets", "keystore", "nats/nkeys", "clients", "operator", "identity"];

/// Folders with keys and certificates.
const KEY_FOLDERS: [&str; 2] = ["tls", "nats/routes"];

/// Single files of this kind.
const SECRET_FILES: [&str; 2] = ["redis/users.acl", "owner-invitation"];

pub(super) fn look(dir: &CellDir, cell: &CellFile, clock: &dyn Clock) -> Vec<Finding> {
    let mut findings = vec![Finding::fine(format!("the cell {}, {} shard(s)", cell.id, cell.shards.count()))];
    findings.extend(modes(dir));
    findings.extend(missing(dir, cell));
    findings.extend(certificates(dir, clock.now()));
    findings.extend(drafts(dir));
    findings
}

/// Secrets that others could read, or that whoever runs the cell cannot.
fn modes(dir: &CellDir) -> Vec<Finding> {
    let keys = KEY_FOLDERS.iter().flat_map(|folder| list(&dir.path(folder)));
    let keys = keys.filter(|path| path.extension().is_some_and(|it| it == "key"));
    let secrets = SECRET_FOLDERS.iter().flat_map(|folder| list(&dir.path(folder)));
    // Each client's keys for the broker.
    let folders = std::fs::read_dir(dir.path("clients")).into_iter().flatten().flatten();
    let secrets = secrets.chain(folders.flat_map(|folder| list(&folder.path())));
    let files = SECRET_FILES.iter().map(|file| dir.path(file)).filter(|path| path.exists());
    // The cell is its who made it: `cell.toml` was read a moment ago.
    let owner = std::fs::metadata(dir.path("cell.toml")).map(|about| about.uid()).ok();
    let mut found = Vec::new();
    for path in keys.chain(secrets).chain(files) {
        let Ok(about) = std::fs::metadata(&path) else { continue };
        if about.permissions().mode() & 0o077 != 0 {
            let fix = format!("chmod 600 {}; if others use this machine, replace it", path.display());
            found.push(Finding::wrong(path.display().to_string(), "others can read it", fix));
        }
        if let Some(owner) = owner.filter(|owner| about.uid() != *owner) {
            let problem = format!("belongs to user {}, and the cell to user {owner}", about.uid());
            let fix = format!("chown {owner} {}: its process runs as that user", path.display());
            found.push(Finding::wrong(path.display().to_string(), problem, fix));
        }
    }
    if found.is_empty() {
        found.push(Finding::fine("modes and owners of the secret files"));
    }
    found
}

fn list(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let mut paths: Vec<_> = entries.map(|entry| entry.path()).filter(|path| path.is_file()).collect();
    paths.sort();
    paths
}

fn missing(dir: &CellDir, cell: &CellFile) -> Vec<Finding> {
    let configs = SERVICES.map(|service| format!("config/{service}.toml"));
    let brokers = Broker::all(cell.replicas).map(Broker::conf);
    let files =
        ["nats/clients.conf", "nats/intake-key.json", "redis/redis.conf", "tls/ca.pem"].map(str::to_owned);
    // Where a token keeps them there is no such file.
    let buckets = (!hsm::keeps_buckets(dir)).then(|| "keystore/buckets.sks".to_owned());
    let restore = "restore it from a backup";
    let mut findings: Vec<_> = configs
        .into_iter()
        .chain(brokers)
        .chain(files)
        .map(|file| (file, restore))
        .chain([(KEY_FILE.to_owned(), "restore it from where you published it")])
        .chain(buckets.map(|file| {
            (file, "it is never backed up: what it opened is gone; see docs/formats/keystore.md")
        }))
        // In containers a link stands where another process's file is, which only that process sees.
        .filter(|(file, _)| !dir.path(file).is_file() && !dir.path(file).is_symlink())
        .map(|(file, fix)| Finding::wrong(file, "is missing", fix))
        .collect();
    if !dir.path(LOG_DIR).is_dir() {
        findings.push(Finding::wrong(LOG_DIR, "is missing", restore));
    }
    if findings.is_empty() {
        findings.push(Finding::fine("the cell's files"));
    }
    findings
}

/// Every certificate, against the cell's own authority.
fn certificates(dir: &CellDir, now: Timestamp) -> Vec<Finding> {
    let authority = match std::fs::read(dir.path("tls/ca.pem")) {
        Ok(pem) => pem,
        Err(error) => {
            return vec![Finding::wrong("tls/ca.pem", error.to_string(), "restore it from a backup")];
        }
    };
    let mut findings = signed_by(dir, "tls", &authority, "ca/ca.key", now);
    if let Ok(authority) = std::fs::read(dir.path(ROUTES_CA)) {
        findings.extend(signed_by(dir, "nats/routes", &authority, "ca/routes.key", now));
    }
    findings.extend(clients(dir, now));
    if findings.is_empty() {
        findings.push(Finding::fine("certificates, valid for 30 days and more"));
    }
    findings
}

/// The certificates in a folder, against the authority with this key.
fn signed_by(dir: &CellDir, folder: &str, authority: &[u8], key: &str, now: Timestamp) -> Vec<Finding> {
    let mut findings = Vec::new();
    for path in list(&dir.path(folder)) {
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        if name == "ca.pem" || !name.ends_with(".pem") {
            continue;
        }
        let result = std::fs::read(&path)
            .map_err(|error| error.to_string())
            .and_then(|pem| check(authority, &pem, now).map(|()| pem))
            .and_then(|pem| belongs(&pem, name.trim_end_matches(".pem"), &path.with_extension("key")));
        if let Err(problem) = result {
            let fix = format!("sign a new one with {key}: docs/runbooks/certificates-expire.md");
            findings.push(Finding::wrong(format!("{folder}/{name}"), problem, fix));
        }
    }
    findings
}

/// Certificates of clients over NATS whose folders are here, against the clients' authority.
fn clients(dir: &CellDir, now: Timestamp) -> Vec<Finding> {
    let Ok(authority) = std::fs::read(dir.path(CLIENTS_CA)) else {
        return vec![Finding::wrong(CLIENTS_CA, "is missing", "restore it from a backup")];
    };
    let folders = std::fs::read_dir(dir.path("clients")).into_iter().flatten().flatten();
    let mut paths: Vec<_> = folders.map(|folder| folder.path().join("cert.pem")).collect();
    paths.retain(|path| path.is_file());
    paths.sort();
    let problem = |path: PathBuf| {
        let pem = std::fs::read(&path).map_err(|error| error.to_string());
        let problem = pem.and_then(|pem| check(&authority, &pem, now)).err()?;
        let fix = "sotto client nats remove NAME, then add it again, and hand over the new folder";
        Some(Finding::wrong(path.display().to_string(), problem, fix))
    };
    paths.into_iter().filter_map(problem).collect()
}

fn check(authority: &[u8], pem: &[u8], now: Timestamp) -> Result<(), String> {
    let unreadable = |_| "is no PEM certificate".to_owned();
    let authority = CertificateDer::from_pem_slice(authority).map_err(unreadable)?;
    let anchor = anchor_from_trusted_cert(&authority).map_err(|error| error.to_string())?;
    let certificate = CertificateDer::from_pem_slice(pem).map_err(unreadable)?;
    let certificate = EndEntityCert::try_from(&certificate).map_err(|error| error.to_string())?;
    let algorithms = rustls::crypto::ring::default_provider().signature_verification_algorithms.all;
    let at = |time: Timestamp| {
        let seconds = u64::try_from(time.unix_seconds()).unwrap_or(0);
        let time = UnixTime::since_unix_epoch(Duration::from_secs(seconds));
        let anchors = std::slice::from_ref(&anchor);
        certificate.verify_for_usage(algorithms, anchors, &[], time, AnyUsage, None, None).map(drop)
    };
    let date =
        |time: UnixTime| Timestamp::from_unix_seconds(i64::try_from(time.as_secs()).unwrap_or(i64::MAX));
    match (at(now), at(now.plus(RENEW))) {
        (Err(webpki::Error::CertExpired { not_after, .. }), _) => {
            Err(format!("ended at {}", date(not_after)))
        }
        (Err(webpki::Error::CertNotValidYet { not_before, .. }), _) => {
            Err(format!("is not valid before {}: is the clock right?", date(not_before)))
        }
        (Err(error), _) => Err(format!("is not of this cell's authority: {error}")),
        (Ok(()), Err(webpki::Error::CertExpired { not_after, .. })) => {
            Err(format!("ends at {}", date(not_after)))
        }
        (Ok(()), Ok(()) | Err(_)) => Ok(()),
    }
}

/// Whether a certificate has the name of its process and is that of its key: what goes wrong where one was renewed by hand.
fn belongs(pem: &[u8], process: &str, key: &Path) -> Result<(), String> {
    let unreadable = |_| "is no PEM certificate".to_owned();
    let certificate = CertificateDer::from_pem_slice(pem).map_err(unreadable)?;
    let name = format!("{process}.{DOMAIN}");
    let end = EndEntityCert::try_from(&certificate).map_err(|error| error.to_string())?;
    let named = ServerName::try_from(name.as_str()).map_err(|error| error.to_string())?;
    end.verify_is_valid_for_subject_name(&named).map_err(|_| format!("is not for {name}"))?;
    let of_key = |error: String| format!("{}: {error}", key.display());
    let private = PrivateKeyDer::from_pem_file(key).map_err(|error| of_key(error.to_string()))?;
    let private = rustls::crypto::ring::sign::any_supported_type(&private);
    let private = private.map_err(|error| of_key(error.to_string()))?;
    rustls::sign::CertifiedKey::new(vec![certificate.into_owned()], private)
        .keys_match()
        .map_err(|_| format!("is of another key than {}", key.display()))
}

/// Some serve, some connect, some do both.
struct AnyUsage;

impl ExtendedKeyUsageValidator for AnyUsage {
    fn validate(&self, _: KeyPurposeIdIter<'_, '_>) -> Result<(), webpki::Error> {
        Ok(())
    }
}

/// Keys of registrations that broke off.
fn drafts(dir: &CellDir) -> Vec<Finding> {
    let left = ["operator", "clients"].iter().flat_map(|folder| list(&dir.path(folder)));
    left.filter(|path| path.extension().is_some_and(|extension| extension == "new"))
        .map(|path| {
            let fix = "run the same command again: it goes on with this key (docs/cli.md)";
            Finding::wrong(path.display().to_string(), "is the key of a registration that broke off", fix)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use sotto_core::ManualClock;

    use super::*;
    use crate::{commands::doctor::Verdict, init};

    fn day(number: u64) -> Timestamp {
        Timestamp::from_unix_seconds(1_795_000_000).plus(Duration::from_secs(number * 24 * 3600))
    }

    fn wrong(findings: &[Finding]) -> Vec<String> {
        let told = |finding: &Finding| match &finding.verdict {
            Verdict::Wrong { problem, .. } => Some(format!("{}: {problem}", finding.what)),
            Verdict::Fine | Verdict::Note(_) => None,
        };
        findings.iter().filter_map(told).collect()
    }

    #[test]
    fn a_new_cell_is_well_and_an_old_or_open_one_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let dir = CellDir::new(folder.path().join("cell"));
        init::init(&dir, &init::tests::new_cell(), &ManualClock::new(day(0))).unwrap();
        let cell = dir.open().unwrap();
        let at = |number| wrong(&look(&dir, &cell, &ManualClock::new(day(number))));
        assert_eq!(at(0), Vec::<String>::new());
        assert_eq!(at(330), Vec::<String>::new());
        assert!(at(340).iter().any(|told| told.starts_with("tls/audit.pem: ends at ")), "{:?}", at(340));
        assert!(at(400).iter().any(|told| told.starts_with("tls/audit.pem: ended at ")), "{:?}", at(400));

        let (certificate, _) = init::pki::of_client(&dir, &cell.id, "client-1", day(0)).unwrap();
        init::files::public(&dir.path("clients/shop.nats/cert.pem"), certificate.as_bytes()).unwrap();
        let told = at(340).join("\n");
        assert!(told.contains("shop.nats/cert.pem: ends at "), "{told}");
        assert_eq!(at(0).len(), 1, "it is not a secret, yet it lies where only secrets do: {:?}", at(0));
        std::fs::remove_dir_all(dir.path("clients")).unwrap();

        let key = dir.path("tls/nats.key");
        std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o640)).unwrap();
        std::fs::remove_file(dir.path("config/audit.toml")).unwrap();
        std::fs::create_dir(dir.path("clients")).unwrap();
        std::fs::write(dir.path("clients/shop.json.new"), "{}").unwrap();
        std::fs::copy(dir.path("tls/ca.pem"), dir.path("tls/routing.pem")).unwrap();
        let told = at(0).join("\n");
        for part in
            ["nats.key: others can read", "config/audit.toml: is missing", "shop.json.new: is the key"]
        {
            assert!(told.contains(part), "{part} in {told}");
        }
        assert!(told.contains("tls/routing.pem: is not of this cell's authority"), "{told}");
    }
}
