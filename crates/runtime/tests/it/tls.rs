use rustls_pki_types::{CertificateDer, pem::PemObject as _};
use sotto_runtime::{
    config::TlsConfig,
    tls::{ClientAuth, PeerService, Tls},
};
use sotto_testkit::Pki;

use crate::tls_config;

fn certificate(path: &std::path::Path) -> CertificateDer<'static> {
    CertificateDer::from_pem_file(path).unwrap()
}

#[test]
fn a_certificate_names_its_service_and_no_other() {
    let pki = Pki::new();
    for service in PeerService::ALL {
        let files = pki.service(service.name());
        assert_eq!(PeerService::of(&certificate(&files.cert)), Some(service));
    }
    let stranger =
        pki.named("stranger", &["localhost", "billing.sotto.internal", "ingress.sotto.internal.example"]);
    assert_eq!(PeerService::of(&certificate(&stranger.cert)), None);
    let wild = pki.named("wild", &["*.other.internal"]);
    assert_eq!(PeerService::of(&certificate(&wild.cert)), None);
}

#[test]
fn unusable_files_are_told_by_name() {
    let pki = Pki::new();
    let good = tls_config(pki.service("ingress"));
    let other = tls_config(pki.service("routing"));
    let told = |config: &TlsConfig| Tls::load(config).unwrap_err().to_string();
    let missing = TlsConfig { cert_file: "/nowhere.pem".into(), ..good.clone() };
    assert!(told(&missing).contains("/nowhere.pem cannot be read"));
    let mixed = TlsConfig { key_file: other.key_file, ..good.clone() };
    assert!(told(&mixed).contains("cannot be used with its key"));
    let swapped = TlsConfig { key_file: good.cert_file.clone(), ..good.clone() };
    assert!(told(&swapped).contains("open to every user"));
    let empty = pki.dir().join("empty.pem");
    std::fs::write(&empty, "").unwrap();
    assert!(told(&TlsConfig { ca_file: empty, ..good.clone() }).contains("no valid PEM certificate"));
    Tls::load(&good).unwrap().server(ClientAuth::Required, &["h2"]).unwrap();
}

#[test]
fn half_written_renewals_leave_the_old_certificate_in_use() {
    let pki = Pki::new();
    let config = tls_config(pki.service("ingress"));
    let tls = Tls::load(&config).unwrap();
    let whole = std::fs::read(&config.cert_file).unwrap();
    std::fs::write(&config.cert_file, &whole[..whole.len() / 2]).unwrap();
    assert!(!tls.refresh(), "half a certificate");
    pki.service("ingress");
    assert!(tls.refresh(), "a whole one");
    assert!(!tls.refresh(), "nothing new");
}
