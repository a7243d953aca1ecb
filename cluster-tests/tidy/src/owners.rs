//! Heavy libraries and who owns them: everybody else reaches them through the owner.
//!
//! Tests count too: a crate that needs somebody else's engine to be tested is cut in the wrong place. Libraries through
//! which a test plays a client or a server are free in tests.

use crate::finding::Finding;
use crate::manifest::{Purpose, crates};
use crate::tree::Tree;

/// A library (with everything that begins with `name-` where `family` is set) and the folders that may use it.
struct Ownership {
    library: &'static str,
    family: bool,
    free_in_tests: bool,
    owners: &'static [&'static str],
}

const fn one(library: &'static str, owners: &'static [&'static str]) -> Ownership {
    Ownership { library, family: false, free_in_tests: false, owners }
}

const fn family(library: &'static str, owners: &'static [&'static str]) -> Ownership {
    Ownership { library, family: true, free_in_tests: false, owners }
}

const CLI: &[&str] = &["cli"];
const ENGINE: &[&str] = &["node/engine"];
const GATEWAY: &[&str] = &["node/crates/gateway"];
const NET: &[&str] = &["node/crates/net"];
const SANDBOX: &[&str] = &["node/crates/sandbox"];
const SECURITY: &[&str] = &["node/crates/security"];
const TOOLS: &[&str] = &["node/crates/tools"];
const VECTORS: &[&str] = &["node/crates/vectors"];

/// First match wins, so single libraries stand before their family.
const OWNERSHIPS: &[Ownership] = &[
    one("rocksdb", &["node/crates/store"]),
    family("openraft", &["node/crates/metadata"]),
    // Keys and certificates are security's; the connections made with them are net's.
    one("libp2p-identity", &["node/crates/security", "node/crates/net"]),
    one("libp2p-tls", &["node/crates/security", "node/crates/net"]),
    family("libp2p", NET),
    // The test kit plays a client that trusts a root.
    family(
        "rustls",
        &["node/crates/security", "node/crates/net", "node/crates/gateway", "node", "cluster-tests/testkit"],
    ),
    one("tokio-rustls", &["node/crates/net", "node/crates/gateway", "cluster-tests/testkit"]),
    one("age", SECURITY),
    one("rcgen", SECURITY),
    one("x509-parser", SECURITY),
    one("argon2", SECURITY),
    one("jsonwebtoken", SECURITY),
    one("if-addrs", NET),
    family("axum", &["node/crates/gateway", "node/engine", "cluster-tests/testkit"]).free_in_tests(),
    one("tower-http", &["node/crates/gateway", "node/engine", "cluster-tests/testkit"]),
    one("rmcp", GATEWAY).free_in_tests(),
    one("reqwest", &["node/crates/outbound"]).free_in_tests(),
    one("rusty-s3", &["node/crates/outbound"]),
    family("jsonschema", TOOLS),
    family("llama-cpp", ENGINE),
    family("minijinja", ENGINE),
    one("usearch", VECTORS),
    one("hnsw_rs", VECTORS),
    one("nvml-wrapper", &["node"]),
    family("tikv-jemalloc", &["node"]),
    one("portable-pty", SANDBOX),
    one("landlock", SANDBOX),
    one("seccompiler", SANDBOX),
    // The benchmark beside etcd speaks etcd's protocol, which is no part of the product.
    family("protox", &["proto", "cluster-tests"]),
    one("tonic-prost-build", &["proto", "cluster-tests"]),
    one("tonic-prost", &["proto", "cluster-tests"]),
    one(
        "tonic",
        &["proto", "node/crates/gateway", "node/crates/net", "node", "cli", "cluster-tests", "cluster-tests/testkit"],
    )
    .free_in_tests(),
    one("clap_complete", CLI),
    one("clap_mangen", CLI),
    one("ratatui", CLI),
    one("indicatif", CLI),
    one("comfy-table", &["cli", "cluster-tests"]),
    one("clap", &["cli", "node", "node/engine", "cluster-tests", "cluster-tests/testkit"]),
    one("turmoil", &["node/crates/metadata"]),
    one("stateright", &["node/crates/core", "node/crates/metadata"]),
];

/// Each heavy library is used by its owners alone.
#[must_use]
pub fn libraries(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    for found in crates(tree) {
        for dependency in &found.dependencies {
            let Some(ownership) = OWNERSHIPS.iter().find(|ownership| ownership.covers(&dependency.name)) else {
                continue;
            };
            let excused = ownership.free_in_tests && dependency.purpose == Purpose::Test;
            if !excused && !ownership.owners.contains(&found.folder.as_str()) {
                let owners = ownership.owners.join(", ");
                let message = format!("must not use `{}`; it belongs to {owners}", dependency.name);
                findings.push(Finding::about(&found.manifest(), message));
            }
        }
    }
    findings
}

// === impl Ownership ===

impl Ownership {
    const fn free_in_tests(mut self) -> Self {
        self.free_in_tests = true;
        self
    }

    fn covers(&self, name: &str) -> bool {
        name == self.library
            || self.family && name.strip_prefix(self.library).is_some_and(|rest| rest.starts_with(['-', '_']))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_library_outside_its_owner_is_found() {
        let check = |folder: &str, table: &str, library: &str, expected: usize| {
            let manifest = format!("[package]\nname = \"x\"\n[{table}]\n{library}.workspace = true\n");
            let tree = Tree::of(&[(&format!("{folder}/Cargo.toml"), manifest.as_str())]);
            assert_eq!(libraries(&tree).len(), expected, "{folder} {library}");
        };
        check("node/crates/store", "dependencies", "rocksdb", 0);
        check("node/crates/metadata", "dependencies", "rocksdb", 1);
        check("cluster-tests", "dev-dependencies", "openraft", 1);
        check("node/crates/security", "dependencies", "libp2p-identity", 0);
        check("node/crates/security", "dependencies", "libp2p-kad", 1);
        check("node/crates/gateway", "dependencies", "axum", 0);
        check("node", "dependencies", "axum-extra", 1);
        check("cli", "dependencies", "reqwest", 1);
        check("node/engine", "dev-dependencies", "reqwest", 0);
        check("cluster-tests", "dev-dependencies", "rmcp", 0);
        check("cli", "dependencies", "rmcp", 1);
        check("cluster-tests/xtask", "dependencies", "clap", 1);
        check("node/crates/types", "dependencies", "bytes", 0);
    }
}
