//! Cluster-wide configuration keys.

use ollamax_types::limits::{SETTING_KEY_BYTES_MAX, SETTING_VALUE_BYTES_MAX};

use super::limit::check_bytes;
use super::{Applied, Scene, Step, invalid, put};
use crate::catalog::command::Refusal;
use crate::catalog::read;
use crate::catalog::record::{Key, Record, Setting};
use crate::catalog::view::Mutation;

pub(super) fn set(scene: &Scene<'_>, key: &str, value: &[u8]) -> Step {
    check_bytes("the key", key, SETTING_KEY_BYTES_MAX)?;
    if value.len() > SETTING_VALUE_BYTES_MAX {
        let bytes = value.len();
        return Err(invalid(format!("the value has {bytes} bytes; the limit is {SETTING_VALUE_BYTES_MAX}")));
    }
    let setting = Setting { value: value.to_vec(), revision: scene.index };
    Ok(Applied::done(vec![put(Key::Setting(key.to_owned()), Record::Setting(setting))]))
}

pub(super) fn delete(scene: &Scene<'_>, key: &str) -> Step {
    if read::setting(scene.view, key)?.is_none() {
        return Err(Refusal::SettingNotFound(key.to_owned()).into());
    }
    Ok(Applied::done(vec![Mutation::Delete(Key::Setting(key.to_owned()))]))
}
