//! What `bench transfer` compares with, and what it makes its networks with. Everything is optional: what cannot be had
//! is left out of the report, which says so.
//!
//! nginx is unpacked and not installed, because installing it would start it as a service. rqbit and sendme are taken
//! where somebody has installed them: no package has them.

use std::path::Path;
use std::process::Command;

use super::unpacked::Package;
use super::{Need, OPENSSL, has_apt, install, on_path};
use crate::workspace::Workspace;

const NGINX: Package = Package { name: "nginx", folder: "nginx", programs: "usr/sbin", program: "nginx" };
/// Programs, each with the package that has it.
const NEEDS: &[(&str, Need)] = &[
    ("aria2c", Need { package: "aria2", what_for: "aria2, which fetches by ranges and by BitTorrent" }),
    ("mktorrent", Need { package: "mktorrent", what_for: "mktorrent, which makes what BitTorrent begins with" }),
    ("curl", Need { package: "curl", what_for: "curl, which fetches from nginx" }),
    ("openssl", OPENSSL),
    ("tc", Need { package: "iproute2", what_for: "ip and tc, which make networks with links of a set speed" }),
];
/// Where programs for administrators are that PATH does not lead to.
const ALSO_IN: &[&str] = &["/usr/sbin", "/usr/local/sbin", "/sbin"];

/// Has as much of it ready for a command as can be had.
pub(crate) fn make_ready(workspace: &Workspace, command: &mut Command) {
    let has_apt = has_apt();
    for need in missing(is_there) {
        let Need { package, what_for } = need;
        if !has_apt {
            eprintln!("going on without {package} ({what_for})");
        } else if let Err(problem) = install(&[need]) {
            eprintln!("going on without {package}: {problem:#}");
        }
    }
    if !is_there(NGINX.program)
        && (has_apt || NGINX.is_unpacked(workspace))
        && let Err(problem) = NGINX.lead_to(workspace, command)
    {
        eprintln!("going on without nginx: {problem:#}");
    }
}

fn is_there(program: &str) -> bool {
    on_path(program) || ALSO_IN.iter().any(|folder| Path::new(folder).join(program).is_file())
}

fn missing(is_there: impl Fn(&str) -> bool) -> Vec<Need> {
    NEEDS.iter().filter(|(program, _)| !is_there(program)).map(|(_, need)| *need).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_missing_is_installed() {
        let check = |here: &[&str], expected: &[&str]| {
            let packages: Vec<&str> =
                missing(|program| here.contains(&program)).iter().map(|need| need.package).collect();
            assert_eq!(packages, expected, "{here:?}");
        };
        check(&["aria2c", "mktorrent", "curl", "openssl", "tc"], &[]);
        check(&["curl", "openssl", "tc"], &["aria2", "mktorrent"]);
        check(&["aria2c", "mktorrent", "curl"], &["openssl", "iproute2"]);
    }
}
