//! Faults for the real broker: a file system that forgets what was not flushed, and the programs that load a
//! broker, kill it or cut its power at a random moment, and read back all that it ever acknowledged.
//!
//! - [`state`]: the file system as a pure state machine;
//! - [`mount`]: the same behind a FUSE mount;
//! - [`control`]: a line protocol over a unix socket, for whoever holds only the path;
//! - [`crash`]: load, sudden death and verification;
//! - [`seed`]: the randomness that makes each round repeatable.

pub mod control;
pub mod crash;
pub mod mount;
pub mod seed;
pub mod state;
