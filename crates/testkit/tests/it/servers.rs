use std::time::Duration;

use sotto_testkit::{NatsOptions, NatsServer, Pki, RedisOptions, RedisServer, eventually_ok, workspace};

const BOUND: Duration = Duration::from_secs(10);

#[test]
fn knows_the_workspace() {
    assert!(workspace().join("Cargo.lock").is_file());
}

#[tokio::test]
async fn nats_keeps_its_store_over_a_kill() {
    let mut server = NatsServer::start(NatsOptions::default()).await;
    let url = server.url();
    let connect = || async_nats::ConnectOptions::new().retry_on_initial_connect().connect(url.clone());
    let jetstream = async_nats::jetstream::new(connect().await.unwrap());
    let stream = async_nats::jetstream::stream::Config {
        name: "KEPT".to_owned(),
        subjects: vec!["kept".to_owned()],
        ..Default::default()
    };
    jetstream.create_stream(stream).await.unwrap();
    jetstream.publish("kept", "1".into()).await.unwrap().await.unwrap();

    server.kill().await;
    server.restart().await;
    assert_eq!(server.url(), url);

    let jetstream = async_nats::jetstream::new(connect().await.unwrap());
    let count = eventually_ok(BOUND, "the stream to be back", || {
        let jetstream = jetstream.clone();
        async move {
            Ok::<_, String>(
                jetstream.get_stream("KEPT").await.map_err(|e| e.to_string())?.cached_info().state.messages,
            )
        }
    })
    .await;
    assert_eq!(count, 1, "sync_interval: always keeps acknowledged messages over SIGKILL");
    assert!(std::fs::read_dir(server.store_dir()).unwrap().count() > 0);
}

#[tokio::test]
async fn nats_takes_nkey_users_over_mutual_tls() {
    let pki = Pki::new();
    let (broker, client) = (pki.service("nats"), pki.service("routing"));
    let user = nkeys::KeyPair::new_user();
    let config = format!(
        "tls {{ ca_file: {:?}, cert_file: {:?}, key_file: {:?}, verify: true, handshake_first: true }}\n\
         authorization {{ users: [ {{ nkey: {} }} ] }}",
        broker.ca,
        broker.cert,
        broker.key,
        user.public_key()
    );
    let server = NatsServer::start(NatsOptions { config, ..NatsOptions::default() }).await;
    let options = || {
        async_nats::ConnectOptions::with_nkey(user.seed().unwrap())
            .add_root_certificates(pki.ca())
            .tls_first()
    };
    let known = options().add_client_certificate(client.cert, client.key).connect(server.tls_url()).await;
    assert!(known.is_ok(), "{known:?}");
    assert!(options().connect(server.tls_url()).await.is_err(), "no client certificate");
}

#[tokio::test]
async fn redis_restarts_with_its_data_and_forgets_on_flush() {
    let mut server = RedisServer::start(RedisOptions::default()).await;
    let url = server.url();
    let get = || async {
        let mut connection = redis::Client::open(url.as_str())?.get_multiplexed_async_connection().await?;
        redis::cmd("GET").arg("kept").query_async::<Option<String>>(&mut connection).await
    };
    assert_eq!(server.command("SET kept yes").await, "+OK");
    server.restart().await;
    assert_eq!(server.url(), url);
    assert_eq!(get().await.unwrap().as_deref(), Some("yes"));
    server.flush_all().await;
    assert_eq!(get().await.unwrap(), None);
    server.kill().await;
    assert!(get().await.is_err());
}

#[tokio::test]
async fn redis_takes_acl_users_over_mutual_tls() {
    let pki = Pki::new();
    let (files, client) = (pki.service("redis"), pki.service("routing"));
    let acl = "user default off\nuser routing on >pass ~sotto:routing:* +@all\n".to_owned();
    let server =
        RedisServer::start(RedisOptions { tls: Some(files), acl: Some(acl), ..RedisOptions::default() })
            .await;
    assert!(server.url().starts_with("rediss://"));
    server.flush_all().await;

    // The client library needs a provider; with ring alone compiled in, its own choice is ring.
    let read = |path: &std::path::Path| std::fs::read(path).unwrap();
    let tls = redis::TlsCertificates {
        client_tls: Some(redis::ClientTlsConfig {
            client_cert: read(&client.cert),
            client_key: read(&client.key),
        }),
        root_cert: Some(read(&client.ca)),
    };
    let url = format!("rediss://routing:pass@localhost:{}", server.address().port());
    let client = redis::Client::build_with_tls(url, tls).unwrap();
    let mut connection = client.get_multiplexed_async_connection().await.unwrap();
    redis::cmd("SET").arg("sotto:routing:x").arg(1).query_async::<()>(&mut connection).await.unwrap();
    let foreign = redis::cmd("SET").arg("sotto:privacy:x").arg(1).query_async::<()>(&mut connection).await;
    assert_eq!(foreign.unwrap_err().code(), Some("NOPERM"));
}
