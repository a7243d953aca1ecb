//! Cluster-wide configuration keys: linearizable by default, from this node's own state when asked, unless that is
//! known to be wrong.
//!
//! Keys and values are the caller's, except those of the autopilot, of replication and the rules for models: they are
//! checked here, at the door, because the state of an older release would take any.

use ollamax_core::catalog::{Command, Setting, read};
use ollamax_metadata as metadata;
use ollamax_proto::v1;
use ollamax_types::{ErrorCode, Knob, KnobError, ReplicaKnob, RequestId, autopilot, replicas};

use super::daemon::AdminError;
use super::{Admin, status};
use crate::rules;

const SETTINGS_PER_PAGE_MAX: u32 = 1_000;
/// Where all of them are seen.
const KNOBS_SHOWN: &str = "ollamax autopilot show";

impl Admin {
    pub(super) async fn setting(&self, key: String, local: bool) -> Result<v1::GetSettingReply, AdminError> {
        let metadata = self.fresh(local).await?;
        let Some(setting) = read::setting(&*metadata.view(), &key)? else {
            let what = format!("there is no setting {key:?}");
            return Err(AdminError::new(ErrorCode::SettingNotFound, what, "it was never set, or was deleted", ""));
        };
        let view = Some(status::local_view(&metadata.status()));
        Ok(v1::GetSettingReply { setting: Some(shown(key, setting)), view })
    }

    pub(super) async fn set_setting(
        &self,
        id: RequestId,
        request: v1::SetSettingRequest,
    ) -> Result<v1::SetSettingReply, AdminError> {
        let v1::SetSettingRequest { key, value, delete } = request;
        if !delete {
            check_knob(&key, &value)?;
            check_rules(&key, &value)?;
        }
        let command = if delete { Command::DeleteSetting { key } } else { Command::SetSetting { key, value } };
        let committed = self.change(id, command).await?;
        Ok(v1::SetSettingReply { revision: committed.revision, term: committed.term })
    }

    pub(super) async fn settings(&self, request: v1::ListSettingsRequest) -> Result<v1::ListSettingsReply, AdminError> {
        let metadata = self.fresh(request.local).await?;
        let limit = request.limit.clamp(1, SETTINGS_PER_PAGE_MAX) as usize;
        let after = (!request.after.is_empty()).then_some(request.after.as_str());
        let found = read::settings(&*metadata.view(), &request.prefix, after, limit + 1)?;
        let more = found.len() > limit;
        let settings = found.into_iter().take(limit).map(|(key, setting)| shown(key, setting));
        let view = Some(status::local_view(&metadata.status()));
        Ok(v1::ListSettingsReply { settings: settings.collect(), more, view })
    }

    /// The state after a linearizable barrier, or as it is here.
    pub(super) async fn fresh(&self, local: bool) -> Result<metadata::Handle, AdminError> {
        let metadata = self.metadata()?;
        metadata.check_agreement()?;
        if !local {
            metadata.read_barrier().await?;
        }
        Ok(metadata)
    }
}

fn shown(key: String, setting: Setting) -> v1::Setting {
    v1::Setting { key, value: setting.value, revision: setting.revision }
}

/// A knob of the autopilot or of replication takes only what it understands.
fn check_knob(key: &str, value: &[u8]) -> Result<(), AdminError> {
    let text = String::from_utf8_lossy(value);
    if key.starts_with(autopilot::PREFIX) {
        let Some(knob) = Knob::of_setting(key) else { return Err(no_knob(key, &Knob::ALL.map(Knob::setting))) };
        return checked(knob.parse(&text));
    }
    if key.starts_with(replicas::PREFIX) && key != rules::SETTING {
        let known = ReplicaKnob::ALL.map(ReplicaKnob::setting);
        let Some(knob) = ReplicaKnob::of_setting(key) else { return Err(no_knob(key, &known)) };
        return checked(knob.parse(&text));
    }
    Ok(())
}

fn no_knob(key: &str, known: &[String]) -> AdminError {
    let why = format!("there are {}", known.join(", "));
    AdminError::new(ErrorCode::BadRequest, format!("there is no knob {key:?}"), why, KNOBS_SHOWN)
}

fn checked(parsed: Result<u64, KnobError>) -> Result<(), AdminError> {
    parsed.map(drop).map_err(|error| AdminError::new(ErrorCode::BadRequest, error.to_string(), "", KNOBS_SHOWN))
}

/// The rules for models are what the leader acts on: nothing else is taken in their place.
fn check_rules(key: &str, value: &[u8]) -> Result<(), AdminError> {
    if key != rules::SETTING {
        return Ok(());
    }
    rules::read(value).map(drop).map_err(|problems| no_rules(&problems))
}

/// All that is wrong with a text.
pub(super) fn no_rules(problems: &[String]) -> AdminError {
    let next = "ollamax model rules show";
    AdminError::new(ErrorCode::BadRequest, "these are no rules for models", problems.join("; "), next)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rules_for_models_are_rules_and_other_settings_take_anything() {
        let check = |key: &str, value: &str, expected: Option<&str>| {
            let error = check_rules(key, value.as_bytes()).err();
            let why = error.as_ref().map(|error| error.why.as_str());
            assert_eq!(why.is_some(), expected.is_some(), "{key} {value}");
            assert!(why.unwrap_or_default().starts_with(expected.unwrap_or_default()), "{why:?}");
            assert!(error.is_none_or(|error| error.code == ErrorCode::BadRequest && !error.next.is_empty()));
        };
        check("models/rules", "{}", None);
        check("models/rules.old", "{", None);
        check("models/rules", r#"{"on": 1}"#, Some("invalid type"));
        let bare = r#"{"rules": [{"match": "a*", "then": "delete"}]}"#;
        let no_condition = "rule 1: it has no condition: unused_days, age_days, phase_days or disk_percent";
        check("models/rules", bare, Some(no_condition));
    }

    #[test]
    fn a_knob_takes_only_what_it_understands_and_other_settings_take_anything() {
        let check = |key: &str, value: &[u8], expected: Option<&str>| {
            let error = check_knob(key, value).err();
            assert_eq!(error.as_ref().map(|error| error.what.as_str()), expected, "{key} {value:?}");
            assert!(error.is_none_or(|error| error.code == ErrorCode::BadRequest && !error.next.is_empty()));
        };
        check("anything", b"\xff", None);
        check("autopilot.dead_after_ms", b"60000", None);
        check("autopilot.cleanup_dead", b"false", None);
        check("autopilot.dead_after", b"60000", Some("there is no knob \"autopilot.dead_after\""));
        let refused = Some("autopilot.cleanup_dead must be true or false");
        check("autopilot.cleanup_dead", b"no", refused);
        check("autopilot.cleanup_dead", b"\xff", refused);
        check("models/repair_after_ms", b"3000", None);
        check("models/repair_after", b"3000", Some("there is no knob \"models/repair_after\""));
        check("models/moves_max", b"0", Some("models/moves_max must be a number between 1 and 64"));
        check("models/rules", b"{}", None);
    }
}
