//! HTTP/2 frames as an attacker writes them: no windows are kept, no settings obeyed.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};

use bytes::{BufMut as _, BytesMut};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpSocket, TcpStream};

pub(crate) const DATA: u8 = 0x0;
pub(crate) const HEADERS: u8 = 0x1;
pub(crate) const PRIORITY: u8 = 0x2;
pub(crate) const RST_STREAM: u8 = 0x3;
pub(crate) const SETTINGS: u8 = 0x4;
pub(crate) const PING: u8 = 0x6;
pub(crate) const WINDOW_UPDATE: u8 = 0x8;
pub(crate) const CONTINUATION: u8 = 0x9;
pub(crate) const ACK: u8 = 0x1;
pub(crate) const END_STREAM: u8 = 0x1;
pub(crate) const END_HEADERS: u8 = 0x4;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// One frame that was read.
pub(crate) struct Frame {
    pub(crate) kind: u8,
    pub(crate) flags: u8,
    pub(crate) stream: u32,
    pub(crate) payload: BytesMut,
}

/// A connection from an address of the attacker's choice. `SETTINGS_INITIAL_WINDOW_SIZE` is
/// `window`.
pub(crate) async fn connect(from: Ipv4Addr, to: SocketAddr, window: Option<u32>) -> io::Result<(Reader, Writer)> {
    let stream = connect_silently(from, to).await?;
    let (reader, writer) = stream.into_split();
    let mut writer = Writer(writer);
    let mut first = PREFACE.to_vec();
    let settings = window.map(|window| [&[0, 4][..], &window.to_be_bytes()].concat()).unwrap_or_default();
    first.extend(frame(SETTINGS, 0, 0, &settings));
    writer.write(&first).await?;
    Ok((Reader(reader), writer))
}

/// A connection that has sent nothing.
pub(crate) async fn connect_silently(from: Ipv4Addr, to: SocketAddr) -> io::Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    socket.set_reuseaddr(true)?;
    socket.bind(SocketAddr::from((from, 0)))?;
    socket.connect(to).await
}

impl Frame {
    /// Trailers, or a reset. A stream may end with both.
    pub(crate) fn ends_stream(&self) -> bool {
        self.kind == RST_STREAM || (self.kind == HEADERS && self.flags & END_STREAM != 0)
    }
}

pub(crate) struct Reader(OwnedReadHalf);

impl Reader {
    pub(crate) async fn next(&mut self) -> io::Result<Frame> {
        let mut head = [0; 9];
        self.0.read_exact(&mut head).await?;
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
        let mut payload = BytesMut::zeroed(usize::try_from(length).unwrap());
        self.0.read_exact(&mut payload).await?;
        let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
        Ok(Frame { kind: head[3], flags: head[4], stream, payload })
    }
}

pub(crate) struct Writer(OwnedWriteHalf);

impl Writer {
    pub(crate) async fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.0.write_all(bytes).await
    }

    /// Answers what keeps a connection alive.
    pub(crate) async fn keep_alive(&mut self, frame_read: &Frame) -> io::Result<()> {
        match (frame_read.kind, frame_read.flags & ACK) {
            (PING, 0) => self.write(&frame(PING, ACK, 0, &frame_read.payload)).await,
            (SETTINGS, 0) => self.write(&frame(SETTINGS, ACK, 0, &[])).await,
            _ => Ok(()),
        }
    }
}

pub(crate) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut bytes = length[1..].to_vec();
    bytes.extend([kind, flags]);
    bytes.put_u32(stream);
    bytes.extend(payload);
    bytes
}

/// A literal header field that is not indexed.
pub(crate) fn literal(name: &str, value: &str) -> Vec<u8> {
    let mut field = vec![0];
    for text in [name, value] {
        // The length with a prefix of seven bits.
        match u8::try_from(text.len()) {
            Ok(length) if length < 127 => field.push(length),
            _ => {
                field.push(127);
                let mut rest = text.len() - 127;
                while rest >= 128 {
                    field.push(u8::try_from(rest % 128).unwrap() | 128);
                    rest /= 128;
                }
                field.push(u8::try_from(rest).unwrap());
            }
        }
        field.extend(text.bytes());
    }
    field
}

pub(crate) fn call_headers(path: &str) -> Vec<u8> {
    let fields = [
        (":method", "POST"),
        (":scheme", "http"),
        (":path", path),
        (":authority", "localhost"),
        ("content-type", "application/grpc"),
        ("te", "trailers"),
    ];
    fields.iter().flat_map(|(name, value)| literal(name, value)).collect()
}

/// A message with its prefix.
pub(crate) fn message(content: &impl prost::Message) -> Vec<u8> {
    let mut bytes = vec![0];
    bytes.put_u32(u32::try_from(content.encoded_len()).unwrap());
    content.encode(&mut bytes).unwrap();
    bytes
}

/// A whole call: headers and message.
pub(crate) fn call(stream: u32, path: &str, content: &impl prost::Message) -> Vec<u8> {
    let mut bytes = frame(HEADERS, END_HEADERS, stream, &call_headers(path));
    bytes.extend(frame(DATA, END_STREAM, stream, &message(content)));
    bytes
}
