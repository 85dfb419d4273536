//! The probe of a Debitsuccess account: the service's WSDL, and the status of a refund that cannot
//! exist.
//!
//! A service reads no member of a request in another namespace, so it answers 02 even to the right
//! password. The WSDL and the answer's namespaces show which of the two is wrong.

use bytes::Bytes;
use http::{HeaderMap, Method};

use super::Debitsuccess;
use super::description::{AnswerNamespaces, ServiceDescription, ServiceSetting, SettingDifference};
use super::wire::{self, GET_REFUND_STATUS};
use super::xml::{Element, XmlError};
use crate::domain::ids::RefundId;
use crate::domain::outcome::sanitize_provider_text;
use crate::domain::probe::{Credentials, ProbeReport};
use crate::domain::target::{DebitsuccessFields, DebitsuccessTarget};
use crate::http::client::{HttpOutcome, HttpRequest, HttpResponse, MAX_REFUND_REPLY_BYTES, MAX_STATUS_REPLY_BYTES};
use crate::providers::RequestLimiter;
use crate::providers::probe_run::ProbeRun;
use crate::providers::redact::Redactor;
use crate::providers::text::{content_type, decode_damaged};

/// No account of the provider has this reference.
const NONEXISTENT_ACCOUNT: &str = "RECOUP-PROBE";
/// No refund of that account can have this identifier.
const NONEXISTENT_REFUND: &str = "recoup-probe-of-no-refund";

/// What a probe needs from an answer to GetRefundStatus.
#[derive(Debug, PartialEq, Eq)]
enum ProbeReply {
    /// The value of Status, and the codes and texts of the Error notes.
    Result { status: String, errors: Vec<(String, String)> },
    /// A SOAP fault: code and text.
    SoapFault { code: String, text: String },
}

impl Debitsuccess {
    pub(super) async fn run_probe(&self, limiter: &dyn RequestLimiter) -> ProbeReport {
        let mut probe = ProbeRun::of(&self.http);
        limiter.acquire().await;
        let get = HttpRequest {
            method: Method::GET,
            path: self.service.path.clone(),
            headers: HeaderMap::new(),
            body: Bytes::new(),
        };
        let outcome = self.http.read_with_query(get, "wsdl", MAX_STATUS_REPLY_BYTES).await;
        let wsdl = probe.optional_answer("?wsdl", outcome);
        if probe.should_stop() {
            return probe.into_report();
        }
        let differences = wsdl.map(|answer| self.differences(&mut probe, &answer)).unwrap_or_default();
        for difference in &differences {
            probe.failure(self.redactor.text(&difference.sentence));
        }
        limiter.acquire().await;
        let outcome = self.request_nonexistent_refund().await;
        if let Some(answer) = probe.required_answer(GET_REFUND_STATUS, outcome) {
            self.check_answer(&mut probe, &answer, differences);
        }
        probe.into_report()
    }

    async fn request_nonexistent_refund(&self) -> HttpOutcome {
        let target = DebitsuccessTarget::new(DebitsuccessFields {
            account_reference_no: NONEXISTENT_ACCOUNT,
            external_account_reference_no: "",
            amount: Some(("AUD", 1)),
            description: "probe",
            request_initiator: "",
        });
        let (Ok(target), Ok(id)) = (target, RefundId::parse(NONEXISTENT_REFUND)) else {
            return HttpOutcome::NotSent { evidence: "the probe's own references are not valid".to_owned() };
        };
        let password = self.service.password.current();
        let envelope = wire::status_envelope(&self.service.envelope_context(&password), &id, &target);
        match self.soap_request(GET_REFUND_STATUS, envelope) {
            Ok(request) => self.http.read(request, MAX_REFUND_REPLY_BYTES).await,
            Err(why) => HttpOutcome::NotSent { evidence: why.to_owned() },
        }
    }

    /// What the WSDL contradicts. A missing WSDL is only a remark: a service can refund without
    /// publishing one.
    fn differences(&self, probe: &mut ProbeRun, answer: &HttpResponse) -> Vec<SettingDifference> {
        let path = format!("{}?wsdl", self.service.path);
        if answer.status != 200 {
            probe.remark(format!(
                "the service has no description at {path} (HTTP {}), so its names are not compared with the settings",
                answer.status
            ));
            return Vec::new();
        }
        match ServiceDescription::read(decode_damaged(&answer.body, content_type(answer)).as_bytes()) {
            Ok(Some(description)) => {
                if !description.has_operations() {
                    probe.remark(format!("the description at {path} names no operation"));
                }
                description.differences(&self.service)
            }
            Ok(None) => {
                probe.remark(format!(
                    "the document at {path} is not a WSDL, so the service's names are not compared with the settings"
                ));
                Vec::new()
            }
            Err(problem) => {
                probe.remark(format!("the description at {path} {problem}"));
                Vec::new()
            }
        }
    }

    fn check_answer(&self, probe: &mut ProbeRun, answer: &HttpResponse, mut known: Vec<SettingDifference>) {
        let reply = match ProbeReply::read(answer, &self.redactor) {
            Ok(Some(reply)) => reply,
            Ok(None) => {
                let status = answer.status;
                return probe.failure(format!(
                    "{GET_REFUND_STATUS} is answered with HTTP {status} without a SOAP answer: are endpoint and path right?"
                ));
            }
            Err(problem) => {
                let status = answer.status;
                return probe.failure(format!(
                    "{GET_REFUND_STATUS} is answered with HTTP {status} and a body that {problem}: are endpoint and \
                     path right?"
                ));
            }
        };
        // The WSDL is more exact than an answer.
        let text = decode_damaged(&answer.body, content_type(answer));
        let namespaces = AnswerNamespaces::read(text.as_bytes(), GET_REFUND_STATUS).unwrap_or_default();
        for difference in namespaces.differences(&self.service) {
            if known.iter().all(|one| one.setting != difference.setting) {
                probe.failure(self.redactor.text(&difference.sentence));
                known.push(difference);
            }
        }
        let is_known = |setting| known.iter().any(|one| one.setting == Some(setting));
        match reply {
            ProbeReply::SoapFault { code, .. } if is_fault(&code, "ActionNotSupported") => {
                if !is_known(ServiceSetting::ActionPrefix) {
                    probe.failure(format!(
                        "the service supports no SOAPAction \"{}{GET_REFUND_STATUS}\": action_prefix is wrong",
                        self.service.action_prefix
                    ));
                }
            }
            ProbeReply::SoapFault { code, .. }
                if is_fault(&code, "DeserializationFailed") && is_known(ServiceSetting::ServiceNamespace) => {}
            ProbeReply::SoapFault { code, .. } if is_fault(&code, "DeserializationFailed") => {
                probe.failure(format!(
                    "the service cannot read {GET_REFUND_STATUS} ({code}): service_namespace or data_namespace is wrong"
                ));
            }
            ProbeReply::SoapFault { code, text } => {
                probe.failure(format!("{GET_REFUND_STATUS} is answered with the fault {code} ({text})"));
            }
            ProbeReply::Result { errors, .. } if errors.iter().any(|(code, _)| code == "02") => {
                let names = is_known(ServiceSetting::ServiceNamespace) || is_known(ServiceSetting::DataNamespace);
                // The service has not read the login, so its refusal is not about the login.
                if !names {
                    probe.credentials = Credentials::Refused;
                    probe.failure(format!("the provider refuses username or password ({})", errors_text(&errors)));
                }
            }
            ProbeReply::Result { errors, .. } if !errors.is_empty() && errors.iter().all(|(code, _)| code == "08") => {
                probe.credentials = Credentials::Accepted;
            }
            ProbeReply::Result { status, errors }
                if errors.is_empty() && matches!(status.as_str(), "Succeed" | "Success") =>
            {
                probe.credentials = Credentials::Accepted;
                probe.remark(format!(
                    "{GET_REFUND_STATUS} of a refund that cannot exist is answered with {status} instead of 08"
                ));
            }
            ProbeReply::Result { status, errors } => probe.failure(format!(
                "{GET_REFUND_STATUS} of a refund that cannot exist is answered with {status} ({}) instead of 08",
                errors_text(&errors)
            )),
        }
    }
}

impl ProbeReply {
    /// None if the document is not an answer to GetRefundStatus.
    fn read(answer: &HttpResponse, redactor: &Redactor) -> Result<Option<ProbeReply>, XmlError> {
        let root = Element::parse(&decode_damaged(&answer.body, content_type(answer)))?;
        let Some(body) = root.child("Body")?.filter(|_| root.name() == "Envelope") else { return Ok(None) };
        if let Some(fault) = body.child("Fault")? {
            let part = |name| Ok(redactor.text(fault.value(name)?.unwrap_or_default()));
            return Ok(Some(ProbeReply::SoapFault { code: part("faultcode")?, text: part("faultstring")? }));
        }
        let Some(response) = body.child("GetRefundStatusResponse")? else { return Ok(None) };
        let Some(result) = response.child("GetRefundStatusResult")?.filter(|_| answer.status == 200) else {
            return Ok(None);
        };
        let mut errors = Vec::new();
        for note in result.child("ResponseNotes")?.map(Element::children).unwrap_or_default() {
            if note.value("NoteType")? == Some("Error") {
                let part = |name| Ok(redactor.text(note.value(name)?.unwrap_or_default()));
                errors.push((part("Code")?, part("Note")?));
            }
        }
        Ok(Some(ProbeReply::Result { status: redactor.text(result.value("Status")?.unwrap_or_default()), errors }))
    }
}

/// Compares the local part: `a:ActionNotSupported` with any prefix.
fn is_fault(code: &str, name: &str) -> bool {
    code.rsplit(':').next() == Some(name)
}

/// `02 Invalid user credentials; 08 ...`.
fn errors_text(errors: &[(String, String)]) -> String {
    let texts: Vec<String> = errors.iter().map(|(code, text)| format!("{code} {text}")).collect();
    if texts.is_empty() { "no error".to_owned() } else { sanitize_provider_text(&texts.join("; ")) }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;
    use secrecy::SecretString;

    use super::*;
    use crate::http::testing::scripted_server::{Script, ScriptedServer};
    use crate::providers::debitsuccess::DebitsuccessService;
    use crate::providers::secret::Secret;
    use crate::providers::testing::fixtures::{self, Unpaced};

    fn service() -> DebitsuccessService {
        DebitsuccessService {
            username: "demo".to_owned(),
            password: Secret::new(SecretString::from("c4nary-secret")),
            path: "/DSWebService/DSServices.svc".to_owned(),
            service_namespace: "http://s/".to_owned(),
            data_namespace: "http://data/".to_owned(),
            action_prefix: "http://s/I/".to_owned(),
        }
    }

    fn reply(data: &str, status: &str, notes: &str) -> String {
        format!(
            "<s:Envelope xmlns:s=\"http://schemas.xmlsoap.org/soap/envelope/\"><s:Body>\
             <GetRefundStatusResponse xmlns=\"http://s/\"><GetRefundStatusResult xmlns:a=\"{data}\">\
             <a:ResponseNotes>{notes}</a:ResponseNotes><a:Status>{status}</a:Status>\
             </GetRefundStatusResult></GetRefundStatusResponse></s:Body></s:Envelope>"
        )
    }

    fn note(code: &str) -> String {
        let text = "c4nary-secret and why";
        format!("<a:N><a:Code>{code}</a:Code><a:Note>{text}</a:Note><a:NoteType>Error</a:NoteType></a:N>")
    }

    fn fault(code: &str) -> String {
        format!(
            "<s:Envelope xmlns:s=\"http://schemas.xmlsoap.org/soap/envelope/\"><s:Body><s:Fault>\
             <faultcode xmlns:a=\"u\">a:{code}</faultcode><faultstring>c4nary-secret</faultstring>\
             </s:Fault></s:Body></s:Envelope>"
        )
    }

    /// Without a WSDL: what the answer alone shows.
    #[rstest]
    #[case::no_such_refund(200, reply("http://data/", "Failed", &note("08")), Credentials::Accepted, &[])]
    #[case::refused(200, reply("http://data/", "Failed", &note("02")), Credentials::Refused,
        &["refuses username or password"])]
    #[case::refused_among_others(200, reply("http://data/", "Failed", &[note("12016"), note("02")].concat()),
        Credentials::Refused, &["refuses username or password"])]
    #[case::not_read(200, reply("http://other/", "Failed", &note("02")), Credentials::Unknown, &["data_namespace"])]
    #[case::not_now(200, reply("http://data/", "Failed", &note("06")), Credentials::Unknown, &["Failed (06 "])]
    #[case::members_not_read(200, reply("http://data/", "Failed", &note("12016")), Credentials::Unknown, &["12016"])]
    #[case::nothing_found(200, reply("http://data/", "Succeed", ""), Credentials::Accepted, &["instead of 08"])]
    #[case::neither(200, reply("http://data/", "Unknown", ""), Credentials::Unknown, &["Unknown (no error)"])]
    #[case::another_action(500, fault("ActionNotSupported"), Credentials::Unknown, &["action_prefix is wrong"])]
    #[case::another_element(500, fault("DeserializationFailed"), Credentials::Unknown,
        &["service_namespace or data_namespace is wrong"])]
    #[case::another_fault(500, fault("InternalServiceFault"), Credentials::Unknown, &["the fault a:InternalServiceFault"])]
    #[case::a_page(404, "<html></html>".to_owned(), Credentials::Unknown, &["HTTP 404", "path right"])]
    #[case::no_xml(502, "no XML".to_owned(), Credentials::Unknown, &["HTTP 502", "path right"])]
    #[tokio::test]
    async fn an_answer_to_the_probe_has_one_meaning(
        #[case] status: u16,
        #[case] body: String,
        #[case] credentials: Credentials,
        #[case] expected: &[&str],
    ) {
        let server = ScriptedServer::start(Script::Close).await;
        let account = Debitsuccess::new(fixtures::http_of(&server), service()).map_err(|_| "refused").unwrap();
        let mut probe = ProbeRun::of(&account.http);
        account.check_answer(&mut probe, &fixtures::answer(status, &[], body.as_bytes()), Vec::new());
        let report = probe.into_report();
        assert_eq!(report.credentials, credentials, "{report:?}");
        assert_eq!(report.findings.len(), usize::from(!expected.is_empty()), "{report:?}");
        for part in expected {
            assert!(report.findings[0].sentence.contains(part), "{part} in {report:?}");
        }
        assert!(!format!("{report:?}").contains("c4nary"), "{report:?}");
    }

    /// Differences that the WSDL has already shown are left out.
    #[rstest]
    #[case::a_setting_that_no_member_is_read_by(ServiceSetting::DataNamespace, 200, reply("http://other/", "Failed", &note("02")))]
    #[case::an_action(ServiceSetting::ActionPrefix, 500, fault("ActionNotSupported"))]
    #[case::an_element(ServiceSetting::ServiceNamespace, 500, fault("DeserializationFailed"))]
    #[tokio::test]
    async fn a_known_difference_is_one_finding(
        #[case] setting: ServiceSetting,
        #[case] status: u16,
        #[case] body: String,
    ) {
        let server = ScriptedServer::start(Script::Close).await;
        let account = Debitsuccess::new(fixtures::http_of(&server), service()).map_err(|_| "refused").unwrap();
        let mut probe = ProbeRun::of(&account.http);
        let known = vec![SettingDifference { setting: Some(setting), sentence: "known".to_owned() }];
        account.check_answer(&mut probe, &fixtures::answer(status, &[], body.as_bytes()), known);
        let report = probe.into_report();
        assert_eq!((report.credentials, report.findings.len()), (Credentials::Unknown, 0), "{report:?}");
    }

    #[tokio::test]
    async fn the_wsdl_is_requested_without_a_login() {
        let server = ScriptedServer::start(Script::Send("HTTP/1.1 404 No\r\nContent-Length: 0\r\n\r\n")).await;
        let account = Debitsuccess::new(fixtures::http_of(&server), service()).map_err(|_| "refused").unwrap();
        let report = account.run_probe(&Unpaced).await;
        let requests = server.requests();
        assert_eq!(requests.len(), 2);
        assert!(requests[0].starts_with("GET /DSWebService/DSServices.svc?wsdl HTTP/1.1\r\n"), "{}", requests[0]);
        assert!(!requests[0].contains("c4nary") && requests[0].ends_with("\r\n\r\n"), "{}", requests[0]);
        assert!(requests[1].contains("soapaction: \"http://s/I/GetRefundStatus\"\r\n"), "{}", requests[1]);
        assert!(requests[1].contains("<d:ExternalRefundIdentifier>recoup-probe-of-no-refund<"), "{}", requests[1]);
        // A missing WSDL does not make refunds fail; a missing service does.
        let breaks: Vec<bool> = report.findings.iter().map(|finding| finding.breaks_refunds).collect();
        assert_eq!(breaks, [false, true], "{report:?}");
    }

    /// In UTF-16 as in UTF-8.
    #[tokio::test]
    async fn namespaces_are_compared_in_every_charset() {
        let utf_16 = |text: &str| {
            let bytes: Vec<u8> = text.encode_utf16().flat_map(u16::to_le_bytes).collect();
            fixtures::answer(200, &[("content-type", "text/xml; charset=utf-16le")], &bytes)
        };
        let server = ScriptedServer::start(Script::Close).await;
        let account = Debitsuccess::new(fixtures::http_of(&server), service()).map_err(|_| "refused").unwrap();
        let mut probe = ProbeRun::of(&account.http);
        let description =
            "<w:definitions xmlns:w=\"http://schemas.xmlsoap.org/wsdl/\" targetNamespace=\"http://other/\"/>";
        let known = account.differences(&mut probe, &utf_16(description));
        assert!(known.iter().any(|one| one.setting == Some(ServiceSetting::ServiceNamespace)), "{known:?}");
        account.check_answer(&mut probe, &utf_16(&reply("http://other/", "Failed", &note("02"))), Vec::new());
        let report = probe.into_report();
        assert!(report.findings.iter().any(|found| found.sentence.contains("data_namespace")), "{report:?}");
    }
}
