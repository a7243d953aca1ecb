//! What nodes say of themselves to anybody who asks.
//!
//! Owns its form within identify's two texts, version 1: protocol version `ollamax/1/<cluster id or ->`, agent version
//! `ollamax/<program version>;peer=<host:port>,…`. Both are bounded; what does not fit the form is no node of ours, and
//! malformed addresses are left out.

use ollamax_types::{ClusterId, limits};

use crate::address;

const PROTOCOL: &str = "ollamax/1/";
const AGENT: &str = "ollamax/";
const ADDRESSES: &str = ";peer=";
/// Stands for the cluster of a node that has none.
const NO_CLUSTER: &str = "-";
/// Longest text that is looked at.
const TEXT_BYTES_MAX: usize = 2_048;

/// What this node says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Announcement {
    /// Its `peer` addresses, `host:port`.
    pub(crate) addresses: Vec<String>,
    /// Its cluster.
    pub(crate) cluster: Option<ClusterId>,
}

// === impl Announcement ===

impl Announcement {
    pub(crate) fn new(addresses: &[String]) -> Self {
        Self { addresses: addresses.to_vec(), cluster: None }
    }

    pub(crate) fn protocol_version(&self) -> String {
        let cluster = self.cluster.map_or_else(|| NO_CLUSTER.to_owned(), |cluster| cluster.to_string());
        format!("{PROTOCOL}{cluster}")
    }

    pub(crate) fn agent_version(&self) -> String {
        let mut text = format!("{AGENT}{}{ADDRESSES}", env!("CARGO_PKG_VERSION"));
        let mut separator = "";
        for address in &self.addresses {
            if text.len() + separator.len() + address.len() > TEXT_BYTES_MAX {
                break;
            }
            text.push_str(separator);
            text.push_str(address);
            separator = ",";
        }
        text
    }
}

/// What another node said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Said {
    pub(super) cluster: Option<ClusterId>,
    pub(super) addresses: Vec<String>,
}

impl Said {
    /// `None` when the texts are not those of a node of ours.
    pub(super) fn parse(protocol_version: &str, agent_version: &str) -> Option<Self> {
        if agent_version.len() > TEXT_BYTES_MAX {
            return None;
        }
        let cluster = match protocol_version.strip_prefix(PROTOCOL)? {
            NO_CLUSTER => None,
            id => Some(id.parse().ok()?),
        };
        let (_version, listed) = agent_version.strip_prefix(AGENT)?.split_once(ADDRESSES)?;
        let sound = listed.split(',').filter(|text| address::check(text).is_ok());
        Some(Self { cluster, addresses: sound.take(limits::ADDRESSES_MAX).map(str::to_owned).collect() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn announcement(addresses: &[&str], cluster: Option<ClusterId>) -> Announcement {
        Announcement { addresses: addresses.iter().map(|text| (*text).to_owned()).collect(), cluster }
    }

    #[test]
    fn what_is_said_is_understood() {
        for cluster in [None, Some(ClusterId([0xab; 16]))] {
            let ours = announcement(&["10.0.0.7:11436", "[2001:db8::7]:11436"], cluster);
            let said = Said::parse(&ours.protocol_version(), &ours.agent_version()).unwrap();
            assert_eq!(said, Said { cluster, addresses: ours.addresses });
        }
    }

    #[test]
    fn the_texts_are_the_golden_ones() {
        let ours = announcement(&["a:1", "b:2"], Some(ClusterId([0xab; 16])));
        assert_eq!(ours.protocol_version(), format!("ollamax/1/{}", "ab".repeat(16)));
        assert_eq!(ours.agent_version(), format!("ollamax/{};peer=a:1,b:2", env!("CARGO_PKG_VERSION")));
    }

    #[test]
    fn other_programs_and_garbage_are_told_apart() {
        let rows = [
            ("ipfs/0.1.0", "kubo/0.30"),
            ("ollamax/2/-", "ollamax/9;peer=a:1"),
            ("ollamax/1/xyz", "ollamax/9;peer=a:1"),
            ("ollamax/1/-", "ollamax/9"),
            ("ollamax/1/-", "other;peer=a:1"),
        ];
        for (protocol, agent) in rows {
            assert_eq!(Said::parse(protocol, agent), None, "{protocol} {agent}");
        }
        let long = format!("ollamax/1;peer={}", "a".repeat(TEXT_BYTES_MAX));
        assert_eq!(Said::parse("ollamax/1/-", &long), None);
        let said = Said::parse("ollamax/1/-", "ollamax/9;peer=a:1,<script>,b:99999,c:3").unwrap();
        assert_eq!(said.addresses, ["a:1", "c:3"]);
    }

    #[test]
    fn too_many_addresses_are_cut() {
        let many: Vec<String> = (1..500).map(|port| format!("node.example:{port}")).collect();
        let ours = Announcement { addresses: many, cluster: None };
        assert!(ours.agent_version().len() <= TEXT_BYTES_MAX);
        let said = Said::parse(&ours.protocol_version(), &ours.agent_version()).unwrap();
        assert_eq!(said.addresses.len(), limits::ADDRESSES_MAX);
    }
}
