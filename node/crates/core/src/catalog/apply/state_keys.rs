//! The keys that seal what clients carry.
//!
//! Always holds: another key is taken only where one is due by log time, so that two leaders who both drew one, or one
//! that did not hear that its key was taken, add one key and not two.

use ollamax_types::SecretKey;

use super::{Applied, Scene, Step, put};
use crate::catalog::read;
use crate::catalog::record::{Key, Record, StateKey};

pub(super) fn add(scene: &Scene<'_>, secret: SecretKey) -> Step {
    let (held, made_at) = (read::state_keys(scene.view)?, scene.entry.log_time);
    if !held.is_due(made_at) {
        return Ok(Applied::done(Vec::new()));
    }
    let key = StateKey { number: scene.index, secret, made_at };
    Ok(Applied::done(vec![put(Key::StateKeys, Record::StateKeys(held.with(key)))]))
}
