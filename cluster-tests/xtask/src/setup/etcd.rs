//! etcd, for the benchmark that compares with it: the one in PATH, else Debian's package, unpacked below the target
//! directory. It is not installed as a service: installing the package would start one and leave it running.
//!
//! What the comparison also uses is installed where it is missing: openssl, and strace if that can be had.

use std::process::Command;

use anyhow::{Result, bail};

use super::unpacked::Package;
use super::{Need, OPENSSL, has_apt, install, on_path};
use crate::workspace::Workspace;

const ETCD: Package = Package { name: "etcd-server", folder: "etcd", programs: "usr/bin", program: "etcd" };
const STRACE: Need = Need { package: "strace", what_for: "strace, which counts the fsyncs of both" };

/// Has etcd ready for a command: its PATH leads to it.
pub(crate) fn make_ready(workspace: &Workspace, command: &mut Command) -> Result<()> {
    let has_apt = has_apt();
    if has_apt && !on_path(OPENSSL.package) {
        install(&[OPENSSL])?;
    }
    if has_apt && !on_path(STRACE.package) {
        // Without it the daemons' own counters are taken, and the report says so.
        if let Err(problem) = install(&[STRACE]) {
            eprintln!("going on without strace: {problem:#}");
        }
    }
    if on_path(ETCD.program) {
        return Ok(());
    }
    if !has_apt && !ETCD.is_unpacked(workspace) {
        bail!("there is no `etcd` in PATH: install etcd 3.4 or newer, then run this again");
    }
    ETCD.lead_to(workspace, command)
}
