//! Each way to be bound, or not to be.

use std::{fs, os::unix::fs::PermissionsExt as _};

use sotto_smpp::{CommandStatus, server};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio_rustls::{
    TlsAcceptor,
    rustls::{ServerConfig, server::WebPkiClientVerifier},
};

use super::*;
use crate::{
    app::tenure::posts,
    testing::{BOUND, NOW, Reply, TestCarrier, World, settings, shards},
};

async fn bound(settings: &Settings, folder: &Path) -> Result<Vec<Session<About>>, ConnectError> {
    sessions(settings, folder, settings.hosts.first().unwrap()).await
}

fn folder(password: &str, mode: u32) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("password");
    fs::write(&file, password).unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(mode)).unwrap();
    folder
}

#[tokio::test]
async fn a_bind_announces_what_the_account_says() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut settings = settings("a", listener.local_addr().unwrap().port());
    settings.system_type = "VMA".to_owned();
    settings.interface_version = InterfaceVersion::V50;
    settings.address_range = "^9029".to_owned();
    settings.addressing.bind = (1, 9);
    let files = folder("secret", 0o600);
    let carrier = async {
        let (stream, _) = listener.accept().await.unwrap();
        let request = server::accept(stream, SessionOptions::default()).await.unwrap();
        let bind = request.bind.clone();
        request.refuse(CommandStatus::ESME_RBINDFAIL).await.unwrap();
        bind
    };
    let (seen, refused) = tokio::join!(carrier, bound(&settings, files.path()));
    assert!(refused.is_err());
    let text = |octets: &COctets| octets.as_str().unwrap().to_owned();
    assert_eq!((seen.interface_version, text(&seen.system_type)), (0x50, "VMA".to_owned()));
    let Address { ton, npi, value } = &seen.address_range;
    assert_eq!((*ton, *npi, text(value)), (1, 9, "^9029".to_owned()));
    assert_eq!((text(&seen.system_id), text(&seen.password)), ("sotto".to_owned(), "secret".to_owned()));
}

#[test]
fn files_that_cannot_be_used_are_told_before_anything_starts() {
    let settings = settings("a", 1);
    assert!(check_files(&settings, folder("secret\n", 0o600).path()).is_ok());
    for (password, mode, word) in
        [("secret", 0o644, "chmod 600"), ("ninechars", 0o600, "at most 8"), ("m\u{1ead}t", 0o600, "ASCII")]
    {
        let error = check_files(&settings, folder(password, mode).path()).unwrap_err();
        assert!(error.to_string().contains(word) && !error.to_string().contains(password), "{error}");
        assert_eq!(error.failure(), Failure::Credentials);
    }
    let nowhere = tempfile::tempdir().unwrap();
    assert!(matches!(check_files(&settings, nowhere.path()), Err(ConnectError::Password { .. })));
    let mut safe = settings;
    safe.tls = Tls::Required {
        ca_file: Some("none.pem".into()),
        server_name: Some("localhost".to_owned()),
        pin: None,
        client: None,
    };
    let error = check_files(&safe, folder("secret", 0o600).path()).unwrap_err();
    assert!(matches!(error, ConnectError::Authorities { .. }));
}

#[tokio::test]
async fn each_way_not_to_be_bound_has_its_name() {
    let files = folder("secret", 0o600);
    // Nobody listens.
    let nobody = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = nobody.local_addr().unwrap().port();
    drop(nobody);
    let error = bound(&settings("a", port), files.path()).await.unwrap_err();
    assert!(matches!(error, ConnectError::Connect(_)) && error.failure() == Failure::Link);
    // A carrier without TLS where TLS is required: nothing goes out in clear.
    let carrier = TestCarrier::start(|_| Reply::Ok).await;
    let mut safe = settings("a", carrier.port);
    let pki = sotto_testkit::Pki::new();
    safe.tls = Tls::Required {
        ca_file: Some(pki.ca()),
        server_name: Some("localhost".to_owned()),
        pin: None,
        client: None,
    };
    let error = bound(&safe, files.path()).await.unwrap_err();
    assert!(matches!(error, ConnectError::Handshake(_) | ConnectError::TimedOut), "{error:?}");
    assert_eq!((error.failure(), carrier.links()), (Failure::Link, 0));
    // And one that lets us in.
    assert!(bound(&settings("a", carrier.port), files.path()).await.is_ok());
    let refused = ConnectError::Bind(BindError::Refused(CommandStatus::ESME_RINVPASWD));
    assert_eq!(refused.failure(), Failure::Credentials);
}

/// A carrier over TLS that demands a certificate of the cell's authority.
async fn over_tls(pki: &sotto_testkit::Pki) -> (u16, JoinSet<()>) {
    let files = pki.service("smsc");
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(CertificateDer::pem_file_iter(&files.ca).unwrap().filter_map(Result::ok));
    let provider = Arc::new(default_provider());
    let clients =
        WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider)).build().unwrap();
    let chain = CertificateDer::pem_file_iter(&files.cert).unwrap().collect::<Result<Vec<_>, _>>().unwrap();
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_client_cert_verifier(clients)
        .with_single_cert(chain, PrivateKeyDer::from_pem_file(&files.key).unwrap())
        .unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let mut serving = JoinSet::new();
    serving.spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let Ok(stream) = acceptor.accept(stream).await else { continue };
            let Ok(request) = server::accept(stream, SessionOptions::default()).await else { continue };
            request.accept::<()>(&"smsc".into()).driver.await;
        }
    });
    (port, serving)
}

/// The key of a certificate, as openssl prints its digest.
fn pin(certificate: &Path) -> [u8; 32] {
    let certificate = CertificateDer::from_pem_file(certificate).unwrap();
    sha256(&EndEntityCert::try_from(&certificate).unwrap().subject_public_key_info())
}

#[tokio::test]
async fn certificates_and_pins_are_held_to() {
    let (files, pki) = (folder("secret", 0o600), sotto_testkit::Pki::new());
    let (port, _serving) = over_tls(&pki).await;
    let (theirs, ours) = (pki.dir().join("smsc.pem"), pki.service("sotto"));
    let client = ClientCertificate { cert_file: ours.cert.clone(), key_file: ours.key };
    let with = |name: &str, pin: Option<[u8; 32]>, client: Option<ClientCertificate>| {
        let mut settings = settings("a", port);
        settings.tls =
            Tls::Required { ca_file: Some(pki.ca()), server_name: Some(name.to_owned()), pin, client };
        settings
    };
    let good = with("smsc.sotto.internal", Some(pin(&theirs)), Some(client.clone()));
    check_files(&good, files.path()).unwrap();
    assert!(bound(&good, files.path()).await.is_ok());
    // Another name, another key, no certificate of ours.
    let other_name = with("other.sotto.internal", None, Some(client.clone()));
    assert!(matches!(bound(&other_name, files.path()).await, Err(ConnectError::Handshake(_))));
    let other_key = with("smsc.sotto.internal", Some(pin(&ours.cert)), Some(client.clone()));
    let error = bound(&other_key, files.path()).await.unwrap_err();
    assert!(matches!(error, ConnectError::Pin) && error.failure() == Failure::Credentials);
    let nameless = with("smsc.sotto.internal", None, None);
    assert!(bound(&nameless, files.path()).await.is_err());
    // Files that cannot be used are told at the start.
    let missing = ClientCertificate { key_file: "none.key".into(), ..client.clone() };
    let error = check_files(&with("smsc.sotto.internal", None, Some(missing)), files.path()).unwrap_err();
    assert!(error.to_string().contains("none.key"), "{error}");
    fs::set_permissions(&client.key_file, fs::Permissions::from_mode(0o644)).unwrap();
    let open = check_files(&with("smsc.sotto.internal", None, Some(client)), files.path()).unwrap_err();
    assert!(matches!(open, ConnectError::Certificate { .. }), "{open}");
}

/// A carrier that takes the bind and then nothing any more, behind a pipe that holds little. Gives the carrier's end once
/// nothing more fits.
async fn stuck(settings: &Settings) -> (Session<About>, tokio::io::DuplexStream) {
    let (ours, mut theirs) = tokio::io::duplex(256);
    let options = SessionOptions {
        window: 100,
        response_timeout: settings.response_timeout,
        ..SessionOptions::default()
    };
    let bound = BindOptions::transceiver("sotto", COctets::from("secret"));
    // The answer to a bind: 16 octets of header and an empty name.
    let answer = [0, 0, 0, 17, 0x80, 0, 0, 9, 0, 0, 0, 0, 0, 0, 0, 1, 0];
    let carrier = async {
        let mut bind = [0; 4];
        theirs.read_exact(&mut bind).await.unwrap();
        let mut rest = vec![0; usize::try_from(u32::from_be_bytes(bind)).unwrap() - 4];
        theirs.read_exact(&mut rest).await.unwrap();
        theirs.write_all(&answer).await.unwrap();
    };
    let (session, ()) = tokio::join!(bind(ours, bound, options), carrier);
    (session.unwrap().0, theirs)
}

#[tokio::test]
async fn a_bind_whose_lease_ends_is_cut_although_the_carrier_does_not_read() {
    let world = World::start().await;
    let mut settings = settings("a", 1);
    settings.response_timeout = Duration::from_secs(60);
    let (session, mut theirs) = stuck(&settings).await;
    let link = session.link.clone();
    let store = crate::adapters::ledger::Store::new(world.redis.connect(None), shards());
    let (account, _) = world.account_at(settings, store, Arc::clone(&world.clock));
    let (held, mut each) = posts(1, Duration::from_secs(15), &sotto_runtime::fuse::Fuses::start().unwrap());
    held.hold();
    let mut post = each.pop().unwrap();
    let guard = post.guard().await.unwrap();
    let (drained, mut leftovers) = (CancellationToken::new(), JoinSet::new());
    let serving = serve(&account, &mut post, vec![session], guard, &drained, &mut leftovers);
    let carrier = async {
        let (message, span) = (crate::testing::id(1), crate::domain::receipt::Span::one(1));
        let submit = crate::domain::doubt::Open { message, attempt: 1, span, reference: 0, at: *NOW };
        let part = About::Submit(submit, None);
        let mut pending = Vec::new();
        for _ in 0..50 {
            let permit = link.reserve().await.unwrap();
            pending.push(link.send(permit, Box::default(), part).unwrap());
            tokio::task::yield_now().await;
        }
        held.end();
        timeout(BOUND, link.closed()).await.unwrap();
        // The carrier sees the end of the connection, and nothing that was not on the way by then.
        let mut seen = Vec::new();
        timeout(BOUND, theirs.read_to_end(&mut seen)).await.unwrap().unwrap();
        assert!(seen.len() <= 256, "{}", seen.len());
    };
    let ((), ()) = tokio::join!(serving, carrier);
}
