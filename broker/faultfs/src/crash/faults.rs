//! Faults other than a crash, each against the real broker: a sick disk, a wrong directory, hostile clients.
//! Each is a clear error, loses nothing, and leaves the broker up wherever it can be.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use super::batch::{Writer, encode};
use super::full;
use super::journal::Journal;
use super::kafka::Connection;
use super::load::{KINDS, Producer, Signals};
use super::process::{Running, Spec};
use super::records::record_for;
use super::rounds::sync_dir;
use super::strangers;
use super::unreadable;
use crate::mount::{Mounted, Shared};
use crate::seed::Seed;
use crate::state::CutMode;

/// How long a condition may take to come true.
const PATIENCE: Duration = Duration::from_secs(20);
const MIB: u64 = 1 << 20;
/// The most memory that connections without a whole request may cost the broker.
pub(super) const RESIDENT_MAX: u64 = 200 * MIB;

/// What the tests work with.
#[derive(Clone, Debug)]
pub struct Bed {
    /// The broker's binary.
    pub binary: PathBuf,
    /// A directory on a real disk.
    pub work_dir: PathBuf,
    /// For the bytes of hostile clients and the records of honest ones.
    pub seed: u64,
}

/// A test: its name and what it does. It returns a remark.
pub type Test = (&'static str, fn(&Bed) -> Result<String>);

/// All of them.
pub const TESTS: [Test; 16] = [
    ("a disk below its reserve", |bed| full_disk(bed, 64 * MIB)),
    ("a disk without a free byte", |bed| full_disk(bed, 0)),
    ("a full disk, and records are deleted", full::deleting_makes_room),
    ("a full disk, and the broker is killed", full::killed_while_full),
    ("a failing flush, io_uring", |bed| failing_disk(bed, "required", Failure::Flush)),
    ("a failing flush, pwrite", |bed| failing_disk(bed, "disabled", Failure::Flush)),
    ("a failing write, io_uring", |bed| failing_disk(bed, "required", Failure::Write)),
    ("a failing write, pwrite", |bed| failing_disk(bed, "disabled", Failure::Write)),
    ("a segment with an unreadable block", unreadable::a_block_of_a_segment),
    ("a read-only directory", read_only),
    ("a second broker on the same directory", second_broker),
    ("the directory of another cluster", other_cluster),
    ("500 claims of 90 MiB", hungry_connections),
    ("garbage, oversized and truncated frames", garbage),
    ("a frame that stalls", stalled_frame),
    ("coordinators are asked for anything", strangers::ask_anything),
];

impl Bed {
    fn log(&self) -> PathBuf {
        self.work_dir.join("broker.log")
    }

    /// A broker on an empty directory of the real disk.
    pub(super) fn on_disk(&self) -> Result<Spec> {
        let data = self.work_dir.join("disk/data");
        if data.exists() {
            std::fs::remove_dir_all(&data)?;
        }
        std::fs::create_dir_all(&data)?;
        Spec::new(&self.binary, &data, &self.log())
    }

    /// A broker on an empty file system of the test's own.
    pub(super) fn on_mount(&self) -> Result<(Mounted, Spec)> {
        if let Some(why) = crate::mount::unavailable() {
            bail!("this test mounts a file system: {why}");
        }
        let mount_point = self.work_dir.join("mount");
        let mounted = Mounted::new(&mount_point, false).context("cannot mount")?;
        let data = mount_point.join("data");
        std::fs::create_dir(&data)?;
        sync_dir(&mount_point)?;
        let spec = Spec::new(&self.binary, &data, &self.log())?;
        Ok((mounted, spec))
    }
}

/// Producers in the background, with their journal.
pub(super) struct Load {
    pub journal: Journal,
    producers: Vec<Producer>,
}

impl Load {
    pub fn new(bed: &Bed) -> Self {
        let producers = KINDS.iter().enumerate().map(|(n, kind)| Producer::new(n, *kind, bed.seed)).collect();
        Self { journal: Journal::new(bed.seed, KINDS.len()), producers }
    }

    /// Loads the broker while `during` runs, and then stops in peace.
    pub fn run<T>(&mut self, spec: &Spec, during: impl FnOnce(&Signals) -> Result<T>) -> Result<T> {
        let signals = Signals::default();
        let address = spec.address();
        let result = std::thread::scope(|scope| {
            for (producer, history) in self.producers.iter_mut().zip(&mut self.journal.producers) {
                scope.spawn(|| producer.run(&address, history, &signals));
            }
            let running = || signals.running.load(Ordering::SeqCst) == KINDS.len();
            let result = wait("every producer is answered", running).and_then(|()| during(&signals));
            signals.stop.store(true, Ordering::SeqCst);
            result
        });
        let complaints: Vec<&String> = self.producers.iter().flat_map(|p| &p.complaints).collect();
        ensure!(complaints.is_empty(), "answers that no correct broker gives: {complaints:#?}");
        result
    }

    /// Everything acknowledged is there.
    pub fn verify(&mut self, running: &Running) -> Result<()> {
        let mut broker = Connection::open(&running.spec().address())?;
        running.wait_leaders(&mut broker)?;
        let verdict = self.journal.verify(&mut broker);
        ensure!(verdict.is_good(), "{:#?}", verdict.problems);
        Ok(())
    }
}

/// Leaves so many bytes free until produce is refused. What the broker gives back meanwhile (a log file that it could not
/// create, old segments) is taken, too.
pub(super) fn fill(mounted: &Mounted, left: u64, signals: &Signals) -> Result<()> {
    wait("produce is refused", || {
        mounted.state().lock().limit_free_space(left);
        signals.storage_errors.load(Ordering::SeqCst) > 0
    })
}

fn full_disk(bed: &Bed, left: u64) -> Result<String> {
    let (mounted, spec) = bed.on_mount()?;
    let mut running = spec.start()?;
    running.create_topics()?;
    let mut load = Load::new(bed);
    let refused = load.run(&spec, |signals| {
        fill(&mounted, left, signals)?;
        ensure!(running.is_alive(), "the broker ended:\n{}", running.output());
        if left > 0 {
            let mut broker = Connection::open(&spec.address())?;
            broker.create_topic("while-the-disk-is-full", 1, &[]).context("metadata must go on")?;
        }
        mounted.state().lock().unlimit_free_space();
        let refused = signals.storage_errors.load(Ordering::SeqCst);
        let before = signals.acked.load(Ordering::SeqCst);
        wait("writes resume", || signals.acked.load(Ordering::SeqCst) > before + 100)?;
        ensure!(running.is_alive(), "the broker ended:\n{}", running.output());
        Ok(refused)
    })?;
    load.verify(&running).context("before the restart")?;
    running.terminate()?;
    let status = running.wait_exit(PATIENCE)?;
    ensure!(status.success(), "the broker stopped with {status}:\n{}", running.output());
    let again = spec.start()?;
    load.verify(&again).context("after the restart")?;
    Ok(format!("{refused} requests refused, {} records kept", load.journal.acked_records()))
}

/// What the disk refuses.
#[derive(Clone, Copy)]
enum Failure {
    Flush,
    Write,
}

fn failing_disk(bed: &Bed, engine: &str, failure: Failure) -> Result<String> {
    let (mounted, mut spec) = bed.on_mount()?;
    spec.engine = engine.into();
    // The pool is preallocated, so that only the log itself is written during the load.
    let mut running = spec.start()?;
    running.create_topics()?;
    let mut load = Load::new(bed);
    let status = load.run(&spec, |_| {
        fail(mounted.state(), failure);
        running.wait_exit(PATIENCE)
    })?;
    ensure!(!status.success(), "the broker ended with {status}, as if all were well");
    ensure!(!running.output().contains("panicked"), "the broker panicked:\n{}", running.output());
    let acked = load.journal.acked_records();
    // The harshest end: whatever the failed flushes left behind is gone with the power.
    mounted.state().lock().cut(CutMode::Forget, bed.seed);
    mounted.state().lock().power_on();
    let again = spec.start()?;
    load.verify(&again)?;
    Ok(format!("ended with {status}, {acked} records kept"))
}

fn fail(state: &Shared, failure: Failure) {
    let mut fs = state.lock();
    match failure {
        Failure::Flush => fs.faults_mut().fail_flush_after = Some(0),
        Failure::Write => fs.faults_mut().fail_write_after = Some(0),
    }
}

fn read_only(bed: &Bed) -> Result<String> {
    let (mounted, spec) = bed.on_mount()?;
    mounted.state().lock().faults_mut().read_only = true;
    let empty = refuses(&spec, &["ead-only"])?;
    mounted.state().lock().faults_mut().read_only = false;
    let mut running = spec.start()?;
    running.terminate()?;
    running.wait_exit(PATIENCE)?;
    mounted.state().lock().faults_mut().read_only = true;
    refuses(&spec, &["ead-only"])?;
    Ok(empty)
}

fn second_broker(bed: &Bed) -> Result<String> {
    let spec = bed.on_disk()?;
    let first = spec.start()?;
    let second = Spec::new(&bed.binary, &spec.data_dir, &bed.work_dir.join("second-broker.log"))?;
    let said = refuses(&second, &[&spec.data_dir.to_string_lossy()])?;
    produce_one(bed, first.spec()).context("the first broker must not notice")?;
    Ok(said)
}

fn other_cluster(bed: &Bed) -> Result<String> {
    let spec = bed.on_disk()?;
    let mut running = spec.clone().with("chronik.cluster.id", "cluster-one").start()?;
    running.terminate()?;
    running.wait_exit(PATIENCE)?;
    refuses(&spec.clone().with("chronik.cluster.id", "cluster-two"), &["cluster-one", "cluster-two"])
}

/// The broker does not start: it says why in a line with these words, and ends with an error.
fn refuses(spec: &Spec, words: &[&str]) -> Result<String> {
    let mut running = spec.spawn()?;
    let status = running.wait_exit(PATIENCE)?;
    let output = running.output();
    ensure!(!status.success(), "the broker ended with {status}, as if all were well:\n{output}");
    ensure!(!output.contains("panicked"), "the broker panicked:\n{output}");
    let line = output.lines().find(|line| words.iter().all(|word| line.contains(word)));
    match line {
        Some(line) => Ok(line.trim().to_owned()),
        None => bail!("no line says {words:?}:\n{output}"),
    }
}

fn hungry_connections(bed: &Bed) -> Result<String> {
    let spec = bed.on_disk()?;
    let mut running = spec.start()?;
    produce_one(bed, &spec)?;
    let mut random = Seed::new(bed.seed).fork(500);
    let mut hungry = Vec::new();
    for _ in 0..500 {
        let mut stream = TcpStream::connect(spec.address())?;
        stream.write_all(&(90u32 << 20).to_be_bytes())?;
        // The start of an honest Produce request, version 9.
        let mut bytes = [0; 1024];
        random.fill(&mut bytes);
        bytes[..4].copy_from_slice(&[0, 0, 0, 9]);
        // That the broker closes such a connection is an answer too.
        let _ = stream.write_all(&bytes);
        hungry.push(stream);
    }
    produce_one(bed, &spec).context("with 500 hungry connections")?;
    let resident = running.resident_bytes()?;
    ensure!(resident < RESIDENT_MAX, "{} MiB resident", resident / MIB);
    ensure!(running.is_alive(), "the broker ended:\n{}", running.output());
    drop(hungry);
    produce_one(bed, &spec).context("after them")?;
    Ok(format!("{} MiB resident", resident / MIB))
}

fn garbage(bed: &Bed) -> Result<String> {
    let spec = bed.on_disk()?;
    let mut running = spec.start()?;
    let mut random = Seed::new(bed.seed).fork(501);
    let mut frames = 0;
    // Lengths that no request may have: the connection is closed at once.
    for length in [-1i32, i32::MIN, i32::MAX, 0, 1, 3, 104_857_601] {
        let mut stream = TcpStream::connect(spec.address())?;
        let _ = stream.write_all(&length.to_be_bytes());
        let _ = stream.write_all(&[0; 3]);
        wait_closed(stream).with_context(|| format!("a frame of length {length}"))?;
        frames += 1;
    }
    // Frames of noise, some behind a plausible header, some cut off by the connection's end.
    for _ in 0..400 {
        let mut bytes = vec![0; random.between(4, 3000) as usize];
        random.fill(&mut bytes);
        if random.one_in(2) {
            bytes[0] = 0;
            bytes[1] = random.below(90) as u8;
            bytes[2] = 0;
            bytes[3] = random.below(18) as u8;
        }
        let claimed = bytes.len() + if random.one_in(3) { 7 } else { 0 };
        let mut stream = TcpStream::connect(spec.address())?;
        let _ = stream.write_all(&(claimed as u32).to_be_bytes());
        let _ = stream.write_all(&bytes);
        frames += 1;
    }
    produce_one(bed, &spec)?;
    ensure!(running.is_alive(), "the broker ended:\n{}", running.output());
    ensure!(!running.output().contains("panicked"), "the broker panicked:\n{}", running.output());
    Ok(format!("{frames} frames"))
}

fn stalled_frame(bed: &Bed) -> Result<String> {
    let spec = bed.on_disk()?.with("chronik.connection.partial.frame.timeout.ms", "300");
    let running = spec.start()?;
    let mut honest = Connection::open(&spec.address())?;
    honest.partitions_with_leader("stalled")?;
    let mut stream = TcpStream::connect(spec.address())?;
    stream.write_all(&100u32.to_be_bytes())?;
    stream.write_all(&[0; 20])?;
    let since = Instant::now();
    wait_closed(stream)?;
    let after = since.elapsed();
    honest
        .partitions_with_leader("stalled")
        .context("an idle connection without a partial frame must stay")?;
    drop(running);
    Ok(format!("closed after {} ms", after.as_millis()))
}

/// One record, acknowledged and read back.
fn produce_one(bed: &Bed, spec: &Spec) -> Result<()> {
    let mut broker = Connection::open(&spec.address())?;
    broker.create_topic("one", 1, &[])?;
    wait("the topic has a leader", || broker.partitions_with_leader("one").is_ok_and(|n| n == 1))?;
    let record = record_for(bed.seed, 0, 0);
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?.as_millis() as i64;
    let batch = encode(std::slice::from_ref(&record), Writer::PLAIN, now);
    let correlation = broker.send_produce(-1, vec![("one", 0, batch)])?;
    let answers = broker.receive_produce(correlation)?;
    let (_, _, produced) = answers.first().context("no answer")?;
    ensure!(produced.error == 0, "error {}", produced.error);
    let read = broker.fetch("one", 0, produced.base_offset)?;
    ensure!(read.first().is_some_and(|batch| batch.records == [record]), "another record was read back");
    Ok(())
}

/// Waits for the other side to close, ignoring what it still sends.
fn wait_closed(mut stream: TcpStream) -> Result<()> {
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut sink = [0; 4096];
    loop {
        match stream.read(&mut sink) {
            Ok(0) => return Ok(()),
            Ok(_) => {}
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => return Ok(()),
            Err(error) => return Err(error).context("the connection stays open"),
        }
    }
}

pub(super) fn wait(what: &str, mut condition: impl FnMut() -> bool) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        ensure!(Instant::now() < deadline, "waited in vain until {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
    Ok(())
}

/// Runs all tests, or those whose name contains `only`. False when one failed.
pub fn run(bed: &Bed, only: Option<&str>) -> bool {
    let mut good = true;
    for (name, test) in TESTS.iter().filter(|(name, _)| only.is_none_or(|only| name.contains(only))) {
        match test(bed) {
            Ok(remark) => println!("ok      {name}: {remark}"),
            Err(error) => {
                good = false;
                println!("FAILED  {name}: {error:#}");
            }
        }
    }
    good
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_test_has_a_name_of_its_own() {
        let names: std::collections::BTreeSet<_> = TESTS.iter().map(|(name, _)| name).collect();
        assert_eq!(names.len(), TESTS.len());
    }

    #[test]
    fn waiting_for_a_close_sees_it() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (mut server, _) = listener.accept().unwrap();
        server.write_all(b"bye").unwrap();
        drop(server);
        wait_closed(client).unwrap();
    }
}
