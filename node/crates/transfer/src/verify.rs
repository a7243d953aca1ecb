//! Files of this node's models that somebody wants to be read again, now.
//!
//! Each file is read from the disk and compared with its tree; one that nobody hashed yet is hashed and compared with
//! its name, which puts its tree on record. What had a tree and is damaged is suspect from then on, what had none as
//! soon as adoption has hashed it; either is mended where that is wanted. Always holds: the last word on each file says
//! what it is, and files come one after the other. Whoever stops to listen ends it between two pieces, and in the midst
//! of mending; a file that cannot be read is told as such and ends nothing. A manifest that is none names no files; it
//! is told behind them, as what is wrong.

use std::collections::BTreeMap;
use std::future::ready;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use futures::stream::{self, BoxStream};
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use ollamax_blobs::BlobSpec;
use ollamax_types::ModelName;

use crate::adopt::Adopted;
use crate::adopt::job::{Job, Stepped};
use crate::error::PullError;
use crate::pull::repair::{Mended, Repairs};
use crate::pull::{Means, blocking};
use crate::quiet::quietly;

/// Shortest time between two words on a file that is still being read.
const NEWS_INTERVAL: Duration = Duration::from_millis(100);
/// Longest wait for a look at the store, where a model is not in the list.
const LOOK_WAIT: Duration = Duration::from_secs(3);
/// Most news that wait for whoever listens.
const NEWS_MAX: usize = 64;

/// What comes of it, word by word.
pub type VerifyStream = BoxStream<'static, Told>;

/// One word, or why there is none.
type Told = Result<VerifyNews, PullError>;

/// What is to be read again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VerifyOrder {
    /// The files of this model; `None`: of all models of the node.
    pub name: Option<ModelName>,
    /// What is damaged is mended, where the node's configuration allows it.
    pub repair: bool,
}

/// How far one file is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VerifyNews {
    /// Which file.
    pub blob: BlobSpec,
    /// A model that it belongs to.
    pub name: ModelName,
    /// Bytes that were read.
    pub done_bytes: u64,
    /// What it is, as soon as that is known.
    pub sight: Option<Sight>,
    /// Whether a sound one took its place, where it was damaged and that was wanted.
    pub repaired: Option<bool>,
}

/// What a file is found to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Sight {
    /// What its name says.
    Sound,
    /// Something else.
    Damaged {
        /// The pieces of 4 MiB that are not what they were; none where it is not known what they were.
        pieces: Vec<u32>,
    },
    /// Not there, or another one by now.
    Gone,
    /// It could not be read.
    Unread {
        /// What the system says.
        reason: String,
    },
}

/// One reading of files, with all that it needs.
pub(crate) struct Verifying {
    pub(crate) means: Arc<Means>,
    /// Who mends; `None`: nobody.
    pub(crate) repairs: Option<Arc<Repairs>>,
    pub(crate) _place: OwnedSemaphorePermit,
}

/// Begins to read.
pub(crate) fn begin(
    name: Option<ModelName>,
    verifying: Verifying,
    tasks: &TaskTracker,
    stop: &CancellationToken,
) -> VerifyStream {
    let ((sender, news), stop) = (mpsc::channel(NEWS_MAX), stop.clone());
    // It ends when nobody listens and with the node; what cannot be read is told.
    tasks.spawn(async move {
        let verified = async {
            let files = files_of(&verifying.means, name.as_ref()).await;
            let damaged = damaged(&verifying.means.adopted.borrow(), name.as_ref());
            // Where nobody listens there is nobody to be told.
            match name.filter(|_| files.is_empty() && damaged.is_empty()) {
                Some(name) => drop(sender.send(Err(PullError::NotHere { name })).await),
                None => verifying.run(files, sender.clone()).await,
            }
            for error in damaged {
                drop(sender.send(Err(error)).await);
            }
        };
        stop.run_until_cancelled(verified).await;
    });
    stream::unfold(news, |mut news| async move { Some((news.recv().await?, news)) }).boxed()
}

/// Nothing is read.
pub(crate) fn refused(error: PullError) -> VerifyStream {
    stream::once(ready(Err(error))).boxed()
}

/// The files of one model or of all, each once. A model that is not in the list may have come just now, so the store is
/// looked through again before that is taken for true.
async fn files_of(means: &Means, name: Option<&ModelName>) -> BTreeMap<BlobSpec, ModelName> {
    let mut adopted = means.adopted.clone();
    let is_there = |adopted: &Arc<Adopted>| {
        name.is_none_or(|name| adopted.models.iter().any(|scanned| scanned.model.name == *name))
    };
    if !is_there(&adopted.borrow()) {
        means.look.notify_one();
        // Neither in time nor the end of adoption is a fault: then the list is what is known.
        drop(timeout(LOOK_WAIT, adopted.wait_for(is_there)).await);
    }
    let models = Arc::clone(&adopted.borrow().models);
    let wanted = models.iter().filter(|scanned| name.is_none_or(|name| scanned.model.name == *name));
    let mut files = BTreeMap::new();
    for scanned in wanted {
        for blob in &scanned.blobs {
            files.entry(*blob).or_insert_with(|| scanned.model.name.clone());
        }
    }
    files
}

/// What is wrong with the manifest of one model, or with those of all.
fn damaged(adopted: &Adopted, name: Option<&ModelName>) -> Vec<PullError> {
    let wanted = adopted.damaged.iter().filter(|(damaged, _)| name.is_none_or(|name| name == *damaged));
    wanted.map(|(name, why)| PullError::DamagedManifest { name: name.clone(), why: why.clone() }).collect()
}

// === impl Verifying ===

impl Verifying {
    async fn run(self, files: BTreeMap<BlobSpec, ModelName>, sender: mpsc::Sender<Told>) {
        for (blob, name) in files {
            let news = VerifyNews { blob, name, done_bytes: 0, sight: None, repaired: None };
            if !self.check(news, &sender).await {
                return;
            }
        }
    }

    /// Reads one file and says what it is. False: nobody listens any more.
    async fn check(&self, mut news: VerifyNews, sender: &mpsc::Sender<Told>) -> bool {
        let Some(sight) = self.read(&mut news, sender).await else { return false };
        if matches!(sight, Sight::Damaged { .. })
            && let Some(repairs) = &self.repairs
        {
            let mended = repairs.mend(news.blob, sender.closed()).await;
            // That there was nothing to mend any more is as good.
            news.repaired = Some(matches!(mended, Ok(Mended::Done | Mended::Needless)));
        }
        if sight != Sight::Gone {
            news.done_bytes = news.blob.size_bytes;
        }
        news.sight = Some(sight);
        sender.send(Ok(news)).await.is_ok()
    }

    /// Reads a file to its end, and tells how far that is; `None`: nobody listens any more.
    async fn read(&self, news: &mut VerifyNews, sender: &mpsc::Sender<Told>) -> Option<Sight> {
        sender.send(Ok(news.clone())).await.ok()?;
        let mut job = match self.open(news.blob).await {
            Ok(Some(job)) => job,
            Ok(None) => return Some(Sight::Gone),
            Err(reason) => return Some(Sight::Unread { reason }),
        };
        let mut told_at = Instant::now();
        loop {
            let (trees, now) = (self.means.trees.clone(), self.means.clock.now());
            let stepped = quietly(move || match trees.open() {
                Ok(index) => job.step(&index, &trees, now),
                Err(fault) => Stepped::Broken(fault),
            });
            job = match stepped.await {
                Ok(Stepped::More(job)) => job,
                Ok(Stepped::Sound(_)) => return Some(Sight::Sound),
                Ok(Stepped::Other(_)) => return Some(Sight::Damaged { pieces: Vec::new() }),
                Ok(Stepped::Damaged(pieces)) => return Some(Sight::Damaged { pieces }),
                Ok(Stepped::Moved) => return Some(Sight::Gone),
                Ok(Stepped::Broken(fault)) => return Some(Sight::Unread { reason: fault.to_string() }),
                Err(error) => return Some(Sight::Unread { reason: error.to_string() }),
            };
            news.done_bytes = job.done_bytes();
            if told_at.elapsed() >= NEWS_INTERVAL {
                told_at = Instant::now();
                sender.send(Ok(news.clone())).await.ok()?;
            }
        }
    }

    /// The file as it lies there; `None` when it does not.
    async fn open(&self, blob: BlobSpec) -> Result<Option<Box<Job>>, String> {
        let (runtime, trees) = (Arc::clone(&self.means.runtime), self.means.trees.clone());
        let opened = blocking(move || {
            let store = runtime.place().store()?;
            let index = trees.open().map_err(|fault| fault.to_string())?;
            Job::whatever(store, &index, blob).map_err(|fault| fault.to_string())
        });
        opened.await.map_err(|error| error.to_string())?
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_manifest_that_is_none_is_told_where_it_is_asked_for() {
        let name = |text: &str| text.parse::<ModelName>().expect("a name");
        let told = |text: &str| (name(text), format!("/models/{text}: no JSON"));
        let adopted = Adopted { damaged: BTreeMap::from([told("a"), told("b")]), ..Adopted::default() };
        let texts = |asked: Option<&str>| -> Vec<String> {
            let asked = asked.map(name);
            damaged(&adopted, asked.as_ref()).iter().map(ToString::to_string).collect()
        };
        let of = |text: &str| format!("the manifest of {text}:latest is damaged: /models/{text}: no JSON");
        assert_eq!(texts(None), [of("a"), of("b")]);
        assert_eq!(texts(Some("b")), [of("b")]);
        assert_eq!(texts(Some("c")), Vec::<String>::new());
    }
}
