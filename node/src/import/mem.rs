//! The models of a runtime in memory, with calls that fail when a test says so.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use futures::StreamExt as _;
use futures::stream::{self, BoxStream};

use ollamax_outbound::{RuntimeError, WorkStep};
use ollamax_types::{Digest, ModelName};

use crate::import::plan::{Listed, Step};
use crate::import::store::ModelStore;

/// A runtime's models; clones share them.
#[derive(Debug, Clone, Default)]
pub(crate) struct MemStore(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    models: BTreeMap<ModelName, Digest>,
    files: BTreeSet<[u8; 32]>,
    /// What it was asked to make, and which models it gave to a registry.
    asked: Vec<String>,
    salt: u8,
    /// Changes that work before one fails.
    working: Option<usize>,
}

impl MemStore {
    /// With these models.
    pub(crate) fn with(models: &[(&str, Digest)]) -> Self {
        let store = Self::default();
        store.state().models.extend(models.iter().map(|(name, digest)| (name.parse().expect("a name"), *digest)));
        store
    }

    /// One that makes models of its own.
    pub(crate) fn salted(self, salt: u8) -> Self {
        self.state().salt = salt;
        self
    }

    /// The change after `working` more of them fails, once.
    pub(crate) fn fail_after(self, working: usize) -> Self {
        self.state().working = Some(working);
        self
    }

    /// One that has this file.
    pub(crate) fn holding(self, sha256: Digest) -> Self {
        self.state().files.insert(sha256.0);
        self
    }

    /// The bodies that it was asked to make models of, and the models that it gave to a registry.
    pub(crate) fn asked(&self) -> Vec<String> {
        self.state().asked.clone()
    }

    /// The files that it has.
    pub(crate) fn files(&self) -> Vec<Digest> {
        self.state().files.iter().copied().map(Digest).collect()
    }

    /// Every model.
    pub(crate) fn models(&self) -> BTreeMap<ModelName, Digest> {
        self.state().models.clone()
    }

    /// What it makes of a file.
    pub(crate) fn made_of(&self, sha256: Digest) -> Digest {
        let mut digest = sha256;
        digest.0[0] ^= 0x80 | self.state().salt;
        digest
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.0.lock().expect("no test panics with it")
    }

    fn change(&self) -> Result<(), RuntimeError> {
        let mut state = self.state();
        match state.working.take() {
            Some(0) => Err(refused(500, "the disk is on fire")),
            working => {
                state.working = working.map(|left| left - 1);
                Ok(())
            }
        }
    }
}

/// One step, and then the end.
fn worked(ended: Result<(), RuntimeError>) -> BoxStream<'static, Result<WorkStep, RuntimeError>> {
    let (status, layer) = ("at work".to_owned(), String::new());
    let went = WorkStep::Went { status, layer, total_bytes: 9, completed_bytes: 4 };
    stream::iter([Ok(went), ended.map(|()| WorkStep::Done)]).boxed()
}

fn refused(status: u16, message: &str) -> RuntimeError {
    RuntimeError::Refused { path: "/mem".to_owned(), status, message: message.to_owned() }
}

impl ModelStore for MemStore {
    async fn list(&self) -> Result<Vec<Listed>, RuntimeError> {
        Ok(self.models().into_iter().map(|(name, digest)| Listed { name, digest }).collect())
    }

    async fn has_file(&self, sha256: Digest) -> Result<bool, RuntimeError> {
        Ok(self.state().files.contains(&sha256.0))
    }

    async fn take_file(
        &self,
        sha256: Digest,
        size_bytes: Option<u64>,
        mut bytes: BoxStream<'static, io::Result<Bytes>>,
    ) -> Result<(), RuntimeError> {
        self.change()?;
        let mut size = 0;
        while let Some(chunk) = bytes.next().await {
            let broken = |error: io::Error| RuntimeError::UploadFailed { reason: error.to_string() };
            size += chunk.map_err(broken)?.len() as u64;
        }
        if size_bytes.is_some_and(|size_bytes| size_bytes != size) {
            return Err(refused(400, "digest mismatch"));
        }
        self.state().files.insert(sha256.0);
        Ok(())
    }

    async fn create(&self, name: &ModelName, sha256: Digest) -> Result<(), RuntimeError> {
        self.change()?;
        let digest = self.made_of(sha256);
        self.state().models.insert(name.clone(), digest);
        Ok(())
    }

    async fn take_step(&self, step: &Step) -> Result<(), RuntimeError> {
        self.change()?;
        let missing = || refused(404, "model not found");
        let mut state = self.state();
        match step {
            Step::Copy { from, to } => {
                let digest = *state.models.get(from).ok_or_else(missing)?;
                state.models.insert(to.clone(), digest);
            }
            Step::Delete(name) => drop(state.models.remove(name).ok_or_else(missing)?),
        }
        Ok(())
    }

    /// Whatever the body says, the model `mine` is made of it.
    fn make(&self, body: Bytes) -> BoxStream<'static, Result<WorkStep, RuntimeError>> {
        let made = self.change().map(|()| {
            let mut state = self.state();
            state.asked.push(String::from_utf8_lossy(&body).into_owned());
            let digest = Digest([u8::try_from(body.len()).expect("a short one"); 32]);
            state.models.insert("mine".parse().expect("a name"), digest);
        });
        worked(made)
    }

    fn give(&self, name: &ModelName, insecure: bool) -> BoxStream<'static, Result<WorkStep, RuntimeError>> {
        let given = self.change().map(|()| self.state().asked.push(format!("{name} insecure {insecure}")));
        worked(given)
    }
}
