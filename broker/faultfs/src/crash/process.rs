//! The broker as a process: started, awaited, killed.

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use super::kafka::Connection;
use super::topics::{PARTITIONS, TOPICS};

/// How long a start may take, recovery included.
const READY_WITHIN: Duration = Duration::from_secs(60);
/// How often a condition is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(2);

/// How to start a broker.
#[derive(Clone, Debug)]
pub struct Spec {
    /// The `chronik` binary.
    pub binary: PathBuf,
    /// Its data directory.
    pub data_dir: PathBuf,
    /// `--wal-engine`.
    pub engine: String,
    /// `--set NAME=VALUE`.
    pub settings: Vec<(String, String)>,
    /// Start it with its test-only switch that leaves out every flush.
    pub no_flush: bool,
    /// Where its output goes, appended.
    pub log: PathBuf,
    /// Instead of all that: a shell command that becomes any Kafka broker (it should `exec`), in whose text
    /// `{data}` and `{port}` are replaced.
    pub command: Option<String>,
    pub port: u16,
    pub admin_port: u16,
}

impl Spec {
    /// A broker on free ports.
    ///
    /// # Errors
    /// When there are none.
    pub fn new(binary: &Path, data_dir: &Path, log: &Path) -> Result<Self> {
        // Both are held at once, so that they differ.
        let (first, second) = (TcpListener::bind("127.0.0.1:0")?, TcpListener::bind("127.0.0.1:0")?);
        Ok(Self {
            binary: binary.to_owned(),
            data_dir: data_dir.to_owned(),
            engine: "auto".into(),
            settings: Vec::new(),
            no_flush: false,
            log: log.to_owned(),
            command: None,
            port: first.local_addr()?.port(),
            admin_port: second.local_addr()?.port(),
        })
    }

    /// The same with one setting more.
    pub fn with(mut self, name: &str, value: &str) -> Self {
        self.settings.push((name.into(), value.into()));
        self
    }

    /// Where Kafka clients connect.
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// Starts the process, and does not wait for anything.
    ///
    /// # Errors
    /// When there is no such program.
    pub fn spawn(&self) -> Result<Running> {
        let mut log = OpenOptions::new().create(true).append(true).open(&self.log)?;
        writeln!(log, "--- start")?;
        let log_from = log.metadata()?.len();
        let mut command = match &self.command {
            Some(text) => {
                let data = self.data_dir.to_string_lossy();
                let text = text.replace("{data}", &data).replace("{port}", &self.port.to_string());
                let mut shell = Command::new("sh");
                shell.args(["-c", &text]);
                shell
            }
            None => self.chronik(),
        };
        let child = command
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .with_context(|| format!("cannot start {command:?}"))?;
        Ok(Running { child, spec: self.clone(), log_from, started: Instant::now() })
    }

    fn chronik(&self) -> Command {
        let mut command = Command::new(&self.binary);
        command
            .arg("broker")
            .args(["--listen", &self.address()])
            .args(["--admin-listen", &format!("127.0.0.1:{}", self.admin_port)])
            .arg("--data-dir")
            .arg(&self.data_dir)
            .args(["--wal-engine", &self.engine]);
        for (name, value) in &self.settings {
            command.arg("--set").arg(format!("{name}={value}"));
        }
        if self.no_flush {
            command.env("CHRONIK_TEST_NO_FLUSH", "1");
        }
        command
    }

    /// Starts the process and waits until it is ready.
    ///
    /// # Errors
    /// When it exits or is not ready in time, with the end of its output.
    pub fn start(&self) -> Result<Running> {
        let mut running = self.spawn()?;
        running.wait_ready()?;
        Ok(running)
    }
}

/// A running broker. Dropping it kills it.
#[derive(Debug)]
pub struct Running {
    child: Child,
    spec: Spec,
    log_from: u64,
    started: Instant,
}

impl Running {
    /// Waits until the broker serves. Returns how long that took since the start.
    ///
    /// # Errors
    /// When it exits or is not ready in time, with the end of its output.
    pub fn wait_ready(&mut self) -> Result<Duration> {
        while self.started.elapsed() < READY_WITHIN {
            if self.is_ready() {
                return Ok(self.started.elapsed());
            }
            if let Some(status) = self.child.try_wait()? {
                bail!("the broker ended with {status} before it was ready:\n{}", self.output());
            }
            std::thread::sleep(LOOK_EVERY);
        }
        bail!("the broker was not ready within {READY_WITHIN:?}:\n{}", self.output())
    }

    fn is_ready(&self) -> bool {
        match self.spec.command {
            None => http_get(self.spec.admin_port, "/readyz").is_ok_and(|(status, _)| status == 200),
            Some(_) => Connection::open(&self.spec.address())
                .and_then(|mut broker| broker.partitions_with_leader("crash-nothing"))
                .is_ok(),
        }
    }

    /// Creates the topics of the test, if need be, and waits until each partition has a leader.
    ///
    /// # Errors
    /// When the broker refuses or does not get there in time.
    pub fn create_topics(&self) -> Result<()> {
        let mut broker = Connection::open(&self.spec.address())?;
        for topic in TOPICS {
            let settings = topic.settings(self.spec.command.is_none());
            broker.create_topic(topic.name, PARTITIONS as i32, &settings)?;
        }
        self.wait_leaders(&mut broker)
    }

    /// Waits until each partition of the test's topics has a leader that answers for it.
    ///
    /// # Errors
    /// When that does not happen in time: a topic is gone, perhaps.
    pub fn wait_leaders(&self, broker: &mut Connection) -> Result<()> {
        let deadline = Instant::now() + Duration::from_secs(15);
        for topic in TOPICS.map(|topic| topic.name) {
            let mut serves = |partition| broker.offset(topic, partition as i32, -1).is_ok();
            while !(0..PARTITIONS).all(&mut serves) {
                ensure!(Instant::now() < deadline, "topic {topic} does not come up");
                std::thread::sleep(LOOK_EVERY);
            }
        }
        Ok(())
    }

    /// Kills the process at once, as `kill -9` does.
    ///
    /// # Errors
    /// When it cannot be awaited.
    pub fn kill(mut self) -> Result<()> {
        // It may have ended by itself, after an I/O error.
        let _ = self.child.kill();
        self.child.wait()?;
        Ok(())
    }

    /// Asks the process to end, as `kill` does.
    ///
    /// # Errors
    /// When it is gone.
    pub fn terminate(&self) -> Result<()> {
        let pid = rustix::process::Pid::from_child(&self.child);
        Ok(rustix::process::kill_process(pid, rustix::process::Signal::TERM)?)
    }

    /// Waits until the process ends by itself.
    ///
    /// # Errors
    /// When it does not within `limit`.
    pub fn wait_exit(&mut self, limit: Duration) -> Result<ExitStatus> {
        let deadline = Instant::now() + limit;
        loop {
            if let Some(status) = self.child.try_wait()? {
                return Ok(status);
            }
            ensure!(Instant::now() < deadline, "the broker did not end within {limit:?}:\n{}", self.output());
            std::thread::sleep(LOOK_EVERY);
        }
    }

    /// True while the process lives.
    pub fn is_alive(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// The value of a metric without labels; 0 of a broker that has none.
    ///
    /// # Errors
    /// When there is no answer, or no such metric in it.
    pub fn metric(&self, name: &str) -> Result<u64> {
        if self.spec.command.is_some() {
            return Ok(0);
        }
        let (_, answer) = http_get(self.spec.admin_port, "/metrics")?;
        let value = answer.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        let value = value.with_context(|| format!("no metric {name}"))?;
        Ok(value.trim().parse()?)
    }

    /// Resident memory in bytes.
    ///
    /// # Errors
    /// When the process is gone.
    pub fn resident_bytes(&self) -> Result<u64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
        let kib: u64 = line.trim().trim_end_matches("kB").trim().parse()?;
        Ok(kib * 1024)
    }

    /// What this start has written so far: its last lines.
    pub fn output(&self) -> String {
        let text = File::open(&self.spec.log).and_then(|mut file| {
            let mut bytes = Vec::new();
            file.read_to_end(&mut bytes)?;
            Ok(String::from_utf8_lossy(bytes.get(self.log_from as usize..).unwrap_or_default()).into_owned())
        });
        let text = text.unwrap_or_else(|error| format!("(no output: {error})"));
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(30)..].join("\n")
    }

    /// How it was started.
    pub fn spec(&self) -> &Spec {
        &self.spec
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Already ended is fine.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The status and the body of a plain `GET`.
fn http_get(port: u16, path: &str) -> Result<(u16, String)> {
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let status = answer.split_whitespace().nth(1).context("no status line")?.parse()?;
    Ok((status, answer))
}
