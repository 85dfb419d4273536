//! Numbers and texts in one small piece of memory: what there are tens of thousands of is kept so.
//!
//! Whoever reads takes the values in the order in which they were written, each by the name of its
//! kind.

use time::OffsetDateTime;

/// Writes.
#[derive(Debug)]
pub(crate) struct Packer(Vec<u8>);

/// Room for nearly everything that is packed, so that it need not grow on its way.
const ROOM: usize = 512;

impl Default for Packer {
    fn default() -> Self {
        Self(Vec::with_capacity(ROOM))
    }
}

/// What many texts are made of. Each takes one byte in them, one that is in no UTF-8; the first
/// that fits counts.
#[derive(Debug)]
pub(crate) struct Phrases {
    all: &'static [&'static str],
    /// Which bytes a phrase begins with: nearly no byte of a text does, and one look says so.
    begins: [bool; 256],
}

/// From here to 255 no byte is in any UTF-8: room for eleven phrases.
const FIRST_CODE: u8 = 0xF5;

/// Reads. What was never written is zero, or missing: then whoever reads has another order than who
/// wrote.
#[derive(Debug)]
pub(crate) struct Unpacker<'a>(&'a [u8]);

impl Packer {
    /// As few bytes as the number needs: seven bits in each, the lowest first.
    pub(crate) fn number(mut self, mut number: u64) -> Self {
        while number > 0x7F {
            self.0.push((number & 0x7F) as u8 | 0x80);
            number >>= 7;
        }
        self.0.push(number as u8);
        self
    }

    /// Numbers near zero are short, below it too.
    pub(crate) fn signed(self, number: i64) -> Self {
        self.number(((number << 1) ^ (number >> 63)) as u64)
    }

    pub(crate) fn time(self, time: OffsetDateTime) -> Self {
        self.signed(time.unix_timestamp()).number(time.nanosecond().into())
    }

    pub(crate) fn text(self, text: &str) -> Self {
        self.bytes(text.as_bytes())
    }

    pub(crate) fn bytes(self, bytes: &[u8]) -> Self {
        let mut packer = self.number(bytes.len() as u64);
        packer.0.extend_from_slice(bytes);
        packer
    }

    /// A text with a byte for each phrase in it.
    pub(crate) fn phrased(mut self, phrases: &Phrases, text: &str) -> Self {
        let start = self.0.len();
        phrases.shorten_onto(&mut self.0, text);
        // How long it is shows only now, and stands before it.
        let end = self.0.len();
        let mut packer = self.number((end - start) as u64);
        let written = packer.0.len() - end;
        if let Some(text_and_length) = packer.0.get_mut(start..) {
            text_and_length.rotate_right(written);
        }
        packer
    }

    /// What may be missing.
    pub(crate) fn maybe<T>(self, value: Option<T>, write: impl FnOnce(Self, T) -> Self) -> Self {
        match value {
            Some(value) => write(self.number(1), value),
            None => self.number(0),
        }
    }

    /// A copy of the right size: an allocator shrinks in place, and would keep the room that nobody
    /// needs any more.
    pub(crate) fn done(self) -> Box<[u8]> {
        Box::from(self.0.as_slice())
    }
}

impl<'a> Unpacker<'a> {
    pub(crate) fn new(packed: &'a [u8]) -> Self {
        Self(packed)
    }

    pub(crate) fn number(&mut self) -> u64 {
        let mut number = 0;
        let mut shift = 0;
        while let Some((first, rest)) = self.0.split_first() {
            self.0 = rest;
            number |= u64::from(first & 0x7F).checked_shl(shift).unwrap_or_default();
            shift += 7;
            if first & 0x80 == 0 {
                break;
            }
        }
        number
    }

    pub(crate) fn signed(&mut self) -> i64 {
        let number = self.number();
        (number >> 1) as i64 ^ -((number & 1) as i64)
    }

    pub(crate) fn time(&mut self) -> OffsetDateTime {
        let seconds = self.signed();
        let nanoseconds = u32::try_from(self.number()).unwrap_or_default();
        let time = OffsetDateTime::from_unix_timestamp(seconds).unwrap_or(OffsetDateTime::UNIX_EPOCH);
        time.replace_nanosecond(nanoseconds).unwrap_or(time)
    }

    pub(crate) fn text(&mut self) -> &'a str {
        std::str::from_utf8(self.bytes()).unwrap_or_default()
    }

    pub(crate) fn phrased(&mut self, phrases: &Phrases) -> String {
        phrases.widen(self.bytes())
    }

    /// One of these: as which number it was written, each knows.
    pub(crate) fn one_of<T: Copy + Default>(&mut self, all: &[T], number: impl Fn(T) -> u64) -> T {
        let written = self.number();
        all.iter().copied().find(|one| number(*one) == written).unwrap_or_default()
    }

    pub(crate) fn bytes(&mut self) -> &'a [u8] {
        let length = usize::try_from(self.number()).unwrap_or(usize::MAX);
        let Some((bytes, rest)) = self.0.split_at_checked(length) else { return &[] };
        self.0 = rest;
        bytes
    }

    pub(crate) fn maybe<T>(&mut self, read: impl FnOnce(&mut Self) -> T) -> Option<T> {
        (self.number() == 1).then(|| read(self))
    }
}

impl Phrases {
    pub(crate) const fn new(all: &'static [&'static str]) -> Phrases {
        let mut begins = [false; 256];
        let mut left = all;
        while let [phrase, rest @ ..] = left {
            if let [first, ..] = phrase.as_bytes() {
                #[expect(clippy::indexing_slicing, reason = "a byte is below 256, and `get_mut` is not const")]
                {
                    begins[*first as usize] = true;
                }
            }
            left = rest;
        }
        Phrases { all, begins }
    }

    /// The text with a byte for each phrase in it.
    pub(crate) fn shorten(&self, text: &str) -> Box<[u8]> {
        let mut short = Vec::with_capacity(text.len());
        self.shorten_onto(&mut short, text);
        Box::from(short.as_slice())
    }

    fn shorten_onto(&self, short: &mut Vec<u8>, text: &str) {
        let mut rest = text.as_bytes();
        while let Some((first, behind)) = rest.split_first() {
            let found = if self.begins.get(usize::from(*first)) == Some(&true) { self.at_start(rest) } else { None };
            let (byte, behind) = found.unwrap_or((*first, behind));
            short.push(byte);
            rest = behind;
        }
    }

    /// The phrase that these bytes begin with, as its byte, and what follows.
    fn at_start<'t>(&self, text: &'t [u8]) -> Option<(u8, &'t [u8])> {
        let mut codes = (FIRST_CODE..=u8::MAX).zip(self.all);
        codes.find_map(|(code, phrase)| {
            let phrase = phrase.as_bytes();
            // Nearly every other text differs in the last byte, and that one is quickly compared.
            let last = phrase.len().checked_sub(1)?;
            if text.get(last) != phrase.get(last) {
                return None;
            }
            Some((code, text.strip_prefix(phrase)?))
        })
    }

    pub(crate) fn widen(&self, short: &[u8]) -> String {
        let phrase = |byte: &u8| self.all.get(usize::from(byte.checked_sub(FIRST_CODE)?)).copied();
        let length = short.iter().map(|byte| phrase(byte).map_or(1, str::len)).sum();
        let mut text = Vec::with_capacity(length);
        for byte in short {
            match phrase(byte) {
                Some(phrase) => text.extend_from_slice(phrase.as_bytes()),
                None => text.push(*byte),
            }
        }
        String::from_utf8(text).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, option, prelude::*};

    use super::*;

    const PHRASES: Phrases = Phrases::new(&["{\"a", "ab", "a", "ä"]);

    proptest! {
        #[test]
        fn a_text_with_phrases_is_the_same_again(text in "[ab{\"ä]{0,20}|.{0,20}") {
            let packed = Packer::default().phrased(&PHRASES, &text).number(7).done();
            let mut packed = Unpacker::new(&packed);
            prop_assert_eq!(packed.phrased(&PHRASES), text);
            prop_assert_eq!(packed.number(), 7);
        }

        #[test]
        fn what_is_written_is_read(
            numbers in vec(any::<u64>(), 0..4), signed in any::<i64>(), texts in vec(option::of(".{0,200}"), 0..4),
            seconds in -377_705_116_800_i64..=253_402_300_799, nanoseconds in 0..1_000_000_000_u32,
        ) {
            let time = OffsetDateTime::from_unix_timestamp(seconds).unwrap().replace_nanosecond(nanoseconds).unwrap();
            let mut packer = Packer::default().signed(signed).time(time);
            for number in &numbers {
                packer = packer.number(*number);
            }
            for text in &texts {
                packer = packer.maybe(text.as_deref(), Packer::text);
            }
            let packed = packer.done();
            let mut unpacker = Unpacker::new(&packed);
            prop_assert_eq!((unpacker.signed(), unpacker.time()), (signed, time));
            prop_assert_eq!(numbers.iter().map(|_| unpacker.number()).collect::<Vec<_>>(), numbers);
            let read: Vec<Option<&str>> = texts.iter().map(|_| unpacker.maybe(Unpacker::text)).collect();
            prop_assert_eq!(read, texts.iter().map(Option::as_deref).collect::<Vec<_>>());
        }
    }
}
