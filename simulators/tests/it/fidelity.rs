//! Each setting changes what a client sees on the wire, in its own world only. A setting without a
//! case here fails the test.

use std::{collections::BTreeSet, time::Duration};

use reqwest::{Method, RequestBuilder};
use serde_json::{Value, json};
use simulators::{Gate, NewWorld, Point, Provider, Settings, WorldHandle};

use crate::support::{Account, TestBench};

/// Setting, a value that is not the default, text that only the default answer contains, and text
/// that only the changed answer contains.
const PROOFS: &[(&str, &str, &str, &str)] = &[
    ("sectigo.refund_period_days", "0", "\n\n0", "\n\n-18\nThe refund period"),
    ("sectigo.status_lag_seconds", "60", "\"orderStatus\":\"Refunded\"", "\"orderStatus\":\"Processed\""),
    ("sectigo.calls_per_minute", "1", "\n\n-18", "\n\n-42"),
    ("sectigo.order_numbers_are_digits", "false", "\n\n-4", "\n\n-16"),
    ("sectigo.crlf", "true", "-18\nThis", "-18\r\nThis"),
    ("sectigo.trailing_newline", "true", "has already been refunded", "has already been refunded\n"),
    ("sectigo.deduplication", r#""off""#, "\n\n-18", "\n\n0"),
    ("sectigo.already_refunded", r#""-20""#, "\n\n-18", "\n\n-20\nThe order has already been canceled"),
    ("sectigo.texts", r#""mark_certificates_page""#, "unrecognized", "unrecognised"),
    ("sectigo.refusal_http_status", "400", "200\n", "400\n"),
    ("sectigo.max_order_number_chars", "64", "\n\n-16", "\n\n-4"),
    ("sectigo.unknown_order_to_status_call", r#""-16""#, "\"errorCode\":-4", "\"errorCode\":-16"),
    ("sectigo.check_order", r#""login_first""#, "\n\n-2", "\n\n-16"),
    ("sectigo.other_methods", r#""405""#, "\n\n-17", "405\n"),
    ("sectigo.repeated_argument", r#""ignored""#, "\n\n-2", "\n\n0"),
    ("sectigo.empty_argument", r#""-4""#, "\n\n-3", "\n\n-4"),
    ("sectigo.no_data", r#""null""#, "is invalid!\"}", "is invalid!\",\"data\":null}"),
    ("sectigo.first_check", r#""method""#, "\n\n-1\n", "\n\n-17\n"),
    ("sectigo.plain_content_type", r#""text/html""#, "content-type: text/plain\n", "content-type: text/html\n"),
    (
        "sectigo.status_content_type",
        r#""text/json""#,
        "content-type: application/json; charset=UTF-8\n",
        "content-type: text/json\n",
    ),
    ("sectigo.argument_names", r#""any_case""#, "\n\n-2\n", "\n\n0"),
    ("sectigo.arguments_in_query", r#""read""#, "\n\n-3\n", "\n\n0"),
    ("sectigo.other_content_types", r#""read""#, "\n\n-3\n", "\n\n0"),
    ("sectigo.invalid_utf8", r#""replaced""#, "\n\n-4\n", "\n\n-16\n"),
    ("sectigo.wrong_login_code", "-21", "\n\n-16\n", "\n\n-21\n"),
    ("sectigo.unknown_order", r#""-4""#, "\n\n-16\n", "\n\n-4\n"),
    ("sectigo.response_format", r#""honoured""#, "\n\n-2\n", "\n\nerrorCode=-18&errorMessage=This+order+has+already"),
    ("sectigo.auto_reject", r#""refused""#, "\n\n-18\nThis order has been rejected", "\n\n0"),
    ("sectigo.rejected_order", r#""-20""#, "\n\n-18\nThis order has been rejected", "\n\n-20\n"),
    ("sectigo.status_after_refund", r#""Rejected""#, "\"orderStatus\":\"Refunded\"", "\"orderStatus\":\"Rejected\""),
    ("sectigo.status_after_refund", r#""unchanged""#, "\"orderStatus\":\"Refunded\"", "\"orderStatus\":\"Processed\""),
    ("sectigo.certificate_id", r#""-2""#, "\"errorCode\":0", "\"errorCode\":-2"),
    ("sectigo.certificate_id", r#""-4""#, "\"errorCode\":0", "\"errorCode\":-4"),
    ("sectigo.processing", r#""fails_after_refund""#, "\n\n0", "\n\n-14\n"),
    ("sectigo.already_refunded_text", r#""Once is enough""#, "-18\nThis order has already", "-18\nOnce is enough"),
    ("sectigo.multi_domain_text", r#""Too many domains""#, "-18\nMulti-domain orders", "-18\nToo many domains"),
    ("sectigo.period_over_text", r#""Too late""#, "-18\nThe refund period", "-18\nToo late"),
    ("sectigo.rejected_text", r#""Gone""#, "-18\nThis order has been rejected", "-18\nGone"),
    ("sectigo.not_rejectable_text", r#""Gone""#, "-18\nThis order can no longer", "-18\nGone"),
    ("namecom.tax_refunded", "false", "\"refundAmount\":12.00,", "\"refundAmount\":10.00,"),
    ("namecom.rate_limit_details", r#""Slow down""#, "The limit of 20 requests", "\"details\":\"Slow down\""),
    ("namecom.malformed_details", r#""No""#, "is not valid JSON", "\"details\":\"No\""),
    ("namecom.retry_after", "true", "429\n", "retry-after: 1\n"),
    ("namecom.empty_key", r#""key""#, "already been refunded", "x-idempotent-replay: 1"),
    (
        "namecom.repeated_item",
        r#""once""#,
        "already been refunded",
        "refund processed.\"}],\"totalRefundAmount\":12.99",
    ),
    ("namecom.repeated_item", r#""refused""#, "already been refunded", "more than once"),
    ("namecom.all_items_refused", r#""200""#, "409\n", "200\n"),
    ("namecom.half_way_answer", r#""500""#, "502\n", "500\n"),
    ("namecom.half_way_answer", r#""504""#, "502\n", "504\n"),
    ("namecom.half_way_answer", r#""failed""#, "502\n", "\"orderItemStatus\":\"failed\""),
    // Not on the provider's wire: the books show it.
    ("namecom.refund_to", r#""account_balance""#, "\"paid_to\":\"payment_method\"", "\"paid_to\":\"account_balance\""),
    ("namecom.deleted_domain", r#""shown""#, "404\n", "\"domainName\":\"demo-200001.com\""),
    ("namecom.create_date_end", r#""inclusive""#, "\"totalCount\":0", "\"totalCount\":1,"),
    ("namecom.unknown_order_status", r#""refused""#, "\"totalCount\":1,", "orderStatus must be one of"),
    ("namecom.orders_per_page", "2", "\"to\":500", "\"to\":2,"),
    ("namecom.order_times_behind_minutes", "120", "T12:00:00Z", "T10:00:00Z"),
    ("namecom.wrapped_order", "true", "\n\n{\"id\":", "\n\n{\"order\":{\"id\":"),
    ("namecom.rate_limit_message", "false", "\"message\":\"Rate Limit", "\n\n{\"details\":\"\"}"),
    ("namecom.too_large_page", r#""refused""#, "200\n", "perPage must be at most 1000"),
    ("namecom.unreadable_query", r#""ignored""#, "page must be a positive integer", "\"totalCount\""),
    ("namecom.key_life_seconds", "1", "x-idempotent-replay: 1", "already been refunded"),
    ("namecom.key_comparison", r#""bytes""#, "x-idempotent-replay: 1", "has been reused for a different request"),
    ("namecom.cached_answers", r#""all""#, "400\n", "x-idempotent-replay: 1"),
    ("namecom.agp_days", "0", "\"refunded\"", "423\n"),
    ("namecom.agp_days_by_tld", r#"{"com":0}"#, "\"refunded\"", "423\n"),
    ("namecom.requests_per_second", "1", "already been refunded", "429\n"),
    ("namecom.cascade_rows", "false", "Whois privacy", "Domain successfully deleted and refund processed.\"}]"),
    ("namecom.final_amount_as_text", "true", "\"finalAmount\":12.99", "\"finalAmount\":\"12.99\""),
    ("namecom.link_header", r#""rfc8288""#, "; rel=\"next\">", ">; rel=\"next\""),
    ("namecom.deduplication", r#""off""#, "already been refunded", "\"orderItemStatus\":\"refunded\""),
    ("namecom.idempotency_keys", "false", "x-idempotent-replay: 1", "already been refunded"),
    ("namecom.key_in_flight", r#""refuse""#, "x-idempotent-replay: 1", "is still being processed"),
    ("namecom.requests_per_hour", "1", "already been refunded", "The limit of 1 requests per hour"),
    (
        "namecom.no_details",
        r#""null""#,
        "{\"message\":\"Unauthorized\"}",
        "{\"message\":\"Unauthorized\",\"details\":null}",
    ),
    ("namecom.unknown_members", r#""refused""#, "\"refunded\"", "'note' is not a known field"),
    ("namecom.first_check", r#""credentials""#, "404\n", "401\n"),
    ("namecom.obstacles", r#""fail_items""#, "400\n", "\"orderItemStatus\":\"failed\""),
    ("debitsuccess.service_namespace", r#""urn:service""#, "\"http://tempuri.org/\"", "\"urn:service\""),
    ("debitsuccess.contract", r#""IOther""#, "IDSServices", "IOther"),
    ("debitsuccess.data_namespace", r#""urn:data""#, "/DSWebService\"", "\"urn:data\""),
    ("debitsuccess.strict_names", "true", ">Succeed<", "500\n"),
    ("debitsuccess.strict_order", "true", ">Succeed<", ">12016<"),
    ("debitsuccess.refund_limit", r#""collected""#, ">13040<", ">Succeed<"),
    ("debitsuccess.over_length", r#""truncate""#, ">100<", ">Succeed<"),
    ("debitsuccess.failed_number", r#""nil""#, "RefundRequestNumber>0<", "RefundRequestNumber i:nil"),
    ("debitsuccess.unreadable_xml", r#""bad_request""#, "500\n", "400\n"),
    ("debitsuccess.utc_offset_minutes", "-90", "+12:00<", "-01:30<"),
    ("debitsuccess.awaiting_review_after_seconds", "10", ">Submitted<", ">Awaiting Review<"),
    ("debitsuccess.approved_after_seconds", "10", ">Submitted<", ">Approved<"),
    ("debitsuccess.completed_after_seconds", "10", ">Submitted<", ">Completed<"),
    ("debitsuccess.deduplication", r#""off""#, ">14143<", ">Succeed<"),
    // Not on the provider's wire: the books show it.
    ("debitsuccess.service_fee_minor", "25", "\"fee_minor\":null", "\"fee_minor\":25"),
    (
        "debitsuccess.notes",
        r#""first""#,
        ">12017<",
        ">13012</a:Code><a:Note>Invalid Amount value</a:Note><a:NoteType>Error</a:NoteType></a:ResponseMessageNote></a:ResponseNotes>",
    ),
    ("debitsuccess.check_order", r#""amount_first""#, ">14143<", ">13040<"),
    ("debitsuccess.differing_references", r#""07""#, ">08<", ">07<"),
    ("debitsuccess.differing_references", r#""account_reference""#, ">08<", ">Succeed<"),
    ("debitsuccess.amount_out_of_range", r#""100""#, ">13012<", ">100<"),
    ("debitsuccess.texts", r#""system_page""#, "Note>Success<", "Note>Success!<"),
    ("debitsuccess.success_word", r#""Success""#, "Status>Succeed<", "Status>Success<"),
    ("debitsuccess.business_error_http_status", "500", "200\n", "500\n"),
    ("debitsuccess.wrong_credentials", r#""with_others""#, ">02<", ">12017<"),
    ("debitsuccess.check_order", r#""account_first""#, ">12017<", ">08<"),
    ("debitsuccess.missing_refund", r#""empty""#, ">08<", ">Succeed<"),
    ("debitsuccess.status_without_identifier", r#""100""#, ">08<", ">100<"),
    ("debitsuccess.unfinished_status", r#""Unknown""#, "Status>Failed<", "Status>Unknown<"),
    ("debitsuccess.final_statuses", r#""can_be_left""#, ">Rejected<", ">Approved<"),
    ("debitsuccess.refund_amount", r#""integer""#, "RefundAmount>12.34<", "RefundAmount>12<"),
];

#[tokio::test]
async fn every_setting_changes_what_a_client_sees() {
    let settings = serde_json::to_value(Settings::default()).unwrap();
    let known: BTreeSet<String> = settings
        .as_object()
        .unwrap()
        .iter()
        .flat_map(|(provider, settings)| {
            settings.as_object().unwrap().keys().map(move |name| format!("{provider}.{name}"))
        })
        .collect();
    let proved: BTreeSet<String> = PROOFS.iter().map(|(name, ..)| (*name).to_owned()).collect();
    assert_eq!(known, proved, "a setting without a proof, or a proof of nothing");

    let bench = TestBench::start().await;
    for (name, value, default, changed) in PROOFS {
        let (provider, setting) = name.split_once('.').unwrap();
        let value: Value = serde_json::from_str(value).unwrap();
        assert_ne!(settings[provider][setting], value, "{name}");
        // Both worlds exist in parallel: the settings of one do not affect the other.
        let worlds = [(); 2].map(|()| bench.simulators.create_world(NewWorld::default()).unwrap());
        let path = format!("/v1/worlds/{}/settings", worlds[1].id());
        let change = json!({ provider: { setting: value } }).to_string();
        assert_eq!(bench.control(Method::PATCH, &path, &change).await.0, 200, "{name}");
        let mut answers = Vec::new();
        for world in &worlds {
            // The clock is paused, so that limits do not depend on the speed of this machine.
            world.with_world(|world| world.clock.stop());
            let client = WorldClient { bench: &bench, account: Account::of(&world.credentials()), world };
            let by = if value == "account_first" { "debitsuccess.check_order.account_first" } else { *name };
            answers.push(client.answer_for(by).await);
        }
        assert!(answers[0].contains(default) && !answers[0].contains(changed), "{name}, default: {}", answers[0]);
        assert!(answers[1].contains(changed), "{name}, changed: {}", answers[1]);
        for world in worlds {
            world.delete().unwrap();
        }
    }
    let (status, refused) = bench.control(Method::PATCH, "/v1/settings", r#"{"sectigo":{"texts":"mine"}}"#).await;
    assert_eq!((status.as_u16(), refused["error"].as_str().unwrap().contains("unknown variant `mine`")), (400, true));
}

/// A client in one world.
struct WorldClient<'a> {
    bench: &'a TestBench,
    world: &'a WorldHandle,
    account: Account,
}

const ORDER: &[(&str, &str)] = &[("orderNumber", "1000001")];
const REASON: (&str, &str) = ("refundReasonCode", "11");
const REFUND: &[(&str, &str)] = &[("orderNumber", "1000001"), REASON];
const NO_HEADERS: &[(&str, &str)] = &[];
const KEY: &[(&str, &str)] = &[("x-idempotency-key", "key-1")];
const ITEM: &str = r#"{"orderId":200001,"orderItemIds":[3200001]}"#;

impl WorldClient<'_> {
    /// Makes the requests that show one setting, and returns the last answer.
    async fn answer_for(mut self, setting: &str) -> String {
        let long = "1".repeat(65);
        match setting {
            "sectigo.status_lag_seconds" => {
                self.auto_refund(REFUND).await;
                self.status(ORDER).await
            }
            "sectigo.order_numbers_are_digits" => self.auto_refund(&[("orderNumber", "A1"), REASON]).await,
            "sectigo.texts" => self.auto_refund(&[("responseFormat", "1")]).await,
            "sectigo.max_order_number_chars" => self.auto_refund(&[("orderNumber", &long), REASON]).await,
            "sectigo.unknown_order_to_status_call" | "sectigo.no_data" => self.status(&[("orderNumber", "1")]).await,
            "sectigo.check_order" => {
                self.account.sectigo.1.push('x');
                self.auto_refund(&[("responseFormat", "1")]).await
            }
            "sectigo.other_methods" => {
                let url = format!("https://{}/products/!AutoRefund", self.bench.simulators.sectigo_addr());
                let (name, password) = &self.account.sectigo;
                let form = [("loginName", name), ("loginPassword", password)];
                // PUT, because a method without a body could not name the world.
                answer_text(self.bench.client.put(url).form(&form)).await
            }
            "sectigo.repeated_argument" => self.auto_refund(&[ORDER[0], REASON, ORDER[0]]).await,
            "sectigo.empty_argument" => self.auto_refund(&[ORDER[0], ("refundReasonCode", "")]).await,
            "sectigo.refund_period_days" | "sectigo.processing" => self.auto_refund(REFUND).await,
            "sectigo.first_check" => {
                let url = format!("http://{}/products/!AutoRefund", self.bench.simulators.sectigo_plaintext_addr());
                answer_text(self.bench.client.get(format!("{url}?loginName={}", self.account.sectigo.0))).await
            }
            "sectigo.plain_content_type" | "sectigo.unknown_order" => {
                self.auto_refund(&[("orderNumber", "1"), REASON]).await
            }
            "sectigo.status_content_type" => self.status(ORDER).await,
            "sectigo.arguments_in_query" | "sectigo.other_content_types" | "sectigo.invalid_utf8" => {
                let (name, password) = &self.account.sectigo;
                let login = format!("loginName={name}&loginPassword={password}");
                let form = format!("{login}&orderNumber=1000001&refundReasonCode=11");
                let url = format!("https://{}/products/!AutoRefund", self.bench.simulators.sectigo_addr());
                let form_type = "application/x-www-form-urlencoded";
                let (url, content_type, body) = match setting {
                    "sectigo.arguments_in_query" => {
                        // An empty POST without a content type.
                        return answer_text(self.bench.client.post(format!("{url}?{form}"))).await;
                    }
                    "sectigo.other_content_types" => (url, "text/plain", form),
                    _ => (url, form_type, form.replace(&login, &format!("{login}%FF"))),
                };
                answer_text(self.bench.client.post(url).header("content-type", content_type).body(body)).await
            }
            "sectigo.argument_names" => {
                let (name, password) = &self.account.sectigo;
                let form = [("LOGINNAME", name.as_str()), ("LOGINPASSWORD", password), ORDER[0], REASON];
                let url = format!("https://{}/products/!AutoRefund", self.bench.simulators.sectigo_addr());
                answer_text(self.bench.client.post(url).form(&form)).await
            }
            "sectigo.wrong_login_code" => {
                self.account.sectigo.1.push('x');
                self.auto_refund(REFUND).await
            }
            "sectigo.response_format" => {
                self.auto_refund(REFUND).await;
                self.auto_refund(&[ORDER[0], REASON, ("responseFormat", "1")]).await
            }
            "sectigo.auto_reject" | "sectigo.rejected_order" | "sectigo.rejected_text" => {
                self.sectigo("!AutoReject", ORDER).await;
                self.auto_refund(REFUND).await
            }
            "sectigo.not_rejectable_text" => {
                self.auto_refund(REFUND).await;
                self.sectigo("!AutoReject", ORDER).await
            }
            "sectigo.status_after_refund" => {
                self.auto_refund(REFUND).await;
                self.status(ORDER).await
            }
            "sectigo.certificate_id" => self.status(&[ORDER[0], ("CertificateID", "1")]).await,
            "sectigo.multi_domain_text" => self.auto_refund(&[("orderNumber", "2000001"), REASON]).await,
            "sectigo.period_over_text" => self.auto_refund(&[("orderNumber", "2000002"), REASON]).await,
            _ if setting.starts_with("sectigo.") => {
                self.auto_refund(REFUND).await;
                self.auto_refund(REFUND).await
            }

            "namecom.key_life_seconds" => {
                self.process_refund(ITEM, KEY).await;
                assert!(self.world.advance(Duration::from_secs(2)));
                self.process_refund(ITEM, KEY).await
            }
            "namecom.key_comparison" => {
                self.process_refund(ITEM, KEY).await;
                self.process_refund(&ITEM.replace(',', ", "), KEY).await
            }
            "namecom.cached_answers" => {
                let renewal = r#"{"orderId":300001,"orderItemIds":[3300001]}"#;
                self.process_refund(renewal, KEY).await;
                self.process_refund(renewal, KEY).await
            }
            "namecom.agp_days" | "namecom.agp_days_by_tld" => self.process_refund(ITEM, NO_HEADERS).await,
            "namecom.cascade_rows" => {
                self.process_refund(r#"{"orderId":123456,"orderItemIds":[987654]}"#, NO_HEADERS).await
            }
            "namecom.final_amount_as_text" => self.namecom(Method::GET, "orders/200001", "", NO_HEADERS).await,
            "namecom.link_header" => self.namecom(Method::GET, "orders?perPage=1", "", NO_HEADERS).await,
            "namecom.idempotency_keys" => {
                self.process_refund(ITEM, KEY).await;
                self.process_refund(ITEM, KEY).await
            }
            "namecom.key_in_flight" => self.second_under_a_key().await,
            "namecom.no_details" => {
                self.account.namecom.1.push('x');
                self.process_refund(ITEM, NO_HEADERS).await
            }
            "namecom.tax_refunded" => {
                let path = format!("/v1/worlds/{}/namecom/orders/9", self.world.id());
                let order = r#"{"items":[{"id":90,"price_minor":1000,"tax_minor":200}]}"#;
                assert_eq!(self.bench.control(Method::PUT, &path, order).await.0, 200);
                self.process_refund(r#"{"orderId":9,"orderItemIds":[90]}"#, NO_HEADERS).await
            }
            "namecom.rate_limit_details" | "namecom.retry_after" | "namecom.rate_limit_message" => {
                for _ in 0..20 {
                    self.process_refund(ITEM, NO_HEADERS).await;
                }
                self.process_refund(ITEM, NO_HEADERS).await
            }
            "namecom.all_items_refused" => {
                self.process_refund(r#"{"orderId":410203,"orderItemIds":[3410203]}"#, NO_HEADERS).await
            }
            "namecom.half_way_answer" => {
                self.process_refund(r#"{"orderId":410205,"orderItemIds":[3410205]}"#, NO_HEADERS).await
            }
            "namecom.refund_to" => {
                self.process_refund(ITEM, NO_HEADERS).await;
                let path = format!("/v1/worlds/{}/books", self.world.id());
                self.bench.control(Method::GET, &path, "").await.1.to_string()
            }
            "namecom.deleted_domain" => {
                self.process_refund(ITEM, NO_HEADERS).await;
                self.namecom(Method::GET, "domains/demo-200001.com", "", NO_HEADERS).await
            }
            "namecom.create_date_end" | "namecom.order_times_behind_minutes" => {
                let path = format!("/v1/worlds/{}/namecom/orders/9", self.world.id());
                let order = r#"{"created":"2024-02-29T12:00:00Z","items":[{"id":90,"price_minor":1000}]}"#;
                assert_eq!(self.bench.control(Method::PUT, &path, order).await.0, 200);
                let listed = if setting.ends_with("end") { "?createDateEnd=2024-02-29" } else { "/9" };
                self.namecom(Method::GET, &format!("orders{listed}"), "", NO_HEADERS).await
            }
            "namecom.unknown_order_status" => {
                self.namecom(Method::GET, "orders?orderStatus=odd&tld=limited", "", NO_HEADERS).await
            }
            "namecom.orders_per_page" => self.namecom(Method::GET, "orders", "", NO_HEADERS).await,
            "namecom.wrapped_order" => self.namecom(Method::GET, "orders/200001", "", NO_HEADERS).await,
            "namecom.malformed_details" => self.process_refund("{", NO_HEADERS).await,
            "namecom.empty_key" => {
                self.process_refund(ITEM, &[("x-idempotency-key", "")]).await;
                self.process_refund(ITEM, &[("x-idempotency-key", "")]).await
            }
            "namecom.repeated_item" => {
                self.process_refund(&ITEM.replace("3200001", "3200001,3200001"), NO_HEADERS).await
            }
            "namecom.too_large_page" => self.namecom(Method::GET, "orders?perPage=1001&tld=none", "", NO_HEADERS).await,
            "namecom.unreadable_query" => self.namecom(Method::GET, "orders?page=x&tld=none", "", NO_HEADERS).await,
            "namecom.unknown_members" => {
                self.process_refund(&ITEM.replace('{', r#"{"note":"please","#), NO_HEADERS).await
            }
            "namecom.first_check" => {
                self.account.namecom.1.push('x');
                self.namecom(Method::GET, "nothing", "", NO_HEADERS).await
            }
            _ if setting.starts_with("namecom.") => {
                self.process_refund(ITEM, NO_HEADERS).await;
                self.process_refund(ITEM, NO_HEADERS).await
            }

            "debitsuccess.contract" => answer_text(self.bench.client.get(format!("{}?wsdl", self.own_service()))).await,
            "debitsuccess.strict_names" => {
                self.soap("http://example.com/InitiateRefund", &self.initiate("id-1", "12.34", "overpaid")).await
            }
            "debitsuccess.strict_order" => {
                let body = self.initiate("id-1", "12.34", "overpaid");
                let reference = "<d:AccountReferenceNo>DS000001</d:AccountReferenceNo>";
                let behind = body.replace(reference, "").replace("</request>", &format!("{reference}</request>"));
                self.soap(INITIATE, &behind).await
            }
            "debitsuccess.refund_limit" => {
                self.soap(INITIATE, &self.initiate("id-1", "400.00", "overpaid")).await;
                self.soap(INITIATE, &self.initiate("id-2", "400.00", "overpaid")).await
            }
            "debitsuccess.over_length" => self.soap(INITIATE, &self.initiate("id-1", "12.34", &"x".repeat(4001))).await,
            "debitsuccess.failed_number" | "debitsuccess.deduplication" => {
                self.soap(INITIATE, &self.initiate("id-1", "12.34", "overpaid")).await;
                self.soap(INITIATE, &self.initiate("id-1", "12.34", "overpaid")).await
            }
            "debitsuccess.unreadable_xml" => {
                answer_text(soap_headers(self.bench.client.post(self.own_service()), INITIATE).body("<")).await
            }
            "debitsuccess.awaiting_review_after_seconds"
            | "debitsuccess.approved_after_seconds"
            | "debitsuccess.completed_after_seconds"
            | "debitsuccess.refund_amount" => {
                self.soap(INITIATE, &self.initiate("id-1", "12.34", "overpaid")).await;
                assert!(self.world.advance(Duration::from_secs(11)));
                let body = self.initiate("id-1", "12.34", "overpaid").replace("InitiateRefund", "GetRefundStatus");
                self.soap(STATUS, &body).await
            }
            "debitsuccess.service_fee_minor" => {
                self.soap(INITIATE, &self.initiate("id-1", "12.34", "overpaid")).await;
                let path = format!("/v1/worlds/{}/books", self.world.id());
                self.bench.control(Method::GET, &path, "").await.1.to_string()
            }
            "debitsuccess.check_order" => {
                self.soap(INITIATE, &self.initiate("id-1", "500.00", "overpaid")).await;
                self.soap(INITIATE, &self.initiate("id-1", "500.00", "overpaid")).await
            }
            "debitsuccess.check_order.account_first" => {
                let body = self.initiate("id-1", "12.34", "").replace("DS000001", "NONE");
                self.soap(INITIATE, &body).await
            }
            "debitsuccess.wrong_credentials" => {
                self.account.debitsuccess.1.push('x');
                self.soap(INITIATE, &self.initiate("id-1", "12.34", "")).await
            }
            "debitsuccess.business_error_http_status" => self.soap(INITIATE, &self.initiate("id-1", "12.34", "")).await,
            "debitsuccess.missing_refund" | "debitsuccess.status_without_identifier" => {
                let identifier = "<d:ExternalRefundIdentifier>id-1</d:ExternalRefundIdentifier>";
                let body = self.initiate("id-1", "12.34", "overpaid").replace("InitiateRefund", "GetRefundStatus");
                let without = if setting.ends_with("without_identifier") { "" } else { identifier };
                self.soap(STATUS, &body.replace(identifier, without)).await
            }
            "debitsuccess.unfinished_status" => {
                let path = format!("/v1/worlds/{}/debitsuccess/accounts/DS000001", self.world.id());
                let account = r#"{"condition":"unknown_exception"}"#;
                assert_eq!(self.bench.control(Method::PUT, &path, account).await.0, 200);
                self.soap(INITIATE, &self.initiate("id-1", "12.34", "overpaid")).await
            }
            "debitsuccess.final_statuses" => {
                self.soap(INITIATE, &self.initiate("id-1", "12.34", "overpaid")).await;
                let path = format!("/v1/worlds/{}/debitsuccess/refunds/id-1/status", self.world.id());
                for status in ["Rejected", "Approved"] {
                    self.bench.control(Method::POST, &path, &json!({ "status": status }).to_string()).await;
                }
                let body = self.initiate("id-1", "12.34", "overpaid").replace("InitiateRefund", "GetRefundStatus");
                self.soap(STATUS, &body).await
            }
            "debitsuccess.differing_references" => {
                let other = "<d:ExternalAccountReferenceNo>EXT-000002</d:ExternalAccountReferenceNo><d:Amount>";
                self.soap(INITIATE, &self.initiate("id-1", "12.34", "overpaid").replace("<d:Amount>", other)).await
            }
            "debitsuccess.amount_out_of_range" => self.soap(INITIATE, &self.initiate("id-1", "0.00", "overpaid")).await,
            "debitsuccess.notes" => self.soap(INITIATE, &self.initiate("id-1", "-1", "")).await,
            _ => self.soap(INITIATE, &self.initiate("id-1", "12.34", "overpaid")).await,
        }
    }

    async fn auto_refund(&self, more: &[(&str, &str)]) -> String {
        self.sectigo("!AutoRefund", more).await
    }

    async fn status(&self, more: &[(&str, &str)]) -> String {
        self.sectigo("!getPostPaymentStatus", more).await
    }

    async fn sectigo(&self, call: &str, more: &[(&str, &str)]) -> String {
        let (name, password) = &self.account.sectigo;
        let mut form = vec![("loginName", name.as_str()), ("loginPassword", password.as_str())];
        form.extend(more);
        let url = format!("https://{}/products/{call}", self.bench.simulators.sectigo_addr());
        answer_text(self.bench.client.post(url).form(&form)).await
    }

    async fn process_refund(&self, body: &str, headers: &[(&str, &str)]) -> String {
        self.namecom(Method::POST, "refund", body, headers).await
    }

    async fn namecom(&self, method: Method, call: &str, body: &str, headers: &[(&str, &str)]) -> String {
        let url = format!("http://{}/core/v1/{call}", self.bench.simulators.namecom_plaintext_addr());
        let (username, token) = &self.account.namecom;
        let request = self.bench.client.request(method, url).basic_auth(username, Some(token));
        let request = request.header("content-type", "application/json").body(body.to_owned());
        answer_text(headers.iter().fold(request, |request, (name, value)| request.header(*name, *value))).await
    }

    /// Two concurrent requests under one key: the answer of the second one.
    async fn second_under_a_key(&self) -> String {
        let gate = Gate { attempt: Some(1), ..Gate::new(Provider::Namecom, Point::AfterEffect) };
        let gate = self.world.with_world(|world| world.gates.add(gate)).unwrap();
        let second = async {
            self.bench
                .journal_of_world_once(self.world, |journal| journal.iter().any(|entry| !entry.effects.is_empty()))
                .await;
            self.process_refund(ITEM, KEY).await
        };
        let release = async {
            self.bench.journal_of_world_once(self.world, |journal| journal.len() == 2).await;
            self.world.with_world(|world| world.gates.remove(gate)).unwrap();
        };
        let (_, second, ()) = tokio::join!(self.process_refund(ITEM, KEY), second, release);
        second
    }

    /// A service whose requests need not name a world: own ports of a world with the same settings.
    fn own_service(&self) -> String {
        let own = self.bench.simulators.create_world(NewWorld {
            own_ports: true,
            settings: Some(self.world.with_world(|world| world.settings.clone())),
            ..NewWorld::default()
        });
        format!("http://{}/DSWebService/DSServices.svc", own.unwrap().ports().debitsuccess_plaintext)
    }

    fn initiate(&self, identifier: &str, amount: &str, description: &str) -> String {
        let (username, password) = &self.account.debitsuccess;
        format!(
            "<s:Envelope xmlns:s=\"http://schemas.xmlsoap.org/soap/envelope/\"><s:Body>\
             <InitiateRefund xmlns=\"http://tempuri.org/\"><request xmlns:d=\"http://schemas.datacontract.org/2004/07/DSWebService\">\
             <d:User><d:Password>{password}</d:Password><d:Username>{username}</d:Username></d:User>\
             <d:AccountReferenceNo>DS000001</d:AccountReferenceNo><d:Amount>{amount}</d:Amount>\
             <d:Description>{description}</d:Description>\
             <d:ExternalRefundIdentifier>{identifier}</d:ExternalRefundIdentifier>\
             </request></InitiateRefund></s:Body></s:Envelope>"
        )
    }

    async fn soap(&self, action: &str, body: &str) -> String {
        let url = format!("http://{}/DSWebService/DSServices.svc", self.bench.simulators.debitsuccess_plaintext_addr());
        answer_text(soap_headers(self.bench.client.post(url), action).body(body.to_owned())).await
    }
}

const STATUS: &str = "http://tempuri.org/IDSServices/GetRefundStatus";
const INITIATE: &str = "http://tempuri.org/IDSServices/InitiateRefund";

fn soap_headers(request: RequestBuilder, action: &str) -> RequestBuilder {
    request.header("content-type", "text/xml; charset=utf-8").header("soapaction", format!("\"{action}\""))
}

/// The answer as text: status, headers, an empty line, body.
async fn answer_text(request: RequestBuilder) -> String {
    let response = request.send().await.unwrap();
    let headers = response.headers().iter().map(|(name, value)| format!("{name}: {}\n", value.to_str().unwrap()));
    let head = format!("{}\n{}", response.status().as_u16(), headers.collect::<String>());
    format!("{head}\n{}", response.text().await.unwrap())
}
