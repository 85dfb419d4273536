//! Texts kept close together: books and a journal are many entries of a few short texts each.

/// So many texts in one piece of memory, each of which may be missing.
#[derive(Debug, Clone)]
pub(crate) struct Texts<const N: usize> {
    all: Box<str>,
    lengths: [u32; N],
}

/// What stands for the length of a text that is not there.
const MISSING: u32 = u32::MAX;

impl<const N: usize> Texts<N> {
    pub(crate) fn new(texts: [Option<&str>; N]) -> Self {
        let mut all = String::with_capacity(texts.iter().flatten().map(|text| text.len()).sum());
        let lengths = texts.map(|text| {
            let Some((text, length)) = text.and_then(|text| Some((text, u32::try_from(text.len()).ok()?))) else {
                return MISSING;
            };
            all.push_str(text);
            length
        });
        Self { all: all.into_boxed_str(), lengths }
    }

    /// In the order in which they were given.
    pub(crate) fn all(&self) -> [Option<&str>; N] {
        let mut rest = &*self.all;
        self.lengths.map(|length| {
            let length = Some(length).filter(|length| *length != MISSING)?;
            let (text, behind) = rest.split_at_checked(length as usize)?;
            rest = behind;
            Some(text)
        })
    }

    /// How many bytes of text there are.
    pub(crate) fn len(&self) -> usize {
        self.all.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_not_what_is_empty() {
        let texts = [Some("one"), None, Some(""), Some("zwölf"), None];
        assert_eq!(Texts::new(texts).all(), texts);
        assert_eq!(Texts::new(texts).len(), "onezwölf".len());
    }
}
