//! The real binary in a directory of its own.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
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

fn free_port() -> Result<u16> {
    Ok(std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
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
