//! The limits of one connection to the gRPC port, read from its frames.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::{LIMIT, Stack};

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const SETTINGS: u8 = 0x4;
const HEADERS: u8 = 0x1;
const RST_STREAM: u8 = 0x3;
const GOAWAY: u8 = 0x7;

/// A bare HTTP/2 connection that can do what no client library does.
struct Bare(TcpStream);

impl Bare {
    async fn open(addr: SocketAddr) -> Bare {
        let mut stream = TcpStream::connect(addr).await.unwrap();
        stream.write_all(PREFACE).await.unwrap();
        let mut bare = Bare(stream);
        bare.send(SETTINGS, 0, 0, &[]).await.unwrap();
        bare
    }

    async fn send(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) -> std::io::Result<()> {
        let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
        let mut frame = length[1..].to_vec();
        frame.extend([kind, flags]);
        frame.extend(stream.to_be_bytes());
        frame.extend(payload);
        self.0.write_all(&frame).await
    }

    /// The next frame's kind and payload; none where the server has closed.
    async fn next(&mut self) -> Option<(u8, Vec<u8>)> {
        let mut head = [0; 9];
        self.0.read_exact(&mut head).await.ok()?;
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
        let mut payload = vec![0; usize::try_from(length).unwrap()];
        self.0.read_exact(&mut payload).await.ok()?;
        Some((head[3], payload))
    }
}

/// A literal header field that is not indexed, short enough for a length in one byte.
fn literal(name: &str, value: &str) -> Vec<u8> {
    let mut field = vec![0];
    for text in [name, value] {
        field.push(u8::try_from(text.len()).unwrap());
        field.extend(text.bytes());
    }
    field
}

fn call_headers() -> Vec<u8> {
    let fields = [
        (":method", "POST"),
        (":scheme", "http"),
        (":path", "/recoup.v1.RefundService/GetRefund"),
        (":authority", "localhost"),
        ("content-type", "application/grpc"),
        ("te", "trailers"),
    ];
    fields.iter().flat_map(|(name, value)| literal(name, value)).collect()
}

#[tokio::test]
async fn streams_and_header_lists_are_bounded_from_the_first_frame() {
    let stack = Stack::start().await;
    let mut bare = Bare::open(stack.app.addr()).await;
    let (kind, payload) = tokio::time::timeout(LIMIT, bare.next()).await.unwrap().unwrap();
    assert_eq!(kind, SETTINGS);
    let settings: Vec<(u16, u32)> = payload
        .chunks_exact(6)
        .map(|setting| {
            let id = u16::from_be_bytes([setting[0], setting[1]]);
            (id, u32::from_be_bytes([setting[2], setting[3], setting[4], setting[5]]))
        })
        .collect();
    assert!(settings.contains(&(0x3, 100)), "MAX_CONCURRENT_STREAMS: {settings:?}");
    assert!(settings.contains(&(0x6, 16 * 1024)), "MAX_HEADER_LIST_SIZE: {settings:?}");
}

#[tokio::test]
async fn a_client_that_opens_and_resets_streams_endlessly_is_disconnected() {
    let stack = Stack::start().await;
    let mut bare = Bare::open(stack.app.addr()).await;
    let headers = call_headers();
    let flood = async {
        for number in 0..20_000_u32 {
            let stream = 2 * number + 1;
            let sent = bare.send(HEADERS, 0x4, stream, &headers).await;
            if sent.is_err() || bare.send(RST_STREAM, 0, stream, &8_u32.to_be_bytes()).await.is_err() {
                return;
            }
        }
        // All frames were accepted, so the server must send GOAWAY.
        while let Some((kind, _)) = bare.next().await {
            if kind == GOAWAY {
                return;
            }
        }
    };
    tokio::time::timeout(LIMIT, flood).await.unwrap();

    // Other connections are served as before.
    let mut client = stack.refunds.clone();
    let answer = client.list_refunds(recoup::proto::v1::ListRefundsRequest::default());
    tokio::time::timeout(Duration::from_secs(10), answer).await.unwrap().unwrap();
}
