//! kcat, and so the librdkafka that Debian ships (some years older than confluent-kafka's).
//!
//! It has no program of its own in `broker/tests/clients`: what it writes is made here, and what it reads is compared
//! here. It cannot create a topic but by producing to it, and cannot set a record's timestamp; so its own topics
//! have one partition, timestamps of their own, and other clients do not read them.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};

use super::process::{Output, Run};
use super::records::{as_kcat_prints, expected};

/// Partition, offset, timestamp, lengths of key and value (-1 if null), then the parts themselves.
pub const FORMAT: &str = "%p %o %T %K %S %k|%s|%h\\n";

pub struct Kcat {
    bootstrap: String,
    /// For the file that the records to send are read from.
    dir: PathBuf,
    /// By topic: from which index on, records were written between which two times, in milliseconds.
    written: HashMap<String, Vec<(u32, i64, i64)>>,
}

impl Kcat {
    pub fn new(bootstrap: &str, dir: PathBuf) -> Kcat {
        Kcat { bootstrap: bootstrap.to_owned(), dir, written: HashMap::new() }
    }

    fn run(&self, args: &[&str]) -> Run {
        Run::new("kcat").args(["-b", &self.bootstrap, "-q"]).args(args)
    }

    /// Creates the topic by producing to it; `mode` is how: plain, idempotent or a codec.
    pub fn write(&mut self, topic: &str, mode: &str, first: u32, records: u32) -> Result<()> {
        let how: &[&str] = match mode {
            "plain" => &["-X", "acks=1"],
            "idempotent" => &["-X", "enable.idempotence=true"],
            codec => &["-z", codec],
        };
        let lines: String = (first..first + records).map(|i| sent_as(topic, i) + "\n").collect();
        let file = self.dir.join("kcat-input");
        std::fs::write(&file, lines)?;
        let before = now_ms()?;
        // -Z: what is empty is null.
        self.run(&["-P", "-t", topic, "-p", "0", "-K:", "-Z", "-H", "a=1", "-H", "a=2"])
            .args(["-X", "message.timeout.ms=30000"])
            .args(how)
            .args(["-l"])
            .args([file])
            .output()?;
        self.written.entry(topic.to_owned()).or_default().push((first, before, now_ms()?));
        Ok(())
    }

    /// From the first offset to the end of every partition, assigned, without a group.
    fn consume(&self, topic: &str) -> Result<Output> {
        // The short wait only makes it notice the end sooner.
        let settings = ["-X", "fetch.wait.max.ms=10", "-X", "isolation.level=read_committed", "-f", FORMAT];
        self.run(&["-C", "-t", topic, "-o", "beginning", "-e"]).args(settings).output()
    }

    /// A topic that it wrote itself.
    pub fn read_own(&self, topic: &str, records: u32) -> Result<()> {
        let output = self.consume(topic)?.text();
        let lines: Vec<_> = output.lines().collect();
        ensure!(lines.len() == records as usize, "{topic}: {} records, expected {records}", lines.len());
        let written = self.written.get(topic).with_context(|| format!("{topic} was not written"))?;
        for (index, line) in (0..).zip(lines) {
            let mut fields = line.splitn(4, ' ').skip(1);
            let mut field = || fields.next().with_context(|| format!("{topic}: odd line {line:?}"));
            let (offset, timestamp, rest) = (field()?, field()?.parse::<i64>()?, field()?);
            ensure!(offset == index.to_string(), "{topic}: offset {offset}, expected {index}");
            let want = printed_as(topic, index);
            ensure!(rest == want, "{topic} record {index}: {rest:?}, expected {want:?}");
            let within = written.iter().rev().find(|(first, ..)| *first <= index);
            let &(_, from, to) =
                within.with_context(|| format!("{topic}: record {index} was not written"))?;
            ensure!(
                (from..=to).contains(&timestamp),
                "{topic} record {index}: at {timestamp}, not {from}..={to}"
            );
        }
        Ok(())
    }

    /// As a member of a group, what of its own topic is new to that group. It commits when it leaves.
    pub fn group(&self, topic: &str, first: u32, records: u32) -> Result<()> {
        let settings =
            ["-X", "fetch.wait.max.ms=10", "-X", "auto.offset.reset=earliest", "-f", "%o\\n", "-e"];
        let output =
            self.run(&["-G", &format!("{topic}.group")]).args(settings).args([topic]).output()?.text();
        let offsets: Vec<_> = output.lines().map(str::to_owned).collect();
        let want: Vec<_> = (first..first + records).map(|offset| offset.to_string()).collect();
        ensure!(offsets == want, "{topic}: the group got {offsets:?}, expected {want:?}");
        Ok(())
    }

    /// A member of a group, to be left running. It says by itself, on its other stream, what it is assigned.
    pub fn member(&self, topic: &str, group: &str) -> Run {
        Run::new("kcat")
            .args(["-b", &self.bootstrap, "-u", "-G", group, "-f", "took %p %o\\n"])
            .args(["-X", "auto.offset.reset=earliest", "-X", "partition.assignment.strategy=range"])
            .args(["-X", "session.timeout.ms=6000", "-X", "heartbeat.interval.ms=200"])
            .args(["-X", "fetch.wait.max.ms=10"])
            .args([topic])
    }

    /// A topic that another client wrote, byte by byte.
    pub fn read(&self, topic: &str, partitions: u32, records: u32) -> Result<()> {
        let output = self.consume(topic)?.stdout;
        let mut rest = &output[..];
        let mut seen = vec![0; partitions as usize];
        while !rest.is_empty() {
            let digits = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
            let partition: u32 = String::from_utf8_lossy(&rest[..digits]).parse()?;
            let index =
                seen.get_mut(partition as usize).with_context(|| format!("partition {partition}?"))?;
            let mut want = format!("{partition} {index}").into_bytes();
            want.extend(as_kcat_prints(&expected(topic, partition, *index)));
            rest = rest.strip_prefix(&want[..]).with_context(|| {
                let have = String::from_utf8_lossy(&rest[..rest.len().min(200)]);
                format!("{topic}/{partition} record {index} is not as expected: {have:?}")
            })?;
            *index += 1;
        }
        ensure!(
            seen.iter().all(|&count| count == records),
            "{topic}: {seen:?} records, expected {records} each"
        );
        self.offsets(topic, partitions, records)
    }

    fn offsets(&self, topic: &str, partitions: u32, records: u32) -> Result<()> {
        for partition in 0..partitions {
            for (which, want) in [(-2, 0), (-1, records)] {
                let said = self.run(&["-Q", "-t", &format!("{topic}:{partition}:{which}")]).output()?.text();
                let want = format!("{topic} [{partition}] offset {want}");
                ensure!(said.trim() == want, "offset {which}: {said:?}, expected {want:?}");
            }
        }
        Ok(())
    }

    /// The metadata as it prints it, and what it says of an unknown topic and of an offset beyond the end.
    pub fn metadata_and_errors(&self, topic: &str, partitions: u32) -> Result<()> {
        let metadata: serde_json::Value =
            serde_json::from_slice(&self.run(&["-L", "-J", "-t", topic]).output()?.stdout)?;
        let count = metadata["topics"][0]["partitions"].as_array().map_or(0, Vec::len);
        ensure!(count == partitions as usize, "{topic}: metadata shows {count} partitions, not {partitions}");
        let here =
            metadata["brokers"].as_array().is_some_and(|all| all.iter().any(|b| b["name"] == self.bootstrap));
        ensure!(here, "{} is not among the brokers of {metadata}", self.bootstrap);

        let unknown = self.run(&["-C", "-t", &format!("{topic}.no-such-topic"), "-e"]).may_fail().output()?;
        let right = !unknown.success && unknown.stderr.contains("Unknown topic or partition");
        ensure!(right, "unknown topic: {}", unknown.stderr);
        let beyond = ["-C", "-t", topic, "-p", "0", "-o", "99999", "-e", "-X", "auto.offset.reset=error"];
        let beyond = self.run(&beyond).may_fail().output()?;
        ensure!(
            !beyond.success && beyond.stderr.contains("out of range"),
            "beyond the end: {}",
            beyond.stderr
        );
        Ok(())
    }
}

fn key_and_value(topic: &str, index: u32) -> (String, String) {
    let key = if index.is_multiple_of(3) { String::new() } else { format!("key-{index}") };
    let value = if index.is_multiple_of(4) { String::new() } else { format!("value {index} of {topic}") };
    (key, value)
}

fn sent_as(topic: &str, index: u32) -> String {
    let (key, value) = key_and_value(topic, index);
    format!("{key}:{value}")
}

/// What [`FORMAT`] makes of it after the timestamp.
fn printed_as(topic: &str, index: u32) -> String {
    let (key, value) = key_and_value(topic, index);
    let mut printed = String::new();
    for part in [&key, &value] {
        let length = if part.is_empty() { -1 } else { part.len() as i64 };
        let _ = write!(printed, "{length} ");
    }
    let _ = write!(printed, "{key}|{value}|a=1,a=2");
    printed
}

fn now_ms() -> Result<i64> {
    Ok(i64::try_from(SystemTime::now().duration_since(UNIX_EPOCH)?.as_millis())?)
}
