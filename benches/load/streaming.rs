//! A hundred readers of StreamRefundEvents, in a process of their own, while refunds are created.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::{Buf as _, BufMut as _};
use http::uri::PathAndQuery;
use prost::Message as _;
use recoup::proto::v1::StreamRefundEventsRequest;
use recoup::proto::v1::refund_service_client::RefundServiceClient;
use serde_json::{Value, json};
use tonic::client::Grpc;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::transport::Channel;
use tonic::{Request, Status, Streaming};
use tonic_types::StatusExt as _;

use crate::Stage;
use crate::callers::{CALLERS, Way};
use crate::processes::{Role, Server};
use crate::report::{Reach, Row};

const READERS: usize = 100;
const CONNECTIONS: usize = 4;

/// The readers' codec: it discards messages without decoding them. The readers share the machine
/// with the gateway, and only the gateway's work should be measured.
#[derive(Clone, Copy, Default)]
struct Discard;

/// Alternating turns with and without readers.
pub(crate) async fn with_readers(stage: &mut Stage) -> Option<Row> {
    let (mut with, mut without) = (Vec::new(), Vec::new());
    for round in 0..=stage.extent.rounds.min(11) {
        let mut rates = [0.0; 2];
        let indexes = if round % 2 == 0 { [0, 1] } else { [1, 0] };
        for index in indexes {
            let readers = (index == 0).then(|| {
                let address = [stage.small.address.to_string()];
                Server::start(Role::Readers, &stage.folder, &address)
            });
            let requests = stage.targets.requests(&stage.providers, Way::Fresh, stage.extent.refunds).await;
            let took = stage.gate.create(requests, CALLERS).await;
            drop(readers);
            rates[index] = stage.extent.refunds as f64 / took.as_secs_f64();
        }
        if round > 0 {
            with.push(rates[0]);
            without.push(rates[1]);
        }
    }
    let what = format!("CreateRefund with {READERS} readers of StreamRefundEvents");
    Some(Row::paired(what, "/s", &with, "without readers", &without, Reach::AtLeast(0.8)))
}

/// The role of the readers: opens all streams at the end of the history, and reads them.
pub(crate) async fn read_all(address: &str) -> Value {
    let address: SocketAddr = address.parse().unwrap();
    let mut channels = Vec::new();
    for _ in 0..CONNECTIONS {
        channels.push(Channel::from_shared(format!("http://{address}")).unwrap().connect().await.unwrap());
    }
    let after_sequence = end_of_history(channels[0].clone()).await;
    let seen = Arc::new(AtomicU64::new(0));
    for reader in 0..READERS {
        let mut events = stream(channels[reader % CONNECTIONS].clone(), after_sequence).await;
        let seen = seen.clone();
        tokio::spawn(async move {
            while let Ok(Some(_)) = events.message().await {
                seen.fetch_add(1, Ordering::Relaxed);
            }
        });
    }
    json!({ "readers": READERS })
}

async fn stream(channel: Channel, after_sequence: i64) -> Streaming<()> {
    let mut client = Grpc::new(channel);
    client.ready().await.unwrap();
    let request = Request::new(StreamRefundEventsRequest { after_sequence });
    let path = PathAndQuery::from_static("/recoup.v1.RefundService/StreamRefundEvents");
    client.server_streaming(request, path, Discard).await.unwrap().into_inner()
}

impl Codec for Discard {
    type Encode = StreamRefundEventsRequest;
    type Decode = ();
    type Encoder = Discard;
    type Decoder = Discard;

    fn encoder(&mut self) -> Discard {
        Discard
    }

    fn decoder(&mut self) -> Discard {
        Discard
    }
}

impl Encoder for Discard {
    type Item = StreamRefundEventsRequest;
    type Error = Status;

    fn encode(&mut self, request: StreamRefundEventsRequest, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        buffer.put_slice(&request.encode_to_vec());
        Ok(())
    }
}

impl Decoder for Discard {
    type Item = ();
    type Error = Status;

    fn decode(&mut self, message: &mut DecodeBuf<'_>) -> Result<Option<()>, Status> {
        message.advance(message.remaining());
        Ok(Some(()))
    }
}

/// The sequence of the last event: a stream that begins after it is refused with that number.
async fn end_of_history(channel: Channel) -> i64 {
    let request = StreamRefundEventsRequest { after_sequence: i64::MAX };
    let refused = RefundServiceClient::new(channel).stream_refund_events(request).await.unwrap_err();
    let details = refused.get_error_details();
    let described = &details.bad_request().unwrap().field_violations[0].description;
    described.split(|letter: char| !letter.is_ascii_digit()).find_map(|digits| digits.parse().ok()).unwrap()
}
