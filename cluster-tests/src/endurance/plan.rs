//! What is asked, how often, and who is killed when: decided before anything starts, and from one seed.

use std::time::Duration;

use rand::RngExt;
use rand::rngs::StdRng;

/// Daemons of the cluster.
pub(crate) const NODES: usize = 3;
/// Clients at once.
pub(crate) const CLIENTS: usize = 8;
/// Keys of one client, which nobody else writes; a list is all of them.
pub(crate) const KEYS: usize = 100;
/// Bytes of one value.
pub(crate) const VALUE_BYTES: usize = 256;
/// How long a killed daemon stays away.
pub(crate) const DOWN: Duration = Duration::from_secs(5);
/// How long after its start a daemon is looked at for the first time.
pub(crate) const SETTLES_WITHIN: Duration = Duration::from_secs(10);
/// What is due within this time after a kill is not undisturbed.
pub(crate) const DISTURBED: Duration = Duration::from_secs(3);

/// How long, how fast, how often.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Plan {
    pub(crate) time: Duration,
    /// From one kill to the next.
    pub(crate) every: Duration,
    /// Requests per second of all clients together.
    pub(crate) per_second: f64,
    /// From what all chance is drawn.
    pub(crate) seed: u64,
}

// === impl Plan ===

impl Plan {
    /// When somebody is killed, from the beginning on. Who is killed has come back and settled before the end.
    pub(crate) fn kills(&self) -> impl Iterator<Item = Duration> {
        let Self { time, every, .. } = *self;
        let moments = (0_u32..).map(move |number| every / 2 + every * number);
        moments.take_while(move |at| *at + DOWN + SETTLES_WITHIN <= time)
    }
}

/// Who is killed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Victim {
    Leader,
    /// One of them, by chance.
    Follower,
}

// === impl Victim ===

impl Victim {
    /// Whose turn it is at this kill, counted from 0.
    pub(crate) fn of_turn(number: usize) -> Self {
        if number.is_multiple_of(2) { Self::Leader } else { Self::Follower }
    }

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Leader => "the leader",
            Self::Follower => "a follower",
        }
    }

    /// The node that this means while `leader` leads.
    pub(crate) fn node(self, leader: usize, chance: &mut StdRng) -> usize {
        match self {
            Self::Leader => leader,
            Self::Follower => (leader + chance.random_range(1..NODES)) % NODES,
        }
    }
}

/// The three kinds of requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    Put,
    PointRead,
    List,
}

// === impl Kind ===

impl Kind {
    pub(crate) const ALL: [Self; 3] = [Self::Put, Self::PointRead, Self::List];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Put => "puts of 256 B",
            Self::PointRead => "point reads, linearizable",
            Self::List => "lists of 100 rows, linearizable",
        }
    }

    /// What a roll of a hundred means.
    const fn of_roll(roll: u32) -> Self {
        match roll {
            0..45 => Self::Put,
            45..95 => Self::PointRead,
            _ => Self::List,
        }
    }

    pub(crate) fn choose(chance: &mut StdRng) -> Self {
        Self::of_roll(chance.random_range(0..100))
    }
}

/// What all keys of a client begin with.
pub(crate) fn prefix(client: usize) -> String {
    format!("user/endurance/{client}/")
}

pub(crate) fn key(client: usize, number: usize) -> String {
    format!("{}{number:03}", prefix(client))
}

/// A number as it is stored.
pub(crate) fn bytes_of(number: u64) -> Vec<u8> {
    format!("{number:<VALUE_BYTES$}").into_bytes()
}

/// What is stored as a number; `None`: nobody here has put it.
pub(crate) fn number_of(value: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(value).ok().filter(|_| value.len() == VALUE_BYTES)?;
    text.trim_end().parse().ok()
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;

    use super::*;

    fn plan(minutes: u64, every: u64) -> Plan {
        let (time, every) = (Duration::from_secs(minutes * 60), Duration::from_secs(every));
        Plan { time, every, per_second: 200.0, seed: 1 }
    }

    #[test]
    fn each_minute_of_an_hour_has_a_kill_and_the_last_victim_is_back_before_the_end() {
        let kills: Vec<u64> = plan(60, 60).kills().map(|at| at.as_secs()).collect();
        assert_eq!((kills.len(), kills[0], kills[1], kills[59]), (60, 30, 90, 3_570));
        assert_eq!(plan(1, 60).kills().count(), 1);
        let short: Vec<u64> = plan(1, 30).kills().map(|at| at.as_secs()).collect();
        assert_eq!(short, [15, 45]);
        assert_eq!(plan(1, 120).kills().count(), 0);
    }

    #[test]
    fn leader_and_followers_die_by_turns() {
        let mut chance = StdRng::seed_from_u64(7);
        let mut followers = Vec::new();
        for number in 0..40 {
            let victim = Victim::of_turn(number);
            let node = victim.node(2, &mut chance);
            match victim {
                Victim::Leader => assert_eq!((number % 2, node), (0, 2)),
                Victim::Follower => followers.push(node),
            }
        }
        followers.sort_unstable();
        followers.dedup();
        assert_eq!(followers, [0, 1], "each follower has its turn, the leader has none of theirs");
    }

    #[test]
    fn one_request_of_twenty_is_a_list() {
        let count = |kind: Kind| (0..100).filter(|roll| Kind::of_roll(*roll) == kind).count();
        assert_eq!(Kind::ALL.map(count), [45, 50, 5]);
    }

    #[test]
    fn a_value_comes_back_as_its_number_and_bytes_of_nobody_as_none() {
        assert_eq!(bytes_of(7).len(), VALUE_BYTES);
        for number in [0, 42, u64::MAX] {
            assert_eq!(number_of(&bytes_of(number)), Some(number));
        }
        let mut damaged = bytes_of(42);
        damaged[5] = b'7';
        for value in [&b"42"[..], &damaged[..], &[0xff; VALUE_BYTES][..]] {
            assert_eq!(number_of(value), None);
        }
    }

    #[test]
    fn the_keys_of_a_client_are_those_that_begin_with_its_prefix() {
        let keys: Vec<String> = (0..CLIENTS).flat_map(|client| (0..KEYS).map(move |it| key(client, it))).collect();
        for client in 0..CLIENTS {
            assert_eq!(keys.iter().filter(|key| key.starts_with(&prefix(client))).count(), KEYS);
        }
    }
}
