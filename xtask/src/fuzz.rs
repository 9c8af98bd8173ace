//! `cargo xtask fuzz`.
use anyhow::Result;
use std::path::Path;
#[derive(clap::Args)]
pub struct Args {}
pub fn run(_root: &Path, _args: &Args) -> Result<()> {
    Ok(())
}
