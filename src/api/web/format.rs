//! The media types that the endpoint takes, and what each means.

use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderValue};

/// How the messages of a call are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Codec {
    Json,
    Proto,
}

/// How a call is wrapped into a request and a response.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Format {
    /// Connect: the body is the message.
    Unary(Codec),
    /// Connect: the body is a sequence of envelopes.
    Stream(Codec),
    /// gRPC-Web, binary or as base64.
    GrpcWeb { is_text: bool },
}

/// Every media type, without parameters.
const MEDIA_TYPES: [(&str, Format); 8] = [
    ("application/json", Format::Unary(Codec::Json)),
    ("application/proto", Format::Unary(Codec::Proto)),
    ("application/connect+json", Format::Stream(Codec::Json)),
    ("application/connect+proto", Format::Stream(Codec::Proto)),
    ("application/grpc-web+proto", Format::GrpcWeb { is_text: false }),
    ("application/grpc-web", Format::GrpcWeb { is_text: false }),
    ("application/grpc-web-text+proto", Format::GrpcWeb { is_text: true }),
    ("application/grpc-web-text", Format::GrpcWeb { is_text: true }),
];

impl Format {
    /// The format of a request. None if the endpoint does not take it.
    pub(super) fn of(headers: &HeaderMap) -> Option<Self> {
        let mut values = headers.get_all(CONTENT_TYPE).iter();
        let (Some(value), None) = (values.next(), values.next()) else { return None };
        let media_type = value.to_str().ok()?.split(';').next()?.trim();
        let found = MEDIA_TYPES.iter().find(|(name, _)| name.eq_ignore_ascii_case(media_type));
        found.map(|(_, format)| *format)
    }

    /// The media type of a response.
    pub(super) fn content_type(self) -> HeaderValue {
        let name = MEDIA_TYPES.iter().find(|(_, format)| *format == self).map_or("", |(name, _)| name);
        HeaderValue::from_static(name)
    }

    /// All media types, as in `Accept-Post`.
    pub(super) fn accepted() -> String {
        MEDIA_TYPES.map(|(name, _)| name).join(", ")
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case(&["application/json"], Some(Format::Unary(Codec::Json)))]
    #[case(&["Application/JSON; charset=utf-8"], Some(Format::Unary(Codec::Json)))]
    #[case(&["application/proto"], Some(Format::Unary(Codec::Proto)))]
    #[case(&["application/connect+json"], Some(Format::Stream(Codec::Json)))]
    #[case(&["application/connect+proto ;x"], Some(Format::Stream(Codec::Proto)))]
    #[case(&["application/grpc-web"], Some(Format::GrpcWeb { is_text: false }))]
    #[case(&["application/grpc-web+proto"], Some(Format::GrpcWeb { is_text: false }))]
    #[case(&["application/grpc-web-text"], Some(Format::GrpcWeb { is_text: true }))]
    #[case(&["application/grpc-web-text+proto"], Some(Format::GrpcWeb { is_text: true }))]
    #[case(&["application/grpc"], None)]
    #[case(&["application/grpc+proto"], None)]
    #[case(&["application/grpc-web+json"], None)]
    #[case(&["application/x-www-form-urlencoded"], None)]
    #[case(&["multipart/form-data; boundary=x"], None)]
    #[case(&["text/plain"], None)]
    #[case(&["text/plain; application/json"], None)]
    #[case(&[""], None)]
    #[case(&[], None)]
    #[case(&["application/json", "text/plain"], None)]
    fn only_the_listed_media_types_are_taken(#[case] types: &[&str], #[case] expected: Option<Format>) {
        let mut headers = HeaderMap::new();
        for value in types {
            headers.append(CONTENT_TYPE, HeaderValue::from_str(value).unwrap());
        }
        assert_eq!(Format::of(&headers), expected);
    }
}
