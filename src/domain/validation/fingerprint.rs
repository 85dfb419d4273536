//! The fingerprint of a page: SHA-256 over an unambiguous encoding.
//!
//! Clients keep fingerprints and compare them across updates of the gateway, so the encoding is
//! written out instead of derived. Each `let Type { .. } = ..` names every field, so a new field
//! does not compile until it is encoded.
//!
//! ```text
//! text      length (8 bytes, big-endian), bytes        number    4 bytes, big-endian
//! OpenEnum  its text; empty if absent                  option    0, or 1 and the value
//! list      length (8 bytes, big-endian), values
//! ```

use std::fmt::Write as _;

use sha2::{Digest, Sha256};

use super::{
    AgreementStatus, CaaCheckError, CaaCheckStatus, CallbackStatus, CsrStatus, DcvMethod, DcvStatus, DomainValidation,
    KnownValues, MasterAccountState, OpenEnum, OrganizationStatus, SectionStep, ValidationPage, ValidationStatus,
};

/// Changes with the encoding, so that two encodings cannot be confused.
const ENCODING: &str = "recoup validation page 1";
/// An encoded text takes 8 bytes and its content; in memory it takes 24, or 32 as an `OpenEnum`,
/// and its content.
const MEMORY_PER_ENCODED_BYTE: usize = 4;

/// The fingerprint in hexadecimal, and a generous estimate of the memory of a status with this
/// page.
pub(super) fn of(page: &ValidationPage) -> (String, usize) {
    let mut encoder = Encoder { hasher: Sha256::new(), bytes: 0 };
    encoder.text(ENCODING);
    encoder.page(page);
    let memory = size_of::<ValidationStatus>() + MEMORY_PER_ENCODED_BYTE * encoder.bytes;
    let mut hexadecimal = String::with_capacity(64);
    for byte in encoder.hasher.finalize() {
        write!(hexadecimal, "{byte:02x}").expect("a String takes all that is written to it");
    }
    (hexadecimal, memory)
}

struct Encoder {
    hasher: Sha256,
    bytes: usize,
}

impl Encoder {
    fn page(&mut self, page: &ValidationPage) {
        let ValidationPage {
            order_number,
            order_state,
            product_type,
            product_name,
            certificate_duration_days,
            product_term_days,
            domain_name,
            primary_domain_name,
            max_domains,
            max_wildcard_domains,
            master_account_state,
            upload_document_url,
            csr,
            dcv,
            agreement,
            callback,
            organization,
            second_approval,
            fast_service,
            caa_check,
            irregular_fields,
            lossy_digest,
        } = page;
        self.text(order_number);
        self.open_enum(order_state.as_ref());
        self.number(*product_type);
        self.text(product_name);
        self.number(*certificate_duration_days);
        self.number(*product_term_days);
        self.text(domain_name);
        self.text(primary_domain_name);
        self.number(*max_domains);
        self.number(*max_wildcard_domains);
        self.option(master_account_state.as_ref(), |to, state: &MasterAccountState| to.number(state.number()));
        self.text(upload_document_url);
        self.option(csr.as_ref(), |to, CsrStatus { step }| to.step(step));
        self.option(dcv.as_ref(), Self::dcv);
        self.option(agreement.as_ref(), Self::agreement);
        self.option(callback.as_ref(), |to, CallbackStatus { step, phone_number }| {
            to.step(step);
            to.text(phone_number);
        });
        self.option(organization.as_ref(), Self::organization);
        self.option(second_approval.as_ref(), Self::step);
        self.option(fast_service.as_ref(), Self::step);
        self.option(caa_check.as_ref(), |to, CaaCheckStatus { step, latest_errors }| {
            to.step(step);
            to.list(latest_errors, Self::caa_error);
        });
        // Everything before it marks its own end, so a page that is as documented needs no mark
        // here.
        if !irregular_fields.is_empty() || lossy_digest.is_some() {
            self.list(irregular_fields, |to, path: &String| to.text(path));
            self.option(lossy_digest.as_ref(), |to, digest: &[u8; 32]| to.raw(digest));
        }
    }

    fn step(&mut self, step: &SectionStep) {
        let SectionStep { title, state, description, available_actions } = step;
        self.text(title);
        self.open_enum(state.as_ref());
        self.text(description);
        self.list(available_actions, |to, action: &String| to.text(action));
    }

    fn dcv(&mut self, dcv: &DcvStatus) {
        let DcvStatus { step, domains, csr_md5, csr_sha256, unique_value } = dcv;
        self.step(step);
        self.list(domains, Self::domain);
        self.text(csr_md5);
        self.text(csr_sha256);
        self.text(unique_value);
    }

    fn domain(&mut self, domain: &DomainValidation) {
        let DomainValidation { domain_name, state, selected_method, methods } = domain;
        self.text(domain_name);
        self.open_enum(state.as_ref());
        self.text(selected_method);
        self.list(methods, Self::method);
    }

    fn method(&mut self, method: &DcvMethod) {
        let DcvMethod { kind, title, level, selected_method, options } = method;
        self.open_enum(kind.as_ref());
        self.text(title);
        self.text(level);
        self.text(selected_method);
        self.list(options, |to, option: &String| to.text(option));
    }

    fn agreement(&mut self, agreement: &AgreementStatus) {
        let AgreementStatus {
            step,
            click_through_state,
            click_through_email_address,
            last_email_sent_date,
            last_open_date,
        } = agreement;
        self.step(step);
        self.open_enum(click_through_state.as_ref());
        self.text(click_through_email_address);
        self.text(last_email_sent_date);
        self.text(last_open_date);
    }

    fn organization(&mut self, organization: &OrganizationStatus) {
        let OrganizationStatus {
            step,
            organization_name,
            legal_existence,
            assumed_name,
            physical_existence,
            operational_existence,
            trademark_check,
        } = organization;
        self.step(step);
        for requirement in [
            organization_name,
            legal_existence,
            assumed_name,
            physical_existence,
            operational_existence,
            trademark_check,
        ] {
            self.option(requirement.as_ref(), Self::step);
        }
    }

    fn caa_error(&mut self, error: &CaaCheckError) {
        let CaaCheckError { lookup_datetime, queried_fqdn, domain_name, result } = error;
        self.text(lookup_datetime);
        self.text(queried_fqdn);
        self.text(domain_name);
        self.open_enum(result.as_ref());
    }

    fn open_enum<M: KnownValues>(&mut self, value: Option<&OpenEnum<M>>) {
        self.text(value.map_or("", OpenEnum::text));
    }

    fn option<T>(&mut self, value: Option<&T>, encode: impl FnOnce(&mut Self, &T)) {
        self.raw(&[u8::from(value.is_some())]);
        if let Some(value) = value {
            encode(self, value);
        }
    }

    fn list<T>(&mut self, values: &[T], encode: impl Fn(&mut Self, &T)) {
        self.length(values.len());
        for value in values {
            encode(self, value);
        }
    }

    fn text(&mut self, text: &str) {
        self.length(text.len());
        self.raw(text.as_bytes());
    }

    fn number(&mut self, number: i32) {
        self.raw(&number.to_be_bytes());
    }

    fn length(&mut self, length: usize) {
        self.raw(&(length as u64).to_be_bytes());
    }

    fn raw(&mut self, bytes: &[u8]) {
        self.hasher.update(bytes);
        self.bytes += bytes.len();
    }
}
