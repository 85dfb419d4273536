//! Invisible characters that can change what a person reads.

/// Whether a character is a control character (Unicode category Cc) or a format character (Cf):
/// zero-width joiners, direction marks, the byte order mark, invisible tags. References and labels
/// must not contain them, or two different ones could look alike.
pub fn is_control_or_format(character: char) -> bool {
    character.is_control() || is_format(character)
}

/// Category Cf of Unicode 16.
fn is_format(character: char) -> bool {
    matches!(
        character,
        '\u{AD}'
            | '\u{600}'..='\u{605}'
            | '\u{61C}'
            | '\u{6DD}'
            | '\u{70F}'
            | '\u{890}'..='\u{891}'
            | '\u{8E2}'
            | '\u{180E}'
            | '\u{200B}'..='\u{200F}'
            | '\u{202A}'..='\u{202E}'
            | '\u{2060}'..='\u{2064}'
            | '\u{2066}'..='\u{206F}'
            | '\u{FEFF}'
            | '\u{FFF9}'..='\u{FFFB}'
            | '\u{110BD}'
            | '\u{110CD}'
            | '\u{13430}'..='\u{1343F}'
            | '\u{1BCA0}'..='\u{1BCA3}'
            | '\u{1D173}'..='\u{1D17A}'
            | '\u{E0001}'
            | '\u{E0020}'..='\u{E007F}'
    )
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    // The strategies use Unicode's own tables.
    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4_000))]

        #[test]
        fn every_control_and_format_character_is_one(text in "[\\p{Cc}\\p{Cf}]{1,4}") {
            for character in text.chars() {
                prop_assert!(is_control_or_format(character), "{:?}", character);
            }
        }

        #[test]
        fn no_other_character_is_one(text in "[\\P{C}\\u{0}-\\u{2100}&&[^\\p{Cc}\\p{Cf}]]{1,8}") {
            for character in text.chars() {
                prop_assert!(!is_control_or_format(character), "{:?}", character);
            }
        }
    }

    #[test]
    fn the_ranges_have_unicodes_bounds() {
        // The characters next to each range. None of them is in the category.
        let others = "\u{AC}\u{AE}\u{5FF}\u{606}\u{61B}\u{61D}\u{6DC}\u{6DE}\u{70E}\u{710}\u{88F}\u{892}\u{8E1}\u{8E3}\
                      \u{180D}\u{180F}\u{200A}\u{2010}\u{2029}\u{202F}\u{205F}\u{2065}\u{2070}\u{FEFE}\u{FF00}\u{FFF8}\
                      \u{FFFC}\u{110BC}\u{110BE}\u{110CC}\u{110CE}\u{1342F}\u{13440}\u{1BC9F}\u{1BCA4}\u{1D172}\
                      \u{1D17B}\u{E0000}\u{E0002}\u{E001F}\u{E0080}";
        assert_eq!(others.chars().filter(|character| is_control_or_format(*character)).count(), 0);
    }
}
