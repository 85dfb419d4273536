//! The answer to `!getPostPaymentStatus`, as documented (Sectigo, "Endpoint:
//! !getPostPaymentStatus"), and every other form of it that loses nothing.
//!
//! ```text
//! { errorCode, errorMessage, data: { orderNumber, orderStatus, .., csrStatus: {..}, .., caaCheckStatus: {..} } }
//! ```
//!
//! Everything besides the error code and the data may be left out or odd; what is not documented is
//! passed over.

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};

use reqwest::Url;
use secrecy::SecretString;

use super::json::{Irregularities, JsonDocument, PageError, PageFields};
use crate::domain::validation::{
    AgreementStatus, CaaCheckError, CaaCheckStatus, CallbackStatus, CsrStatus, DcvMethod, DcvStatus, DomainValidation,
    MasterAccountState, OrganizationStatus, SectionStep, StatusAnswer, ValidationPage,
};
use crate::http::client::HttpResponse;
use crate::providers::redact::Redactor;

/// What an answer says, before anybody asks what it means.
#[derive(Debug)]
pub(crate) enum OrderStatusReply {
    /// `errorCode` 0: the page, of whatever order it is.
    Page(Box<StatusAnswer>),
    /// Any other `errorCode`, with its `errorMessage`.
    Error {
        /// As sent.
        code: i32,
        /// Fit to be shown.
        message: String,
    },
}

/// Reads the pages of one account, and logs each kind of field that is not as documented once.
pub(crate) struct PageReader {
    redactor: Redactor,
    logged: Mutex<BTreeSet<String>>,
}

impl PageReader {
    /// No text of a page shows the secrets of `mask`.
    pub(crate) fn new(redactor: Redactor) -> Self {
        Self { redactor, logged: Mutex::default() }
    }

    /// Reads an answer.
    pub(super) fn read(&self, answer: &HttpResponse) -> Result<OrderStatusReply, PageError> {
        let document = JsonDocument::of(answer);
        let notes = Irregularities::new(&self.redactor);
        let mut reply = reply(&document.root(&notes)?)?;
        let (irregular_fields, beyond) = notes.finish();
        self.log(&irregular_fields);
        if let OrderStatusReply::Page(answer) = &mut reply {
            answer.page.irregular_fields = irregular_fields;
            answer.page.beyond = beyond;
        }
        Ok(reply)
    }

    /// By kind: which of a page's domains has an odd field says nothing new. There are as many
    /// kinds as the documents have fields, so the set is bounded.
    fn log(&self, paths: &[String]) {
        for path in paths {
            let kind = kind_of(path);
            let mut logged = self.logged.lock().unwrap_or_else(PoisonError::into_inner);
            if !logged.contains(&kind) {
                tracing::warn!(field = kind, "a field of sectigo's order status is not as documented");
                logged.insert(kind);
            }
        }
    }
}

/// `data.dcvStatus.domains[].methods` of `data.dcvStatus.domains[3].methods`.
fn kind_of(path: &str) -> String {
    let mut parts = path.split('[');
    let first = parts.next().unwrap_or_default().to_owned();
    parts.filter_map(|part| part.split_once(']')).fold(first, |kind, (_, rest)| kind + "[]" + rest)
}

fn reply(root: &PageFields<'_>) -> Result<OrderStatusReply, PageError> {
    match root.required_integer("errorCode")? {
        0 => Ok(OrderStatusReply::Page(Box::new(answer(&root.required_object("data")?)))),
        code => Ok(OrderStatusReply::Error { code, message: root.text("errorMessage") }),
    }
}

fn answer(data: &PageFields<'_>) -> StatusAnswer {
    let page = ValidationPage {
        order_number: data.text("orderNumber"),
        order_state: data.word("orderStatus"),
        product_type: data.integer("productType").unwrap_or_default(),
        product_name: data.text("productName"),
        certificate_duration_days: data.integer("certificateDuration").unwrap_or_default(),
        product_term_days: data.integer("productTerm").unwrap_or_default(),
        domain_name: data.text("domainName"),
        primary_domain_name: data.text("primaryDomainName"),
        max_domains: data.integer("maxMDCDomains").unwrap_or_default(),
        max_wildcard_domains: data.integer("maxMDCWildcardDomains").unwrap_or_default(),
        master_account_state: data.integer("maStatus").map(MasterAccountState::read),
        upload_document_url: data.whole_text("uploadDocumentUrl", is_safe_to_follow).unwrap_or_default(),
        csr: data.object("csrStatus").as_ref().map(csr),
        dcv: data.object("dcvStatus").as_ref().map(dcv),
        agreement: data.object("agreementStatus").as_ref().map(agreement),
        callback: data.object("callbackStatus").as_ref().map(callback),
        organization: data.object("organizationStatus").as_ref().map(organization),
        second_approval: data.object("secondApprovalStatus").as_ref().map(step),
        fast_service: data.object("fsupStatus").as_ref().map(step),
        caa_check: data.object("caaCheckStatus").as_ref().map(caa_check),
        ..ValidationPage::default()
    };
    StatusAnswer { page, upload_document_token: data.credential("uploadDocumentToken").map(SecretString::from) }
}

/// Whether an address is safe to show to a person who opens it: https, and no user information,
/// which can make one host look like another. What parsers of addresses do not agree on is refused:
/// blanks, backslashes, letters beyond ASCII.
fn is_safe_to_follow(address: &str) -> bool {
    let is_plain = address.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'\\');
    let written = address.get(..8).filter(|scheme| scheme.eq_ignore_ascii_case("https://")).and(address.get(8..));
    let authority = written.and_then(|rest| rest.split(['/', '?', '#']).next()).unwrap_or_default();
    is_plain && !authority.is_empty() && !authority.contains('@') && Url::parse(address).is_ok()
}

fn step(fields: &PageFields<'_>) -> SectionStep {
    SectionStep {
        title: fields.text("title"),
        state: fields.word("status"),
        description: fields.text("description"),
        available_actions: fields.texts("availableActions"),
    }
}

fn csr(fields: &PageFields<'_>) -> CsrStatus {
    CsrStatus { step: step(fields) }
}

fn dcv(fields: &PageFields<'_>) -> DcvStatus {
    DcvStatus {
        step: step(fields),
        domains: fields.objects("domains", domain),
        csr_md5: fields.text("MD5"),
        csr_sha256: fields.text("SHA256"),
        unique_value: fields.text("uniqueValue"),
    }
}

fn domain(fields: &PageFields<'_>) -> DomainValidation {
    DomainValidation {
        domain_name: fields.text("domainName"),
        state: fields.word("dcvStatus"),
        selected_method: fields.text("selectedMethod"),
        methods: fields.objects("methods", method),
    }
}

fn method(fields: &PageFields<'_>) -> DcvMethod {
    DcvMethod {
        kind: fields.word("type"),
        title: fields.text("title"),
        level: fields.text("level"),
        selected_method: fields.text("selectedMethod"),
        options: fields.texts("options"),
    }
}

fn agreement(fields: &PageFields<'_>) -> AgreementStatus {
    AgreementStatus {
        step: step(fields),
        click_through_state: fields.word("clickThroughStatus"),
        click_through_email_address: fields.text("clickThroughEmailAddress"),
        last_email_sent_date: fields.text("lastEmailSent"),
        last_open_date: fields.text("lastOpenDate"),
    }
}

fn callback(fields: &PageFields<'_>) -> CallbackStatus {
    CallbackStatus { step: step(fields), phone_number: fields.text("phoneNumber") }
}

fn organization(fields: &PageFields<'_>) -> OrganizationStatus {
    let requirement = |name| fields.object(name).as_ref().map(step);
    OrganizationStatus {
        step: step(fields),
        organization_name: requirement("organizationName"),
        legal_existence: requirement("legalExistence"),
        assumed_name: requirement("assumedName"),
        physical_existence: requirement("physicalExistence"),
        operational_existence: requirement("operationalExistence"),
        trademark_check: requirement("trademarkCheck"),
    }
}

fn caa_check(fields: &PageFields<'_>) -> CaaCheckStatus {
    // Documented as an object and described as a list: it may be either.
    CaaCheckStatus { step: step(fields), latest_errors: fields.object_or_objects("latestCAACheckErrors", caa_error) }
}

fn caa_error(fields: &PageFields<'_>) -> CaaCheckError {
    CaaCheckError {
        lookup_datetime: fields.text("lookupDatetime"),
        queried_fqdn: fields.text("queriedFQDN"),
        domain_name: fields.text("domainName"),
        result: fields.word("result"),
    }
}
