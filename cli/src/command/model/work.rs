//! What the runtime of a node does for a command, as it is shown while it goes on.
//!
//! One bar says what the runtime does now; further copies have a row for each node. Nothing is drawn where nobody
//! looks.

use indicatif::ProgressBar;

use ollamax_proto::v1::RuntimeProgress;

use super::pull::Rows;

/// Longest word of a runtime beside the bar.
const STATUS_CHARS_MAX: usize = 40;

/// What is drawn.
pub(super) struct Work {
    bar: ProgressBar,
    rows: Rows,
}

// === impl Work ===

impl Work {
    pub(super) fn new(is_drawn: bool) -> Self {
        let bar = if is_drawn { super::bar(0) } else { ProgressBar::hidden() };
        Self { bar, rows: Rows::new(is_drawn) }
    }

    /// The bar, for what is done before anybody is asked.
    pub(super) const fn bar(&self) -> &ProgressBar {
        &self.bar
    }

    pub(super) fn show(&mut self, progress: &RuntimeProgress) {
        if let Some(copy) = &progress.copy {
            self.bar.finish_and_clear();
            self.rows.show(copy);
            return;
        }
        self.bar.set_length(progress.total_bytes);
        self.bar.set_position(progress.completed_bytes);
        self.bar.set_message(in_short(&progress.status));
    }

    pub(super) fn clear(&self) {
        self.bar.finish_and_clear();
        self.rows.clear();
    }
}

fn in_short(status: &str) -> String {
    status.chars().take(STATUS_CHARS_MAX).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bar_says_what_the_runtime_does_now() {
        let mut work = Work::new(false);
        let progress = |status: &str, total_bytes, completed_bytes| RuntimeProgress {
            status: status.to_owned(),
            total_bytes,
            completed_bytes,
            ..RuntimeProgress::default()
        };
        work.show(&progress("uploading", 9, 4));
        assert_eq!((work.bar().length(), work.bar().position()), (Some(9), 4));
        work.show(&progress("writing manifest", 0, 0));
        assert_eq!((work.bar().length(), work.bar().position()), (Some(0), 0));
        assert_eq!(work.bar().message(), "writing manifest");
        let long = format!("using existing layer sha256:{}", "ab".repeat(32));
        work.show(&progress(&long, 0, 0));
        assert_eq!(work.bar().message(), "using existing layer sha256:abababababab");
    }
}
