//! Which hosts a request may be sent to, and which web pages may send it.
//!
//! A browser lets every page send requests to every host. A page of a foreign origin is refused
//! before anything else is looked at, and a host name that is not ours is too: a page could make
//! its own name point at this machine.

use http::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN,
    ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE, HOST, ORIGIN, VARY,
};
use http::uri::Authority;
use http::{HeaderMap, HeaderName, HeaderValue, Uri};

use crate::api::WebSettings;

/// The origin of the page that a request comes from, if one may call.
pub(super) struct AllowedOrigin(Option<HeaderValue>);

/// Why a request is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum OriginError {
    #[error("the request is not for a host of this endpoint: see `http.hosts`")]
    Host,
    #[error("pages of this origin may not call: see `http.allowed_origins`")]
    Origin,
}

/// What pages may send, besides what browsers always let them send.
const REQUEST_HEADERS: &str = "authorization, connect-content-encoding, connect-protocol-version, \
                               connect-timeout-ms, content-encoding, content-type, grpc-timeout, traceparent, \
                               tracestate, x-grpc-web, x-user-agent";
/// What pages may read, besides what browsers always let them read.
const RESPONSE_HEADERS: &str = "connect-content-encoding, content-encoding, grpc-encoding, grpc-message, \
                                grpc-status, grpc-status-details-bin, retry-after, www-authenticate";
/// How long browsers remember the answer to a preflight.
const MAX_AGE_S: &str = "7200";

impl AllowedOrigin {
    /// # Errors
    /// [`OriginError`]
    pub(super) fn of(uri: &Uri, headers: &HeaderMap, settings: &WebSettings) -> Result<Self, OriginError> {
        if !host_of(uri, headers).is_some_and(|host| is_known(&host, settings)) {
            return Err(OriginError::Host);
        }
        let mut origins = headers.get_all(ORIGIN).iter();
        match (origins.next(), origins.next()) {
            (None, _) => Ok(Self(None)),
            (Some(origin), None) => {
                let is_allowed =
                    |text: &str| settings.allowed_origins.iter().any(|allowed| allowed.eq_ignore_ascii_case(text));
                let allowed = origin.to_str().is_ok_and(is_allowed);
                if allowed { Ok(Self(Some(origin.clone()))) } else { Err(OriginError::Origin) }
            }
            (Some(_), Some(_)) => Err(OriginError::Origin),
        }
    }

    /// Lets the page read a response.
    pub(super) fn allow(&self, headers: &mut HeaderMap) {
        headers.append(VARY, HeaderValue::from_static("origin"));
        if let Some(origin) = &self.0 {
            headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone());
            headers.insert(ACCESS_CONTROL_EXPOSE_HEADERS, HeaderValue::from_static(RESPONSE_HEADERS));
        }
    }

    /// Lets the page send requests with this method.
    pub(super) fn allow_requests(&self, headers: &mut HeaderMap, method: &'static str) {
        if self.0.is_some() {
            let values: [(HeaderName, &'static str); 3] = [
                (ACCESS_CONTROL_ALLOW_METHODS, method),
                (ACCESS_CONTROL_ALLOW_HEADERS, REQUEST_HEADERS),
                (ACCESS_CONTROL_MAX_AGE, MAX_AGE_S),
            ];
            for (name, value) in values {
                headers.insert(name, HeaderValue::from_static(value));
            }
        }
    }
}

/// The host that a request names, without its port: once, or twice the same.
fn host_of(uri: &Uri, headers: &HeaderMap) -> Option<String> {
    let mut named = uri.authority().map(|authority| authority.host().to_ascii_lowercase());
    for header in headers.get_all(HOST) {
        let authority: Authority = header.to_str().ok()?.parse().ok()?;
        let host = authority.host().to_ascii_lowercase();
        if named.as_ref().is_some_and(|named| *named != host) {
            return None;
        }
        named = Some(host);
    }
    named
}

fn is_known(host: &str, settings: &WebSettings) -> bool {
    let address = host.trim_start_matches('[').trim_end_matches(']');
    let is_loopback = address.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback());
    host == "localhost" || is_loopback || settings.hosts.iter().any(|known| known == host)
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case("/x", &["localhost"], &[], None)]
    #[case("/x", &["localhost:8080"], &[], None)]
    #[case("/x", &["LOCALHOST:8080"], &[], None)]
    #[case("/x", &["127.0.0.1:8080"], &[], None)]
    #[case("/x", &["127.1.2.3"], &[], None)]
    #[case("/x", &["[::1]:8080"], &[], None)]
    #[case("/x", &["api.example:8443"], &[], None)]
    #[case("http://api.example/x", &[], &[], None)]
    #[case("/x", &["other.example"], &[], Some(OriginError::Host))]
    #[case("/x", &["api.example.evil"], &[], Some(OriginError::Host))]
    #[case("/x", &["localhost.evil"], &[], Some(OriginError::Host))]
    #[case("/x", &["127.0.0.1.nip.io"], &[], Some(OriginError::Host))]
    #[case("/x", &["192.168.1.1"], &[], Some(OriginError::Host))]
    #[case("/x", &["user@"], &[], Some(OriginError::Host))]
    #[case("/x", &[""], &[], Some(OriginError::Host))]
    #[case("/x", &[], &[], Some(OriginError::Host))]
    #[case("/x", &["localhost", "evil"], &[], Some(OriginError::Host))]
    #[case("http://evil/x", &["localhost"], &[], Some(OriginError::Host))]
    #[case("/x", &["localhost"], &["https://shop.example"], None)]
    #[case("/x", &["localhost"], &["https://evil.example"], Some(OriginError::Origin))]
    #[case("/x", &["localhost"], &["http://shop.example"], Some(OriginError::Origin))]
    #[case("/x", &["localhost"], &["https://shop.example:444"], Some(OriginError::Origin))]
    #[case("/x", &["localhost"], &["null"], Some(OriginError::Origin))]
    #[case("/x", &["localhost"], &["http://localhost:8080"], Some(OriginError::Origin))]
    #[case("/x", &["localhost"], &["https://shop.example", "https://shop.example"], Some(OriginError::Origin))]
    fn foreign_hosts_and_pages_are_refused(
        #[case] uri: &str,
        #[case] hosts: &[&str],
        #[case] origins: &[&str],
        #[case] expected: Option<OriginError>,
    ) {
        let settings = WebSettings {
            hosts: vec!["api.example".to_owned()],
            allowed_origins: vec!["https://shop.example".to_owned()],
        };
        let mut headers = HeaderMap::new();
        for (name, values) in [(HOST, hosts), (ORIGIN, origins)] {
            for value in values {
                headers.append(&name, HeaderValue::from_str(value).unwrap());
            }
        }
        let result = AllowedOrigin::of(&uri.parse().unwrap(), &headers, &settings);
        assert_eq!(result.as_ref().err().copied(), expected);
        let mut response = HeaderMap::new();
        if let Ok(origin) = result {
            origin.allow(&mut response);
        }
        let is_page = expected.is_none() && !origins.is_empty();
        assert_eq!(response.contains_key(ACCESS_CONTROL_ALLOW_ORIGIN), is_page);
    }
}
