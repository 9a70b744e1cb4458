//! This gateway's copy of the site's directory, for all threads: the newest state that its replica has applied.

use selvedge_fabric::directory::Directory;
use selvedge_fabric::ring::Ring;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The copy; empty until the directory has begun.
#[derive(Debug)]
pub struct DirectoryCopy(Mutex<(Option<Arc<Directory>>, Arc<Ring>)>);

impl DirectoryCopy {
    /// No copy yet: `ring` places the replicas as at the site's beginning.
    pub fn new(ring: Arc<Ring>) -> Self {
        Self(Mutex::new((None, ring)))
    }

    /// The directory as far as this gateway has applied it.
    pub fn get(&self) -> Option<Arc<Directory>> {
        self.lock().0.clone()
    }

    /// Where the replicas are, as far as this gateway knows.
    pub fn ring(&self) -> Arc<Ring> {
        self.lock().1.clone()
    }

    /// Takes a newer state.
    pub fn set(&self, directory: Arc<Directory>) {
        self.lock().0 = Some(directory);
    }

    /// Takes where the replicas are now.
    pub fn place(&self, ring: Arc<Ring>) {
        self.lock().1 = ring;
    }

    fn lock(&self) -> MutexGuard<'_, (Option<Arc<Directory>>, Arc<Ring>)> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
