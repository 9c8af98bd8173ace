//! The real binary in a directory of its own.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

pub const PATIENCE: Duration = Duration::from_secs(60);

/// A broker and its ports.
pub struct Broker {
    pub child: Child,
    pub kafka: u16,
    pub admin: u16,
}

impl Drop for Broker {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Not one that the kernel might give to a client before the broker takes it: those lie above (32,768 to 60,999). Each test
/// program begins somewhere else.
fn free_port() -> Result<u16> {
    const PORTS: std::ops::Range<u32> = 16_384..32_768;
    static TAKEN: AtomicU32 = AtomicU32::new(0);
    for _ in PORTS {
        let next = std::process::id().wrapping_mul(61).wrapping_add(TAKEN.fetch_add(1, Ordering::Relaxed));
        let port = u16::try_from(PORTS.start + next % (PORTS.end - PORTS.start))?;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return Ok(port);
        }
    }
    bail!("no port is free")
}

/// Starts it with its data in `dir`, and with these lines of YAML besides. As a container runs it: no environment but its
/// own keys, and nothing to write to but its volume.
pub fn start(dir: &Path, more: &str) -> Result<Broker> {
    let (kafka, admin) = (free_port()?, free_port()?);
    let config = dir.join("broker.yaml");
    let reserve =
        if more.contains("chronik.disk.reserve.bytes") { "" } else { "chronik.disk.reserve.bytes: 0\n" };
    let text = format!(
        "listeners: INTERNAL://127.0.0.1:{kafka}\n\
         listener.security.protocol.map: INTERNAL:PLAINTEXT\n\
         chronik.admin.listen: 127.0.0.1:{admin}\n\
         chronik.data.dir: {data}\n\
         chronik.wal.file.bytes: 16777216\n\
         chronik.wal.flush.mode: fdatasync\n\
         chronik.wal.in.flight: 1\n\
         {reserve}{more}\n",
        data = dir.join("data").display(),
    );
    std::fs::write(&config, text)?;
    let child = Command::new(env!("CARGO_BIN_EXE_chronik"))
        .args(["broker", "--config"])
        .arg(&config)
        .env_clear()
        .env("CHRONIK_BROKER_ID", "3")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()?;
    Ok(Broker { child, kafka, admin })
}

pub fn get(port: u16, path: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n").as_bytes())?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

impl Broker {
    /// Waits until an admin answer has these words.
    pub fn until(&mut self, path: &str, words: &str) -> Result<String> {
        let begun = Instant::now();
        let mut last = String::new();
        while begun.elapsed() < PATIENCE {
            match get(self.admin, path) {
                Ok(answer) if answer.contains(words) => return Ok(answer),
                Ok(answer) => last = answer,
                Err(e) => last = e.to_string(),
            }
            if let Some(status) = self.child.try_wait()? {
                let mut log = String::new();
                self.child.stderr.take().context("stderr")?.read_to_string(&mut log)?;
                bail!("the broker ended with {status}:\n{log}");
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        bail!("{path} never said {words:?}; it said {last}")
    }

    /// Ends it by SIGTERM.
    pub fn stop(mut self) -> Result<Output> {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM)?;
        self.ended()
    }

    /// Waits for its end.
    pub fn ended(&mut self) -> Result<Output> {
        let mut stderr = Vec::new();
        self.child.stderr.take().context("stderr")?.read_to_end(&mut stderr)?;
        Ok(Output { status: self.child.wait()?, stdout: Vec::new(), stderr })
    }
}
