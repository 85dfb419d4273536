//! Each setting changes what a client meets, in its own world and in no other.

use reqwest::Method;
use rstest::rstest;
use serde_json::{Value, json};
use simulators::{NewWorld, Provider};

use crate::support::{Account, Bench};

/// What a client does twice over, once with the usual settings and once with changed ones.
#[derive(Debug, Clone, Copy)]
enum Step {
    /// A refund of the first demo target.
    Refund,
    /// The same a second time: what the second is answered.
    Again,
    /// A refund with a wrong password.
    WrongPassword,
    /// Sectigo's status of a refunded order.
    Status,
    /// Sectigo's status of an order that is not there.
    StatusOfNothing,
    /// An argument that no page knows.
    Argument,
    /// An order number of 65 digits.
    LongNumber,
    /// Debitsuccess' status of the refund.
    RefundStatus,
    /// A Debitsuccess refund with several errors.
    Errors,
}

#[rstest]
#[case(json!({"sectigo": {"deduplication": "off"}}), Provider::Sectigo, Step::Again, "-18", "0")]
#[case(json!({"sectigo": {"already_refunded": "-20"}}), Provider::Sectigo, Step::Again, "-18", "-20\nThe order has already been canceled")]
#[case(json!({"sectigo": {"refusal_http_status": 400}}), Provider::Sectigo, Step::Again, "200", "400")]
#[case(json!({"sectigo": {"texts": "mark_certificates_page"}}), Provider::Sectigo, Step::Argument, "unrecognized", "unrecognised")]
#[case(json!({"sectigo": {"texts": "mark_certificates_page"}}), Provider::Sectigo, Step::WrongPassword, "Permission denied!", "Incorrect login details")]
#[case(json!({"sectigo": {"longest_order_number": 64}}), Provider::Sectigo, Step::LongNumber, "-16", "-4")]
#[case(json!({"sectigo": {"unknown_order_to_status_call": "-16"}}), Provider::Sectigo, Step::StatusOfNothing, "\"errorCode\":-4", "\"errorCode\":-16")]
#[case(json!({"sectigo": {"status_lag_seconds": 60}}), Provider::Sectigo, Step::Status, "\"orderStatus\":\"Refunded\"", "\"orderStatus\":\"Processed\"")]
#[case(json!({"sectigo": {"calls_per_minute": 1}}), Provider::Sectigo, Step::Again, "-18", "-42")]
#[case(json!({"sectigo": {"refund_period_days": 0, "crlf": true}}), Provider::Sectigo, Step::Again, "-18\n", "-18\r\n")]
#[case(json!({"namecom": {"deduplication": "off"}}), Provider::Namecom, Step::Again, "already been refunded", "\"orderItemStatus\":\"refunded\"")]
#[case(json!({"namecom": {"requests_per_hour": 1}}), Provider::Namecom, Step::Again, "already been refunded", "The limit of 1 requests per hour")]
#[case(json!({"namecom": {"no_details": "null"}}), Provider::Namecom, Step::WrongPassword, "{\"message\":\"Unauthorized\"}", "{\"message\":\"Unauthorized\",\"details\":null}")]
#[case(json!({"debitsuccess": {"deduplication": "off"}}), Provider::Debitsuccess, Step::Again, "14143", ">Succeed<")]
#[case(json!({"debitsuccess": {"success_word": "Success"}}), Provider::Debitsuccess, Step::Refund, "Status>Succeed<", "Status>Success<")]
#[case(json!({"debitsuccess": {"texts": "system_page"}}), Provider::Debitsuccess, Step::Refund, "Note>Success<", "Note>Success!<")]
#[case(json!({"debitsuccess": {"texts": "system_page"}}), Provider::Debitsuccess, Step::WrongPassword, "Invalid user credentials", "Invalid credentials provided")]
#[case(json!({"debitsuccess": {"refund_amount": "integer"}}), Provider::Debitsuccess, Step::RefundStatus, "RefundAmount>12.34<", "RefundAmount>12<")]
#[case(json!({"debitsuccess": {"failed_number": "nil"}}), Provider::Debitsuccess, Step::Again, "RefundRequestNumber>0<", "RefundRequestNumber i:nil")]
#[case(json!({"debitsuccess": {"notes": "first"}}), Provider::Debitsuccess, Step::Errors, "12017", "13012</a:Code><a:Note>Invalid Amount value</a:Note><a:NoteType>Error</a:NoteType></a:ResponseMessageNote></a:ResponseNotes>")]
#[tokio::test]
async fn a_setting_changes_what_a_client_meets(
    #[case] change: Value,
    #[case] provider: Provider,
    #[case] step: Step,
    #[case] usual: &str,
    #[case] changed: &str,
) {
    let bench = Bench::start().await;
    // Both worlds are there at once: the one's settings are not the other's.
    let worlds = [(); 2].map(|()| bench.simulators.create_world(NewWorld::default()).unwrap());
    let path = format!("/v1/worlds/{}/settings", worlds[1].id());
    assert_eq!(bench.control(Method::PATCH, &path, &change.to_string()).await.0, 200);
    for (world, expected) in worlds.iter().zip([usual, changed]) {
        let met = met(&bench, Account::of(&world.credentials()), provider, step).await;
        assert!(met.contains(expected), "{change}: {met}");
    }
    assert_eq!(bench.control(Method::PATCH, &path, r#"{"sectigo":{"texts":"mine"}}"#).await.0, 400);
}

async fn met(bench: &Bench, mut account: Account, provider: Provider, step: Step) -> String {
    let sectigo = |path: &str, more: &[(&str, &str)]| {
        let (name, password) = account.sectigo.clone();
        let mut form = vec![("loginName", name.as_str()), ("loginPassword", password.as_str())];
        form.extend(more);
        bench.client.post(format!("https://{}/products/{path}", bench.simulators.sectigo_addr())).form(&form)
    };
    let (status, text) = match step {
        Step::Refund => bench.refund_as(&account, provider, 1).await,
        Step::Again => {
            bench.refund_as(&account, provider, 1).await;
            bench.refund_as(&account, provider, 1).await
        }
        Step::WrongPassword => {
            for secret in [&mut account.sectigo.1, &mut account.namecom.1, &mut account.debitsuccess.1] {
                secret.push('x');
            }
            bench.refund_as(&account, provider, 1).await
        }
        Step::Status => {
            bench.refund_as(&account, provider, 1).await;
            answered(sectigo("!getPostPaymentStatus", &[("orderNumber", "1000001")])).await
        }
        Step::StatusOfNothing => answered(sectigo("!getPostPaymentStatus", &[("orderNumber", "1")])).await,
        Step::Argument => answered(sectigo("!AutoRefund", &[("responseFormat", "1")])).await,
        Step::LongNumber => {
            let number = "1".repeat(65);
            answered(sectigo("!AutoRefund", &[("orderNumber", &number), ("refundReasonCode", "1")])).await
        }
        Step::RefundStatus => {
            bench.refund_as(&account, provider, 1).await;
            let request = bench.request_for(&account, provider, "DS000001", "id-1").build().unwrap();
            let body = String::from_utf8(request.body().unwrap().as_bytes().unwrap().to_vec()).unwrap();
            let request = bench
                .client
                .post(request.url().clone())
                .header("content-type", "text/xml; charset=utf-8")
                .header("soapaction", "\"http://tempuri.org/IDSServices/GetRefundStatus\"")
                .body(body.replace("InitiateRefund", "GetRefundStatus"));
            answered(request).await
        }
        Step::Errors => {
            let request = bench.request_for(&account, provider, "DS000001", "id-1").build().unwrap();
            let body = String::from_utf8(request.body().unwrap().as_bytes().unwrap().to_vec()).unwrap();
            let body = body.replace("12.34", "-1").replace("overpaid", "");
            let request = bench.request_for(&account, provider, "DS000001", "id-1").body(body);
            answered(request).await
        }
    };
    format!("{} {text}", status.as_u16())
}

async fn answered(request: reqwest::RequestBuilder) -> (reqwest::StatusCode, String) {
    let response = request.send().await.unwrap();
    (response.status(), response.text().await.unwrap())
}
