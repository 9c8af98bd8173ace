//! Programs of the machine: run to their end, or left to run in the background.

use std::fs::File;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

/// What a failed program's message quotes of its output, from the end.
const QUOTED_BYTES: usize = 3000;

/// Runs a program to its end and returns what it printed.
///
/// # Errors
/// If it cannot be started, or fails; the message quotes what it said.
pub fn run(program: &str, args: &[&str]) -> Result<String> {
    output(Command::new(program).args(args))
}

/// The same, for a command that is put together already.
pub fn output(command: &mut Command) -> Result<String> {
    let program = command.get_program().to_string_lossy().into_owned();
    let output = command.stdin(Stdio::null()).output().with_context(|| format!("cannot start {program}"))?;
    let mut text = String::from_utf8_lossy(&output.stdout).into_owned();
    if !output.status.success() {
        text.push_str(&String::from_utf8_lossy(&output.stderr));
        let shown: Vec<_> = command.get_args().map(|arg| arg.to_string_lossy()).collect();
        bail!("{program} {}: {}\n{}", shown.join(" "), output.status, tail(&text));
    }
    Ok(text)
}

/// The end of a long text.
pub fn tail(text: &str) -> &str {
    let mut start = text.len().saturating_sub(QUOTED_BYTES);
    while !text.is_char_boundary(start) {
        start += 1;
    }
    text[start..].trim_end()
}

/// Whether a program is on the search path, or, named whole, a file.
pub fn is_there(program: &str) -> bool {
    let path = std::env::var("PATH").unwrap_or_default();
    // What the system keeps for root is not on everybody's path.
    std::env::split_paths(&path)
        .chain(["/usr/sbin".into(), "/sbin".into()])
        .any(|dir| dir.join(program).is_file())
}

/// Starts a program in a session of its own, its output in a file, and returns its process id.
pub fn background(log: &Path, program: &str, args: &[String]) -> Result<u32> {
    let log = File::create(log).with_context(|| log.display().to_string())?;
    let child = Command::new("setsid")
        .arg(program)
        .args(args)
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .spawn()
        .with_context(|| format!("cannot start {program}"))?;
    Ok(child.id())
}

/// Sends SIGKILL, or SIGTERM. A process that is gone already is fine.
pub fn signal(pid: u32, signal: rustix::process::Signal) {
    if let Some(pid) = i32::try_from(pid).ok().and_then(rustix::process::Pid::from_raw) {
        let _ = rustix::process::kill_process(pid, signal);
    }
}

/// Whether a process is there and has not ended.
pub fn is_running(pid: u32) -> bool {
    let Ok(stat) = std::fs::read_to_string(format!("/proc/{pid}/stat")) else { return false };
    // After the name in brackets comes the state; Z and X have ended.
    let state = stat.rsplit_once(')').and_then(|(_, rest)| rest.trim_start().chars().next());
    !matches!(state, Some('Z' | 'X') | None)
}

/// Waits until `done` says so, looking every `pause`.
///
/// # Errors
/// If it has not within `limit`; `what` names it.
pub fn wait(what: &str, limit: Duration, pause: Duration, mut done: impl FnMut() -> bool) -> Result<()> {
    let deadline = Instant::now() + limit;
    while !done() {
        ensure!(Instant::now() < deadline, "{what}: not within {} s", limit.as_secs());
        std::thread::sleep(pause);
    }
    Ok(())
}

/// All processes of the machine.
pub fn all() -> Vec<u32> {
    let Ok(entries) = std::fs::read_dir("/proc") else { return Vec::new() };
    entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_quotes_what_the_program_said() {
        let error = run("sh", &["-c", "echo out; echo err >&2; exit 3"]).unwrap_err().to_string();
        assert!(error.contains("out") && error.contains("err") && error.contains('3'), "{error}");
        assert_eq!(run("sh", &["-c", "echo fine"]).unwrap(), "fine\n");
    }

    #[test]
    fn a_process_runs_until_it_ends() {
        assert!(is_running(std::process::id()));
        assert!(all().contains(&std::process::id()));
        let mut child = Command::new("sleep").arg("60").spawn().unwrap();
        assert!(is_running(child.id()));
        signal(child.id(), rustix::process::Signal::KILL);
        // Not reaped yet: it is there, and has ended.
        let (pid, second) = (child.id(), Duration::from_secs(20));
        wait("the end", second, Duration::from_millis(1), || !is_running(pid)).unwrap();
        child.wait().unwrap();
    }
}
