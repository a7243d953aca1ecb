//! What is spread, to how many, over which links, beside whom, and how long it may take: decided before anything
//! starts.

use std::time::Duration;

use clap::ValueEnum;

/// What the network cannot carry in its packets beside data, and the start of everything, are in this time.
const SPARE: Duration = Duration::from_secs(60);
/// How many times one source may need the time that it needs at full speed.
const SLOWEST: u32 = 3;

/// One of the others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Peer {
    /// nginx, from which each node fetches the file with curl; also over TLS, without set links.
    Nginx,
    /// The same nginx and aria2, which fetches 16 ranges at once.
    Aria2,
    /// aria2 over BitTorrent.
    Aria2Bt,
    /// rqbit over BitTorrent.
    Rqbit,
    /// sendme, which has one source and QUIC.
    Sendme,
}

// === impl Peer ===

impl Peer {
    pub(crate) const ALL: [Self; 5] = [Self::Nginx, Self::Aria2, Self::Aria2Bt, Self::Rqbit, Self::Sendme];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Nginx => "nginx and curl",
            Self::Aria2 => "aria2, 16 ranges",
            Self::Aria2Bt => "aria2, BitTorrent",
            Self::Rqbit => "rqbit, BitTorrent",
            Self::Sendme => "sendme, QUIC",
        }
    }

    /// The programs that it takes.
    pub(crate) const fn programs(self) -> &'static [&'static str] {
        match self {
            Self::Nginx => &["nginx", "curl"],
            Self::Aria2 => &["nginx", "aria2c"],
            // nginx answers for the tracker.
            Self::Aria2Bt => &["nginx", "aria2c", "mktorrent"],
            Self::Rqbit => &["rqbit", "mktorrent"],
            Self::Sendme => &["sendme"],
        }
    }

    /// Measured where somebody has installed it: no package has it, and to compile it takes minutes.
    pub(crate) const fn is_optional(self) -> bool {
        match self {
            Self::Nginx | Self::Aria2 | Self::Aria2Bt => false,
            Self::Rqbit | Self::Sendme => true,
        }
    }

    /// Copies that a node has on its disk at most.
    const fn copies(self) -> u64 {
        match self {
            Self::Nginx | Self::Aria2 | Self::Aria2Bt | Self::Rqbit => 1,
            // It fetches into a store of its own, and copies from there.
            Self::Sendme => 2,
        }
    }
}

/// Who spreads the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum System {
    /// A cluster in which one node has it, and the others get it by a wish.
    Nodes,
    /// The same with a quarter of the file, for what must not grow with the size.
    Quarter,
    /// A cluster in which nobody has it: one node asks a registry, by the same wish.
    Registry,
    Peer(Peer),
}

// === impl System ===

impl System {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Nodes => "ollamax, one node has it",
            Self::Quarter => "ollamax, a quarter of it",
            Self::Registry => "ollamax, a registry has it",
            Self::Peer(peer) => peer.name(),
        }
    }
}

/// All of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Plan {
    /// Nodes that get the file, one number for each row.
    pub(crate) nodes: Vec<usize>,
    pub(crate) size_bytes: u64,
    /// The file that goes from one node to one other without set links.
    pub(crate) free_bytes: u64,
    /// The speed of every link, both ways.
    pub(crate) mbit: u32,
    pub(crate) peers: Vec<Peer>,
    pub(crate) runs: usize,
}

// === impl Plan ===

impl Plan {
    /// All that is spread over set links, with the number of nodes that get it.
    pub(crate) fn cases(&self) -> Vec<(usize, System)> {
        let widest = self.nodes.iter().copied().max();
        let of = |nodes: usize| {
            let quarter = (Some(nodes) == widest).then_some(System::Quarter);
            let ours = [System::Nodes].into_iter().chain(quarter).chain([System::Registry]);
            ours.chain(self.peers.iter().copied().map(System::Peer)).map(move |system| (nodes, system))
        };
        self.nodes.iter().copied().flat_map(of).collect()
    }

    /// What a system spreads.
    pub(crate) const fn size_of(&self, system: System) -> u64 {
        match system {
            System::Nodes | System::Registry | System::Peer(_) => self.size_bytes,
            System::Quarter => self.size_bytes / 4,
        }
    }

    /// A quarter of what goes from one to one.
    pub(crate) const fn free_quarter_bytes(&self) -> u64 {
        self.free_bytes / 4
    }

    /// T: the time in which a link carries the file once.
    pub(crate) fn one_copy(&self) -> Duration {
        self.one_copy_of(System::Nodes)
    }

    /// The same for what a system spreads.
    #[expect(clippy::cast_precision_loss, reason = "bytes of one file are far below 2^52")]
    pub(crate) fn one_copy_of(&self, system: System) -> Duration {
        Duration::from_secs_f64(self.size_of(system) as f64 * 8.0 / (f64::from(self.mbit) * 1e6))
    }

    /// Bytes that lie on the disk at once at most: the copies of the widest row, the first one's and a file for the
    /// others; later two copies of what goes over loopback.
    pub(crate) fn disk_bytes(&self) -> u64 {
        let widest = self.nodes.iter().copied().max().unwrap_or(0) as u64;
        let each = self.peers.iter().map(|peer| peer.copies()).max().unwrap_or(1);
        let links = self.size_bytes.saturating_mul(widest.saturating_mul(each).saturating_add(3));
        links.max(self.size_bytes.saturating_add(self.free_bytes.saturating_mul(4)))
    }

    /// When a course is given up: a single source sends one copy after the other.
    pub(crate) fn limit(&self, nodes: usize) -> Duration {
        let copies = u32::try_from(nodes).unwrap_or(u32::MAX).saturating_add(1);
        self.one_copy().saturating_mul(copies.saturating_mul(SLOWEST)) + SPARE
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_copy_takes_what_the_link_says_and_a_course_ends_some_time() {
        let plan = Plan {
            nodes: vec![2],
            size_bytes: 125_000_000,
            free_bytes: 1,
            mbit: 500,
            peers: vec![Peer::Aria2Bt],
            runs: 1,
        };
        assert_eq!(plan.one_copy(), Duration::from_secs(2));
        assert_eq!(plan.limit(2), Duration::from_secs(2 * 9 + 60));
        assert_eq!(plan.disk_bytes(), 5 * 125_000_000);
        let plan = Plan { free_bytes: 1_000_000_000, ..plan };
        assert_eq!(plan.disk_bytes(), 4_125_000_000);
        let plan = Plan { peers: vec![Peer::Aria2Bt, Peer::Sendme], free_bytes: 1, ..plan };
        assert_eq!(plan.disk_bytes(), 7 * 125_000_000);
    }

    #[test]
    fn a_quarter_of_the_file_goes_to_the_most_nodes_alone() {
        let plan = Plan {
            nodes: vec![4, 2],
            size_bytes: 400,
            free_bytes: 800,
            mbit: 500,
            peers: vec![Peer::Aria2Bt],
            runs: 1,
        };
        let expected = [
            (4, System::Nodes),
            (4, System::Quarter),
            (4, System::Registry),
            (4, System::Peer(Peer::Aria2Bt)),
            (2, System::Nodes),
            (2, System::Registry),
            (2, System::Peer(Peer::Aria2Bt)),
        ];
        assert_eq!(plan.cases(), expected);
        let sizes = [System::Nodes, System::Quarter, System::Peer(Peer::Aria2Bt)].map(|system| plan.size_of(system));
        assert_eq!((sizes, plan.free_quarter_bytes()), ([400, 100, 400], 200));
        assert_eq!(plan.one_copy_of(System::Quarter) * 4, plan.one_copy());
    }

    #[test]
    fn what_no_package_has_is_optional() {
        let optional: Vec<Peer> = Peer::ALL.into_iter().filter(|peer| peer.is_optional()).collect();
        assert_eq!(optional, [Peer::Rqbit, Peer::Sendme]);
    }
}
