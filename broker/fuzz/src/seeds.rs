//! The seed corpus: a valid request of each API and version. It is written by the fuzz target itself before it
//! starts, so that no binary files have to be committed.

use std::io;
use std::path::Path;

use chronik_broker::net::guard;

use crate::every_request::wire::{self, Random};
use crate::every_request::{Row, rows};

/// Writes a seed for each API and version into the directory that `FUZZ_SEEDS` names, if it is set. `input`
/// makes a target's input of a row, a version and a valid body.
pub fn write(input: fn(&Row, i16, &[u8]) -> Vec<u8>) {
    let Some(directory) = std::env::var_os("FUZZ_SEEDS") else { return };
    write_to(Path::new(&directory), input).expect("FUZZ_SEEDS must name a directory that can be written");
}

/// Writes these inputs as seeds, under the same condition.
pub fn write_all(inputs: Vec<Vec<u8>>) {
    let Some(directory) = std::env::var_os("FUZZ_SEEDS") else { return };
    let directory = Path::new(&directory);
    let written = std::fs::create_dir_all(directory).and_then(|()| {
        inputs
            .iter()
            .enumerate()
            .try_for_each(|(n, input)| std::fs::write(directory.join(n.to_string()), input))
    });
    written.expect("FUZZ_SEEDS must name a directory that can be written");
}

fn write_to(directory: &Path, input: fn(&Row, i16, &[u8]) -> Vec<u8>) -> io::Result<()> {
    std::fs::create_dir_all(directory)?;
    let mut random = Random(4);
    for row in rows() {
        let request = guard::request(row.api_key).expect("every row has a shape");
        for version in row.versions.min..=row.versions.max {
            let body = wire::body(request, version, &mut random);
            let path = directory.join(format!("{}-{version}", request.name));
            std::fs::write(path, input(&row, version, &body))?;
        }
    }
    Ok(())
}
