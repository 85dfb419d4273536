//! Calls that send nothing to a provider beside the echo, one request for a thousand callers, and
//! memory.

use std::sync::Arc;
use std::time::Duration;

use recoup::proto::v1 as proto;
use recoup::proto::v1::validation_status_service_client::ValidationStatusServiceClient;

use crate::Stage;
use crate::callers::{self, CALLERS, Gate, Way};
use crate::processes::Gateway;
use crate::report::{Reach, Row};
use crate::yardsticks::{ORDER, status_request};

/// The call that is measured.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Call {
    Replay,
    Get,
    Status,
}

const AT_LEAST_HALF: Reach = Reach::AtLeast(0.5);
/// Refunds that are replayed and read in turn, so that it is not always the same page.
const KNOWN: usize = 256;
/// Concurrent callers of one order.
const CALLERS_OF_ONE_ORDER: usize = 1_000;
/// An order whose status was not requested before.
const UNCACHED_ORDER: &str = "3000002";

/// A replay, GetRefund and a cached GetValidationStatus, each one alternating with the echo.
pub(crate) async fn beside_the_echo(stage: &mut Stage) -> Vec<Row> {
    let known = stage.targets.requests(&stage.providers, Way::Fresh, KNOWN).await;
    stage.gate.create(known.clone(), CALLERS).await;
    let known = Arc::new(known);
    let mut rows = Vec::new();
    for (call, what) in [
        (Call::Replay, "CreateRefund, replay of a known refund_id"),
        (Call::Get, "GetRefund"),
        (Call::Status, "GetValidationStatus, max_age hit"),
    ] {
        // A replay is compared with the echo of GetRefund, since CreateRefund of the yardsticks is
        // the proxy.
        let echoed = if call == Call::Replay { Call::Get } else { call };
        let (mut ours, mut echo) = (Vec::new(), Vec::new());
        for round in 0..=stage.extent.rounds.min(15) {
            let mut rates = [0.0; 2];
            let indexes = if round % 2 == 0 { [0, 1] } else { [1, 0] };
            for index in indexes {
                let (gate, call) = if index == 0 { (&stage.gate, call) } else { (&stage.bare, echoed) };
                let took = turn(gate, call, &known, stage.extent.reads).await;
                rates[index] = stage.extent.reads as f64 / took.as_secs_f64();
            }
            if round > 0 {
                ours.push(rates[0]);
                echo.push(rates[1]);
            }
        }
        rows.push(Row::paired(what, "/s", &ours, "bare echo", &echo, AT_LEAST_HALF));
    }
    rows
}

async fn turn(gate: &Gate, call: Call, known: &Arc<Vec<proto::CreateRefundRequest>>, count: usize) -> Duration {
    let (gate, known) = (gate.clone(), known.clone());
    callers::saturate(count, CALLERS, move |caller, index| {
        let (gate, request) = (gate.clone(), known[index % known.len()].clone());
        async move {
            match call {
                Call::Replay => {
                    let answer = gate.refunds(caller).create_refund(request).await.unwrap().into_inner();
                    assert!(answer.replayed);
                }
                Call::Get => {
                    let request = proto::GetRefundRequest { name: format!("refunds/{}", request.refund_id) };
                    gate.refunds(caller).get_refund(request).await.unwrap();
                }
                Call::Status => {
                    let mut status = ValidationStatusServiceClient::new(gate.channel(caller));
                    status.get_validation_status(status_request(ORDER)).await.unwrap();
                }
            }
        }
    })
    .await
}

/// A thousand callers of one order that is not cached.
pub(crate) async fn one_request_for_all(stage: &mut Stage) -> Option<Row> {
    let gate = stage.gate.clone();
    callers::saturate(CALLERS_OF_ONE_ORDER, CALLERS_OF_ONE_ORDER, move |caller, _| {
        let mut status = ValidationStatusServiceClient::new(gate.channel(caller));
        async move {
            status.get_validation_status(status_request(UNCACHED_ORDER)).await.unwrap();
        }
    })
    .await;
    let requests = stage.providers.requests("!getPostPaymentStatus", UNCACHED_ORDER).await;
    assert_ne!(requests, 0, "the journal must have the request");
    Some(Row::below(
        format!("GetValidationStatus, {CALLERS_OF_ONE_ORDER} callers of one order"),
        requests as f64,
        "request(s)",
        1.0,
    ))
}

/// The memory of a gateway that has just started.
pub(crate) async fn idle_memory(gateway: &Gateway) -> Row {
    Row::below("memory, idle", gateway.usage().resident_mib, "MiB", 50.0)
}

/// The peak memory of all gateways.
pub(crate) fn memory(gateways: &[&Gateway]) -> Vec<Row> {
    let peak = gateways.iter().map(|gateway| gateway.usage().peak_mib).fold(0.0, f64::max);
    vec![Row::below("memory, the peak of all of the above", peak, "MiB", 200.0)]
}
