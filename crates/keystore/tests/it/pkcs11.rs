//! What only a token has: keys that cannot be read, faults, crashes between two steps.

use std::{fs, os::unix::fs::PermissionsExt as _, time::Duration};

use sotto_crypto::AeadKey;
use sotto_keystore::{
    BucketKeystore as _, Fate, KeyKind, KeyRole, Keystore as _, KeystoreError, MacHome, Pkcs11Buckets,
    Pkcs11Keystore, Remedy, Token, TokenSettings,
};
use sotto_testkit::{SoftHsm, softhsm_tests};

use crate::suite::{DIES, HOUR, NOW, binding};

pub(crate) fn settings(hsm: &SoftHsm, label: &str) -> TokenSettings {
    TokenSettings {
        module: hsm.shim(),
        label: label.to_owned(),
        pin_file: hsm.pin_file(),
        sessions: 4,
        wait: Duration::from_secs(5),
        sync_folder: None,
    }
}

pub(crate) fn open_token(hsm: &SoftHsm, label: &str) -> Token {
    Token::open(settings(hsm, label)).unwrap()
}

fn refused(settings: TokenSettings) -> KeystoreError {
    let error = Token::open(settings).unwrap_err();
    assert_eq!(error.remedy(), Remedy::SetRight, "{error}");
    error
}

softhsm_tests! {
    fn what_is_wrong_with_the_settings_is_told(hsm) {
        hsm.make_token("sotto");
        let good = settings(hsm, "sotto");

        let none = TokenSettings { module: "/nowhere/module.so".into(), ..good.clone() };
        let told = refused(none).to_string();
        assert!(told.contains("/nowhere/module.so") && told.contains("keystore.pkcs11.module"), "{told}");
        // A library that is no module.
        let other = TokenSettings { module: "/lib/x86_64-linux-gnu/libm.so.6".into(), ..good.clone() };
        assert!(matches!(Token::open(other), Err(KeystoreError::Module { .. })));

        let missing = refused(TokenSettings { label: "other".to_owned(), ..good.clone() });
        assert!(matches!(missing, KeystoreError::Token { found: 0, .. }));
        assert!(missing.to_string().contains("keystore.pkcs11.token"), "{missing}");
        hsm.make_token("twin");
        hsm.make_token("twin");
        let twins = refused(TokenSettings { label: "twin".to_owned(), ..good.clone() });
        assert!(matches!(twins, KeystoreError::Token { found: 2, .. }), "{twins}");

        let pin_file = hsm.pin_file();
        fs::write(&pin_file, "not-the-pin\n").unwrap();
        let wrong = refused(good.clone());
        assert!(matches!(wrong, KeystoreError::Pin { .. }), "{wrong:?}");
        assert!(wrong.to_string().contains("keystore.pkcs11.pin_file"), "{wrong}");
        assert!(!format!("{wrong:?}").contains("not-the-pin"));
        fs::write(&pin_file, "\n").unwrap();
        assert!(matches!(refused(good.clone()), KeystoreError::Format { .. }));
        fs::set_permissions(&pin_file, fs::Permissions::from_mode(0o640)).unwrap();
        assert!(matches!(refused(good.clone()), KeystoreError::Mode { mode: 0o640, .. }));
        fs::set_permissions(&pin_file, fs::Permissions::from_mode(0o600)).unwrap();

        fs::write(&pin_file, sotto_testkit::softhsm::PIN).unwrap();
        let token = Token::open(good.clone()).unwrap();
        assert!(matches!(Token::open(good.clone()), Err(KeystoreError::ModuleInUse { .. })));
        let unmade = Pkcs11Buckets::open(token, "privacy").unwrap_err();
        assert!(matches!(unmade, KeystoreError::Slot { .. }), "{unmade}");
        Token::open(good).unwrap();
    }

    fn a_token_that_lacks_a_mechanism_is_refused_by_its_name(hsm) {
        hsm.make_token("sotto");
        // SoftHSM 2.6.1 overlooks the first of such a list.
        hsm.limit_mechanisms("-CKM_DES3_ECB,CKM_AES_GCM");
        let error = refused(settings(hsm, "sotto"));
        assert!(error.to_string().contains("CKM_AES_GCM"), "{error}");
    }

    fn no_key_can_be_read(hsm) {
        hsm.make_token("sotto");
        let synced = TokenSettings { sync_folder: Some(hsm.tokens()), ..settings(hsm, "sotto") };
        let token = Token::open(synced).unwrap();
        let keys = Pkcs11Keystore::create(token.clone(), "identity", MacHome::Token).unwrap();
        for (ring, kind) in [("token", KeyKind::Ed25519), ("ids", KeyKind::HmacSha256), ("intake", KeyKind::X25519)] {
            keys.generate(ring, kind, 1).unwrap();
        }
        let buckets = Pkcs11Buckets::create(token, "privacy").unwrap();
        buckets.create_bucket(HOUR, DIES, NOW).unwrap();
        buckets.create_deriving_bucket("index/2026-11-24", DIES, NOW).unwrap();
        // A key has one use: that of one kind of bucket does not do the other's work.
        let session = AeadKey::generate().unwrap();
        buckets.wrap_session_key(&binding("index/2026-11-24"), &session).unwrap_err();
        buckets.derive_key(HOUR, "sotto.test.v1", &[]).unwrap_err();
        drop((keys, buckets));
        raw::nothing_is_readable(hsm);
    }

    fn a_token_that_was_away_is_used_again_without_a_restart(hsm) {
        hsm.make_token("sotto");
        let token = open_token(hsm, "sotto");
        let buckets = Pkcs11Buckets::create(token, "privacy").unwrap();
        buckets.create_bucket(HOUR, DIES, NOW).unwrap();
        let session = AeadKey::generate().unwrap();
        let wrapped = buckets.wrap_session_key(&binding(HOUR), &session).unwrap();

        hsm.take_away();
        for away in [
            buckets.unwrap_session_key(&binding(HOUR), &wrapped).map(|_| ()),
            buckets.wrap_session_key(&binding(HOUR), &session).map(|_| ()),
            buckets.create_bucket("otp/other", DIES, NOW).map(|_| ()),
            buckets.destroy_bucket(HOUR, DIES).map(|_| ()),
            buckets.check(),
        ] {
            let away = away.unwrap_err();
            assert_eq!(away.remedy(), Remedy::Wait, "{away:?}");
        }
        // What it was told of while it was away is not forgotten, and nothing is taken for gone.
        assert_eq!(buckets.buckets().unwrap().len(), 1);

        hsm.bring_back();
        buckets.check().unwrap();
        assert_eq!(buckets.create_bucket("otp/other", DIES, NOW).unwrap().bucket, "otp/other");
        // Its destruction was asked for: it is not used again before that is done.
        let dying = buckets.unwrap_session_key(&binding(HOUR), &wrapped);
        assert!(matches!(dying, Err(KeystoreError::BucketDestroyed)));
        buckets.destroy_bucket(HOUR, DIES).unwrap();
        assert_eq!(buckets.buckets().unwrap().len(), 1);
    }

    fn a_session_that_is_lost_is_opened_again(hsm) {
        hsm.make_token("sotto");
        let token = open_token(hsm, "sotto");
        let buckets = Pkcs11Buckets::create(token.clone(), "privacy").unwrap();
        let keys = Pkcs11Keystore::create(token, "identity", MacHome::Token).unwrap();
        let signing = keys.generate("token", KeyKind::Ed25519, 1).unwrap();
        buckets.create_bucket(HOUR, DIES, NOW).unwrap();
        let session = AeadKey::generate().unwrap();
        let wrapped = buckets.wrap_session_key(&binding(HOUR), &session).unwrap();
        // CKR_SESSION_HANDLE_INVALID, CKR_SESSION_CLOSED, CKR_USER_NOT_LOGGED_IN, CKR_DEVICE_REMOVED, CKR_DEVICE_ERROR,
        // CKR_TOKEN_NOT_PRESENT, CKR_KEY_HANDLE_INVALID, CKR_CRYPTOKI_NOT_INITIALIZED
        for code in ["b3", "b0", "101", "32", "30", "e0", "60", "190"] {
            hsm.order("fail", code);
            let opened = buckets.unwrap_session_key(&binding(HOUR), &wrapped).unwrap();
            assert_eq!(opened.expose(), session.expose(), "{code}");
            hsm.order("fail", code);
            let signature = keys.sign(&signing.id, b"text").unwrap();
            signing.public.unwrap().verify(b"text", &signature).unwrap();
        }
    }

    fn a_token_that_is_full_or_read_only_still_opens(hsm) {
        hsm.make_token("sotto");
        let token = open_token(hsm, "sotto");
        let buckets = Pkcs11Buckets::create(token.clone(), "privacy").unwrap();
        let keys = Pkcs11Keystore::create(token, "identity", MacHome::Token).unwrap();
        let signing = keys.generate("token", KeyKind::Ed25519, 1).unwrap();
        let session = AeadKey::generate().unwrap();
        // CKR_DEVICE_MEMORY, CKR_TOKEN_WRITE_PROTECTED
        for (code, bucket) in [("31", "otp/full"), ("e2", "otp/read-only")] {
            buckets.create_bucket(bucket, DIES, NOW).unwrap();
            let wrapped = buckets.wrap_session_key(&binding(bucket), &session).unwrap();
            hsm.order("closed", code);
            let made = buckets.create_bucket("otp/other", DIES, NOW).unwrap_err();
            assert!(matches!(made, KeystoreError::Device { operation: "make a key", .. }), "{made:?}");
            assert_eq!(keys.generate("token", KeyKind::Ed25519, 2).unwrap_err().remedy(), Remedy::Wait);
            buckets.unwrap_session_key(&binding(bucket), &wrapped).unwrap();
            keys.sign(&signing.id, b"text").unwrap();
            // What cannot be destroyed yet is not used any more, and is tried again.
            assert_eq!(buckets.destroy_bucket(bucket, DIES).unwrap_err().remedy(), Remedy::Wait);
            let dying = buckets.unwrap_session_key(&binding(bucket), &wrapped);
            assert!(matches!(dying, Err(KeystoreError::BucketDestroyed)));
            assert_eq!(buckets.buckets().unwrap().len(), 1);
            hsm.rescind("closed");
            buckets.destroy_bucket(bucket, DIES).unwrap();
            assert_eq!(buckets.buckets().unwrap(), []);
        }
        assert_eq!(keys.keys("token").unwrap().len(), 1);
    }

    fn a_slow_token_keeps_nobody_longer_than_they_wait(hsm) {
        hsm.make_token("sotto");
        let short = TokenSettings { sessions: 2, wait: Duration::from_millis(100), ..settings(hsm, "sotto") };
        let buckets = Pkcs11Buckets::create(Token::open(short).unwrap(), "privacy").unwrap();
        buckets.create_bucket(HOUR, DIES, NOW).unwrap();
        let session = AeadKey::generate().unwrap();
        let wrapped = buckets.wrap_session_key(&binding(HOUR), &session).unwrap();
        hsm.order("slow", "500");
        let asked = 8;
        let outcomes: Vec<_> = std::thread::scope(|scope| {
            let ask = || scope.spawn(|| buckets.unwrap_session_key(&binding(HOUR), &wrapped));
            let asking: Vec<_> = (0..asked).map(|_| ask()).collect();
            asking.into_iter().map(|one| one.join().unwrap()).collect()
        });
        let busy = outcomes.iter().filter(|it| matches!(it, Err(KeystoreError::Busy { .. }))).count();
        let opened = outcomes.iter().filter(|it| it.is_ok()).count();
        assert_eq!((opened, busy), (2, asked - 2), "two sessions, and nobody waits for a third turn");
        hsm.rescind("slow");
        buckets.unwrap_session_key(&binding(HOUR), &wrapped).unwrap();
    }

    fn more_tombstones_than_a_token_keeps_become_one_fact(hsm) {
        hsm.make_token("sotto");
        let quick = settings(hsm, "sotto");
        let buckets = Pkcs11Buckets::create(Token::open(quick.clone()).unwrap(), "privacy").unwrap();
        let name = |number: i64| format!("otp/{number:04}");
        for number in 0..258 {
            buckets.create_bucket(&name(number), DIES + number, NOW).unwrap();
            buckets.destroy_bucket(&name(number), DIES + number).unwrap();
        }
        let generation = buckets.generation();
        drop(buckets);
        let buckets = Pkcs11Buckets::open(Token::open(quick).unwrap(), "privacy").unwrap();
        assert!(buckets.destroyed().unwrap().len() <= 256);
        assert_eq!(buckets.generation(), generation);
        // Forgotten by name, and never made again all the same.
        for number in [0, 1, 257] {
            let again = buckets.create_bucket(&name(number), DIES + number, NOW);
            assert!(matches!(again, Err(KeystoreError::BucketDestroyed)), "{number}");
        }
        buckets.create_bucket("otp/later", DIES + 1_000, NOW).unwrap();
    }

    fn the_tombstone_of_a_key_that_was_destroyed_early_stays_until_its_time(hsm) {
        hsm.make_token("sotto");
        let buckets = Pkcs11Buckets::create(open_token(hsm, "sotto"), "privacy").unwrap();
        // As after an operator's word: all of one month's keys, and then as many hours as a token keeps tombstones of.
        let name = |number: i64| format!("otp/{number:04}");
        buckets.create_bucket("early", DIES + 100_000, NOW).unwrap();
        buckets.destroy_bucket("early", NOW).unwrap();
        for number in 0..258 {
            buckets.create_bucket(&name(number), DIES + number, NOW).unwrap();
            buckets.destroy_bucket(&name(number), DIES + number).unwrap();
        }
        assert_eq!(buckets.fate("early"), Fate::Destroyed);
        assert_eq!(buckets.fate(&name(0)), Fate::Unknown, "forgotten after its time");
        // What is forgotten ends no bucket that dies later than it did.
        buckets.create_bucket("later", DIES + 50_000, NOW).unwrap();
        assert_eq!(buckets.fate("later"), Fate::Living);
    }

    fn killed_at_any_step_a_bucket_opens_right(hsm) {
        if let Some(label) = crash::victim() {
            return crash::a_bucket(open_token(hsm, &label));
        }
        for step in 0.. {
            let label = format!("sotto-{step}");
            hsm.make_token(&label);
            let survived = crash::child(hsm, "pkcs11::killed_at_any_step_a_bucket_opens_right", &label, step);
            let buckets = Pkcs11Buckets::open(open_token(hsm, &label), "privacy");
            let buckets = match buckets {
                // It died before the slot was made: making it is possible still.
                Err(KeystoreError::Slot { .. }) => Pkcs11Buckets::create(open_token(hsm, &label), "privacy").unwrap(),
                opened => opened.unwrap(),
            };
            let (living, gone) = (buckets.buckets().unwrap(), buckets.destroyed().unwrap());
            assert!(living.len() + gone.len() <= 1, "step {step}: {living:?} {gone:?}");
            if living.is_empty() && gone.is_empty() {
                buckets.create_bucket(HOUR, DIES, NOW).unwrap();
            }
            if gone.is_empty() {
                let session = AeadKey::generate().unwrap();
                let wrapped = buckets.wrap_session_key(&binding(HOUR), &session).unwrap();
                buckets.unwrap_session_key(&binding(HOUR), &wrapped).unwrap();
                buckets.destroy_bucket(HOUR, DIES).unwrap();
            }
            assert!(matches!(buckets.create_bucket(HOUR, DIES, NOW), Err(KeystoreError::BucketDestroyed)));
            drop(buckets);
            assert_eq!(raw::keys_in(hsm, &label), 0, "step {step}: the key is gone for good");
            if survived {
                assert!(step > 8, "only {step} steps");
                return;
            }
        }
    }

    fn killed_at_any_step_a_ring_has_one_current_key(hsm) {
        if let Some(label) = crash::victim() {
            return crash::rotations(open_token(hsm, &label));
        }
        for step in 0.. {
            let label = format!("sotto-{step}");
            hsm.make_token(&label);
            let survived = crash::child(hsm, "pkcs11::killed_at_any_step_a_ring_has_one_current_key", &label, step);
            let token = open_token(hsm, &label);
            let keys = match Pkcs11Keystore::open(token.clone(), "ingress", MacHome::Token) {
                Err(KeystoreError::Slot { .. }) => Pkcs11Keystore::create(token, "ingress", MacHome::Token).unwrap(),
                opened => opened.unwrap(),
            };
            for (ring, kind) in [("token", KeyKind::Ed25519), ("intake", KeyKind::X25519), ("ids", KeyKind::HmacSha256)] {
                if keys.keys(ring).unwrap().is_empty() {
                    keys.generate(ring, kind, 1).unwrap();
                }
                let roles: Vec<_> = keys.keys(ring).unwrap().iter().map(|key| key.role).collect();
                let current = roles.iter().filter(|role| **role == KeyRole::Current).count();
                assert_eq!(current, 1, "step {step}, {ring}: {roles:?}");
                // And a rotation goes on from there.
                if !roles.contains(&KeyRole::Next) {
                    keys.generate(ring, kind, 9).unwrap();
                }
                let promoted = keys.promote(ring).unwrap();
                match kind {
                    KeyKind::Ed25519 => drop(keys.sign(&promoted.id, b"text").unwrap()),
                    KeyKind::HmacSha256 => drop(keys.mac(&promoted.id, "sotto.test.v1", &[]).unwrap()),
                    KeyKind::X25519 => assert!(promoted.sealing.is_some()),
                }
            }
            if survived {
                assert!(step > 20, "only {step} steps");
                return;
            }
        }
    }
}

/// Processes that the shim kills at a change of the token: the same test once more, with a token's label in its environment.
mod crash {
    use super::*;

    const VICTIM: &str = "SOTTO_TEST_VICTIM";

    /// The token of this process, if it is to be killed.
    pub(super) fn victim() -> Option<String> {
        std::env::var_os(VICTIM).map(|label| label.into_string().unwrap())
    }

    /// Runs the test's victim, which dies at a step; whether it came to its end instead.
    pub(super) fn child(hsm: &SoftHsm, test: &str, label: &str, step: usize) -> bool {
        hsm.order("die", &step.to_string());
        let mut again = std::process::Command::new(std::env::current_exe().unwrap());
        let output = again.args([test, "--exact", "--nocapture"]).env(VICTIM, label).output().unwrap();
        hsm.rescind("die");
        let told = String::from_utf8_lossy(&output.stdout);
        let killed = std::os::unix::process::ExitStatusExt::signal(&output.status) == Some(9);
        assert!(killed || told.contains("1 passed"), "{told}{}", String::from_utf8_lossy(&output.stderr));
        !killed
    }

    pub(super) fn a_bucket(token: Token) {
        let buckets = Pkcs11Buckets::create(token, "privacy").unwrap();
        buckets.create_bucket(HOUR, DIES, NOW).unwrap();
        buckets.wrap_session_key(&binding(HOUR), &AeadKey::generate().unwrap()).unwrap();
        buckets.destroy_bucket(HOUR, DIES).unwrap();
    }

    pub(super) fn rotations(token: Token) {
        let keys = Pkcs11Keystore::create(token, "ingress", MacHome::Token).unwrap();
        for (ring, kind) in [("token", KeyKind::Ed25519), ("intake", KeyKind::X25519)] {
            let first = keys.generate(ring, kind, 1).unwrap();
            keys.generate(ring, kind, 2).unwrap();
            keys.promote(ring).unwrap();
            keys.generate(ring, kind, 3).unwrap();
            keys.promote(ring).unwrap();
            keys.retire(&first.id).unwrap();
        }
    }
}

/// The token without the keystore's code.
mod raw {
    use cryptoki::{
        context::{CInitializeArgs, CInitializeFlags, Pkcs11},
        error::{Error, RvError},
        object::{Attribute, AttributeType, ObjectClass},
        session::{Session, UserType},
        types::AuthPin,
    };

    use super::SoftHsm;

    fn within<T>(hsm: &SoftHsm, label: &str, act: impl FnOnce(&Session) -> T) -> T {
        let module = Pkcs11::new(hsm.shim()).unwrap();
        module.initialize(CInitializeArgs::new(CInitializeFlags::OS_LOCKING_OK)).unwrap();
        let slot = module
            .get_slots_with_token()
            .unwrap()
            .into_iter()
            .find(|slot| module.get_token_info(*slot).unwrap().label() == label)
            .unwrap();
        let session = module.open_rw_session(slot).unwrap();
        session.login(UserType::User, Some(&AuthPin::from(sotto_testkit::softhsm::PIN.to_owned()))).unwrap();
        let done = act(&session);
        drop(session);
        module.finalize().unwrap();
        done
    }

    pub(super) fn keys_in(hsm: &SoftHsm, label: &str) -> usize {
        within(hsm, label, |session| {
            let secret = Attribute::Class(ObjectClass::SECRET_KEY);
            session.find_objects(&[Attribute::Token(true), secret]).unwrap().len()
        })
    }

    pub(super) fn nothing_is_readable(hsm: &SoftHsm) {
        within(hsm, "sotto", |session| {
            let mut seen = 0;
            for class in [ObjectClass::SECRET_KEY, ObjectClass::PRIVATE_KEY] {
                for key in session.find_objects(&[Attribute::Token(true), Attribute::Class(class)]).unwrap() {
                    seen += 1;
                    let facts = [
                        AttributeType::Sensitive,
                        AttributeType::AlwaysSensitive,
                        AttributeType::Extractable,
                        AttributeType::NeverExtractable,
                        AttributeType::Modifiable,
                    ];
                    let facts = session.get_attributes(key, &facts).unwrap();
                    assert!(facts.contains(&Attribute::Sensitive(true)), "{facts:?}");
                    assert!(facts.contains(&Attribute::AlwaysSensitive(true)), "{facts:?}");
                    assert!(facts.contains(&Attribute::Extractable(false)), "{facts:?}");
                    assert!(facts.contains(&Attribute::NeverExtractable(true)), "{facts:?}");
                    assert!(facts.contains(&Attribute::Modifiable(false)), "{facts:?}");
                    assert_eq!(session.get_attributes(key, &[AttributeType::Value]).unwrap(), []);
                    let soften = session.update_attributes(key, &[Attribute::Extractable(true)]);
                    assert!(matches!(
                        soften,
                        Err(Error::Pkcs11(RvError::ActionProhibited | RvError::AttributeReadOnly, _))
                    ));
                    let copy = session
                        .copy_object(key, &[Attribute::Sensitive(false), Attribute::Extractable(true)]);
                    assert!(copy.is_err());
                }
            }
            // A signing key, a tag key, the key that seals the intake key, a bucket's key, that of one that derives.
            assert_eq!(seen, 5);
        });
    }
}
