//! Until when a certificate or a certificate revocation list is valid: the two fields of their DER
//! that rustls reads and does not show.

use time::{Date, Month, PrimitiveDateTime, Time};

use crate::domain::clock::Timestamp;

const INTEGER: u8 = 0x02;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;
const SEQUENCE: u8 = 0x30;
/// `[0] EXPLICIT`
const VERSION: u8 = 0xa0;
/// Long lengths have this bit, and their number of bytes below it.
const LONG_LENGTH: u8 = 0x80;
const MAX_LENGTH_BYTES: u8 = 4;
/// Two digits of a year from here on are of the last century (RFC 5280).
const FIRST_YEAR_OF_1900S: i32 = 50;

/// Begin and end of a certificate's validity. None if it is not a certificate.
pub(super) fn of_certificate(der: &[u8]) -> Option<(Timestamp, Timestamp)> {
    let mut fields = Der(Der(der).expect(SEQUENCE)?).expect(SEQUENCE).map(Der)?;
    fields.skip_if(VERSION);
    // Serial number, signature algorithm, issuer.
    for tag in [INTEGER, SEQUENCE, SEQUENCE] {
        fields.expect(tag)?;
    }
    let mut validity = Der(fields.expect(SEQUENCE)?);
    Some((validity.time()?, validity.time()?))
}

/// When the next list is due. None if the list does not say.
pub(super) fn of_revocation_list(der: &[u8]) -> Option<Timestamp> {
    let mut fields = Der(Der(der).expect(SEQUENCE)?).expect(SEQUENCE).map(Der)?;
    fields.skip_if(INTEGER);
    // Signature algorithm, issuer.
    for tag in [SEQUENCE, SEQUENCE] {
        fields.expect(tag)?;
    }
    let _this_update = fields.time()?;
    fields.time()
}

/// The elements of a DER value that have not been read.
struct Der<'a>(&'a [u8]);

impl<'a> Der<'a> {
    fn next(&mut self) -> Option<(u8, &'a [u8])> {
        let (&[tag, length], mut rest) = self.0.split_first_chunk()?;
        let mut size = usize::from(length);
        if length & LONG_LENGTH != 0 {
            let count = length & !LONG_LENGTH;
            let (digits, after) = rest.split_at_checked(usize::from(count)).filter(|_| count <= MAX_LENGTH_BYTES)?;
            size = digits.iter().fold(0, |size, digit| (size << 8) | usize::from(*digit));
            rest = after;
        }
        let (value, rest) = rest.split_at_checked(size)?;
        self.0 = rest;
        Some((tag, value))
    }

    fn expect(&mut self, tag: u8) -> Option<&'a [u8]> {
        self.next().filter(|(found, _)| *found == tag).map(|(_, value)| value)
    }

    fn skip_if(&mut self, tag: u8) {
        if self.0.first() == Some(&tag) {
            let _skipped = self.next();
        }
    }

    fn time(&mut self) -> Option<Timestamp> {
        let (tag, text) = self.next()?;
        let text = std::str::from_utf8(text).ok()?.strip_suffix('Z')?;
        let number = |range: std::ops::Range<usize>| text.get(range)?.parse::<u8>().ok();
        let (year, rest) = match tag {
            UTC_TIME => match i32::from(number(0..2)?) {
                year if year < FIRST_YEAR_OF_1900S => (2000 + year, 2),
                year => (1900 + year, 2),
            },
            GENERALIZED_TIME => (text.get(..4)?.parse().ok()?, 4),
            _ => return None,
        };
        let part = |index: usize| number(rest + 2 * index..rest + 2 * index + 2);
        let date = Date::from_calendar_date(year, Month::try_from(part(0)?).ok()?, part(1)?).ok()?;
        let time = Time::from_hms(part(2)?, part(3)?, part(4)?).ok()?;
        let seconds = PrimitiveDateTime::new(date, time).assume_utc().unix_timestamp();
        Some(Timestamp::from_seconds(seconds))
    }
}
