//! The suite on the encrypted files.

use std::sync::Arc;

use sotto_keystore::{BucketKeystore, Keystore, KeystoreError, SoftBuckets, SoftKeystore};

use crate::{
    Home,
    suite::{self, Place, suite},
};

impl Place for Home {
    fn create_keys(&self) -> Arc<dyn Keystore> {
        Arc::new(SoftKeystore::create(&self.at("identity.sks"), self.secret(), "identity").unwrap())
    }

    fn open_keys(&self) -> Arc<dyn Keystore> {
        Arc::new(SoftKeystore::open(&self.at("identity.sks"), self.secret(), "identity").unwrap())
    }

    fn create_buckets(&self) -> Arc<dyn BucketKeystore> {
        Arc::new(SoftBuckets::create(&self.at("buckets.sks"), self.secret(), "privacy").unwrap())
    }

    fn open_buckets(&self) -> Result<Arc<dyn BucketKeystore>, KeystoreError> {
        Ok(Arc::new(SoftBuckets::open(&self.at("buckets.sks"), self.secret(), "privacy")?))
    }

    fn restart(&self) {}
}

macro_rules! each {
    ($($name:ident)*) => {
        $(#[test] fn $name() { suite::$name(&Home::new()); })*
    };
}
suite!(each);
