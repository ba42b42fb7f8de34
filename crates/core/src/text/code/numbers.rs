//! Numbers in a folded text that could be codes: not amounts, dates, times, percentages or masked accounts.

use super::{FEWEST, SOME};

/// The most digits of a code, and the most characters of one with letters.
const MOST: usize = 8;
const MOST_LETTERS: usize = 10;

/// What stands after an amount, a duration, a measure.
const UNITS: &[&str] = &[
    "vnd",
    "dong",
    "d",
    "k",
    "tr",
    "trieu",
    "ty",
    "nghin",
    "ngan",
    "usd",
    "eur",
    "gbp",
    "jpy",
    "cny",
    "krw",
    "sgd",
    "myr",
    "thb",
    "idr",
    "php",
    "khr",
    "lak",
    "inr",
    "rub",
    "try",
    "sar",
    "aed",
    "brl",
    "mxn",
    "rp",
    "rm",
    "baht",
    "bath",
    "tl",
    "kip",
    "riel",
    "won",
    "yen",
    "pesos",
    "euros",
    "euro",
    "mb",
    "gb",
    "kb",
    "kwh",
    "kw",
    "km",
    "kg",
    "m3",
    "m2",
    "phut",
    "gio",
    "ngay",
    "thang",
    "giay",
    "nam",
    "diem",
    "points",
    "poin",
    "mata",
    "pts",
    "minutes",
    "minute",
    "min",
    "mins",
    "hours",
    "days",
    "seconds",
    "sec",
    "menit",
    "minit",
    "jam",
    "hari",
    "₫",
    "$",
    "€",
    "£",
    "¥",
    "₩",
    "₹",
    "฿",
    "元",
    "円",
    "원",
    "บาท",
    "руб",
    "р",
    "₽",
    "लिरा",
    "रुपये",
    "رس",
    "ريال",
    "درهم",
    "៛",
    "កុំ",
    "ກີບ",
    "%",
    "٪",
    "点",
    "分",
    "ポイント",
];

/// What stands before an amount.
const CURRENCIES: &[&str] =
    &["$", "€", "£", "¥", "₫", "₩", "₹", "฿", "₽", "rp", "rm", "rs", "vnd", "usd", "eur", "php", "p", "thb"];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// Digits without anything between them.
    Digits,
    /// Groups of digits: 123-456.
    Groups,
    /// Letters among them.
    Letters,
}

/// A number that could be a code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Number {
    pub(super) start: usize,
    pub(super) end: usize,
    pub(super) form: Form,
    pub(super) digits: usize,
}

/// All of a text, in their order.
pub(super) fn of(text: &str) -> Vec<Number> {
    let words = words(text);
    let mut numbers = Vec::new();
    let mut at = 0;
    while let Some(word) = words.get(at) {
        let rest = words.get(at..).unwrap_or_default();
        let (number, used) = match groups(text, rest).or_else(|| joined(text, rest)) {
            Some((number, used)) => (Some(number), used),
            None => (single(*word), 1),
        };
        numbers.extend(number.filter(|number| !is_measure(text, number)));
        at += used;
    }
    numbers
}

/// A run of ASCII letters and digits.
#[derive(Clone, Copy, Debug)]
struct Word {
    start: usize,
    end: usize,
    digits: usize,
}

impl Word {
    const fn len(self) -> usize {
        self.end - self.start
    }

    const fn is_digits(self) -> bool {
        self.digits > 0 && self.digits == self.len()
    }
}

fn words(text: &str) -> Vec<Word> {
    let mut words: Vec<Word> = Vec::new();
    for (at, byte) in text.bytes().enumerate().filter(|(_, byte)| byte.is_ascii_alphanumeric()) {
        let digits = usize::from(byte.is_ascii_digit());
        match words.last_mut() {
            Some(word) if word.end == at => {
                word.end = at + 1;
                word.digits += digits;
            }
            Some(_) | None => words.push(Word { start: at, end: at + 1, digits }),
        }
    }
    words
}

fn single(word: Word) -> Option<Number> {
    let Word { start, end, digits } = word;
    if word.is_digits() {
        let form = Form::Digits;
        return (FEWEST..=MOST).contains(&digits).then_some(Number { start, end, form, digits });
    }
    let letters = word.len() - digits;
    // Neither a unit behind a number ("24h") nor a name with a number ("vinaphone4g").
    let is_mixed =
        digits >= SOME && letters >= 1 && (5..=MOST_LETTERS).contains(&word.len()) && letters <= digits + 3;
    is_mixed.then_some(Number { start, end, form: Form::Letters, digits })
}

/// Groups of digits with one and the same sign between them: 123-456, 12 34 56, 1 2 3 4.
fn groups(text: &str, words: &[Word]) -> Option<(Number, usize)> {
    let (first, second) = (words.first()?, words.get(1)?);
    let sign = text.get(first.end..second.start).filter(|sign| matches!(*sign, " " | "-"))?;
    let joined = |pair: &[Word]| match pair {
        [one, other] => {
            one.len() == other.len() && other.is_digits() && text.get(one.end..other.start) == Some(sign)
        }
        _ => false,
    };
    if !first.is_digits() || first.len() > 4 {
        return None;
    }
    let used = 1 + words.windows(2).take_while(|pair| joined(pair)).count();
    let last = words.get(used - 1)?;
    let digits = first.len() * used;
    let is_code = used > 1 && (FEWEST..=MOST).contains(&digits);
    is_code.then_some((Number { start: first.start, end: last.end, form: Form::Groups, digits }, used))
}

/// Letters and digits with hyphens between them: A4-719-KD.
fn joined(text: &str, words: &[Word]) -> Option<(Number, usize)> {
    let hyphens = words.windows(2).take_while(|pair| match pair {
        [one, other] => text.get(one.end..other.start) == Some("-"),
        _ => false,
    });
    let used = 1 + hyphens.count();
    let (first, last) = (words.first()?, words.get(used - 1)?);
    let (length, digits) = words
        .iter()
        .take(used)
        .fold((0, 0), |(length, digits), word| (length + word.len(), digits + word.digits));
    let is_mixed = used > 1 && digits >= SOME && digits < length && (6..=MOST_LETTERS).contains(&length);
    // "G-123456" is digits behind a letter.
    let is_prefix = used == 2 && first.len() <= 2 && first.digits == 0;
    let number = Number { start: first.start, end: last.end, form: Form::Letters, digits };
    (is_mixed && !is_prefix).then_some((number, used))
}

/// Whether it is part of an amount, a date, a time, a masked account, or has a unit.
fn is_measure(text: &str, number: &Number) -> bool {
    let (before, after) =
        (text.get(..number.start).unwrap_or_default(), text.get(number.end..).unwrap_or_default());
    let mut back = before.chars().rev();
    let (last, last_but_one) = (back.next(), back.next());
    let is_digit = |character: Option<char>| character.is_some_and(|character| character.is_ascii_digit());
    let before_is_part = match last {
        Some('.' | ',' | ':' | '/' | '-') => is_digit(last_but_one),
        Some('*' | '+' | '•' | '\u{2026}') => true,
        Some(_) | None => before.ends_with("xx") || before.ends_with("...") || before.ends_with(".."),
    };
    let mut forward = after.chars();
    let (next, next_but_one) = (forward.next(), forward.next());
    let after_is_part = match next {
        // Cents: a separator of thousands stands after three digits at most.
        Some('.' | ',') => {
            let cents = after.get(1..).unwrap_or_default();
            let count = cents.bytes().take_while(u8::is_ascii_digit).count();
            count == 2 && !cents.chars().nth(2).is_some_and(char::is_alphanumeric)
        }
        Some(':' | '/' | '-') => is_digit(next_but_one),
        Some('*' | '•') => true,
        Some(_) | None => false,
    };
    let follows = after.trim_start();
    let unit = |unit: &&&str| {
        follows.strip_prefix(**unit).is_some_and(|rest| {
            !unit.ends_with(|c: char| c.is_ascii_alphanumeric())
                || !rest.starts_with(|c: char| c.is_ascii_alphanumeric())
        })
    };
    let leads = before.trim_end();
    let currency = |currency: &&&str| {
        leads.strip_suffix(**currency).is_some_and(|rest| {
            !currency.starts_with(|c: char| c.is_ascii_alphanumeric())
                || !rest.ends_with(|c: char| c.is_ascii_alphanumeric())
        })
    };
    before_is_part
        || after_is_part
        || UNITS.iter().any(|name| unit(&name))
        || CURRENCIES.iter().any(|name| currency(&name))
}
