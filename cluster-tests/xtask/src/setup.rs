//! `cargo xtask setup`: what build and tests need besides Rust, installed where apt-get is, named elsewhere.
//!
//! Only what is missing is installed; when nothing is, no network is needed.

use std::env;
use std::fs;
use std::io::{self, IsTerminal};
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::rocksdb;
use crate::workspace::{Workspace, succeed};

pub(crate) mod etcd;
pub(crate) mod spreaders;

mod python_clients;
mod unpacked;

/// One package and what it is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Need {
    package: &'static str,
    what_for: &'static str,
}

const CLANG: Need = Need { package: "clang", what_for: "the clang compiler" };
const LIBCLANG: Need = Need { package: "libclang-dev", what_for: "libclang, from which RocksDB's bindings are made" };
const CMAKE: Need = Need { package: "cmake", what_for: "cmake, which builds llama.cpp" };
const COMPILERS: Need = Need { package: "build-essential", what_for: "a C and C++ compiler and make" };
const PKG_CONFIG: Need = Need { package: "pkg-config", what_for: "pkg-config" };
/// For benchmarks that compare with what speaks TLS.
const OPENSSL: Need = Need { package: "openssl", what_for: "openssl, which makes the certificates of other systems" };

/// What was found on this machine.
#[derive(Debug, Clone, Copy, Default)]
struct Found {
    clang: bool,
    libclang: bool,
    cmake: bool,
    compilers: bool,
    pkg_config: bool,
}

/// Has everything ready: what the build needs, and the clients that the cluster suites ask with.
pub(crate) fn run_for_tests(workspace: &Workspace) -> Result<()> {
    run(workspace)?;
    python_clients::run(workspace)
}

/// Has ready what the build needs: programs, and RocksDB's library. Says so.
pub(crate) fn run(workspace: &Workspace) -> Result<()> {
    if missing(look()).is_empty() {
        println!("everything that the build needs is installed");
    }
    run_quietly(workspace)
}

/// The same, without a word on standard output when nothing is missing: for commands whose output is data.
pub(crate) fn run_quietly(workspace: &Workspace) -> Result<()> {
    install_missing()?;
    rocksdb::make(workspace)
}

/// Installs what is missing, and checks that it is there now.
fn install_missing() -> Result<()> {
    let missing = missing(look());
    if missing.is_empty() {
        return Ok(());
    }
    install(&missing)?;
    let still: Vec<&str> = self::missing(look()).iter().map(|need| need.package).collect();
    if !still.is_empty() {
        bail!("installed, but still not found: {}", still.join(", "));
    }
    Ok(())
}

fn missing(found: Found) -> Vec<Need> {
    let needs = [
        (found.clang, CLANG),
        (found.libclang, LIBCLANG),
        (found.cmake, CMAKE),
        (found.compilers, COMPILERS),
        (found.pkg_config, PKG_CONFIG),
    ];
    needs.into_iter().filter(|(present, _)| !present).map(|(_, need)| need).collect()
}

fn look() -> Found {
    Found {
        clang: on_path("clang"),
        libclang: has_libclang(),
        cmake: on_path("cmake"),
        compilers: on_path("cc") && on_path("c++") && (cfg!(windows) || on_path("make")),
        pkg_config: on_path("pkg-config"),
    }
}

fn on_path(program: &str) -> bool {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path).any(|folder| folder.join(format!("{program}{}", env::consts::EXE_SUFFIX)).is_file())
}

/// Where bindgen looks: `$LIBCLANG_PATH`, the folders of LLVM, the folders of libraries.
fn has_libclang() -> bool {
    if env::var_os("LIBCLANG_PATH").is_some_and(|path| !path.is_empty()) {
        return true;
    }
    let mut folders =
        vec!["/usr/lib".into(), "/usr/local/lib".into(), "/usr/lib64".into(), "/usr/local/opt/llvm/lib".into()];
    folders.push("/opt/homebrew/opt/llvm/lib".into());
    folders.push("/Library/Developer/CommandLineTools/usr/lib".into());
    for entry in fs::read_dir("/usr/lib").into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        folders.push(if name.starts_with("llvm") { entry.path().join("lib") } else { entry.path() });
    }
    folders.iter().any(|folder| holds_libclang(folder))
}

fn holds_libclang(folder: &Path) -> bool {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.into_iter().any(|entry| is_libclang(&entry.file_name().to_string_lossy()))
}

/// `libclang.so`, `libclang-14.so.1`, `libclang.dylib`; not `libclang-cpp.so.14` and not `libclang_rt.so`.
fn is_libclang(name: &str) -> bool {
    let Some(rest) = name.strip_prefix("libclang") else { return false };
    let plain = rest.starts_with('.')
        || rest.strip_prefix('-').is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()));
    plain && (rest.contains(".so") || rest.contains(".dylib"))
}

fn install(missing: &[Need]) -> Result<()> {
    let list: Vec<String> = missing.iter().map(|need| format!("  {} ({})", need.package, need.what_for)).collect();
    println!("missing:\n{}", list.join("\n"));
    if !has_apt() {
        bail!("install what is listed above with your system's package manager, then run this again");
    }
    let packages: Vec<&str> = missing.iter().map(|need| need.package).collect();
    let by_hand = format!("apt-get install {}", packages.join(" "));
    let as_root = is_root();
    if !as_root && !on_path("sudo") {
        bail!("not root, and there is no sudo: run `{by_hand}` as root, then run this again");
    }
    // Old package lists are no reason to stop: the packages may be known and even be there already.
    if let Err(problem) = succeed(apt_get(as_root, &["update"])) {
        println!("going on with the package lists as they are: {problem:#}");
    }
    let mut arguments = vec!["install", "--yes", "--no-install-recommends"];
    arguments.extend(&packages);
    succeed(apt_get(as_root, &arguments))
        .with_context(|| format!("install what is missing; by hand: `{by_hand}` as root"))
}

/// Whether packages can be had of apt, by the names that are known here.
fn has_apt() -> bool {
    is_debian(&fs::read_to_string("/etc/os-release").unwrap_or_default()) && on_path("apt-get")
}

fn is_root() -> bool {
    let output = Command::new("id").arg("-u").stdin(Stdio::null()).output();
    output.is_ok_and(|output| output.stdout.trim_ascii() == b"0")
}

fn apt_get(as_root: bool, arguments: &[&str]) -> Command {
    let mut command = Command::new(if as_root { "env" } else { "sudo" });
    if !as_root {
        // A password can be asked for at a terminal only; elsewhere that would wait for ever.
        if !io::stdin().is_terminal() {
            command.arg("-n");
        }
        command.arg("env");
    }
    command.args(["DEBIAN_FRONTEND=noninteractive", "apt-get"]).args(arguments);
    if as_root {
        command.stdin(Stdio::null());
    }
    command
}

/// Whether `/etc/os-release` describes Debian, Ubuntu or one of their children.
fn is_debian(release: &str) -> bool {
    let values = release.lines().filter_map(|line| line.strip_prefix("ID=").or_else(|| line.strip_prefix("ID_LIKE=")));
    values.flat_map(|value| value.trim_matches('"').split_whitespace()).any(|id| id == "debian" || id == "ubuntu")
}

/// rustfmt and clippy are parts of the toolchain that a minimal installation leaves out.
pub(crate) fn check_components(workspace: &Workspace) -> Result<()> {
    for (subcommand, component) in [("fmt", "rustfmt"), ("clippy", "clippy")] {
        let mut command = workspace.cargo([subcommand, "--version"]);
        let found = command.stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok_and(|status| status.success());
        if !found {
            bail!("the Rust toolchain has no {component}: run `rustup component add rustfmt clippy`, then this again");
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: Found = Found { clang: true, libclang: true, cmake: true, compilers: true, pkg_config: true };

    #[test]
    fn only_what_is_missing_is_named() {
        let check = |found: Found, expected: &[&str]| {
            let packages: Vec<&str> = missing(found).iter().map(|need| need.package).collect();
            assert_eq!(packages, expected, "{found:?}");
        };
        check(ALL, &[]);
        check(Found { clang: false, ..ALL }, &["clang"]);
        check(Found { libclang: false, cmake: false, ..ALL }, &["libclang-dev", "cmake"]);
        check(Found::default(), &["clang", "libclang-dev", "cmake", "build-essential", "pkg-config"]);
    }

    #[test]
    fn libclang_is_told_from_its_neighbours() {
        let check = |name: &str, expected: bool| assert_eq!(is_libclang(name), expected, "{name}");
        check("libclang.so", true);
        check("libclang.so.1", true);
        check("libclang-14.so.1", true);
        check("libclang.dylib", true);
        check("libclang-cpp.so.14", false);
        check("libclang_rt.asan.so", false);
        check("libclang-14.a", false);
        check("libc.so", false);
    }

    #[test]
    fn children_of_debian_count_as_debian() {
        let check = |release: &str, expected: bool| assert_eq!(is_debian(release), expected, "{release}");
        check("NAME=\"Debian GNU/Linux\"\nID=debian\n", true);
        check("ID=ubuntu\nID_LIKE=debian\n", true);
        check("ID=linuxmint\nID_LIKE=\"ubuntu debian\"\n", true);
        check("ID=fedora\n", false);
        check("ID=arch\nVERSION_ID=debian\n", false);
        check("", false);
    }
}
