//! The suite on a token of SoftHSM2.

use std::sync::{Arc, Mutex};

use sotto_keystore::{
    BucketKeystore, Keystore, KeystoreError, MacHome, Pkcs11Buckets, Pkcs11Keystore, Token,
};
use sotto_testkit::softhsm_tests;

use crate::{
    pkcs11::{open_token, settings},
    suite::{self, Place, suite},
};

struct Hsm {
    macs: MacHome,
    settings: sotto_keystore::TokenSettings,
    /// A module is in use once in a process, so what stands for another process shares it.
    token: Mutex<Option<Token>>,
}

impl Hsm {
    fn token(&self) -> Token {
        let mut token = self.token.lock().unwrap();
        token.get_or_insert_with(|| Token::open(self.settings.clone()).unwrap()).clone()
    }
}

impl Place for Hsm {
    fn create_keys(&self) -> Arc<dyn Keystore> {
        Arc::new(Pkcs11Keystore::create(self.token(), "identity", self.macs).unwrap())
    }

    fn open_keys(&self) -> Arc<dyn Keystore> {
        Arc::new(Pkcs11Keystore::open(self.token(), "identity", self.macs).unwrap())
    }

    fn create_buckets(&self) -> Arc<dyn BucketKeystore> {
        Arc::new(Pkcs11Buckets::create(self.token(), "privacy").unwrap())
    }

    fn open_buckets(&self) -> Result<Arc<dyn BucketKeystore>, KeystoreError> {
        Ok(Arc::new(Pkcs11Buckets::open(self.token(), "privacy")?))
    }

    fn restart(&self) {
        *self.token.lock().unwrap() = None;
    }
}

macro_rules! each {
    ($($name:ident)*) => {
        softhsm_tests! {
            $(fn $name(hsm) {
                hsm.make_token("sotto");
                let settings = settings(hsm, "sotto");
                suite::$name(&Hsm { macs: MacHome::Token, settings, token: Mutex::default() });
            })*
        }
    };
}
suite!(each);

softhsm_tests! {
    fn keys_of_tags_that_work_here_keep_the_same_promises(hsm) {
        for test in [
            suite::keys_survive_a_restart,
            suite::rings_do_not_mix_and_kinds_do_not_change,
            suite::two_processes_lose_no_key_to_one_another,
        ] {
            let label = format!("token-{:p}", test as *const ());
            let label = label.get(..24).unwrap_or(&label);
            hsm.make_token(label);
            let settings = settings(hsm, label);
            test(&Hsm { macs: MacHome::Process, settings, token: Mutex::default() });
        }
    }

    fn one_token_holds_several_slots(hsm) {
        hsm.make_token("sotto");
        let token = open_token(hsm, "sotto");
        let keys = Pkcs11Keystore::create(token.clone(), "identity", MacHome::Token).unwrap();
        let again = Pkcs11Keystore::create(token.clone(), "identity", MacHome::Token);
        assert!(matches!(again, Err(KeystoreError::Exists { .. })));
        let other = Pkcs11Keystore::create(token, "audit", MacHome::Token).unwrap();
        keys.generate("token", sotto_keystore::KeyKind::Ed25519, 1).unwrap();
        other.reload().unwrap();
        assert_eq!(other.keys("token").unwrap(), []);
    }
}
