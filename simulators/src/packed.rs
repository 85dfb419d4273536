//! Numbers and texts in one small piece of memory: what there are tens of thousands of is kept so.
//!
//! Whoever reads takes the values in the order in which they were written, each by the name of its kind.

use time::OffsetDateTime;

/// Writes.
#[derive(Debug, Default)]
pub(crate) struct Packer(Vec<u8>);

/// Reads. What was never written is zero, or missing: then whoever reads has another order than who wrote.
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
        let mut packer = self.number(text.len() as u64);
        packer.0.extend_from_slice(text.as_bytes());
        packer
    }

    /// What may be missing.
    pub(crate) fn maybe<T>(self, value: Option<T>, write: impl FnOnce(Self, T) -> Self) -> Self {
        match value {
            Some(value) => write(self.number(1), value),
            None => self.number(0),
        }
    }

    pub(crate) fn done(self) -> Box<[u8]> {
        self.0.into_boxed_slice()
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
        let length = usize::try_from(self.number()).unwrap_or(usize::MAX);
        let Some((text, rest)) = self.0.split_at_checked(length) else { return "" };
        self.0 = rest;
        std::str::from_utf8(text).unwrap_or_default()
    }

    pub(crate) fn maybe<T>(&mut self, read: impl FnOnce(&mut Self) -> T) -> Option<T> {
        (self.number() == 1).then(|| read(self))
    }
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, option, prelude::*};

    use super::*;

    proptest! {
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
