//! This gateway's copy of the site's directory, for all threads: the newest state that its replica has applied.

use selvedge_fabric::directory::Directory;
use selvedge_fabric::ring::Ring;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

/// The copy; empty until the directory has begun.
#[derive(Debug)]
pub struct DirectoryCopy(Mutex<Copied>);

#[derive(Debug)]
struct Copied {
    directory: Option<Arc<Directory>>,
    ring: Arc<Ring>,
    /// The directory group may have counted on since then.
    at: Instant,
}

impl DirectoryCopy {
    /// No copy yet: `ring` places the replicas as at the site's beginning.
    pub fn new(ring: Arc<Ring>) -> Self {
        Self(Mutex::new(Copied { directory: None, ring, at: Instant::now() }))
    }

    /// The directory as far as this gateway has applied it.
    pub fn get(&self) -> Option<Arc<Directory>> {
        self.lock().directory.clone()
    }

    /// Where the replicas are, as far as this gateway knows.
    pub fn ring(&self) -> Arc<Ring> {
        self.lock().ring.clone()
    }

    /// Takes a newer state.
    pub fn set(&self, directory: Arc<Directory>) {
        let mut copied = self.lock();
        (copied.directory, copied.at) = (Some(directory), Instant::now());
    }

    /// How long ago it took the state. By about as much the site's elapsed time may be ahead of the directory's.
    pub fn age_ms(&self) -> u64 {
        u64::try_from(self.lock().at.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// Takes where the replicas are now.
    pub fn place(&self, ring: Arc<Ring>) {
        self.lock().ring = ring;
    }

    fn lock(&self) -> MutexGuard<'_, Copied> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
