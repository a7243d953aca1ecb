//! How far a call is, as notifications to the client that gave a token for them.
//!
//! Always: what is told increases, as the protocol wants it, so that news without progress are left out.

use std::convert::Infallible;
use std::future::pending;

use rmcp::RoleServer;
use rmcp::model::{ProgressNotificationParam, ProgressToken};
use rmcp::service::{Peer, RequestContext};
use tokio::sync::watch;

use ollamax_tools::{Progress, Step};

/// Who hears of one call.
pub(super) struct Hearer(Option<Heard>);

struct Heard {
    peer: Peer<RoleServer>,
    token: ProgressToken,
    steps: watch::Receiver<Step>,
    told: Option<u64>,
    /// As long as somebody may tell, the last step can be heard.
    _teller: Progress,
}

// === impl Hearer ===

impl Hearer {
    /// Where the tool tells, and who hears it.
    pub(super) fn of(context: &RequestContext<RoleServer>) -> (Progress, Self) {
        let Some(token) = context.meta.get_progress_token() else { return (Progress::nobody(), Self(None)) };
        let (progress, steps) = Progress::channel();
        let (peer, teller) = (context.peer.clone(), progress.clone());
        (progress, Self(Some(Heard { peer, token, steps, told: None, _teller: teller })))
    }

    /// Hands on what is told until it is dropped.
    pub(super) async fn go_on(&mut self) -> Infallible {
        if let Some(heard) = &mut self.0 {
            while heard.steps.changed().await.is_ok() {
                heard.tell().await;
            }
        }
        pending().await
    }

    /// Hands on what was told last, before the answer goes out.
    pub(super) async fn finish(mut self) {
        if let Some(heard) = self.0.as_mut().filter(|heard| heard.steps.has_changed().unwrap_or(false)) {
            heard.tell().await;
        }
    }
}

// === impl Heard ===

impl Heard {
    async fn tell(&mut self) {
        let Step { done, total, text } = self.steps.borrow_and_update().clone();
        if self.told.is_some_and(|told| done <= told) {
            return;
        }
        self.told = Some(done);
        let mut news = ProgressNotificationParam::new(self.token.clone(), counted(done)).with_message(text);
        if let Some(total) = total {
            news = news.with_total(counted(total));
        }
        // A client that has left ends the call by itself.
        if let Err(error) = self.peer.notify_progress(news).await {
            tracing::debug!(%error, "tell a client how far its call is");
        }
    }
}

/// Whole numbers up to 2^53 stay what they are.
fn counted(number: u64) -> f64 {
    number as f64
}
