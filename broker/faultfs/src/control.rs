//! The control socket: one command a line, one answer a line, `ok …` or `error …`.
//!
//! | command | effect |
//! |---|---|
//! | `cut SEED forget\|mixed` | lose power; everything fails until `on` |
//! | `on` | power is back, with nothing but what was durable |
//! | `stats` | counters |
//! | `fail-flush N\|off`, `fail-write N\|off` | N more succeed, then each fails with EIO |
//! | `enospc BYTES\|off` | so much free space is left |
//! | `readonly on\|off` | changes fail with EROFS |
//! | `flip FILE OFFSET` | flip one bit on the disk |

use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;

use crate::mount::Shared;
use crate::state::CutMode;

/// Serves commands on a new socket at `path` until the process ends.
///
/// # Errors
/// When the socket cannot be made.
pub fn listen(path: &Path, state: Shared) -> io::Result<()> {
    // A socket left by an earlier run would make binding fail.
    if path.exists() {
        std::fs::remove_file(path)?;
    }
    let listener = UnixListener::bind(path)?;
    for stream in listener.incoming() {
        let (stream, state) = (stream?, state.clone());
        std::thread::spawn(move || serve(stream, &state));
    }
    Ok(())
}

/// Sends one command to the socket at `path` and returns the answer's text.
///
/// # Errors
/// When the socket cannot be reached, or the command was refused.
pub fn send(path: &Path, command: &str) -> io::Result<String> {
    let mut stream = UnixStream::connect(path)?;
    writeln!(stream, "{command}")?;
    let mut answer = String::new();
    BufReader::new(stream).read_line(&mut answer)?;
    match answer.trim_end().split_once(' ') {
        Some(("ok", text)) => Ok(text.to_owned()),
        None if answer.trim_end() == "ok" => Ok(String::new()),
        Some(("error", text)) => Err(io::Error::other(text.to_owned())),
        _ => Err(io::Error::other(format!("no answer to {command:?}"))),
    }
}

fn serve(stream: UnixStream, state: &Shared) -> Option<()> {
    let mut writer = stream.try_clone().ok()?;
    for line in BufReader::new(stream).lines() {
        let answer = match execute(&line.ok()?, state) {
            Ok(text) if text.is_empty() => "ok".to_owned(),
            Ok(text) => format!("ok {text}"),
            Err(why) => format!("error {why}"),
        };
        writeln!(writer, "{answer}").ok()?;
    }
    Some(())
}

/// Executes one command.
///
/// # Errors
/// With a text that says what was wrong with it.
pub fn execute(line: &str, state: &Shared) -> Result<String, String> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let mut fs = state.lock();
    match words.as_slice() {
        ["cut", seed, mode] => {
            let mode = match *mode {
                "forget" => CutMode::Forget,
                "mixed" => CutMode::Mixed,
                other => return Err(format!("unknown mode {other}: forget or mixed")),
            };
            Ok(format!("{:?}", fs.cut(mode, number(seed)?)))
        }
        ["on"] => {
            fs.power_on();
            Ok(String::new())
        }
        ["stats"] => Ok(format!("{:?}", fs.stats())),
        ["fail-flush", n] => {
            fs.faults_mut().fail_flush_after = number_or_off(n)?;
            Ok(String::new())
        }
        ["fail-write", n] => {
            fs.faults_mut().fail_write_after = number_or_off(n)?;
            Ok(String::new())
        }
        ["enospc", bytes] => {
            match number_or_off(bytes)? {
                Some(bytes) => fs.limit_free_space(bytes),
                None => fs.unlimit_free_space(),
            }
            Ok(String::new())
        }
        ["readonly", switch @ ("on" | "off")] => {
            fs.faults_mut().read_only = *switch == "on";
            Ok(String::new())
        }
        ["flip", file, offset] => {
            let offset = number(offset)?;
            let flipped = fs.flip(Path::new(file), offset);
            flipped.map(|()| String::new()).map_err(|e| io::Error::from_raw_os_error(e).to_string())
        }
        _ => Err(format!("unknown command {line:?}")),
    }
}

fn number(text: &str) -> Result<u64, String> {
    text.parse().map_err(|_| format!("{text} is not a number"))
}

fn number_or_off(text: &str) -> Result<Option<u64>, String> {
    if text == "off" { Ok(None) } else { number(text).map(Some) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::FileSystem;

    #[test]
    fn commands_reach_the_file_system() {
        let state = Shared::new(FileSystem::new(false));
        for (command, answer) in [
            ("enospc 8192", "ok"),
            ("fail-flush 3", "ok"),
            ("fail-write off", "ok"),
            ("readonly on", "ok"),
            ("cut 1 mixed", "ok"),
            ("on", "ok"),
            ("cut 1 sometimes", "error"),
            ("enospc much", "error"),
            ("flip nothing 0", "error"),
            ("readonly perhaps", "error"),
            ("", "error"),
        ] {
            let said = if execute(command, &state).is_ok() { "ok" } else { "error" };
            assert_eq!(said, answer, "{command:?}");
        }
        let mut fs = state.lock();
        assert_eq!(fs.space().1, 2);
        assert!(fs.faults_mut().read_only);
        assert_eq!(fs.faults_mut().fail_flush_after, None, "power_on ends it");
        assert_eq!(fs.stats().cuts, 1);
    }

    #[test]
    fn the_socket_answers_line_by_line() {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("control");
        let (path, state) = (socket.clone(), Shared::new(FileSystem::new(false)));
        std::thread::spawn(move || listen(&path, state));
        let answer = loop {
            // The thread may not have bound it yet.
            match send(&socket, "stats") {
                Err(error)
                    if [io::ErrorKind::NotFound, io::ErrorKind::ConnectionRefused]
                        .contains(&error.kind()) => {}
                answer => break answer.unwrap(),
            }
        };
        assert!(answer.contains("writes: 0"), "{answer}");
        assert!(send(&socket, "nonsense").unwrap_err().to_string().contains("unknown command"));
    }
}
