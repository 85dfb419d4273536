//! The one-table gateway: the same promise as a careful developer writes it by hand in an
//! afternoon.
//!
//! One SQLite table has a row for each refund. Its id is unique, and so is its target, except that
//! a failed refund leaves its target free. The row is on the disk before the POST, and the outcome
//! is on the disk before the answer. A thread takes all waiting writes as one transaction. The
//! provider's answer is read: it is a success, a failure, or unknown. There is no log, no history,
//! no chain, no list, no lookup and no retry.

use std::path::Path;
use std::thread;

use bytes::Bytes;
use recoup::domain::clock::{Clock as _, SystemClock};
use recoup::proto::v1 as proto;
use recoup::proto::v1::create_refund_request::Target;
use recoup::proto::v1::refund::State;
use rusqlite::{Connection, OptionalExtension as _, params};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::{mpsc, oneshot};
use tonic::Status;

use crate::callers::CALLERS;
use crate::yardsticks::{self, ProviderAnswer};

/// Sends writes to the thread that owns the table.
pub(crate) struct Table(mpsc::UnboundedSender<Write>);

enum Write {
    Begin(Begin, oneshot::Sender<Begun>),
    End { id: String, outcome: Outcome, done: oneshot::Sender<()> },
}

struct Begin {
    id: String,
    account: String,
    target: String,
}

enum Begun {
    /// The row is on the disk.
    New,
    /// A refund has this id.
    Known { account: String, target: String, outcome: Outcome },
    /// Another refund has this target.
    TargetTaken,
}

/// What is kept of the provider's answer.
#[derive(Clone, Debug)]
struct Outcome {
    state: &'static str,
    message: String,
}

/// name.com's answer, as far as it is needed.
#[derive(Deserialize)]
struct NamecomAnswer {
    results: Vec<NamecomResult>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct NamecomResult {
    order_item_id: i32,
    order_item_status: String,
}

/// A documented refusal of name.com.
#[derive(Deserialize)]
struct NamecomError {
    message: String,
}

/// Its name in the table of results.
pub(crate) const ONE_TABLE: &str = "one-table gateway";
/// SQLite makes its checkpoints by itself, as it does by default.
const SCHEMA: &str = "
    PRAGMA journal_mode = WAL;
    PRAGMA synchronous = FULL;
    CREATE TABLE refunds (
        id      TEXT PRIMARY KEY,
        account TEXT NOT NULL,
        target  TEXT NOT NULL,
        state   TEXT NOT NULL,
        message TEXT NOT NULL,
        create_time INTEGER NOT NULL,
        update_time INTEGER NOT NULL
    ) STRICT;
    CREATE UNIQUE INDEX one_refund_per_target ON refunds (target) WHERE state <> 'failed';
";

/// The role of the one-table gateway: serves, and returns its address.
pub(crate) async fn serve(folder: &Path, addresses: &str) -> Value {
    let table = Table::open(&folder.join("one-table.db"));
    json!({ "grpc": yardsticks::serve_one_table(folder, addresses, table).await })
}

impl Table {
    fn open(path: &Path) -> Table {
        let connection = Connection::open(path).unwrap();
        connection.execute_batch(SCHEMA).unwrap();
        let (sender, mut writes) = mpsc::unbounded_channel();
        thread::spawn(move || {
            let mut batch = Vec::new();
            while writes.blocking_recv_many(&mut batch, CALLERS) > 0 {
                write_together(&connection, batch.drain(..));
            }
        });
        Table(sender)
    }

    /// Creates a refund: records it, sends it, records its outcome.
    pub(crate) async fn create(
        &self,
        request: &proto::CreateRefundRequest,
        send: impl Future<Output = Result<ProviderAnswer, reqwest::Error>>,
    ) -> Result<proto::CreateRefundResponse, Status> {
        let target = target_text(request)?;
        let (id, account) = (request.refund_id.clone(), request.account.clone());
        let (reply, begun) = oneshot::channel();
        let begin = Begin { id: id.clone(), account: account.clone(), target: target.clone() };
        self.0.send(Write::Begin(begin, reply)).map_err(stopped)?;
        match begun.await.map_err(stopped)? {
            Begun::New => {}
            Begun::Known { account: known_account, target: known_target, outcome } => {
                if (known_account, known_target) != (account, target) {
                    return Err(Status::already_exists("another refund has this id"));
                }
                return Ok(answer(request, &outcome, true));
            }
            Begun::TargetTaken => return Err(Status::failed_precondition("another refund has this target")),
        }
        let outcome = match send.await {
            Ok(answer) => read(request, &answer),
            Err(error) if error.is_connect() => Outcome { state: "failed", message: error.to_string() },
            Err(error) => Outcome { state: "unknown", message: error.to_string() },
        };
        let (done, ended) = oneshot::channel();
        self.0.send(Write::End { id, outcome: outcome.clone(), done }).map_err(stopped)?;
        ended.await.map_err(stopped)?;
        Ok(answer(request, &outcome, false))
    }
}

fn stopped<T>(_: T) -> Status {
    Status::unavailable("the table is closed")
}

/// Commits these writes together, and then answers them.
fn write_together(connection: &Connection, batch: impl Iterator<Item = Write>) {
    let now = SystemClock.now().as_micros();
    let mut begun = Vec::new();
    let mut ended = Vec::new();
    connection.prepare_cached("BEGIN IMMEDIATE").unwrap().execute([]).unwrap();
    for write in batch {
        match write {
            Write::Begin(begin, reply) => begun.push((insert(connection, begin, now), reply)),
            Write::End { id, outcome, done } => {
                let update = "UPDATE refunds SET state = ?2, message = ?3, update_time = ?4 WHERE id = ?1";
                let mut update = connection.prepare_cached(update).unwrap();
                update.execute(params![id, outcome.state, outcome.message, now]).unwrap();
                ended.push(done);
            }
        }
    }
    connection.prepare_cached("COMMIT").unwrap().execute([]).unwrap();
    // A caller that has gone needs no answer.
    for (answer, reply) in begun {
        let _ = reply.send(answer);
    }
    for done in ended {
        let _ = done.send(());
    }
}

fn insert(connection: &Connection, begin: Begin, now: i64) -> Begun {
    let insert = "INSERT INTO refunds (id, account, target, state, message, create_time, update_time) \
                  VALUES (?1, ?2, ?3, 'sent', '', ?4, ?4) ON CONFLICT DO NOTHING";
    let mut insert = connection.prepare_cached(insert).unwrap();
    if insert.execute(params![begin.id, begin.account, begin.target, now]).unwrap() == 1 {
        return Begun::New;
    }
    let select = "SELECT account, target, state, message FROM refunds WHERE id = ?1";
    let mut select = connection.prepare_cached(select).unwrap();
    let known = select.query_row([&begin.id], |row| {
        let outcome = Outcome { state: state_of(&row.get::<_, String>(2)?), message: row.get(3)? };
        Ok(Begun::Known { account: row.get(0)?, target: row.get(1)?, outcome })
    });
    known.optional().unwrap().unwrap_or(Begun::TargetTaken)
}

fn state_of(text: &str) -> &'static str {
    ["succeeded", "failed", "unknown"].into_iter().find(|state| *state == text).unwrap_or("sent")
}

fn target_text(request: &proto::CreateRefundRequest) -> Result<String, Status> {
    if request.refund_id.is_empty() || request.refund_id.len() > 50 {
        return Err(Status::invalid_argument("refund_id: 1 to 50 letters"));
    }
    match &request.target {
        Some(Target::Sectigo(target)) => Ok(format!("sectigo {}", target.order_number)),
        Some(Target::Namecom(target)) => Ok(format!("namecom {} {:?}", target.order_id, target.order_item_ids)),
        Some(Target::Debitsuccess(_)) | None => Err(Status::invalid_argument("target: sectigo or namecom")),
    }
}

/// Success, failure, or unknown.
fn read(request: &proto::CreateRefundRequest, answer: &ProviderAnswer) -> Outcome {
    let text = String::from_utf8_lossy(&answer.body);
    let (state, message) = match &request.target {
        Some(Target::Namecom(target)) => read_namecom(&target.order_item_ids, answer.status, &answer.body),
        _ => match text.lines().next().and_then(|line| line.trim().parse::<i32>().ok()) {
            Some(0) => ("succeeded", String::new()),
            Some(code) if code < 0 && code != -14 => ("failed", text.into_owned()),
            _ => ("unknown", text.into_owned()),
        },
    };
    Outcome { state, message }
}

fn read_namecom(items: &[i32], status: u16, body: &Bytes) -> (&'static str, String) {
    if status == 200
        && let Ok(answer) = serde_json::from_slice::<NamecomAnswer>(body)
    {
        let is_refunded = |item: &i32| {
            let is_row = |row: &NamecomResult| row.order_item_id == *item && row.order_item_status == "refunded";
            answer.results.iter().any(is_row)
        };
        if items.iter().all(is_refunded) {
            return ("succeeded", String::new());
        }
    }
    match serde_json::from_slice::<NamecomError>(body) {
        Ok(error) if (400..500).contains(&status) => ("failed", error.message),
        _ => ("unknown", String::from_utf8_lossy(body).into_owned()),
    }
}

fn answer(request: &proto::CreateRefundRequest, outcome: &Outcome, replayed: bool) -> proto::CreateRefundResponse {
    use proto::refund::Target as Kept;
    let state = match outcome.state {
        "succeeded" => State::Succeeded,
        "failed" => State::Failed,
        _ => State::InDoubt,
    };
    let target = request.target.clone().map(|target| match target {
        Target::Sectigo(target) => Kept::Sectigo(target),
        Target::Namecom(target) => Kept::Namecom(target),
        Target::Debitsuccess(target) => Kept::Debitsuccess(target),
    });
    let refund = proto::Refund {
        name: format!("refunds/{}", request.refund_id),
        refund_id: request.refund_id.clone(),
        account: request.account.clone(),
        target,
        state: state.into(),
        ..Default::default()
    };
    proto::CreateRefundResponse { refund: Some(refund), replayed }
}
