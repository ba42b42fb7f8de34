//! SMPP over TLS, from certificate files.

use crate::support::{message, options};
use serde_json::json;
use sotto_simulator::{Simulator, StartError, TlsFiles};
use sotto_smpp::{
    Session, SessionOptions,
    client::{self, BindOptions},
};
use std::sync::Arc;
use tokio::{net::TcpStream, task::JoinSet};
use tokio_rustls::TlsConnector;

#[tokio::test]
async fn serves_the_certificate_it_is_given() {
    let folder = tempfile::tempdir().unwrap();
    let files = TlsFiles { certificate: folder.path().join("cert.pem"), key: folder.path().join("key.pem") };
    let mut options = options(json!({"receipts": false}));
    options.tls = Some(files.clone());
    let missing = Simulator::start(options.clone()).await.unwrap_err();
    assert!(matches!(missing, StartError::Pem { .. }));
    let issued = rcgen::generate_simple_self_signed(vec!["carrier.test".to_owned()]).unwrap();
    std::fs::write(&files.certificate, issued.cert.pem()).unwrap();
    std::fs::write(&files.key, issued.signing_key.serialize_pem()).unwrap();
    let simulator = Simulator::start(options).await.unwrap();

    let mut roots = rustls::RootCertStore::empty();
    roots.add(issued.cert.der().clone()).unwrap();
    let config =
        rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
    let stream = TcpStream::connect(simulator.smpp()).await.unwrap();
    let name = "carrier.test".try_into().unwrap();
    let stream = TlsConnector::from(Arc::new(config)).connect(name, stream).await.unwrap();
    let bind = BindOptions::transceiver("sotto", "secret");
    let (session, _) = client::bind::<(), _>(stream, bind, SessionOptions::default()).await.unwrap();
    let Session { link, driver, .. } = session;
    let mut tasks = JoinSet::new();
    tasks.spawn(driver);
    let pending = link.send(link.reserve().await.unwrap(), message("1", "x"), ()).unwrap();
    assert!(pending.await.unwrap().status.is_ok());
}
