//! `chronik produce`: lines from standard input become records.

use std::io::{self, BufRead, IsTerminal};
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, bail, ensure};
use chronik_client::{Acks, BatchBuilder, Client, NewRecord};
use clap::Args;

use super::{Server, key_value, runtime};

/// Send lines of standard input as records
///
/// Every line is a record's value; with --key-separator what stands before the first separator is
/// its key. A key always goes to the same partition, the one Kafka's Java client would choose.
#[derive(Debug, Args)]
pub struct ProduceArgs {
    #[command(flatten)]
    server: Server,
    /// Topic to produce to
    #[arg(long, short)]
    topic: String,
    /// Partition to produce to [default: by key, else in turn]
    #[arg(long, short)]
    partition: Option<i32>,
    /// What parts a line into key and value
    #[arg(long, short, value_name = "TEXT")]
    key_separator: Option<String>,
    /// A header for every record; may be given more than once
    #[arg(long, value_name = "NAME=VALUE", value_parser = key_value)]
    header: Vec<(String, String)>,
    /// What to wait for: 0 nothing, 1 the leader, all the replicas in sync
    #[arg(long, default_value = "all")]
    acks: Acks,
}

/// A batch is sent when it has this many bytes, or when no line is waiting.
const BATCH_BYTES: usize = 256 << 10;
/// A line that follows within this time goes into the same batch.
const LINE_WITHIN: Duration = Duration::from_millis(5);

/// Runs `chronik produce`. Not to be called inside an async runtime: it brings its own.
///
/// # Errors
/// In words for the user; refusals by Kafka's name.
pub fn run(args: ProduceArgs) -> Result<()> {
    runtime()?.block_on(async {
        let mut client = args.server.connect().await?;
        let partitions = partitions(&mut client, &args.topic).await?;
        if let Some(wanted) = args.partition {
            ensure!(
                partitions.contains(&wanted),
                "topic {} has partitions 0 to {}, not {wanted}",
                args.topic,
                partitions.len() - 1
            );
        }
        if io::stdin().is_terminal() {
            eprintln!("Type a record per line; end with Ctrl-D.");
        }
        let sent = send_all(&mut client, &args, partitions.len(), &lines()).await?;
        eprintln!("{sent} {} sent to {}.", if sent == 1 { "record" } else { "records" }, args.topic);
        Ok(())
    })
}

async fn partitions(client: &mut Client, topic: &str) -> Result<Vec<i32>> {
    let found = client
        .topic(topic)
        .await
        .with_context(|| format!("cannot produce to {topic} (make it: chronik topics create {topic})"))?;
    ensure!(!found.partitions.is_empty(), "topic {topic} has no partitions yet");
    Ok(found.partitions.iter().map(|partition| partition.index).collect())
}

/// Reads lines on a thread of its own, so that the sending can see whether another is waiting.
fn lines() -> Receiver<io::Result<Vec<u8>>> {
    let (sender, receiver) = sync_channel(10_000);
    std::thread::spawn(move || {
        let mut input = io::stdin().lock();
        loop {
            let mut line = Vec::new();
            let read = input.read_until(b'\n', &mut line);
            if line.last() == Some(&b'\n') {
                line.pop();
            }
            let done = !matches!(read, Ok(bytes) if bytes > 0);
            if let Ok(0) = read {
                return;
            }
            if sender.send(read.map(|_| line)).is_err() || done {
                return;
            }
        }
    });
    receiver
}

async fn send_all(
    client: &mut Client,
    args: &ProduceArgs,
    partitions: usize,
    lines: &Receiver<io::Result<Vec<u8>>>,
) -> Result<u64> {
    let headers: Vec<(&str, Option<&[u8]>)> =
        args.header.iter().map(|(name, value)| (name.as_str(), Some(value.as_bytes()))).collect();
    let mut open: Vec<BatchBuilder> = (0..partitions).map(|_| BatchBuilder::new()).collect();
    let (mut sent, mut turn) = (0, 0);
    loop {
        let pending = open.iter().any(|batch| batch.count() > 0);
        let next = match pending {
            true => lines.recv_timeout(LINE_WITHIN),
            false => lines.recv().map_err(|_| RecvTimeoutError::Disconnected),
        };
        let line = match next {
            Ok(line) => line.context("cannot read standard input")?,
            Err(ended) => {
                for (partition, batch) in open.iter_mut().enumerate() {
                    sent += flush(client, args, partition as i32, batch).await?;
                }
                // Unkeyed lines fill one partition's batch, then go on to the next.
                turn += 1;
                match ended {
                    RecvTimeoutError::Timeout => continue,
                    RecvTimeoutError::Disconnected => return Ok(sent),
                }
            }
        };
        let (key, value) = split(&line, args.key_separator.as_deref())?;
        let partition = match (args.partition, key) {
            (Some(partition), _) => partition as usize,
            (None, Some(key)) => partition_of(key, partitions),
            (None, None) => turn % partitions,
        };
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let timestamp = now.as_millis() as i64;
        let Some(batch) = open.get_mut(partition) else { bail!("no partition {partition}") };
        batch.push(NewRecord { timestamp, key, value: Some(value), headers: &headers });
        if batch.bytes() >= BATCH_BYTES {
            sent += flush(client, args, partition as i32, batch).await?;
            turn += 1;
        }
    }
}

async fn flush(
    client: &mut Client,
    args: &ProduceArgs,
    partition: i32,
    batch: &mut BatchBuilder,
) -> Result<u64> {
    let count = batch.count() as u64;
    if count > 0 {
        client.produce(&args.topic, partition, args.acks, std::mem::take(batch).build()).await?;
    }
    Ok(count)
}

/// Key and value of a line.
fn split<'a>(line: &'a [u8], separator: Option<&str>) -> Result<(Option<&'a [u8]>, &'a [u8])> {
    let Some(separator) = separator.map(str::as_bytes).filter(|text| !text.is_empty()) else {
        return Ok((None, line));
    };
    match line.windows(separator.len()).position(|window| window == separator) {
        Some(at) => Ok((Some(&line[..at]), &line[at + separator.len()..])),
        None => bail!(
            "the line {:?} has no key separator {:?}",
            String::from_utf8_lossy(line),
            String::from_utf8_lossy(separator)
        ),
    }
}

/// The partition Kafka's default partitioner chooses for a key.
fn partition_of(key: &[u8], partitions: usize) -> usize {
    (murmur2(key) & 0x7fff_ffff) as usize % partitions
}

/// Kafka's 32-bit murmur2 (`org.apache.kafka.common.utils.Utils.murmur2`).
fn murmur2(data: &[u8]) -> u32 {
    const M: u32 = 0x5bd1_e995;
    let mut hash = 0x9747_b28c ^ data.len() as u32;
    let mut words = data.chunks_exact(4);
    for word in &mut words {
        let mut k = word.iter().rev().fold(0, |k, byte| k << 8 | u32::from(*byte)).wrapping_mul(M);
        k ^= k >> 24;
        hash = hash.wrapping_mul(M) ^ k.wrapping_mul(M);
    }
    let rest = words.remainder();
    if !rest.is_empty() {
        hash ^= rest.iter().rev().fold(0, |k, byte| k << 8 | u32::from(*byte));
        hash = hash.wrapping_mul(M);
    }
    hash ^= hash >> 13;
    hash = hash.wrapping_mul(M);
    hash ^ hash >> 15
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hash_is_kafkas() {
        // From Kafka's own UtilsTest.testMurmur2.
        for (text, hash) in [
            ("21", -973_932_308),
            ("foobar", -790_332_482),
            ("a-little-bit-long-string", -985_981_536),
            ("a-little-bit-longer-string", -1_486_304_829),
            ("lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58_897_971),
        ] {
            assert_eq!(murmur2(text.as_bytes()) as i32, hash, "{text}");
        }
    }

    #[test]
    fn lines_are_split_at_the_first_separator() {
        let parts = |line: &'static str, by| split(line.as_bytes(), by).ok();
        assert_eq!(parts("k:v:w", Some(":")), Some((Some(&b"k"[..]), &b"v:w"[..])));
        assert_eq!(parts("k:v", None), Some((None, &b"k:v"[..])));
        assert_eq!(parts("a=>b", Some("=>")), Some((Some(&b"a"[..]), &b"b"[..])));
        assert_eq!(parts("kv", Some(":")), None);
    }
}
