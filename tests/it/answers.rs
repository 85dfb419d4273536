//! Undocumented answers of providers, and answers to wrong settings: what happens to the refund, to
//! its account and to the money.

use std::collections::BTreeMap;

use recoup::proto::v1 as proto;
use recoup::proto::v1::account::Health;
use recoup::proto::v1::provider_error::Category;
use recoup::proto::v1::refund::State;
use rstest::rstest;
use simulators::faults::{FaultEffect, Point, Repeat, Rule};
use simulators::request::Provider;

use crate::support::{Stack, is_processed, namecom, sample_request, without_wait};

const SHORT_CIRCUIT_PAUSE: &str = "engine.circuit_pause_min_ms = 40\nengine.circuit_pause_max_ms = 100";

fn answer(status: u16, headers: &[(&str, &str)], body: &str) -> FaultEffect {
    let headers: BTreeMap<String, String> =
        headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    FaultEffect::Answer { status, body: body.to_owned(), headers }
}

/// Arms an effect at every request to `provider`, including lookups.
fn always(stack: &Stack, provider: Provider, effect: FaultEffect) -> simulators::RuleId {
    let rule = Rule { repeat: Repeat::Standing, ..Rule::new(provider, Point::BeforeEffect, effect) };
    stack.simulators.arm(rule).unwrap()
}

/// Seen at name.com: all items are refused with a 409 that has rows and no message. That is a
/// refusal of these items; no number of them means that the account does not work.
#[tokio::test]
async fn a_409_with_refused_rows_is_a_refusal_and_not_a_failure_of_the_account() {
    let stack = Stack::start_with(SHORT_CIRCUIT_PAUSE).await;
    for number in 1..=8 {
        let (order, item) = (900_000 + number, 9_000_000 + number);
        let body = format!(
            "{{\"results\":[{{\"orderId\":{order},\"orderItemId\":{item},\"orderItemStatus\":\"failed\",\
             \"refundAmount\":0,\"message\":\"Domain is locked.\"}}],\"totalRefundAmount\":0}}"
        );
        stack.arm(Provider::Namecom, Point::BeforeEffect, answer(409, &[], &body), Repeat::Times(1));
        let refund = stack.refund(namecom(&format!("r-{number}"), order, &[item])).await;
        assert_eq!(refund.state(), State::Failed);
        let error = refund.provider_error.unwrap();
        assert_eq!((error.message.as_str(), error.http_status), ("Domain is locked.", 409));
    }
    assert_eq!(stack.health_of("namecom").await, Health::Serving);
    let (good, target, _) = sample_request(Provider::Namecom, "good");
    assert_eq!(stack.refund(good).await.state(), State::Succeeded);
    assert_eq!(stack.effects(target), 1);
}

/// The money has moved, and the answer says so beside the message of a refusal.
#[tokio::test]
async fn refunded_rows_beside_a_message_are_not_lost() {
    let stack = Stack::start().await;
    let body = "{\"message\":\"Conflict\",\"details\":\"AGP delete threshold has been exceeded.\",\"results\":[{\"orderId\":\
                200001,\"orderItemId\":3200001,\"orderItemStatus\":\"refunded\",\"refundAmount\":10.99}]}";
    stack.arm(Provider::Namecom, Point::AfterEffect, answer(409, &[], body), Repeat::Times(1));
    let (request, target, _) = sample_request(Provider::Namecom, "r-1");
    assert_eq!(stack.refund(request).await.state(), State::Succeeded);
    assert_eq!((stack.effects(target), stack.attempts("200001")), (1, 1));
}

/// A proxy answers in place of name.com: nothing was processed, so the refund waits and is sent
/// again.
#[rstest]
#[case::too_many(answer(429, &[("retry-after", "1")], "<html>slow down</html>"), Category::LimitReached, Health::Serving)]
#[case::login(answer(401, &[], "<html>who are you</html>"), Category::CredentialsRefused, Health::CredentialsRefused)]
#[case::forbidden(answer(403, &[], "<html>not from here</html>"), Category::CredentialsRefused, Health::CredentialsRefused)]
#[case::failed_authentication(
    answer(403, &[], "{\"message\":\"Permission denied\",\"details\":\"Failed authentication\"}"),
    Category::CredentialsRefused,
    Health::CredentialsRefused
)]
#[tokio::test]
async fn a_refund_that_was_not_processed_waits_and_is_sent_again(
    #[case] effect: FaultEffect,
    #[case] category: Category,
    #[case] health: Health,
) {
    let stack = Stack::start_with(SHORT_CIRCUIT_PAUSE).await;
    let rule = always(&stack, Provider::Namecom, effect);
    let (request, target, _) = sample_request(Provider::Namecom, "r-1");
    stack.create(without_wait(request)).await.unwrap();
    let waits = |refund: &proto::Refund| refund.state() == State::Pending && refund.provider_error.is_some();
    let refund = stack.until("r-1", waits).await;
    assert_eq!(refund.provider_error.unwrap().category(), category);
    assert_eq!(stack.health_of("namecom").await, health);
    assert_eq!(stack.effects(target), 0);
    stack.simulators.with_world(|world| world.faults.disarm(rule));
    assert_eq!(stack.until("r-1", is_processed).await.state(), State::Succeeded);
    assert_eq!(stack.effects(target), 1);
}

/// The service accepts only exact names. The error for a wrong one names the setting; it does not
/// look like a wrong password, and it does not suspend the account.
#[rstest]
#[case::data("data_namespace = \"urn:other\"", "data_namespace")]
#[case::action("action_prefix = \"urn:other/\"", "action_prefix")]
#[tokio::test]
async fn a_wrong_service_name_at_debitsuccess_names_the_setting(#[case] setting: &str, #[case] named: &str) {
    let stack = Stack::start_as(|configuration| {
        configuration.replace("currency = \"AUD\"", &format!("currency = \"AUD\"\n{setting}"))
    })
    .await;
    stack.simulators.with_world(|world| world.settings.debitsuccess.strict_names = true);
    let (request, target, _) = sample_request(Provider::Debitsuccess, "r-1");
    stack.create(without_wait(request)).await.unwrap();
    // More attempts than the failures that would suspend the account.
    let waits = |refund: &proto::Refund| refund.state() == State::Pending && refund.attempt_count > 6;
    let refund = stack.until("r-1", waits).await;
    let error = refund.provider_error.unwrap();
    assert!(error.message.contains(named), "{}", error.message);
    assert_ne!(error.category(), Category::CredentialsRefused);
    assert_eq!(stack.health_of("debitsuccess").await, Health::Serving);
    assert_eq!(stack.effects(target), 0);
    // With the right name the refund is processed.
    let stack = stack.restart_as(|configuration| configuration.replace(setting, "")).await;
    assert!(!matches!(stack.until("r-1", is_processed).await.state(), State::Failed));
    assert_eq!(stack.effects(target), 1);
}

/// GetRefundStatus documents its amount as an Integer, and 12.50 comes back as 12.
#[tokio::test]
async fn an_amount_as_a_whole_number_does_not_contradict_the_cents() {
    let stack = Stack::start_with("engine.lookups_after_ms = \"100\"\nengine.lookups_every_ms = 100").await;
    let (request, target, _) = sample_request(Provider::Debitsuccess, "r-1");
    assert_eq!(stack.refund(request).await.state(), State::Submitted);
    let members = "<Status>Succeed</Status><ExternalRefundIdentifier>r-1</ExternalRefundIdentifier><Note>Paid out</Note>\
                   <RefundAmount>12</RefundAmount><RefundRequestNumber>0</RefundRequestNumber><RefundStatus>Completed</RefundStatus>";
    let body = format!(
        "<Envelope><Body><GetRefundStatusResponse><GetRefundStatusResult>{members}</GetRefundStatusResult>\
         </GetRefundStatusResponse></Body></Envelope>"
    );
    always(&stack, Provider::Debitsuccess, answer(200, &[("content-type", "text/xml")], &body));
    let refund = stack.until("r-1", |refund| refund.state() != State::Submitted).await;
    assert_eq!((refund.state(), refund.refunded_amount), (State::Succeeded, None));
    assert_eq!(stack.effects(target), 1);
}
