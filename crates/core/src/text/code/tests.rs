use proptest::prelude::*;

use super::*;

#[derive(Debug, Default)]
struct Tally {
    right: u32,
    wrong: u32,
    missed: u32,
    other: u32,
}

impl Tally {
    fn of(corpus: &str) -> Self {
        let mut tally = Self::default();
        for line in corpus.lines() {
            let [label, _language, text] = line.split('\t').collect::<Vec<_>>()[..] else { panic!("{line}") };
            let count = match (label, carries_code(&text.replace("\\n", "\n"))) {
                ("code", true) => &mut tally.right,
                ("code", false) => &mut tally.missed,
                ("other", true) => &mut tally.wrong,
                ("other", false) => &mut tally.other,
                _ => panic!("{line}"),
            };
            *count += 1;
        }
        tally
    }

    /// Of a hundred that are taken for codes, how many are.
    const fn precision(&self) -> u32 {
        100 * self.right / (self.right + self.wrong)
    }

    /// Of a hundred codes, how many are found.
    const fn recall(&self) -> u32 {
        100 * self.right / (self.right + self.missed)
    }
}

#[test]
fn as_many_codes_are_found_as_the_documents_say() {
    let seen = Tally::of(include_str!("../../../corpus/codes-seen.tsv"));
    assert!(seen.precision() >= 98 && seen.recall() >= 97, "{seen:?}");
    let unseen = Tally::of(include_str!("../../../corpus/codes-unseen.tsv"));
    println!("unseen: {unseen:?}, precision {}, recall {}", unseen.precision(), unseen.recall());
    assert!(unseen.precision() >= 97 && unseen.recall() >= 64, "{unseen:?}");
}

#[test]
fn the_shapes_of_codes() {
    for text in [
        "Mã xác thực của bạn là 482913. Không chia sẻ mã này với bất kỳ ai.",
        "482913 la ma OTP cua ban",
        "Don't share this code with anyone: 123456+Ab12",
        "48291",
        "482913",
        "<#> 482913\nFA+9qCX9VSu",
        "G-482913 is your verification code",
        "Your code: 482-913",
        "ＯＴＰ ４８２９１３",
        "رمز التحقق ٤٨٢٩١٣",
        "ABC sign-in\n@shop.example #482913",
        "Your login code is A4-719-KD",
    ] {
        assert!(carries_code(text), "{text}");
    }
}

#[test]
fn other_numbers_are_none() {
    for text in [
        "",
        "Thank you for your visit",
        "So du TK 1234xxx56: +500,000 VND luc 12:05 28/11/2026",
        "Ma don hang 482913 da duoc giao",
        "Nhap ma SALE50 giam 50% den 30/11/2026",
        "Khong cung cap ma OTP cho bat ky ai. Hotline 19001234",
        "Your order 482913 has been shipped",
        "Your voucher code is 482913",
        "+84912345678",
    ] {
        assert!(!carries_code(text), "{text}");
    }
}

#[test]
fn every_line_of_the_words_is_read() {
    let words = WORDS.as_ref().unwrap();
    let lines = include_str!("words.txt").lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
    assert_eq!(words.kinds.len(), lines.count());
}

#[test]
fn what_is_folded_never_moves() {
    for text in ["각", "\u{fdfa}", "ẤỘ", "İ", "Ａ", "mã"] {
        let folded = folded(text);
        assert!(folded.len() <= 3 * text.len() && folded.capacity() == 3 * text.len(), "{text}");
    }
}

proptest! {
    #[test]
    fn any_text_is_judged(text in "\\PC{0,200}") {
        carries_code(&text);
    }

    #[test]
    fn digits_alone_are_a_code(digits in "[0-9]{4,8}") {
        prop_assert!(carries_code(&digits));
    }
}
