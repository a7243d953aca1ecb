//! `ollamax autopilot`: the knobs by which the leader keeps voters healthy and models where they shall be, for the
//! whole cluster at once.
//!
//! What is not set has its default. Times are typed and shown as people write them, and stored in milliseconds.

use std::ops::RangeInclusive;
use std::time::Duration;

use serde_json::{Value, json};
use tonic::Status;

use ollamax_proto::v1::{ListSettingsRequest, SetSettingRequest};
use ollamax_types::autopilot::{self, Unit};
use ollamax_types::{ErrorCode, Knob, Knobs, ReplicaKnob, ReplicaKnobs, replicas};

use crate::args::{AutopilotCommand, Global, Output};
use crate::client;
use crate::error::Failure;
use crate::output;

/// Settings that are asked for: more than there are knobs.
const PAGE: u32 = 100;

/// A knob, whatever it is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Any {
    Voters(Knob),
    Models(ReplicaKnob),
}

/// What all of them are set to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Numbers {
    voters: Knobs,
    models: ReplicaKnobs,
}

// === impl Any ===

impl Any {
    fn all() -> impl Iterator<Item = Self> {
        Knob::ALL.into_iter().map(Self::Voters).chain(ReplicaKnob::ALL.into_iter().map(Self::Models))
    }

    const fn name(self) -> &'static str {
        match self {
            Self::Voters(knob) => knob.name(),
            Self::Models(knob) => knob.name(),
        }
    }

    fn setting(self) -> String {
        match self {
            Self::Voters(knob) => knob.setting(),
            Self::Models(knob) => knob.setting(),
        }
    }

    const fn unit(self) -> Unit {
        match self {
            Self::Voters(knob) => knob.unit(),
            Self::Models(knob) => knob.unit(),
        }
    }

    const fn range(self) -> RangeInclusive<u64> {
        match self {
            Self::Voters(knob) => knob.range(),
            Self::Models(knob) => knob.range(),
        }
    }

    fn text(self, number: u64) -> String {
        self.unit().text(number)
    }

    const fn meaning(self) -> &'static str {
        match self {
            Self::Voters(Knob::CleanupDead) => "whether silent members lose their seat, and later their membership",
            Self::Voters(Knob::LastContact) => "oldest answer of a healthy node",
            Self::Voters(Knob::MaxTrailingLogs) => "log entries that a healthy node may lie behind",
            Self::Voters(Knob::Stabilization) => "how long a node must be healthy to get a seat",
            Self::Voters(Knob::DeadAfter) => "silence after which a voter may lose its seat",
            Self::Voters(Knob::RemoveAfter) => "silence after which a member that may vote is removed",
            Self::Voters(Knob::MinQuorum) => "voters that are left in any case",
            Self::Models(ReplicaKnob::RepairAfter) => "silence after which copies of models are made anew elsewhere",
            Self::Models(ReplicaKnob::SteadyFor) => "how long a node must be there to get copies or lose any",
            Self::Models(ReplicaKnob::MovesMax) => "copies made for repair or room, of models at once",
            Self::Models(ReplicaKnob::DiskPercentMax) => "how full such a copy may make a disk, percent",
            Self::Models(ReplicaKnob::Rebalance) => "whether copies go from full disks to empty ones",
            Self::Models(ReplicaKnob::RebalancePercent) => "difference of disk use that is worth a move, percent",
            Self::Models(ReplicaKnob::ForgetAfter) => "how long names stay on record that nobody has any more",
        }
    }
}

// === impl Numbers ===

impl Numbers {
    fn of(&self, knob: Any) -> u64 {
        match knob {
            Any::Voters(knob) => self.voters.number(knob),
            Any::Models(knob) => self.models.number(knob),
        }
    }
}

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
    let mut client = client::connect(global).await?;
    let mut numbers = Numbers::default();
    for prefix in [autopilot::PREFIX, replicas::PREFIX] {
        let request = ListSettingsRequest { prefix: prefix.to_owned(), limit: PAGE, ..ListSettingsRequest::default() };
        for setting in client.list_settings(request).await?.into_inner().settings {
            // What is no value changes nothing for the leader either.
            drop(numbers.voters.take(&setting.key, &setting.value));
            drop(numbers.models.take(&setting.key, &setting.value));
        }
    }
    if global.output == Output::Json {
        let knobs: Vec<Value> = Any::all().map(|knob| shown(knob, numbers.of(knob))).collect();
        return output::json("Autopilot", json!({"knobs": knobs}));
    }
    let rows = Any::all().map(|knob| {
        let (now, default) = (numbers.of(knob), Numbers::default().of(knob));
        vec![knob.name().to_owned(), words(knob, now), words(knob, default), knob.meaning().to_owned()]
    });
    output::text(&output::table(&["KNOB", "VALUE", "DEFAULT", "MEANING"], rows.collect()))
}

async fn set(global: &Global, knob: Any, number: u64) -> Result<(), Failure> {
    let request = SetSettingRequest { key: knob.setting(), value: knob.text(number).into_bytes(), delete: false };
    let revision = client::connect(global).await?.set_setting(request).await?.into_inner().revision;
    told(global, knob, number, Some(revision))
}

async fn reset(global: &Global, knob: Any) -> Result<(), Failure> {
    let request = SetSettingRequest { key: knob.setting(), value: Vec::new(), delete: true };
    let revision = match client::connect(global).await?.set_setting(request).await {
        Ok(reply) => Some(reply.into_inner().revision),
        Err(status) if was_never_set(&status) => None,
        Err(status) => return Err(status.into()),
    };
    told(global, knob, Numbers::default().of(knob), revision)
}

fn told(global: &Global, knob: Any, number: u64, revision: Option<u64>) -> Result<(), Failure> {
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

fn named(name: &str) -> Result<Any, Failure> {
    Any::all()
        .find(|knob| knob.name() == name)
        .ok_or_else(|| Failure::usage(format!("there is no knob {name:?}"), "ollamax autopilot show"))
}

/// The number that is meant.
fn parsed(knob: Any, value: &str) -> Result<u64, Failure> {
    let number = match knob.unit() {
        Unit::Switch => value.parse::<bool>().ok().map(u64::from),
        Unit::Count => value.parse().ok(),
        Unit::Millis => humantime::parse_duration(value).ok().and_then(|time| u64::try_from(time.as_millis()).ok()),
    };
    let range = knob.range();
    number.filter(|number| range.contains(number)).ok_or_else(|| {
        let (least, most) = (words(knob, *range.start()), words(knob, *range.end()));
        let takes = if knob.unit() == Unit::Switch { "true or false".to_owned() } else { format!("{least} to {most}") };
        let next = format!("ollamax autopilot set {} {}", knob.name(), words(knob, Numbers::default().of(knob)));
        Failure::usage(format!("{} takes {takes}, not {value:?}", knob.name()), next)
    })
}

/// As it is typed.
fn words(knob: Any, number: u64) -> String {
    match knob.unit() {
        Unit::Millis => humantime::format_duration(Duration::from_millis(number)).to_string().replace(' ', ""),
        Unit::Switch | Unit::Count => knob.text(number),
    }
}

fn shown(knob: Any, number: u64) -> Value {
    let value = |number: u64| if knob.unit() == Unit::Switch { json!(number != 0) } else { json!(number) };
    let default = Numbers::default().of(knob);
    json!({"name": knob.name(), "setting": knob.setting(), "value": value(number), "default": value(default)})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_typed_as_people_write_them() {
        let check = |knob: Any, value: &str, expected: Option<u64>| {
            assert_eq!(parsed(knob, value).ok(), expected, "{knob:?} {value}");
        };
        check(Any::Voters(Knob::DeadAfter), "30m", Some(1_800_000));
        check(Any::Voters(Knob::DeadAfter), "1h 30m", Some(5_400_000));
        check(Any::Voters(Knob::DeadAfter), "600000", None);
        check(Any::Voters(Knob::DeadAfter), "1ms", None);
        check(Any::Voters(Knob::CleanupDead), "false", Some(0));
        check(Any::Voters(Knob::CleanupDead), "no", None);
        check(Any::Models(ReplicaKnob::RepairAfter), "5m", Some(300_000));
        check(Any::Voters(Knob::MinQuorum), "5", Some(5));
        check(Any::Voters(Knob::MinQuorum), "6", None);
        for knob in Any::all() {
            let default = Numbers::default().of(knob);
            assert_eq!(parsed(knob, &words(knob, default)).ok(), Some(default), "{knob:?}");
        }
        let refused = parsed(Any::Voters(Knob::MinQuorum), "9").expect_err("too many").page(false);
        assert_eq!(refused, "error: min_quorum takes 1 to 5, not \"9\"\n  try: ollamax autopilot set min_quorum 3\n");
    }
}
