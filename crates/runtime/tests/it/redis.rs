use std::time::Duration;

use sotto_core::ErrorClass;
use sotto_runtime::{
    config::{RedisConfig, SecretFile},
    redis::{Redis, Script, class, cmd, pipe},
    tls::Tls,
};
use sotto_testkit::{Pki, RedisOptions, RedisServer, eventually_ok};

use crate::tls_config;

const BOUND: Duration = Duration::from_secs(20);
const ACL: &str = "user default off\nuser routing on >a-good-password ~sotto:routing:* +@all -@dangerous\n";

async fn server(pki: &Pki) -> RedisServer {
    let options = RedisOptions {
        tls: Some(pki.service("redis")),
        acl: Some(ACL.to_owned()),
        ..RedisOptions::default()
    };
    RedisServer::start(options).await
}

fn config(server: &RedisServer, password: &str) -> RedisConfig {
    RedisConfig {
        url: server.url(),
        username: "routing".to_owned(),
        password_file: SecretFile::in_memory(password),
        connect_timeout: "2 s".parse().unwrap(),
        response_timeout: "2 s".parse().unwrap(),
    }
}

#[tokio::test]
async fn works_over_mutual_tls_and_comes_back_after_a_restart() {
    let pki = Pki::new();
    let mut server = server(&pki).await;
    let files = tls_config(pki.service("routing"));
    let tls = Tls::load(&files).unwrap();
    let redis = Redis::new(&config(&server, "a-good-password"), &tls).unwrap();
    redis.ping().await.unwrap();
    let sum: i64 = Script::new("return redis.call('INCRBY', KEYS[1], ARGV[1])")
        .key("sotto:routing:n")
        .arg(5)
        .invoke_async(&mut redis.connection())
        .await
        .unwrap();
    assert_eq!(sum, 5);
    let (a, b): (Option<i64>, Option<i64>) = pipe()
        .get("sotto:routing:n")
        .get("sotto:routing:m")
        .query_async(&mut redis.connection())
        .await
        .unwrap();
    assert_eq!((a, b), (Some(5), None));

    server.kill().await;
    let down = redis.ping().await.unwrap_err();
    assert!(matches!(class(&down), ErrorClass::Retry { .. }), "{down:?}");
    server.restart().await;
    eventually_ok(BOUND, "Redis to be back", || redis.ping()).await;

    pki.service("routing");
    assert!(tls.refresh());
    redis.ping().await.unwrap();
}

#[tokio::test]
async fn errors_say_what_may_be_done() {
    let pki = Pki::new();
    let server = server(&pki).await;
    let tls = Tls::load(&tls_config(pki.service("routing"))).unwrap();
    let redis = Redis::new(&config(&server, "a-good-password"), &tls).unwrap();
    let foreign =
        cmd("GET").arg("sotto:privacy:x").query_async::<()>(&mut redis.connection()).await.unwrap_err();
    assert_eq!(class(&foreign), ErrorClass::Reject, "{foreign:?}");
    let mistake = cmd("NOSUCH").query_async::<()>(&mut redis.connection()).await.unwrap_err();
    assert_eq!(class(&mistake), ErrorClass::Bug, "{mistake:?}");

    let wrong = Redis::new(&config(&server, "a-wrong-password"), &tls).unwrap();
    let refused = wrong.ping().await.unwrap_err();
    assert_eq!(class(&refused), ErrorClass::Reject, "{refused:?}");
    let stranger = Tls::load(&tls_config(Pki::new().service("routing"))).unwrap();
    assert!(Redis::new(&config(&server, "a-good-password"), &stranger).unwrap().ping().await.is_err());
    assert!(!format!("{redis:?} {:?}", config(&server, "a-good-password")).contains("a-good-password"));
}

#[tokio::test]
async fn plain_connections_are_refused() {
    let tls = Tls::load(&tls_config(Pki::new().service("routing"))).unwrap();
    let server = RedisServer::start(RedisOptions::default()).await;
    let refused = Redis::new(&config(&server, "a-good-password"), &tls).unwrap_err();
    assert_eq!(class(&refused), ErrorClass::Reject);
}
