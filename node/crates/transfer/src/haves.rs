//! What this node has of some files, told as it changes.
//!
//! First what is there, then what comes, in bundles: never more than twenty times a second, and never more than what
//! differs from what was told before, so whoever is slow is told less often and not later. What goes is told by
//! [`Have::Void`], and then what is left as if it were new.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use futures::stream::{self, BoxStream, StreamExt as _};
use tokio::sync::watch;
use tokio::time::sleep;

use ollamax_core::transfer_plan::Extent;
use ollamax_types::{Bits, Digest};

use crate::adopt::Adopted;
use crate::library::Library;
use crate::ports::Have;
use crate::pull::blocking;

/// Shortest time between two bundles of news.
const NEWS_INTERVAL: Duration = Duration::from_millis(50);

/// The size of a file, and which of its chunks are there.
type Held = (u64, Bits);

/// Somebody who is told.
struct Following {
    library: Library,
    blobs: Vec<Digest>,
    /// What was told.
    told: BTreeMap<Digest, Held>,
    news: VecDeque<Have>,
    changes: watch::Receiver<()>,
    adopted: watch::Receiver<Arc<Adopted>>,
    is_first: bool,
}

/// What there is of these files, and from then on what changes. It does not end by itself.
pub(crate) fn follow(library: Library, blobs: Vec<Digest>) -> BoxStream<'static, Have> {
    let (changes, adopted) = (library.changes(), library.adopted());
    let (told, news) = (BTreeMap::new(), VecDeque::new());
    let following = Following { library, blobs, told, news, changes, adopted, is_first: true };
    stream::unfold(following, Following::next).boxed()
}

// === impl Following ===

impl Following {
    async fn next(mut self) -> Option<(Have, Self)> {
        loop {
            if let Some(have) = self.news.pop_front() {
                return Some((have, self));
            }
            if !std::mem::take(&mut self.is_first) {
                self.changed().await?;
                sleep(NEWS_INTERVAL).await;
            }
            // What changes from here on is seen by the next look.
            self.changes.borrow_and_update();
            self.adopted.borrow_and_update();
            let (library, blobs) = (self.library.clone(), self.blobs.clone());
            let look = blocking(move || blobs.into_iter().map(|blob| (blob, library.have(blob))).collect::<Vec<_>>());
            for (sha256, now) in look.await.ok()? {
                self.take(sha256, now);
            }
        }
    }

    async fn changed(&mut self) -> Option<()> {
        tokio::select! {
            Ok(()) = self.changes.changed() => Some(()),
            Ok(()) = self.adopted.changed() => Some(()),
            else => None,
        }
    }

    fn take(&mut self, sha256: Digest, now: Option<Held>) {
        self.news.extend(news_of(sha256, self.told.get(&sha256), now.as_ref()));
        match now {
            Some(now) => self.told.insert(sha256, now),
            None => self.told.remove(&sha256),
        };
    }
}

/// What is to be told of a file to somebody who knows what was told.
fn news_of(sha256: Digest, told: Option<&Held>, now: Option<&Held>) -> Vec<Have> {
    let (size_bytes, bits) = match (told, now) {
        (None, None) => return Vec::new(),
        (Some(_), None) => return vec![Have::Void { sha256 }],
        (_, Some((size_bytes, bits))) => (*size_bytes, bits),
    };
    let Some((_, before)) = told.filter(|(told_bytes, _)| *told_bytes == size_bytes) else {
        let void = told.map(|_| Have::Void { sha256 });
        return void.into_iter().chain(all_of(sha256, size_bytes, bits)).collect();
    };
    let gained: Vec<u32> = before.zeros_from(0).filter(|index| bits.get(*index)).collect();
    if before.ones() as usize + gained.len() > bits.ones() as usize {
        return [Have::Void { sha256 }].into_iter().chain(all_of(sha256, size_bytes, bits)).collect();
    }
    if gained.is_empty() {
        return Vec::new();
    }
    if bits.is_full() {
        return vec![Have::Whole { sha256, size_bytes }];
    }
    let gained = runs(gained).into_iter();
    gained.map(|extent| Have::Some { sha256, size_bytes, extent, hashes: Vec::new() }).collect()
}

/// What is told to somebody who knows nothing.
fn all_of(sha256: Digest, size_bytes: u64, bits: &Bits) -> Vec<Have> {
    if bits.is_full() {
        return vec![Have::Whole { sha256, size_bytes }];
    }
    let runs = bits.runs().map(|run| Extent { first: run.start, count: run.end - run.start });
    runs.map(|extent| Have::Some { sha256, size_bytes, extent, hashes: Vec::new() }).collect()
}

/// Numbers in order, as what follows each other without a gap.
fn runs(indices: Vec<u32>) -> Vec<Extent> {
    let mut runs: Vec<Extent> = Vec::new();
    for index in indices {
        match runs.last_mut() {
            Some(last) if last.end() == index => last.count += 1,
            _ => runs.push(Extent { first: index, count: 1 }),
        }
    }
    runs
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;

    use super::*;
    use crate::library::samples::Disk;

    const FILE: Digest = Digest([5; 32]);
    const SIZE: u64 = 9;

    fn bits(len: u32, set: &[u32]) -> Bits {
        let mut bits = Bits::new(len);
        for index in set {
            bits.set(*index);
        }
        bits
    }

    /// News in short: `*` is all of it, `-` nothing, else first chunk and number.
    fn told(news: &[Have]) -> String {
        let words = news.iter().map(|have| match have {
            Have::Whole { .. } => "*".to_owned(),
            Have::Void { .. } => "-".to_owned(),
            Have::Some { extent, .. } => format!("{}+{}", extent.first, extent.count),
        });
        words.collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn only_what_differs_is_told() {
        let check = |before: Option<&[u32]>, now: Option<&[u32]>, expected: &str| {
            let held = |set: &[u32]| (SIZE, bits(6, set));
            let (before, now) = (before.map(held), now.map(held));
            let news = news_of(FILE, before.as_ref(), now.as_ref());
            assert_eq!(told(&news), expected, "{before:?} {now:?}");
        };
        let all: &[u32] = &[0, 1, 2, 3, 4, 5];
        check(None, None, "");
        check(None, Some(&[]), "");
        check(None, Some(&[0, 1, 4]), "0+2 4+1");
        check(None, Some(all), "*");
        check(Some(&[0, 1]), Some(&[0, 1]), "");
        check(Some(&[0, 1]), Some(&[0, 1, 2, 3, 5]), "2+2 5+1");
        check(Some(&[0, 1]), Some(all), "*");
        check(Some(all), Some(all), "");
        check(Some(&[0, 1]), None, "-");
        check(Some(&[0, 1]), Some(&[1]), "- 1+1");
        check(Some(&[0, 1]), Some(&[1, 2, 3]), "- 1+3");
        check(Some(all), Some(&[]), "-");
    }

    #[test]
    fn another_size_is_another_file_and_an_empty_file_is_whole() {
        let (small, large) = ((SIZE, bits(2, &[0])), (SIZE + 1, bits(2, &[0, 1])));
        assert_eq!(told(&news_of(FILE, Some(&small), Some(&large))), "- *");
        assert_eq!(told(&news_of(FILE, None, Some(&(0, Bits::new(0))))), "*");
        assert_eq!(told(&news_of(FILE, Some(&(0, Bits::new(0))), Some(&(0, Bits::new(0))))), "");
    }

    #[tokio::test(start_paused = true)]
    async fn what_comes_is_told_in_bundles_and_what_goes_at_once() {
        let disk = Disk::new(7, 5);
        let part = disk.part();
        disk.write(&part, 1);
        let mut news = follow(disk.library.clone(), vec![FILE, disk.spec.sha256]);
        assert!(news.next().now_or_never().is_none(), "nothing is offered");
        let offered = disk.library.offer(part.clone());
        assert_eq!(told(&[news.next().await.expect("it goes on")]), "1+1");
        disk.write(&part, 2);
        disk.library.stir();
        disk.write(&part, 4);
        disk.library.stir();
        let two = [news.next().await.expect("it goes on"), news.next().await.expect("it goes on")];
        assert_eq!(told(&two), "2+1 4+1");
        disk.library.stir();
        assert!(tokio::time::timeout(Duration::from_secs(60), news.next()).await.is_err(), "nothing is new");
        for index in [0, 3] {
            disk.write(&part, index);
        }
        disk.library.stir();
        assert_eq!(told(&[news.next().await.expect("it goes on")]), "*");
        drop(offered);
        assert_eq!(told(&[news.next().await.expect("it goes on")]), "-");
    }
}
