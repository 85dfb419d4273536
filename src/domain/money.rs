//! Amounts in minor units. No float anywhere: providers' numbers are read from their decimal text.

use std::fmt;

/// An ISO 4217 currency with two decimals, which is all that the three providers bill in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Currency([u8; 3]);

/// An amount in hundredths of its currency: 1299 USD is 12.99 USD.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Money {
    /// What it is counted in.
    pub currency: Currency,
    /// Hundredths.
    pub minor_units: i64,
}

/// Why a text is no amount or no currency.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadMoney {
    /// Not three upper-case letters.
    #[error("must be a currency code of three upper-case letters")]
    Currency,
    /// A currency that is not counted in hundredths.
    #[error("must be a currency with two decimals")]
    Decimals,
    /// Not a decimal number.
    #[error("is not a decimal number")]
    NotDecimal,
    /// Beyond ten trillion.
    #[error("is too large")]
    TooLarge,
}

/// ISO 4217 codes in use whose minor unit is not a hundredth.
const NOT_HUNDREDTHS: [&str; 24] = [
    "BHD", "BIF", "CLF", "CLP", "DJF", "GNF", "IQD", "ISK", "JOD", "JPY", "KMF", "KRW", "KWD", "LYD", "OMR", "PYG",
    "RWF", "TND", "UGX", "UYI", "UYW", "VND", "VUV", "XAF",
];

/// Far above any refund, far below where sums of amounts could overflow.
const LARGEST_MINOR_UNITS: i128 = 1_000_000_000_000_000;

impl Currency {
    /// US dollar: name.com's and Sectigo's currency.
    pub const USD: Currency = Currency(*b"USD");

    /// Checks the form and the decimals.
    ///
    /// # Errors
    /// [`BadMoney::Currency`], [`BadMoney::Decimals`]
    pub fn parse(code: &str) -> Result<Self, BadMoney> {
        let bytes: [u8; 3] = code.as_bytes().try_into().map_err(|_| BadMoney::Currency)?;
        if !bytes.iter().all(u8::is_ascii_uppercase) {
            return Err(BadMoney::Currency);
        }
        if NOT_HUNDREDTHS.contains(&code) {
            return Err(BadMoney::Decimals);
        }
        Ok(Self(bytes))
    }

    /// The three letters.
    pub fn code(&self) -> &str {
        std::str::from_utf8(&self.0).unwrap_or("???")
    }
}

impl Money {
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

/// Reads a decimal number, as JSON or XML print it, into hundredths, rounded half away from zero.
///
/// Providers print binary floats (`9.9900000000000002`), so further digits are rounded and not refused. `NaN`, `Infinity`, an empty text
/// and a number with a foreign tail are refused.
///
/// # Errors
/// [`BadMoney::NotDecimal`], [`BadMoney::TooLarge`]
pub fn hundredths_of(text: &str) -> Result<i64, BadMoney> {
    let (negative, rest) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text),
    };
    let (mantissa, exponent) = match rest.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, exponent_of(exponent)?),
        None => (rest, 0),
    };
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let all_digits = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit());
    let has_dot = mantissa.contains('.');
    if whole.is_empty() || (has_dot && fraction.is_empty()) || !all_digits(whole) || !all_digits(fraction) {
        return Err(BadMoney::NotDecimal);
    }
    let digits: Vec<u8> = whole.bytes().chain(fraction.bytes()).map(|byte| byte - b'0').collect();
    // Digits before `keep` count hundredths; the one at `keep` decides the rounding.
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
        if hundredths > LARGEST_MINOR_UNITS {
            return Err(BadMoney::TooLarge);
        }
    }
    if significant {
        while position < keep {
            hundredths *= 10;
            position += 1;
            if hundredths > LARGEST_MINOR_UNITS {
                return Err(BadMoney::TooLarge);
            }
        }
    }
    let next_digit = usize::try_from(keep).ok().and_then(|index| digits.get(index)).copied().unwrap_or(0);
    if keep >= 0 && next_digit >= 5 {
        hundredths += 1;
    }
    let signed = if negative { -hundredths } else { hundredths };
    i64::try_from(signed).map_err(|_| BadMoney::TooLarge)
}

fn exponent_of(text: &str) -> Result<i64, BadMoney> {
    let digits = text.strip_prefix(['+', '-']).unwrap_or(text);
    if digits.is_empty() || digits.len() > 4 || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(BadMoney::NotDecimal);
    }
    text.strip_prefix('+').unwrap_or(text).parse().map_err(|_| BadMoney::NotDecimal)
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
    #[case("1e400", Err(BadMoney::TooLarge))]
    #[case("99999999999999999999", Err(BadMoney::TooLarge))]
    #[case("NaN", Err(BadMoney::NotDecimal))]
    #[case("Infinity", Err(BadMoney::NotDecimal))]
    #[case("", Err(BadMoney::NotDecimal))]
    #[case("-", Err(BadMoney::NotDecimal))]
    #[case("1.", Err(BadMoney::NotDecimal))]
    #[case(".5", Err(BadMoney::NotDecimal))]
    #[case("1,50", Err(BadMoney::NotDecimal))]
    #[case("1e", Err(BadMoney::NotDecimal))]
    #[case("1.2.3", Err(BadMoney::NotDecimal))]
    #[case(" 1", Err(BadMoney::NotDecimal))]
    fn decimal_text_becomes_hundredths(#[case] text: &str, #[case] expected: Result<i64, BadMoney>) {
        assert_eq!(hundredths_of(text), expected);
    }

    proptest! {
        #[test]
        fn what_is_printed_is_read_back(minor_units in -1_000_000_000_000_000_i64..1_000_000_000_000_000) {
            let money = Money { currency: Currency::USD, minor_units };
            prop_assert_eq!(hundredths_of(&money.decimal()), Ok(minor_units));
        }

        #[test]
        fn no_text_panics(text in "\\PC{0,40}") {
            let _ = hundredths_of(&text);
        }
    }
}
