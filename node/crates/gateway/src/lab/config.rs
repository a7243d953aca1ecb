//! `registry.*`: the registry for machines that are no members.
//!
//! It is off until an address is given, and open to the networks that are listed and to nobody else. Every problem is
//! named, not the first alone.

use std::net::SocketAddr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::elsewhere::Authority;
use super::network::Network;

/// The networks of loopback, of homes and labs, and of a cable without a router.
const NETWORKS: [&str; 8] = [
    "127.0.0.0/8",
    "::1/128",
    "10.0.0.0/8",
    "172.16.0.0/12",
    "192.168.0.0/16",
    "169.254.0.0/16",
    "fc00::/7",
    "fe80::/10",
];

/// The `registry` table of the configuration.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Address and port, for example `0.0.0.0:11438`; empty means off. Since 0.1.
    pub listen: String,
    /// Networks whose machines may ask; nobody else may. Since 0.1.
    pub allow: Vec<String>,
    /// `host` or `host:port` under which it is reached too; needed behind address translation. Since 0.1.
    pub advertise: Vec<String>,
    /// PEM file of a certificate and its chain; with it and a key TLS is spoken and nothing plain. Since 0.1.
    pub certificate_file: String,
    /// PEM file of the certificate's key, which only the daemon's user may read. Since 0.1.
    pub key_file: String,
    /// Pull what is asked for and the cluster does not have. Since 0.1.
    pub fetch: bool,
    /// Connections at once; one more is closed. Since 0.1.
    pub connections_max: u32,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            listen: String::new(),
            allow: NETWORKS.map(str::to_owned).to_vec(),
            advertise: Vec::new(),
            certificate_file: String::new(),
            key_file: String::new(),
            fetch: true,
            connections_max: 256,
        }
    }
}

// === impl Config ===

impl Config {
    /// Every problem, each as `key: what is wrong`.
    #[must_use]
    pub fn validate(&self) -> Vec<String> {
        let mut problems = Vec::new();
        if !self.listen.is_empty() && self.listen_address().is_none() {
            problems.push(format!("registry.listen: {:?} is no address like 0.0.0.0:11438", self.listen));
        }
        for text in self.allow.iter().filter(|text| text.parse::<Network>().is_err()) {
            problems.push(format!("registry.allow: {text:?} is no network like 192.168.0.0/16"));
        }
        if !self.listen.is_empty() && self.allow.is_empty() {
            let text = "registry.allow: empty, so nobody may ask; leave registry.listen empty instead";
            problems.push(text.to_owned());
        }
        for text in self.advertise.iter().filter(|text| text.parse::<Authority>().is_err()) {
            problems.push(format!("registry.advertise: {text:?} is no host or host:port"));
        }
        if self.certificate_file.is_empty() != self.key_file.is_empty() {
            let text = "registry.certificate_file and registry.key_file: one is set without the other";
            problems.push(text.to_owned());
        }
        let (least, most) = (1, 1 << 20);
        if !(least..=most).contains(&self.connections_max) {
            let value = self.connections_max;
            problems.push(format!("registry.connections_max: {value} is not between {least} and {most}"));
        }
        problems
    }

    /// `listen`, read; `None` when it is empty or no address.
    #[must_use]
    pub fn listen_address(&self) -> Option<SocketAddr> {
        let text = self.listen.strip_prefix("localhost:").map(|port| format!("127.0.0.1:{port}"));
        text.as_deref().unwrap_or(&self.listen).parse().ok()
    }

    /// Whether TLS is spoken.
    #[must_use]
    pub const fn has_tls(&self) -> bool {
        !self.certificate_file.is_empty()
    }

    /// `allow`, read.
    pub(crate) fn networks(&self) -> Vec<Network> {
        self.allow.iter().filter_map(|text| text.parse().ok()).collect()
    }

    /// `advertise`, read.
    pub(super) fn advertised(&self) -> Vec<Authority> {
        self.advertise.iter().filter_map(|text| text.parse().ok()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_every_problem_and_is_off_until_it_is_asked_for() {
        let check = |config: &Config, expected: &[&str]| assert_eq!(config.validate(), expected);
        let texts = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
        let off = Config::default();
        check(&off, &[]);
        assert_eq!((off.listen_address(), off.has_tls(), off.networks().len()), (None, false, 8));
        let on = Config { listen: "0.0.0.0:11438".to_owned(), ..Config::default() };
        check(&on, &[]);
        assert_eq!(on.listen_address(), Some(SocketAddr::from(([0, 0, 0, 0], 11438))));
        check(&Config { listen: "localhost:0".to_owned(), ..Config::default() }, &[]);
        check(&Config { advertise: texts(&["lab1", "lab1.example:443", "[fd00::1]:7"]), ..Config::default() }, &[]);
        check(&Config { allow: Vec::new(), ..Config::default() }, &[]);
        let nobody = "registry.allow: empty, so nobody may ask; leave registry.listen empty instead";
        check(&Config { allow: Vec::new(), ..on.clone() }, &[nobody]);
        let pair = "registry.certificate_file and registry.key_file: one is set without the other";
        check(&Config { certificate_file: "/c".to_owned(), ..on.clone() }, &[pair]);
        check(&Config { key_file: "/k".to_owned(), ..on }, &[pair]);
        let bad = Config {
            listen: "lab1:11438".to_owned(),
            allow: texts(&["10.0.0.0/8", "lab", "10.0.0.1/8"]),
            advertise: texts(&["https://lab1"]),
            connections_max: 0,
            ..Config::default()
        };
        check(
            &bad,
            &[
                "registry.listen: \"lab1:11438\" is no address like 0.0.0.0:11438",
                "registry.allow: \"lab\" is no network like 192.168.0.0/16",
                "registry.allow: \"10.0.0.1/8\" is no network like 192.168.0.0/16",
                "registry.advertise: \"https://lab1\" is no host or host:port",
                "registry.connections_max: 0 is not between 1 and 1048576",
            ],
        );
    }
}
