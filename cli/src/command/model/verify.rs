//! `ollamax model verify`: the files of models are read again, from the disk, and what is damaged is replaced.
//!
//! The daemon reads and mends; this shows how far each node is, then what came of each file. It fails when something is
//! damaged and was not mended, or could not be read. Leaving it ends the reading.

use std::collections::BTreeMap;

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use serde_json::{Value, json};

use ollamax_proto::v1::verify_news::Sight;
use ollamax_proto::v1::{VerifyNews, VerifyRequest};
use ollamax_types::ErrorCode;

use crate::args::{Global, Output, VerifyArgs};
use crate::client;
use crate::error::{Failure, request_id};
use crate::{output, text};

/// A row: the node, its file, and how much of that was read.
const ROW: &str = "{prefix:<12} {msg:<20} {bar:24} {percent:>3} % of {total_bytes}";
/// Most pieces that are named in a line.
const PIECES_MAX: usize = 8;

/// The last word on each file of each node.
type Seen = BTreeMap<(u64, Vec<u8>), VerifyNews>;

/// One bar for each node, where somebody looks.
struct Rows {
    drawn: Option<MultiProgress>,
    bars: BTreeMap<u64, ProgressBar>,
}

/// Has files read and shows what they are.
pub(super) async fn run(global: &Global, args: &VerifyArgs) -> Result<(), Failure> {
    let (mut seen, mut rows) = (Seen::new(), Rows::new(output::may_draw(global.output)));
    let outcome = follow(global, args, &mut seen, &mut rows).await;
    rows.clear();
    // What was read of some nodes is shown, whatever became of the others.
    let files: Vec<&VerifyNews> = seen.values().filter(|news| news.sight() != Sight::Unspecified).collect();
    show(global, &files)?;
    outcome?;
    match failure(args, &files) {
        Some(failure) => Err(failure),
        None => Ok(()),
    }
}

async fn follow(global: &Global, args: &VerifyArgs, seen: &mut Seen, rows: &mut Rows) -> Result<(), Failure> {
    let request = VerifyRequest {
        name: args.name.clone().unwrap_or_default(),
        nodes: args.nodes.clone(),
        no_repair: args.no_repair,
    };
    let answer = client::connect_models(global).await?.verify(request).await?;
    let (id, mut told) = (request_id(answer.metadata()), answer.into_inner());
    while let Some(news) = told.message().await.map_err(|status| Failure::from(status).with_request_id(&id))? {
        rows.show(&news);
        seen.insert((news.node_id, news.sha256.clone()), news);
    }
    Ok(())
}

fn show(global: &Global, files: &[&VerifyNews]) -> Result<(), Failure> {
    if global.output == Output::Json {
        let files: Vec<Value> = files.iter().map(|news| shown(news)).collect();
        return output::json("ModelVerify", json!({"files": files}));
    }
    if files.is_empty() {
        output::talk(global.output, "No file was read. Next: ollamax model list");
        return Ok(());
    }
    output::text(&table(files))
}

fn table(files: &[&VerifyNews]) -> String {
    let rows = files.iter().map(|news| {
        let (file, size) = (file(news), text::bytes(news.size_bytes));
        vec![news.node_name.clone(), news.name.clone(), file, size, result(news)]
    });
    output::table(&["NODE", "MODEL", "FILE", "SIZE", "RESULT"], rows.collect())
}

fn shown(news: &VerifyNews) -> Value {
    let reason = (!news.reason.is_empty()).then(|| news.reason.clone());
    json!({
        "node": news.node_name,
        "nodeId": news.node_id,
        "name": news.name,
        "sha256": hex::encode(&news.sha256),
        "sizeBytes": news.size_bytes,
        "result": word(news.sight()),
        "pieces": news.pieces,
        "repaired": news.repaired,
        "reason": reason,
    })
}

/// What is told of a file.
fn result(news: &VerifyNews) -> String {
    match news.sight() {
        Sight::Damaged if news.repaired == Some(true) => format!("replaced by a sound file{}", pieces("; ", news)),
        Sight::Damaged => format!("damaged{}", pieces(": ", news)),
        Sight::Unread => format!("cannot be read: {}", text::in_one_line(news.reason.as_bytes())),
        sight => word(sight).to_owned(),
    }
}

const fn word(sight: Sight) -> &'static str {
    match sight {
        Sight::Unspecified => "unknown",
        Sight::Sound => "sound",
        Sight::Damaged => "damaged",
        Sight::Gone => "gone",
        Sight::Unread => "unread",
    }
}

/// Which pieces are damaged, behind `before`; nothing where that is not known.
fn pieces(before: &str, news: &VerifyNews) -> String {
    let listed: Vec<String> = news.pieces.iter().take(PIECES_MAX).map(u32::to_string).collect();
    let more = match news.pieces.len().saturating_sub(PIECES_MAX) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    match news.pieces.len() {
        0 => String::new(),
        1 => format!("{before}piece {}", listed.join(", ")),
        _ => format!("{before}pieces {}{more}", listed.join(", ")),
    }
}

/// A file, as people see it.
fn file(news: &VerifyNews) -> String {
    format!("sha256-{}", text::digest(&news.sha256))
}

/// What is wrong with the files, if something is.
fn failure(args: &VerifyArgs, files: &[&VerifyNews]) -> Option<Failure> {
    let damaged = |news: &&&VerifyNews| news.sight() == Sight::Damaged && news.repaired != Some(true);
    let bad: Vec<&&VerifyNews> = files.iter().filter(damaged).collect();
    let Some(first) = bad.first() else { return unread(files) };
    let what = match bad.len() {
        1 => format!("1 of {} files is damaged: {}{}", files.len(), file(first), pieces(", ", first)),
        count => format!("{count} of {} files are damaged; the first: {}", files.len(), file(first)),
    };
    let (node, name) = (&first.node_name, &first.name);
    let why = format!("{node}'s disk or memory gives back other bytes than it was given");
    let next = match first.repaired {
        _ if args.no_repair => format!("ollamax model verify {name} --node {node}, which replaces it by a sound one"),
        None => {
            format!("allow it on {node} with transfer.repair = true, start the daemon again, and repeat the command")
        }
        // What is damaged may be the only one that there is: nobody is told to remove it.
        Some(_) => {
            format!("on {node}: ollamax doctor; repeat the command when another node or its registry has {name}")
        }
    };
    Some(Failure::told(ErrorCode::DigestMismatch, &what, &why, &next))
}

/// What could not be read, if something could not.
fn unread(files: &[&VerifyNews]) -> Option<Failure> {
    let first = files.iter().find(|news| news.sight() == Sight::Unread)?;
    let count = files.iter().filter(|news| news.sight() == Sight::Unread).count();
    let what = format!("{count} of {} files could not be read; the first: {}", files.len(), file(first));
    let next = format!("on {}: ollamax doctor", first.node_name);
    Some(Failure::told(ErrorCode::StorageFailed, &what, &first.reason, &next))
}

// === impl Rows ===

impl Rows {
    fn new(are_drawn: bool) -> Self {
        Self { drawn: are_drawn.then(MultiProgress::new), bars: BTreeMap::new() }
    }

    fn show(&mut self, news: &VerifyNews) {
        let Some(drawn) = &self.drawn else { return };
        let bar = self.bars.entry(news.node_id).or_insert_with(|| {
            let bar = drawn.add(ProgressBar::new(news.size_bytes));
            let bar = match ProgressStyle::with_template(ROW) {
                Ok(style) => bar.with_style(style),
                Err(_) => bar,
            };
            bar.set_prefix(news.node_name.clone());
            bar
        });
        bar.set_length(news.size_bytes);
        bar.set_position(news.done_bytes);
        bar.set_message(file(news));
    }

    fn clear(&self) {
        if let Some(drawn) = &self.drawn {
            drop(drawn.clear());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn news(file: u8, sight: Sight) -> VerifyNews {
        let mut news = VerifyNews {
            node_id: 2,
            node_name: "n2".to_owned(),
            sha256: vec![file; 32],
            name: "llama3.2:latest".to_owned(),
            size_bytes: 2_000_000_000,
            done_bytes: 2_000_000_000,
            ..VerifyNews::default()
        };
        news.set_sight(sight);
        news
    }

    fn asked(no_repair: bool) -> VerifyArgs {
        VerifyArgs { name: None, nodes: Vec::new(), no_repair }
    }

    #[test]
    fn each_file_has_a_line_with_what_it_is() {
        let damaged = VerifyNews { pieces: vec![3, 17], ..news(2, Sight::Damaged) };
        let mended = VerifyNews { repaired: Some(true), ..damaged.clone() };
        let unread = VerifyNews { reason: "read again /x: permission denied".to_owned(), ..news(4, Sight::Unread) };
        let files = [&news(1, Sight::Sound), &damaged, &mended, &unread, &news(5, Sight::Gone)];
        insta::assert_snapshot!(table(&files), @r"
        NODE  MODEL            FILE                 SIZE    RESULT
        n2    llama3.2:latest  sha256-010101010101  2.0 GB  sound
        n2    llama3.2:latest  sha256-020202020202  2.0 GB  damaged: pieces 3, 17
        n2    llama3.2:latest  sha256-020202020202  2.0 GB  replaced by a sound file; pieces 3, 17
        n2    llama3.2:latest  sha256-040404040404  2.0 GB  cannot be read: read again /x: permission denied
        n2    llama3.2:latest  sha256-050505050505  2.0 GB  gone
        ");
    }

    #[test]
    fn only_what_is_damaged_still_or_was_not_read_is_a_failure() {
        let sound = news(1, Sight::Sound);
        let damaged = VerifyNews { pieces: vec![3], ..news(2, Sight::Damaged) };
        let mended = VerifyNews { repaired: Some(true), ..damaged.clone() };
        let unread = news(3, Sight::Unread);
        let told =
            |args: &VerifyArgs, files: &[&VerifyNews]| failure(args, files).map(|failure| failure.what().to_owned());
        assert_eq!(told(&asked(false), &[&sound, &mended, &news(4, Sight::Gone)]), None);
        let one = "1 of 2 files is damaged: sha256-020202020202, piece 3".to_owned();
        assert_eq!(told(&asked(false), &[&sound, &damaged]), Some(one));
        let two = "2 of 3 files are damaged; the first: sha256-020202020202".to_owned();
        assert_eq!(told(&asked(true), &[&damaged, &damaged, &unread]), Some(two));
        let shut = "1 of 2 files could not be read; the first: sha256-030303030303".to_owned();
        assert_eq!(told(&asked(false), &[&mended, &unread]), Some(shut));
        let next = |no_repair, repaired| {
            let damaged = VerifyNews { repaired, ..damaged.clone() };
            failure(&asked(no_repair), &[&damaged]).map(|failure| failure.next().to_owned()).unwrap_or_default()
        };
        let again = "ollamax model verify llama3.2:latest --node n2, which replaces it by a sound one";
        assert_eq!(next(true, None), again);
        let begins = |repaired, words: &str| assert!(next(false, repaired).starts_with(words), "{words}");
        begins(None, "allow it on n2 with transfer.repair = true");
        begins(Some(false), "on n2: ollamax doctor; repeat the command when another node");
    }

    #[test]
    fn many_pieces_are_told_in_one_line() {
        let check = |count: u32, expected: &str| {
            let damaged = VerifyNews { pieces: (0..count).collect(), ..news(2, Sight::Damaged) };
            assert_eq!(pieces(": ", &damaged), expected);
        };
        check(0, "");
        check(1, ": piece 0");
        check(10, ": pieces 0, 1, 2, 3, 4, 5, 6, 7 and 2 more");
    }
}
