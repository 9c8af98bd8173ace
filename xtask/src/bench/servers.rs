//! The servers a benchmark starts: Chronik as built here, Apache Kafka from Maven Central.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

/// How long a server may take to start or to stop.
const PATIENCE: Duration = Duration::from_secs(90);

/// Kafka's own start script sets these (`kafka-server-start.sh`, `kafka-run-class.sh`).
const KAFKA_JVM: [&str; 9] = [
    "-Xms1G",
    "-Xmx1G",
    "-server",
    "-XX:+UseG1GC",
    "-XX:MaxGCPauseMillis=20",
    "-XX:InitiatingHeapOccupancyPercent=35",
    "-XX:+ExplicitGCInvokesConcurrent",
    "-XX:MaxInlineLevel=15",
    "-Djava.awt.headless=true",
];

/// A server under test. It is stopped, and if need be killed, when this goes away.
pub struct Server {
    child: Child,
    log: PathBuf,
    /// Where Kafka clients connect.
    pub bootstrap: String,
    /// Chronik's admin port.
    pub admin: Option<String>,
}

impl Server {
    /// Starts Chronik and does not wait for it.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn chronik(program: &Path, dir: &Path, settings: &[String]) -> Result<Self> {
        fs::create_dir_all(dir)?;
        let (bootstrap, admin) = (free_address()?, free_address()?);
        let mut command = Command::new(program);
        command.args(["broker", "--listen", &bootstrap, "--admin-listen", &admin, "--data-dir"]);
        command.arg(dir.join("data"));
        for setting in settings {
            command.args(["--set", setting]);
        }
        let log = dir.join("broker.log");
        Ok(Self { child: start(command, &log)?, log, bootstrap, admin: Some(admin) })
    }

    /// Starts Apache Kafka and does not wait for it; formats the directory if it is new. `more`: its properties
    /// beside those that it needs.
    ///
    /// # Errors
    /// When it cannot be formatted or started.
    pub fn kafka(jars: &Path, dir: &Path, more: &[String]) -> Result<Self> {
        fs::create_dir_all(dir)?;
        let (bootstrap, controller) = (free_address()?, free_address()?);
        let data = dir.join("data");
        let properties = dir.join("server.properties");
        // What a single node needs to run at all; everything else is as Kafka ships.
        let settings = [
            "process.roles=broker,controller".to_owned(),
            "node.id=1".to_owned(),
            format!("controller.quorum.voters=1@{controller}"),
            format!("listeners=PLAINTEXT://{bootstrap},CONTROLLER://{controller}"),
            "controller.listener.names=CONTROLLER".to_owned(),
            format!("log.dirs={}", data.display()),
            "offsets.topic.replication.factor=1".to_owned(),
            "transaction.state.log.replication.factor=1".to_owned(),
            "transaction.state.log.min.isr=1".to_owned(),
        ];
        fs::write(&properties, [&settings[..], more].concat().join("\n") + "\n")?;
        let class_path = format!("{}/*", jars.display());
        if !data.join("meta.properties").exists() {
            let cluster = ["format", "-t", "MkU3OEVBNTcwNTJENDM2Qg", "-c"];
            let format = Command::new("java")
                .args(["-cp", &class_path, "kafka.tools.StorageTool"])
                .args(cluster)
                .arg(&properties)
                .output();
            let format = format.context("cannot run java")?;
            ensure!(
                format.status.success(),
                "Kafka's format failed: {}",
                String::from_utf8_lossy(&format.stderr)
            );
        }
        let mut command = Command::new("java");
        command.args(KAFKA_JVM).args(["-cp", &class_path, "kafka.Kafka"]).arg(&properties);
        let log = dir.join("broker.log");
        Ok(Self { child: start(command, &log)?, log, bootstrap, admin: None })
    }

    /// The process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Waits until it serves: Chronik by its readiness, Kafka by its port.
    ///
    /// # Errors
    /// When it ends, or takes more than 90 s.
    pub fn wait(&mut self) -> Result<()> {
        let begun = Instant::now();
        loop {
            let ready = match &self.admin {
                Some(admin) => http_get(admin, "/readyz").is_ok(),
                None => TcpStream::connect(&self.bootstrap).is_ok(),
            };
            if ready {
                return Ok(());
            }
            self.check_alive()?;
            ensure!(begun.elapsed() < PATIENCE, "no server after {PATIENCE:?}; see {}", self.log.display());
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Fails when the process has ended.
    ///
    /// # Errors
    /// With the last lines of its log.
    pub fn check_alive(&mut self) -> Result<()> {
        if let Some(status) = self.child.try_wait()? {
            let log = fs::read_to_string(&self.log).unwrap_or_default();
            let lines: Vec<_> = log.lines().collect();
            let last = lines[lines.len().saturating_sub(15)..].join("\n");
            bail!("the server ended ({status}):\n{last}");
        }
        Ok(())
    }

    /// One of Chronik's metrics, by the text before its value.
    pub fn metric(&self, name: &str) -> Option<f64> {
        let metrics = self.metrics()?;
        let line = metrics.lines().find_map(|line| line.strip_prefix(name))?;
        line.trim().split(' ').next()?.parse().ok()
    }

    /// All of Chronik's metrics, as it tells them.
    pub fn metrics(&self) -> Option<String> {
        http_get(self.admin.as_ref()?, "/metrics").ok()
    }

    /// The labels of one of Chronik's metrics.
    pub fn labels(&self, name: &str) -> Option<String> {
        let metrics = self.metrics()?;
        let labels = metrics.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('{'))?;
        Some(labels.rsplit_once('}')?.0.replace("\",", "\", "))
    }

    /// Kills it at once, as a crash would.
    ///
    /// # Errors
    /// When it cannot be waited for.
    pub fn crash(mut self) -> Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// Stops it and waits until it has ended.
    pub fn stop(mut self) {
        self.end();
    }

    fn end(&mut self) {
        if matches!(self.child.try_wait(), Ok(Some(_))) {
            return;
        }
        // The standard library can only kill; the shell's tool asks politely.
        let _ = Command::new("kill").args(["-TERM", &self.child.id().to_string()]).status();
        let begun = Instant::now();
        while begun.elapsed() < Duration::from_secs(30) {
            if matches!(self.child.try_wait(), Ok(Some(_))) {
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.end();
    }
}

fn start(mut command: Command, log: &Path) -> Result<Child> {
    let out = File::options().create(true).append(true).open(log)?;
    let program = command.get_program().to_owned();
    command.stdin(Stdio::null()).stdout(out.try_clone()?).stderr(out);
    command.spawn().with_context(|| format!("cannot start {}", program.display()))
}

/// An address on loopback that nobody listens on now.
fn free_address() -> Result<String> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.to_string())
}

/// The body of a 200 answer.
fn http_get(address: &str, path: &str) -> Result<String> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (head, body) = answer.split_once("\r\n\r\n").context("no HTTP answer")?;
    ensure!(head.split(' ').nth(1) == Some("200"), "{path}: {}", head.lines().next().unwrap_or_default());
    Ok(body.to_owned())
}

/// Chronik and, if `kafka`, Kafka beside it, below `dir`, as tables call them. They serve.
///
/// # Errors
/// When one cannot be started.
pub fn side_by_side(
    program: &Path,
    jars: &Path,
    dir: &Path,
    settings: &[String],
    kafka: bool,
) -> Result<Vec<(&'static str, Server)>> {
    let mut brokers = vec![("Chronik", Server::chronik(program, &dir.join("chronik"), settings)?)];
    if kafka {
        brokers.push(("Kafka 4.3.1", Server::kafka(jars, &dir.join("kafka"), &[])?));
    }
    for (name, broker) in &mut brokers {
        broker.wait().context(*name)?;
    }
    Ok(brokers)
}

/// Lets `judge`, told both addresses, compare a Kafka and a Chronik below `dir`, which is kept if they differ.
///
/// # Errors
/// When one cannot be started, or ends, and with `complaint` when `judge` fails.
pub fn compare(
    dir: &Path,
    (jars, of_kafka): (&Path, &[String]),
    (program, of_chronik): (&Path, &[String]),
    mut judge: Command,
    complaint: &str,
) -> Result<()> {
    let mut kafka = Server::kafka(jars, &dir.join("kafka"), of_kafka)?;
    let mut chronik = Server::chronik(program, &dir.join("chronik"), of_chronik)?;
    chronik.wait().context("Chronik")?;
    kafka.wait().context("Kafka")?;
    judge.args(["--reference", &kafka.bootstrap, "--bootstrap", &chronik.bootstrap]);
    let status = judge.stdin(Stdio::null()).status()?;
    kafka.check_alive().context("Kafka")?;
    chronik.check_alive().context("Chronik")?;
    ensure!(status.success(), "{complaint}; kept: {}", dir.display());
    kafka.stop();
    chronik.stop();
    fs::remove_dir_all(dir)?;
    Ok(())
}

/// Copies Kafka's jars from Maven Central below `target`, once.
///
/// # Errors
/// When Maven fails.
pub fn fetch_kafka(root: &Path, target: &Path) -> Result<PathBuf> {
    let jars = target.join("bench/kafka-4.3.1");
    let pom = root.join("xtask/kafka/pom.xml");
    // Copied in full, by this list.
    let (stamp, list) = (jars.join("complete"), fs::read_to_string(&pom)?);
    if !fs::read_to_string(&stamp).is_ok_and(|copied| copied == list) {
        eprintln!("fetching Apache Kafka 4.3.1 from Maven Central");
        let status = Command::new("mvn")
            .args(["--quiet", "--batch-mode", "--file"])
            .arg(pom)
            .arg("dependency:copy-dependencies")
            .arg(format!("-DoutputDirectory={}", jars.display()))
            .status()
            .context("cannot run mvn (is Maven installed?)")?;
        ensure!(status.success(), "mvn ended with {status}");
        fs::write(stamp, list)?;
    }
    Ok(jars)
}
