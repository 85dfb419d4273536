//! Through the port, with an access file: a second person before a large refund is sent, and
//! limits.

use recoup::access::scope::Scope;
use recoup::proto::v1 as proto;
use recoup::proto::v1::refund::{State, WaitingFor};
use recoup::proto::v1::refund_event::Kind;
use recoup::proto::v1::refund_service_client::RefundServiceClient;
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use crate::caller_access::{AccessText, Bearer, refunds};
use crate::support::{Stack, debitsuccess, metadata, reason, sectigo};

type Client = RefundServiceClient<Bearer>;

/// A gateway that asks for a second person from 10.00 AUD on, and the clients of its callers: the
/// shop and its till have one owner, finance another one.
async fn started(limits: &str) -> (Stack, [Client; 3]) {
    let mut access = AccessText::new();
    let scopes = |scopes: &[Scope]| {
        let names: Vec<String> = scopes.iter().map(|scope| format!("{:?}", scope.as_str())).collect();
        format!("scopes = [{}]\naccounts = [\"*\"]", names.join(", "))
    };
    let creates = scopes(&[Scope::RefundsCreate, Scope::RefundsRead, Scope::RefundsCancel]);
    let approves = scopes(&[Scope::RefundsApprove, Scope::RefundsRead]);
    let shop = access.caller("shop", &format!("owner = \"team\"\n{creates}\n{limits}"));
    let till = access.caller("till", &format!("owner = \"team\"\n{approves}"));
    let finance = access.caller("finance", &format!("owner = \"money\"\n{approves}"));
    access.text += "[approvals.large]\naccounts = [\"*\"]\nat_least = { AUD = \"10.00\", USD = \"10.00\" }\n\
                    [accounts.sectigo.limits]\nassumed_amount = \"1.00\"\n";
    let stack = Stack::start_with(&access.setting()).await;
    // The file is read again while the gateway runs.
    std::mem::forget(access);
    let clients = [refunds(&stack, &shop).await, refunds(&stack, &till).await, refunds(&stack, &finance).await];
    (stack, clients)
}

async fn create(client: &mut Client, request: proto::CreateRefundRequest) -> Result<proto::Refund, Status> {
    Ok(client.create_refund(request).await?.into_inner().refund.unwrap())
}

fn approval(refund: &proto::Refund) -> proto::ApproveRefundRequest {
    let (name, etag) = (refund.name.clone(), refund.etag.clone());
    proto::ApproveRefundRequest { name, etag, comment: "as agreed".to_owned() }
}

async fn present(client: &mut Client, refund: &proto::Refund) -> proto::Refund {
    let request = proto::GetRefundRequest { name: refund.name.clone() };
    client.get_refund(request).await.unwrap().into_inner().refund.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_large_refund_waits_for_a_second_owner_and_is_then_sent_once() {
    let (stack, [mut shop, mut till, mut finance]) = started("").await;
    let dry = proto::CreateRefundRequest { validate_only: true, ..debitsuccess("large", "DS000001", 1_000) };
    assert_eq!(create(&mut shop, dry).await.unwrap().state(), State::AwaitingApproval);
    let refund = create(&mut shop, debitsuccess("large", "DS000001", 1_000)).await.unwrap();
    assert_eq!((refund.state(), refund.waiting_for()), (State::AwaitingApproval, WaitingFor::Approval));
    let asked = refund.approval.clone().unwrap();
    assert_eq!((asked.rule.as_str(), asked.needed, asked.decisions.len()), ("large", 1, 0));
    assert_eq!(stack.attempts("DS000001"), 0);

    let refused = till.approve_refund(approval(&refund)).await.unwrap_err();
    assert_eq!((refused.code(), reason(&refused).as_str()), (Code::PermissionDenied, "OWN_REFUND"));
    let refused = shop.approve_refund(approval(&refund)).await.unwrap_err();
    assert_eq!(reason(&refused), "SCOPE_MISSING");
    let stale = proto::ApproveRefundRequest { etag: "0-0".to_owned(), ..approval(&refund) };
    assert_eq!(reason(&finance.approve_refund(stale).await.unwrap_err()), "ETAG_MISMATCH");
    let wrong = proto::RejectRefundRequest { name: refund.name.clone(), ..Default::default() };
    assert_eq!(crate::support::wrong_fields(&finance.reject_refund(wrong).await.unwrap_err()), ["comment", "etag"]);
    assert_eq!((present(&mut shop, &refund).await, stack.attempts("DS000001")), (refund.clone(), 0));

    let approved = finance.approve_refund(approval(&refund)).await.unwrap().into_inner().refund.unwrap();
    assert_ne!(approved.state(), State::AwaitingApproval);
    let waits = proto::WaitRefundRequest {
        name: refund.name.clone(),
        after_revision: refund.revision + 2,
        timeout: Some(prost_types::Duration { seconds: 20, nanos: 0 }),
    };
    let sent = shop.wait_refund(waits).await.unwrap().into_inner().refund.unwrap();
    assert_eq!((sent.state(), stack.effects("DS000001")), (State::Submitted, 1));
    // The same again is answered, whatever its etag; another approval comes too late.
    let again = finance.approve_refund(approval(&refund)).await.unwrap().into_inner().refund.unwrap();
    assert_eq!(again.state(), State::Submitted);
    let late =
        proto::RejectRefundRequest { name: refund.name.clone(), etag: refund.etag.clone(), comment: "no".into() };
    let late = till.reject_refund(late).await.unwrap_err();
    assert_eq!((reason(&late).as_str(), metadata(&late, "state").as_str()), ("NOT_AWAITING_APPROVAL", "SUBMITTED"));

    let request = proto::ListRefundEventsRequest { name: refund.name.clone(), ..Default::default() };
    let events = shop.list_refund_events(request).await.unwrap().into_inner().events;
    let history: Vec<_> = events.iter().map(|event| (event.kind(), event.actor.as_str())).collect();
    assert_eq!(history[..3], [(Kind::Created, "shop"), (Kind::Approved, "finance"), (Kind::Dispatched, "gateway")]);
    assert_eq!((events[1].credential.as_str(), events[1].policy.len()), ("token:finance-1", 8));
    assert_eq!((stack.attempts("DS000001"), stack.effects("DS000001")), (1, 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rejected_refund_is_cancelled_and_frees_its_target() {
    let (stack, [mut shop, _, mut finance]) = started("").await;
    let refund = create(&mut shop, debitsuccess("large", "DS000001", 1_000)).await.unwrap();
    let reject = || proto::RejectRefundRequest {
        name: refund.name.clone(),
        etag: refund.etag.clone(),
        comment: "paid by transfer".to_owned(),
    };
    let rejected = finance.reject_refund(reject()).await.unwrap().into_inner().refund.unwrap();
    assert_eq!(rejected.state(), State::Cancelled);
    assert_eq!(rejected.approval.as_ref().unwrap().decisions[0].comment, "paid by transfer");
    assert_eq!(finance.reject_refund(reject()).await.unwrap().into_inner().refund.unwrap(), rejected);
    let late = finance.approve_refund(approval(&refund)).await.unwrap_err();
    assert_eq!(reason(&late), "NOT_AWAITING_APPROVAL");
    // A similar refund is no duplicate of one that was rejected.
    let small = create(&mut shop, debitsuccess("again", "DS000001", 999)).await.unwrap();
    assert_eq!((small.state(), stack.effects("DS000001")), (State::Submitted, 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_limit_is_named_with_the_time_after_which_there_is_room() {
    let limits = "[callers.shop.limits]\nrefund_max = { AUD = \"20.00\", USD = \"2.00\" }\ndaily_count = 2\n";
    let (stack, [mut shop, _, mut finance]) = started(limits).await;
    let too_large = create(&mut shop, debitsuccess("large", "DS000001", 2_001)).await.unwrap_err();
    assert_eq!((too_large.code(), reason(&too_large).as_str()), (Code::FailedPrecondition, "LIMIT_EXCEEDED"));
    assert_eq!(metadata(&too_large, "limit"), "refund_max");
    create(&mut shop, debitsuccess("first", "DS000001", 100)).await.unwrap();
    let waits = create(&mut shop, debitsuccess("second", "DS000002", 1_000)).await.unwrap();
    assert_eq!(waits.state(), State::AwaitingApproval);
    let full = create(&mut shop, sectigo("third", "1000001")).await.unwrap_err();
    assert_eq!((full.code(), reason(&full).as_str()), (Code::ResourceExhausted, "QUOTA_EXCEEDED"));
    assert_eq!(metadata(&full, "limit"), "daily_count");
    let details = full.get_error_details();
    let delay = details.retry_info().unwrap().retry_delay.unwrap();
    assert!((24 * 3_600..=25 * 3_600).contains(&delay.as_secs()), "{delay:?}");
    assert_eq!(details.quota_failure().unwrap().violations[0].subject, "caller:shop");
    // What is on disk is found all the same, and what never left makes room again.
    assert_eq!(create(&mut shop, debitsuccess("first", "DS000001", 100)).await.unwrap().refund_id, "first");
    let rejection = proto::RejectRefundRequest { name: waits.name, etag: waits.etag, comment: "no".to_owned() };
    finance.reject_refund(rejection).await.unwrap();
    assert_eq!(create(&mut shop, sectigo("third", "1000001")).await.unwrap().state(), State::Succeeded);
    assert_eq!((stack.effects("1000001"), stack.effects("DS000002")), (1, 0));
}
