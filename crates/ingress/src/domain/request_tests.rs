use proptest::prelude::*;
use sotto_core::text::Encoding;

use super::*;

/// 2026-11-24T04:16:55Z
const NOW: Timestamp = Timestamp::from_unix_seconds(1_795_493_815);

const VALIDITIES: Validities = Validities {
    otp: Validity { default: Duration::from_secs(300), max: Duration::from_secs(900) },
    other: Validity { default: Duration::from_secs(86_400), max: Duration::from_secs(259_200) },
};

fn asked() -> Asked {
    Asked {
        present: true,
        transliterate: false,
        to: "+84912345678".to_owned().into(),
        from: "ACME".to_owned().into(),
        text: "Ma\u{303} xa\u{301}c thu\u{323}c 482913".to_owned().into(),
        class: Some(MessageClass::Otp),
        validity: None,
        send_at: None,
        key: Sensitive::default(),
    }
}

fn judge(asked: Asked) -> Result<Checked, Vec<Violation>> {
    check(asked, &Caller::of("acme", &["ACME"]), &VALIDITIES, NOW)
}

fn reasons(asked: Asked) -> Vec<(&'static str, &'static str)> {
    judge(asked).unwrap_err().into_iter().map(|it| (it.field, it.reason)).collect()
}

#[test]
fn a_good_request_is_taken_with_its_text_in_nfc() {
    let checked = judge(asked()).unwrap();
    assert_eq!(checked.text.expose(), "Mã xác thục 482913");
    assert_eq!((checked.count.encoding, checked.count.parts), (Encoding::Ucs2, 1));
    assert_eq!(checked.validity, Duration::from_secs(300));
    assert!(checked.key.is_none());
    let promotional = judge(Asked { class: Some(MessageClass::Promotional), ..asked() }).unwrap();
    assert_eq!(promotional.validity, Duration::from_secs(86_400));
}

#[test]
fn each_fault_has_its_field_and_reason() {
    let owned = |text: &str| Sensitive::new(text.to_owned());
    for (to, reason) in [
        ("", "NUMBER_EMPTY"),
        ("0912345678", "NUMBER_NOT_INTERNATIONAL"),
        ("+84 912345678", "NUMBER_NOT_DIGITS"),
        ("+84", "NUMBER_LENGTH"),
        ("+999123456789", "NUMBER_UNKNOWN_COUNTRY_CODE"),
        ("+840912345678", "NUMBER_NATIONAL_PREFIX"),
        ("+841622345678", "NUMBER_RENUMBERED"),
        ("+842438251234", "NUMBER_NOT_MOBILE"),
    ] {
        assert_eq!(reasons(Asked { to: owned(to), ..asked() }), [("message.to", reason)], "{to}");
    }
    for (from, reason) in [
        ("", "SENDER_EMPTY"),
        ("ABCDEFGHIJKL", "SENDER_TOO_LONG"),
        ("NGÂN", "SENDER_CHARACTER"),
        ("1-2", "SENDER_NO_LETTER"),
        (" A", "SENDER_SPACES"),
        ("12", "SENDER_DIGITS"),
        ("OTHER", "SENDER_UNKNOWN"),
    ] {
        assert_eq!(reasons(Asked { from: owned(from), ..asked() }), [("message.from", reason)], "{from}");
    }
    for (text, reason) in [
        (String::new(), "TEXT_EMPTY"),
        ("x".repeat(1531), "TEXT_TOO_LONG"),
        ("a\u{7}".to_owned(), "TEXT_CONTROL_CHARACTER"),
        ("a\u{202e}".to_owned(), "TEXT_INVISIBLE_CHARACTER"),
    ] {
        assert_eq!(reasons(Asked { text: text.into(), ..asked() }), [("message.text", reason)]);
    }
    for (validity, reason) in [
        ((4, 999_999_999), "VALIDITY_TOO_SHORT"),
        ((-1, 0), "VALIDITY_TOO_SHORT"),
        ((60, -1), "VALIDITY_TOO_SHORT"),
        ((60, 1_000_000_000), "VALIDITY_TOO_SHORT"),
        ((900, 1_000_000), "VALIDITY_TOO_LONG"),
        ((i64::MAX, 0), "VALIDITY_TOO_LONG"),
    ] {
        let found = reasons(Asked { validity: Some(validity), ..asked() });
        assert_eq!(found, [("message.validity", reason)], "{validity:?}");
    }
    for key in ["é".to_owned(), "a\n".to_owned(), "k".repeat(129)] {
        let found = reasons(Asked { key: key.into(), ..asked() });
        assert_eq!(found, [("idempotency_key", "IDEMPOTENCY_KEY_INVALID")]);
    }
    assert_eq!(reasons(Asked { class: None, ..asked() }), [("message.class", "CLASS_UNKNOWN")]);
    assert_eq!(reasons(Asked::default()), [("message", "MESSAGE_MISSING")]);
    // Written without marks on a wish, and only then.
    let marked = || "M\u{e3} c\u{1ee7}a b\u{1ea1}n: 482913".to_owned().into();
    let plain = judge(Asked { text: marked(), transliterate: true, ..asked() }).unwrap();
    assert_eq!((plain.text.expose().as_str(), plain.transliterated), ("Ma cua ban: 482913", true));
    let as_it_is = judge(Asked { text: marked(), ..asked() }).unwrap();
    assert!(!as_it_is.transliterated && as_it_is.count.units > plain.count.units / 2);
    assert!(judge(Asked { validity: Some((900, 0)), key: "k".repeat(128).into(), ..asked() }).is_ok());
}

#[test]
fn every_fault_is_told_at_once() {
    let asked = Asked {
        to: "1".to_owned().into(),
        from: "OTHER".to_owned().into(),
        text: Sensitive::default(),
        class: None,
        validity: Some((1, 0)),
        send_at: Some((i64::MAX, 0)),
        key: "\u{1}".to_owned().into(),
        present: true,
        transliterate: false,
    };
    assert_eq!(judge(asked).unwrap_err().len(), 7);
}

#[test]
fn a_message_is_sent_at_its_time_and_valid_from_then() {
    let notice = || Asked { class: Some(MessageClass::Transactional), ..asked() };
    let day = 86_400;
    let now = NOW.unix_seconds();
    let at = |seconds, nanos| judge(Asked { send_at: Some((seconds, nanos)), ..notice() });
    let later = at(now + day, 7_999_999).unwrap();
    assert_eq!(later.send_at, Some(Timestamp::from_unix_millis((now + day) * 1_000 + 7)));
    assert_eq!(later.begins(NOW), later.send_at.unwrap());
    // A time that is over means now, so that a repeat is told what the first was told.
    let over = at(now - day, 0).unwrap();
    assert_eq!(over.begins(NOW), NOW);
    assert_eq!(judge(notice()).unwrap().begins(NOW), NOW);
    assert!(at(now + 30 * day, 0).is_ok());
    for (seconds, nanos) in
        [(now + 30 * day + 1, 0), (i64::MAX, 0), (-1, 0), (0, 0), (now, -1), (now, 1_000_000_000)]
    {
        let violations = at(seconds, nanos).unwrap_err();
        assert_eq!((violations[0].field, violations[0].reason), ("message.send_at", "SEND_AT_TOO_FAR"));
    }
    assert_eq!(
        reasons(Asked { send_at: Some((now + day, 0)), ..asked() }),
        [("message.send_at", "SEND_AT_OF_CODE")]
    );
}

proptest! {
    #[test]
    fn no_fault_repeats_a_value(to in "\\PC{6,20}", from in "\\PC{6,20}", text in "[a-z]{6,12}\u{7}", key in "é[a-z]{8}") {
        let values = [to.clone(), from.clone(), text.clone(), key.clone()];
        let asked = Asked { to: to.into(), from: from.into(), text: text.into(), key: key.into(), ..asked() };
        let violations = judge(asked).unwrap_err();
        let said = format!("{violations:?}");
        for value in &values {
            prop_assert!(!said.contains(value), "{said}");
        }
    }
}

#[test]
fn a_notice_that_carries_a_code_lives_as_long_as_one() {
    let notice = || Asked { class: Some(MessageClass::Transactional), ..asked() };
    let code = judge(notice()).unwrap();
    assert_eq!((code.class, code.validity), (MessageClass::Otp, Duration::from_secs(300)));
    assert_eq!(
        code.wish,
        (MessageClass::Transactional, Duration::from_secs(86_400)),
        "a repeat is known by its wish"
    );
    for (asked_for, valid) in [(60, 60), (7_200, 900)] {
        let code = judge(Asked { validity: Some((asked_for, 0)), ..notice() }).unwrap();
        assert_eq!((code.class, code.validity.as_secs()), (MessageClass::Otp, valid));
    }
    let order = Sensitive::new("Ma don hang 482913 da duoc giao".to_owned());
    assert_eq!(judge(Asked { text: order, ..notice() }).unwrap().class, MessageClass::Transactional);
    let later = Some((NOW.unix_millis() / 1_000 + 3_600, 0));
    assert_eq!(judge(Asked { send_at: later, ..notice() }).unwrap().class, MessageClass::Transactional);
}
