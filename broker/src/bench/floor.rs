//! The floor: what a machine can do at best. A bare server in one thread takes the generator's
//! requests as they are, writes all that have come in one aligned write, flushes it, and
//! answers. It keeps no partitions, checks nothing, and serves nothing else; a broker that
//! flushes before it answers can come near it and not pass it.

use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use anyhow::{Context, Result, bail, ensure};
use bytes::BufMut;
use rustix::event::epoll;

use super::report::FloorGroups;
use super::wire::Wire;

/// The Produce version the floor answers in.
pub const VERSION: i16 = 12;

const FILE_BYTES: u64 = 256 << 20;
const BLOCK_BYTES: usize = 4096;
/// A group is written when it has this much, or when nothing more has come.
const GROUP_BYTES_MAX: usize = 8 << 20;
const INPUT_BYTES: usize = 16 << 10;

const LISTENER: u64 = u64::MAX;
const STDIN: u64 = u64::MAX - 1;

/// How the floor makes a write durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Flush {
    /// `O_DIRECT|O_DSYNC`: the write itself.
    Dsync,
    /// `O_DIRECT`, then `fdatasync`.
    Fdatasync,
}

/// Refuses file systems that live in memory, where a flush means nothing.
///
/// # Errors
/// Names the directory; or the system's error.
pub fn refuse_memory(dir: &Path) -> Result<()> {
    const TMPFS: u64 = 0x0102_1994;
    const RAMFS: u64 = 0x8584_58f6;
    let kind = rustix::fs::statfs(dir).with_context(|| format!("cannot look at {}", dir.display()))?.f_type;
    ensure!(
        ![TMPFS, RAMFS].contains(&(kind as u64 & 0xffff_ffff)),
        "{} is in memory (tmpfs): a flush means nothing there; name a directory on a disk",
        dir.display()
    );
    Ok(())
}

/// The floor's server in a process of its own; it ends when this is dropped.
pub struct Floor {
    child: Child,
    stdin: Option<ChildStdin>,
    stdout: BufReader<ChildStdout>,
    /// Where it listens.
    pub address: String,
}

impl Floor {
    /// Starts it and waits until it listens, its file written once.
    ///
    /// # Errors
    /// When it cannot be started or says no address.
    pub fn start(dir: &Path, flush: Flush) -> Result<Self> {
        let program = std::env::current_exe().context("cannot find the running program")?;
        let flush = match flush {
            Flush::Dsync => "dsync",
            Flush::Fdatasync => "fdatasync",
        };
        let mut child = Command::new(program)
            .args(["bench", "floor", "--serve", "--flush", flush, "--dir"])
            .arg(dir)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("cannot start the floor's server")?;
        let stdin = child.stdin.take();
        let stdout = child.stdout.take().context("the floor's server has no output")?;
        let mut floor = Self { child, stdin, stdout: BufReader::new(stdout), address: String::new() };
        floor.stdout.read_line(&mut floor.address)?;
        floor.address.truncate(floor.address.trim_end().len());
        ensure!(!floor.address.is_empty(), "the floor's server did not start");
        Ok(floor)
    }

    /// Ends it and returns what it counted.
    ///
    /// # Errors
    /// When it ended in another way.
    pub fn finish(mut self) -> Result<FloorGroups> {
        drop(self.stdin.take());
        let mut counted = String::new();
        self.stdout.read_line(&mut counted)?;
        self.child.wait()?;
        serde_json::from_str(&counted).context("the floor's server told no counts")
    }
}

impl Drop for Floor {
    fn drop(&mut self) {
        // Its standard input ends with ours; a hung one is killed.
        drop(self.stdin.take());
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The server itself: says its address on standard output, serves until standard input ends,
/// then says its counts.
///
/// # Errors
/// When the directory takes no direct writes, or a write or flush fails.
pub fn serve(dir: &Path, flush: Flush) -> Result<()> {
    refuse_memory(dir)?;
    let mut log = Log::create(dir, flush)?;
    let listener = TcpListener::bind("127.0.0.1:0")?;
    listener.set_nonblocking(true)?;
    let poll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    let tag = epoll::EventData::new_u64;
    epoll::add(&poll, &listener, tag(LISTENER), epoll::EventFlags::IN)?;
    epoll::add(&poll, io::stdin(), tag(STDIN), epoll::EventFlags::IN)?;
    println!("{}", listener.local_addr()?);
    io::stdout().flush()?;

    let mut wires: Vec<Option<Wire>> = Vec::new();
    let mut waiting: Vec<(usize, [u8; 4])> = Vec::new();
    let mut events = Vec::with_capacity(1024);
    loop {
        events.clear();
        match epoll::wait(&poll, rustix::buffer::spare_capacity(&mut events), None) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error).context("epoll_wait"),
        }
        for event in &events {
            match event.data.u64() {
                STDIN if io::stdin().read(&mut [0; 64])? == 0 => {
                    println!("{}", serde_json::to_string(&log.counted)?);
                    return Ok(());
                }
                STDIN => {}
                LISTENER => {
                    while let Ok((stream, _)) = listener.accept() {
                        let wire = Wire::new(stream, INPUT_BYTES)?;
                        let tag = tag(wires.len() as u64);
                        epoll::add(&poll, wire.socket(), tag, epoll::EventFlags::IN)?;
                        wires.push(Some(wire));
                    }
                }
                at => gather(&mut wires, at as usize, &mut log, &mut waiting)?,
            }
        }
        if !waiting.is_empty() {
            log.commit()?;
            answer(&mut wires, &mut waiting);
        }
    }
}

/// Takes what one connection has sent into the group.
fn gather(
    wires: &mut [Option<Wire>],
    at: usize,
    log: &mut Log,
    waiting: &mut Vec<(usize, [u8; 4])>,
) -> Result<()> {
    let Some(slot) = wires.get_mut(at) else { return Ok(()) };
    let Some(wire) = slot else { return Ok(()) };
    if wire.flush().and_then(|()| wire.receive()).is_err() {
        *slot = None;
        return Ok(());
    }
    loop {
        let Some(wire) = &mut wires[at] else { return Ok(()) };
        let frame = match wire.next_frame() {
            Ok(Some(frame)) => frame,
            Ok(None) => return Ok(()),
            Err(error) => bail!("the generator sent nonsense: {error}"),
        };
        // After API key and version.
        let correlation = frame.get(4..8).and_then(|id| id.try_into().ok()).context("a short request")?;
        let fits = log.take(frame);
        if !fits {
            let frame = frame.to_vec();
            log.commit()?;
            answer(wires, waiting);
            ensure!(log.take(&frame), "a request of {} bytes", frame.len());
        }
        waiting.push((at, correlation));
    }
}

/// Answers all that wait, several answers of one connection in one write.
fn answer(wires: &mut [Option<Wire>], waiting: &mut Vec<(usize, [u8; 4])>) {
    let mut out = Vec::new();
    for of_one in waiting.chunk_by(|one, next| one.0 == next.0) {
        out.clear();
        for (_, correlation) in of_one {
            put_answer(&mut out, *correlation);
        }
        let slot = &mut wires[of_one[0].0];
        if slot.as_mut().is_some_and(|wire| wire.send(&out).is_err()) {
            *slot = None;
        }
    }
    waiting.clear();
}

/// A Produce answer of [`VERSION`]: one topic, one partition, taken at offset 0.
fn put_answer(out: &mut Vec<u8>, correlation: [u8; 4]) {
    const BODY: &[u8] = b"\0\x02\x06floor\x02\0\0\0\0\0\0\0\0\0\0\0\0\0\0\
        \xff\xff\xff\xff\xff\xff\xff\xff\0\0\0\0\0\0\0\0\x01\0\0\0\0\0\0\0\0";
    out.put_i32(4 + BODY.len() as i32);
    out.put_slice(&correlation);
    out.put_slice(BODY);
}

/// One preallocated file, written in whole blocks, round and round.
struct Log {
    file: File,
    flush: Flush,
    position: u64,
    memory: Vec<u8>,
    /// Where the aligned part of `memory` begins.
    aligned: usize,
    filled: usize,
    requests: u64,
    counted: FloorGroups,
}

impl Log {
    fn create(dir: &Path, flush: Flush) -> Result<Self> {
        let path = dir.join(format!("chronik-floor-{}.tmp", std::process::id()));
        let flags = match flush {
            Flush::Dsync => libc::O_DIRECT | libc::O_DSYNC,
            Flush::Fdatasync => libc::O_DIRECT,
        };
        let file = OpenOptions::new().write(true).create_new(true).custom_flags(flags).open(&path);
        let file = file.with_context(|| format!("cannot make {} for direct writes", path.display()))?;
        // Open files outlive their names: nothing is left behind, however this process ends.
        std::fs::remove_file(&path)?;
        let memory = vec![0; GROUP_BYTES_MAX + BLOCK_BYTES];
        let aligned = memory.as_ptr().align_offset(BLOCK_BYTES);
        let counted = FloorGroups::default();
        let log = Self { file, flush, position: 0, memory, aligned, filled: 0, requests: 0, counted };
        rustix::fs::fallocate(&log.file, rustix::fs::FallocateFlags::empty(), 0, FILE_BYTES)?;
        // Written once, so that no later write has to change the file's metadata.
        let zeros = &log.memory[aligned..aligned + GROUP_BYTES_MAX];
        for at in (0..FILE_BYTES).step_by(GROUP_BYTES_MAX) {
            log.file.write_all_at(zeros, at)?;
        }
        log.file.sync_all()?;
        Ok(log)
    }

    /// Appends a request to the group; `false` when the group is full.
    fn take(&mut self, frame: &[u8]) -> bool {
        if self.filled + frame.len() > GROUP_BYTES_MAX {
            return false;
        }
        let at = self.aligned + self.filled;
        self.memory[at..at + frame.len()].copy_from_slice(frame);
        self.filled += frame.len();
        self.requests += 1;
        true
    }

    /// Writes and flushes the group.
    fn commit(&mut self) -> Result<()> {
        let padded = self.filled.next_multiple_of(BLOCK_BYTES);
        let group = &mut self.memory[self.aligned..self.aligned + padded];
        group[self.filled..].fill(0);
        if self.position + padded as u64 > FILE_BYTES {
            self.position = 0;
        }
        self.file.write_all_at(group, self.position)?;
        if self.flush == Flush::Fdatasync {
            self.file.sync_data()?;
        }
        self.position += padded as u64;
        self.counted.groups += 1;
        self.counted.requests += self.requests;
        self.counted.bytes += self.filled as u64;
        self.counted.bytes_written += padded as u64;
        (self.filled, self.requests) = (0, 0);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::response::{self, Answer};
    use super::*;

    #[test]
    fn the_generator_reads_the_floors_answer() {
        let mut out = Vec::new();
        put_answer(&mut out, [0, 0, 1, 2]);
        let (length, frame) = out.split_first_chunk().unwrap();
        assert_eq!(u32::from_be_bytes(*length) as usize, frame.len());
        let answer = response::read(frame, VERSION).unwrap();
        assert_eq!(answer, Answer { correlation: 258, code: 0, base_offset: 0 });
    }

    #[test]
    fn the_codec_reads_it_too() {
        use kafka_protocol::messages::ProduceResponse;
        use kafka_protocol::protocol::Decodable;
        let mut out = Vec::new();
        put_answer(&mut out, [0; 4]);
        let mut body = bytes::Bytes::from(out).split_off(9);
        let response = ProduceResponse::decode(&mut body, VERSION).unwrap();
        assert_eq!(response.responses[0].name.as_str(), "floor");
        assert!(body.is_empty());
    }

    #[test]
    fn memory_is_refused_and_a_disk_is_not() {
        let refused = refuse_memory(Path::new("/dev/shm"));
        // A machine without /dev/shm refuses it too, in other words.
        assert!(refused.is_err());
        assert!(refuse_memory(Path::new("/dev/null/no")).is_err());
        assert!(refuse_memory(Path::new(env!("CARGO_MANIFEST_DIR"))).is_ok());
    }
}
