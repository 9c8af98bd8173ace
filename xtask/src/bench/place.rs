//! What every command that starts servers can be told: which `chronik`, where the data lies, its settings.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// Options of such a command.
#[derive(clap::Args)]
pub struct Place {
    /// Use this `chronik` instead of building one
    #[arg(long)]
    program: Option<PathBuf>,
    /// Directory for all data; on a real disk [default: one of the command's own, below target]
    #[arg(long)]
    dir: Option<PathBuf>,
    /// A setting for Chronik; may be given more than once
    #[arg(long, value_name = "NAME=VALUE")]
    pub set: Vec<String>,
}

impl Place {
    /// The `chronik` that was named, or one that `build` makes.
    ///
    /// # Errors
    /// When there is no such file; the build's.
    pub fn program(&self, build: impl FnOnce() -> Result<PathBuf>) -> Result<PathBuf> {
        match &self.program {
            Some(program) => program.canonicalize().context("--program"),
            None => build(),
        }
    }

    /// A directory for this run alone, below the one that was named or else `default`.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn run_dir(&self, default: &Path) -> Result<PathBuf> {
        let dir = self.dir.as_deref().unwrap_or(default);
        fs::create_dir_all(dir)?;
        let dir = dir.canonicalize()?.join(format!("run-{}", std::process::id()));
        fs::create_dir_all(&dir)?;
        Ok(dir)
    }
}
