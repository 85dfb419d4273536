//! The codec of each adapter: encodes a refund as the provider documents it, and decodes the
//! provider's confirmation.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use criterion::Criterion;
use futures_util::FutureExt as _;
use http::HeaderMap;
use recoup::domain::ids::ProviderKind;
use recoup::domain::outcome::Outcome;
use recoup::http::client::{HttpOutcome, HttpRequest, HttpResponse, RequestKind, Transport};
use recoup::providers::Url;

use crate::samples;

/// Returns the same answer immediately.
struct Canned(Bytes);

#[async_trait]
impl Transport for Canned {
    async fn exchange(&self, _: Url, _: HttpRequest, _: RequestKind, _: usize) -> HttpOutcome {
        HttpOutcome::Answered(HttpResponse { status: 200, headers: HeaderMap::new(), body: self.0.clone() })
    }
}

const NAMECOM_YES: &str = "{\"results\":[{\"orderId\":7,\"orderItemId\":7,\"orderItemStatus\":\"refunded\",\
    \"refundAmount\":12.99,\"message\":\"Refunded\"}],\"totalRefundAmount\":12.99}";

const DEBITSUCCESS_YES: &str = "<s:Envelope xmlns:s=\"http://schemas.xmlsoap.org/soap/envelope/\"><s:Body>\
    <InitiateRefundResponse xmlns=\"http://tempuri.org/\">\
    <InitiateRefundResult xmlns:a=\"http://schemas.datacontract.org/2004/07/DSWebService\" \
    xmlns:i=\"http://www.w3.org/2001/XMLSchema-instance\">\
    <a:DateCreated>2022-05-10T14:03:22.1234567+12:00</a:DateCreated><a:Id>guid</a:Id><a:ResponseNotes/>\
    <a:Status>Succeed</a:Status><a:ExternalRefundIdentifier>part-7</a:ExternalRefundIdentifier>\
    <a:RefundRequestNumber>1001</a:RefundRequestNumber>\
    </InitiateRefundResult></InitiateRefundResponse></s:Body></s:Envelope>";

pub(crate) fn all(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("adapters");
    for provider in samples::PROVIDERS {
        let yes = match provider {
            ProviderKind::Sectigo => "0",
            ProviderKind::Namecom => NAMECOM_YES,
            ProviderKind::Debitsuccess => DEBITSUCCESS_YES,
        };
        let account = samples::account(provider, Arc::new(Canned(Bytes::from_static(yes.as_bytes()))));
        let intent = samples::intent(provider, 7);
        // The future never waits, so it is ready at the first poll.
        let refund = || account.refunds.refund(&intent, None).now_or_never().unwrap();
        let outcome = refund().outcome;
        assert!(matches!(outcome, Outcome::Refunded(_) | Outcome::Accepted(_)), "{outcome:?}");
        group.bench_function(format!("{provider}: write a refund, read the yes"), |bencher| bencher.iter(refund));
    }
}
