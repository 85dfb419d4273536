//! Debitsuccess: InitiateRefund requests a refund of an amount to one direct-debit account, and
//! GetRefundStatus follows it. SOAP 1.1.
//!
//! A success only means "accepted": people review the refund, and it stays SUBMITTED until
//! GetRefundStatus reports `Completed` or `Rejected`. The refund's id is sent as
//! `ExternalRefundIdentifier`, which the provider accepts once per account and refuses for ever
//! after.
//!
//! Credentials are body fields. Namespaces, action and path are settings, because the provider does
//! not publish them.

use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use secrecy::{ExposeSecret, SecretString};

use crate::domain::money::Currency;
use crate::domain::outcome::{AttemptReport, Lookup};
use crate::domain::probe::ProbeReport;
use crate::domain::refund::{Intent, Refund};
use crate::domain::target::{FieldViolation, Target};
use crate::http::client::{HttpClient, HttpRequest, MAX_REFUND_REPLY_BYTES};
use crate::providers::defaults::ProviderDefaults;
use crate::providers::http_outcome::not_sent;
use crate::providers::redact::Redactor;
use crate::providers::secret::Secret;
use crate::providers::{ConnectError, RefundProvider, RequestLimiter};

mod description;
mod document;
mod probe;
pub mod wire;
mod xml;

/// What an account has where its configuration does not say otherwise.
pub(super) const DEFAULTS: ProviderDefaults = ProviderDefaults {
    // There is no public production host.
    endpoint: None,
    requests_per_second: 0,
    requests_per_hour: 0,
    settle_time: Duration::from_secs(600),
};

const SOAP_ACTION: HeaderName = HeaderName::from_static("soapaction");

pub struct Debitsuccess {
    http: HttpClient,
    service: DebitsuccessService,
    redactor: Redactor,
}

/// The service's path and names, and our login.
pub struct DebitsuccessService {
    /// `User.Username`.
    pub username: String,
    /// `User.Password`.
    pub password: Secret,
    /// Path of the service: `/DSWebService/DSServices.svc`.
    pub path: String,
    /// XML namespace of the operations.
    pub service_namespace: String,
    /// XML namespace of the data members.
    pub data_namespace: String,
    /// Prefix of the operation's name in `SOAPAction`, with the final slash.
    pub action_prefix: String,
}

impl Debitsuccess {
    /// # Errors
    /// [`ConnectError::Setting`] if a setting cannot be put into the envelope or its header.
    pub fn new(http: HttpClient, service: DebitsuccessService) -> Result<Self, ConnectError> {
        let refuse = |setting, problem| Err(ConnectError::Setting { setting, problem });
        if !service.path.starts_with('/') {
            return refuse("path", "must begin with \"/\"");
        }
        if !xml::is_xml_representable(&service.username) {
            return refuse("username", "must contain no control character: XML cannot represent it");
        }
        if !xml::is_xml_representable(service.password.current().expose_secret()) {
            return refuse("password", "must contain no control character: XML cannot represent it");
        }
        for (setting, text) in [
            ("service_namespace", &service.service_namespace),
            ("data_namespace", &service.data_namespace),
            ("action_prefix", &service.action_prefix),
        ] {
            let fits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'"');
            if !fits {
                return refuse(setting, "must be a URI: ASCII, no blank, no quotation mark");
            }
        }
        let redactor = Redactor::of(&service.username, service.password.clone());
        Ok(Self { http, service, redactor })
    }

    fn soap_request(&self, operation: &str, envelope: String) -> Result<HttpRequest, &'static str> {
        let action = HeaderValue::from_str(&format!("\"{}{operation}\"", self.service.action_prefix))
            .map_err(|_| "the SOAPAction is not a valid header value")?;
        let content_type = HeaderValue::from_static("text/xml; charset=utf-8");
        let headers = HeaderMap::from_iter([(CONTENT_TYPE, content_type), (SOAP_ACTION, action)]);
        Ok(HttpRequest { method: Method::POST, path: self.service.path.clone(), headers, body: Bytes::from(envelope) })
    }
}

impl DebitsuccessService {
    fn namespaces(&self) -> wire::Namespaces<'_> {
        wire::Namespaces { service_namespace: &self.service_namespace, data_namespace: &self.data_namespace }
    }

    fn envelope_context<'a>(&'a self, password: &'a SecretString) -> wire::EnvelopeContext<'a> {
        wire::EnvelopeContext {
            service_namespace: &self.service_namespace,
            data_namespace: &self.data_namespace,
            username: &self.username,
            password: password.expose_secret(),
        }
    }
}

#[async_trait]
impl RefundProvider for Debitsuccess {
    async fn refund(&self, intent: &Intent, _: Option<&str>) -> AttemptReport {
        let Target::Debitsuccess(target) = &intent.target else {
            return not_sent("this is a Debitsuccess account, and the target is not one of Debitsuccess").into();
        };
        let password = self.service.password.current();
        let envelope = wire::refund_envelope(&self.service.envelope_context(&password), &intent.id, target);
        let request = match self.soap_request(wire::INITIATE_REFUND, envelope) {
            Ok(request) => request,
            Err(why) => return not_sent(why).into(),
        };
        let outcome = self.http.send_once(request).await;
        let outcome = outcome
            .into_outcome(|answer| wire::read_refund(answer, &intent.id, self.service.namespaces(), &self.redactor));
        outcome.into()
    }

    /// A request names an amount and no currency: the amount is in the account's.
    fn check_target(&self, target: &Target, currency: Currency) -> Result<(), FieldViolation> {
        match target {
            Target::Debitsuccess(target) if target.amount().currency != currency => {
                let right = format!("must be the account's currency, {currency}");
                Err(FieldViolation::new("debitsuccess.amount.currency_code", right))
            }
            _ => Ok(()),
        }
    }

    async fn lookup(&self, refund: &Refund, _: &dyn RequestLimiter) -> Lookup {
        let Target::Debitsuccess(target) = &refund.intent.target else {
            return Lookup::unavailable("this is a Debitsuccess account, and the target is not one of Debitsuccess");
        };
        let password = self.service.password.current();
        let envelope = wire::status_envelope(&self.service.envelope_context(&password), refund.id(), target);
        let request = match self.soap_request(wire::GET_REFUND_STATUS, envelope) {
            Ok(request) => request,
            Err(why) => return Lookup::unavailable(why),
        };
        let outcome = self.http.read(request, MAX_REFUND_REPLY_BYTES).await;
        outcome
            .into_lookup(|answer| wire::read_status(answer, refund, target, self.service.namespaces(), &self.redactor))
    }

    async fn probe(&self, limiter: &dyn RequestLimiter) -> ProbeReport {
        self.run_probe(limiter).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::target::{DebitsuccessFields, DebitsuccessTarget};
    use crate::http::testing::scripted_server::{Script, ScriptedServer};
    use crate::providers::ProviderSettings;
    use crate::providers::testing::fixtures::{self, Unpaced, outcome_summary};

    fn target() -> Target {
        let target = DebitsuccessTarget::new(DebitsuccessFields {
            account_reference_no: "DS000001",
            external_account_reference_no: "EXT-<1>",
            amount: Some(("AUD", 1250)),
            description: "Charged twice & more\r\n",
            request_initiator: "ops",
        });
        Target::Debitsuccess(target.unwrap())
    }

    fn login() -> ProviderSettings {
        ProviderSettings::Debitsuccess {
            username: "demo".to_owned(),
            password: SecretString::from("p<ss&word"),
            path: "/DSWebService/DSServices.svc".to_owned(),
            service_namespace: "http://tempuri.org/".to_owned(),
            data_namespace: "http://schemas.datacontract.org/2004/07/DS".to_owned(),
            action_prefix: "http://tempuri.org/IDSServices/".to_owned(),
        }
    }

    #[tokio::test]
    async fn the_refund_request_has_exactly_these_bytes() {
        let server = ScriptedServer::start(Script::Send("HTTP/1.1 500 Oops\r\nContent-Length: 0\r\n\r\n")).await;
        let outcome =
            fixtures::account(&server, login()).refunds.refund(&fixtures::intent("r-1", target()), None).await.outcome;
        assert_eq!(outcome_summary(&outcome), "unknown provider_server_error");
        let body = "<?xml version=\"1.0\" encoding=\"utf-8\"?>\
            <s:Envelope xmlns:s=\"http://schemas.xmlsoap.org/soap/envelope/\"><s:Body>\
            <InitiateRefund xmlns=\"http://tempuri.org/\">\
            <request xmlns:d=\"http://schemas.datacontract.org/2004/07/DS\" xmlns:i=\"http://www.w3.org/2001/XMLSchema-instance\">\
            <d:RequestInitiator>ops</d:RequestInitiator>\
            <d:User><d:Password>p&lt;ss&amp;word</d:Password><d:Username>demo</d:Username></d:User>\
            <d:AccountReferenceNo>DS000001</d:AccountReferenceNo><d:Amount>12.50</d:Amount>\
            <d:Description>Charged twice &amp; more&#13;\n</d:Description>\
            <d:ExternalAccountReferenceNo>EXT-&lt;1&gt;</d:ExternalAccountReferenceNo>\
            <d:ExternalRefundIdentifier>r-1</d:ExternalRefundIdentifier>\
            </request></InitiateRefund></s:Body></s:Envelope>";
        let head = format!(
            "POST /DSWebService/DSServices.svc HTTP/1.1\r\ncontent-type: text/xml; charset=utf-8\r\n\
             soapaction: \"http://tempuri.org/IDSServices/InitiateRefund\"\r\naccept: */*\r\nuser-agent: recoup/{}\r\n\
             host: {}\r\ncontent-length: {}\r\n\r\n",
            env!("CARGO_PKG_VERSION"),
            server.endpoint().trim_start_matches("http://"),
            body.len(),
        );
        assert_eq!(server.requests(), [format!("{head}{body}")]);
    }

    #[tokio::test]
    async fn the_lookup_request_has_exactly_these_bytes() {
        let server = ScriptedServer::start(Script::Close).await;
        let lookup =
            fixtures::account(&server, login()).refunds.lookup(&fixtures::refund("r-1", target()), &Unpaced).await;
        assert!(matches!(lookup, Lookup::Unavailable { .. }), "{lookup:?}");
        let request = server.requests().remove(0);
        assert!(request.contains("soapaction: \"http://tempuri.org/IDSServices/GetRefundStatus\"\r\n"), "{request}");
        let members = "<d:RequestInitiator>ops</d:RequestInitiator>\
            <d:User><d:Password>p&lt;ss&amp;word</d:Password><d:Username>demo</d:Username></d:User>\
            <d:AccountReferenceNo>DS000001</d:AccountReferenceNo>\
            <d:ExternalAccountReferenceNo>EXT-&lt;1&gt;</d:ExternalAccountReferenceNo>\
            <d:ExternalRefundIdentifier>r-1</d:ExternalRefundIdentifier></request></GetRefundStatus>";
        assert!(request.contains(members), "{request}");
    }

    #[tokio::test]
    async fn a_truncated_answer_is_doubt() {
        let server =
            ScriptedServer::start(Script::Send("HTTP/1.1 200 OK\r\nContent-Length: 90\r\n\r\n<s:Envelope")).await;
        let outcome =
            fixtures::account(&server, login()).refunds.refund(&fixtures::intent("r-1", target()), None).await.outcome;
        assert_eq!(outcome_summary(&outcome), "unknown connection_lost");
        assert_eq!(server.requests().len(), 1);
    }
}
