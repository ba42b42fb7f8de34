//! Vietnamese, and other Latin letters with marks, in the letters of the GSM 7-bit default alphabet.

use unicode_normalization::{UnicodeNormalization as _, char::is_combining_mark};

use super::gsm7;
use crate::Sensitive;

/// The text with the marks of its letters left out where the default alphabet lacks them: "Mã xác thực" becomes "Ma xac
/// thuc". Digits, links and everything that is no Latin letter stay as they are. `None` if nothing changes.
///
/// A word is a link if it has a scheme, begins with `www.`, or has a dot or slash between letters or digits: no letter of it
/// may become another, or it leads elsewhere.
pub fn transliterate(text: &str) -> Option<Sensitive<String>> {
    // Never longer than the text in NFC: nothing of it is left behind in a smaller allocation.
    let mut written = String::with_capacity(text.len() + text.len() / 2);
    let mut changed = false;
    for word in text.split_inclusive(char::is_whitespace) {
        if is_link(word) {
            written.push_str(word);
            continue;
        }
        for character in word.nfc() {
            let plain = plain(character);
            changed |= plain.is_some();
            written.push(plain.unwrap_or(character));
        }
    }
    let written = Sensitive::new(written);
    changed.then_some(written)
}

/// The plain letter of one with marks; `None` for what the default alphabet has or what is no such letter.
fn plain(character: char) -> Option<char> {
    if character.is_ascii() || gsm7::width(character).is_some() {
        return None;
    }
    match character {
        'đ' => return Some('d'),
        'Đ' => return Some('D'),
        _ => {}
    }
    let mut decomposed = std::iter::once(character).nfd();
    let letter = decomposed.next().filter(char::is_ascii_alphabetic)?;
    decomposed.all(is_combining_mark).then_some(letter)
}

fn is_link(word: &str) -> bool {
    let word = word.trim();
    let begins =
        |prefix: &str| word.get(..prefix.len()).is_some_and(|start| start.eq_ignore_ascii_case(prefix));
    if word.contains("://") || begins("www.") {
        return true;
    }
    // A mark belongs to the letter before it, whether or not the two have a character of their own.
    let mut characters = word.nfc().filter(|character| !is_combining_mark(*character)).peekable();
    let mut before = None;
    while let Some(character) = characters.next() {
        // The full stops of other scripts are dots to a resolver too (UTS 46 §2.3).
        let joins = matches!(character, '.' | '\u{3002}' | '\u{ff0e}' | '\u{ff61}' | '/' | '@');
        if joins
            && before.is_some_and(char::is_alphanumeric)
            && characters.peek().is_some_and(|next| next.is_alphanumeric())
        {
            return true;
        }
        before = Some(character);
    }
    false
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::text::{Encoding, count};

    fn written(text: &str) -> Option<String> {
        transliterate(text).map(|written| written.expose().clone())
    }

    #[test]
    fn vietnamese_becomes_plain() {
        let text = "Mã xác thực của bạn là 482913. Đừng chia sẻ với ai!";
        let plain = written(text).unwrap();
        assert_eq!(plain, "Ma xac thuc cua ban là 482913. Dung chia se với ai!".replace("với", "voi"));
        assert_eq!(count(&plain).unwrap().encoding, Encoding::Gsm7);
        // Decomposed on the way here, it is the same.
        let decomposed: String = text.nfd().collect();
        assert_eq!(written(&decomposed).unwrap(), plain);
    }

    #[test]
    fn what_needs_no_change_or_is_no_letter_stays() {
        for text in ["Your code is 482913", "à è é ù ñ ü are in the alphabet", "код 482913", "😀 ٤٨"]
        {
            assert_eq!(written(text), None, "{text}");
        }
        let mixed = "mở https://vídụ.vn/đường?q=á hoặc vídụ.vn/á và a@vídụ.vn, www.ví";
        let kept = written(mixed).unwrap();
        for link in ["https://vídụ.vn/đường?q=á", "vídụ.vn/á", "a@vídụ.vn,", "www.ví"] {
            assert!(kept.contains(link), "{kept}");
        }
        assert!(kept.starts_with("mo "), "{kept}");
        // Decomposed, and with marks that no character has: the same.
        let decomposed: String = mixed.nfd().collect();
        assert_eq!(written(&decomposed).unwrap().nfc().collect::<String>(), kept);
        for link in ["q\u{323}.vn/a", "v\u{ed}\u{3002}vn"] {
            assert_eq!(written(link), None, "{link}");
        }
    }

    proptest! {
        #[test]
        fn no_link_changes(
            host in "[a-zêôơưđạ]{1,8}", zone in "[a-zê]{2,4}", path in "[a-z0-9ạế]{0,6}", decomposed: bool,
        ) {
            let link = format!("{host}.{zone}/{path}");
            let link: String = if decomposed { link.nfd().collect() } else { link };
            prop_assert_eq!(written(&link), None);
        }

        #[test]
        fn digits_and_ascii_never_change(text in "\\PC{0,60}") {
            let kept = |text: &str| text.chars().filter(char::is_ascii).collect::<String>();
            let plain = written(&text).unwrap_or_else(|| text.clone());
            // What was ASCII is there in its order; what became ASCII are letters.
            let mut rest = plain.chars();
            for character in kept(&text).chars() {
                prop_assert!(rest.any(|found| found == character), "{character:?}");
            }
            let digits = |text: &str| text.nfc().filter(|c| c.is_numeric()).collect::<String>();
            prop_assert_eq!(digits(&plain), digits(&text));
            prop_assert!(written(&plain).is_none(), "once is enough");
        }
    }
}
