//! The command line's tools for a first look: `chronik topics`, `produce`, `consume`, `groups`,
//! `transactions`, `configs`, `log-dirs`.
//!
//! Each has its options as a clap `Args` and a `run` that brings its own small runtime.

pub mod configs;
pub mod consume;
pub mod groups;
pub mod log_dirs;
pub mod produce;
pub mod segment;
pub mod topics;
pub mod transactions;
pub mod wal;

use std::io::Write;
use std::time::Duration;

use anyhow::{Context, Result};
use chronik_client::{Client, ClientError};
use clap::Args;

/// Which servers to talk to.
#[derive(Debug, Clone, Args)]
pub struct Server {
    /// Server to ask first; several with commas
    #[arg(long, short, value_name = "HOST:PORT", default_value = "127.0.0.1:9092")]
    #[arg(env = "CHRONIK_BOOTSTRAP")]
    pub bootstrap: String,
}

/// How long a tool waits for one answer.
const ANSWER_WITHIN: Duration = Duration::from_secs(30);

impl Server {
    /// A client of these servers.
    ///
    /// # Errors
    /// When none of them answers.
    pub async fn connect(&self) -> Result<Client, ClientError> {
        Client::connect(&self.bootstrap, ANSWER_WITHIN).await
    }
}

/// A runtime on the calling thread: these tools do one thing at a time.
///
/// # Errors
/// When the system gives no epoll.
pub fn runtime() -> Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread().enable_all().build().context("cannot start the runtime")
}

/// Columns as wide as their widest cell, two spaces between.
///
/// # Errors
/// When the output is closed.
pub fn table(out: &mut impl Write, rows: Vec<Vec<String>>) -> Result<()> {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |at: usize| rows.iter().filter_map(|row| row.get(at)).map(|cell| cell.chars().count()).max();
    let widths: Vec<usize> = (0..columns).map(|at| width(at).unwrap_or(0)).collect();
    for row in &rows {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}", width = *width));
        writeln!(out, "{}", cells.collect::<Vec<_>>().join("  ").trim_end())?;
    }
    Ok(())
}

/// Reads `NAME=VALUE`.
///
/// # Errors
/// Without a name or an equals sign.
pub fn key_value(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.trim().is_empty() => Ok((name.trim().to_owned(), value.to_owned())),
        _ => Err(format!("{text:?} is not NAME=VALUE")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_line_up() {
        let mut out = Vec::new();
        let rows = [["A", "LONG"], ["wide one", "x"]];
        table(&mut out, rows.map(|row| row.map(str::to_owned).to_vec()).to_vec()).unwrap();
        assert_eq!(String::from_utf8(out).unwrap(), "A         LONG\nwide one  x\n");
    }

    #[test]
    fn settings_are_split_at_the_first_equals_sign() {
        let pair = |name: &str, value: &str| Ok((name.to_owned(), value.to_owned()));
        assert_eq!(key_value("a=b=c"), pair("a", "b=c"));
        assert_eq!(key_value("a="), pair("a", ""));
        assert!(key_value("a").is_err() && key_value("=b").is_err());
    }
}
