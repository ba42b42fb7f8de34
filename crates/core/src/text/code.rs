//! Whether a text carries a one-time code, so that one that a client calls something else still gets the short life of a code.
//!
//! A number counts by what stands beside it: words for codes of many languages ("mã xác thực", "verification code", "验证码"),
//! words for other numbers ("mã đơn hàng", "order", "hotline") and hints of secrecy ("không chia sẻ"). The words are data
//! (`code/words.txt`). How often it is right is measured on a committed corpus of made-up texts (`corpus/`), in the tests.

mod numbers;
#[cfg(test)]
mod tests;

use std::sync::LazyLock;

use aho_corasick::{AhoCorasick, MatchKind};
use unicode_normalization::UnicodeNormalization as _;
use zeroize::Zeroizing;

use numbers::{Form, Number};

/// What a word says of a number beside it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// It is a one-time code.
    Strong,
    /// It may be one.
    Weak,
    /// It may be one, and the text is secret.
    Verify,
    /// It is another number.
    Other,
    /// The text is secret, or short-lived.
    Hint,
}

struct Words {
    finder: AhoCorasick,
    kinds: Vec<Kind>,
}

static WORDS: LazyLock<Option<Words>> = LazyLock::new(|| {
    let lines = include_str!("code/words.txt").lines().filter_map(|line| {
        let (kind, word) = line.split_once(' ')?;
        let kind = match kind {
            "strong" => Kind::Strong,
            "weak" => Kind::Weak,
            "verify" => Kind::Verify,
            "other" => Kind::Other,
            "hint" => Kind::Hint,
            _ => return None,
        };
        Some((kind, folded(word)))
    });
    let (kinds, words): (Vec<_>, Vec<_>) = lines.unzip();
    let finder = AhoCorasick::builder()
        .match_kind(MatchKind::LeftmostLongest)
        .build(words.iter().map(|word| word.as_bytes()));
    // Fails beyond gigabytes of words.
    finder.ok().map(|finder| Words { finder, kinds })
});

/// A word that was found.
#[derive(Clone, Copy, Debug)]
struct Found {
    kind: Kind,
    start: usize,
    end: usize,
}

/// The fewest digits that make a code without letters.
const FEWEST: usize = 4;

/// The fewest digits of any code.
const SOME: usize = 2;

/// Whether a text carries a one-time code.
pub fn carries_code(text: &str) -> bool {
    if text.chars().filter(|character| digit(*character).is_some()).take(SOME).count() < SOME {
        return false;
    }
    let text = folded(text);
    if is_bound_to_origin(&text) {
        return true;
    }
    let numbers = numbers::of(&text);
    if numbers.is_empty() {
        return false;
    }
    if is_bare(&text, &numbers) {
        return true;
    }
    let Some(words) = WORDS.as_ref() else { return false };
    let found = words.find(&text);
    let judged = Judged::new(&text, found);
    numbers.iter().any(|number| judged.is_code(number))
}

/// Without case, accents and width, digits of all scripts as ASCII. Wipes itself.
fn folded(text: &str) -> Zeroizing<String> {
    if text.is_ascii() {
        return Zeroizing::new(text.to_ascii_lowercase());
    }
    // So much that it never moves: a Hangul syllable of three bytes becomes three letters of three.
    let room = text.len().saturating_mul(3);
    let mut folded = Zeroizing::new(String::with_capacity(room));
    let is_mark = |character| matches!(character, '\u{300}'..='\u{36f}' | '\u{64b}'..='\u{655}');
    for character in text.nfkd().filter(|character| !is_mark(*character)) {
        let character = match character {
            'đ' | 'Đ' => 'd',
            'ı' => 'i',
            '’' => '\'',
            '\u{2010}'..='\u{2015}' => '-',
            other => digit(other).unwrap_or(other),
        };
        for lower in character.to_lowercase() {
            if folded.len() + lower.len_utf8() > room {
                return folded;
            }
            folded.push(lower);
        }
    }
    folded
}

/// A decimal digit of the scripts that messages are written in, as ASCII.
fn digit(character: char) -> Option<char> {
    if character.is_ascii_digit() {
        return Some(character);
    }
    // Arabic, Persian, Devanagari, Bengali, Thai, Lao, Burmese, Khmer, full width.
    const ZEROS: [u32; 9] = [0x660, 0x6f0, 0x966, 0x9e6, 0xe50, 0xed0, 0x1040, 0x17e0, 0xff10];
    let code_point = u32::from(character);
    let value = ZEROS.iter().find_map(|zero| code_point.checked_sub(*zero).filter(|value| *value < 10))?;
    char::from_digit(value, 10)
}

impl Words {
    fn find(&self, text: &str) -> Vec<Found> {
        let inside = |at: Option<&u8>, edge: Option<&u8>| {
            at.is_some_and(u8::is_ascii_alphanumeric) && edge.is_some_and(u8::is_ascii_alphanumeric)
        };
        let bytes = text.as_bytes();
        let whole = |start: usize, end: usize| {
            let word = bytes.get(start..end).unwrap_or_default();
            let before = start.checked_sub(1).and_then(|at| bytes.get(at));
            !inside(before, word.first()) && !inside(bytes.get(end), word.last())
        };
        let matches = self.finder.find_iter(text).filter(|found| whole(found.start(), found.end()));
        matches
            .filter_map(|found| {
                let kind = *self.kinds.get(found.pattern().as_usize())?;
                Some(Found { kind, start: found.start(), end: found.end() })
            })
            .collect()
    }
}

/// "@example.com #123456" in the last line (WICG, origin-bound one-time codes).
fn is_bound_to_origin(text: &str) -> bool {
    let last = text.trim_end().lines().next_back().unwrap_or_default();
    let Some((origin, code)) = last.strip_prefix('@').and_then(|rest| rest.split_once(" #")) else {
        return false;
    };
    origin.contains('.') && code.bytes().filter(u8::is_ascii_digit).count() >= FEWEST
}

/// Nothing but the number, and perhaps the mark by which an application finds its messages.
fn is_bare(text: &str, numbers: &[Number]) -> bool {
    let [number] = numbers else { return false };
    let before = text.get(..number.start).unwrap_or_default().trim().trim_start_matches("<#>").trim();
    let after = text.get(number.end..).unwrap_or_default().trim();
    let is_mark =
        after.len() == 11 && after.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'+' || b == b'/');
    number.form != Form::Letters && before.is_empty() && (after.is_empty() || is_mark)
}

/// A text and the words in it.
struct Judged<'a> {
    text: &'a str,
    found: Vec<Found>,
    has_strong: bool,
    has_hint: bool,
    has_other: bool,
}

impl<'a> Judged<'a> {
    fn new(text: &'a str, mut found: Vec<Found>) -> Self {
        // "Your voucher code is": what is another number stays one.
        let mut before: Option<Found> = None;
        for found in &mut found {
            if before.is_some_and(|before| before.kind == Kind::Other && before.end + 1 >= found.start)
                && found.kind == Kind::Strong
            {
                found.kind = Kind::Other;
            }
            before = Some(*found);
        }
        let has = |kind| found.iter().any(|found| found.kind == kind);
        let has_strong = has(Kind::Strong);
        let has_hint = has(Kind::Hint) || has(Kind::Verify) || text.starts_with("<#>");
        let has_other = has(Kind::Other);
        Self { text, found, has_strong, has_hint, has_other }
    }

    /// The nearest word before a place, and what lies in between. Another number's word is spent when a number follows it.
    fn before(&self, place: usize) -> Option<(Kind, &'a str)> {
        let words = self.found.iter().rev().filter(|found| found.kind != Kind::Hint && found.end <= place);
        let mut nearest = words.filter_map(|found| {
            let between = self.text.get(found.end..place)?;
            let spent = found.kind == Kind::Other && between.bytes().any(|byte| byte.is_ascii_digit());
            (!spent).then_some((found.kind, between))
        });
        nearest.next()
    }

    fn after(&self, place: usize) -> Option<(Kind, &'a str)> {
        let found = self.found.iter().find(|found| found.kind != Kind::Hint && found.start >= place)?;
        Some((found.kind, self.text.get(place..found.start)?))
    }

    fn is_code(&self, number: &Number) -> bool {
        let digits = number.form != Form::Letters;
        let secret = self.has_strong || self.has_hint;
        let gap = |between: &str| between.chars().count();
        match self.before(number.start) {
            Some((Kind::Other, between)) if gap(between) <= 12 => return false,
            Some((Kind::Strong, between)) if gap(between) <= if digits { 80 } else { 30 } => return true,
            Some((Kind::Weak | Kind::Verify, between)) if gap(between) <= 45 && digits && secret => {
                return true;
            }
            // Letters and digits mixed are seldom anything else.
            Some((Kind::Weak, between)) if gap(between) <= 12 && secret => return true,
            Some((Kind::Weak, between)) if is_copula(between) && digits => return true,
            Some((Kind::Weak, between)) if between == " " && digits && !self.has_other => return true,
            Some(_) | None => {}
        }
        match self.after(number.end) {
            Some((Kind::Strong, between)) => gap(between) <= 25,
            Some((Kind::Weak, between)) => {
                gap(between) <= 25
                    && digits
                    && (secret || between.split_whitespace().next().is_some_and(is_copula))
            }
            Some((Kind::Verify | Kind::Other | Kind::Hint, _)) | None => false,
        }
    }
}

/// Whether nothing stands between a word and a number but a colon or a form of "is".
fn is_copula(between: &str) -> bool {
    const FORMS: [&str; 15] =
        ["la", "is", "es", "est", "ist", "e", "adalah", "ay", "ialah", "คือ", "គឺ", "是", "为", "는", "هو"];
    let word = between.trim_matches(|character: char| !character.is_alphanumeric());
    FORMS.contains(&word) || word.is_empty() && between.contains([':', '='])
}
