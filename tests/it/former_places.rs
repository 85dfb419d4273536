//! An account that moved to another host or login, where the setting `former` names its earlier
//! place: its refunds move with it.
//!
//! Each test ends with a look at the simulators' books.

use recoup::config::Settings;
use recoup::proto::v1 as proto;
use recoup::proto::v1::refund::State;
use recoup::proto::v1::resolve_refund_request::Resolution;
use rstest::rstest;
use simulators::faults::Point;
use simulators::providers::debitsuccess::RefundStatus;
use simulators::providers::namecom::Account as NamecomAccount;
use simulators::request::Provider;

use crate::support::account_changes::*;
use crate::support::demo_accounts::account_name;
use crate::support::*;

#[rstest]
#[tokio::test]
async fn refunds_move_with_an_account_whose_former_place_is_configured(
    #[values(Provider::Sectigo, Provider::Namecom, Provider::Debitsuccess)] provider: Provider,
    #[values(Moved::Host, Moved::Login, Moved::Both)] how: Moved,
) {
    let all = [("lost", 1), ("gone", 2), ("pending", 3)].map(|(id, number)| refund_of(provider, id, number));
    let [lost, gone, pending] = &all;
    let stack = stack_with_open_refunds(provider, [lost, gone, pending]).await;
    if how != Moved::Host {
        move_login(&stack.simulators);
    }
    let simulators = &stack.simulators;
    let base = configuration(simulators, stack.dir.path(), "");
    let text = section(&base, account_name(provider), |section| moved(section, provider, how, simulators, true));
    let text = fast_lookups(&text, 1, 1_000);
    let stack = stack.restart_as(|_| text.clone()).await;

    for id in ["lost", "gone", "pending"] {
        let moves = moves_of(&stack, id).await;
        let [event] = moves.as_slice() else { panic!("{moves:?}") };
        assert_eq!((event.actor.as_str(), event.from_state, event.attempt), ("gateway", event.to_state, 0));
    }
    // An attempt from before the move is only looked up: a record ends the refund, and its absence
    // leads to a review.
    assert_eq!(stack.until("lost", is_processed).await.state(), accepted(provider));
    let sent = stack.until("pending", is_processed).await;
    assert_eq!((sent.state(), sent.attempt_count), (accepted(provider), 1));
    let review = stack.until("gone", is_processed).await;
    assert_eq!((review.state(), review.attempt_count), (State::NeedsReview, 1));
    assert!(!review.doubt.as_ref().unwrap().resend_safe);
    let begin = micros(&moves_of(&stack, "gone").await[0].event_time.unwrap());
    assert!(micros(&review.update_time.unwrap()) >= begin + 1_000_000, "the settle time starts again");

    let stack = stack.restart_as(|_| text).await;
    for id in ["lost", "gone", "pending"] {
        assert_eq!(moves_of(&stack, id).await.len(), 1, "it moves once");
    }
    assert_eq!([lost, gone, pending].map(|one| stack.effects(&one.target)), [1, 0, 1]);
    assert_eq!([lost, gone, pending].map(|one| stack.attempts(&one.in_journal)), [1, 1, 1]);
}

/// A part that `former` leaves out is that of the present place.
#[rstest]
#[case::host_alone(Moved::Host)]
#[case::login_alone(Moved::Login)]
#[tokio::test]
async fn a_former_place_that_matches_only_in_part_moves_nothing(#[case] former_part: Moved) {
    let stack = Stack::start_as(|text| slow_lookups(&text, 1_000)).await;
    let lost = refund_of(Provider::Sectigo, "lost", 1);
    lose(&stack, Provider::Sectigo, &lost, Point::AfterEffect).await;
    let before = stack.get("lost").await;
    let addr = addr_of(Provider::Sectigo, &stack.simulators);
    let place = match former_part {
        Moved::Login => "{ login = \"demo\" }".to_owned(),
        _ => format!("{{ endpoint = \"https://{addr}\" }}"),
    };
    let stack = stack
        .restart_as(|text| section(&text, "sectigo", |section| former(&other_host(&other_login(section)), &place)))
        .await;
    assert_eq!(stack.get("lost").await, waiting(&before));
    assert_eq!((stack.effects(&lost.target), stack.simulators.journal().len()), (1, 1));
}

#[rstest]
#[case::whole("{ endpoint = \"https://ADDR\", login = \"demo-2\" }", Some("accounts.sectigo.former"))]
#[case::its_login_alone("{ login = \"demo-2\" }", Some("accounts.sectigo.former"))]
#[case::another_login("{ login = \"demo-3\" }", None)]
#[case::another_host("{ endpoint = \"https://localhost:1\", login = \"demo-2\" }", None)]
#[case::its_own("{ login = \"demo\" }", None)]
#[tokio::test]
async fn a_former_place_cannot_be_the_present_place_of_another_account(
    #[case] places: &str,
    #[case] violation: Option<&str>,
) {
    let dir = tempfile::tempdir().unwrap();
    let simulators = simulators_in(dir.path()).await;
    let places = places.replace("ADDR", &addr_of(Provider::Sectigo, &simulators));
    let text = copied(&configuration(&simulators, dir.path(), ""), "sectigo", "other", other_login);
    let text = section(&text, "sectigo", |section| former(section, &places));
    let path = dir.path().join("recoup.toml");
    std::fs::write(&path, text).unwrap();
    let loaded = Settings::load(Some(&path), SECRETS.map(|(name, value)| (name.into(), value.into())));
    let error = loaded.err().map(|errors| errors.to_string()).unwrap_or_default();
    assert_eq!(!error.is_empty(), violation.is_some(), "{error}");
    assert!(error.contains(violation.unwrap_or_default()), "{error}");
    assert!(violation.is_none() || error.contains("\"other\""), "{error}");
    assert!(simulators.journal().is_empty());
}

/// Reservations do not depend on the host: a move frees no target, of an open or an ended refund.
#[rstest]
#[tokio::test]
async fn a_target_refunded_before_a_move_stays_refunded_after_it(
    #[values(Provider::Sectigo, Provider::Namecom, Provider::Debitsuccess)] provider: Provider,
    #[values(Moved::Host, Moved::Login)] how: Moved,
    #[values(false, true)] is_renamed: bool,
) {
    let (name, why) = match provider {
        Provider::Sectigo | Provider::Namecom => (account_name(provider), "TARGET_HAS_REFUND"),
        Provider::Debitsuccess => (account_name(provider), "SIMILAR_REFUND"),
    };
    let [done, open, free] =
        [("done", 1), ("open", 2), ("free", 3)].map(|(id, number)| refund_of(provider, id, number));
    let stack = Stack::start_as(|text| slow_lookups(&text, 1_000)).await;
    let refund = stack.refund(done.request.clone()).await;
    if provider == Provider::Debitsuccess {
        let number = refund.provider_reference;
        stack.simulators.with_world(|world| {
            world.providers.debitsuccess.set_refund_status(&number, RefundStatus::Completed, None).unwrap();
        });
        assert_eq!(stack.reconcile("done").await.unwrap().state(), State::Succeeded);
    }
    lose(&stack, provider, &open, Point::BeforeEffect).await;
    if how != Moved::Host {
        move_login(&stack.simulators);
    }
    // A renamed account recognises its refunds by the login alone; after a change of the login,
    // `former` names the earlier one.
    let with_former = is_renamed && how != Moved::Host;
    let new_name = if is_renamed { "other" } else { name };
    let base = configuration(&stack.simulators, stack.dir.path(), "");
    let text = section(&base, name, |section| {
        renamed(&moved(section, provider, how, &stack.simulators, with_former), name, new_name)
    });
    let stack = stack.restart_as(|_| text).await;
    let again = |one: &RequestedRefund, id: &str| proto::CreateRefundRequest {
        refund_id: id.to_owned(),
        account: new_name.to_owned(),
        ..one.request.clone()
    };
    for (one, of) in [(&done, "refunds/done"), (&open, "refunds/open")] {
        for validate_only in [true, false] {
            let request = proto::CreateRefundRequest { validate_only, ..again(one, "again") };
            let refusal = stack.create(request).await.unwrap_err();
            is_reason(&refusal, why);
            assert_eq!(metadata(&refusal, "conflicting_refund"), of);
        }
    }
    assert_eq!(stack.refund(again(&free, "free")).await.state(), accepted(provider));
    assert_eq!([&done, &open, &free].map(|one| stack.effects(&one.target)), [1, 0, 1]);
    assert_eq!([&done, &open, &free].map(|one| stack.attempts(&one.in_journal)), [1, 1, 1]);
}

/// The provider keeps a key per token: under a new token, the request with an old key would be new
/// to it.
#[rstest]
#[case::the_same(false, State::Succeeded, 2, 1)]
#[case::another(true, State::NeedsReview, 1, 0)]
#[tokio::test]
async fn a_key_expires_with_the_token_that_it_was_sent_with(
    #[case] is_new: bool,
    #[case] end: State,
    #[case] attempts: usize,
    #[case] effects: usize,
) {
    let stack = Stack::start_as(|text| slow_lookups(&text, 1_000)).await;
    // An item that is not a registration: its lookup cannot prove absence.
    let lost = proto::CreateRefundRequest { refund_id: "lost".to_owned(), ..namecom("lost", 123_456, &[987_655]) };
    let lost = RequestedRefund { request: lost, target: "987655".to_owned(), in_journal: "123456".to_owned() };
    lose(&stack, Provider::Namecom, &lost, Point::BeforeEffect).await;
    let file = stack.dir.path().join("token");
    let token = if is_new { "token-2" } else { "demo-token" };
    std::fs::write(&file, token).unwrap();
    stack.simulators.with_world(|world| {
        let account = world.providers.namecom.accounts()[0].clone();
        world.providers.namecom.put_account(NamecomAccount { token: token.to_owned(), ..account });
    });
    let dir = stack.dir.path().to_owned();
    let stack = stack
        .restart_as(|text| {
            make_lookups_due(&dir);
            let text = text.replace("token_env = \"DEMO_TOKEN\"", &format!("token_file = \"{}\"", file.display()));
            fast_lookups(&text, 1, 1_000)
        })
        .await;
    assert_eq!(stack.until("lost", is_processed).await.state(), end);
    assert_eq!((stack.attempts(&lost.in_journal), stack.effects(&lost.target)), (attempts, effects));
    assert!(stack.get("lost").await.doubt.is_none_or(|doubt| !doubt.resend_safe));
}

/// A refund in doubt is only looked up after a move, so a similar refund is not in its way.
#[tokio::test]
async fn a_refund_in_doubt_moves_although_a_similar_refund_may_still_have_an_effect() {
    let provider = Provider::Debitsuccess;
    let stack = Stack::start_as(|text| slow_lookups(&text, 1_000)).await;
    let [first, second] = ["first", "second"].map(|id| refund_of(provider, id, 1));
    lose(&stack, provider, &first, Point::BeforeEffect).await;
    let request = proto::CreateRefundRequest { allow_similar: true, ..second.request.clone() };
    lose(&stack, provider, &RequestedRefund { request, ..second }, Point::AfterEffect).await;
    assert_eq!(resolve(&stack, "first", Resolution::NotRefunded, true).await.unwrap().state(), State::Failed);
    let base = configuration(&stack.simulators, stack.dir.path(), "");
    let text = section(&base, "debitsuccess", |text| moved(text, provider, Moved::Host, &stack.simulators, true));
    let stack = stack.restart_as(|_| fast_lookups(&text, 600, 1_000)).await;
    assert_eq!(stack.until("second", is_processed).await.state(), State::Submitted);
    // A new refund would be sent, so it is refused.
    let third = refund_of(provider, "third", 1).request;
    let refusal = stack.create(proto::CreateRefundRequest { allow_similar: true, ..third }).await.unwrap_err();
    is_reason(&refusal, "SIMILAR_REFUND");
    assert_eq!((stack.effects("DS000001"), stack.attempts("DS000001")), (1, 2));
}
