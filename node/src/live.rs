//! Live windows: the writer announces them after its commit, and listeners of `/v1/live` receive them.
//!
//! The writer names the windows that a transaction has touched; a task reads them as they are stored now, and sends them to
//! all listeners. Neither waits for the other: beyond a bound the task leaves windows out, and tells listeners that they
//! missed some. A node sends what it has applied itself, not what other nodes of the same database have.

use crate::store::find::Seek;
use crate::store::{Reader, StoreError};
use selvedge_node_core::incoming::Incoming;
use selvedge_node_core::params::WantedStreams;
use selvedge_node_core::row::Row;
use selvedge_node_core::stage::MessageOutcome;
use selvedge_types::pattern::Pattern;
use selvedge_types::time::EpochMs;
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, broadcast, mpsc};

/// How many may listen at a time.
pub const MAX_LISTENERS_ENTRIES: usize = 64;

/// How far a listener may be behind before it misses something.
pub const BEHIND_ENTRIES: usize = 2_048;

/// How many transactions may wait to be told.
const WAITING_ENTRIES: usize = 64;

/// How many windows of one transaction listeners receive; what a site kept for a week is no live window.
pub const MAX_TOLD_ENTRIES: usize = 2_000;

/// A window that was touched.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Touched {
    series: Series,
    start: EpochMs,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Series {
    site: String,
    device: String,
    stream: String,
    width_ms: i64,
}

/// What a listener of `/v1/live` receives.
#[derive(Debug, Clone)]
pub enum News {
    /// A window as it is stored now, with its number in this run of the node.
    Window(u64, Arc<Row>),
    /// The number of windows that were left out.
    Missed(u64),
}

/// The receiving end of a listener's queue.
pub struct LiveListener {
    pub news: broadcast::Receiver<News>,
    /// The number of the last window that the listener received.
    pub last: u64,
    /// Its place among the listeners.
    pub place: OwnedSemaphorePermit,
}

/// Shared by the writer, the task that tells, and the API.
pub struct Live {
    touched: Mutex<Option<mpsc::Sender<Vec<Touched>>>>,
    told: Mutex<Option<broadcast::Sender<News>>>,
    places: Arc<Semaphore>,
    missed: AtomicU64,
    last: AtomicU64,
    /// When this run of the node began: makes the numbers of two runs differ.
    pub run: EpochMs,
}

impl Live {
    /// Starts the task that sends windows to listeners; it ends after [`Live::close`].
    pub fn new(reader: Reader, run: EpochMs) -> (Arc<Self>, impl Future<Output = ()>) {
        let (touch, touched) = mpsc::channel(WAITING_ENTRIES);
        let live = Arc::new(Self {
            touched: Mutex::new(Some(touch)),
            told: Mutex::new(Some(broadcast::Sender::new(BEHIND_ENTRIES))),
            places: Arc::new(Semaphore::new(MAX_LISTENERS_ENTRIES)),
            missed: AtomicU64::new(0),
            last: AtomicU64::new(0),
            run,
        });
        (live.clone(), tell(live, reader, touched))
    }

    /// Listens from now on; nothing if too many do, or if the node stops.
    pub fn listen(&self) -> Option<LiveListener> {
        let place = self.places.clone().try_acquire_owned().ok()?;
        let news = self.told.lock().unwrap_or_else(PoisonError::into_inner).as_ref()?.subscribe();
        Some(LiveListener { news, last: self.last.load(Ordering::Relaxed), place })
    }

    /// These messages were applied, with these outcomes.
    pub fn applied(&self, messages: &[Incoming], outcomes: &[MessageOutcome]) {
        if self.places.available_permits() == MAX_LISTENERS_ENTRIES {
            return;
        }
        let (mut all, mut missed) = (BTreeSet::new(), 0);
        for (message, outcome) in messages.iter().zip(outcomes) {
            let Some(content) = message.content.as_ref().filter(|_| *outcome == MessageOutcome::Applied)
            else {
                continue;
            };
            for part in &content.batch.parts {
                let Some(name) = content.batch.streams.get(part.stream as usize) else { continue };
                if all.len() >= MAX_TOLD_ENTRIES {
                    missed += 1;
                    continue;
                }
                let series = Series {
                    site: message.site.to_string(),
                    device: name.device.clone(),
                    stream: name.stream.clone(),
                    width_ms: part.width_ms.into(),
                };
                all.insert(Touched { series, start: part.start });
            }
        }
        let waiting = self.touched.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(touched) = waiting.as_ref()
            && let Err(mpsc::error::TrySendError::Full(left_out)) =
                touched.try_send(all.into_iter().collect())
        {
            missed += left_out.len() as u64;
        }
        self.missed.fetch_add(missed, Ordering::Relaxed);
    }

    /// Ends all listeners' streams.
    pub fn close(&self) {
        self.touched.lock().unwrap_or_else(PoisonError::into_inner).take();
        self.told.lock().unwrap_or_else(PoisonError::into_inner).take();
    }

    fn tell(&self, news: News) {
        if let Some(told) = self.told.lock().unwrap_or_else(PoisonError::into_inner).as_ref() {
            let _ = told.send(news); // nobody may listen
        }
    }
}

async fn tell(live: Arc<Live>, reader: Reader, mut touched: mpsc::Receiver<Vec<Touched>>) {
    while let Some(all) = touched.recv().await {
        for one in all {
            match read(&reader, &one).await {
                Ok(Some(row)) => {
                    let number = live.last.fetch_add(1, Ordering::Relaxed) + 1;
                    live.tell(News::Window(number, Arc::new(row)));
                }
                Ok(None) => {}
                Err(error) => {
                    tracing::warn!(%error, "can't read a window for clients that listen");
                    live.missed.fetch_add(1, Ordering::Relaxed);
                }
            }
        }
        let missed = live.missed.swap(0, Ordering::Relaxed);
        if missed > 0 {
            live.tell(News::Missed(missed));
        }
    }
}

/// A window as it is stored now; nothing if it is not there.
async fn read(reader: &Reader, touched: &Touched) -> Result<Option<Row>, StoreError> {
    let series = &touched.series;
    let wanted = WantedStreams {
        site: Some(Pattern::exactly(&series.site)),
        device: Some(Pattern::exactly(&series.device)),
        stream: Some(Pattern::exactly(&series.stream)),
        search: None,
    };
    // Anew each time, since how far the stream has come changes with each of its windows.
    let all = reader.find(&Seek { sites: None, wanted }, u32::from(u16::MAX)).await?;
    let Some(found) = all.into_iter().find(|s| s.width_ms == series.width_ms) else { return Ok(None) };
    let progress = reader.progress(&found).await?;
    let page = reader.windows(found.id, touched.start, touched.start.plus(1), 1).await?;
    Ok(page.rows.into_iter().next().map(|window| Row::of(&found, window, &progress)))
}
