//! TLS handshakes side by side, so that a slow one holds up no other.
//!
//! There are only so many at once, of all sources and of each one. Where there is no place left, a
//! new handshake waits a moment, and then takes the place of the oldest. A client has a place when
//! its first message is there.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use super::registry::Source;

/// So many that a flood from many sources leaves none of them waiting: with fewer, those that wait
/// are closed for newer connections before they have had a place.
const MAX_HANDSHAKES: usize = 512;
const MAX_OF_SOURCE: usize = 8;
/// A handshake takes milliseconds where its client is not slow. After this time it may lose its
/// place.
const PLACE_TIME: Duration = Duration::from_millis(100);

/// All handshakes in progress. Clones share them.
#[derive(Clone, Default)]
pub(super) struct Handshakes(Arc<HandshakeState>);

#[derive(Default)]
struct HandshakeState {
    /// The oldest first.
    running: Mutex<Vec<Handshake>>,
    ended: Notify,
}

struct Handshake {
    source: Source,
    started: Instant,
    token: CancellationToken,
}

/// A place for a handshake.
pub(super) struct HandshakePlace {
    handshakes: Handshakes,
    /// Cancelled when another handshake has taken the place.
    token: CancellationToken,
}

impl Handshakes {
    /// Waits for a place.
    pub(super) async fn enter(&self, source: Source) -> HandshakePlace {
        loop {
            let mut ended = std::pin::pin!(self.0.ended.notified());
            // Before the count, so that no end is missed.
            ended.as_mut().enable();
            match self.try_enter(source) {
                Ok(token) => return HandshakePlace { handshakes: self.clone(), token },
                Err(next) => tokio::select! {
                    () = ended => {}
                    () = sleep_until(next) => {}
                },
            }
        }
    }

    /// Takes a place, or says when the oldest one may be taken.
    fn try_enter(&self, source: Source) -> Result<CancellationToken, Instant> {
        let now = Instant::now();
        let mut running = self.lock();
        let of_source = running.iter().filter(|other| other.source == source).count();
        let oldest = if of_source >= MAX_OF_SOURCE {
            running.iter().position(|other| other.source == source)
        } else if running.len() >= MAX_HANDSHAKES {
            Some(0)
        } else {
            None
        };
        if let Some(at) = oldest {
            let until = running.get(at).map_or(now, |oldest| oldest.started + PLACE_TIME);
            if until > now {
                return Err(until);
            }
            running.remove(at).token.cancel();
        }
        let token = CancellationToken::new();
        running.push(Handshake { source, started: now, token: token.clone() });
        Ok(token)
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Handshake>> {
        self.0.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl HandshakePlace {
    /// Completes when another handshake has taken the place.
    pub(super) async fn lost(&self) {
        self.token.cancelled().await;
    }
}

impl Drop for HandshakePlace {
    fn drop(&mut self) {
        // Marked first: then it is the one that is cancelled and still there.
        self.token.cancel();
        self.handshakes.lock().retain(|other| !other.token.is_cancelled());
        self.handshakes.0.ended.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    fn source(number: u8) -> Source {
        Source::V4([127, 0, 0, number].into())
    }

    #[tokio::test(start_paused = true)]
    async fn a_handshake_above_the_limit_of_its_source_takes_the_place_of_the_oldest() {
        let handshakes = Handshakes::default();
        let mut own = Vec::new();
        for _ in 0..MAX_OF_SOURCE {
            own.push(handshakes.enter(source(1)).await);
        }
        assert!(handshakes.enter(source(2)).now_or_never().is_some(), "another source has its own places");
        let began = Instant::now();
        let _next = handshakes.enter(source(1)).await;
        assert_eq!(began.elapsed(), PLACE_TIME, "the oldest had its time");
        let lost: Vec<bool> = own.iter().map(|place| place.lost().now_or_never().is_some()).collect();
        assert_eq!(lost.iter().position(|lost| *lost), Some(0));
        assert_eq!(lost.iter().filter(|lost| **lost).count(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn many_quick_handshakes_wait_for_each_other_and_lose_no_place() {
        let handshakes = Handshakes::default();
        let one = |number: u8| {
            let handshakes = handshakes.clone();
            async move {
                let place = handshakes.enter(source(number % 16)).await;
                tokio::time::sleep(Duration::from_millis(2)).await;
                place.lost().now_or_never().is_none()
            }
        };
        let kept = futures_util::future::join_all((0..255).map(one)).await;
        assert!(kept.into_iter().all(|kept| kept));
        assert!(handshakes.lock().is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn all_sources_together_have_a_limit() {
        let handshakes = Handshakes::default();
        let mut places = Vec::new();
        for number in 0..MAX_HANDSHAKES {
            places.push(handshakes.enter(source(u8::try_from(number / 4).unwrap())).await);
        }
        let began = Instant::now();
        let _next = handshakes.enter(source(200)).await;
        assert_eq!(began.elapsed(), PLACE_TIME);
        assert!(places[0].lost().now_or_never().is_some());
    }
}
