//! Ledgers that the ledger's own code writes before a measurement: tables, history, chain.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use recoup::domain::authority::{Actor, Authority};
use recoup::domain::clock::{Clock as _, SystemClock, Timestamp};
use recoup::domain::event::Event;
use recoup::domain::ids::ProviderKind;
use recoup::domain::ids::{AccountName, RefundId};
use recoup::domain::money::{Currency, Money};
use recoup::domain::outcome::{Confirmation, ItemResult, ItemState};
use recoup::domain::place::Place;
use recoup::domain::refund::{Intent, Refund};
use recoup::domain::target::{NamecomTarget, SectigoTarget, Target};
use recoup::ledger::sqlite::{SqliteLedger, SqliteSettings};
use recoup::ledger::{
    CreateOutcome, FirstAttempt, Ledger as _, LedgerAdmin as _, NewRefund, RecordEvents, RelatedLogins, Ticket,
};
use recoup::providers::{Account, place_of};
use tokio::time::Instant;

use crate::callers::Way;

/// Writes that share one commit. Only here, where no caller waits.
const BATCH: usize = 10_000;
/// The time between two refunds: a million take ten months.
const INTERVAL: Duration = Duration::from_secs(26);

/// Returns a ledger with this many completed refunds from the cache. Writes and verifies it first
/// if it is not there.
pub(crate) async fn large(folder: &Path, refunds: usize) -> PathBuf {
    let path = folder.join(format!("ledger-{refunds}-v9.db"));
    if path.exists() {
        return path;
    }
    let began = Instant::now();
    let draft = tempfile::tempdir_in(folder).unwrap();
    let written = draft.path().join("draft.db");
    let ledger = open(&written);
    let first = SystemClock.now().saturating_sub(INTERVAL * u32::try_from(refunds + 1).unwrap());
    for start in (0..refunds).step_by(BATCH) {
        let intents = (start..refunds.min(start + BATCH)).map(done);
        let sent = |_: &RefundId| Some(FirstAttempt { credential: None });
        let time = |nth| first.saturating_add(INTERVAL * (start + nth) as u32);
        let created = create(&ledger, intents, past_place, sent, time).await;
        join_all(created.into_iter().map(|refund| finish(&ledger, refund))).await;
    }
    let events = ledger.verify().await.unwrap();
    ledger.close().await;
    std::fs::rename(&written, &path).unwrap();
    println!(
        "a ledger of {refunds} refunds, {events} events: written and verified in {:.0} s",
        began.elapsed().as_secs_f64()
    );
    path
}

/// Makes a copy that a gateway may write to, and syncs it: pending writes would disturb the
/// measurement.
pub(crate) fn copy(from: &Path, to: &Path) {
    std::fs::copy(from, to).unwrap();
    std::fs::File::open(to).unwrap().sync_all().unwrap();
}

/// Adds refunds of these name.com orders by `account` as a killed gateway leaves them: half of them
/// in flight, half PENDING.
pub(crate) async fn add_unfinished(path: &Path, account: &Account, orders: std::ops::Range<i32>) {
    let ledger = open(path);
    let middle = orders.start + (orders.end - orders.start) / 2;
    // Long enough ago that no interrupted request may still be on its way: each is looked up and
    // sent again at once.
    let now = SystemClock.now().saturating_sub(account.total_timeout);
    let intents = |orders: std::ops::Range<i32>| {
        orders.map(|number| intent(format!("open-{number}"), Way::Fresh, namecom(number)))
    };
    let place = |_| account.place.clone();
    let sent = |id: &RefundId| Some(FirstAttempt { credential: account.refunds.credential(id) });
    create(&ledger, intents(orders.start..middle), place, sent, |_| now).await;
    create(&ledger, intents(middle..orders.end), place, |_| None, |_| now).await;
    ledger.close().await;
}

/// The id of a refund in the large ledger.
pub(crate) fn id_of(place: usize) -> String {
    format!("done-{place}")
}

/// A refund at name.com or at Sectigo, in turn.
fn done(place: usize) -> Intent {
    let number = i32::try_from(place + 1).unwrap();
    match place % 2 {
        0 => intent(id_of(place), Way::Fresh, namecom(number)),
        _ => intent(id_of(place), Way::Tls, Target::Sectigo(SectigoTarget::new(&number.to_string(), 11).unwrap())),
    }
}

fn namecom(number: i32) -> Target {
    Target::Namecom(NamecomTarget::new(number, &[number]).unwrap())
}

fn intent(id: String, way: Way, target: Target) -> Intent {
    let (id, account) = (RefundId::parse(&id).unwrap(), AccountName::parse(way.account()).unwrap());
    Intent { id, account, target, labels: Default::default(), expected_amount: None }
}

fn open(path: &Path) -> Arc<SqliteLedger> {
    let settings = SqliteSettings { queue_length: 2 * BATCH, batch_size: BATCH, ..SqliteSettings::default() };
    Arc::new(SqliteLedger::open(path, settings).unwrap())
}

async fn create(
    ledger: &SqliteLedger,
    intents: impl Iterator<Item = Intent>,
    place: impl Fn(ProviderKind) -> Place,
    attempt: impl Fn(&RefundId) -> Option<FirstAttempt>,
    time: impl Fn(usize) -> Timestamp,
) -> Vec<Refund> {
    let creates = intents.enumerate().map(|(nth, intent)| NewRefund {
        place: place(intent.target.provider()),
        related: RelatedLogins::default(),
        dispatch: attempt(&intent.id),
        intent,
        allow_similar: true,
        by: Authority::unrestricted(),
        now: time(nth),
        ticket: Ticket::default(),
        trace_parent: None,
    });
    let created = join_all(creates.map(|create| ledger.create(create))).await;
    created
        .into_iter()
        .map(|created| if let CreateOutcome::New(refund) = created.unwrap().outcome { refund } else { panic!() })
        .collect()
}

/// Where the refunds of the history were sent. No account of the benchmark is there.
fn past_place(provider: ProviderKind) -> Place {
    place_of(provider, &"https://done.example".parse().unwrap(), "demo", Currency::USD)
}

async fn finish(ledger: &SqliteLedger, refund: Refund) {
    let amount = Money { currency: Currency::USD, minor_units: 1299 };
    let (amount, items) = match &refund.intent.target {
        Target::Namecom(target) => (Some(amount), target.order_item_ids().iter().map(|id| item(*id, amount)).collect()),
        Target::Sectigo(_) | Target::Debitsuccess(_) => (None, Vec::new()),
    };
    let confirmation = Confirmation { amount, items, ..Confirmation::default() };
    let record = RecordEvents {
        id: refund.id().clone(),
        revision: refund.revision,
        events: vec![Event::Refunded(confirmation)],
        next_check: None,
        actor: Actor::gateway(),
        now: refund.update_time.saturating_add(Duration::from_millis(300)),
    };
    ledger.record(record).await.unwrap();
}

fn item(id: i32, amount: Money) -> ItemResult {
    ItemResult {
        item_id: id.to_string(),
        state: ItemState::Succeeded,
        refunded_amount: Some(amount),
        message: String::new(),
        requested: true,
    }
}
