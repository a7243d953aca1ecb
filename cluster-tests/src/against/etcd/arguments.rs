//! How one member of etcd is started: where it lies, where it listens, what it is told.

use std::path::{Path, PathBuf};

use crate::against::plan::Pace;

/// The members' certificate and its key, in the cluster's directory.
pub(super) const CERTIFICATE: &str = "peer.pem";
pub(super) const KEY: &str = "peer.key";
/// Of the state of one member; etcd's default is 2 GiB, which puts of 10 KiB would fill.
const QUOTA_BYTES: u64 = 8 << 30;
/// etcd's own defaults, said aloud.
const ONE_SECOND: [&str; 4] = ["--heartbeat-interval", "100", "--election-timeout", "1000"];

/// One member's place.
#[derive(Debug, Clone)]
pub(super) struct Place {
    pub(super) home: PathBuf,
    pub(super) log: PathBuf,
    /// URL of its metrics.
    pub(super) metrics: String,
    pub(super) arguments: Vec<String>,
    number: usize,
}

// === impl Place ===

impl Place {
    /// The place of member `index`; `peers` are the ports of all members.
    pub(super) fn new(directory: &Path, index: usize, peers: &[u16], metrics: u16, pace: Pace) -> Self {
        let name = |index: usize| format!("n{}", index + 1);
        let peer = |port: u16| format!("https://127.0.0.1:{port}");
        let cluster = peers.iter().enumerate().map(|(index, port)| format!("{}={}", name(index), peer(*port)));
        let cluster = cluster.collect::<Vec<String>>().join(",");
        let in_directory = |file: &str| directory.join(file).display().to_string();
        let metrics = format!("http://127.0.0.1:{metrics}");
        let number = index + 1;
        // The only form that etcd takes: a host and a port, which name a file in its working directory.
        let clients = format!("unix://{}", socket_name(number));
        let pairs = [
            ("--name", name(index)),
            ("--data-dir", "data".to_owned()),
            ("--listen-client-urls", clients.clone()),
            ("--advertise-client-urls", clients),
            ("--listen-peer-urls", peer(peers[index])),
            ("--initial-advertise-peer-urls", peer(peers[index])),
            ("--initial-cluster", cluster),
            ("--initial-cluster-state", "new".to_owned()),
            ("--initial-cluster-token", "ollamax-bench".to_owned()),
            ("--peer-cert-file", in_directory(CERTIFICATE)),
            ("--peer-key-file", in_directory(KEY)),
            ("--peer-trusted-ca-file", in_directory(CERTIFICATE)),
            ("--listen-metrics-urls", metrics.clone()),
            ("--quota-backend-bytes", QUOTA_BYTES.to_string()),
            ("--logger", "zap".to_owned()),
            ("--log-level", "warn".to_owned()),
        ];
        let mut arguments: Vec<String> = pairs.into_iter().flat_map(|(flag, value)| [flag.to_owned(), value]).collect();
        arguments.push("--peer-client-cert-auth".to_owned());
        if pace == Pace::OneSecond {
            arguments.extend(ONE_SECOND.map(str::to_owned));
        }
        let home = directory.join(name(index));
        let log = directory.join(format!("{}.log", name(index)));
        Self { home, log, metrics: format!("{metrics}/metrics"), arguments, number }
    }

    /// Where its clients reach it.
    pub(super) fn socket(&self) -> PathBuf {
        self.home.join(socket_name(self.number))
    }
}

fn socket_name(number: usize) -> String {
    format!("localhost:{number}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value<'a>(place: &'a Place, flag: &str) -> Option<&'a str> {
        let at = place.arguments.iter().position(|argument| argument == flag)?;
        place.arguments.get(at + 1).map(String::as_str)
    }

    #[test]
    fn members_know_each_other_and_speak_tls_among_themselves() {
        let place = Place::new(Path::new("/t"), 1, &[10, 20, 30], 40, Pace::Default);
        let cluster = "n1=https://127.0.0.1:10,n2=https://127.0.0.1:20,n3=https://127.0.0.1:30";
        assert_eq!(value(&place, "--initial-cluster"), Some(cluster));
        assert_eq!(value(&place, "--listen-peer-urls"), Some("https://127.0.0.1:20"));
        assert_eq!(value(&place, "--peer-trusted-ca-file"), Some("/t/peer.pem"));
        assert!(place.arguments.iter().any(|argument| argument == "--peer-client-cert-auth"));
        assert_eq!(place.metrics, "http://127.0.0.1:40/metrics");
    }

    #[test]
    fn clients_reach_it_over_a_socket_in_its_home() {
        let place = Place::new(Path::new("/t"), 1, &[10, 20, 30], 40, Pace::Default);
        assert_eq!(value(&place, "--listen-client-urls"), Some("unix://localhost:2"));
        assert_eq!(place.socket(), Path::new("/t/n2/localhost:2"));
    }

    #[test]
    fn timeouts_are_its_own_unless_they_are_what_is_measured() {
        let election = |pace| {
            let place = Place::new(Path::new("/t"), 0, &[10, 20, 30], 40, pace);
            value(&place, "--election-timeout").map(str::to_owned)
        };
        assert_eq!(election(Pace::Default), None);
        assert_eq!(election(Pace::OneSecond).as_deref(), Some("1000"));
    }
}
