use std::os::unix::fs::PermissionsExt as _;

use sotto_core::{ManualClock, Timestamp};

use super::*;
use crate::cell::DOMAIN;

pub(crate) fn new_cell() -> NewCell {
    let shards = Shards::new(std::num::NonZeroU16::new(2).unwrap());
    NewCell {
        id: "test".parse().unwrap(),
        shards,
        replicas: Replicas::One,
        hosts: vec!["sms.example.vn".to_owned()],
        issuer: None,
        layout: Layout::Machine,
        domain: DOMAIN.to_owned(),
        hsm: false,
    }
}

fn clock() -> ManualClock {
    ManualClock::new(Timestamp::from_unix_seconds(1_795_000_000))
}

#[test]
fn a_cell_is_made_once_with_secrets_for_its_owner_alone() {
    let folder = tempfile::tempdir().unwrap();
    let dir = CellDir::new(folder.path().join("cell"));
    init(&dir, &new_cell(), &clock()).unwrap();
    assert_eq!(dir.open().unwrap().id, "test".parse().unwrap());

    let mut files = vec![dir.root().to_path_buf()];
    let mut seen = 0;
    while let Some(path) = files.pop() {
        let metadata = std::fs::metadata(&path).unwrap();
        if metadata.is_dir() {
            files.extend(std::fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
            continue;
        }
        seen += 1;
        let text = String::from_utf8_lossy(&std::fs::read(&path).unwrap()).into_owned();
        let secret = text.contains("PRIVATE KEY")
            || text.starts_with("SU")
            || path.extension().is_some_and(|extension| extension == "sks")
            || path.to_string_lossy().contains("secrets/")
            || text.starts_with("sotto-invitation-");
        if secret {
            assert_eq!(metadata.permissions().mode() & 0o077, 0, "{} is readable by others", path.display());
        }
    }
    assert!(seen > 40, "{seen} files");

    let again = init(&dir, &new_cell(), &clock()).unwrap_err();
    assert!(again.to_string().contains("is not empty"), "{again}");
}

#[test]
fn the_broker_has_two_keys_for_everybody() {
    let folder = tempfile::tempdir().unwrap();
    let dir = CellDir::new(folder.path().join("cell"));
    init(&dir, &new_cell(), &clock()).unwrap();
    let conf = std::fs::read_to_string(dir.path("nats/nats-server.conf")).unwrap();
    for user in keys::NATS_USERS {
        for place in ["current", "next"] {
            let seed = std::fs::read_to_string(dir.path(format!("nats/nkeys/{user}.{place}.seed"))).unwrap();
            let public = nkeys::KeyPair::from_seed(&seed).unwrap().public_key();
            assert!(conf.contains(&public), "{user}.{place}");
            assert!(!conf.contains(seed.trim()), "a seed is in the broker's configuration");
        }
    }
}

#[test]
fn the_key_that_clients_seal_to_is_that_of_ingress() {
    use sotto_keystore::{Keystore as _, SoftKeystore, UnlockSecret};
    let folder = tempfile::tempdir().unwrap();
    let dir = CellDir::new(folder.path().join("cell"));
    init(&dir, &new_cell(), &clock()).unwrap();
    let jwk = std::fs::read(dir.path(keys::INTAKE_KEY)).unwrap();
    let jwk: serde_json::Value = serde_json::from_slice(&jwk).unwrap();
    let secret = UnlockSecret::read(&dir.path("secrets/unlock-ingress")).unwrap();
    let keystore = SoftKeystore::open(&dir.path("keystore/ingress.sks"), secret, "ingress").unwrap();
    let key = keystore.current(keys::INTAKE_RING).unwrap();
    assert_eq!(
        (jwk["kid"].as_str(), jwk["x"].as_str()),
        (Some(&*key.id), Some(&*key.sealing.unwrap().jwk_x()))
    );
    assert_eq!((&jwk["kty"], &jwk["crv"], &jwk["use"]), (&"OKP".into(), &"X25519".into(), &"enc".into()));
}

#[test]
fn what_is_not_a_cell_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let error = CellDir::new(folder.path()).open().unwrap_err();
    assert!(error.remedy().unwrap().starts_with("make one with: sotto init"), "{error}");
}

#[test]
fn in_containers_everybody_is_found_by_name_at_a_fixed_port() {
    let folder = tempfile::tempdir().unwrap();
    let dir = CellDir::new(folder.path().join("cell"));
    init(&dir, &NewCell { layout: Layout::Containers, ..new_cell() }, &clock()).unwrap();
    assert_eq!(dir.open().unwrap().layout, Layout::Containers);
    let running = dir.running().unwrap();
    assert_eq!(running.nats, "tls://nats.sotto.internal:4222");
    let mut told: Vec<_> = running.addresses.values().cloned().collect();
    told.sort();
    told.dedup();
    assert_eq!(told.len(), running.addresses.len(), "two listeners at one address");
    for service in crate::cell::SERVICES {
        let text = std::fs::read_to_string(dir.config(service)).unwrap();
        let config: toml::Table = text.parse().unwrap();
        assert_eq!(config["nats"]["url"].as_str(), Some("tls://nats.sotto.internal:4222"), "{service}");
        for (name, address) in &running.addresses {
            if let Some(listener) = name.strip_prefix(&format!("{service}.")) {
                let port = address.rsplit(':').next().unwrap();
                assert_eq!(config[listener]["listen"].as_str(), Some(&*format!("0.0.0.0:{port}")), "{name}");
            }
        }
        assert!(!text.contains("localhost") && !text.contains("127.0.0.1"), "{text}");
    }
    let carriers = std::fs::read_to_string(dir.path("carriers.toml")).unwrap();
    assert!(carriers.contains("host = \"simulator.sotto.internal\"\nport = 2775\n"), "{carriers}");
}

#[test]
fn in_another_domain_names_lead_there_and_certificates_are_good_for_them() {
    let folder = tempfile::tempdir().unwrap();
    let dir = CellDir::new(folder.path().join("cell"));
    let (replicas, domain) = (Replicas::Three, "sotto.svc".to_owned());
    init(&dir, &NewCell { layout: Layout::Containers, replicas, domain, ..new_cell() }, &clock()).unwrap();
    let running = dir.running().unwrap();
    assert_eq!(
        running.nats,
        "tls://nats-1.sotto.svc:4222,tls://nats-2.sotto.svc:4222,tls://nats-3.sotto.svc:4222"
    );
    assert!(running.addresses.values().all(|address| address.contains(".sotto.svc:")), "{running:?}");
    let broker = std::fs::read_to_string(dir.path("nats/nats-1.conf")).unwrap();
    assert!(broker.contains("nats-3.sotto.svc:6222") && !broker.contains(".sotto.internal:"), "{broker}");
    for (file, name, valid) in [
        ("tls/redis.pem", "redis.sotto.svc", true),
        ("tls/nats-2.pem", "nats-2.sotto.svc", true),
        ("nats/routes/nats-2.pem", "nats-2.sotto.svc", true),
        ("nats/routes/nats-2.pem", "nats-2.sotto.internal", true),
        ("tls/privacy.pem", "privacy.sotto.internal", true),
        ("tls/privacy.pem", "nats-1.sotto.svc", false),
        ("tls/routing.pem", "routing.sotto.svc", false),
    ] {
        assert_eq!(is_valid_for(&dir.path(file), name), valid, "{file} for {name}");
    }
}

#[test]
fn redis_connects_to_nobody_but_to_a_second_one() {
    for (layout, replicas, connects) in [
        (Layout::Containers, Replicas::Three, true),
        (Layout::Containers, Replicas::One, false),
        (Layout::Machine, Replicas::Three, false),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let dir = CellDir::new(folder.path().join("cell"));
        init(&dir, &NewCell { layout, replicas, ..new_cell() }, &clock()).unwrap();
        assert_eq!(is_of_a_client(&dir, "tls/redis.pem"), connects, "{layout:?}, {replicas:?}");
        assert!(!is_of_a_client(&dir, "tls/simulator.pem"));
        let users = std::fs::read_to_string(dir.path("redis/users.acl")).unwrap();
        assert_eq!(users.contains("user replica on #"), connects, "{users}");
        assert_eq!(dir.path(redis::REPLICA_PASSWORD).exists(), connects);
    }
}

fn is_of_a_client(dir: &CellDir, file: &str) -> bool {
    use rustls_pki_types::{CertificateDer, UnixTime, pem::PemObject as _};
    let authority = CertificateDer::from_pem_file(dir.path("tls/ca.pem")).unwrap();
    let anchors = [webpki::anchor_from_trusted_cert(&authority).unwrap()];
    let certificate = CertificateDer::from_pem_file(dir.path(file)).unwrap();
    let certificate = webpki::EndEntityCert::try_from(&certificate).unwrap();
    let algorithms = rustls::crypto::ring::default_provider().signature_verification_algorithms.all;
    let now = u64::try_from(clock().now().unix_seconds()).unwrap();
    let now = UnixTime::since_unix_epoch(std::time::Duration::from_secs(now));
    let usage = webpki::KeyUsage::client_auth();
    certificate.verify_for_usage(algorithms, &anchors, &[], now, usage, None, None).is_ok()
}

fn is_valid_for(file: &std::path::Path, name: &str) -> bool {
    use rustls_pki_types::{CertificateDer, ServerName, pem::PemObject as _};
    let certificate = CertificateDer::from_pem_file(file).unwrap();
    let name = ServerName::try_from(name).unwrap();
    webpki::EndEntityCert::try_from(&certificate).unwrap().verify_is_valid_for_subject_name(&name).is_ok()
}
