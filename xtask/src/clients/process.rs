//! Child processes with a time limit, whose output is kept for when they fail.

use std::fs::File;
use std::io::{Read, Seek};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};

/// What a failed command's message quotes of its output, from the end.
const QUOTED_BYTES: usize = 4000;

/// Waits for the child to end; `None` if it has not within `limit`.
pub fn wait(child: &mut Child, limit: Duration) -> Result<Option<ExitStatus>> {
    let deadline = Instant::now() + limit;
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        if Instant::now() >= deadline {
            return Ok(None);
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Waits for a condition.
///
/// # Errors
/// If it does not hold within `limit`, or cannot be told.
pub fn until(what: &str, limit: Duration, mut holds: impl FnMut() -> Result<bool>) -> Result<()> {
    let deadline = Instant::now() + limit;
    while !holds()? {
        ensure!(Instant::now() < deadline, "not within {limit:?}: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
    Ok(())
}

/// A command that is being put together, with how long it may take.
pub struct Run {
    command: Command,
    limit: Duration,
    may_fail: bool,
}

/// What a command printed, both streams apart.
pub struct Output {
    pub stdout: Vec<u8>,
    pub stderr: String,
    pub success: bool,
}

impl Output {
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }

    /// The last line that says something.
    pub fn last_line(&self) -> String {
        self.text().lines().rev().find(|line| !line.trim().is_empty()).unwrap_or_default().to_owned()
    }
}

impl Run {
    pub fn new(program: impl AsRef<std::ffi::OsStr>) -> Run {
        let limit = Duration::from_secs(120);
        Run { command: Command::new(program), limit, may_fail: false }
    }

    pub fn args(mut self, args: impl IntoIterator<Item = impl AsRef<std::ffi::OsStr>>) -> Run {
        self.command.args(args);
        self
    }

    pub fn dir(mut self, dir: &Path) -> Run {
        self.command.current_dir(dir);
        self
    }

    pub fn env(mut self, name: &str, value: &str) -> Run {
        self.command.env(name, value);
        self
    }

    pub fn limit(mut self, limit: Duration) -> Run {
        self.limit = limit;
        self
    }

    /// An exit code other than 0 is an answer, not an error.
    pub fn may_fail(mut self) -> Run {
        self.may_fail = true;
        self
    }

    /// Starts it, to run while other things happen.
    pub fn start(mut self) -> Result<Running> {
        let program = self.command.get_program().to_string_lossy().into_owned();
        let said = unnamed_file()?;
        self.command.stdin(Stdio::null()).stdout(said.try_clone()?).stderr(said.try_clone()?);
        let child = self.command.spawn().with_context(|| format!("cannot start {program}"))?;
        Ok(Running { program, limit: self.limit, child, said, read_up_to: 0 })
    }

    /// Runs it to its end.
    ///
    /// # Errors
    /// If it cannot be started, takes longer than its limit (it is killed then), or exits with another code than
    /// 0. The message quotes the end of what it printed.
    pub fn output(mut self) -> Result<Output> {
        let program = self.command.get_program().to_string_lossy().into_owned();
        // Files, not pipes: nothing has to be read while the command runs.
        let (mut stdout, mut stderr) = (unnamed_file()?, unnamed_file()?);
        self.command.stdout(stdout.try_clone()?).stderr(stderr.try_clone()?);
        self.command.stdin(Stdio::null());
        let mut child = self.command.spawn().with_context(|| format!("cannot start {program}"))?;
        let ended = wait(&mut child, self.limit)?;
        if ended.is_none() {
            child.kill()?;
            child.wait()?;
        }
        let output = Output {
            stdout: read_back(&mut stdout)?,
            stderr: String::from_utf8_lossy(&read_back(&mut stderr)?).into_owned(),
            success: ended.is_some_and(|status| status.success()),
        };
        match ended {
            Some(status) if status.success() || self.may_fail => Ok(output),
            Some(status) => bail!("{program}: {status}\n{}", quote(&output)),
            None => bail!("{program}: not done after {:?}\n{}", self.limit, quote(&output)),
        }
    }
}

/// A program that runs while other things happen. Both its streams are one file, which is read by position, so that it
/// never waits for its reader.
pub struct Running {
    program: String,
    /// How long it may take to end once it was asked to.
    limit: Duration,
    child: Child,
    said: File,
    read_up_to: u64,
}

impl Running {
    /// The whole lines that it has said since the last call.
    ///
    /// # Errors
    /// If it has ended by itself.
    pub fn new_lines(&mut self) -> Result<Vec<String>> {
        if let Some(status) = self.child.try_wait()? {
            bail!("{} ended by itself: {status}\n{}", self.program, self.last_words()?);
        }
        self.read_lines()
    }

    fn read_lines(&mut self) -> Result<Vec<String>> {
        let bytes = self.said_from(self.read_up_to)?;
        let whole = bytes.iter().rposition(|&byte| byte == b'\n').map_or(0, |at| at + 1);
        self.read_up_to += whole as u64;
        Ok(String::from_utf8_lossy(&bytes[..whole]).lines().map(str::to_owned).collect())
    }

    fn said_from(&self, start: u64) -> Result<Vec<u8>> {
        let length = self.said.metadata()?.len();
        let mut bytes = vec![0; usize::try_from(length.saturating_sub(start))?];
        self.said.read_exact_at(&mut bytes, start)?;
        Ok(bytes)
    }

    fn last_words(&self) -> Result<String> {
        Ok(last_bytes(&String::from_utf8_lossy(&self.said_from(0)?)))
    }

    pub fn signal(&self, signal: Signal) -> Result<()> {
        Ok(kill_process(Pid::from_child(&self.child), signal)?)
    }

    /// SIGTERM. Returns the lines that it has said since it was last asked.
    ///
    /// # Errors
    /// If it does not end in time, or not with exit code 0.
    pub fn stop(&mut self) -> Result<Vec<String>> {
        self.signal(Signal::TERM)?;
        match wait(&mut self.child, self.limit)? {
            Some(status) if status.success() => self.read_lines(),
            Some(status) => bail!("{}: {status} upon SIGTERM\n{}", self.program, self.last_words()?),
            None => bail!("{} has not ended upon SIGTERM\n{}", self.program, self.last_words()?),
        }
    }

    /// SIGKILL. Returns the lines that it has said since it was last asked.
    pub fn kill(&mut self) -> Result<Vec<String>> {
        let lines = self.new_lines()?;
        self.child.kill()?;
        self.child.wait()?;
        Ok([lines, self.read_lines()?].concat())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // After a failure only: nothing of ours outlives us.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn unnamed_file() -> Result<File> {
    tempfile::tempfile().context("cannot make a temporary file")
}

fn read_back(file: &mut File) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    file.rewind()?;
    file.read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn quote(output: &Output) -> String {
    last_bytes(&(output.text() + &output.stderr))
}

fn last_bytes(all: &str) -> String {
    let mut start = all.len().saturating_sub(QUOTED_BYTES);
    while !all.is_char_boundary(start) {
        start += 1;
    }
    all[start..].trim_end().to_owned()
}
