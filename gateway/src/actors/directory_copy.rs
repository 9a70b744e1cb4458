//! This gateway's copy of the site's directory, for all threads: the newest state that its replica has applied.

use selvedge_fabric::directory::Directory;
use std::sync::{Arc, Mutex, PoisonError};

/// The copy; empty until the directory has begun.
#[derive(Debug, Default)]
pub struct DirectoryCopy(Mutex<Option<Arc<Directory>>>);

impl DirectoryCopy {
    /// The directory as far as this gateway has applied it.
    pub fn get(&self) -> Option<Arc<Directory>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Takes a newer state.
    pub fn set(&self, directory: Arc<Directory>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(directory);
    }
}
