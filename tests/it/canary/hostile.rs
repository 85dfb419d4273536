//! One hostile server in place of all three providers: it repeats everything that it receives, in
//! every form in which a provider could, or disconnects.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::{PASSWORD, PERSON};

const PAGE: &str = include_str!("../../../src/providers/sectigo/testdata/every_section.json");
/// The order of that page.
pub(super) const PERSONS_ORDER: &str = "3000002";

/// How the hostile server answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mood {
    /// Repeats the request as a refusal in Sectigo's form.
    Coded(i32),
    /// Repeats it as JSON, with this status.
    Json(u16),
    /// Repeats it as a SOAP fault, with this status.
    Fault(u16),
    /// Repeats it as Debitsuccess's refusal of an identifier that is in use, which leads to a
    /// review.
    InUse,
    /// Repeats it unchanged, with this status, and in a header, too.
    Bare(u16),
    /// Repeats it without HTTP.
    Garbage,
    /// Announces a longer body than it sends.
    Short,
    /// Never answers.
    Silent,
    /// Closes the connection.
    Gone,
}

pub(super) const MOODS: [Mood; 15] = [
    Mood::Coded(-16),
    Mood::Coded(-1),
    Mood::Coded(-3),
    Mood::Coded(-42),
    Mood::Json(200),
    Mood::Json(400),
    Mood::Json(404),
    Mood::Fault(200),
    Mood::Fault(500),
    Mood::Bare(200),
    Mood::Bare(429),
    Mood::Bare(503),
    Mood::Garbage,
    Mood::Short,
    Mood::Gone,
];
/// These take long or suspend the account, so they come last.
pub(super) const LAST_MOODS: [Mood; 3] = [Mood::Silent, Mood::Json(401), Mood::Coded(-15)];

#[derive(Clone)]
pub(super) struct Hostile {
    mood: Arc<Mutex<Mood>>,
    /// The page of [`PERSONS_ORDER`], in every mood.
    page: Arc<Mutex<String>>,
    /// All requests that it received.
    pub(super) received: Arc<Mutex<String>>,
}

impl Hostile {
    pub(super) async fn start() -> (Hostile, SocketAddr) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let page = PAGE.replace("registrant@example.com", "canary-person@example.com");
        let (mood, page) = (Arc::new(Mutex::new(Mood::Gone)), Arc::new(Mutex::new(page)));
        let hostile = Hostile { mood, page, received: Arc::default() };
        let server = hostile.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let server = server.clone();
                tokio::spawn(async move { server.answer(stream).await });
            }
        });
        (hostile, addr)
    }

    pub(super) fn becomes(&self, mood: Mood) {
        *self.mood.lock().unwrap() = mood;
    }

    pub(super) fn rejects_the_order(&self) {
        let mut page = self.page.lock().unwrap();
        *page = page.replace("Awaiting Authorization", "Rejected");
    }

    /// How many requests named a Sectigo order.
    pub(super) fn lookups_of(&self, order_number: &str) -> usize {
        self.received.lock().unwrap().matches(&format!("orderNumber={order_number}")).count()
    }

    async fn answer(&self, mut stream: TcpStream) -> Option<()> {
        let request = whole_request(&mut stream).await?;
        self.received.lock().unwrap().push_str(&request);
        let mood = *self.mood.lock().unwrap();
        if request.contains("getPostPaymentStatus") && request.contains(PERSONS_ORDER) {
            let page = self.page.lock().unwrap().clone();
            return stream.write_all(&http(200, "application/json", &page)).await.ok();
        }
        // The form as it was sent, and decoded.
        let read = form_urlencoded::parse(request.rsplit("\r\n").next()?.as_bytes());
        let echo = format!(
            "{PERSON} has had it already. {request} {}",
            read.map(|(key, value)| format!("{key}={value}\n")).collect::<String>()
        );
        let answer = match mood {
            Mood::Coded(code) => http(200, "text/plain", &format!("{code}\n{echo}")),
            Mood::Json(status) => {
                let message = serde_json::to_string(&echo).unwrap();
                let text = format!(
                    "{{\"errorCode\":-16,\"errorMessage\":{message},\"message\":{message},\"details\":{message}}}"
                );
                http(status, "application/json", &text)
            }
            Mood::Fault(status) => http(status, "text/xml", &fault(&echo)),
            Mood::InUse => {
                // Without the head: only the beginning of a long text is kept, and the head would
                // fill it.
                let members = request.split_once("<d:").map_or(request.as_str(), |(_, members)| members);
                http(200, "text/xml", &in_use(&format!("{PERSON} has had it already: <d:{members}")))
            }
            Mood::Bare(status) => http(status, "text/plain", &echo),
            Mood::Garbage => format!("{echo}\0\x01").into_bytes(),
            Mood::Short => format!("HTTP/1.1 200 OK\r\ncontent-length: 100000\r\n\r\n{echo}").into_bytes(),
            Mood::Silent => {
                // Until the gateway gives up.
                let mut rest = Vec::new();
                return stream.read_to_end(&mut rest).await.ok().map(drop);
            }
            Mood::Gone => Vec::new(),
        };
        stream.write_all(&answer).await.ok()
    }
}

fn http(status: u16, kind: &str, body: &str) -> Vec<u8> {
    let echo = body.lines().find(|line| line.to_lowercase().starts_with("authorization")).unwrap_or(PASSWORD);
    let length = body.len();
    // With 429, the refund waits for nearly an hour.
    format!(
        "HTTP/1.1 {status} Status\r\ncontent-type: {kind}\r\nx-echo: {echo}\r\nretry-after: 3000\r\nconnection: close\r\n\
         content-length: {length}\r\n\r\n{body}"
    )
    .into_bytes()
}

fn fault(echo: &str) -> String {
    let echo = escaped(echo);
    envelope(&format!("<s:Fault><faultcode>s:Client</faultcode><faultstring>{echo}</faultstring></s:Fault>"))
}

fn in_use(echo: &str) -> String {
    let echo = escaped(echo);
    envelope(&format!(
        "<InitiateRefundResponse><InitiateRefundResult><ResponseNotes><ResponseMessageNote><Code>14143</Code>\
         <Note>{echo}</Note><NoteType>Error</NoteType></ResponseMessageNote></ResponseNotes><Status>Failed</Status>\
         </InitiateRefundResult></InitiateRefundResponse>"
    ))
}

fn escaped(echo: &str) -> String {
    echo.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

fn envelope(body: &str) -> String {
    format!("<s:Envelope xmlns:s=\"http://schemas.xmlsoap.org/soap/envelope/\"><s:Body>{body}</s:Body></s:Envelope>")
}

async fn whole_request(stream: &mut TcpStream) -> Option<String> {
    let mut received = Vec::new();
    loop {
        let text = String::from_utf8_lossy(&received).into_owned();
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length =
                head.to_lowercase().lines().find_map(|line| line.strip_prefix("content-length: ")?.parse().ok());
            if body.len() >= length.unwrap_or(0) {
                return Some(text);
            }
        }
        if stream.read_buf(&mut received).await.ok()? == 0 {
            return None;
        }
    }
}
