//! `chronik consume`: shows the records of a topic, without a consumer group.

use std::io::{BufWriter, ErrorKind, IsTerminal, Write};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use chronik_client::{Client, Position, Record, batches};
use clap::Args;

use super::{Server, runtime};

/// Show the records of a topic
///
/// Starts at the beginning and stops at the end, unless told otherwise. On a terminal each record
/// is one line: partition, offset, time, key, value, headers. Piped, only values are written.
#[derive(Debug, Args)]
pub struct ConsumeArgs {
    #[command(flatten)]
    server: Server,
    /// Topic to read
    #[arg(long, short)]
    topic: String,
    /// Partition to read [default: all]
    #[arg(long, short)]
    partition: Option<i32>,
    /// Start at the first record still there (the default, unless --follow is given alone)
    #[arg(long, conflicts_with = "offset")]
    from_beginning: bool,
    /// Start at this offset
    #[arg(long, value_parser = clap::value_parser!(i64).range(0..))]
    offset: Option<i64>,
    /// Stop after this many records
    #[arg(long, short = 'n')]
    max: Option<u64>,
    /// Go on with what comes; alone, start at the end
    #[arg(long, short)]
    follow: bool,
    /// What to print of a record
    #[arg(long, value_enum)]
    format: Option<Format>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Format {
    /// A line with everything, for people
    Line,
    /// The value and a line feed
    Value,
    /// A JSON object per line
    Json,
}

const FETCH_BYTES: i32 = 4 << 20;
/// With several partitions to follow none may keep the others waiting for long.
const FOLLOW_WAIT_MS: i32 = 500;

/// Where a partition's reading stands.
struct Cursor {
    partition: i32,
    next: i64,
    /// Where it ends; `None` when following.
    end: Option<i64>,
}

impl Cursor {
    fn is_done(&self) -> bool {
        self.end.is_some_and(|end| self.next >= end)
    }
}

/// Runs `chronik consume`. Not to be called inside an async runtime: it brings its own.
///
/// # Errors
/// In words for the user; refusals by Kafka's name.
pub fn run(args: ConsumeArgs) -> Result<()> {
    let format = args.format.unwrap_or(match std::io::stdout().is_terminal() {
        true => Format::Line,
        false => Format::Value,
    });
    let shown = runtime()?.block_on(consume(&args, format, &mut BufWriter::new(std::io::stdout().lock())));
    match shown {
        Ok(shown) => {
            if std::io::stderr().is_terminal() {
                eprintln!("{shown} {} from {}.", if shown == 1 { "record" } else { "records" }, args.topic);
            }
            Ok(())
        }
        // Whoever reads has seen enough: `chronik consume ... | head`.
        Err(error) if is_broken_pipe(&error) => Ok(()),
        Err(error) => Err(error),
    }
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.downcast_ref::<std::io::Error>().is_some_and(|error| error.kind() == ErrorKind::BrokenPipe)
}

async fn consume(args: &ConsumeArgs, format: Format, out: &mut impl Write) -> Result<u64> {
    let mut client = args.server.connect().await?;
    let mut cursors = cursors(&mut client, args).await?;
    let max = args.max.unwrap_or(u64::MAX);
    let mut shown = 0;
    while shown < max && !cursors.is_empty() {
        let round = Instant::now();
        let mut quiet = true;
        let alone = cursors.len() == 1;
        for cursor in &mut cursors {
            let before = cursor.next;
            let wait = if cursor.end.is_some() || alone { FOLLOW_WAIT_MS } else { 0 };
            shown += advance(&mut client, args, cursor, format, max - shown, wait, out).await?;
            quiet &= cursor.next == before;
            if shown == max {
                break;
            }
        }
        out.flush()?;
        cursors.retain(|cursor| !cursor.is_done());
        if quiet && !alone {
            let pause = Duration::from_millis(100).saturating_sub(round.elapsed());
            tokio::time::sleep(pause).await;
        }
    }
    out.flush()?;
    Ok(shown)
}

/// Where to begin and end in each partition.
async fn cursors(client: &mut Client, args: &ConsumeArgs) -> Result<Vec<Cursor>> {
    let topic = client.topic(&args.topic).await?;
    let wanted = |index: &i32| args.partition.is_none_or(|partition| partition == *index);
    let indices: Vec<i32> = topic.partitions.iter().map(|p| p.index).filter(wanted).collect();
    ensure!(
        !indices.is_empty(),
        "topic {} has {} partitions; {} is none of them",
        args.topic,
        topic.partitions.len(),
        args.partition.unwrap_or_default()
    );
    let mut cursors = Vec::with_capacity(indices.len());
    for partition in indices {
        let start = client.list_offset(&args.topic, partition, Position::Earliest).await?;
        let end = client.list_offset(&args.topic, partition, Position::Latest).await?;
        let next = match (args.offset, args.follow && !args.from_beginning) {
            (Some(offset), _) => {
                ensure!(
                    (start..=end).contains(&offset),
                    "{}-{partition} has offsets {start} to {end}; {offset} is outside",
                    args.topic
                );
                offset
            }
            (None, true) => end,
            (None, false) => start,
        };
        let cursor = Cursor { partition, next, end: (!args.follow).then_some(end) };
        if !cursor.is_done() {
            cursors.push(cursor);
        }
    }
    Ok(cursors)
}

/// Fetches once and shows at most `max` records; how many it showed.
async fn advance(
    client: &mut Client,
    args: &ConsumeArgs,
    cursor: &mut Cursor,
    format: Format,
    max: u64,
    wait_ms: i32,
    out: &mut impl Write,
) -> Result<u64> {
    let fetched = client.fetch(&args.topic, cursor.partition, cursor.next, FETCH_BYTES, wait_ms).await?;
    let mut shown = 0;
    for batch in batches(fetched.records) {
        let batch = batch.with_context(|| format!("{}-{}", args.topic, cursor.partition))?;
        if batch.next_offset <= cursor.next {
            continue;
        }
        // A transaction's marker is no record of a user.
        let records = if batch.is_control() { Vec::new() } else { batch.records()? };
        for record in records.iter().filter(|record| record.offset >= cursor.next) {
            if shown == max || cursor.end.is_some_and(|end| record.offset >= end) {
                return Ok(shown);
            }
            show(out, format, cursor.partition, record)?;
            shown += 1;
        }
        cursor.next = batch.next_offset;
    }
    Ok(shown)
}

fn show(out: &mut impl Write, format: Format, partition: i32, record: &Record) -> std::io::Result<()> {
    match format {
        Format::Value => {
            out.write_all(record.value.as_deref().unwrap_or_default())?;
            out.write_all(b"\n")
        }
        Format::Line => {
            write!(out, "{partition}:{}  {}  ", record.offset, time(record.timestamp))?;
            if let Some(key) = &record.key {
                write!(out, "{} = ", text(key))?;
            }
            write!(out, "{}", record.value.as_ref().map_or("(null)".to_owned(), text))?;
            for (name, value) in &record.headers {
                let value = value.as_ref().map_or("(null)".to_owned(), text);
                write!(out, "  [{}: {value}]", text(name))?;
            }
            writeln!(out)
        }
        Format::Json => {
            let headers: Vec<_> = record
                .headers
                .iter()
                .map(|(name, value)| serde_json::json!([text(name), value.as_ref().map(text)]))
                .collect();
            let line = serde_json::json!({
                "partition": partition,
                "offset": record.offset,
                "timestamp": record.timestamp,
                "key": record.key.as_ref().map(text),
                "value": record.value.as_ref().map(text),
                "headers": headers,
            });
            writeln!(out, "{line}")
        }
    }
}

/// Text as it is; what would disturb a terminal or is no UTF-8 is escaped.
fn text(bytes: &Bytes) -> String {
    let mut out = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        for letter in chunk.valid().chars() {
            match letter.is_control() {
                true => out.extend(letter.escape_default()),
                false => out.push(letter),
            }
        }
        for byte in chunk.invalid() {
            out.push_str(&format!("\\x{byte:02x}"));
        }
    }
    out
}

/// Milliseconds since 1970 as UTC, e.g. `2026-11-23 15:04:05.678`.
fn time(timestamp: i64) -> String {
    let (seconds, millis) = (timestamp.div_euclid(1000), timestamp.rem_euclid(1000));
    let (days, second) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
    // Howard Hinnant's civil_from_days: years begin in March, eras have 400 years.
    let days = days + 719_468;
    let (era, day) = (days.div_euclid(146_097), days.rem_euclid(146_097));
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let day_of_year = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    let year = year + era * 400 + i64::from(month <= 2);
    let (hour, minute, second) = (second / 3_600, second / 60 % 60, second % 60);
    format!("{year}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02}.{millis:03}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_utc() {
        for (timestamp, shown) in [
            (0, "1970-01-01 00:00:00.000"),
            (-1, "1969-12-31 23:59:59.999"),
            (951_782_400_000, "2000-02-29 00:00:00.000"),
            (1_795_446_245_678, "2026-11-23 15:04:05.678"),
        ] {
            assert_eq!(time(timestamp), shown);
        }
    }

    #[test]
    fn records_read_well() {
        let record = Record {
            offset: 7,
            timestamp: 0,
            key: Some("k".into()),
            value: Some(Bytes::from_static(b"a\x1b[2J\xff z\xc3\xa9")),
            headers: vec![("h".into(), None), ("h".into(), Some("1".into()))],
        };
        let shown = |format| {
            let mut out = Vec::new();
            show(&mut out, format, 3, &record).unwrap();
            String::from_utf8_lossy(&out).into_owned()
        };
        assert_eq!(
            shown(Format::Line),
            "3:7  1970-01-01 00:00:00.000  k = a\\u{1b}[2J\\xff z\u{e9}  [h: (null)]  [h: 1]\n"
        );
        let json: serde_json::Value = serde_json::from_str(&shown(Format::Json)).unwrap();
        assert_eq!((json["offset"].as_i64(), json["headers"][1][1].as_str()), (Some(7), Some("1")));
    }
}
