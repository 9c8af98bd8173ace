//! `chronik-faultfs`: mounts the file system that forgets what was not flushed, and obeys its control socket.

use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use chronik_faultfs::{control, mount};
use clap::{Parser, Subcommand};

/// A test file system that forgets what was not flushed. Its contents are in memory.
#[derive(Parser)]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Mount, and serve until the process ends.
    Mount {
        /// Where to mount; made if need be.
        directory: PathBuf,
        /// Where to make the control socket.
        #[arg(long)]
        control: PathBuf,
        /// Let any flush keep all names, as ext4's journal does, not only a flush of their directory.
        #[arg(long)]
        lenient: bool,
    },
    /// Send one command to a control socket: `cut SEED forget|mixed`, `on`, `stats`, `fail-flush N|off`,
    /// `fail-write N|off`, `enospc BYTES|off`, `readonly on|off`, `flip FILE OFFSET`.
    Send {
        /// The control socket.
        control: PathBuf,
        /// The command's words.
        #[arg(required = true)]
        words: Vec<String>,
    },
}

fn main() -> Result<()> {
    match Args::parse().command {
        Command::Mount { directory, control: socket, lenient } => {
            if let Some(why) = mount::unavailable() {
                bail!("{why}");
            }
            let mounted = mount::Mounted::new(&directory, lenient)
                .with_context(|| format!("cannot mount at {}", directory.display()))?;
            println!("mounted at {}, control socket {}", directory.display(), socket.display());
            control::listen(&socket, mounted.state().clone()).context("the control socket failed")
        }
        Command::Send { control: socket, words } => {
            println!("{}", control::send(&socket, &words.join(" "))?);
            Ok(())
        }
    }
}
