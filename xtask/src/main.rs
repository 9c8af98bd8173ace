//! `cargo xtask`: the one entry to the project's tasks. CI calls the same commands.

mod clients;
mod fuzz;
mod shapes;

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use clap::Parser;

#[derive(Parser)]
#[command(name = "cargo xtask")]
enum Task {
    /// Test the broker with Kafka's own clients.
    Clients(clients::Args),
    /// Generate the request guard's table of message shapes from Kafka's schemas.
    Shapes(shapes::Args),
    /// Fuzz the decoders with libFuzzer, on the stable toolchain.
    Fuzz(fuzz::Args),
}

fn main() -> Result<()> {
    let root = root()?;
    match Task::parse() {
        Task::Clients(args) => clients::run(&root, &args),
        Task::Shapes(args) => shapes::run(&root, &args),
        Task::Fuzz(args) => fuzz::run(&root, &args),
    }
}

/// The workspace's directory.
fn root() -> Result<PathBuf> {
    let xtask = Path::new(env!("CARGO_MANIFEST_DIR"));
    Ok(xtask.parent().context("xtask lies outside a workspace")?.to_owned())
}
