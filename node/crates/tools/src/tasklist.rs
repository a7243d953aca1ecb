//! Lists of tasks, as every door shows them: whose, which, and page by page.
//!
//! Always: a caller sees the tasks that it may see, the newest first and in brief. Of all that there are no more
//! than a page is held at once.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use ollamax_types::ErrorCode;

use crate::error::ToolError;
use crate::page::{behind, page, rows_max};
use crate::ports::Tasks;
use crate::principal::Principal;
use crate::views::TaskView;

/// What a list may be narrowed to: where a task stands, and the two words that stand for several of these.
pub const STATES: [&str; 8] = ["waiting", "queued", "working", "completed", "failed", "cancelled", OPEN, OVER];
/// Those that are not over.
const OPEN: &str = "open";
/// Those that are.
const OVER: &str = "over";

/// Which tasks are asked for. What is empty is as if it were not said.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TasksAsked {
    /// Those that stand so: one of [`STATES`].
    pub status: Option<String>,
    /// Those of this tool alone.
    pub tool: Option<String>,
    /// The caller's own alone, also where it may see all.
    pub mine: bool,
    /// So many at most.
    pub limit: Option<u32>,
    /// Where the page before ended.
    pub cursor: Option<String>,
}

/// Where a task stands in the list.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Place {
    created_at: String,
    id: String,
}

// === impl Place ===

impl Place {
    fn of(task: &TaskView) -> Self {
        Self { created_at: task.created_at.clone(), id: task.id.clone() }
    }

    /// A moment that has no fraction of a second comes before one that has.
    fn moment(&self) -> &str {
        self.created_at.trim_end_matches('Z')
    }
}

impl Ord for Place {
    /// The newest first.
    fn cmp(&self, other: &Self) -> Ordering {
        other.moment().cmp(self.moment()).then_with(|| self.id.cmp(&other.id))
    }
}

impl PartialOrd for Place {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.created_at, self.id)
    }
}

impl FromStr for Place {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (created_at, id) = text.split_once('/').filter(|(moment, _)| is_moment(moment)).ok_or(())?;
        Ok(Self { created_at: created_at.to_owned(), id: id.to_owned() })
    }
}

/// A page of the tasks that a caller asks for and may see, the newest first, and the cursor of the next page where
/// there is one.
///
/// # Errors
/// When the status is none, the cursor is none of this list's, or the state cannot be read.
pub fn list(
    tasks: &dyn Tasks,
    principal: &Principal,
    asked: &TasksAsked,
) -> Result<(Vec<TaskView>, Option<String>), ToolError> {
    let (status, tool) = (said(asked.status.as_deref()), said(asked.tool.as_deref()));
    if let Some(word) = status.filter(|word| !STATES.contains(word)) {
        let message = format!("no task stands at {word:?}");
        return Err(ToolError::new(ErrorCode::BadRequest, message, format!("say one of {}", STATES.join(", "))));
    }
    let after: Option<Place> = behind(said(asked.cursor.as_deref()))?;
    let own = principal.subject().to_string();
    let fits = |task: &TaskView| {
        task.is_seen_by(principal)
            && status.is_none_or(|status| stands(task, status))
            && tool.is_none_or(|tool| task.tool == tool)
            && (!asked.mine || task.subject == own)
    };
    // One more than a page tells whether there is another page.
    let held_max = rows_max(asked.limit).saturating_add(1);
    let mut rows: BTreeMap<Place, TaskView> = BTreeMap::new();
    tasks.each(status.is_some_and(is_open), &mut |task| {
        let place = Place::of(&task);
        if !fits(&task) || after.as_ref().is_some_and(|after| place <= *after) {
            return;
        }
        rows.insert(place, task.brief());
        if rows.len() > held_max {
            rows.pop_last();
        }
    })?;
    page(rows.into_values().collect(), Place::of, None, asked.limit)
}

/// Whether a text may be when a task began: what is in the order of these and is none would begin a page anywhere.
fn is_moment(text: &str) -> bool {
    let fits = |byte: u8| byte.is_ascii_digit() || b"-:.TZ".contains(&byte);
    text.ends_with('Z') && text.starts_with(|first: char| first.is_ascii_digit()) && text.bytes().all(fits)
}

fn said(word: Option<&str>) -> Option<&str> {
    word.filter(|word| !word.is_empty())
}

/// Whether what stands so is not over.
fn is_open(status: &str) -> bool {
    matches!(status, OPEN | "waiting" | "queued" | "working")
}

fn stands(task: &TaskView, status: &str) -> bool {
    match status {
        OPEN => !task.is_over(),
        OVER => task.is_over(),
        status => task.status == status,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::mem::MemTasks;

    /// Tasks of a user and of loopback, the oldest first.
    fn kept() -> MemTasks {
        let tasks = MemTasks::default();
        let rows = [
            ("a", "pull_model", "completed", "uid/1", "00Z"),
            ("b", "pull_model", "working", "loopback", "00.25Z"),
            ("c", "delete_model", "waiting", "uid/1", "00.5Z"),
            ("e", "pull_model", "failed", "uid/1", "01Z"),
            ("d", "pull_model", "queued", "uid/1", "01Z"),
        ];
        for (id, tool, status, subject, at) in rows {
            tasks.set(id, |task| {
                (task.tool, task.status) = (tool.to_owned(), status.to_owned());
                (task.subject, task.created_at) = (subject.to_owned(), format!("1970-01-01T00:00:{at}"));
                task.result = Some(json!("large"));
            });
        }
        tasks
    }

    fn listed(principal: &Principal, asked: &TasksAsked) -> Result<(String, Option<String>), ErrorCode> {
        let (rows, next) = list(&kept(), principal, asked).map_err(|error| error.code)?;
        assert!(rows.iter().all(|task| task.result.is_none()), "{rows:?}");
        Ok((rows.into_iter().map(|task| task.id).collect(), next))
    }

    #[test]
    fn tasks_are_listed_newest_first_as_they_are_asked_for() {
        let check = |principal: Principal, status: &str, tool: &str, mine: bool, expected: &str| {
            let asked =
                TasksAsked { status: Some(status.to_owned()), tool: Some(tool.to_owned()), mine, ..Default::default() };
            assert_eq!(listed(&principal, &asked), Ok((expected.to_owned(), None)), "{asked:?}");
        };
        let admin = || Principal::of_socket(1);
        check(admin(), "", "", false, "decba");
        check(admin(), "", "", true, "deca");
        check(admin(), "open", "", false, "dcb");
        check(admin(), "over", "", false, "ea");
        check(admin(), "working", "", false, "b");
        check(admin(), "failed", "pull_model", false, "e");
        check(admin(), "open", "pull_model", true, "d");
        check(admin(), "", "delete", false, "");
        check(Principal::loopback(), "", "", false, "b");
        check(Principal::loopback(), "over", "", false, "");
    }

    #[test]
    fn pages_follow_each_other_and_what_makes_no_sense_is_refused() {
        let mut asked = TasksAsked { limit: Some(2), ..Default::default() };
        let mut pages = Vec::new();
        loop {
            let (page, next) = listed(&Principal::of_socket(1), &asked).expect("a page");
            pages.push(page);
            asked.cursor = next;
            if asked.cursor.is_none() {
                break;
            }
        }
        assert_eq!(pages, ["de", "cb", "a"]);
        let wrong = |status: &str, cursor: &str| {
            let asked =
                TasksAsked { status: Some(status.to_owned()), cursor: Some(cursor.to_owned()), ..Default::default() };
            listed(&Principal::loopback(), &asked).err()
        };
        assert_eq!((wrong("", ""), wrong("dead", "")), (None, Some(ErrorCode::BadRequest)));
        // The last two are cursors of other lists.
        for cursor in ["no place", "/", "/a", "z/a", "Z/a", "7", "library/m:latest"] {
            assert_eq!(wrong("", cursor), Some(ErrorCode::BadRequest), "{cursor}");
        }
        assert_eq!(wrong("", "1970-01-01T00:00:00.25Z/b"), None);
    }
}
