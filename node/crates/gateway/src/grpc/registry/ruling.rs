//! The rules for models, as an administrator sets them, switches them, and looks at what they would do.
//!
//! They are a setting like any other. Whatever is shown as their plan is made by the function by which the leader acts.
//! Two administrators who set them at the same moment overwrite each other, as with any setting.

use ollamax_core::catalog::Command;
use ollamax_core::retention::{self, Act, Deed, Rules};
use ollamax_proto::v1;
use ollamax_types::RequestId;

use crate::grpc::daemon::AdminError;
use crate::grpc::pulls::Pulls;
use crate::grpc::settings;
use crate::grpc::wishes::Names;
use crate::rules;

// === impl Pulls ===

impl Pulls {
    pub(in crate::grpc) async fn rules_for_models(
        &self,
        id: RequestId,
        asked: &v1::RulesRequest,
    ) -> Result<v1::RulesReply, AdminError> {
        let is_change = asked.set.is_some() || asked.on.is_some();
        let view = self.0.fresh(!is_change).await?.view();
        let held = rules::of(&*view)?;
        let wanted = wanted(asked, held.clone())?;
        let text = rules::write(&wanted);
        if wanted != held || asked.set.is_some() {
            let (key, value) = (rules::SETTING.to_owned(), text.clone().into_bytes());
            self.0.change(id, Command::SetSetting { key, value }).await?;
        }
        let plan = if asked.plan { Some(self.planned(&wanted)?) } else { None };
        Ok(v1::RulesReply { rules: text, on: wanted.on, plan })
    }

    /// What they would do now, whether they are on or not.
    fn planned(&self, rules: &Rules) -> Result<v1::PlanView, AdminError> {
        let acts = retention::plan(&self.facts()?, rules);
        let names = Names::of(&*self.0.metadata()?.view())?;
        let frees_bytes = acts.iter().fold(0, |sum: u64, act| sum.saturating_add(act.frees_bytes));
        Ok(v1::PlanView { acts: acts.iter().map(|act| shown(act, &names)).collect(), frees_bytes })
    }
}

/// The rules as they are to be.
fn wanted(asked: &v1::RulesRequest, held: Rules) -> Result<Rules, AdminError> {
    let rules = match &asked.set {
        Some(text) => rules::read(text.as_bytes()).map_err(|problems| settings::no_rules(&problems))?,
        None => held,
    };
    Ok(Rules { on: asked.on.unwrap_or(rules.on), ..rules })
}

fn shown(act: &Act, names: &Names) -> v1::ActView {
    v1::ActView {
        name: act.name.to_string(),
        node_id: act.node.map_or(0, |node| node.0),
        node_name: act.node.map(|node| names.name(node)).unwrap_or_default(),
        deed: word(act.deed).to_owned(),
        frees_bytes: act.frees_bytes,
        why: act.why.clone(),
        rule: u32::try_from(act.rule).unwrap_or(u32::MAX),
        ..v1::ActView::default()
    }
}

const fn word(deed: Deed) -> &'static str {
    match deed {
        Deed::Deprecate => "deprecate",
        Deed::Disable => "disable",
        Deed::Drop => "drop",
        Deed::Delete => "delete",
    }
}

#[cfg(test)]
mod tests {
    use ollamax_types::ErrorCode;

    use super::*;

    #[test]
    fn the_switch_holds_over_the_file_and_without_it_the_file_does() {
        let rule = r#""rules": [{"match": "*", "unused_days": 60, "then": "deprecate"}]"#;
        let held = rules::read(format!(r#"{{"on": true, {rule}}}"#).as_bytes()).expect("rules");
        let check = |set: Option<&str>, on: Option<bool>, expected: (bool, usize)| {
            let asked = v1::RulesRequest { plan: false, set: set.map(str::to_owned), on };
            let wanted = wanted(&asked, held.clone()).expect("rules");
            assert_eq!((wanted.on, wanted.rules.len()), expected, "{asked:?}");
        };
        check(None, None, (true, 1));
        check(None, Some(false), (false, 1));
        check(Some("{}"), None, (false, 0));
        check(Some(r#"{"on": true}"#), None, (true, 0));
        check(Some("{}"), Some(true), (true, 0));
        let asked = v1::RulesRequest { plan: false, set: Some("{".to_owned()), on: None };
        assert_eq!(wanted(&asked, held).map_err(|error| error.code), Err(ErrorCode::BadRequest));
    }
}
