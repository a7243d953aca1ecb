//! `ollamax autopilot`: the knobs by which the leader keeps voters healthy, for the whole cluster at once.
//!
//! What is not set has its default. Times are typed and shown as people write them, and stored in milliseconds.

use std::time::Duration;

use serde_json::{Value, json};
use tonic::Status;

use ollamax_proto::v1::{ListSettingsRequest, SetSettingRequest};
use ollamax_types::autopilot::{PREFIX, Unit};
use ollamax_types::{ErrorCode, Knob, Knobs};

use crate::args::{AutopilotCommand, Global, Output};
use crate::client;
use crate::error::Failure;
use crate::output;

/// Settings that are asked for: more than there are knobs.
const PAGE: u32 = 100;

/// Runs one of them.
pub(crate) async fn run(global: &Global, command: AutopilotCommand) -> Result<(), Failure> {
    match command {
        AutopilotCommand::Show => show(global).await,
        AutopilotCommand::Set { knob, value } => {
            let knob = named(&knob)?;
            set(global, knob, parsed(knob, &value)?).await
        }
        AutopilotCommand::Reset { knob } => reset(global, named(&knob)?).await,
    }
}

async fn show(global: &Global) -> Result<(), Failure> {
    let request = ListSettingsRequest { prefix: PREFIX.to_owned(), limit: PAGE, ..ListSettingsRequest::default() };
    let listed = client::connect(global).await?.list_settings(request).await?.into_inner();
    let mut knobs = Knobs::default();
    for setting in &listed.settings {
        // What is no value changes nothing for the leader either.
        drop(knobs.take(&setting.key, &setting.value));
    }
    if global.output == Output::Json {
        let knobs: Vec<Value> = Knob::ALL.iter().map(|knob| shown(*knob, knobs.number(*knob))).collect();
        return output::json("Autopilot", json!({"knobs": knobs}));
    }
    let rows = Knob::ALL.iter().map(|knob| {
        let (now, default) = (knobs.number(*knob), Knobs::default().number(*knob));
        vec![knob.name().to_owned(), words(*knob, now), words(*knob, default), meaning(*knob).to_owned()]
    });
    output::text(&output::table(&["KNOB", "VALUE", "DEFAULT", "MEANING"], rows.collect()))
}

async fn set(global: &Global, knob: Knob, number: u64) -> Result<(), Failure> {
    let request = SetSettingRequest { key: knob.setting(), value: knob.text(number).into_bytes(), delete: false };
    let revision = client::connect(global).await?.set_setting(request).await?.into_inner().revision;
    told(global, knob, number, Some(revision))
}

async fn reset(global: &Global, knob: Knob) -> Result<(), Failure> {
    let request = SetSettingRequest { key: knob.setting(), value: Vec::new(), delete: true };
    let revision = match client::connect(global).await?.set_setting(request).await {
        Ok(reply) => Some(reply.into_inner().revision),
        Err(status) if was_never_set(&status) => None,
        Err(status) => return Err(status.into()),
    };
    told(global, knob, Knobs::default().number(knob), revision)
}

fn told(global: &Global, knob: Knob, number: u64, revision: Option<u64>) -> Result<(), Failure> {
    if global.output == Output::Json {
        let mut fields = shown(knob, number);
        fields["revision"] = revision.into();
        return output::json("AutopilotKnob", fields);
    }
    output::line(&format!("{} is {}, on every node.", knob.name(), words(knob, number)))
}

fn was_never_set(status: &Status) -> bool {
    let code = status.metadata().get("ollamax-code").and_then(|code| code.to_str().ok());
    code.and_then(ErrorCode::from_text) == Some(ErrorCode::SettingNotFound)
}

fn named(name: &str) -> Result<Knob, Failure> {
    Knob::of_name(name).ok_or_else(|| Failure::usage(format!("there is no knob {name:?}"), "ollamax autopilot show"))
}

/// The number that is meant.
fn parsed(knob: Knob, value: &str) -> Result<u64, Failure> {
    let number = match knob.unit() {
        Unit::Switch => value.parse::<bool>().ok().map(u64::from),
        Unit::Count => value.parse().ok(),
        Unit::Millis => humantime::parse_duration(value).ok().and_then(|time| u64::try_from(time.as_millis()).ok()),
    };
    let range = knob.range();
    number.filter(|number| range.contains(number)).ok_or_else(|| {
        let (least, most) = (words(knob, *range.start()), words(knob, *range.end()));
        let takes = if knob.unit() == Unit::Switch { "true or false".to_owned() } else { format!("{least} to {most}") };
        let next = format!("ollamax autopilot set {} {}", knob.name(), words(knob, Knobs::default().number(knob)));
        Failure::usage(format!("{} takes {takes}, not {value:?}", knob.name()), next)
    })
}

/// As it is typed.
fn words(knob: Knob, number: u64) -> String {
    match knob.unit() {
        Unit::Millis => humantime::format_duration(Duration::from_millis(number)).to_string().replace(' ', ""),
        Unit::Switch | Unit::Count => knob.text(number),
    }
}

fn shown(knob: Knob, number: u64) -> Value {
    let value = |number: u64| if knob.unit() == Unit::Switch { json!(number != 0) } else { json!(number) };
    let default = Knobs::default().number(knob);
    json!({"name": knob.name(), "setting": knob.setting(), "value": value(number), "default": value(default)})
}

const fn meaning(knob: Knob) -> &'static str {
    match knob {
        Knob::CleanupDead => "whether silent members lose their seat, and later their membership",
        Knob::LastContact => "oldest answer of a healthy node",
        Knob::MaxTrailingLogs => "log entries that a healthy node may lie behind",
        Knob::Stabilization => "how long a node must be healthy to get a seat",
        Knob::DeadAfter => "silence after which a voter may lose its seat",
        Knob::RemoveAfter => "silence after which a member that may vote is removed",
        Knob::MinQuorum => "voters that are left in any case",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_typed_as_people_write_them() {
        let check = |knob: Knob, value: &str, expected: Option<u64>| {
            assert_eq!(parsed(knob, value).ok(), expected, "{knob:?} {value}");
        };
        check(Knob::DeadAfter, "30m", Some(1_800_000));
        check(Knob::DeadAfter, "1h 30m", Some(5_400_000));
        check(Knob::DeadAfter, "600000", None);
        check(Knob::DeadAfter, "1ms", None);
        check(Knob::CleanupDead, "false", Some(0));
        check(Knob::CleanupDead, "no", None);
        check(Knob::MinQuorum, "5", Some(5));
        check(Knob::MinQuorum, "6", None);
        for knob in Knob::ALL {
            let default = Knobs::default().number(knob);
            assert_eq!(parsed(knob, &words(knob, default)).ok(), Some(default), "{knob:?}");
        }
        let refused = parsed(Knob::MinQuorum, "9").expect_err("too many").page(false);
        assert_eq!(refused, "error: min_quorum takes 1 to 5, not \"9\"\n  try: ollamax autopilot set min_quorum 3\n");
    }
}
