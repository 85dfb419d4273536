//! Checks of setting values while they are deserialized. A value that no answer could contain is
//! refused with a sentence.

use http::HeaderValue;
use serde::{Deserialize as _, Deserializer, de::Error};

/// The maximum length of a sentence in an answer, in characters.
const MAX_SENTENCE_CHARS: usize = 500;
/// The maximum offset of `xs:dateTime`.
const MAX_OFFSET_MINUTES: i16 = 14 * 60;

/// The status of an answer.
pub(crate) fn http_status<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u16, D::Error> {
    let status = u16::deserialize(deserializer)?;
    let said = || D::Error::custom(format!("{status} is no HTTP status from 200 to 599"));
    (200..=599).contains(&status).then_some(status).ok_or_else(said)
}

/// The code of a refusal.
pub(crate) fn refusal_code<'de, D: Deserializer<'de>>(deserializer: D) -> Result<i32, D::Error> {
    let code = i32::deserialize(deserializer)?;
    let said = || D::Error::custom(format!("{code} is no code of a refusal: from -999 to -1"));
    (-999..=-1).contains(&code).then_some(code).ok_or_else(said)
}

/// One line of text for a client to read.
pub(crate) fn sentence<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    let text = String::deserialize(deserializer)?;
    let fits = (1..=MAX_SENTENCE_CHARS).contains(&text.chars().count()) && !text.contains(char::is_control);
    let said = || D::Error::custom(format!("a sentence is one line of 1 to {MAX_SENTENCE_CHARS} characters"));
    if fits { Ok(text) } else { Err(said()) }
}

/// One line of text, or none.
pub(crate) fn maybe_sentence<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    #[derive(serde::Deserialize)]
    struct Sentence(#[serde(deserialize_with = "sentence")] String);
    Ok(Option::<Sentence>::deserialize(deserializer)?.map(|Sentence(text)| text))
}

/// The number of entries per page.
pub(crate) fn page_size<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u32, D::Error> {
    let size = u32::deserialize(deserializer)?;
    let said = || D::Error::custom(format!("{size} is no size of a page: from 1 to 1000"));
    (1..=1000).contains(&size).then_some(size).ok_or_else(said)
}

/// A delay in minutes.
pub(crate) fn lag_minutes<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u16, D::Error> {
    let minutes = u16::deserialize(deserializer)?;
    let said = || D::Error::custom(format!("{minutes} minutes are too many: from 0 to 840"));
    (minutes <= 840).then_some(minutes).ok_or_else(said)
}

/// A value of `Content-Type`.
pub(crate) fn media_type<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    let text = sentence(deserializer)?;
    let is_one = text.contains('/') && HeaderValue::from_str(&text).is_ok();
    if is_one { Ok(text) } else { Err(D::Error::custom(format!("`{text}` is no media type"))) }
}

/// An offset from UTC.
pub(crate) fn offset_minutes<'de, D: Deserializer<'de>>(deserializer: D) -> Result<i16, D::Error> {
    let minutes = i16::deserialize(deserializer)?;
    let far = -MAX_OFFSET_MINUTES..=MAX_OFFSET_MINUTES;
    let said = || D::Error::custom(format!("{minutes} minutes are no offset: from -840 to 840"));
    far.contains(&minutes).then_some(minutes).ok_or_else(said)
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use crate::providers::Settings;

    #[rstest]
    #[case("sectigo", "refusal_http_status", "99", "99 is no HTTP status")]
    #[case("sectigo", "refusal_http_status", "600", "600 is no HTTP status")]
    #[case("sectigo", "wrong_login_code", "0", "0 is no code of a refusal")]
    #[case("sectigo", "wrong_login_code", "-1000", "-1000 is no code of a refusal")]
    #[case("sectigo", "multi_domain_text", "\"\"", "a sentence is one line")]
    #[case("sectigo", "multi_domain_text", "\"two\\nlines\"", "a sentence is one line")]
    #[case("sectigo", "plain_content_type", "\"text\"", "`text` is no media type")]
    #[case("sectigo", "status_content_type", "\"text/\\u0001\"", "a sentence is one line")]
    #[case("namecom", "rate_limit_details", "\"\"", "a sentence is one line")]
    #[case("namecom", "malformed_details", "7", "invalid type")]
    #[case("namecom", "orders_per_page", "0", "0 is no size of a page")]
    #[case("namecom", "orders_per_page", "1001", "1001 is no size of a page")]
    #[case("namecom", "order_times_behind_minutes", "841", "841 minutes are too many")]
    #[case("debitsuccess", "utc_offset_minutes", "841", "841 minutes are no offset")]
    #[case("debitsuccess", "business_error_http_status", "100", "100 is no HTTP status")]
    fn a_value_that_no_answer_could_contain_is_refused(
        #[case] provider: &str,
        #[case] setting: &str,
        #[case] value: &str,
        #[case] why: &str,
    ) {
        let json = format!("{{\"{provider}\":{{\"{setting}\":{value}}}}}");
        let refused = serde_json::from_str::<Settings>(&json).unwrap_err().to_string();
        assert!(refused.contains(why), "{refused}");
    }

    #[test]
    fn an_optional_sentence_can_be_null() {
        let settings: Settings = serde_json::from_str("{\"namecom\":{\"malformed_details\":null}}").unwrap();
        assert_eq!(settings, Settings::default());
    }
}
