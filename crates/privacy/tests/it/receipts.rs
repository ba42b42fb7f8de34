//! What is told of a destruction can be checked by somebody who trusts nobody here but one public key.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use sotto_core::{
    Timestamp,
    deletion::{Deletion, Seal},
};
use sotto_crypto::sign::PublicKey;
use sotto_privacy::app::Keys;

use crate::world::{World, tenant};

/// The receipts among what was told: object by object.
fn objects(told: &[String], action: &str) -> Vec<String> {
    let of_action = told.iter().filter_map(|one| one.strip_prefix(action)?.strip_suffix(" ok"));
    of_action.map(|object| object.trim().to_owned()).collect()
}

fn verifies(key: PublicKey, (deletion, seal): &(Deletion, Option<Seal>)) -> bool {
    let seal = seal.as_ref().unwrap();
    assert_eq!(seal.key_id, key.thumbprint()[..8]);
    key.verify(deletion.to_string().as_bytes(), &URL_SAFE_NO_PAD.decode(&seal.signature).unwrap()).is_ok()
}

async fn key(keys: &Keys) -> PublicKey {
    PublicKey::from_jwk_x(&keys.inventory("operator", None).await.unwrap().receipt_key).unwrap()
}

#[tokio::test]
async fn a_receipt_verifies_with_the_key_that_was_told_and_only_as_it_was_told() {
    let world = World::new();
    let keys = world.open();
    keys.tell_again().await.unwrap();
    let announced = objects(&world.told.take(), "receipt_key.current");
    let key = key(&keys).await;
    assert_eq!(announced, [key.jwk_x()]);

    let made = world.otp_key(&keys).await;
    keys.make("ingress", tenant("acme"), sotto_core::MessageClass::Promotional, made.dies_at).await.unwrap();
    world.clock.set(made.dies_at);
    keys.sweep().await.unwrap();
    let told = objects(&world.told.take(), "bucket.destroyed");
    let read = |object: &str, at: Timestamp| {
        Deletion::of_act("vn".parse().unwrap(), at.unix_seconds(), "", object).unwrap()
    };
    let [object] = &told[..] else { panic!("{told:?}") };
    let receipt = read(object, made.dies_at);
    assert_eq!((receipt.0.bucket.as_str(), receipt.0.wraps_at_most), ("otp/2026-11-24T05", 65_536));
    assert!(verifies(key, &receipt));
    // Another time, cell, bucket, number or key: it is not what was signed.
    assert!(!verifies(key, &read(object, made.dies_at.plus(std::time::Duration::from_secs(1)))));
    for (was, is) in [("T05,", "T06,"), ("wraps=65536", "wraps=1"), ("generation=", "generation=1")] {
        assert!(!verifies(key, &read(&object.replace(was, is), made.dies_at)), "{was}");
    }
    let (mut elsewhere, seal) = receipt.clone();
    elsewhere.cell = "sg".parse().unwrap();
    assert!(!verifies(key, &(elsewhere, seal)));

    // After a restart the key is the same, and what is told again is told in the same words.
    drop(keys);
    let keys = world.open();
    keys.tell_again().await.unwrap();
    let again = world.told.take();
    assert_eq!(objects(&again, "bucket.destroyed"), told);
    assert_eq!(objects(&again, "receipt_key.current"), announced);
}
