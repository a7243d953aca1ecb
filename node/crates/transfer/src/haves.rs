//! What this node has of some files, told as it changes.
//!
//! First what is there, then what comes, in bundles: never more than twenty times a second, and never more than what
//! differs from what was told before, so whoever is slow is told less often and not later. What goes is told by
//! [`Have::Void`], and then what is left as if it were new. Of a file that this node brings into the cluster the hash
//! of each chunk is told with it, so all of it is told chunk by chunk, and as whole only once it lies in the store.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use futures::stream::{self, BoxStream, StreamExt as _};
use tokio::sync::watch;
use tokio::time::sleep;

use ollamax_core::transfer_plan::Extent;
use ollamax_types::Digest;

use crate::adopt::Adopted;
use crate::library::{Held, Library};
use crate::ports::Have;
use crate::pull::blocking;

/// Shortest time between two bundles of news.
const NEWS_INTERVAL: Duration = Duration::from_millis(50);

/// Most chunks that are told at once with their hashes: 32 KiB of these.
const TOLD_CHUNKS_MAX: u32 = 1_024;

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
            let look = blocking(move || blobs.into_iter().map(|blob| (blob, library.held(blob))).collect::<Vec<_>>());
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

    fn take(&mut self, sha256: Digest, mut now: Option<Held>) {
        let news = news_of(sha256, self.told.get(&sha256), now.as_ref());
        for have in news {
            match (have, &mut now) {
                (Have::Some { sha256, size_bytes, extent, .. }, Some(now)) if now.is_first => {
                    for extent in pieces(extent) {
                        match self.library.first_hashes(sha256, extent) {
                            Some(hashes) => self.news.push_back(Have::Some { sha256, size_bytes, extent, hashes }),
                            // One of them went just now: they are told when they are looked at again.
                            None => extent.chunks().for_each(|index| {
                                now.bits.clear(index);
                            }),
                        }
                    }
                }
                (have, _) => self.news.push_back(have),
            }
        }
        match now {
            Some(now) => self.told.insert(sha256, now),
            None => self.told.remove(&sha256),
        };
    }
}

/// What is to be told of a file to somebody who knows what was told.
fn news_of(sha256: Digest, told: Option<&Held>, now: Option<&Held>) -> Vec<Have> {
    let (size_bytes, now) = match (told, now) {
        (None, None) => return Vec::new(),
        (Some(_), None) => return vec![Have::Void { sha256 }],
        (_, Some(now)) => (now.size_bytes, now),
    };
    let Some(told) = told.filter(|told| told.size_bytes == size_bytes) else {
        let void = told.map(|_| Have::Void { sha256 });
        return void.into_iter().chain(all_of(sha256, now)).collect();
    };
    let gained: Vec<u32> = told.bits.zeros_from(0).filter(|index| now.bits.get(*index)).collect();
    if told.bits.ones() as usize + gained.len() > now.bits.ones() as usize {
        return [Have::Void { sha256 }].into_iter().chain(all_of(sha256, now)).collect();
    }
    if now.is_first && !told.is_first {
        // The hashes count from now on.
        return all_of(sha256, now);
    }
    let is_over = told.is_first && !now.is_first;
    if now.bits.is_full() && !now.is_first && (is_over || !gained.is_empty()) {
        return vec![Have::Whole { sha256, size_bytes }];
    }
    let gained = runs(gained).into_iter();
    gained.map(|extent| Have::Some { sha256, size_bytes, extent, hashes: Vec::new() }).collect()
}

/// What is told to somebody who knows nothing.
fn all_of(sha256: Digest, now: &Held) -> Vec<Have> {
    let Held { size_bytes, bits, is_first } = now;
    let size_bytes = *size_bytes;
    if bits.is_full() && !is_first {
        return vec![Have::Whole { sha256, size_bytes }];
    }
    let runs = bits.runs().map(|run| Extent { first: run.start, count: run.end - run.start });
    runs.map(|extent| Have::Some { sha256, size_bytes, extent, hashes: Vec::new() }).collect()
}

/// As much as may be told at once with hashes.
fn pieces(extent: Extent) -> impl Iterator<Item = Extent> {
    let starts = extent.chunks().step_by(TOLD_CHUNKS_MAX as usize);
    starts.map(move |first| Extent { first, count: TOLD_CHUNKS_MAX.min(extent.end() - first) })
}

/// Numbers in order, as what follows each other without a gap.
pub(crate) fn runs(indices: Vec<u32>) -> Vec<Extent> {
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

    use ollamax_types::Bits;

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
            let held = |set: &[u32]| Held { size_bytes: SIZE, bits: bits(6, set), is_first: false };
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
        let held = |size_bytes, bits| Held { size_bytes, bits, is_first: false };
        let (small, large) = (held(SIZE, bits(2, &[0])), held(SIZE + 1, bits(2, &[0, 1])));
        assert_eq!(told(&news_of(FILE, Some(&small), Some(&large))), "- *");
        let empty = held(0, Bits::new(0));
        assert_eq!(told(&news_of(FILE, None, Some(&empty))), "*");
        assert_eq!(told(&news_of(FILE, Some(&empty), Some(&empty))), "");
    }

    #[test]
    fn what_comes_into_the_cluster_is_told_chunk_by_chunk_and_as_whole_when_it_is_published() {
        let check = |before: Option<(bool, &[u32])>, now: (bool, &[u32]), expected: &str| {
            let held = |(is_first, set): (bool, &[u32])| Held { size_bytes: SIZE, bits: bits(3, set), is_first };
            let (before, now) = (before.map(held), held(now));
            assert_eq!(told(&news_of(FILE, before.as_ref(), Some(&now))), expected, "{before:?} {now:?}");
        };
        let all: &[u32] = &[0, 1, 2];
        check(None, (true, &[0, 2]), "0+1 2+1");
        check(None, (true, all), "0+3");
        check(Some((true, &[0])), (true, all), "1+2");
        check(Some((true, all)), (true, all), "");
        check(Some((true, &[0])), (true, &[1]), "- 1+1");
        check(Some((true, all)), (false, all), "*");
        check(Some((true, &[0])), (false, all), "*");
        check(Some((true, &[0])), (false, &[0, 1]), "1+1");
        // Who only handed on brings it now: what was told without hashes is told again.
        check(Some((false, &[0, 1])), (true, &[0, 1]), "0+2");
        check(Some((false, all)), (true, all), "0+3");
    }

    #[test]
    fn many_hashes_go_in_pieces() {
        let check = |first: u32, count: u32, expected: &[(u32, u32)]| {
            let cut: Vec<(u32, u32)> = pieces(Extent { first, count }).map(|one| (one.first, one.count)).collect();
            assert_eq!(cut, expected, "{first}+{count}");
        };
        check(5, 0, &[]);
        check(5, 1, &[(5, 1)]);
        check(3, TOLD_CHUNKS_MAX, &[(3, TOLD_CHUNKS_MAX)]);
        check(3, 2 * TOLD_CHUNKS_MAX + 1, &[(3, 1_024), (1_027, 1_024), (2_051, 1)]);
    }

    #[tokio::test(start_paused = true)]
    async fn who_brings_a_file_tells_the_hash_of_each_chunk() {
        let disk = Disk::new(8, 3);
        let part = disk.part();
        disk.write(&part, 1);
        let _first = disk.library.offer_first(part.clone());
        let mut news = follow(disk.library.clone(), vec![disk.spec.sha256]);
        let mut hashes = Vec::new();
        for index in [1, 0, 2] {
            disk.write(&part, index);
            disk.library.stir();
            match news.next().await {
                Some(Have::Some { extent, hashes: told, .. }) => {
                    assert_eq!(extent, Extent { first: index, count: 1 });
                    hashes.push((index as usize, told));
                }
                other => panic!("{other:?}"),
            }
        }
        for (index, told) in hashes {
            assert_eq!(told, [disk.tree().hashes()[index]]);
        }
        disk.publish();
        disk.library.stir();
        assert_eq!(told(&[news.next().await.expect("it goes on")]), "*");
    }

    #[test]
    fn what_went_before_its_hash_was_told_is_told_when_it_is_there_again() {
        let disk = Disk::new(8, 3);
        let part = disk.part();
        disk.write(&part, 0);
        let _first = disk.library.offer_first(part.clone());
        let (library, blobs) = (disk.library.clone(), vec![disk.spec.sha256]);
        let (changes, adopted) = (library.changes(), library.adopted());
        let (told, news) = (BTreeMap::new(), VecDeque::new());
        let mut following = Following { library, blobs, told, news, changes, adopted, is_first: true };
        let held = || Held { size_bytes: disk.spec.size_bytes, bits: bits(3, &[0, 1]), is_first: true };
        following.take(disk.spec.sha256, Some(held()));
        assert!(following.news.is_empty(), "the second chunk went behind the look");
        disk.write(&part, 1);
        following.take(disk.spec.sha256, Some(held()));
        let expected = disk.tree().hashes()[..2].to_vec();
        match following.news.pop_front() {
            Some(Have::Some { extent: Extent { first: 0, count: 2 }, hashes, .. }) => assert_eq!(hashes, expected),
            other => panic!("{other:?}"),
        }
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
