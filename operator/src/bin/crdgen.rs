//! `crdgen [DIR]...`: writes the CustomResourceDefinitions, made from the Rust types, into each directory. Without one:
//! into `crds` and into the operator chart's copy.

use std::path::PathBuf;

use anyhow::{Context, Result};
use chronik_operator::crd;

fn main() -> Result<()> {
    let mut directories: Vec<PathBuf> = std::env::args_os().skip(1).map(PathBuf::from).collect();
    if directories.is_empty() {
        let root = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/.."));
        directories = crd::COPIES.iter().map(|copy| root.join(copy)).collect();
    }
    for directory in directories {
        std::fs::create_dir_all(&directory).with_context(|| directory.display().to_string())?;
        for (name, text) in crd::definitions()? {
            let path = directory.join(name);
            std::fs::write(&path, text).with_context(|| path.display().to_string())?;
        }
    }
    Ok(())
}
