//! The stock Python clients that the cluster suites ask with: environments of their own in the target directory, since
//! the two versions of one client do not live in the same.
//!
//! A list in `cluster-tests/clients` is installed as it stands and nothing besides; a copy of it is written into the
//! environment last, so one that was half made, or made from another list, is made anew. When all is there, only each
//! environment's own Python is started, and no network is needed.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use super::{Need, install};
use crate::workspace::{Workspace, succeed};

/// Clients that are installed together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Clients {
    /// Folder of the environment in the target directory; the suite looks for it there.
    folder: &'static str,
    /// The list, from the top of the checkout.
    list: &'static str,
    /// What is imported of it.
    modules: &'static [&'static str],
}

const CLIENTS: &[Clients] = &[
    Clients {
        folder: "python-clients",
        list: "cluster-tests/clients/requirements.txt",
        modules: &["ollama", "openai"],
    },
    Clients { folder: "python-mcp-1", list: "cluster-tests/clients/requirements-mcp-1.txt", modules: &["mcp"] },
    Clients { folder: "python-mcp-2", list: "cluster-tests/clients/requirements-mcp-2.txt", modules: &["mcp"] },
];
const VENV: Need = Need { package: "python3-venv", what_for: "Python 3.11 or newer, with what makes environments" };
/// Where a Python that can make the environment may be: the first on PATH, else the system's own.
const PYTHONS: &[&str] = &["python3", "/usr/bin/python3"];
const CAN_MAKE: &str = "import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))";

/// Makes each environment that is missing, half made, or made from another list.
pub(crate) fn run(workspace: &Workspace) -> Result<()> {
    let mut missing = Vec::new();
    for clients in CLIENTS {
        let list = workspace.root().join(clients.list);
        let environment = Environment::new(workspace.target_dir().join(clients.folder), list, clients.modules)?;
        if !environment.is_current() {
            missing.push(environment);
        }
    }
    if missing.is_empty() {
        println!("the Python clients for the tests are installed");
        return Ok(());
    }
    let python = match find_python() {
        Some(python) => python,
        None => {
            install(&[VENV])?;
            find_python().context("`python3` is still missing, older than 3.11, or without `venv` and `ensurepip`")?
        }
    };
    for environment in missing {
        println!("installing Python clients for the tests into {}", environment.folder.display());
        environment.make(python)?;
    }
    Ok(())
}

/// Code that ends with exit code 0 where all of these can be imported.
fn has_all(modules: &[&str]) -> String {
    let modules = modules.join(" ");
    format!("from importlib.util import find_spec; exit(not all(map(find_spec, '{modules}'.split())))")
}

fn find_python() -> Option<&'static str> {
    PYTHONS.iter().copied().find(|python| answers_yes(Path::new(python), CAN_MAKE))
}

/// Whether this Python ends the code with exit code 0. `-I`: nothing of the caller's environment decides.
fn answers_yes(python: &Path, code: &str) -> bool {
    let mut command = Command::new(python);
    command.args(["-I", "-c", code]).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}

/// The environment and the list that it is to be made from.
#[derive(Debug)]
struct Environment {
    folder: PathBuf,
    list: PathBuf,
    wanted: String,
    modules: &'static [&'static str],
}

// === impl Environment ===

impl Environment {
    fn new(folder: PathBuf, list: PathBuf, modules: &'static [&'static str]) -> Result<Self> {
        let wanted = fs::read_to_string(&list).with_context(|| format!("read {}", list.display()))?;
        Ok(Self { folder, list, wanted, modules })
    }

    fn python(&self) -> PathBuf {
        self.folder.join("bin/python")
    }

    /// The list that the environment was made from; the last thing that is written.
    fn made_from(&self) -> PathBuf {
        self.folder.join("requirements.txt")
    }

    /// Made to the end, from this list, and its Python still there: an upgrade of the system may have taken that away.
    fn is_current(&self) -> bool {
        let made = fs::read_to_string(self.made_from()).is_ok_and(|made| made == self.wanted);
        made && answers_yes(&self.python(), &has_all(self.modules))
    }

    fn make(&self, python: &str) -> Result<()> {
        match fs::remove_dir_all(&self.folder) {
            Err(problem) if problem.kind() != io::ErrorKind::NotFound => {
                return Err(problem).with_context(|| format!("remove the old {}", self.folder.display()));
            }
            _ => {}
        }
        let mut make = Command::new(python);
        make.args(["-I", "-m", "venv"]).arg(&self.folder).stdin(Stdio::null());
        succeed(make).context("make an environment for Python programs")?;
        let mut install = self.pip(&["install", "--quiet", "--no-input", "--no-deps", "--only-binary", ":all:"]);
        install.arg("--requirement").arg(&self.list);
        succeed(install).context("install the Python clients, which needs PyPI or a mirror that pip is told of")?;
        succeed(self.pip(&["check"])).with_context(|| format!("{} is not complete", self.list.display()))?;
        fs::write(self.made_from(), &self.wanted).context("note what the environment was made from")?;
        if !self.is_current() {
            bail!("installed, but {} does not find the clients", self.python().display());
        }
        Ok(())
    }

    fn pip(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(self.python());
        command.args(["-I", "-m", "pip", "--disable-pip-version-check"]).args(arguments).stdin(Stdio::null());
        command
    }
}

#[cfg(all(test, unix))]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    const YES: &str = "/usr/bin/true";
    const NO: &str = "/usr/bin/false";

    /// An environment whose Python is another program, which answers everything alike.
    fn environment(name: &str, python: &str) -> Environment {
        let home = std::env::temp_dir().join(format!("ollamax-clients-{}-{name}", std::process::id()));
        fs::create_dir_all(home.join("env/bin")).expect("made");
        fs::write(home.join("list"), "ollama==1\n").expect("written");
        symlink(python, home.join("env/bin/python")).expect("linked");
        Environment::new(home.join("env"), home.join("list"), &["ollama"]).expect("read")
    }

    fn end(environment: &Environment) {
        fs::remove_dir_all(environment.list.parent().expect("a folder")).expect("removed");
    }

    #[test]
    fn only_what_was_made_to_the_end_from_this_list_with_a_python_that_is_there_is_kept() {
        let check = |name: &str, python: &str, made_from: Option<&str>, expected: bool| {
            let environment = environment(name, python);
            if let Some(list) = made_from {
                fs::write(environment.made_from(), list).expect("written");
            }
            assert_eq!(environment.is_current(), expected, "{name}");
            end(&environment);
        };
        check("current", YES, Some("ollama==1\n"), true);
        check("half-made", YES, None, false);
        check("other-list", YES, Some("ollama==0\n"), false);
        check("without-the-clients", NO, Some("ollama==1\n"), false);
        check("python-gone", "/nowhere/python3", Some("ollama==1\n"), false);
    }

    #[test]
    fn what_cannot_be_made_leaves_nothing_that_counts_as_made() {
        let environment = environment("fails", YES);
        fs::write(environment.made_from(), "ollama==1\n").expect("written");
        let problem = format!("{:#}", environment.make(NO).expect_err("refused"));
        assert!(problem.contains("false -I -m venv"), "{problem}");
        assert!(!environment.is_current() && !environment.folder.exists());
        end(&environment);
    }

    #[test]
    fn every_requirement_names_exactly_one_version() {
        let workspace = Workspace::locate().expect("a checkout");
        for clients in CLIENTS {
            let list = fs::read_to_string(workspace.root().join(clients.list)).expect("read");
            let lines: Vec<&str> = list.lines().filter(|line| !line.is_empty() && !line.starts_with('#')).collect();
            for name in clients.modules {
                assert!(lines.iter().any(|line| line.starts_with(&format!("{name}=="))), "{name} is in no line");
            }
            assert!(lines.iter().all(|line| line.split("==").count() == 2 && !line.contains(['*', ' '])), "{lines:?}");
        }
    }

    #[test]
    fn each_environment_has_a_folder_and_a_list_of_its_own() {
        for (at, clients) in CLIENTS.iter().enumerate() {
            let others = &CLIENTS[at + 1..];
            assert!(others.iter().all(|other| other.folder != clients.folder && other.list != clients.list), "{at}");
        }
    }
}
