//! The gRPC port itself: health, reflection, limits, silent clients, and shutdown.

use std::collections::BTreeMap;
use std::time::Duration;

use prost::Message as _;
use prost_types::{FileDescriptorProto, FileDescriptorSet};
use recoup::proto::v1 as proto;
use recoup::proto::v1::refund::State;
use simulators::faults::gates::Gate;
use simulators::faults::{FaultEffect, Point, Repeat};
use simulators::request::Provider;
use tokio::io::{AsyncReadExt, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tonic::Code;
use tonic::transport::Channel;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;
use tonic_reflection::pb::{v1, v1alpha};

use crate::support::{LIMIT, Stack, channel, namecom, reason, sectigo, without_wait, wrong_fields};

#[tokio::test]
async fn health_is_checked_and_watched_and_ends_with_the_process() {
    let stack = Stack::start().await;
    let mut health = HealthClient::new(channel(stack.app.addr()).await);
    for service in [
        "",
        "recoup.v1.RefundService",
        "recoup.v1.ValidationStatusService",
        "recoup.v1.AccountService",
        "recoup.v1.AuditService",
    ] {
        let answer = health.check(HealthCheckRequest { service: service.to_owned() }).await.unwrap().into_inner();
        assert_eq!(answer.status(), ServingStatus::Serving);
    }
    let unknown = HealthCheckRequest { service: "unknown".to_owned() };
    assert_eq!(health.check(unknown.clone()).await.unwrap_err().code(), Code::NotFound);
    let mut of_unknown = health.watch(unknown).await.unwrap().into_inner();
    assert_eq!(of_unknown.message().await.unwrap().unwrap().status(), ServingStatus::ServiceUnknown);

    let mut watch = health.watch(HealthCheckRequest::default()).await.unwrap().into_inner();
    assert_eq!(watch.message().await.unwrap().unwrap().status(), ServingStatus::Serving);
    let Stack { app, simulators: _simulators, .. } = stack;
    let follow = async {
        assert_eq!(watch.message().await.unwrap().unwrap().status(), ServingStatus::NotServing);
        assert!(watch.message().await.unwrap().is_none(), "the watch ends");
    };
    tokio::time::timeout(LIMIT, futures_util::future::join(follow, app.stop())).await.unwrap();
}

/// What a client may send before it hears more: of a stream, and of a connection.
#[tokio::test]
async fn the_windows_of_http2_are_small() {
    let stack = Stack::start().await;
    let mut stream = TcpStream::connect(stack.app.addr()).await.unwrap();
    stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await.unwrap();
    // Frames: the length, the type, flags, the stream; SETTINGS_INITIAL_WINDOW_SIZE and
    // WINDOW_UPDATE of RFC 9113.
    let (mut of_stream, mut of_connection) = (None, None);
    while of_stream.is_none() || of_connection.is_none() {
        let mut head = [0; 9];
        tokio::time::timeout(LIMIT, stream.read_exact(&mut head)).await.unwrap().unwrap();
        let mut payload = vec![0; usize::from(u16::from_be_bytes([head[1], head[2]]))];
        stream.read_exact(&mut payload).await.unwrap();
        let number = |bytes: &[u8]| u32::from_be_bytes(bytes.try_into().unwrap());
        match (head[3], number(&head[5..])) {
            (4, 0) if head[4] == 0 => {
                let size = payload.chunks(6).find(|setting| setting[..2] == [0, 4]);
                of_stream = Some(size.map_or(65_535, |setting| number(&setting[2..])));
            }
            (8, 0) => of_connection = Some(65_535 + number(&payload)),
            _ => {}
        }
    }
    assert_eq!((of_stream, of_connection), (Some(64 * 1024), Some(256 * 1024)));
}

#[tokio::test]
async fn reflection_is_served_in_both_versions() {
    let stack = Stack::start().await;
    let channel = channel(stack.app.addr()).await;
    let expected = [
        "recoup.v1.RefundService",
        "recoup.v1.AccountService",
        "recoup.v1.AuditService",
        "recoup.v1.ValidationStatusService",
        "grpc.health.v1.Health",
    ];

    let ask = v1::ServerReflectionRequest {
        host: String::new(),
        message_request: Some(v1::server_reflection_request::MessageRequest::ListServices(String::new())),
    };
    let mut client = v1::server_reflection_client::ServerReflectionClient::new(channel.clone());
    let mut answers = client.server_reflection_info(tokio_stream::once(ask)).await.unwrap().into_inner();
    let answer = answers.message().await.unwrap().unwrap().message_response.unwrap();
    let v1::server_reflection_response::MessageResponse::ListServicesResponse(list) = answer else {
        panic!("{answer:?}")
    };
    let names: Vec<&str> = list.service.iter().map(|service| service.name.as_str()).collect();
    assert!(expected.iter().all(|name| names.contains(name)), "{names:?}");

    let ask = v1alpha::ServerReflectionRequest {
        host: String::new(),
        message_request: Some(v1alpha::server_reflection_request::MessageRequest::FileContainingSymbol(
            "recoup.v1.RefundService".to_owned(),
        )),
    };
    let mut client = v1alpha::server_reflection_client::ServerReflectionClient::new(channel);
    let mut answers = client.server_reflection_info(tokio_stream::once(ask)).await.unwrap().into_inner();
    let answer = answers.message().await.unwrap().unwrap().message_response.unwrap();
    assert!(matches!(answer, v1alpha::server_reflection_response::MessageResponse::FileDescriptorResponse(_)));
}

/// Files from version 1 of the reflection service, by a symbol or by name.
async fn files_by_v1(channel: &Channel, by: v1::server_reflection_request::MessageRequest) -> Vec<Vec<u8>> {
    let ask = v1::ServerReflectionRequest { host: String::new(), message_request: Some(by) };
    let mut client = v1::server_reflection_client::ServerReflectionClient::new(channel.clone());
    let mut answers = client.server_reflection_info(tokio_stream::once(ask)).await.unwrap().into_inner();
    match answers.message().await.unwrap().unwrap().message_response.unwrap() {
        v1::server_reflection_response::MessageResponse::FileDescriptorResponse(files) => files.file_descriptor_proto,
        other => panic!("{other:?}"),
    }
}

/// Tools print the details of an error by the name of its type, and need every imported file for
/// it.
#[tokio::test]
async fn the_types_in_error_details_are_reflected_in_both_versions() {
    use v1::server_reflection_request::MessageRequest as By;
    let stack = Stack::start().await;
    let channel = channel(stack.app.addr()).await;
    let details =
        ["BadRequest", "ErrorInfo", "PreconditionFailure", "RequestInfo", "ResourceInfo", "RetryInfo", "Status"];
    for name in details {
        let symbol = format!("google.rpc.{name}");
        let mut missing = files_by_v1(&channel, By::FileContainingSymbol(symbol.clone())).await;
        let mut known = BTreeMap::new();
        while let Some(file) = missing.pop() {
            let file = FileDescriptorProto::decode(file.as_slice()).unwrap();
            for needed in file.dependency.iter().filter(|needed| !known.contains_key(*needed)) {
                missing.extend(files_by_v1(&channel, By::FileByFilename(needed.clone())).await);
            }
            known.insert(file.name().to_owned(), file);
        }
        let files = FileDescriptorSet { file: known.into_values().collect() };
        let pool = prost_reflect::DescriptorPool::from_file_descriptor_set(files).unwrap();
        assert!(pool.get_message_by_name(&symbol).is_some(), "{symbol}");

        let by = v1alpha::server_reflection_request::MessageRequest::FileContainingSymbol(symbol.clone());
        let ask = v1alpha::ServerReflectionRequest { host: String::new(), message_request: Some(by) };
        let mut client = v1alpha::server_reflection_client::ServerReflectionClient::new(channel.clone());
        let mut answers = client.server_reflection_info(tokio_stream::once(ask)).await.unwrap().into_inner();
        let answer = answers.message().await.unwrap().unwrap().message_response.unwrap();
        let is_file = matches!(answer, v1alpha::server_reflection_response::MessageResponse::FileDescriptorResponse(_));
        assert!(is_file, "{symbol}");
    }
}

#[tokio::test]
async fn an_oversized_message_is_refused_and_changes_nothing() {
    let stack = Stack::start().await;
    let mut request = sectigo("huge", "1000001");
    request.labels.insert("blob".to_owned(), "x".repeat(100_000));
    let refusal = stack.create(request).await.unwrap_err();
    assert_eq!((refusal.code(), reason(&refusal).as_str()), (Code::InvalidArgument, "INVALID_REQUEST"));
    assert_eq!(wrong_fields(&refusal), [""], "the message as a whole");
    assert!(stack.simulators.journal().is_empty());
}

/// Errors before a handler have the same form as those of handlers.
#[tokio::test]
async fn an_error_of_the_transport_says_that_nothing_was_recorded() {
    let stack = Stack::start().await;
    let mut grpc = tonic::client::Grpc::new(channel(stack.app.addr()).await);
    // Its first field is a list of numbers, which is no UTF-8 where a text is expected.
    let no_text = proto::RefundFilter { states: vec![0xff, 0xff], ..Default::default() };
    for (path, code, expected) in [
        ("/recoup.v1.RefundService/Nothing", Code::Unimplemented, "NOT_OFFERED"),
        ("/unknown.Service/Nothing", Code::Unimplemented, "NOT_OFFERED"),
        ("/recoup.v1.ValidationStatusService/GetValidationStatus", Code::InvalidArgument, "INVALID_REQUEST"),
    ] {
        grpc.ready().await.unwrap();
        let codec = tonic_prost::ProstCodec::<proto::RefundFilter, proto::GetRefundResponse>::default();
        let path = http::uri::PathAndQuery::from_static(path);
        let refusal = grpc.unary(tonic::Request::new(no_text.clone()), path, codec).await.unwrap_err();
        assert_eq!((refusal.code(), reason(&refusal).as_str()), (code, expected));
    }
}

#[tokio::test(start_paused = true)]
async fn a_client_that_sends_nothing_is_disconnected() {
    let stack = Stack::start().await;
    let mut silent = TcpStream::connect(stack.app.addr()).await.unwrap();
    let mut byte = [0; 64];
    // The server sends its settings first, then disconnects.
    let disconnected = async { while silent.read(&mut byte).await.is_ok_and(|read| read > 0) {} };
    tokio::time::timeout(Duration::from_secs(30), disconnected).await.unwrap();
}

#[tokio::test]
async fn a_shutdown_finishes_attempts_on_the_wire_and_accepts_no_new_calls() {
    let stack = Stack::start().await;
    let gate = stack.simulators.gate(Gate::new(Provider::Sectigo, Point::AfterEffect)).unwrap();
    let mut client = stack.refunds.clone();
    let call = tokio::spawn(async move { client.create_refund(sectigo("last", "1000001")).await });
    gate.wait_for(1).await.unwrap();
    let silent = TcpStream::connect(stack.app.addr()).await.unwrap();
    let mut health = HealthClient::new(channel(stack.app.addr()).await);
    let mut watch = health.watch(HealthCheckRequest::default()).await.unwrap().into_inner();
    let address = stack.app.addr();
    let answer_late = async {
        while watch.message().await.unwrap().unwrap().status() == ServingStatus::Serving {}
        // Waits until the port is closed: then only the drain finishes the attempt on the wire.
        while TcpStream::connect(address).await.is_ok() {
            tokio::task::yield_now().await;
        }
        gate.release_all();
    };
    let ended = futures_util::future::join(stack.restart(), answer_late);
    let (stack, ()) = tokio::time::timeout(LIMIT, ended).await.unwrap();
    drop(silent);
    let answered = call.await.unwrap().unwrap().into_inner().refund.unwrap();
    assert_eq!(answered.state(), State::Succeeded, "its caller still gets the answer");
    let request = proto::GetRefundRequest { name: "refunds/last".to_owned() };
    let after = stack.refunds.clone().get_refund(request).await.unwrap().into_inner().refund.unwrap();
    assert_eq!(after, answered);
    assert_eq!(stack.effects("1000001"), 1);
}

/// Attempts on the wire are finished, pending refunds are sent by the next process, and a restart
/// leads to no doubt.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shutdown_among_many_refunds_leaves_no_doubt() {
    let mut stack = Stack::start().await;
    stack.arm(Provider::Sectigo, Point::AfterEffect, FaultEffect::Delay { milliseconds: 20 }, Repeat::Standing);
    for round in 0..3 {
        let requests = (0..60).map(|number| {
            let number = 1 + round * 60 + number;
            match number % 2 {
                0 => sectigo(&format!("s-{number}"), &format!("{}", 1_000_000 + number)),
                _ => namecom(&format!("n-{number}"), 200_000 + number, &[3_200_000 + number]),
            }
        });
        let calls = requests.map(|request| stack.create(without_wait(request)));
        for answer in futures_util::future::join_all(calls).await {
            answer.unwrap();
        }
        stack = tokio::time::timeout(LIMIT, stack.restart()).await.unwrap();
        let filter = proto::RefundFilter { states: vec![State::InDoubt.into()], ..Default::default() };
        let request = proto::ListRefundsRequest { filter: Some(filter), ..Default::default() };
        let doubted = stack.refunds.clone().list_refunds(request).await.unwrap().into_inner().refunds;
        assert_eq!(doubted, [], "round {round}");
    }
    for number in 1..=180 {
        let (id, target) = match number % 2 {
            0 => (format!("s-{number}"), format!("{}", 1_000_000 + number)),
            _ => (format!("n-{number}"), format!("{}", 3_200_000 + number)),
        };
        let refund = stack.until(&id, |refund| refund.complete_time.is_some()).await;
        assert_eq!((refund.state(), stack.effects(&target)), (State::Succeeded, 1), "{id}");
    }
}
