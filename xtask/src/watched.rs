//! Commands whose output is shown as it comes, and whose last lines are kept for when they fail.

use std::collections::VecDeque;
use std::io::{BufRead, BufReader, PipeReader, Write};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::time::Duration;

use anyhow::{Context, Result, anyhow};

/// Lines that are kept.
const KEPT: usize = 60;
/// What the command has left running may hold the pipe open: how long it is read after the command's end.
const AFTERWARDS: Duration = Duration::from_secs(2);

/// Runs the command to its end.
///
/// # Errors
/// If it cannot be started, or fails. The message's source is then the end of what it said.
pub fn pass(command: &mut Command) -> Result<()> {
    let shown = command.get_args().map(|a| a.to_string_lossy().into_owned()).collect::<Vec<_>>().join(" ");
    let (reader, writer) = std::io::pipe()?;
    let child = command.stdout(writer.try_clone()?).stderr(writer).spawn();
    // With them the command lets go of the pipe, which would never end otherwise.
    command.stdout(Stdio::inherit()).stderr(Stdio::inherit());
    let mut child = child.with_context(|| format!("cannot run {:?}", command.get_program()))?;
    let kept = Arc::new(Mutex::new(VecDeque::new()));
    let (ended, end) = mpsc::channel();
    std::thread::spawn({
        let kept = kept.clone();
        move || {
            let _ = ended.send(show(reader, &kept));
        }
    });
    let status = child.wait()?;
    if let Ok(shown) = end.recv_timeout(AFTERWARDS) {
        shown?;
    }
    if status.success() {
        return Ok(());
    }
    let kept: Vec<String> = kept.lock().unwrap_or_else(PoisonError::into_inner).drain(..).collect();
    Err(anyhow!("{}", kept.join("\n")).context(format!("`{shown}` ended with {status}")))
}

fn show(reader: PipeReader, kept: &Mutex<VecDeque<String>>) -> Result<()> {
    let mut reader = BufReader::new(reader);
    let mut line = Vec::new();
    while reader.read_until(b'\n', &mut line)? > 0 {
        std::io::stdout().write_all(&line)?;
        let mut kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() == KEPT {
            kept.pop_front();
        }
        kept.push_back(String::from_utf8_lossy(&line).trim_end().to_owned());
        line.clear();
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failures_last_lines_are_in_its_error() {
        let mut command = Command::new("sh");
        let error = pass(command.args(["-c", "seq 100; echo why >&2; exit 3"])).unwrap_err();
        assert!(error.to_string().ends_with("ended with exit status: 3"), "{error}");
        let kept = error.root_cause().to_string();
        assert_eq!(kept.lines().count(), KEPT);
        assert!(kept.ends_with("100\nwhy"), "{kept}");
    }

    #[test]
    fn what_a_command_leaves_running_is_not_waited_for() {
        let begun = std::time::Instant::now();
        pass(Command::new("sh").args(["-c", "sleep 20 &"])).unwrap();
        assert!(begun.elapsed() < Duration::from_secs(15));
    }
}
