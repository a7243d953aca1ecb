//! Gathers what the choice of a runtime depends on: environment, signs of an installed Ollama, the stored choice.
//!
//! Reads only. The stored choice is one small JSON file, `{"version":1,"kind":"ollama","url":"…"}`, written whole
//! beside itself and renamed, mode as the umask says. A damaged file counts as absent, with a warning: the choice is
//! then made again from what is found, which cannot lose anything.

use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use url::Url;

use crate::address;
use crate::choice::{Probe, Stored};
use crate::client::Client;
use crate::error::RuntimeError;

/// Where a packaged Ollama's service keeps its models, below the root.
const SERVICE_STORES: [&str; 2] = ["usr/share/ollama/.ollama/models", "var/lib/ollama/models"];
/// Version of the stored choice.
const CHOICE_VERSION: u32 = 1;

/// What the process's environment says of Ollama.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Environment {
    /// `OLLAMA_HOST`; `None` when unset or empty.
    pub ollama_host: Option<String>,
    /// `OLLAMA_MODELS`; `None` when unset or empty.
    pub ollama_models: Option<PathBuf>,
    /// `HOME`.
    pub home: Option<PathBuf>,
    /// The folders of `PATH`.
    pub path: Vec<PathBuf>,
    /// The root of the file system; tests give another.
    pub root: PathBuf,
}

#[derive(Debug, Serialize, Deserialize)]
struct ChoiceFile {
    version: u32,
    kind: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    url: Option<String>,
}

// === impl Environment ===

impl Environment {
    /// Reads this process's environment.
    #[must_use]
    pub fn of_this_process() -> Self {
        let text = |name| std::env::var(name).ok().filter(|value| !value.trim().is_empty());
        Self {
            ollama_host: text("OLLAMA_HOST"),
            ollama_models: text("OLLAMA_MODELS").map(PathBuf::from),
            home: text("HOME").map(PathBuf::from),
            path: std::env::var_os("PATH").map(|path| std::env::split_paths(&path).collect()).unwrap_or_default(),
            root: PathBuf::from("/"),
        }
    }

    /// `OLLAMA_HOST` as an address; one that cannot be read is warned about and left out.
    #[must_use]
    pub fn ollama_host_url(&self) -> Option<Url> {
        let text = self.ollama_host.as_deref()?;
        match address::parse(text) {
            Ok(url) => Some(url),
            Err(error) => {
                tracing::warn!(%error, "OLLAMA_HOST is ignored");
                None
            }
        }
    }

    /// The first sign that Ollama is installed on this machine.
    #[must_use]
    pub fn installed(&self) -> Option<String> {
        let sign = self.signs().into_iter().find(|path| path.exists())?;
        Some(format!("{} exists", sign.display()))
    }

    /// Where an Ollama on this machine may keep its models, likeliest first: what `OLLAMA_MODELS` says (if it is set,
    /// nothing else), then the stores of an installed service, then the one in the home directory.
    #[must_use]
    pub fn model_stores(&self) -> Vec<PathBuf> {
        if let Some(models) = &self.ollama_models {
            return vec![models.clone()];
        }
        let own = self.home.as_ref().map(|home| home.join(".ollama/models"));
        SERVICE_STORES.iter().map(|path| self.root.join(path)).chain(own).collect()
    }

    fn signs(&self) -> Vec<PathBuf> {
        const UNITS: [&str; 3] = ["etc/systemd/system", "usr/lib/systemd/system", "lib/systemd/system"];
        const BINARIES: [&str; 4] =
            ["usr/local/bin/ollama", "usr/bin/ollama", "opt/homebrew/bin/ollama", "Applications/Ollama.app"];
        let units = UNITS.iter().map(|folder| self.root.join(folder).join("ollama.service"));
        let fixed = BINARIES.iter().map(|path| self.root.join(path));
        let on_path = self.path.iter().map(|folder| folder.join("ollama"));
        // A store counts wherever it lies: OLLAMA_MODELS may be set for this process and not for the service.
        let anywhere = Self { ollama_models: None, ..self.clone() };
        let stores = self.ollama_models.iter().cloned().chain(anywhere.model_stores());
        let stores = stores.map(|models| models.join("manifests"));
        units.chain(fixed).chain(on_path).chain(stores).collect()
    }
}

/// Asks what answers at an address.
pub async fn probe(client: &Client) -> Probe {
    match client.version().await {
        Ok(_) => Probe::Ollama,
        Err(RuntimeError::IsOllamaMax { .. }) => Probe::OllamaMax,
        Err(error) => Probe::Nothing(error.to_string()),
    }
}

/// The stored choice; `None` when there is none or it cannot be understood.
#[must_use]
pub fn load_choice(path: &Path) -> Option<Stored> {
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
        Err(error) => {
            tracing::warn!(path = %path.display(), %error, "read the stored choice of a runtime");
            return None;
        }
    };
    let stored = serde_json::from_str::<ChoiceFile>(&text).ok().and_then(ChoiceFile::into_stored);
    if stored.is_none() {
        tracing::warn!(path = %path.display(), "the stored choice of a runtime is damaged; choosing again");
    }
    stored
}

/// Stores the choice.
///
/// # Errors
/// When the folder cannot be written.
pub fn store_choice(path: &Path, choice: &Stored) -> io::Result<()> {
    let (kind, url) = match choice {
        Stored::Ollama { url } => ("ollama", Some(url.to_string())),
        Stored::Engine => ("engine", None),
    };
    let file = ChoiceFile { version: CHOICE_VERSION, kind: kind.to_owned(), url };
    let text = serde_json::to_string(&file).map_err(io::Error::other)?;
    let beside = path.with_extension("new");
    let mut new = std::fs::File::create(&beside)?;
    new.write_all(text.as_bytes())?;
    new.sync_all()?;
    std::fs::rename(&beside, path)?;
    path.parent().map_or(Ok(()), |folder| std::fs::File::open(folder)?.sync_all())
}

// === impl ChoiceFile ===

impl ChoiceFile {
    fn into_stored(self) -> Option<Stored> {
        match (self.version, self.kind.as_str(), self.url) {
            (CHOICE_VERSION, "engine", _) => Some(Stored::Engine),
            (CHOICE_VERSION, "ollama", Some(url)) => Some(Stored::Ollama { url: address::parse(&url).ok()? }),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(place: &str, expected: bool) {
        let root = tempfile::tempdir().expect("temporary folder");
        let file = root.path().join(place);
        std::fs::create_dir_all(file.parent().expect("has a parent")).expect("made");
        std::fs::write(&file, "").expect("written");
        let environment = Environment {
            home: Some(root.path().join("home/me")),
            path: vec![root.path().join("my/bin")],
            ollama_models: Some(root.path().join("models")),
            root: root.path().to_owned(),
            ollama_host: None,
        };
        let expected = expected.then(|| format!("{} exists", file.display()));
        assert_eq!(environment.installed(), expected, "{place}");
    }

    #[test]
    fn finds_a_unit_a_binary_or_a_store_of_ollama() {
        check("etc/systemd/system/ollama.service", true);
        check("usr/lib/systemd/system/ollama.service", true);
        check("usr/local/bin/ollama", true);
        check("my/bin/ollama", true);
        check("home/me/.ollama/models/manifests", true);
        check("models/manifests", true);
        check("usr/share/ollama/.ollama/models/manifests", true);
        check("home/me/.ollama/id_ed25519", false);
        check("usr/bin/other", false);
    }

    #[test]
    fn the_stores_are_those_of_the_environment_of_a_service_and_of_the_home_directory() {
        let mut environment = Environment { root: PathBuf::from("/r"), ..Environment::default() };
        let service = [PathBuf::from("/r/usr/share/ollama/.ollama/models"), PathBuf::from("/r/var/lib/ollama/models")];
        assert_eq!(environment.model_stores(), service);
        environment.home = Some(PathBuf::from("/var/lib/ollamax"));
        let home = PathBuf::from("/var/lib/ollamax/.ollama/models");
        assert_eq!(environment.model_stores(), [&service[..], &[home]].concat());
        environment.ollama_models = Some(PathBuf::from("/models"));
        assert_eq!(environment.model_stores(), [PathBuf::from("/models")]);
    }

    #[test]
    fn a_stored_choice_comes_back_and_a_damaged_one_counts_as_none() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let path = folder.path().join("runtime.json");
        assert_eq!(load_choice(&path), None);
        let ollama = Stored::Ollama { url: address::parse("gpu:5").expect("readable") };
        for choice in [ollama, Stored::Engine] {
            store_choice(&path, &choice).expect("stored");
            assert_eq!(load_choice(&path), Some(choice));
        }
        for damaged in
            ["", "{\"version\":1,\"ki", r#"{"version":2,"kind":"engine"}"#, r#"{"version":1,"kind":"ollama"}"#]
        {
            std::fs::write(&path, damaged).expect("written");
            assert_eq!(load_choice(&path), None, "{damaged}");
        }
    }
}
