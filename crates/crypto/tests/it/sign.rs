use sotto_crypto::sign::{PublicKey, SignError, SigningKey};

use crate::{array, flips};

/// RFC 8032 §7.1: seed, public key, message, signature.
const VECTORS: [[&str; 4]; 3] = [
    [
        "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60",
        "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a",
        "",
        "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555fb8821590a33bacc61e39701cf9b46bd25bf5f0595bbe24655141438e7a100b",
    ],
    [
        "4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb",
        "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c",
        "72",
        "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00",
    ],
    [
        "c5aa8df43f9f837bedb7442f31dcb7b166d38535076f094b85ce3a2e0b4458f7",
        "fc51cd8e6218a1a38da47ed00230f0580816ed13ba3303ac5deb911548908025",
        "af82",
        "6291d657deec24024827e69c3abe01a30ce548a284743a445e3680d7db5ac3ac18ff9b538d16f290ae67f760984dc6594a7c15e9716ed28dc027beceea1ec40a",
    ],
];

#[test]
fn ed25519_agrees_with_rfc_8032() {
    for [seed, public, message, signature] in VECTORS {
        let key = SigningKey::from_seed(&array(seed)).unwrap();
        let message = hex::decode(message).unwrap();
        assert_eq!(hex::encode(key.public().as_bytes()), public);
        let made = key.sign(&message).unwrap();
        assert_eq!(hex::encode(made), signature);
        key.public().verify(&message, &made).unwrap();
        for flipped in flips(&made) {
            assert_eq!(key.public().verify(&message, &flipped).unwrap_err(), SignError::Signature);
        }
        assert!(key.public().verify(b"other", &made).is_err());
    }
}

#[test]
fn the_jwk_parts_agree_with_rfc_8037() {
    let public = PublicKey::from_bytes(array(VECTORS[0][1]));
    assert_eq!(public.jwk_x(), "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo");
    assert_eq!(public.thumbprint(), "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k");
}

#[test]
fn pkcs8_agrees_with_rfc_8410() {
    // §10.3's private key and the public key that belongs to it.
    let der: [u8; 48] = array(
        "302e020100300506032b657004220420d4ee72dbf913584ad5b6d8f1f769f8ad3afe7c28cbf1d4fbe097a88f44755842",
    );
    let key = SigningKey::from_pkcs8(&der).unwrap();
    assert_eq!(
        hex::encode(key.public().as_bytes()),
        "19bf44096984cdfe8541bac167dc3b96c85086aa30b6b6cb0c5c38ad703166e1"
    );
    assert_eq!(key.to_pkcs8().as_slice(), der);
    assert_eq!(SigningKey::from_pkcs8(&der[..47]).unwrap_err(), SignError::Key);
    assert_eq!(SigningKey::from_pkcs8(&[&der[..], &[0]].concat()).unwrap_err(), SignError::Key);
}

#[test]
fn a_fresh_key_signs_and_prints_only_its_public_half() {
    let key = SigningKey::generate().unwrap();
    key.public().verify(b"text", &key.sign(b"text").unwrap()).unwrap();
    assert_eq!(
        format!("{key:?}"),
        format!("SigningKey {{ public: PublicKey({}), .. }}", key.public().jwk_x())
    );
}
