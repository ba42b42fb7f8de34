//! The service on a token of an HSM, with an HSM that fails: what its callers see.

use std::{collections::BTreeMap, fs, os::unix::fs::PermissionsExt as _, time::Duration};

use sotto_core::{approval::Act, work::KeyWrap};
use sotto_crypto::wrap::WrapBinding;
use sotto_keystore::{BucketKeystore as _, KeystoreError, Pkcs11Buckets, Token, TokenSettings};
use sotto_privacy::{
    config::{Config, DEFAULT_TOML},
    error::PrivacyError,
    service::serve,
    token::make_once,
};
use sotto_proto::privacy::v1::{
    Approval, DestroyKeysRequest, key_admin_service_client::KeyAdminServiceClient, unwrapped_key,
};
use sotto_runtime::{Context, config::testing::load_text};
use sotto_testkit::{Pki, SoftHsm, eventually, softhsm, softhsm_tests, write_secret};
use tonic::Code;
use tonic_types::StatusExt as _;

use crate::{
    config::required,
    wire::{BOUND, ask, client, config, make, operator, unwrap},
    world::{MINUTE, NOW, PEOPLE, World, person_key},
};

/// Makes the token of a cell, as `sotto init --hsm` does.
fn prepare(hsm: &SoftHsm) {
    hsm.make_token("privacy");
    Pkcs11Buckets::create(Token::open(settings(hsm)).unwrap(), "privacy").unwrap();
}

fn settings(hsm: &SoftHsm) -> TokenSettings {
    TokenSettings {
        module: hsm.shim(),
        label: "privacy".to_owned(),
        pin_file: hsm.pin_file(),
        sessions: 1,
        wait: BOUND,
        sync_folder: None,
    }
}

/// An act of two people of [`PEOPLE`] that destroys these.
fn approved(buckets: &[&str]) -> (String, Vec<Approval>) {
    let buckets = buckets.iter().map(|bucket| (*bucket).to_owned()).collect();
    let act = Act::destroy([1; 8], "vn".parse().unwrap(), NOW.plus(MINUTE), buckets).unwrap().to_string();
    let sign = |(name, seed): (&str, u8)| Approval {
        by: name.to_owned(),
        signature: person_key(seed).sign(act.as_bytes()).unwrap().to_vec().into(),
    };
    let approvals = PEOPLE[..2].iter().map(|person| sign(*person)).collect();
    (act, approvals)
}

fn section(hsm: &SoftHsm) -> String {
    format!(
        "keystore.kind = 'pkcs11'\nkeystore.pkcs11.module = '{}'\nkeystore.pkcs11.token = 'privacy'\n\
         keystore.pkcs11.pin_file = '{}'\nkeystore.pkcs11.sessions = 2\nkeystore.pkcs11.wait = '200 ms'\n",
        hsm.shim().display(),
        hsm.pin_file().display(),
    )
}

struct Served {
    world: World,
    context: Context,
    pki: Pki,
    port: String,
}

impl Served {
    async fn start(hsm: &SoftHsm) -> Self {
        let (world, pki) = (World::new(), Pki::new());
        let people = PEOPLE.map(|(name, seed)| {
            format!("{{ name = '{name}', key = '{}' }}", person_key(seed).public().jwk_x())
        });
        let people = format!("approval.people = [{}]\n", people.join(", "));
        let config = config(&world, &pki, &format!("{}{people}", section(hsm)));
        let context = Context::detached(world.clock.clone(), "run-1");
        let served =
            serve(config, context.clone(), world.steady.clone(), world.told.clone(), world.stored.clone());
        context.tasks.spawn_critical("service", served);
        let served = Self { world, context, pki, port: String::new() };
        served.ready(true).await;
        let port = served.context.info.addresses()["grpc"].rsplit(':').next().unwrap().to_owned();
        Self { port, ..served }
    }

    /// Waits until destruction is possible, or is not.
    async fn ready(&self, destruction: bool) {
        let wanted: BTreeMap<_, _> = [("destruction", destruction), ("keystore", true), ("listening", true)]
            .map(|(name, holds)| (name.to_owned(), holds))
            .into();
        eventually(BOUND, "the conditions", async || self.context.ready.conditions() == wanted).await;
    }

    /// Waits until the metrics tell that the next keys are there, or are not.
    async fn ahead(&self, there: bool) {
        let told = format!("sotto_condition{{condition=\"keys_ahead\"}} {}.0", u8::from(there));
        let tells = async || self.context.metrics.page().lines().any(|line| line == told);
        eventually(BOUND, "the condition of the next keys", tells).await;
    }

    async fn stop(self) {
        self.context.stop.request();
        eventually(BOUND, "the end", async || self.context.tasks.held().is_empty()).await;
    }
}

fn run(test: impl Future<Output = ()>) {
    tokio::runtime::Runtime::new().unwrap().block_on(test);
}

softhsm_tests! {
    fn keys_come_from_a_token_that_may_go_and_come_back(hsm) {
        prepare(hsm);
        run(async {
            let served = Served::start(hsm).await;
            let mut ingress = client(&served.pki, &served.port, "ingress");
            let mut carrier = client(&served.pki, &served.port, "carrier");
            let made = make(&mut ingress, NOW.plus(10 * MINUTE)).await;
            let opens = async |carrier: &mut _| {
                let opened = unwrap(carrier, &made).await?;
                assert_eq!(opened.result, Some(unwrapped_key::Result::Key(made.key.clone())));
                Ok::<_, tonic::Status>(())
            };
            opens(&mut carrier).await.unwrap();

            hsm.take_away();
            served.ready(false).await;
            let refused = unwrap(&mut carrier, &made).await.unwrap_err();
            assert_eq!(refused.code(), Code::Unavailable, "{refused}");
            assert!(refused.get_details_retry_info().is_some(), "{refused:?}");
            let refused = ingress.create_session_key(ask(NOW.plus(10 * MINUTE))).await.unwrap_err();
            assert_eq!(refused.code(), Code::Unavailable, "{refused}");
            // Its time comes while the token is away: it opens nothing.
            hsm.bring_back();
            served.ready(true).await;
            opens(&mut carrier).await.unwrap();

            hsm.take_away();
            served.world.clock.advance(90 * MINUTE);
            served.ready(false).await;
            hsm.bring_back();
            served.ready(true).await;
            let told = served.world.told.take();
            let deaths = told.iter().filter(|one| one.starts_with("bucket.destroyed")).count();
            assert_eq!(deaths, 1, "{told:?}");
            served.stop().await;
        });
    }

    fn a_token_is_made_once_and_a_lost_one_is_not_made_anew(hsm) {
        let folder = tempfile::tempdir().unwrap();
        let section = section(hsm).replace(&hsm.shim().display().to_string(), &softhsm::module().display().to_string());
        let loaded = load_text::<Config>(DEFAULT_TOML, &format!("{}{section}", required(folder.path()))).unwrap();
        let (officer, made) = (folder.path().join("officer"), folder.path().join("made"));
        write_secret(&officer, "officer-pin");
        let make = || make_once(&loaded.config.keystore, &officer, &made);
        assert!(make().unwrap());
        let settings = loaded.config.keystore.token().unwrap();
        drop(Pkcs11Buckets::open(Token::open(settings.clone()).unwrap(), "privacy").unwrap());
        assert!(!make().unwrap());
        // It died before it had written that it was done.
        fs::remove_file(&made).unwrap();
        assert!(make().unwrap());
        hsm.take_away();
        assert!(!make().unwrap());
        assert!(Token::open(settings).is_err());
    }

    /// The attacker has the wrap as any backup has it, the PIN and the living token.
    fn what_two_people_destroyed_opens_under_no_key_of_the_living_token(hsm) {
        prepare(hsm);
        run(async {
            let served = Served::start(hsm).await;
            let mut ingress = client(&served.pki, &served.port, "ingress");
            let made = make(&mut ingress, NOW.plus(10 * MINUTE)).await;
            let wrap = KeyWrap::try_from(made.wrap.unwrap()).unwrap();
            let channel = operator(&served.pki, &served.port);
            let (act, approvals) = approved(&[&wrap.bucket]);
            let request = DestroyKeysRequest { act, approvals };
            KeyAdminServiceClient::new(channel).destroy_keys(request).await.unwrap();
            // New keys in the place of the old one.
            let next = make(&mut ingress, NOW.plus(10 * MINUTE)).await;
            let next = KeyWrap::try_from(next.wrap.unwrap()).unwrap();
            served.stop().await;

            let token = Token::open(TokenSettings { sessions: 2, ..settings(hsm) }).unwrap();
            let buckets = Pkcs11Buckets::open(token, "privacy").unwrap();
            let living: Vec<_> = buckets.buckets().unwrap().into_iter().map(|one| one.bucket).collect();
            assert_eq!(living, [next.bucket.as_str()]);
            for (of, opens) in [(&next, true), (&wrap, false)] {
                for bucket in living.iter().chain([&wrap.bucket]) {
                    let binding = WrapBinding {
                        cell: "vn", tenant: "acme", class: "otp", bucket, key_id: &of.key_id,
                    };
                    let opened = buckets.unwrap_session_key(&binding, &of.wrapped).is_ok();
                    assert_eq!(opened, opens && *bucket == next.bucket, "{bucket}");
                }
            }
            let again = buckets.create_bucket(&wrap.bucket, i64::MAX, NOW.unix_millis());
            assert!(matches!(again, Err(KeystoreError::BucketDestroyed)));
        });
    }

    fn a_token_that_is_full_goes_on_with_what_it_has(hsm) {
        prepare(hsm);
        run(async {
            let served = Served::start(hsm).await;
            let mut ingress = client(&served.pki, &served.port, "ingress");
            let mut carrier = client(&served.pki, &served.port, "carrier");
            let made = make(&mut ingress, NOW.plus(10 * MINUTE)).await;
            // CKR_DEVICE_MEMORY
            hsm.order("closed", "31");
            make(&mut ingress, NOW.plus(10 * MINUTE)).await;
            unwrap(&mut carrier, &made).await.unwrap();
            let mut other = ask(NOW.plus(10 * MINUTE));
            other.class = sotto_proto::message::v1::MessageClass::Promotional.into();
            let refused = ingress.create_session_key(other).await.unwrap_err();
            assert_eq!(refused.code(), Code::Unavailable, "{refused}");
            served.world.clock.advance(90 * MINUTE);
            served.ready(false).await;
            // Told before the hour in which messages would be refused.
            served.ahead(false).await;
            hsm.rescind("closed");
            served.ready(true).await;
            served.ahead(true).await;
            served.stop().await;
        });
    }

    fn a_slow_token_makes_callers_wait_and_no_longer_than_that(hsm) {
        prepare(hsm);
        run(async {
            let served = Served::start(hsm).await;
            let mut ingress = client(&served.pki, &served.port, "ingress");
            let carrier = client(&served.pki, &served.port, "carrier");
            let made = make(&mut ingress, NOW.plus(10 * MINUTE)).await;
            hsm.order("slow", "500");
            let asked: Vec<_> = futures::future::join_all((0..6).map(async |_| unwrap(&mut carrier.clone(), &made).await)).await;
            // Two sessions, each in use for half a second; who waits for longer than 200 ms comes again.
            let opened = asked.iter().filter(|one| one.is_ok()).count();
            assert_eq!(opened, 2, "{asked:?}");
            for refused in asked.into_iter().filter_map(Result::err) {
                assert_eq!(refused.code(), Code::Unavailable, "{refused}");
            }
            hsm.rescind("slow");
            unwrap(&mut carrier.clone(), &made).await.unwrap();
            served.stop().await;
        });
    }

    fn what_is_wrong_at_a_start_is_told_with_field_and_fix(hsm) {
        prepare(hsm);
        let folder = tempfile::TempDir::new().unwrap();
        let base = required(folder.path());
        let load = |section: &str| load_text::<Config>(DEFAULT_TOML, &format!("{base}{section}"));
        let good = section(hsm);
        load(&good).unwrap();
        let pin_file = hsm.pin_file();
        let told = |section: &str| {
            let errors = load(section).unwrap_err();
            let paths: Vec<_> = errors.iter().map(|error| error.path.clone()).collect();
            (paths.join(","), errors.to_string())
        };
        let with = |key: &str, value: &str| {
            let key = format!("keystore.pkcs11.{key} = ");
            good.lines().filter(|line| !line.starts_with(&key)).chain([&*format!("{key}{value}")]).fold(String::new(), |text, line| format!("{text}{line}\n"))
        };
        for (key, value) in [
            ("module", "'/no/such/module.so'"),
            ("token", "''"),
            ("pin_file", "'/no/such/file'"),
            ("sessions", "0"),
            ("wait", "'1 ms'"),
            ("sync_folder", "'/no/such/folder'"),
        ] {
            assert_eq!(told(&with(key, value)).0, format!("keystore.pkcs11.{key}"));
        }
        fs::set_permissions(&pin_file, fs::Permissions::from_mode(0o640)).unwrap();
        let (path, text) = told(&good);
        assert_eq!(path, "keystore.pkcs11.pin_file");
        assert!(text.contains("640") && text.contains("chmod 600"), "{text}");
        fs::set_permissions(&pin_file, fs::Permissions::from_mode(0o600)).unwrap();
        if rustix::process::geteuid().is_root() {
            std::os::unix::fs::chown(&pin_file, Some(1234), None).unwrap();
            assert!(told(&good).1.contains("belongs to user 1234"));
            std::os::unix::fs::chown(&pin_file, Some(0), None).unwrap();
        }

        // What only the token knows.
        let starts = async |section: &str| {
            let (world, pki) = (World::new(), Pki::new());
            let config = config(&world, &pki, section);
            let context = Context::detached(world.clock.clone(), "run-1");
            let served = serve(config, context, world.steady.clone(), world.told.clone(), world.stored.clone());
            let error = tokio::time::timeout(Duration::from_secs(20), served).await.unwrap().unwrap_err();
            assert!(matches!(error, PrivacyError::Open(_)), "{error:?}");
            sotto_runtime::telemetry::chain(&error)
        };
        run(async {
            let missing = starts(&with("token", "'other'")).await;
            assert!(missing.contains("\"other\"") && missing.contains("keystore.pkcs11.token"), "{missing}");
            fs::write(&pin_file, "wrong").unwrap();
            let wrong = starts(&good).await;
            assert!(wrong.contains("keystore.pkcs11.pin_file"), "{wrong}");
        });
    }
}
