//! Amounts in minor units, without floats: a provider's number is parsed from its decimal text.

use std::fmt;

/// An ISO 4217 currency with two decimals. The three providers bill in no other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Currency([u8; 3]);

/// An amount in hundredths of its currency: 1299 USD is 12.99 USD.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Money {
    pub currency: Currency,
    /// Hundredths of the currency.
    pub minor_units: i64,
}

/// Why a text is not a valid amount or currency.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidAmount {
    #[error("must be a currency code of three upper-case letters")]
    Currency,
    /// Not known to have two decimals.
    #[error("must be a currency with two decimals")]
    Decimals,
    #[error("is not a decimal number")]
    NotDecimal,
    /// More than ten trillion.
    #[error("is too large")]
    TooLarge,
}

/// The ISO 4217 codes of circulating currencies with two decimals. The list allows instead of
/// forbidding: a missing code is refused before anything is sent, whereas a wrongly accepted one
/// could send a hundred times the amount.
const TWO_DECIMAL_CURRENCIES: [&str; 130] = [
    "AED", "AFN", "ALL", "AMD", "AOA", "ARS", "AUD", "AWG", "AZN", "BAM", "BBD", "BDT", "BGN", "BMD", "BND", "BOB",
    "BRL", "BSD", "BTN", "BWP", "BYN", "BZD", "CAD", "CDF", "CHF", "CNY", "COP", "CRC", "CUP", "CVE", "CZK", "DKK",
    "DOP", "DZD", "EGP", "ERN", "ETB", "EUR", "FJD", "FKP", "GBP", "GEL", "GHS", "GIP", "GMD", "GTQ", "GYD", "HKD",
    "HNL", "HTG", "HUF", "IDR", "ILS", "INR", "IRR", "JMD", "KES", "KGS", "KHR", "KPW", "KYD", "KZT", "LAK", "LBP",
    "LKR", "LRD", "LSL", "MAD", "MDL", "MKD", "MMK", "MNT", "MOP", "MUR", "MVR", "MWK", "MXN", "MYR", "MZN", "NAD",
    "NGN", "NIO", "NOK", "NPR", "NZD", "PAB", "PEN", "PGK", "PHP", "PKR", "PLN", "QAR", "RON", "RSD", "RUB", "SAR",
    "SBD", "SCR", "SDG", "SEK", "SGD", "SHP", "SLE", "SOS", "SRD", "SSP", "STN", "SVC", "SYP", "SZL", "THB", "TJS",
    "TMT", "TOP", "TRY", "TTD", "TWD", "TZS", "UAH", "USD", "UYU", "UZS", "VES", "WST", "XCD", "XCG", "YER", "ZAR",
    "ZMW", "ZWG",
];

/// Far above any refund, and far below the point where sums of amounts could overflow.
const MAX_MINOR_UNITS: i128 = 1_000_000_000_000_000;

impl Currency {
    /// US dollar: the currency of name.com and Sectigo.
    pub const USD: Currency = Currency(*b"USD");

    /// Checks the form and that the currency has two decimals.
    ///
    /// # Errors
    /// [`InvalidAmount::Currency`], [`InvalidAmount::Decimals`]
    pub fn parse(code: &str) -> Result<Self, InvalidAmount> {
        let bytes: [u8; 3] = code.as_bytes().try_into().map_err(|_| InvalidAmount::Currency)?;
        if !bytes.iter().all(u8::is_ascii_uppercase) {
            return Err(InvalidAmount::Currency);
        }
        if TWO_DECIMAL_CURRENCIES.binary_search(&code).is_err() {
            return Err(InvalidAmount::Decimals);
        }
        Ok(Self(bytes))
    }

    pub fn code(&self) -> &str {
        std::str::from_utf8(&self.0).unwrap_or("???")
    }
}

/// How an amount in a provider's answer compares with ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Comparison {
    /// Equal to the cent.
    Same,
    /// Ours, truncated or rounded to fewer digits: no contradiction, but no proof of the cents
    /// either.
    LessPrecise,
    /// Not ours at any precision.
    Different,
}

impl Money {
    /// Compares the amount `reported` by a provider with this one, which is above zero.
    ///
    /// A valid text has digits and at most one point: no sign, no exponent, no comma. With fewer
    /// than two decimals it fits if it equals ours truncated or rounded to as many decimals: some
    /// services keep whole numbers, and none documents how it rounds.
    pub fn compare(&self, reported: &str) -> Comparison {
        let (whole, fraction) = match reported.split_once('.') {
            Some((_, "")) => return Comparison::Different,
            parts => parts.unwrap_or((reported, "")),
        };
        let all_digits = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit());
        if whole.is_empty() || !all_digits(whole) || !all_digits(fraction) {
            return Comparison::Different;
        }
        let Ok(hundredths) = parse_minor_units(reported) else { return Comparison::Different };
        let unit = match fraction.len() {
            0 => 100,
            1 => 10,
            _ if fraction.bytes().skip(2).all(|byte| byte == b'0') => 1,
            _ => return Comparison::Different,
        };
        let cut_off = self.minor_units - self.minor_units % unit;
        let rounded = self.minor_units + unit / 2 - (self.minor_units + unit / 2) % unit;
        match hundredths {
            same if same == self.minor_units => Comparison::Same,
            less if less == cut_off || less == rounded => Comparison::LessPrecise,
            _ => Comparison::Different,
        }
    }

    /// The sum of amounts in one currency. None if there are no amounts, one of them is unknown, or
    /// the sum is out of range.
    pub fn total(amounts: impl IntoIterator<Item = Option<Money>>) -> Option<Money> {
        amounts.into_iter().reduce(|sum, next| {
            let (sum, next) = (sum?, next?);
            Some(Money { minor_units: sum.minor_units.checked_add(next.minor_units)?, ..sum })
        })?
    }

    /// The amount as providers write it: `12.99`, `0.05`, `-3.00`.
    pub fn decimal(&self) -> String {
        let magnitude = self.minor_units.unsigned_abs();
        let sign = if self.minor_units < 0 { "-" } else { "" };
        format!("{sign}{}.{:02}", magnitude / 100, magnitude % 100)
    }
}

impl fmt::Display for Currency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.code())
    }
}

impl fmt::Display for Money {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.decimal(), self.currency)
    }
}

/// Parses a decimal number, as JSON or XML print it, into hundredths, rounded half away from zero.
///
/// Providers print binary floats (`9.9900000000000002`), so further digits are rounded instead of
/// refused. `NaN`, `Infinity`, an empty text and trailing characters are refused.
///
/// # Errors
/// [`InvalidAmount::NotDecimal`], [`InvalidAmount::TooLarge`]
pub fn parse_minor_units(text: &str) -> Result<i64, InvalidAmount> {
    let (negative, rest) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text),
    };
    let (mantissa, exponent) = match rest.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, parse_exponent(exponent)?),
        None => (rest, 0),
    };
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let all_digits = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit());
    let has_dot = mantissa.contains('.');
    if whole.is_empty() || (has_dot && fraction.is_empty()) || !all_digits(whole) || !all_digits(fraction) {
        return Err(InvalidAmount::NotDecimal);
    }
    let digits: Vec<u8> = whole.bytes().chain(fraction.bytes()).map(|byte| byte - b'0').collect();
    // Digits before index `keep` count hundredths; the one at `keep` decides the rounding.
    let keep = i64::try_from(whole.len()).unwrap_or(i64::MAX).saturating_add(exponent).saturating_add(2);
    let mut hundredths: i128 = 0;
    let mut position = 0_i64;
    let mut significant = false;
    for digit in &digits {
        if position >= keep {
            break;
        }
        significant |= *digit != 0;
        hundredths = hundredths * 10 + i128::from(*digit);
        position += 1;
        if hundredths > MAX_MINOR_UNITS {
            return Err(InvalidAmount::TooLarge);
        }
    }
    if significant {
        while position < keep {
            hundredths *= 10;
            position += 1;
            if hundredths > MAX_MINOR_UNITS {
                return Err(InvalidAmount::TooLarge);
            }
        }
    }
    let next_digit = usize::try_from(keep).ok().and_then(|index| digits.get(index)).copied().unwrap_or(0);
    if keep >= 0 && next_digit >= 5 {
        hundredths += 1;
    }
    let signed = if negative { -hundredths } else { hundredths };
    i64::try_from(signed).map_err(|_| InvalidAmount::TooLarge)
}

fn parse_exponent(text: &str) -> Result<i64, InvalidAmount> {
    let digits = text.strip_prefix(['+', '-']).unwrap_or(text);
    if digits.is_empty() || digits.len() > 4 || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(InvalidAmount::NotDecimal);
    }
    text.strip_prefix('+').unwrap_or(text).parse().map_err(|_| InvalidAmount::NotDecimal)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use rstest::rstest;

    #[rstest]
    #[case("10.99", Ok(1099))]
    #[case("9.9900000000000002", Ok(999))]
    #[case("9.98999999999999", Ok(999))]
    #[case("0.005", Ok(1))]
    #[case("0.0049", Ok(0))]
    #[case("12", Ok(1200))]
    #[case("12.5", Ok(1250))]
    #[case("-3.00", Ok(-300))]
    #[case("1.099e1", Ok(1099))]
    #[case("1099E-2", Ok(1099))]
    #[case("5e-3", Ok(1))]
    #[case("1e-9", Ok(0))]
    #[case("0e9999", Ok(0))]
    #[case("1e400", Err(InvalidAmount::TooLarge))]
    #[case("99999999999999999999", Err(InvalidAmount::TooLarge))]
    #[case("NaN", Err(InvalidAmount::NotDecimal))]
    #[case("Infinity", Err(InvalidAmount::NotDecimal))]
    #[case("", Err(InvalidAmount::NotDecimal))]
    #[case("-", Err(InvalidAmount::NotDecimal))]
    #[case("1.", Err(InvalidAmount::NotDecimal))]
    #[case(".5", Err(InvalidAmount::NotDecimal))]
    #[case("1,50", Err(InvalidAmount::NotDecimal))]
    #[case("1e", Err(InvalidAmount::NotDecimal))]
    #[case("1.2.3", Err(InvalidAmount::NotDecimal))]
    #[case(" 1", Err(InvalidAmount::NotDecimal))]
    fn a_decimal_text_becomes_hundredths(#[case] text: &str, #[case] expected: Result<i64, InvalidAmount>) {
        assert_eq!(parse_minor_units(text), expected);
    }

    #[rstest]
    #[case(1250, "12.50", Comparison::Same)]
    #[case(1250, "12.5", Comparison::Same)]
    #[case(1250, "0012.5000", Comparison::Same)]
    #[case(1250, "12", Comparison::LessPrecise)]
    #[case(1250, "13", Comparison::LessPrecise)]
    #[case(1250, "11", Comparison::Different)]
    #[case(1250, "14", Comparison::Different)]
    #[case(1250, "12.51", Comparison::Different)]
    #[case(1250, "12.4", Comparison::Different)]
    #[case(1250, "12.6", Comparison::Different)]
    #[case(1250, "12.500001", Comparison::Different)]
    #[case(1250, "12.4999999999", Comparison::Different)]
    #[case(1250, "1250", Comparison::Different)]
    #[case(1250, "0", Comparison::Different)]
    #[case(99, "0", Comparison::LessPrecise)]
    #[case(99, "1", Comparison::LessPrecise)]
    #[case(99, "0.9", Comparison::LessPrecise)]
    #[case(99, "1.0", Comparison::LessPrecise)]
    #[case(99, "1.00", Comparison::Different)]
    #[case(49, "0", Comparison::LessPrecise)]
    #[case(49, "1", Comparison::Different)]
    #[case(1249, "12.4", Comparison::LessPrecise)]
    #[case(1249, "12.5", Comparison::LessPrecise)]
    #[case(1249, "13", Comparison::Different)]
    #[case(1200, "12", Comparison::Same)]
    #[case(1200, "13", Comparison::Different)]
    #[case(1250, "-12.50", Comparison::Different)]
    #[case(1250, "+12.50", Comparison::Different)]
    #[case(1250, "12,50", Comparison::Different)]
    #[case(1250, "12 50", Comparison::Different)]
    #[case(1250, " 12.50", Comparison::Different)]
    #[case(1250, "1.25e1", Comparison::Different)]
    #[case(1250, "12.", Comparison::Different)]
    #[case(1250, ".5", Comparison::Different)]
    #[case(1250, "", Comparison::Different)]
    #[case(1250, "$12.50", Comparison::Different)]
    #[case(1250, "NaN", Comparison::Different)]
    #[case(1250, "\u{661}\u{662}", Comparison::Different)]
    #[case(1250, "99999999999999999999999", Comparison::Different)]
    fn amounts_are_compared_at_the_precision_given(
        #[case] ours: i64,
        #[case] reported: &str,
        #[case] expected: Comparison,
    ) {
        assert_eq!(Money { currency: Currency::USD, minor_units: ours }.compare(reported), expected);
    }

    #[rstest]
    #[case("USD", Ok(()))]
    #[case("AUD", Ok(()))]
    #[case("NZD", Ok(()))]
    #[case("XCD", Ok(()))]
    #[case("JPY", Err(InvalidAmount::Decimals))]
    #[case("KWD", Err(InvalidAmount::Decimals))]
    #[case("XAF", Err(InvalidAmount::Decimals))]
    #[case("XOF", Err(InvalidAmount::Decimals))]
    #[case("XPF", Err(InvalidAmount::Decimals))]
    #[case("XAU", Err(InvalidAmount::Decimals))]
    #[case("XXX", Err(InvalidAmount::Decimals))]
    #[case("XTS", Err(InvalidAmount::Decimals))]
    #[case("ABC", Err(InvalidAmount::Decimals))]
    #[case("usd", Err(InvalidAmount::Currency))]
    #[case("US", Err(InvalidAmount::Currency))]
    #[case("USDX", Err(InvalidAmount::Currency))]
    fn only_currencies_with_two_decimals_are_accepted(#[case] code: &str, #[case] expected: Result<(), InvalidAmount>) {
        assert_eq!(Currency::parse(code).map(drop), expected);
    }

    #[test]
    fn the_currency_codes_are_sorted_for_the_binary_search() {
        assert!(TWO_DECIMAL_CURRENCIES.is_sorted_by(|one, next| one < next));
        assert!(TWO_DECIMAL_CURRENCIES.iter().all(|code| Currency::parse(code).is_ok()));
    }

    proptest! {
        /// An accepted amount differs from ours by less than one unit of its own last digit.
        #[test]
        fn an_accepted_amount_is_less_than_one_unit_away(ours in 1..100_000_i64, whole in 0..1_000_u32, fraction in "(\\.[0-9]{1,4})?") {
            let reported = format!("{whole}{fraction}");
            let unit = match fraction.len() { 0 => 100, 2 => 10, _ => 1 };
            let distance = (parse_minor_units(&reported).unwrap() - ours).abs();
            match (Money { currency: Currency::USD, minor_units: ours }).compare(&reported) {
                Comparison::Same => prop_assert_eq!(distance, 0),
                Comparison::LessPrecise => prop_assert!(0 < distance && distance < unit),
                Comparison::Different => prop_assert!(2 * distance >= unit || fraction.len() > 3),
            }
        }

        #[test]
        fn a_printed_amount_is_read_back(minor_units in -1_000_000_000_000_000_i64..1_000_000_000_000_000) {
            let money = Money { currency: Currency::USD, minor_units };
            prop_assert_eq!(parse_minor_units(&money.decimal()), Ok(minor_units));
        }

        #[test]
        fn no_text_panics(text in "\\PC{0,40}") {
            let _ = parse_minor_units(&text);
        }
    }
}
