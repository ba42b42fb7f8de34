use proptest::prelude::*;
use serde_json::{Value, json};
use sotto_crypto::sign::SigningKey;

use super::*;

const NOW: i64 = 1_795_493_815;

fn expected() -> Expected {
    Expected { issuer: "https://id.example".to_owned(), audience: "sotto".to_owned() }
}

fn header() -> Value {
    json!({"alg": "EdDSA", "typ": "at+jwt", "kid": "k1"})
}

fn claims() -> Value {
    json!({
        "iss": "https://id.example", "aud": "sotto", "sub": "client-1", "client_id": "client-1", "jti": "1",
        "iat": NOW, "exp": NOW + 600, "scope": "message:send message:read", "tenant": "acme",
        "senders": ["ACME", "84981234567"],
    })
}

fn token(key: &SigningKey, header: &Value, claims: &Value) -> String {
    let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let signed = format!("{}.{}", part(header), part(claims));
    let signature = key.sign(signed.as_bytes()).unwrap();
    format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature))
}

fn key() -> SigningKey {
    SigningKey::from_seed(&[7; 32]).unwrap()
}

fn judge(header: &Value, claims: &Value) -> Result<Caller, TokenError> {
    let key = key();
    let text = token(&key, header, claims);
    Unverified::parse(&text)?.verify(&key.public(), &expected(), Timestamp::from_unix_seconds(NOW))
}

fn with(mut object: Value, name: &str, value: Value) -> Value {
    object[name] = value;
    object
}

fn without(mut object: Value, name: &str) -> Value {
    object.as_object_mut().unwrap().remove(name);
    object
}

#[test]
fn a_token_taken_apart_prints_nothing() {
    let text = token(&key(), &header(), &claims());
    assert_eq!(format!("{:?}", Unverified::parse(&text).unwrap()), "Unverified { .. }");
}

#[test]
fn a_good_token_says_who_calls() {
    let caller = judge(&header(), &claims()).unwrap();
    assert_eq!((caller.tenant.as_str(), caller.client.as_str()), ("acme", "client-1"));
    assert!(caller.may("message:send") && caller.may("message:read") && !caller.may("message"));
    assert!(caller.owns(&SenderId::parse("+84981234567").unwrap()));
    assert!(!caller.owns(&SenderId::parse("OTHER").unwrap()));
    judge(&header(), &with(claims(), "aud", json!(["x", "sotto"]))).unwrap();
    judge(&with(header(), "typ", json!("application/AT+JWT")), &claims()).unwrap();
}

#[test]
fn headers_that_choose_anything_are_refused() {
    for (bad, error) in [
        (with(header(), "alg", json!("none")), TokenError::Algorithm),
        (with(header(), "alg", json!("HS256")), TokenError::Algorithm),
        (with(header(), "alg", json!("eddsa")), TokenError::Algorithm),
        (with(header(), "typ", json!("JWT")), TokenError::Type),
        (without(header(), "typ"), TokenError::Type),
        (without(header(), "kid"), TokenError::UnknownKey),
        (with(header(), "kid", json!("")), TokenError::UnknownKey),
        (with(header(), "crit", json!(["x"])), TokenError::Extension),
        (with(header(), "jku", json!("https://evil.example")), TokenError::Extension),
        (with(header(), "jwk", json!({})), TokenError::Extension),
        (with(header(), "x5c", json!([])), TokenError::Extension),
        (with(header(), "b64", json!(false)), TokenError::Extension),
    ] {
        assert_eq!(judge(&bad, &claims()), Err(error), "{bad}");
    }
}

#[test]
fn claims_are_judged_one_by_one() {
    for (bad, error) in [
        (with(claims(), "iss", json!("https://other.example")), TokenError::Issuer),
        (with(claims(), "aud", json!("other")), TokenError::Audience),
        (with(claims(), "aud", json!([])), TokenError::Audience),
        (with(claims(), "exp", json!(NOW - 30)), TokenError::Expired),
        (with(claims(), "iat", json!(NOW + 31)), TokenError::NotYet),
        (with(claims(), "nbf", json!(NOW + 31)), TokenError::NotYet),
        (without(claims(), "exp"), TokenError::Claims),
        (without(claims(), "tenant"), TokenError::Claims),
        (with(claims(), "tenant", json!("A B")), TokenError::Claims),
        (with(claims(), "client_id", json!("a\nb")), TokenError::Claims),
        (with(claims(), "senders", json!(["NGÂN HÀNG"])), TokenError::Claims),
        (with(claims(), "exp", json!("soon")), TokenError::Claims),
        (json!([]), TokenError::Claims),
    ] {
        assert_eq!(judge(&header(), &bad), Err(error), "{bad}");
    }
    judge(&header(), &with(claims(), "exp", json!(NOW - 29))).unwrap();
    judge(&header(), &with(claims(), "iat", json!(NOW + 30))).unwrap();
    let silent = judge(&header(), &without(without(claims(), "scope"), "senders")).unwrap();
    assert!(!silent.may("message:send") && !silent.may("x"));
}

#[test]
fn a_token_of_another_cell_says_where_its_client_belongs() {
    let elsewhere = Elsewhere::from([("sotto-eu".to_owned(), "https://eu.example:7443".to_owned())]);
    let home = |claims: &Value| {
        let text = token(&key(), &header(), claims);
        Unverified::parse(&text).unwrap().home(&elsewhere).map(ToOwned::to_owned)
    };
    for aud in [json!("sotto-eu"), json!(["x", "sotto-eu"])] {
        assert_eq!(home(&with(claims(), "aud", aud)).as_deref(), Some("https://eu.example:7443"));
    }
    for aud in [json!("sotto"), json!([]), json!(7), Value::Null] {
        assert_eq!(home(&with(claims(), "aud", aud)), None);
    }
    assert_eq!(home(&json!([])), None);
}

#[test]
fn another_keys_signature_does_not_verify() {
    let text = token(&SigningKey::from_seed(&[8; 32]).unwrap(), &header(), &claims());
    let ours = SigningKey::from_seed(&[7; 32]).unwrap().public();
    let now = Timestamp::from_unix_seconds(NOW);
    let judged = Unverified::parse(&text).unwrap().verify(&ours, &expected(), now);
    assert_eq!(judged, Err(TokenError::Signature));
}

proptest! {
    #[test]
    fn any_text_is_judged_without_panic(text in "\\PC{0,200}|[A-Za-z0-9_.-]{0,200}") {
        drop(Unverified::parse(&text));
    }

    #[test]
    fn a_token_with_one_byte_changed_is_refused(at: prop::sample::Index, to in "[A-Za-z0-9_.-]") {
        let key = SigningKey::from_seed(&[7; 32]).unwrap();
        let text = token(&key, &header(), &claims());
        let at = at.index(text.len());
        let mut changed = text.clone();
        changed.replace_range(at..=at, &to);
        if changed != text {
            let now = Timestamp::from_unix_seconds(NOW);
            let judged = Unverified::parse(&changed).and_then(|it| it.verify(&key.public(), &expected(), now));
            prop_assert!(judged.is_err());
        }
    }
}
