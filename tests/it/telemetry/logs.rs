//! Log lines: each failure is one line that is complete by itself, in its caller's trace.

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn a_failure_is_one_complete_line() {
    let ObservedGateway { dir: _dir, simulators, collector: _collector, gateway, log, .. } = observed("").await;
    let mut refunds = RefundServiceClient::new(channel(gateway.addr).await);
    arm_lost_request_at_sectigo(&simulators);
    refunds.create_refund(traced(sectigo("logged", "1000001"))).await.unwrap();
    assert!(gateway.terminate().success());
    let lines = log.lines();
    let failures: Vec<_> =
        lines.iter().filter(|line| matches!(line["level"].as_str(), Some("WARN" | "ERROR"))).collect();
    // The first line says that every user of the machine may refund.
    let [_, failure] = failures[..] else { panic!("{failures:#?}") };
    assert_eq!(failure["message"], "the outcome of the refund is unknown");
    assert_eq!((&failure["state"], &failure["reason"]), (&"IN_DOUBT".into(), &"connection_lost".into()));
    assert_eq!((&failure["refund"], &failure["account"]), (&"logged".into(), &"sectigo".into()));
    assert_eq!((&failure["attempt"], &failure["trace_id"]), (&1.into(), &CALLERS_TRACE.into()));
    assert_eq!((&failure["method"], &failure["spans"][0]), (&CREATE.into(), &"call".into()));
    for absent in ["code", "category", "error"] {
        assert_eq!(failure.get(absent), None, "{failure}");
    }
    for line in &lines {
        assert!(line["timestamp"].is_string() && line["level"].is_string() && line["message"].is_string(), "{line}");
        assert!(line["target"].is_string() && line["spans"].is_array(), "{line}");
        let nested = |(name, value): (&String, &serde_json::Value)| value.is_object() || name.contains('.');
        assert!(!line.as_object().unwrap().iter().any(nested), "{line}");
    }
}

/// A provider that cannot be reached: the line has the cause and the refund, whatever the log
/// filter.
#[tokio::test(flavor = "multi_thread")]
async fn an_attempt_that_was_not_sent_is_logged_with_its_cause() {
    let dir = tempfile::tempdir().unwrap();
    let simulators = simulators_in(dir.path()).await;
    let unused = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let (sectigo_addr, debitsuccess_addr) = (simulators.sectigo_addr(), simulators.debitsuccess_plaintext_addr());
    let settings = "log.filter = \"warn,recoup::app=info\"";
    let configuration = configuration_at(sectigo_addr, unused, debitsuccess_addr, dir.path(), settings);
    let (gateway, log) = launch(&configuration, dir.path(), &[]);
    let mut refunds = RefundServiceClient::new(channel(gateway.addr).await);
    refunds.create_refund(without_wait(namecom("unsent", 200_001, &[3_200_001]))).await.unwrap();
    let logged =
        || log.lines().into_iter().find(|line| line["message"].as_str().unwrap().contains("will be sent again"));
    let line = tokio::time::timeout(LIMIT, async {
        loop {
            match logged() {
                Some(line) => return line,
                None => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        }
    });
    let line = line.await.unwrap();
    assert!(line["error"].as_str().unwrap().starts_with("no connection: "), "{line}");
    let shown = get(&refunds, "refunds/unsent").await;
    assert_eq!(line["error"], shown.provider_error.unwrap().message, "as the refund itself shows it");
    assert_eq!((&line["refund"], &line["account"]), (&"unsent".into(), &"namecom".into()));
    assert!(line.get("code").is_none() && line.get("category").is_none(), "{line}");
    assert!(gateway.terminate().success());
}

/// Later lines, perhaps days later or from another process, name the refund and the attempt; a
/// review is an ERROR.
#[tokio::test(flavor = "multi_thread")]
async fn later_events_of_a_refund_in_doubt_are_logged() {
    let dir = tempfile::tempdir().unwrap();
    let simulators = simulators_in(dir.path()).await;
    let settings = crate::support::configuration(&simulators, dir.path(), METRICS_AND_FAST_LOOKUPS);
    let impatient = settings.replacen("[accounts.sectigo]", "[accounts.sectigo]\nsettle_time_s = 1", 1);
    assert_ne!(impatient, settings);
    let (gateway, log) = launch(&impatient, dir.path(), &[]);
    let mut refunds = RefundServiceClient::new(channel(gateway.addr).await);
    let rule = |provider, operation: &str, times| {
        let rule = Rule::new(provider, Point::BeforeEffect, FaultEffect::Close);
        simulators.arm(Rule { operation: Some(operation.to_owned()), repeat: Repeat::Times(times), ..rule }).unwrap();
    };
    rule(Provider::Sectigo, "!AutoRefund", 1);
    rule(Provider::Sectigo, "!getPostPaymentStatus", 2);
    rule(Provider::Namecom, "ProcessRefund", 2);
    refunds.create_refund(traced(sectigo("lost", "1000001"))).await.unwrap();
    refunds.create_refund(namecom("twice", 200_001, &[3_200_001])).await.unwrap();
    let is_logged = |level: &str, message: &str, refund: &str, attempt: u64| {
        log.lines().into_iter().any(|line| {
            let is_about_it = (&line["refund"], &line["attempt"]) == (&refund.into(), &attempt.into());
            line["level"] == level && line["message"] == message && is_about_it
        })
    };
    let all_logged = async {
        while !(is_logged("WARN", "the outcome of the refund is unknown", "twice", 2)
            && is_logged("WARN", "lookup inconclusive", "lost", 1)
            && is_logged(
                "ERROR",
                "the gateway cannot find out the outcome of the refund: a person must resolve it",
                "lost",
                1,
            ))
        {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    assert!(tokio::time::timeout(LIMIT, all_logged).await.is_ok(), "{}", log.text());

    let gate = Gate { target: Some("1000002".to_owned()), ..Gate::new(Provider::Sectigo, Point::AfterEffect) };
    let gate = simulators.gate(gate).unwrap();
    refunds.create_refund(without_wait(sectigo("flying", "1000002"))).await.unwrap();
    gate.wait_for(1).await.unwrap();
    gateway.kill();
    let (gateway, log) = launch(&impatient, dir.path(), &[]);
    let lines = log.lines();
    let is_it = |line: &&serde_json::Value| {
        line["message"] == "the attempt was on its way when the gateway last stopped"
            && (&line["refund"], &line["attempt"]) == (&"flying".into(), &1.into())
    };
    assert_eq!(lines.iter().filter(is_it).count(), 1, "{}", log.text());
    gate.release_all();
    assert!(gateway.terminate().success());
}

/// The trace of a refund whose caller sent none: the first half of the SHA-256 of its id.
const TRACE_OF_QUIET: &str = "008f0747f4e27c8462baa991a538025b";

#[tokio::test(flavor = "multi_thread")]
async fn without_a_collector_the_log_lines_of_a_refund_that_waited_have_its_trace() {
    let dir = tempfile::tempdir().unwrap();
    let simulators = simulators_in(dir.path()).await;
    let configuration = crate::support::configuration(&simulators, dir.path(), "");
    let one_at_a_time = configuration.replacen("[accounts.namecom]", "max_in_flight = 1\n[accounts.namecom]", 1);
    let (gateway, log) = launch(&one_at_a_time, dir.path(), &[]);
    let refunds = RefundServiceClient::new(channel(gateway.addr).await);
    let create = |request: Request<proto::CreateRefundRequest>| {
        let mut refunds = refunds.clone();
        async move { refunds.create_refund(request).await.unwrap().into_inner().refund.unwrap() }
    };
    for target in ["1000002", "1000003"] {
        let rule = Rule::new(Provider::Sectigo, Point::BeforeEffect, FaultEffect::Close);
        simulators.arm(Rule { target: Some(target.to_owned()), repeat: Repeat::Once, ..rule }).unwrap();
    }
    let gate = Gate { target: Some("1000001".to_owned()), ..Gate::new(Provider::Sectigo, Point::BeforeEffect) };
    let gate = simulators.gate(gate).unwrap();
    let first = tokio::spawn(create(Request::new(sectigo("first", "1000001"))));
    // The only slot is in use, so the others wait.
    gate.wait_for(1).await.unwrap();
    let waiting = [traced(sectigo("traced", "1000002")), Request::new(sectigo("quiet", "1000003"))];
    for mut request in waiting {
        request.get_mut().wait = Some(prost_types::Duration::default());
        assert_eq!(create(request).await.state(), State::Pending);
    }
    gate.release_all();
    assert_eq!(first.await.unwrap().state(), State::Succeeded);
    for id in ["traced", "quiet"] {
        let is_doubted = async {
            let name = format!("refunds/{id}");
            while get(&refunds, &name).await.state() != State::InDoubt {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(LIMIT, is_doubted).await.unwrap();
    }
    assert!(gateway.terminate().success());
    let lines = log.lines();
    let trace_parent_of = |refund: &str| {
        let is_it = |line: &&serde_json::Value| {
            line["refund"] == refund && line["message"] == "the outcome of the refund is unknown"
        };
        let line = lines.iter().find(is_it).unwrap_or_else(|| panic!("{}", log.text()));
        assert_eq!(line["spans"], serde_json::json!(["dispatch", "attempt"]), "it had to wait");
        line["trace_id"].clone()
    };
    assert_eq!(trace_parent_of("traced"), CALLERS_TRACE);
    assert_eq!(trace_parent_of("quiet"), TRACE_OF_QUIET);
    // The same trace as when the call was made.
    let is_recorded = |line: &&serde_json::Value| line["message"] == "refund recorded: it is not sent at once";
    let recorded = lines.iter().filter(is_recorded).find(|line| line["refund"] == "quiet").unwrap();
    assert_eq!((&recorded["level"], &recorded["waiting_for"]), (&"INFO".into(), &"turn".into()));
    assert_eq!(recorded["trace_id"], TRACE_OF_QUIET);
}

/// Where nothing fails, a refund has one line, its outcome, which a log of millions can hold.
#[rstest]
#[case::text("text", 250)]
#[case::json("json", 350)]
#[tokio::test(flavor = "multi_thread")]
async fn a_refund_without_a_failure_has_one_line_at_info(#[case] format: &str, #[case] limit: usize) {
    let dir = tempfile::tempdir().unwrap();
    let simulators = simulators_in(dir.path()).await;
    let configuration = crate::support::configuration(&simulators, dir.path(), "");
    let (gateway, log) = launch(&configuration, dir.path(), &[("RECOUP_LOG__FORMAT", format)]);
    let mut refunds = RefundServiceClient::new(channel(gateway.addr).await);
    let answered = refunds.create_refund(namecom("order-200001-1", 200_001, &[3_200_001])).await.unwrap();
    let refund = answered.into_inner().refund.unwrap();
    assert_eq!(refund.state(), State::Succeeded);
    let events = proto::ListRefundEventsRequest { name: refund.name, ..Default::default() };
    let events = refunds.list_refund_events(events).await.unwrap().into_inner().events;
    wait_until(|| log.text().contains("SUCCEEDED")).await;
    assert!(gateway.terminate().success());
    let text = log.text();
    let lines: Vec<&str> = text.lines().filter(|line| line.contains("order-200001-1")).collect();
    let [line] = lines[..] else { panic!("{lines:#?}") };
    assert!(line.len() < limit, "{} bytes and the line's end: {line}", line.len());
    let sequence = events.last().unwrap().sequence;
    let shown = match format {
        "text" => ["state=\"SUCCEEDED\"".to_owned(), format!("sequence={sequence}"), "account=namecom".to_owned()],
        _ => [
            "\"state\":\"SUCCEEDED\"".to_owned(),
            format!("\"sequence\":{sequence}"),
            "\"account\":\"namecom\"".to_owned(),
        ],
    };
    assert!(line.contains("INFO") && shown.iter().all(|field| line.contains(field)), "{line}");
}

/// A start says what it goes on with.
#[tokio::test(flavor = "multi_thread")]
async fn a_start_logs_the_open_refunds_of_each_account() {
    let dir = tempfile::tempdir().unwrap();
    let simulators = simulators_in(dir.path()).await;
    let configuration = crate::support::configuration(&simulators, dir.path(), "");
    let (gateway, log) = launch(&configuration, dir.path(), &[]);
    assert!(!log.text().contains("open refunds were taken up"), "there are none");
    let mut refunds = RefundServiceClient::new(channel(gateway.addr).await);
    arm_lost_request_at_sectigo(&simulators);
    refunds.create_refund(sectigo("doubted", "1000001")).await.unwrap();
    refunds.create_refund(namecom("done", 200_001, &[3_200_001])).await.unwrap();
    assert!(gateway.terminate().success());
    let (gateway, log) = launch(&configuration, dir.path(), &[]);
    let lines = log.lines();
    let taken_up: Vec<_> = lines.iter().filter(|line| line["message"] == "open refunds were taken up").collect();
    let [line] = taken_up[..] else { panic!("{lines:#?}") };
    assert_eq!((&line["account"], &line["in_doubt"]), (&"sectigo".into(), &1.into()));
    assert!(line.get("pending").is_none() && line.get("submitted").is_none(), "{line}");
    assert!(gateway.terminate().success());
}
