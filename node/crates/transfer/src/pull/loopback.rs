//! The last step of a pull into a store that this node may not write: the runtime fetches from this node.
//!
//! What came and was checked is put on the shelf, under a name that is drawn for this one time. The runtime is asked to
//! pull that name, checks each file by its SHA-256 itself, and what it writes into its store is its own. Only when it
//! lists the very version that was offered does the model get its final name, and the other name goes. Whatever breaks
//! off in between leaves at most that other name, which is swept later; nothing of it is ever visible under the final
//! one. Silence ends the wait, not time; whoever cancels or stops ends it at once, and what the runtime does with it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use futures::stream::StreamExt as _;
use tokio::time::{Instant, sleep, timeout_at};

use ollamax_blobs::{Access, BlobSpec, Manifest, Part, Promise, PublishError, Space, Store};
use ollamax_core::transfer_plan::Patience;
use ollamax_types::limits::MANIFEST_LAYERS_MAX;
use ollamax_types::{Digest, ErrorCode, ModelName};

use crate::config::Config;
use crate::error::PullError;
use crate::ports::{FetchStep, RuntimeTrouble};
use crate::shelf::Shelf;

use super::{Ground, Means, Pull, Turn, Unroomy, blocking, closed_to_us, device_of, forget, is_overtaken, missing_in};

/// A runtime says nothing while it compares what it fetched with its names. Any disk reads so much each second.
const CHECKED_BYTES_PER_SECOND: u64 = 32 << 20;
/// Most words of a runtime that are told apart: one for each file, and some for what it does besides.
const WORDS_MAX: usize = 2 * MANIFEST_LAYERS_MAX;

/// How what this node fetched gets into a store.
pub(super) enum Way {
    /// It gets a second name there.
    Linked,
    /// The runtime takes it from this shelf.
    Handed(Shelf),
}

/// Room for what the runtime writes.
#[derive(Default)]
pub(super) struct CopyRoom {
    /// Bytes that are to be asked for on the disk of the staging folder.
    pub(super) here_bytes: u64,
    /// Room that was promised on another disk.
    pub(super) elsewhere: Option<Promise>,
}

/// What was heard of a runtime that fetches.
struct Heard {
    /// When it last said something new.
    at: Instant,
    /// Its words, and the most bytes that it told with each.
    words: BTreeMap<String, u64>,
    /// What it said last.
    last: String,
}

/// Why a fetch of the runtime ended without the model.
enum Ended {
    /// It says nothing new.
    Silent,
    /// It said so.
    Told(RuntimeTrouble),
}

// === impl Way ===

impl Way {
    /// The place that people are told of: the store, else where the files grow.
    pub(super) fn place(&self, store: &Store, staging: &Path) -> String {
        let place = match self {
            Self::Linked => store.root(),
            Self::Handed(_) => staging,
        };
        place.display().to_string()
    }

    /// Where all of it is written a second time.
    pub(super) fn copied_to(&self, store: &Store) -> Option<PathBuf> {
        match self {
            Self::Linked => None,
            Self::Handed(_) => Some(store.staging_place().parent().unwrap_or(store.root()).to_owned()),
        }
    }
}

// === impl Pull ===

impl Pull {
    /// How a model gets into this store. `closed` is the folder of its manifest, where this node may not write there.
    pub(super) fn way(&self, store: &Store, access: &Access, closed: Option<&Path>) -> Result<Way, PullError> {
        let place = store.root().display().to_string();
        let refusal = match (access, closed) {
            (Access::Direct { .. }, None) => return Ok(Way::Linked),
            (Access::Direct { .. }, Some(folder)) => closed_to_us(place, folder),
            (Access::Hidden { reason, remedy } | Access::Locked { reason, remedy, .. }, _) => {
                PullError::NotWritable { place, reason: reason.clone(), remedy: remedy.clone() }
            }
        };
        if matches!(access, Access::Hidden { .. }) {
            return Err(refusal);
        }
        match self.means.runtime.shelf() {
            Ok(shelf) => Ok(Way::Handed(shelf)),
            Err(why) => Err(refusal.and_also(&why)),
        }
    }

    /// Step 7 where the runtime does it. What is staged of the model goes then.
    pub(super) async fn hand_over(
        &self,
        ground: &Ground,
        shelf: &Shelf,
        manifest: &Manifest,
        parts: &[Part],
    ) -> Result<Result<(), PublishError>, PullError> {
        let Some(offered) = shelf.offer(&self.spec.name, manifest, parts) else {
            let text = "no name can be drawn under which it is offered".to_owned();
            return Err(PullError::Runtime { code: ErrorCode::Internal, text });
        };
        let taken = self.let_it_take(ground, offered.name(), manifest).await;
        if taken != Err(PullError::Stopping) {
            self.take_name_away(offered.name()).await;
        }
        drop(offered);
        match taken {
            Ok(()) => {}
            Err(error @ PullError::Runtime { .. }) => {
                let lacking = self.lacking(ground, manifest, parts).await?;
                return lacking.map_or(Err(error), |sha256| Ok(Err(PublishError::Missing { sha256 })));
            }
            Err(error) => return Err(error),
        }
        let (staging, manifest) = (ground.staging.clone(), manifest.clone());
        blocking(move || forget(&staging, &manifest)).await?;
        Ok(Ok(()))
    }

    /// The runtime fetches what is offered under this name, and gives it the final one.
    async fn let_it_take(&self, ground: &Ground, offered: &ModelName, manifest: &Manifest) -> Result<(), PullError> {
        let (runtime, wanted) = (&self.means.runtime, manifest.digest());
        self.refuse_overtaken(ground, manifest).await?;
        self.unless_ended(self.let_it_fetch(offered, manifest.size_bytes())).await?;
        let holds = runtime.holds(offered);
        let found = self.unless_ended(async { holds.await.map_err(of_runtime) }).await?;
        if found != Some(wanted) {
            let found = found.map_or_else(|| "nothing".to_owned(), |digest| digest.to_string());
            return Err(PullError::OtherVersion { wanted, found });
        }
        let _changing = self.unless_ended(self.may_change()).await?;
        self.refuse_overtaken(ground, manifest).await?;
        let copied = self.stop.run_until_cancelled(runtime.copy(offered, &self.spec.name)).await;
        copied.ok_or(PullError::Stopping)?.map_err(of_runtime)
    }

    /// Ends when the runtime has fetched all of it, refuses it, or says nothing new for too long.
    async fn let_it_fetch(&self, offered: &ModelName, size_bytes: u64) -> Result<(), PullError> {
        let Config { retry_ms, retry_ms_max, silence_ms, .. } = self.means.config;
        let patience = Patience { first_wait_ms: retry_ms, wait_ms_max: retry_ms_max, silence_ms };
        let silence = Duration::from_millis(silence_ms) + Duration::from_secs(size_bytes / CHECKED_BYTES_PER_SECOND);
        let (mut heard, mut failures) = (Heard::now(), 0);
        loop {
            match self.follow(offered, silence, &mut heard).await {
                Ok(()) => return Ok(()),
                Err(Ended::Told(trouble)) if !trouble.may_pass => return Err(of_runtime(trouble)),
                Err(Ended::Told(trouble)) => {
                    let name = &self.spec.name;
                    tracing::debug!(model = %name, error = trouble.text, "a runtime broke off; it is asked again");
                    heard.last = trouble.text;
                }
                Err(Ended::Silent) => return Err(heard.silent(silence)),
            }
            let wait = Duration::from_millis(patience.wait_ms(failures));
            failures += 1;
            if timeout_at(heard.at + silence, sleep(wait)).await.is_err() {
                return Err(heard.silent(silence));
            }
        }
    }

    /// One fetch of the runtime.
    async fn follow(&self, offered: &ModelName, silence: Duration, heard: &mut Heard) -> Result<(), Ended> {
        let mut steps = self.means.runtime.fetch(offered);
        loop {
            match timeout_at(heard.at + silence, steps.next()).await {
                Ok(Some(Ok(FetchStep::Done))) => return Ok(()),
                Ok(Some(Ok(FetchStep::Went { what, bytes }))) => heard.note(what, bytes),
                Ok(Some(Err(trouble))) => return Err(Ended::Told(trouble)),
                Ok(None) => {
                    let text = "it ended without its last word".to_owned();
                    let (may_pass, is_down, code) = (true, false, ErrorCode::RuntimeFailed);
                    return Err(Ended::Told(RuntimeTrouble { may_pass, is_down, code, text }));
                }
                Err(_) => return Err(Ended::Silent),
            }
        }
    }

    /// A name that stays is swept later.
    async fn take_name_away(&self, offered: &ModelName) {
        let deleted = self.stop.run_until_cancelled(self.means.runtime.delete(offered)).await;
        if let Some(Err(error)) = deleted {
            tracing::warn!(model = %self.spec.name, code = %error.code, %error, "take away the name of an offer");
        }
    }

    /// Ends a wish, or a job that a restart cut off, if somebody gave the name another version since.
    async fn refuse_overtaken(&self, ground: &Ground, manifest: &Manifest) -> Result<(), PullError> {
        let Some(asked_at_ms) = self.asked_at_ms() else { return Ok(()) };
        let (store, manifest) = (ground.store.clone(), manifest.clone());
        let name = self.spec.name.clone();
        let is_so = blocking(move || is_overtaken(&store, &name, &manifest, asked_at_ms)).await?;
        if is_so { Err(PullError::Overtaken { name: self.spec.name.clone() }) } else { Ok(()) }
    }

    /// A file that is neither in the store nor offered: it was in the store when the rest was fetched.
    async fn lacking(&self, ground: &Ground, manifest: &Manifest, parts: &[Part]) -> Result<Option<Digest>, PullError> {
        let (store, manifest) = (ground.store.clone(), manifest.clone());
        let missing = blocking(move || missing_in(&store, &manifest)).await?.unwrap_or_default();
        let is_offered = |blob: &BlobSpec| parts.iter().any(|part| part.spec() == *blob);
        Ok(missing.iter().find(|blob| !is_offered(blob)).map(|blob| blob.sha256))
    }
}

// === impl Means ===

impl Means {
    /// Room for what the runtime writes into its store. On the disk of the staging folder it is asked for with the
    /// rest. Blocks on the disk.
    pub(super) fn set_copy_aside(
        &self,
        missing: &[(BlobSpec, Turn)],
        copied_to: &Path,
        staging_device: u64,
        spare_bytes_min: u64,
    ) -> Result<CopyRoom, Unroomy> {
        let bytes = missing.iter().fold(0_u64, |sum, (blob, _)| sum.saturating_add(blob.size_bytes));
        let device = device_of(copied_to).map_err(Unroomy::Fault)?;
        if device == staging_device {
            return Ok(CopyRoom { here_bytes: bytes, elsewhere: None });
        }
        let (space, need) = (Space::of(copied_to), self.need(bytes, spare_bytes_min));
        let promise = self.promises.take(device, space, need).map_err(Unroomy::Copy)?;
        Ok(CopyRoom { here_bytes: 0, elsewhere: Some(promise) })
    }
}

// === impl Heard ===

impl Heard {
    fn now() -> Self {
        Self { at: Instant::now(), words: BTreeMap::new(), last: "nothing".to_owned() }
    }

    /// A runtime repeats itself many times a second. New is what it says for the first time, and more bytes than ever.
    fn note(&mut self, what: String, bytes: u64) {
        let is_full = self.words.len() >= WORDS_MAX;
        let is_news = match self.words.get_mut(&what) {
            Some(most) => {
                let is_more = bytes > *most;
                *most = bytes.max(*most);
                is_more
            }
            None if is_full => false,
            None => self.words.insert(what.clone(), bytes).is_none(),
        };
        if is_news {
            self.at = Instant::now();
        }
        self.last = what;
    }

    fn silent(&self, silence: Duration) -> PullError {
        let text = format!("nothing new for {} s; last: {}", silence.as_secs(), self.last);
        PullError::Runtime { code: ErrorCode::RuntimeFailed, text }
    }
}

fn of_runtime(RuntimeTrouble { code, text, .. }: RuntimeTrouble) -> PullError {
    PullError::Runtime { code, text }
}
