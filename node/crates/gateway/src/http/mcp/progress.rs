//! How far a call is, as notifications to the client that gave a token for them.
//!
//! Always: what is told increases, as the protocol wants it, so that news without progress are left out. What was taken
//! to be told is told, also when the call is over meanwhile.

use std::convert::Infallible;
use std::future::pending;

use futures::FutureExt as _;
use futures::future::BoxFuture;
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
    /// What is on its way to the client: it goes out whoever stops waiting for it.
    telling: Option<BoxFuture<'static, ()>>,
    /// From here it is taken. As long as somebody may tell, the last step can be heard.
    teller: Progress,
}

// === impl Hearer ===

impl Hearer {
    /// Where the tool tells, and who hears it.
    pub(super) fn of(context: &RequestContext<RoleServer>) -> (Progress, Self) {
        let Some(token) = context.meta.get_progress_token() else { return (Progress::nobody(), Self(None)) };
        let (progress, steps) = Progress::channel();
        let (peer, teller) = (context.peer.clone(), progress.clone());
        (progress, Self(Some(Heard { peer, token, steps, told: None, telling: None, teller })))
    }

    /// Hands on what is told until it is dropped.
    pub(super) async fn go_on(&mut self) -> Infallible {
        if let Some(heard) = &mut self.0 {
            heard.sent().await;
            while heard.steps.changed().await.is_ok() {
                heard.tell().await;
            }
        }
        pending().await
    }

    /// Hands on what was told last, before the answer goes out.
    pub(super) async fn finish(mut self) {
        let Some(heard) = &mut self.0 else { return };
        heard.sent().await;
        if heard.steps.has_changed().unwrap_or(false) {
            heard.tell().await;
        }
    }
}

// === impl Heard ===

impl Heard {
    async fn tell(&mut self) {
        // What comes between these two is taken now, and wakes once more for nothing.
        self.steps.mark_unchanged();
        let Step { done, total, text } = self.teller.take();
        if self.told.is_some_and(|told| done <= told) {
            return;
        }
        self.told = Some(done);
        let mut news = ProgressNotificationParam::new(self.token.clone(), counted(done)).with_message(text);
        if let Some(total) = total {
            news = news.with_total(counted(total));
        }
        let peer = self.peer.clone();
        let telling = async move {
            // A client that has left ends the call by itself.
            if let Err(error) = peer.notify_progress(news).await {
                tracing::debug!(%error, "tell a client how far its call is");
            }
        };
        self.telling = Some(telling.boxed());
        self.sent().await;
    }

    /// Waits until what is on its way has gone out.
    async fn sent(&mut self) {
        if let Some(telling) = &mut self.telling {
            telling.await;
        }
        self.telling = None;
    }
}

/// Whole numbers up to 2^53 stay what they are.
fn counted(number: u64) -> f64 {
    number as f64
}
