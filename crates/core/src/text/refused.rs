//! Characters that no message may carry: controls, and what hides or reorders text.

use super::TextError;

/// Finds the first character that may not be sent.
pub(super) fn check(text: &str) -> Result<(), TextError> {
    for (index, character) in text.chars().enumerate() {
        let (position, code_point) = (index + 1, u32::from(character));
        if character.is_control() && !matches!(character, '\n' | '\r') {
            return Err(TextError::Control { position, code_point });
        }
        if is_invisible(character) {
            return Err(TextError::Invisible { position, code_point });
        }
    }
    Ok(())
}

/// Characters without a glyph of their own, or that change the direction of writing. A filter, a template check and
/// a reader each see another text when one of these is inside. The two variation selectors that choose between
/// the text and the picture form of an emoji (U+FE0E, U+FE0F) are harmless and common, so they stay.
const fn is_invisible(character: char) -> bool {
    matches!(
        character,
        '\u{00AD}'                    // soft hyphen
        | '\u{034F}'                  // combining grapheme joiner
        | '\u{061C}'                  // Arabic letter mark
        | '\u{115F}' | '\u{1160}'     // Hangul fillers
        | '\u{17B4}' | '\u{17B5}'     // Khmer inherent vowels
        | '\u{180B}'..='\u{180F}'     // Mongolian selectors and vowel separator
        | '\u{200B}'..='\u{200F}'     // zero-width space, joiners, direction marks
        | '\u{2028}'..='\u{202E}'     // line and paragraph separators, direction embeddings and overrides
        | '\u{2060}'..='\u{206F}'     // word joiner, invisible operators, direction isolates
        | '\u{3164}' | '\u{FFA0}'     // Hangul fillers
        | '\u{FDD0}'..='\u{FDEF}'     // non-characters
        | '\u{FE00}'..='\u{FE0D}'     // variation selectors
        | '\u{FEFF}'                  // zero-width no-break space, the byte order mark
        | '\u{FFF0}'..='\u{FFFB}'     // unassigned ignorables and annotation marks
        | '\u{1BCA0}'..='\u{1BCA3}'   // shorthand controls
        | '\u{1D173}'..='\u{1D17A}'   // musical controls
        | '\u{E0000}'..='\u{E0FFF}'   // tags and further variation selectors
    ) || character as u32 & 0xFFFE == 0xFFFE // the last two code points of each plane: non-characters
}
