//! Messages from handsets (MO): whose they are, and whether they say "stop".

use std::{fmt, str::FromStr};

use bytes::Bytes;
use unicode_normalization::{UnicodeNormalization as _, char::is_combining_mark};
use zeroize::Zeroizing;

use crate::{AccountId, MessageId, TenantId, Timestamp, work::Envelope};

/// The name that stands in keys and bindings where a class stands for messages to handsets.
pub const CLASS: &str = "inbound";

/// The wrap of a session key that seals messages from handsets. There is no request that opens it: nobody reads them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InboundWrap {
    /// The session key's id.
    pub key_id: [u8; 16],
    /// The owner of the numbers.
    pub tenant: TenantId,
    /// The bucket, for example `inbound/2026-11-30`.
    pub bucket: String,
    /// The wrap: useless without the bucket key.
    pub wrapped: Bytes,
}

/// A message from a handset, sealed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inbound {
    /// Its id (UUIDv7). A carrier that missed our answer sends again what then has another id.
    pub id: MessageId,
    /// The owner of the number it was sent to.
    pub tenant: TenantId,
    /// The account that brought it.
    pub account: AccountId,
    /// When.
    pub received_at: Timestamp,
    /// Number, text and the rest, sealed.
    pub envelope: Envelope,
    /// What it asks for, if it asks to be left alone.
    pub opt_out: Option<OptOut>,
}

/// The words by which people ask to be left alone: those of 47 CFR 64.1200(a)(10) and of the CTIA Messaging Principles,
/// and those usual in Vietnam, which fixes none (Decree 91/2020, Art. 16 asks for a way by SMS).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum OptOut {
    /// `STOP`
    Stop,
    /// `STOPALL`, `STOP ALL`: everything of the sender.
    StopAll,
    /// `QUIT`
    Quit,
    /// `END`
    End,
    /// `REVOKE`
    Revoke,
    /// `CANCEL`
    Cancel,
    /// `UNSUBSCRIBE`
    Unsubscribe,
    /// `OPT OUT`, `OPTOUT`, `OPT-OUT`
    Out,
    /// `TC`, `TU CHOI`, `TỪ CHỐI`: refuse.
    TuChoi,
    /// `HUY`, `HỦY`: cancel.
    Huy,
    /// `DUNG`, `DỪNG`, `ĐỪNG`: stop, do not.
    Dung,
    /// `NGUNG`, `NGỪNG`: cease.
    Ngung,
}

impl OptOut {
    /// Every word; of two that fit the first counts.
    pub const ALL: [Self; 12] = [
        Self::StopAll,
        Self::Stop,
        Self::Quit,
        Self::End,
        Self::Revoke,
        Self::Cancel,
        Self::Unsubscribe,
        Self::Out,
        Self::TuChoi,
        Self::Huy,
        Self::Dung,
        Self::Ngung,
    ];

    /// The word in events.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Stop => "STOP",
            Self::StopAll => "STOPALL",
            Self::Quit => "QUIT",
            Self::End => "END",
            Self::Revoke => "REVOKE",
            Self::Cancel => "CANCEL",
            Self::Unsubscribe => "UNSUBSCRIBE",
            Self::Out => "OPTOUT",
            Self::TuChoi => "TUCHOI",
            Self::Huy => "HUY",
            Self::Dung => "DUNG",
            Self::Ngung => "NGUNG",
        }
    }

    /// How it is written, in words without marks.
    const fn spellings(self) -> &'static [&'static [&'static str]] {
        match self {
            Self::Stop => &[&["stop"]],
            Self::StopAll => &[&["stopall"], &["stop", "all"]],
            Self::Quit => &[&["quit"]],
            Self::End => &[&["end"]],
            Self::Revoke => &[&["revoke"]],
            Self::Cancel => &[&["cancel"]],
            Self::Unsubscribe => &[&["unsubscribe"]],
            Self::Out => &[&["optout"], &["opt", "out"]],
            Self::TuChoi => &[&["tc"], &["tuchoi"], &["tu", "choi"]],
            Self::Huy => &[&["huy"]],
            Self::Dung => &[&["dung"]],
            Self::Ngung => &[&["ngung"]],
        }
    }

    /// Whether a text asks to be left alone: it has at most [`SHORT`] words, and one of them is such a word, in any case,
    /// with or without marks and punctuation. A keyword followed by a brand is such a text. Longer ones are a matter for people.
    ///
    /// Rather once too often than once too little: it ends advertising, never one-time codes.
    #[must_use]
    pub fn recognise(text: &str) -> Option<Self> {
        if text.len() > LONGEST {
            return None;
        }
        let words: Vec<Word> = text
            .split(|character: char| !(character.is_alphanumeric() || is_combining_mark(character)))
            .filter(|word| !word.is_empty())
            .map(Word::of)
            .collect();
        if words.len() > SHORT {
            return None;
        }
        let found = |one: &Self| one.spellings().iter().any(|spelling| contains(&words, spelling));
        Self::ALL.into_iter().find(found)
    }
}

/// A text of more words is not only a keyword.
const SHORT: usize = 5;

/// A text of more octets has more words, or words that nobody wrote.
const LONGEST: usize = 480;

/// A word without its marks, and whether it is one that only looks like a keyword without them.
struct Word {
    plain: Zeroizing<String>,
    other: bool,
}

impl Word {
    fn of(word: &str) -> Self {
        let lower: Zeroizing<String> = Zeroizing::new(word.nfc().flat_map(char::to_lowercase).collect());
        let unmarked = lower.nfd().filter(|character| !is_combining_mark(*character));
        let plain: String =
            unmarked.map(|character| if character == 'đ' { 'd' } else { character }).collect();
        // đúng (right), dùng (use), dụng, dũng, đụng … are other words than dừng (stop) and đừng (do not).
        let other = plain == "dung" && !matches!(lower.as_str(), "dung" | "dừng" | "đừng");
        Self { plain: Zeroizing::new(plain), other }
    }
}

fn contains(words: &[Word], spelling: &[&str]) -> bool {
    words.windows(spelling.len()).any(|window| {
        window.iter().zip(spelling).all(|(word, wanted)| !word.other && word.plain.as_str() == *wanted)
    })
}

impl fmt::Display for OptOut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A word that is no opt-out keyword.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no opt-out keyword")]
pub struct UnknownKeyword;

impl FromStr for OptOut {
    type Err = UnknownKeyword;
    fn from_str(word: &str) -> Result<Self, UnknownKeyword> {
        Self::ALL.into_iter().find(|one| one.name() == word).ok_or(UnknownKeyword)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn keywords_are_known_in_every_usual_spelling() {
        for (text, expected) in [
            ("STOP", OptOut::Stop),
            (" stop. ", OptOut::Stop),
            ("Stop!!!", OptOut::Stop),
            ("please STOP sending me this", OptOut::Stop),
            ("STOPALL", OptOut::StopAll),
            ("stop all", OptOut::StopAll),
            ("Opt-out", OptOut::Out),
            ("opt out acme", OptOut::Out),
            ("UNSUBSCRIBE", OptOut::Unsubscribe),
            ("TC", OptOut::TuChoi),
            ("TC ACME", OptOut::TuChoi),
            ("Tu choi", OptOut::TuChoi),
            ("TỪ CHỐI", OptOut::TuChoi),
            ("từ chối qc acme", OptOut::TuChoi),
            ("tu\u{300}\u{31b} cho\u{302}\u{301}i", OptOut::TuChoi),
            ("HỦY", OptOut::Huy),
            ("Huỷ dịch vụ", OptOut::Huy),
            ("huy", OptOut::Huy),
            ("DỪNG", OptOut::Dung),
            ("dung", OptOut::Dung),
            ("đừng gửi nữa", OptOut::Dung),
            ("Ngừng", OptOut::Ngung),
            ("NGUNG GUI", OptOut::Ngung),
            ("revoke", OptOut::Revoke),
            ("Cancel", OptOut::Cancel),
            ("quit", OptOut::Quit),
            ("END", OptOut::End),
        ] {
            assert_eq!(OptOut::recognise(text), Some(expected), "{text}");
        }
    }

    #[test]
    fn other_texts_are_left_to_people() {
        for text in [
            "",
            "   ",
            "START",
            "YES",
            "Đúng rồi",
            "sử dụng",
            "weekend",
            "nonstop",
            "choi tu",
            "I will not stop writing to you about this",
            "Khi nào thì cửa hàng của bạn đóng cửa, tôi muốn hủy",
        ] {
            assert_eq!(OptOut::recognise(text), None, "{text}");
        }
        assert_eq!(OptOut::recognise(&"stop".repeat(200)), None);
        assert_eq!(OptOut::recognise(&format!("stop {}", " ".repeat(500))), None);
    }

    #[test]
    fn names_survive_text() {
        for one in OptOut::ALL {
            assert_eq!(one.name().parse(), Ok(one));
            assert_eq!(OptOut::recognise(one.name()), Some(one), "{one}");
        }
        assert!("stop".parse::<OptOut>().is_err());
        assert!("unowned".parse::<TenantId>().is_ok_and(|tenant| tenant.is_unowned()));
    }

    proptest! {
        #[test]
        fn case_marks_of_writing_and_a_brand_change_nothing(
            at in 0..OptOut::ALL.len(),
            brand in "[A-BG-MV-Z]{3,8}",
            before in "[ .!\u{a0}\n]{0,4}",
            after in "[ .!?\n]{0,4}",
            lower: bool,
        ) {
            let one = OptOut::ALL[at];
            let word = if lower { one.name().to_lowercase() } else { one.name().to_owned() };
            let text = format!("{before}{word} {brand}{after}");
            prop_assert_eq!(OptOut::recognise(&text), Some(one), "{}", text);
        }

        #[test]
        fn any_text_is_judged(text in "\\PC{0,600}") {
            let _judged = OptOut::recognise(&text);
        }
    }
}
