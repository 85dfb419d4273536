//! The credentials of a world, by which a request finds it.

use super::world::World;
use crate::providers::Credentials;

/// The maximum length of a username, in characters.
const MAX_USERNAME_CHARS: usize = 64;

impl World {
    /// What a client logs in with.
    pub(crate) fn credentials(&self) -> Credentials {
        self.providers.credentials()
    }

    /// Gives the world credentials of its own. Its other accounts get names of their own as well,
    /// which end in the world's id, because no two worlds share a username.
    pub(super) fn take_credentials(&mut self, credentials: &Credentials, id: &str) {
        let other = |name: &str| {
            // A copy of a copy does not collect suffixes.
            let name = name.rsplit_once('@').map_or(name, |(name, _)| name);
            let kept = MAX_USERNAME_CHARS - 1 - id.len().min(MAX_USERNAME_CHARS / 2);
            format!("{}@{id}", name.chars().take(kept).collect::<String>())
        };
        let old = self.credentials();
        // A deferred request is handled under the name that its sender has then.
        for due in &mut self.due {
            credentials.replace_in(due.provider, &mut due.request, &old);
        }
        for snapshot in self.stale_reads.snapshots_mut() {
            snapshot.rename(credentials, &other);
        }
        self.providers.rename(credentials, &other);
        self.own_credentials = Some((credentials.clone(), id.to_owned()));
    }
}
