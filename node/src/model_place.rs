//! Where the runtime beside this node keeps its models.
//!
//! The bundled engine's store is ours. An Ollama's is looked for where its environment and its packages put it, when it
//! runs on this machine. Looks only for folders that are there, or that may be behind a folder that is shut to this
//! process: who opens such a one is told so. Nothing is made or opened.

use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use ollamax_outbound::{Environment, Report, address};
use ollamax_types::RuntimeKind;

/// Where the models are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum ModelPlace {
    /// In this folder, which is there, or behind a folder that is shut to this process.
    Store(PathBuf),
    /// Not on this machine, or not yet; why.
    Elsewhere(&'static str),
    /// At none of these places.
    NotFound(Vec<PathBuf>),
}

/// Where the runtime of this report keeps its models, whether it answers or not. Blocks on the disk.
#[must_use]
pub(crate) fn model_place(report: &Report, data_dir: &Path, environment: &Environment) -> ModelPlace {
    let places = match report.kind {
        RuntimeKind::Engine if !data_dir.join("models").exists() => {
            return ModelPlace::Elsewhere("the engine has not made its store yet");
        }
        RuntimeKind::Engine => vec![data_dir.join("models")],
        // One that was chosen has an address before it answers for the first time.
        RuntimeKind::Ollama if report.url.is_empty() => return ModelPlace::Elsewhere("no runtime beside this node"),
        RuntimeKind::Ollama if address::parse(&report.url).is_ok_and(|url| address::is_loopback(&url)) => {
            environment.model_stores()
        }
        RuntimeKind::Ollama => return ModelPlace::Elsewhere("the runtime runs on another machine"),
    };
    match choose(&places, Path::try_exists) {
        Some(place) => ModelPlace::Store(place.clone()),
        None => ModelPlace::NotFound(places),
    }
}

/// The first of the places that is there; where none is, the first behind a folder that is shut to this process.
fn choose(places: &[PathBuf], exists: impl Fn(&Path) -> io::Result<bool>) -> Option<&PathBuf> {
    let is_there = |place: &&PathBuf| exists(place).unwrap_or(false);
    let is_shut = |place: &&PathBuf| exists(place).is_err_and(|error| error.kind() == ErrorKind::PermissionDenied);
    places.iter().find(is_there).or_else(|| places.iter().find(is_shut))
}

/// That there is no store at these places, for people.
#[must_use]
pub(crate) fn none_at(places: &[PathBuf]) -> String {
    format!("none at {}", listed(places))
}

/// These places, for people.
#[must_use]
pub(crate) fn listed(places: &[PathBuf]) -> String {
    if places.is_empty() {
        return "any known place".to_owned();
    }
    let places: Vec<String> = places.iter().map(|place| place.display().to_string()).collect();
    places.join(", ")
}

#[cfg(test)]
mod tests {
    use ollamax_types::RuntimeState;

    use super::*;

    #[test]
    fn a_place_behind_a_shut_folder_counts_behind_those_that_are_there() {
        let check = |places: &[&str], expected: Option<&str>| {
            let exists = |place: &Path| match place.to_str() {
                Some("/there") => Ok(true),
                Some("/shut/models") => Err(ErrorKind::PermissionDenied.into()),
                Some("/broken") => Err(ErrorKind::NotADirectory.into()),
                _ => Ok(false),
            };
            let paths: Vec<PathBuf> = places.iter().map(PathBuf::from).collect();
            assert_eq!(choose(&paths, exists), expected.map(PathBuf::from).as_ref(), "{places:?}");
        };
        check(&["/shut/models"], Some("/shut/models"));
        check(&["/gone", "/broken", "/shut/models"], Some("/shut/models"));
        check(&["/shut/models", "/there"], Some("/there"));
        check(&["/there", "/shut/models"], Some("/there"));
        check(&["/gone", "/broken"], None);
        check(&[], None);
    }

    #[test]
    fn the_store_is_that_of_the_runtime_as_it_is_now() {
        let root = tempfile::tempdir().expect("temp");
        let data_dir = root.path().join("data");
        let packaged = root.path().join("usr/share/ollama/.ollama/models");
        let own = data_dir.join("models");
        let environment = Environment {
            home: Some(root.path().join("var/lib/ollamax")),
            root: root.path().to_owned(),
            ..Environment::default()
        };
        let look = |kind, state, url: &str| {
            let report = Report { state, url: url.to_owned(), ..Report::absent(kind) };
            model_place(&report, &data_dir, &environment)
        };
        let local = "http://127.0.0.1:11434/";
        let down = || RuntimeState::Down("it starts".to_owned());

        let place = look(RuntimeKind::Ollama, RuntimeState::Absent, "");
        assert_eq!(place, ModelPlace::Elsewhere("no runtime beside this node"));
        let place = look(RuntimeKind::Engine, down(), "");
        assert_eq!(place, ModelPlace::Elsewhere("the engine has not made its store yet"));
        let place = look(RuntimeKind::Ollama, RuntimeState::Up, "http://gpu.lan:11434/");
        assert_eq!(place, ModelPlace::Elsewhere("the runtime runs on another machine"));
        let ModelPlace::NotFound(places) = look(RuntimeKind::Ollama, RuntimeState::Up, local) else {
            panic!("there is none yet");
        };
        assert!(places.contains(&packaged), "{places:?}");
        assert!(none_at(&places).starts_with("none at /"), "{}", none_at(&places));
        assert_eq!(none_at(&[]), "none at any known place");

        std::fs::create_dir_all(&packaged).expect("made");
        std::fs::create_dir_all(&own).expect("made");
        // It is there whatever the runtime is doing, from the moment that its address is known.
        for state in [RuntimeState::Absent, down(), RuntimeState::Up] {
            assert_eq!(look(RuntimeKind::Ollama, state.clone(), local), ModelPlace::Store(packaged.clone()));
            assert_eq!(look(RuntimeKind::Engine, state, local), ModelPlace::Store(own.clone()));
        }
    }
}
