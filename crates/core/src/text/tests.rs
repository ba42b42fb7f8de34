use proptest::prelude::*;

use super::*;

const CODE: &str = "Mã xác thực của bạn là 482913. Không chia sẻ mã này với bất kỳ ai.";
const CODE_PLAIN: &str = "Ma xac thuc cua ban la 482913. Khong chia se ma nay voi bat ky ai.";
const OFFER: &str = "[QC] Cửa hàng ABC giảm 20% đến 30/11. Từ chối: soạn TC ABC gửi 8xxx";
const OFFER_PLAIN: &str = "[QC] Cua hang ABC giam 20% den 30/11. Tu choi: soan TC ABC gui 8xxx";

/// The vectors of the compliance reference, §1.8: text, encoding, units, units of each part.
fn vectors() -> Vec<(String, Encoding, u32, Vec<u32>)> {
    use Encoding::{Gsm7, Ucs2};
    vec![
        (CODE.to_owned(), Ucs2, 66, vec![66]),
        (CODE_PLAIN.to_owned(), Gsm7, 66, vec![66]),
        (OFFER.to_owned(), Ucs2, 67, vec![67]),
        (OFFER_PLAIN.to_owned(), Gsm7, 69, vec![69]),
        ("a".repeat(160), Gsm7, 160, vec![160]),
        ("a".repeat(161), Gsm7, 161, vec![153, 8]),
        ("ệ".repeat(70), Ucs2, 70, vec![70]),
        ("ệ".repeat(71), Ucs2, 71, vec![67, 4]),
        ("ệ".repeat(134), Ucs2, 134, vec![67, 67]),
        ("ệ".repeat(135), Ucs2, 135, vec![67, 67, 1]),
        ("[".repeat(80), Gsm7, 160, vec![160]),
        ("[".repeat(81), Gsm7, 162, vec![152, 10]),
        ("[".repeat(153), Gsm7, 306, vec![152, 152, 2]),
        ("😀".repeat(67), Ucs2, 134, vec![66, 66, 2]),
        ("à".repeat(160), Gsm7, 160, vec![160]),
    ]
}

fn units(encoding: Encoding, part: &Part) -> u32 {
    let octets = u32::try_from(part.payload().len()).unwrap();
    match encoding {
        Encoding::Gsm7 => octets,
        Encoding::Ucs2 => octets / 2,
    }
}

#[test]
fn every_vector_of_the_reference_holds() {
    for (text, encoding, length, part_units) in vectors() {
        let parts = u8::try_from(part_units.len()).unwrap();
        assert_eq!(count(&text), Ok(Count { encoding, units: length, parts }), "{text}");
        let cut = segment(&text).unwrap();
        assert_eq!((cut.encoding, cut.units), (encoding, length), "{text}");
        assert_eq!(
            cut.parts.iter().map(|part| units(encoding, part)).collect::<Vec<_>>(),
            part_units,
            "{text}"
        );
    }
}

#[test]
fn the_alphabet_has_the_octets_of_the_standard() {
    let payload = |text: &str| segment(text).unwrap().parts.first().unwrap().payload().to_vec();
    assert_eq!(payload("@Δ é\n¡à"), [0x00, 0x10, 0x20, 0x05, 0x0A, 0x40, 0x7F]);
    assert_eq!(payload("^{}"), [0x1B, 0x14, 0x1B, 0x28, 0x1B, 0x29]);
    assert_eq!(payload("\\[~]"), [0x1B, 0x2F, 0x1B, 0x3C, 0x1B, 0x3D, 0x1B, 0x3E]);
    assert_eq!(payload("|€"), [0x1B, 0x40, 0x1B, 0x65]);
    assert_eq!(payload("ệ😀"), [0x1E, 0xC7, 0xD8, 0x3D, 0xDE, 0x00]);
    assert_eq!((Encoding::Gsm7.data_coding(), Encoding::Ucs2.data_coding()), (0x00, 0x08));
    assert_eq!(concatenation_udh(0xA5, 3, 2), [0x05, 0x00, 0x03, 0xA5, 0x03, 0x02]);
    assert_eq!(wide_concatenation_udh(0xA55A, 3, 2), [0x06, 0x08, 0x04, 0xA5, 0x5A, 0x03, 0x02]);
}

#[test]
fn parts_with_a_wide_reference_hold_less() {
    for (text, counted, wide) in [
        ("a".repeat(160), 1, vec![160]),
        ("a".repeat(161), 2, vec![152, 9]),
        ("a".repeat(305), 2, vec![152, 152, 1]),
        // An escape pair is not cut.
        (format!("{}{{{}", "a".repeat(151), "b".repeat(20)), 2, vec![151, 22]),
        ("\u{1ead}".repeat(70), 1, vec![140]),
        ("\u{1ead}".repeat(133), 2, vec![132, 132, 2]),
    ] {
        assert_eq!(count(&text).unwrap().parts, counted);
        let lengths: Vec<_> =
            segment_wide(&text).unwrap().parts.iter().map(|part| part.payload().len()).collect();
        assert_eq!(lengths, wide);
    }
}

#[test]
fn all_septets_decode_to_distinct_characters_and_back() {
    for septet in (0..128_u8).filter(|septet| *septet != gsm7::ESCAPE) {
        let text = decode(Encoding::Gsm7, &[septet]);
        assert_eq!(segment(&text).unwrap().parts.first().unwrap().payload(), [septet], "{septet:#04x}");
    }
}

#[test]
fn decomposed_text_counts_as_composed() {
    assert_eq!(count("e\u{301}"), Ok(Count { encoding: Encoding::Gsm7, units: 1, parts: 1 }));
    assert_eq!(count("e\u{323}\u{302}"), Ok(Count { encoding: Encoding::Ucs2, units: 1, parts: 1 }));
}

#[test]
fn the_longest_message_fits_and_one_unit_more_does_not() {
    for (unit, encoding) in [("a", Encoding::Gsm7), ("ệ", Encoding::Ucs2)] {
        let most = usize::try_from(encoding.part_limit()).unwrap() * usize::from(MAX_PARTS);
        assert_eq!(segment(&unit.repeat(most)).unwrap().parts.len(), usize::from(MAX_PARTS));
        let error = TextError::TooManyParts { parts: 11, max: MAX_PARTS, encoding: encoding.as_str() };
        assert_eq!(segment(&unit.repeat(most + 1)), Err(error));
    }
}

#[test]
fn refuses_what_handsets_do_not_show() {
    assert_eq!(count(""), Err(TextError::Empty));
    for control in ['\0', '\t', '\u{8}', '\u{0C}', '\u{1B}', '\u{7F}', '\u{85}', '\u{9F}'] {
        let error = TextError::Control { position: 2, code_point: u32::from(control) };
        assert_eq!(count(&format!("a{control}b")), Err(error));
    }
    let invisible = [
        '\u{AD}',
        '\u{61C}',
        '\u{200B}',
        '\u{200C}',
        '\u{200D}',
        '\u{200E}',
        '\u{200F}',
        '\u{2028}',
        '\u{202A}',
        '\u{202E}',
        '\u{2060}',
        '\u{2066}',
        '\u{2069}',
        '\u{FEFF}',
        '\u{FFFE}',
        '\u{E0041}',
        '\u{10FFFF}',
    ];
    for character in invisible {
        let error = TextError::Invisible { position: 3, code_point: u32::from(character) };
        assert_eq!(count(&format!("ệb{character}")), Err(error));
    }
    assert!(count("line\r\nline ☎\u{FE0F}").is_ok());
}

#[test]
fn errors_and_debug_say_nothing_of_the_text() {
    let secret = "482913";
    let cut = segment(secret).unwrap();
    assert!(!format!("{cut:?}").contains("52"), "octets of the digits");
    assert!(format!("{cut:?}").contains("[REDACTED]"));
    for text in [format!("{secret}\u{202E}"), format!("{secret}\u{7}"), secret.repeat(400)] {
        let error = count(&text).unwrap_err();
        assert!(!error.to_string().contains(secret) && !format!("{error:?}").contains(secret));
    }
    let long = count(&"ệ".repeat(999)).unwrap_err().to_string();
    assert_eq!(
        long,
        "the text needs 15 parts in ucs2, more than 10: shorten it, or write it without accents and symbols so that it fits gsm7"
    );
}

#[test]
fn reads_damaged_payloads_without_failing() {
    assert_eq!(decode(Encoding::Gsm7, &[0x61, 0x1B]), "a");
    assert_eq!(decode(Encoding::Gsm7, &[0x1B, 0x1B, 0x61]), " a");
    assert_eq!(decode(Encoding::Gsm7, &[0x1B, 0x61, 0x80]), "a\u{FFFD}");
    assert_eq!(decode(Encoding::Ucs2, &[0x00, 0x61, 0xD8, 0x3D, 0x00]), "a\u{FFFD}\u{FFFD}");
}

fn texts() -> impl Strategy<Value = String> {
    let character = prop_oneof![
        4 => prop::char::range(' ', '~'),
        2 => prop::sample::select("[]{}^~\\|€\n\rΔΩàèñ".chars().collect::<Vec<_>>()),
        1 => prop::sample::select("ăâđêôơưệỗữĐ😀👍e\u{301}\u{323}漢字".chars().collect::<Vec<_>>()),
    ];
    let plain = prop_oneof![
        2 => prop::char::range(' ', '~'),
        1 => prop::sample::select("[]{}^~\\|€".chars().collect::<Vec<_>>()),
    ];
    let emoji = prop_oneof![1 => Just('😀'), 1 => Just('ệ')];
    let join = |characters: Vec<char>| characters.into_iter().collect::<String>();
    prop_oneof![
        prop::collection::vec(character, 1..400).prop_map(join),
        prop::collection::vec(plain, 1..900).prop_map(join),
        prop::collection::vec(emoji, 1..400).prop_map(join),
        any::<String>(),
    ]
}

proptest! {
    #[test]
    fn parts_carry_the_whole_text_within_the_limits(text in texts()) {
        let Ok(cut) = segment(&text) else {
            return Ok(());
        };
        let counted = count(&text).unwrap();
        prop_assert_eq!((counted.encoding, counted.units), (cut.encoding, cut.units));
        prop_assert_eq!(usize::from(counted.parts), cut.parts.len());

        // Each part is read on its own, so a cut escape or surrogate pair would show.
        let read: String = cut.parts.iter().map(|part| decode(cut.encoding, part.payload())).collect();
        prop_assert_eq!(&read, &text.nfc().collect::<String>());

        let limit = if cut.parts.len() == 1 { cut.encoding.single_limit() } else { cut.encoding.part_limit() };
        let lengths: Vec<u32> = cut.parts.iter().map(|part| units(cut.encoding, part)).collect();
        prop_assert!(lengths.iter().all(|length| (1..=limit).contains(length)));
        prop_assert_eq!(lengths.iter().sum::<u32>(), cut.units);

        // Greedy: the first character of the next part would not have fitted.
        for (part, next) in lengths.iter().zip(cut.parts.iter().skip(1)) {
            let first = decode(cut.encoding, next.payload()).chars().next().unwrap();
            let width = match cut.encoding {
                Encoding::Gsm7 => gsm7::width(first).unwrap(),
                Encoding::Ucs2 => utf16_width(first),
            };
            prop_assert!(part + width > limit);
        }
    }

    #[test]
    fn no_part_ends_inside_a_pair(text in texts()) {
        let Ok(cut) = segment(&text) else {
            return Ok(());
        };
        for part in &cut.parts {
            match cut.encoding {
                Encoding::Gsm7 => prop_assert_ne!(part.payload().last(), Some(&gsm7::ESCAPE)),
                Encoding::Ucs2 => {
                    let units: Vec<u16> =
                        part.payload().as_chunks::<2>().0.iter().map(|pair| u16::from_be_bytes(*pair)).collect();
                    prop_assert!(!units.last().is_some_and(|unit| (0xD800..0xDC00).contains(unit)));
                    prop_assert!(!units.first().is_some_and(|unit| (0xDC00..0xE000).contains(unit)));
                }
            }
        }
    }

    #[test]
    fn decoding_never_fails(bytes: Vec<u8>) {
        let gsm7 = decode(Encoding::Gsm7, &bytes);
        let ucs2 = decode(Encoding::Ucs2, &bytes);
        prop_assert!(gsm7.chars().count() <= bytes.len() && ucs2.chars().count() <= bytes.len().div_ceil(2));
    }
}
