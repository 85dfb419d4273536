//! A refund belongs to one provider, host, login and currency. Where the account of its name is at
//! another place after a restart, the refund waits for its account.
//!
//! Each test ends with a look at the simulators' books.

use recoup::proto::v1 as proto;
use recoup::proto::v1::account::Health;
use recoup::proto::v1::refund::{State, WaitingFor};
use recoup::proto::v1::resolve_refund_request::Resolution;
use rstest::rstest;
use simulators::Simulators;
use simulators::faults::Point;
use simulators::request::Provider;
use tempfile::TempDir;
use tonic::Code;

use crate::support::account_changes::*;
use crate::support::demo_accounts::account_name;
use crate::support::*;

/// How the account with a name changes.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Change {
    Endpoint,
    Login,
    Currency,
    Provider,
    Removed,
}

/// The configuration with the provider's account changed. `other` is another instance of the
/// simulators.
fn changed(configuration: &str, provider: Provider, change: Change, other: &(Simulators, TempDir)) -> String {
    let name = account_name(provider);
    match change {
        Change::Endpoint => section(configuration, name, |section| {
            let (simulators, dir) = other;
            let lines = section.lines().map(|line| match line.split_once(" = ") {
                Some(("endpoint", url)) => {
                    let (scheme, _) = url.trim_matches('"').split_once("://").unwrap();
                    format!("endpoint = \"{scheme}://{}\"\n", addr_of(provider, simulators))
                }
                Some(("ca_file", _)) => format!("ca_file = \"{}/ca.pem\"\n", dir.path().display()),
                _ => format!("{line}\n"),
            });
            lines.collect()
        }),
        Change::Login => section(configuration, name, other_login),
        Change::Currency => section(configuration, name, |section| match provider {
            Provider::Debitsuccess => section.replace("\"AUD\"", "\"NZD\""),
            Provider::Sectigo | Provider::Namecom => format!("{section}currency = \"EUR\"\n"),
        }),
        Change::Provider => {
            let other = account_name(becomes(provider));
            let removed = section(configuration, name, |_| String::new());
            copied(&removed, other, name, str::to_owned)
        }
        Change::Removed => section(configuration, name, |_| String::new()),
    }
}

/// The provider of the account after [`Change::Provider`].
fn becomes(provider: Provider) -> Provider {
    match provider {
        Provider::Namecom => Provider::Debitsuccess,
        Provider::Sectigo | Provider::Debitsuccess => Provider::Namecom,
    }
}

#[rstest]
#[case(Provider::Sectigo, Change::Endpoint, "endpoint")]
#[case(Provider::Sectigo, Change::Login, "login")]
#[case(Provider::Sectigo, Change::Currency, "currency")]
#[case(Provider::Sectigo, Change::Provider, "provider,endpoint,login")]
#[case(Provider::Sectigo, Change::Removed, "account")]
#[case(Provider::Namecom, Change::Endpoint, "endpoint")]
#[case(Provider::Namecom, Change::Login, "login")]
#[case(Provider::Namecom, Change::Provider, "provider,endpoint,login,currency")]
#[case(Provider::Namecom, Change::Removed, "account")]
#[case(Provider::Debitsuccess, Change::Endpoint, "endpoint")]
#[case(Provider::Debitsuccess, Change::Login, "login")]
#[case(Provider::Debitsuccess, Change::Currency, "currency")]
#[case(Provider::Debitsuccess, Change::Provider, "provider,endpoint,login,currency")]
#[case(Provider::Debitsuccess, Change::Removed, "account")]
#[tokio::test]
async fn a_refund_waits_where_its_account_has_changed(
    #[case] provider: Provider,
    #[case] change: Change,
    #[case] differing: &str,
) {
    let (name, witness_provider) = (account_name(provider), witness_of(provider));
    let [review, lost, pending] =
        [("review", 1), ("lost", 2), ("pending", 3)].map(|(id, number)| refund_of(provider, id, number));
    let stack = stack_with_review(provider, &review).await.restart_as(|text| slow_lookups(&text, 1)).await;
    let witness = refund_of(witness_provider, "witness", 1);
    lose(&stack, witness_provider, &witness, Point::BeforeEffect).await;
    // One failure suspends the account, so the next refund is recorded and not sent.
    lose(&stack, provider, &lost, Point::AfterEffect).await;
    assert_eq!(stack.refund(without_wait(pending.request.clone())).await.state(), State::Pending);
    let mut before = Vec::new();
    for id in ["review", "lost", "pending"] {
        before.push((stack.get(id).await, stack.events(id).await));
    }
    // Requests to all providers except the witness's, and requests to the refunds' own provider.
    let requests = |stack: &Stack| {
        let journal = stack.simulators.journal();
        let of_others = journal.iter().filter(|entry| entry.provider != witness_provider).count();
        (of_others, journal.iter().filter(|entry| entry.provider == provider).count())
    };
    let sent = requests(&stack);

    let other_dir = tempfile::tempdir().unwrap();
    let other = (simulators_in(other_dir.path()).await, other_dir);
    if change == Change::Login {
        move_login(&stack.simulators);
    }
    let dir = stack.dir.path().to_owned();
    let stack = stack
        .restart_as(|text| {
            make_lookups_due(&dir);
            let text = changed(&text, provider, change, &other);
            let text = fast_lookups(&text, 0, 1);
            section(&text, account_name(witness_provider), |section| {
                section.replace("settle_time_s = 0", "settle_time_s = 600")
            })
        })
        .await;
    // By now the other refunds would have been looked up as often, and sent.
    stack.until("witness", |refund| refund.doubt.as_ref().is_some_and(|doubt| doubt.check_count >= 4)).await;

    for (refund, events) in &before {
        let id = refund.refund_id.as_str();
        assert_eq!(stack.get(id).await, waiting(refund));
        assert_eq!(stack.events(id).await, *events);
        let refusal = stack.reconcile(id).await.unwrap_err();
        if id == "pending" {
            is_reason(&refusal, "NOT_IN_DOUBT");
        } else {
            is_reason(&refusal, "ACCOUNT_CHANGED");
            assert_eq!(
                (refusal.code(), metadata(&refusal, "differing_fields").as_str()),
                (Code::FailedPrecondition, differing)
            );
        }
    }
    for RequestedRefund { request, .. } in [&review, &lost, &pending] {
        let wait = Some(prost_types::Duration { seconds: 60, nanos: 0 });
        let request = proto::CreateRefundRequest { wait, ..request.clone() };
        let answer = tokio::time::timeout(LIMIT / 3, stack.create(request)).await.unwrap().unwrap();
        assert!(answer.replayed);
        assert_eq!(answer.refund.unwrap().waiting_for(), WaitingFor::Account);
    }
    let refusal = resolve(&stack, "review", Resolution::SendAgain, false).await.unwrap_err();
    is_reason(&refusal, "ACCOUNT_CHANGED");
    assert_eq!(metadata(&refusal, "differing_fields"), differing);
    for (refund, _) in &before {
        assert_eq!(stack.get(&refund.refund_id).await, waiting(refund), "a refused call changes nothing");
    }
    assert_eq!(requests(&stack), sent, "nothing was sent or looked up");
    if change == Change::Provider {
        // The account that has the name now is not affected.
        assert_eq!(stack.health_of(name).await, Health::Serving);
        let new = refund_of(becomes(provider), "new", 7);
        let request = proto::CreateRefundRequest { account: name.to_owned(), ..new.request };
        assert_eq!(stack.refund(request).await.state(), accepted(becomes(provider)));
        assert_eq!((stack.effects(&new.target), stack.attempts(&new.in_journal)), (1, 1));
    }

    // Resolving needs no account.
    let (of_review, of_lost) = match change {
        Change::Removed | Change::Login => (Resolution::Refunded, Resolution::NotRefunded),
        _ => (Resolution::NotRefunded, Resolution::Refunded),
    };
    let ends = |resolution| if resolution == Resolution::Refunded { State::Succeeded } else { State::Failed };
    assert_eq!(resolve(&stack, "review", of_review, false).await.unwrap().state(), ends(of_review));
    assert_eq!(resolve(&stack, "lost", of_lost, true).await.unwrap().state(), ends(of_lost));
    let request = proto::CancelRefundRequest { name: "refunds/pending".to_owned(), ..Default::default() };
    let cancelled = stack.refunds.clone().cancel_refund(request).await.unwrap().into_inner().refund.unwrap();
    assert_eq!((cancelled.state(), cancelled.waiting_for()), (State::Cancelled, WaitingFor::Unspecified));

    assert_eq!(requests(&stack).1, sent.1, "resolving sends nothing");
    assert!(other.0.journal().is_empty() && other.0.books().is_empty());
    assert_eq!([&review, &lost, &pending].map(|one| stack.effects(&one.target)), [0, 1, 0]);
    assert_eq!((stack.attempts(&lost.in_journal), stack.attempts(&pending.in_journal)), (1, 0));
}

/// A refund expires while its provider is unreachable, but not while its account is not configured.
#[tokio::test]
async fn a_refund_does_not_expire_while_it_waits_for_its_account() {
    const LIMIT_S: &str = "pending_limit_s = 3\n";
    let short_limit = |section: &str| format!("{section}{LIMIT_S}");
    let stack = Stack::start_as(|text| slow_lookups(&text, 1)).await;
    let (provider, other) = (Provider::Namecom, Provider::Debitsuccess);
    let [lost, waits] = [("lost", 1), ("waits", 2)].map(|(id, number)| refund_of(provider, id, number));
    lose(&stack, provider, &lost, Point::BeforeEffect).await;
    stack.refund(without_wait(waits.request.clone())).await;
    let away = |text: &str| {
        let text = section(text, "namecom", |section| short_limit(&other_login(section)));
        slow_lookups(&section(&text, "debitsuccess", short_limit), 1)
    };
    let stack = stack.restart_as(|text| away(&text)).await;
    let [unheard, expires] = [("unheard", 1), ("expires", 2)].map(|(id, number)| refund_of(other, id, number));
    lose(&stack, other, &unheard, Point::BeforeEffect).await;
    stack.refund(without_wait(expires.request.clone())).await;
    let failed = stack.until("expires", |refund| refund.state() == State::Failed).await;
    assert!(failed.dispatch_time.is_none(), "never sent");
    let before = stack.get("waits").await;
    assert_eq!((before.state(), before.waiting_for()), (State::Pending, WaitingFor::Account));
    // By its age alone it would have expired by now.
    assert!(micros(&failed.update_time.unwrap()) - micros(&before.create_time.unwrap()) > 3_000_000);
    let stack = stack.restart_as(|text| fast_lookups(&section(&text, "namecom", short_limit), 600, 1_000)).await;
    assert_eq!(stack.until("waits", is_processed).await.state(), State::Succeeded);
    assert_eq!((stack.effects(&waits.target), stack.effects(&expires.target)), (1, 0));
    assert_eq!((stack.attempts(&waits.in_journal), stack.attempts(&expires.in_journal)), (1, 0));
}
