//! What a data disk as a whole remembers: how far each partition is in synced segments ([`checkpoint`]), and
//! what the write-ahead log adds to that after a restart ([`replay`]).

pub mod checkpoint;
pub mod replay;
#[cfg(test)]
mod tests;
