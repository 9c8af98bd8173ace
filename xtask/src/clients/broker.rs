//! One `chronik broker` of our own, on a data directory that outlives its restarts.

use std::fs::File;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};

use super::process::wait;

const READY_WITHIN: Duration = Duration::from_secs(60);
const STOPPED_WITHIN: Duration = Duration::from_secs(30);

pub struct Broker {
    bin: PathBuf,
    dir: PathBuf,
    port: u16,
    admin_port: u16,
    child: Child,
}

impl Broker {
    /// Starts `bin` in an empty `dir`, on free ports of loopback, and waits until it is ready. Its data goes to
    /// `dir/data`, what it says to `dir/broker.log`.
    pub fn start(bin: &Path, dir: &Path) -> Result<Broker> {
        if dir.exists() {
            std::fs::remove_dir_all(dir)?;
        }
        std::fs::create_dir_all(dir)?;
        let (port, admin_port) = two_free_ports()?;
        let child = spawn(bin, dir, port, admin_port)?;
        let mut broker = Broker { bin: bin.to_owned(), dir: dir.to_owned(), port, admin_port, child };
        broker.wait_until_ready()?;
        Ok(broker)
    }

    pub fn bootstrap(&self) -> String {
        address(self.port)
    }

    /// Starts it again on the same directory and ports, after [`Broker::stop`] or [`Broker::kill`].
    pub fn start_again(&mut self) -> Result<()> {
        self.child = spawn(&self.bin, &self.dir, self.port, self.admin_port)?;
        self.wait_until_ready()
    }

    /// SIGTERM.
    ///
    /// # Errors
    /// If it does not end in time, or not with exit code 0.
    pub fn stop(&mut self) -> Result<()> {
        kill_process(Pid::from_child(&self.child), Signal::TERM)?;
        match wait(&mut self.child, STOPPED_WITHIN)? {
            Some(status) if status.success() => Ok(()),
            Some(status) => bail!("the broker ended with {status} on SIGTERM{}", self.log_tail()),
            None => bail!("the broker has not stopped {STOPPED_WITHIN:?} after SIGTERM{}", self.log_tail()),
        }
    }

    /// SIGKILL.
    pub fn kill(&mut self) -> Result<()> {
        ensure!(self.child.try_wait()?.is_none(), "the broker had ended by itself{}", self.log_tail());
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    fn wait_until_ready(&mut self) -> Result<()> {
        let deadline = Instant::now() + READY_WITHIN;
        while !is_ready(self.admin_port) {
            if let Some(status) = self.child.try_wait()? {
                bail!("the broker ended with {status} at its start{}", self.log_tail());
            }
            ensure!(Instant::now() < deadline, "not ready after {READY_WITHIN:?}{}", self.log_tail());
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    }

    /// The last lines of what it said, to follow a message.
    fn log_tail(&self) -> String {
        let log = std::fs::read_to_string(self.dir.join("broker.log")).unwrap_or_default();
        let lines: Vec<_> = log.lines().collect();
        format!("; it said:\n{}", lines[lines.len().saturating_sub(30)..].join("\n"))
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        // After a failure only: nothing of ours outlives us.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn address(port: u16) -> String {
    format!("127.0.0.1:{port}")
}

fn spawn(bin: &Path, dir: &Path, port: u16, admin_port: u16) -> Result<Child> {
    let log = File::options().create(true).append(true).open(dir.join("broker.log"))?;
    Command::new(bin)
        .args(["broker", "--listen", &address(port), "--admin-listen", &address(admin_port), "--data-dir"])
        .arg(dir.join("data"))
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .spawn()
        .with_context(|| format!("cannot start {}", bin.display()))
}

/// Both held at once, so that they differ. Another process could take one before the broker does; then it does not
/// start, and says so.
fn two_free_ports() -> Result<(u16, u16)> {
    let (one, other) = (TcpListener::bind("127.0.0.1:0")?, TcpListener::bind("127.0.0.1:0")?);
    Ok((one.local_addr()?.port(), other.local_addr()?.port()))
}

fn is_ready(admin_port: u16) -> bool {
    let ask = || -> std::io::Result<String> {
        let mut connection = TcpStream::connect(("127.0.0.1", admin_port))?;
        connection.set_read_timeout(Some(Duration::from_secs(2)))?;
        connection.write_all(b"GET /readyz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
        let mut answer = Vec::new();
        connection.read_to_end(&mut answer)?;
        Ok(String::from_utf8_lossy(&answer).into_owned())
    };
    ask().is_ok_and(|answer| answer.starts_with("HTTP/1.1 200"))
}
