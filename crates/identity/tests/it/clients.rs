//! Registering, listing and disabling over gRPC: who may, what is refused, and what is told once.

use std::{collections::BTreeSet, fs, sync::Arc, time::Duration};

use serde_json::{Value, json};
use sotto_core::Clock as _;
use sotto_crypto::sign::SigningKey;
use sotto_identity::ports::Category;
use sotto_proto::{
    identity::v1::{
        Client, ClientAuthentication, CreateClientRequest, DisableClientRequest, ListClientsRequest,
        RedeemInvitationRequest, client_authentication::Method, client_service_client::ClientServiceClient,
    },
    to_wire_time,
};
use sotto_runtime::{
    config::TlsConfig,
    tls::{PeerService, Tls},
};
use sotto_testkit::{CertFiles, Pki};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio_rustls::rustls;
use tonic::{Code, Status, transport::Channel};
use tonic_types::StatusExt as _;

use crate::{
    tokens::{acme, bearing, owner_token},
    world::{AUDIENCE, ISSUER, Key, NOW, Running, World, with_key, with_secret},
};

type Grpc = ClientServiceClient<Channel>;

/// A cell whose owner is registered and has a token.
struct Office {
    world: World,
    running: Running,
    owner: Key,
    token: String,
}

impl Office {
    async fn open() -> Self {
        let world = World::new().await;
        let running = world.start().await;
        let owner = running.owner().await;
        let token = owner_token(&world, &running, &owner).await;
        world.told.take();
        Self { world, running, owner, token }
    }

    async fn create(&self, request: CreateClientRequest) -> Result<(Client, String), Status> {
        let made = self.running.grpc().create_client(bearing(request, &self.token)).await?.into_inner();
        Ok((made.client.unwrap(), made.client_secret))
    }

    async fn list(&self, request: ListClientsRequest) -> Result<(Vec<Client>, String), Status> {
        let page = self.running.grpc().list_clients(bearing(request, &self.token)).await?.into_inner();
        Ok((page.clients, page.next_page_token))
    }

    async fn disable(&self, id: &str) -> Result<Client, Status> {
        let request = DisableClientRequest { client_id: id.to_owned() };
        let disabled = self.running.grpc().disable_client(bearing(request, &self.token)).await?;
        Ok(disabled.into_inner().client.unwrap())
    }

    async fn names(&self) -> Vec<String> {
        let (clients, _) = self.list(ListClientsRequest::default()).await.unwrap();
        clients.into_iter().map(|client| client.name).collect()
    }

    /// What each method that needs a token answers to this one.
    async fn answers(&self, token: &str) -> Vec<(Code, String)> {
        let (grpc, id) = (self.running.grpc(), self.owner.id.clone());
        refusals(grpc, token, id).await.iter().map(|status| (status.code(), reason(status))).collect()
    }
}

async fn refusals(mut grpc: Grpc, token: &str, id: String) -> [Status; 3] {
    [
        grpc.create_client(bearing(acme(), token)).await.unwrap_err(),
        grpc.list_clients(bearing(ListClientsRequest::default(), token)).await.unwrap_err(),
        grpc.disable_client(bearing(DisableClientRequest { client_id: id }, token)).await.unwrap_err(),
    ]
}

fn reason(status: &Status) -> String {
    status.get_details_error_info().map(|info| info.reason).unwrap_or_default()
}

fn fields(status: &Status) -> Vec<String> {
    assert_eq!(
        (status.code(), reason(status).as_str()),
        (Code::InvalidArgument, "INVALID_FIELDS"),
        "{status:?}"
    );
    let wrong = status.get_details_bad_request().unwrap().field_violations;
    assert!(wrong.iter().all(|violation| !violation.description.is_empty()), "{wrong:?}");
    wrong.into_iter().map(|violation| violation.field).collect()
}

fn redeeming(text: &str) -> RedeemInvitationRequest {
    RedeemInvitationRequest { invitation: text.to_owned(), authentication: Some(with_secret()) }
}

/// The claims of the owner's token.
fn claims(office: &Office) -> Value {
    let now = office.world.clock.now().unix_seconds();
    json!({
        "iss": ISSUER, "aud": AUDIENCE, "exp": now + 600, "iat": now, "jti": "0".repeat(32),
        "sub": office.owner.id, "client_id": office.owner.id, "scope": "admin:clients",
        "tenant": "cell", "senders": [],
    })
}

#[tokio::test]
async fn a_client_is_registered_listed_and_disabled() {
    let office = Office::open().await;
    let (client, secret) = office.create(acme()).await.unwrap();
    assert!(secret.starts_with("sotto_dev_"), "{}", secret.len());
    let expected = Client {
        client_id: client.client_id.clone(),
        tenant: "acme".to_owned(),
        name: "Acme".to_owned(),
        scopes: vec!["message:send".to_owned(), "message:read".to_owned()],
        enabled: true,
        created_at: Some(to_wire_time(NOW)),
        senders: vec!["ACME".to_owned()],
    };
    assert_eq!(client, expected);
    let acts = office.world.told.acts();
    let told: Vec<_> = acts
        .iter()
        .map(|act| (act.category, act.action, act.actor.clone().unwrap().to_string(), act.object.as_str()))
        .collect();
    let created =
        (Category::Configuration, "client.created", office.owner.id.clone(), client.client_id.as_str());
    assert_eq!(told, [created]);
    assert_eq!(acts[0].tenant.as_ref().map(ToString::to_string).as_deref(), Some("acme"));

    let acme_only = ListClientsRequest { tenant: "acme".to_owned(), ..ListClientsRequest::default() };
    assert_eq!(office.list(acme_only.clone()).await.unwrap(), (vec![client.clone()], String::new()));
    let disabled = Client { enabled: false, ..client.clone() };
    assert_eq!(office.disable(&client.client_id).await.unwrap(), disabled);
    assert_eq!(office.list(acme_only).await.unwrap().0, std::slice::from_ref(&disabled));
    assert_eq!(office.disable(&client.client_id).await.unwrap(), disabled, "again, it stays as it is");
    assert_eq!(office.world.told.take(), ["client.disabled ok"; 2]);

    let nobody = office.disable("client-00000000000000000000000000000000").await.unwrap_err();
    assert_eq!((nobody.code(), reason(&nobody).as_str()), (Code::NotFound, "UNKNOWN_CLIENT"));
    assert_eq!(fields(&office.disable("acme").await.unwrap_err()), ["client_id"]);
    assert_eq!(office.world.told.take(), Vec::<String>::new());
}

#[tokio::test]
async fn lists_come_in_pages() {
    let office = Office::open().await;
    let mut ids = BTreeSet::from([office.owner.id.clone()]);
    for number in 0..5 {
        let tenant = if number < 2 { "acme" } else { "globex" }.to_owned();
        let request = CreateClientRequest { tenant, name: format!("Client {number}"), ..acme() };
        ids.insert(office.create(request).await.unwrap().0.client_id);
    }
    let page = |tenant: &str, page_size, page_token: &str| ListClientsRequest {
        tenant: tenant.to_owned(),
        page_size,
        page_token: page_token.to_owned(),
    };
    let (mut listed, mut next, mut sizes) = (Vec::new(), String::new(), Vec::new());
    loop {
        let (clients, token) = office.list(page("", 4, &next)).await.unwrap();
        sizes.push(clients.len());
        listed.extend(clients.into_iter().map(|client| client.client_id));
        next = token;
        if next.is_empty() {
            break;
        }
    }
    assert_eq!(sizes, [4, 2]);
    assert_eq!(listed, ids.iter().cloned().collect::<Vec<_>>(), "each once, by id");

    let (clients, rest) = office.list(page("globex", 3, "")).await.unwrap();
    assert!(clients.iter().all(|client| client.tenant == "globex"), "{clients:?}");
    assert_eq!((clients.len(), rest.as_str()), (3, ""), "a full last page has no next");
    let (clients, next) = office.list(page("acme", 1, "")).await.unwrap();
    let (others, end) = office.list(page("acme", 1, &next)).await.unwrap();
    assert_ne!(clients, others);
    assert_eq!((others.len(), end.as_str()), (1, ""));
    assert_eq!(office.list(page("initech", 0, "")).await.unwrap(), (vec![], String::new()));
    assert_eq!(office.list(page("", 0, "")).await.unwrap().0.len(), 6);

    let wrong = office.list(page("No Tenant", 1_001, "next")).await.unwrap_err();
    assert_eq!(fields(&wrong), ["tenant", "page_token", "page_size"]);
    assert!(office.list(page("", 1_000, "")).await.is_ok());
}

#[tokio::test]
async fn bad_fields_are_named_and_nothing_is_registered() {
    let office = Office::open().await;
    let strings = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
    let by = |method| Some(ClientAuthentication { method: Some(method) });
    let jwk = |text: &str| by(Method::PublicJwk(text.to_owned()));
    let refused_secret = by(Method::GenerateSecret(false));
    let private = r#"{"kty":"OKP","crv":"Ed25519","x":"AA","d":"burnt-private-key"}"#;
    let many: Vec<String> = (100..151).map(|code| code.to_string()).collect();
    for (request, wrong) in [
        (CreateClientRequest { tenant: String::new(), ..acme() }, "tenant"),
        (CreateClientRequest { tenant: "Acme & Co".to_owned(), ..acme() }, "tenant"),
        (CreateClientRequest { name: String::new(), ..acme() }, "name"),
        (CreateClientRequest { name: "a".repeat(65), ..acme() }, "name"),
        (CreateClientRequest { name: "Ac\u{7}me".to_owned(), ..acme() }, "name"),
        (CreateClientRequest { scopes: vec![], senders: vec![], ..acme() }, "scopes"),
        (CreateClientRequest { scopes: strings(&["message:send", "everything"]), ..acme() }, "scopes[1]"),
        (CreateClientRequest { scopes: strings(&["message:send", "admin:clients"]), ..acme() }, "scopes[1]"),
        (CreateClientRequest { scopes: strings(&["message:send", "message:send"]), ..acme() }, "scopes[1]"),
        (CreateClientRequest { senders: vec![], ..acme() }, "senders"),
        (CreateClientRequest { senders: many, ..acme() }, "senders"),
        (CreateClientRequest { senders: strings(&["ACME", "NgânHàng"]), ..acme() }, "senders[1]"),
        (CreateClientRequest { senders: strings(&["ACME", "ACME"]), ..acme() }, "senders[1]"),
        (CreateClientRequest { scopes: strings(&["message:read"]), ..acme() }, "senders"),
        (CreateClientRequest { authentication: None, ..acme() }, "authentication"),
        (CreateClientRequest { authentication: refused_secret, ..acme() }, "authentication.generate_secret"),
        (CreateClientRequest { authentication: jwk("{}"), ..acme() }, "authentication.public_jwk"),
        (CreateClientRequest { authentication: jwk(private), ..acme() }, "authentication.public_jwk"),
    ] {
        let refused = office.create(request).await.unwrap_err();
        assert_eq!(fields(&refused), [wrong], "{refused:?}");
        assert!(!format!("{refused:?}").contains("burnt-private-key"));
    }
    let operator = CreateClientRequest { tenant: "cell".to_owned(), ..acme() };
    assert_eq!(fields(&office.create(operator).await.unwrap_err()), ["scopes[0]", "scopes[1]", "senders"]);
    let all = office.create(CreateClientRequest::default()).await.unwrap_err();
    assert_eq!(fields(&all), ["tenant", "name", "scopes", "authentication"], "all at once");
    let large = CreateClientRequest { name: "a".repeat(64 * 1024), ..acme() };
    assert_eq!(office.create(large).await.unwrap_err().code(), Code::OutOfRange);

    assert_eq!(office.names().await, ["owner"]);
    assert_eq!(office.world.told.take(), Vec::<String>::new());
}

#[tokio::test]
async fn only_tokens_with_the_scope_of_clients_that_are_enabled_count() {
    let office = Office::open().await;
    let unauthenticated = |reason: &str| vec![(Code::Unauthenticated, reason.to_owned()); 3];
    let forbidden = vec![(Code::PermissionDenied, "INSUFFICIENT_SCOPE".to_owned()); 3];
    let bare = office.running.grpc().list_clients(ListClientsRequest::default()).await.unwrap_err();
    assert_eq!(bare.code(), Code::Unauthenticated);
    let mut basic = tonic::Request::new(ListClientsRequest::default());
    basic.metadata_mut().insert("authorization", format!("Basic {}", office.token).parse().unwrap());
    assert_eq!(office.running.grpc().list_clients(basic).await.unwrap_err().code(), Code::Unauthenticated);
    for token in ["", "a.b.c", &format!("{}A", office.token)] {
        assert_eq!(office.answers(token).await, unauthenticated("INVALID_TOKEN"), "{token}");
    }

    let assertion = office.owner.assertion(&office.world);
    let narrowed = office.running.ask_with(&assertion, &[("scope", "audit:read")]).await;
    assert_eq!(office.answers(narrowed.token()).await, forbidden);
    let signing = SigningKey::generate().unwrap();
    let request = CreateClientRequest { authentication: Some(with_key(&signing)), ..acme() };
    let business = Key::new(office.create(request).await.unwrap().0.client_id, signing);
    let sending = office.running.ask_with(&business.assertion(&office.world), &[]).await;
    assert_eq!(office.answers(sending.token()).await, forbidden);
    // An assertion is no access token, however good it is at the token endpoint.
    let assertion = office.owner.assertion(&office.world);
    assert_eq!(office.answers(&assertion).await, unauthenticated("INVALID_TOKEN"));

    let signing = SigningKey::generate().unwrap();
    let second = CreateClientRequest {
        tenant: "cell".to_owned(),
        name: "second".to_owned(),
        scopes: vec!["admin:clients".to_owned()],
        senders: vec![],
        authentication: Some(with_key(&signing)),
    };
    let second = Key::new(office.create(second).await.unwrap().0.client_id, signing);
    let token = office.running.ask_with(&second.assertion(&office.world), &[]).await.token().to_owned();
    let request = DisableClientRequest { client_id: office.owner.id.clone() };
    office.running.grpc().disable_client(bearing(request, &token)).await.unwrap();
    // Its token lasts for minutes yet.
    assert_eq!(office.answers(&office.token).await, unauthenticated("CLIENT_DISABLED"));
}

#[tokio::test]
async fn tokens_of_another_time_cell_or_kind_are_refused() {
    let office = Office::open().await;
    let forged = |typ: &str, member: &str, value: Value| {
        let mut claims = claims(&office);
        claims[member] = value;
        office.world.signed_by_the_token_key(typ, &claims)
    };
    let nobody = "client-00000000000000000000000000000000";
    let sound = forged("at+jwt", "scope", json!("admin:clients audit:read"));
    let listed = office.running.grpc().list_clients(bearing(ListClientsRequest::default(), &sound)).await;
    assert!(listed.is_ok(), "what is forged here counts but for the one thing that is wrong: {listed:?}");
    for (token, why) in [
        (forged("JWT", "jti", json!("1")), "INVALID_TOKEN"),
        (forged("at+jwt", "aud", json!("https://de.sotto.internal")), "INVALID_TOKEN"),
        (forged("at+jwt", "iss", json!("https://identity.sotto.example")), "INVALID_TOKEN"),
        (forged("at+jwt", "exp", json!(NOW.unix_seconds())), "INVALID_TOKEN"),
        (forged("at+jwt", "client_id", json!("owner")), "INVALID_TOKEN"),
        (forged("at+jwt", "client_id", json!(nobody)), "CLIENT_DISABLED"),
    ] {
        assert_eq!(office.answers(&token).await, vec![(Code::Unauthenticated, why.to_owned()); 3], "{token}");
    }
    office.world.clock.advance(Duration::from_secs(599));
    assert_eq!(office.names().await, ["owner"]);
    office.world.clock.advance(Duration::from_secs(1));
    let expired = office.create(acme()).await.unwrap_err();
    assert_eq!((expired.code(), reason(&expired).as_str()), (Code::Unauthenticated, "INVALID_TOKEN"));
    assert_eq!(expired.message(), "the access token has expired");
}

#[tokio::test]
async fn only_the_operators_certificate_is_let_in() {
    let office = Office::open().await;
    office.world.invite("another-invitation", NOW.plus(Duration::from_secs(60)));
    for service in PeerService::ALL.into_iter().filter(|service| *service != PeerService::Operator) {
        let mut grpc = office.running.grpc_as(&office.world.pki, service.name());
        let redeemed = grpc.redeem_invitation(redeeming("another-invitation")).await.unwrap_err();
        for status in refusals(grpc, &office.token, office.owner.id.clone()).await.iter().chain([&redeemed]) {
            let told = (status.code(), reason(status));
            let expected = (Code::PermissionDenied, "OPERATOR_CERTIFICATE_REQUIRED".to_owned());
            assert_eq!(told, expected, "{service:?}");
        }
    }

    let expired = office.world.pki.expired_service("operator");
    let other = Pki::new();
    let foreign = CertFiles { ca: office.world.pki.ca(), ..other.service("operator") };
    let unnamed = office.world.pki.named("stranger", &["stranger.example"]);
    for (CertFiles { ca, cert, key }, who) in
        [(expired, "expired"), (foreign, "of another authority"), (unnamed, "for no service")]
    {
        let tls = Tls::load(&TlsConfig { ca_file: ca, cert_file: cert, key_file: key }).unwrap();
        let mut grpc = office.running.grpc_over(&tls);
        let redeemed = grpc.redeem_invitation(redeeming("another-invitation")).await.unwrap_err();
        let refused = refusals(grpc, &office.token, office.owner.id.clone()).await;
        for status in refused.iter().chain([&redeemed]) {
            let expected = [Code::Unauthenticated, Code::Unavailable, Code::Unknown];
            assert!(expected.contains(&status.code()), "{who}: {status:?}");
        }
    }
    assert_eq!(office.names().await, ["owner"]);
    assert_eq!(office.world.told.take(), Vec::<String>::new());
}

#[tokio::test]
async fn nobody_gets_a_word_without_a_certificate() {
    use rustls_pki_types::pem::PemObject as _;
    let office = Office::open().await;
    let mut roots = rustls::RootCertStore::empty();
    roots.add(rustls_pki_types::CertificateDer::from_pem_file(office.world.pki.ca()).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec()];
    let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
    let name = || rustls_pki_types::ServerName::try_from("identity.sotto.internal").unwrap();

    let heard = async |address: &str| {
        let stream = tokio::net::TcpStream::connect(address).await.unwrap();
        // TLS 1.3 tells the client of a refusal only with the first answer.
        let mut stream = connector.connect(name(), stream).await.ok()?;
        stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await.ok()?;
        stream.read_u8().await.ok()
    };
    assert_eq!(heard(office.running.grpc_address()).await, None);
    assert!(heard(&office.running.https).await.is_some(), "tokens are asked for without one");
}

#[tokio::test]
async fn secrets_are_shown_once_and_kept_nowhere() {
    let world = World::new().await;
    let running = world.start().await;
    let redeemed = running.grpc().redeem_invitation(redeeming(crate::world::INVITATION)).await;
    let redeemed = redeemed.unwrap().into_inner();
    let (owner, owner_secret) = (redeemed.client.unwrap(), redeemed.client_secret);
    assert_eq!((owner.tenant.as_str(), owner.name.as_str()), ("cell", "owner"));
    assert_eq!(owner.scopes, ["admin:clients", "audit:read"]);
    let ask = async |id: &str, secret: &str| {
        let form = [("grant_type", "client_credentials"), ("client_id", id), ("client_secret", secret)];
        running.ask(&form, &[]).await
    };
    let token = ask(&owner.client_id, &owner_secret).await.token().to_owned();
    let mut secrets = vec![owner_secret];
    for _ in 0..2 {
        let made = running.grpc().create_client(bearing(acme(), &token)).await.unwrap().into_inner();
        let id = made.client.unwrap().client_id;
        assert_eq!(ask(&id, &made.client_secret).await.status, 200);
        for other in &secrets {
            assert_eq!(ask(&id, other).await.error(), (401, "invalid_client"), "a secret of another client");
        }
        secrets.push(made.client_secret);
        let listed = running.grpc().list_clients(bearing(ListClientsRequest::default(), &token)).await;
        let request = bearing(DisableClientRequest { client_id: id }, &token);
        let disabled = running.grpc().disable_client(request).await;
        assert!(listed.is_ok() && disabled.is_ok(), "{listed:?} {disabled:?}");
        let answers = format!("{listed:?} {disabled:?}");
        assert!(secrets.iter().all(|secret| !answers.contains(secret)), "told again");
    }
    let told = format!("{:?}", world.told.acts());
    assert!(told.contains("client.created") && !told.contains("ACME"), "{told}");
    running.stop().await;

    let mut files = 0;
    for file in fs::read_dir(world.folder()).unwrap() {
        let path = file.unwrap().path();
        let bytes = fs::read(&path).unwrap();
        let holds = |text: &str| bytes.windows(text.len()).any(|window| window == text.as_bytes());
        assert_eq!(holds(&owner.client_id), path.ends_with("clients.json"), "{}", path.display());
        for text in secrets.iter().map(String::as_str).chain([crate::world::INVITATION, token.as_str()]) {
            assert!(!holds(text), "{}", path.display());
        }
        files += 1;
    }
    assert!(files >= 5, "{files}");
    assert!(secrets.iter().all(|secret| !told.contains(secret)));
}
