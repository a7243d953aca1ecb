//! How long the leader leaves alone what it could not do, and when it says so again.
//!
//! Always holds: the same thing in vain is tried, or told, after a time that doubles up to [`REST_MAX`]; anything else
//! begins anew. Deciding costs little, so a wish that cannot be met is decided at each look, and met as soon as a node
//! comes; only what is said of it is said more and more rarely.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;

use ollamax_core::placement::Unfit;
use ollamax_types::{ModelName, NodeId};

/// Longest time between two attempts.
const REST_MAX: Duration = Duration::from_secs(15 * 60);
/// Time until the same reasons are told again for the first time.
const TELL_AGAIN_AFTER: Duration = Duration::from_secs(60);
/// Room on a disk that makes no other reason of one.
const ROOM_BYTES: u64 = 1 << 30;

/// A time in which something is left alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Rest {
    until: Instant,
    length: Duration,
}

/// What people were told of wishes that cannot be met, by model.
#[derive(Debug, Default)]
pub(super) struct News(BTreeMap<String, Told>);

/// What is wrong with which node, and until when that need not be told again.
#[derive(Debug)]
struct Told {
    why: Reasons,
    rest: Rest,
}

type Reasons = Vec<(NodeId, Unfit)>;

// === impl Rest ===

impl Rest {
    pub(super) fn of(length: Duration, now: Instant) -> Self {
        Self { until: now + length, length }
    }

    /// The next one, twice as long.
    pub(super) fn longer(self, now: Instant) -> Self {
        Self::of(self.length.saturating_mul(2).min(REST_MAX), now)
    }

    pub(super) fn lasts(self, now: Instant) -> bool {
        now < self.until
    }

    /// It is over for so long that nothing follows from it any more.
    pub(super) fn is_over(self, now: Instant) -> bool {
        now >= self.until + self.length
    }
}

// === impl News ===

impl News {
    /// What is to be told now of what cannot be met.
    pub(super) fn of<'a>(
        &mut self,
        impossible: &'a [(ModelName, Reasons)],
        now: Instant,
    ) -> Vec<(&'a ModelName, &'a Reasons)> {
        let mut told = std::mem::take(&mut self.0);
        let mut news = Vec::new();
        for (name, why) in impossible {
            let known = told.remove(&name.key()).filter(|known| are_alike(&known.why, why));
            let rest = match known {
                Some(Told { rest, .. }) if rest.lasts(now) => rest,
                Some(Told { rest, .. }) => {
                    news.push((name, why));
                    rest.longer(now)
                }
                None => {
                    news.push((name, why));
                    Rest::of(TELL_AGAIN_AFTER, now)
                }
            };
            self.0.insert(name.key(), Told { why: why.clone(), rest });
        }
        news
    }
}

/// Whether these are the same reasons. A disk has a little more or less room at every look.
fn are_alike(before: &[(NodeId, Unfit)], now: &[(NodeId, Unfit)]) -> bool {
    let is_same = |before: &Unfit, now: &Unfit| match (before, now) {
        (
            Unfit::NoRoom { needed_bytes, free_bytes },
            Unfit::NoRoom { needed_bytes: needed_now, free_bytes: free_now },
        ) => needed_bytes == needed_now && free_bytes.abs_diff(*free_now) <= ROOM_BYTES,
        (
            Unfit::DiskFree { kept_bytes, left_bytes: Some(left_bytes) },
            Unfit::DiskFree { kept_bytes: kept_now, left_bytes: Some(left_now) },
        ) => kept_bytes == kept_now && left_bytes.abs_diff(*left_now) <= ROOM_BYTES,
        _ => before == now,
    };
    let mut pairs = before.iter().zip(now);
    before.len() == now.len() && pairs.all(|(before, now)| before.0 == now.0 && is_same(&before.1, &now.1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_met_is_told_more_and_more_rarely_and_at_once_when_it_is_something_else() {
        let name: ModelName = "m".parse().expect("a name");
        let start = Instant::now();
        let mut news = News::default();
        let mut is_told = |minutes: u64, unfit: Option<Unfit>| {
            let impossible: Vec<(ModelName, Reasons)> =
                unfit.into_iter().map(|unfit| (name.clone(), vec![(NodeId(2), unfit)])).collect();
            !news.of(&impossible, start + Duration::from_secs(60 * minutes)).is_empty()
        };
        let told: Vec<u64> = (0..=60).filter(|minutes| is_told(*minutes, Some(Unfit::NoRuntime))).collect();
        assert_eq!(told, [0, 1, 3, 7, 15, 30, 45, 60]);
        assert!(is_told(61, Some(Unfit::Dead)), "another reason");
        assert!(!is_told(61, Some(Unfit::Dead)));
        assert!(!is_told(61, None));
        assert!(is_told(61, Some(Unfit::Dead)), "it was possible meanwhile");
        let room = |free_bytes| Some(Unfit::NoRoom { needed_bytes: 9 << 30, free_bytes });
        assert!(is_told(62, room(2 << 30)));
        assert!(!is_told(62, room(3 << 30)), "hardly more");
        assert!(is_told(62, room((4 << 30) + 1)));
        let left = |left_bytes| Some(Unfit::DiskFree { kept_bytes: 9 << 30, left_bytes });
        assert!(is_told(63, left(Some(2 << 30))));
        assert!(!is_told(63, left(Some(3 << 30))), "hardly more");
        assert!(is_told(63, left(None)), "another reason");
    }

    #[test]
    fn a_rest_doubles_to_a_quarter_of_an_hour() {
        let now = Instant::now();
        let mut rest = Rest::of(Duration::from_secs(5), now);
        assert!(rest.lasts(now) && !rest.lasts(now + Duration::from_secs(5)));
        assert!(!rest.is_over(now + Duration::from_secs(9)) && rest.is_over(now + Duration::from_secs(10)));
        for seconds in [10, 20, 40, 80, 160, 320, 640, 900, 900] {
            rest = rest.longer(now);
            assert_eq!(rest, Rest::of(Duration::from_secs(seconds), now));
        }
    }
}
