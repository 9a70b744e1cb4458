//! A bounded pool of connections, made when they are first needed.

use super::{READ_CONNECTIONS_ENTRIES, READ_WAIT_MS, StoreError};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// At most [`READ_CONNECTIONS_ENTRIES`] connections.
pub struct ConnectionPool<C> {
    places: Arc<Semaphore>,
    idle: Mutex<Vec<C>>,
}

impl<C> Default for ConnectionPool<C> {
    fn default() -> Self {
        Self { places: Arc::new(Semaphore::new(READ_CONNECTIONS_ENTRIES)), idle: Mutex::new(vec![]) }
    }
}

impl<C> ConnectionPool<C> {
    /// A place, with the connection last used if one is idle. The place is free again when the permit is dropped; the
    /// connection is used again if it is given back before.
    ///
    /// # Errors
    /// [`StoreError::Busy`] when none gets free in time.
    pub async fn take(&self) -> Result<(OwnedSemaphorePermit, Option<C>), StoreError> {
        let wait = Duration::from_millis(READ_WAIT_MS);
        let place = tokio::time::timeout(wait, self.places.clone().acquire_owned()).await;
        let place = place.map_err(|_| StoreError::Busy)?.map_err(|_| StoreError::Stopped)?;
        Ok((place, self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop()))
    }

    /// Keeps a connection that is sound.
    pub fn give_back(&self, connection: C) {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).push(connection);
    }
}
