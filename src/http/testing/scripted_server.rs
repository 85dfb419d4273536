//! A server on loopback that sends exactly the scripted bytes and records the requests.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

/// What the server does after it has read a request.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Script {
    /// Sends these bytes. Keeps the connection open if they are a complete answer with a length,
    /// else closes it.
    Send(&'static str),
    /// Sends these bytes and keeps the connection open.
    SendAndHold(&'static str),
    /// Sends the answer of the first prefix that the request begins with, or else closes the
    /// connection.
    ByPath(&'static [(&'static str, &'static str)]),
    /// Closes the connection.
    Close,
    /// Sends nothing and keeps the connection open.
    Hang,
    /// Sends ten mebibytes.
    Flood {
        /// Whether a Content-Length announces them.
        claim_length: bool,
    },
}

/// The server. Its task ends when this is dropped.
pub(crate) struct ScriptedServer {
    address: SocketAddr,
    log: Arc<Mutex<ServerLog>>,
    task: JoinHandle<()>,
}

#[derive(Default)]
struct ServerLog {
    connections: usize,
    requests: Vec<String>,
}

impl ScriptedServer {
    /// Reads each request completely, then follows the script.
    pub(crate) async fn start(script: Script) -> Self {
        Self::listen(script, true).await
    }

    /// Follows the script after the first bytes, whatever they are.
    pub(crate) async fn start_raw(script: Script) -> Self {
        Self::listen(script, false).await
    }

    async fn listen(script: Script, whole: bool) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let log = Arc::new(Mutex::new(ServerLog::default()));
        let task_log = log.clone();
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                task_log.lock().unwrap().connections += 1;
                tokio::spawn(converse(stream, script, whole, task_log.clone()));
            }
        });
        Self { address, log, task }
    }

    pub(crate) fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    pub(crate) fn connections(&self) -> usize {
        self.log.lock().unwrap().connections
    }

    /// Heads and bodies as received.
    pub(crate) fn requests(&self) -> Vec<String> {
        self.log.lock().unwrap().requests.clone()
    }

    /// Stops listening. Returns the endpoint, which now refuses connections.
    pub(crate) async fn stopped(mut self) -> String {
        self.task.abort();
        let _ = (&mut self.task).await;
        self.endpoint()
    }
}

impl Drop for ScriptedServer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn converse(mut stream: TcpStream, script: Script, whole: bool, log: Arc<Mutex<ServerLog>>) {
    loop {
        let Some(request) = request_of(&mut stream, whole).await else { return };
        let script = match script {
            Script::ByPath(answers) => {
                let answer = answers.iter().find(|(head, _)| request.starts_with(head));
                answer.map_or(Script::Close, |(_, text)| Script::Send(text))
            }
            other => other,
        };
        log.lock().unwrap().requests.push(request);
        match script {
            Script::Send(text) => {
                let _ = stream.write_all(text.as_bytes()).await;
                if !is_complete(text) {
                    let _ = stream.shutdown().await;
                    return;
                }
            }
            Script::SendAndHold(text) => {
                let _ = stream.write_all(text.as_bytes()).await;
                tokio::time::sleep(Duration::from_secs(60)).await;
                return;
            }
            Script::Close | Script::ByPath(_) => return,
            Script::Hang => {
                tokio::time::sleep(Duration::from_secs(60)).await;
                return;
            }
            Script::Flood { claim_length } => {
                let length = if claim_length { "Content-Length: 10485760\r\n" } else { "" };
                let _ = stream.write_all(format!("HTTP/1.1 200 OK\r\n{length}\r\n").as_bytes()).await;
                for _ in 0..640 {
                    if stream.write_all(&[b'0'; 16 * 1024]).await.is_err() {
                        return;
                    }
                }
                return;
            }
        }
    }
}

/// Whether the text is an answer with its complete body, so that the connection can be reused.
fn is_complete(text: &str) -> bool {
    let Some((head, body)) = text.split_once("\r\n\r\n") else { return false };
    let length = head.lines().find_map(|line| line.strip_prefix("Content-Length: "));
    length.and_then(|length| length.parse::<usize>().ok()) == Some(body.len())
}

async fn request_of(stream: &mut TcpStream, whole: bool) -> Option<String> {
    let mut received = Vec::new();
    let mut buffer = [0_u8; 4096];
    loop {
        let read = stream.read(&mut buffer).await.ok()?;
        if read == 0 {
            return None;
        }
        received.extend_from_slice(&buffer[..read]);
        let text = String::from_utf8_lossy(&received).into_owned();
        if !whole {
            return Some(text);
        }
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length =
                head.lines().find_map(|line| line.to_ascii_lowercase().strip_prefix("content-length: ")?.parse().ok());
            if body.len() >= length.unwrap_or(0_usize) {
                return Some(text);
            }
        }
    }
}
