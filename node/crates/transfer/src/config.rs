//! `transfer.*`: how many, how patient, how much room.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use ollamax_core::rates::Limit;
use ollamax_core::transfer_plan::Patience;
use ollamax_types::{Rate, SpareRule};

use crate::class::Class;

/// Slowest hashing that can be set, bytes each second. Below it one piece of a file would take longer than anybody
/// waits for.
const HASH_BYTES_PER_SECOND_LEAST: u64 = 1 << 20;

/// The numbers of transfer. Every default is what a lab needs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Where names of models without a host are asked; empty means `https://registry.ollama.ai`. Since 0.1.
    pub registry_url: String,
    /// Ranges of one file that are fetched at once. Since 0.1.
    pub origin_streams: u32,
    /// Pulls at once; more wait. Since 0.1.
    pub pulls_max: u32,
    /// Pulls that may wait; one more is answered `overloaded`. Since 0.1.
    pub pulls_waiting_max: u32,
    /// Silence after which one answer of a registry is given up, milliseconds. Since 0.1.
    pub stall_ms: u64,
    /// Time without a gained byte after which a pull is given up, milliseconds. Since 0.1.
    pub silence_ms: u64,
    /// Wait before the second attempt, milliseconds; each further one is twice as long. Since 0.1.
    pub retry_ms: u64,
    /// Longest wait between two attempts, milliseconds. Since 0.1.
    pub retry_ms_max: u64,
    /// What stays free on the disk beside a model that is pulled: so much of its size, percent. Since 0.1.
    pub spare_percent: u32,
    /// What stays free on the disk beside a model that is pulled at least, bytes. Since 0.1.
    pub spare_bytes_min: u64,
    /// Bytes of adopted models that are read each second to hash them in the background; 0 sets no limit. Since 0.1.
    pub hash_bytes_per_second_max: u64,
    /// Files of the model store that were not read for so many days are read again and compared; 0: none. Since 0.1.
    pub scrub_days: u32,
    /// Bytes that are read each second for that; 0 sets no limit. Since 0.1.
    pub scrub_bytes_per_second_max: u64,
    /// A damaged file of a store that this node may write is replaced by a sound one, from other nodes or from its
    /// registry. Since 0.1.
    pub repair: bool,
    /// A version that a pull replaced in a store that this node may write can be rolled back to for so many hours; 0:
    /// only pinned versions are kept. Its files take no more room than before, and make way when room is needed.
    /// Since 0.1.
    pub keep_previous_hours: u32,
    /// How long the runtime, and then the cluster, may take to see a model that was put into the store, milliseconds.
    /// Since 0.1.
    pub settle_ms: u64,
    /// Requests of other nodes for pieces of files that are served at once; one more is answered that this node is
    /// busy. Since 0.1.
    pub serve_asks_max: u32,
    /// Connections to each node that files are fetched from. More than one help where a network is faster than one
    /// processor encrypts. Since 0.1.
    pub links_per_peer: u32,
    /// How far ahead of the first missing piece of a file other pieces are asked for, in pieces of 4 MiB. Since 0.1.
    pub window_chunks: u32,
    /// Files of one model that are fetched from other nodes at once. Since 0.1.
    pub blobs_at_once: u32,
    /// What may come from registries, like `mon-fri 08:00-18:00 20MB/s, 100MB/s`; empty sets no limit. Since 0.1.
    pub limit_origin: String,
    /// What may come from other nodes; written in the same way. Since 0.1.
    pub limit_receive: String,
    /// What other nodes may get from this one; written in the same way. Since 0.1.
    pub limit_send: String,
    /// What machines that are no members may get from this node; written in the same way. Since 0.1.
    pub limit_lab: String,
    /// What the cluster may take for itself, where nobody waits, of a limit that holds: so much of it, percent.
    /// Since 0.1.
    pub limit_background_percent: u32,
    /// What the cluster may take for itself where no limit holds, like `200MB`; empty sets no limit. Since 0.1.
    pub limit_background: String,
    /// A sync of the cluster's log that takes longer makes transfers write more slowly, milliseconds; 0: never.
    /// Since 0.1.
    pub yield_sync_ms: u64,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            registry_url: String::new(),
            origin_streams: 8,
            pulls_max: 2,
            pulls_waiting_max: 64,
            stall_ms: 30_000,
            silence_ms: 300_000,
            retry_ms: 500,
            retry_ms_max: 30_000,
            spare_percent: 5,
            spare_bytes_min: 1 << 30,
            hash_bytes_per_second_max: 256 << 20,
            scrub_days: 30,
            scrub_bytes_per_second_max: 32 << 20,
            repair: true,
            keep_previous_hours: 168,
            settle_ms: 15_000,
            serve_asks_max: 16,
            links_per_peer: 1,
            window_chunks: 512,
            blobs_at_once: 4,
            limit_origin: String::new(),
            limit_receive: String::new(),
            limit_send: String::new(),
            limit_lab: String::new(),
            limit_background_percent: 25,
            limit_background: "200MB".to_owned(),
            yield_sync_ms: 50,
        }
    }
}

// === impl Config ===

impl Config {
    /// What stays free beside a model that comes here.
    pub(crate) const fn spare_rule(&self) -> SpareRule {
        SpareRule { percent: self.spare_percent, bytes_min: self.spare_bytes_min }
    }

    /// Everything that is wrong, one sentence each; empty when nothing is.
    #[must_use]
    pub fn validate(&self) -> Vec<String> {
        let mut problems = Vec::new();
        let url = &self.registry_url;
        let host = url.strip_prefix("http://").or_else(|| url.strip_prefix("https://"));
        let is_address = host.is_some_and(|host| !host.is_empty() && !host.starts_with('/'));
        if !url.is_empty() && !is_address {
            problems.push(format!("transfer.registry_url: {url:?} is no address of HTTP or HTTPS"));
        }
        let rows = [
            ("origin_streams", u64::from(self.origin_streams), 1, 64),
            ("pulls_max", u64::from(self.pulls_max), 1, 16),
            ("pulls_waiting_max", u64::from(self.pulls_waiting_max), 0, 1_024),
            ("stall_ms", self.stall_ms, 1_000, 600_000),
            ("silence_ms", self.silence_ms, self.stall_ms, 3_600_000),
            ("retry_ms", self.retry_ms, 10, 60_000),
            ("retry_ms_max", self.retry_ms_max, self.retry_ms, 60_000),
            ("spare_percent", u64::from(self.spare_percent), 0, 50),
            ("spare_bytes_min", self.spare_bytes_min, 0, 1 << 40),
            ("scrub_days", u64::from(self.scrub_days), 0, 3_650),
            ("keep_previous_hours", u64::from(self.keep_previous_hours), 0, 87_600),
            ("settle_ms", self.settle_ms, 100, 600_000),
            ("serve_asks_max", u64::from(self.serve_asks_max), 1, 256),
            ("links_per_peer", u64::from(self.links_per_peer), 1, 4),
            ("window_chunks", u64::from(self.window_chunks), 16, 65_536),
            ("blobs_at_once", u64::from(self.blobs_at_once), 1, 16),
            ("limit_background_percent", u64::from(self.limit_background_percent), 1, 100),
            ("yield_sync_ms", self.yield_sync_ms, 0, 10_000),
        ];
        for (key, value, least, most) in rows {
            if value < least || value > most {
                problems.push(format!("transfer.{key}: {value} is not between {least} and {most}"));
            }
        }
        problems.extend(self.limit_problems());
        let rates = [
            ("hash_bytes_per_second_max", self.hash_bytes_per_second_max),
            ("scrub_bytes_per_second_max", self.scrub_bytes_per_second_max),
        ];
        for (key, rate) in rates.into_iter().filter(|(_, rate)| (1..HASH_BYTES_PER_SECOND_LEAST).contains(rate)) {
            let least = HASH_BYTES_PER_SECOND_LEAST;
            problems.push(format!("transfer.{key}: {rate} is neither 0 (no limit) nor at least {least}"));
        }
        problems
    }

    fn limit_problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        for class in Class::ALL {
            if let Err(problem) = self.limit_of(class).parse::<Limit>() {
                problems.push(format!("{}: {problem}", class.key()));
            }
        }
        if !self.limit_background.is_empty()
            && let Err(problem) = self.limit_background.parse::<Rate>()
        {
            problems.push(format!("transfer.limit_background: {problem}"));
        }
        problems
    }

    /// The limit of a class, as it is written.
    pub(crate) fn limit_of(&self, class: Class) -> &str {
        match class {
            Class::Origin => &self.limit_origin,
            Class::Receive => &self.limit_receive,
            Class::Send => &self.limit_send,
            Class::Lab => &self.limit_lab,
        }
    }

    /// How long to wait for what does not come.
    pub(crate) const fn patience(&self) -> Patience {
        Patience { first_wait_ms: self.retry_ms, wait_ms_max: self.retry_ms_max, silence_ms: self.silence_ms }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_limit_and_a_usable_one_are_valid() {
        let check = |rate, problems| {
            let hashing = Config { hash_bytes_per_second_max: rate, ..Config::default() };
            let scrubbing = Config { scrub_bytes_per_second_max: rate, ..Config::default() };
            for found in [hashing, scrubbing].map(|config| config.validate()) {
                assert_eq!(found.len(), problems, "{rate}: {found:?}");
            }
        };
        check(Config::default().hash_bytes_per_second_max, 0);
        check(0, 0);
        check(1 << 20, 0);
        check(u64::MAX, 0);
        check((1 << 20) - 1, 1);
        check(1, 1);
    }

    #[test]
    fn every_bad_number_is_named_with_its_bounds() {
        let check = |config: Config, expected: &[&str]| assert_eq!(config.validate(), expected);
        let good = Config::default;
        check(good(), &[]);
        assert_eq!(good().spare_rule(), SpareRule::default(), "a node that tells none is taken for such a one");
        check(Config { registry_url: "http://models.lan:5000".to_owned(), ..good() }, &[]);
        for url in ["models.lan", "ftp://models.lan", "https://", "http:///v2"] {
            let text = format!("transfer.registry_url: {url:?} is no address of HTTP or HTTPS");
            check(Config { registry_url: url.to_owned(), ..good() }, &[&text]);
        }
        check(Config { origin_streams: 0, ..good() }, &["transfer.origin_streams: 0 is not between 1 and 64"]);
        check(Config { scrub_days: 3_651, ..good() }, &["transfer.scrub_days: 3651 is not between 0 and 3650"]);
        check(Config { scrub_days: 0, pulls_waiting_max: 0, spare_percent: 0, spare_bytes_min: 0, ..good() }, &[]);
        let impatient = Config { stall_ms: 60_000, silence_ms: 59_999, ..good() };
        check(impatient, &["transfer.silence_ms: 59999 is not between 60000 and 3600000"]);
        let several = Config { pulls_max: 17, spare_percent: 51, settle_ms: 0, retry_ms: 50_000, ..good() };
        let expected = [
            "transfer.pulls_max: 17 is not between 1 and 16",
            "transfer.retry_ms_max: 30000 is not between 50000 and 60000",
            "transfer.spare_percent: 51 is not between 0 and 50",
            "transfer.settle_ms: 0 is not between 100 and 600000",
        ];
        check(several, &expected);
        let shared = Config { serve_asks_max: 0, links_per_peer: 5, window_chunks: 15, blobs_at_once: 17, ..good() };
        let expected = [
            "transfer.serve_asks_max: 0 is not between 1 and 256",
            "transfer.links_per_peer: 5 is not between 1 and 4",
            "transfer.window_chunks: 15 is not between 16 and 65536",
            "transfer.blobs_at_once: 17 is not between 1 and 16",
        ];
        check(shared, &expected);
    }
    #[test]
    fn a_limit_that_cannot_be_read_is_named_with_its_key() {
        let check = |config: Config, expected: &[&str]| assert_eq!(config.validate(), expected);
        let good = Config::default;
        let office = "mon-fri 08:00-18:00 20MB/s, 100MB/s".to_owned();
        check(Config { limit_origin: office, limit_lab: "off".to_owned(), ..good() }, &[]);
        check(Config { limit_background: String::new(), yield_sync_ms: 0, ..good() }, &[]);
        let no_unit = "transfer.limit_send: \"20\" has no unit; write it like 20MB/s";
        check(Config { limit_send: "20".to_owned(), ..good() }, &[no_unit]);
        let bad = Config {
            limit_origin: "25:00-26:00".to_owned(),
            limit_receive: "10 B/s".to_owned(),
            limit_background: "1kB/s".to_owned(),
            limit_background_percent: 0,
            ..good()
        };
        let expected = [
            "transfer.limit_background_percent: 0 is not between 1 and 100",
            "transfer.limit_origin: \"25:00-26:00\" is no time of day like 08:00-18:00",
            "transfer.limit_receive: 10 B/s is less than 64 KiB/s; write off",
            "transfer.limit_background: 1kB/s is less than 64 KiB/s",
        ];
        check(bad, &expected);
        let off = Config { limit_background: "off".to_owned(), ..good() };
        check(off, &["transfer.limit_background: \"off\" is no rate like 20MB/s"]);
    }
}
