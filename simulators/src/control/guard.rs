//! Refuses requests for a foreign `Host` and from web pages of a foreign `Origin`.
//!
//! The control port has no password. A page in a browser on this machine could call it by the
//! loopback address (then `Origin` names the page's server), or by a name of its own that resolves
//! to this machine (DNS rebinding; then `Host` is that name). Both are refused, for every method
//! and path.

use std::{net::IpAddr, sync::Arc};

use axum::{
    extract::{Request, State},
    middleware::Next,
    response::{IntoResponse as _, Response},
};
use http::{HeaderMap, HeaderName, header};

use super::extract::ApiError;

/// Accepted values of `Host` besides those of loopback, in lower case.
#[derive(Debug, Clone, Default)]
pub(super) struct Hosts(Arc<[String]>);

impl Hosts {
    pub(super) fn new(names: &[String]) -> Hosts {
        Hosts(names.iter().map(|name| name.to_ascii_lowercase()).collect())
    }

    /// Whether it is a loopback name or a configured one. The port does not matter, because the
    /// control port may be published under another one.
    fn accepts(&self, authority: &str) -> bool {
        let Some(host) = host_of(authority) else { return false };
        let host = host.to_ascii_lowercase();
        let address = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
        let is_loopback = match address {
            Ok(IpAddr::V6(address)) => {
                address.is_loopback() || address.to_ipv4_mapped().is_some_and(|address| address.is_loopback())
            }
            Ok(IpAddr::V4(address)) => address.is_loopback(),
            Err(_) => host == "localhost",
        };
        is_loopback || self.0.contains(&host)
    }
}

/// Passes a request on, or answers 403.
pub(super) async fn guard(State(hosts): State<Hosts>, request: Request, next: Next) -> Response {
    match refusal(&hosts, &request) {
        Some(sentence) => ApiError::forbidden(sentence).into_response(),
        None => next.run(request).await,
    }
}

fn refusal(hosts: &Hosts, request: &Request) -> Option<String> {
    let headers = request.headers();
    let Ok(host) = only_value(headers, &header::HOST) else {
        return Some("the control port accepts only one `Host`".to_owned());
    };
    let from_uri = request.uri().authority().map(|authority| authority.as_str());
    let Some(host) = host.or(from_uri) else {
        return Some("the control port needs a `Host`, and there is none".to_owned());
    };
    if let Some(foreign) = [Some(host), from_uri].into_iter().flatten().find(|name| !hosts.accepts(name)) {
        return Some(format!(
            "the control port does not answer for the host `{}`: it accepts loopback names and those of `control_hosts` (--control-host)",
            sanitized(foreign)
        ));
    }
    match only_value(headers, &header::ORIGIN) {
        Ok(None) => None,
        Ok(Some(origin)) if is_own(origin, host) => None,
        Ok(Some(origin)) => Some(format!(
            "the control port accepts no calls from pages of another origin, such as `{}`",
            sanitized(origin)
        )),
        Err(Repeated) => Some("the control port accepts only one `Origin`".to_owned()),
    }
}

/// Whether a page of this origin was served here.
fn is_own(origin: &str, host: &str) -> bool {
    let authority = origin.strip_prefix("http://").or_else(|| origin.strip_prefix("https://"));
    authority.is_some_and(|authority| authority.eq_ignore_ascii_case(host))
}

/// A header occurs more than once.
struct Repeated;

/// The only value of a header. A value that is not text becomes `?`, which no check accepts.
fn only_value<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Result<Option<&'a str>, Repeated> {
    let mut values = headers.get_all(name).iter();
    match (values.next(), values.next()) {
        (Some(value), None) => Ok(Some(value.to_str().unwrap_or("?"))),
        (None, _) => Ok(None),
        (Some(_), Some(_)) => Err(Repeated),
    }
}

/// The host without its port; none if the syntax is invalid.
fn host_of(authority: &str) -> Option<&str> {
    let (host, port) = match authority.strip_prefix('[') {
        Some(rest) => {
            let end = rest.find(']')? + 2;
            (authority.get(..end)?, authority.get(end..)?)
        }
        None => authority.split_at(authority.find(':').unwrap_or(authority.len())),
    };
    let is_port = port.is_empty() || port.strip_prefix(':').is_some_and(|port| port.parse::<u16>().is_ok());
    (is_port && !host.is_empty()).then_some(host)
}

/// A foreign name, made safe and short for an error.
fn sanitized(name: &str) -> String {
    name.chars().filter(|letter| !letter.is_control() && *letter != '`').take(100).collect()
}

#[cfg(test)]
mod tests {
    use axum::body::Body;
    use rstest::rstest;

    use super::*;

    fn refusal_of(uri: &str, host: &[&str], origin: &[&str]) -> Option<String> {
        let mut request = Request::new(Body::empty());
        *request.uri_mut() = uri.parse().unwrap();
        for (name, values) in [(header::HOST, host), (header::ORIGIN, origin)] {
            for value in values {
                request.headers_mut().append(name.clone(), value.parse().unwrap());
            }
        }
        refusal(&Hosts::new(&["Sim.Example".to_owned()]), &request)
    }

    #[rstest]
    #[case::name("localhost:7100")]
    #[case::without_a_port("LOCALHOST")]
    #[case::address("127.0.0.1:7100")]
    #[case::another_loopback_address("127.8.9.10")]
    #[case::v6("[::1]:7100")]
    #[case::mapped("[::ffff:127.0.0.1]:7100")]
    #[case::configured("sim.example:8080")]
    fn hosts_of_this_machine_are_accepted(#[case] host: &str) {
        assert_eq!(refusal_of("/v1/books", &[host], &[]), None);
        assert_eq!(refusal_of("/v1/books", &[host], &[&format!("http://{host}")]), None);
        assert_eq!(refusal_of("/v1/books", &[host], &[&format!("https://{host}")]), None);
    }

    #[rstest]
    #[case::another("evil.example")]
    #[case::with_our_port("evil.example:7100")]
    #[case::suffix("localhost.evil.example")]
    #[case::prefix("evillocalhost")]
    #[case::another_machine("192.168.1.5:7100")]
    #[case::unspecified_address("0.0.0.0:7100")]
    #[case::user_info("evil@localhost")]
    #[case::two_ports("localhost:1:2")]
    #[case::no_port("localhost:evil.example")]
    #[case::unclosed_bracket("[::1")]
    #[case::suffix_after_address("[::1].evil.example")]
    #[case::decimal("2130706433")]
    #[case::empty("")]
    fn other_hosts_are_refused(#[case] host: &str) {
        let sentence = refusal_of("/v1/faults", &[host], &[]).unwrap();
        assert!(sentence.contains("does not answer for the host"), "{sentence}");
        assert!(refusal_of(&format!("http://{}/v1/faults", "evil.example"), &["localhost"], &[]).is_some());
        assert!(refusal_of("/v1/faults", &["localhost", host], &[]).is_some());
        assert!(refusal_of("/v1/faults", &[], &[]).is_some());
    }

    #[rstest]
    #[case::another("http://evil.example")]
    #[case::null("null")]
    #[case::another_port("http://localhost:3000")]
    #[case::another_name_of_this_machine("http://127.0.0.1:7100")]
    #[case::a_file("file://")]
    #[case::suffix("http://localhost:7100.evil.example")]
    #[case::empty("")]
    fn pages_of_other_origins_are_refused(#[case] origin: &str) {
        let sentence = refusal_of("/v1/faults", &["localhost:7100"], &[origin]).unwrap();
        assert!(sentence.contains("another origin"), "{sentence}");
        assert!(refusal_of("/v1/faults", &["localhost:7100"], &["http://localhost:7100", origin]).is_some());
    }
}
