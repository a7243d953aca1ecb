//! Whether others can dial this node: what the configuration says, else what members found when they tried. Pure.
//!
//! Only members are asked, and about what members see, so a stranger can make this node neither dialled nor hidden.
//! Before anybody has answered, and when answers stop, it stays what it was; unknown counts as direct, so no relay is
//! asked without need.

use libp2p::autonat::v1::NatStatus;

use crate::config::ReachWish;
use crate::peer::Reach;

/// What this node takes itself for.
#[derive(Debug)]
pub(super) struct Judge {
    wish: ReachWish,
    now: Reach,
}

// === impl Judge ===

impl Judge {
    pub(super) const fn new(wish: ReachWish) -> Self {
        let now = match wish {
            ReachWish::Auto => Reach::Unknown,
            ReachWish::Direct => Reach::Direct,
            ReachWish::Relayed => Reach::Relayed,
        };
        Self { wish, now }
    }

    pub(super) const fn now(&self) -> Reach {
        self.now
    }

    /// Members have found something; what it is now, when that is news.
    pub(super) fn heard(&mut self, status: &NatStatus) -> Option<Reach> {
        let found = match (self.wish, status) {
            (ReachWish::Direct | ReachWish::Relayed, _) | (ReachWish::Auto, NatStatus::Unknown) => return None,
            (ReachWish::Auto, NatStatus::Public(_)) => Reach::Direct,
            (ReachWish::Auto, NatStatus::Private) => Reach::Relayed,
        };
        let is_news = found != self.now;
        self.now = found;
        is_news.then_some(found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_members_find_counts_unless_the_configuration_answers() {
        let public = || NatStatus::Public("/ip4/10.0.0.7/tcp/1".parse().unwrap());
        let rows = [
            (ReachWish::Auto, vec![], Reach::Unknown),
            (ReachWish::Auto, vec![public()], Reach::Direct),
            (ReachWish::Auto, vec![NatStatus::Private], Reach::Relayed),
            (ReachWish::Auto, vec![NatStatus::Private, NatStatus::Unknown], Reach::Relayed),
            (ReachWish::Auto, vec![NatStatus::Private, public()], Reach::Direct),
            (ReachWish::Direct, vec![NatStatus::Private], Reach::Direct),
            (ReachWish::Relayed, vec![public()], Reach::Relayed),
        ];
        for (wish, heard, expected) in rows {
            let mut judge = Judge::new(wish);
            let told: Vec<Reach> = heard.iter().filter_map(|status| judge.heard(status)).collect();
            assert_eq!(judge.now(), expected, "{wish:?} {heard:?}");
            assert!(told.last().is_none_or(|last| *last == expected), "{wish:?} {heard:?}");
        }
    }

    #[test]
    fn the_same_answer_is_no_news() {
        let mut judge = Judge::new(ReachWish::Auto);
        assert_eq!(judge.heard(&NatStatus::Private), Some(Reach::Relayed));
        assert_eq!(judge.heard(&NatStatus::Private), None);
    }
}
