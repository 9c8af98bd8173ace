//! `cargo xtask`: the one entry to the project's tasks. CI calls the same commands.

fn main() {}
