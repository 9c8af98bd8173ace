//! From sockets to requests and back.

pub mod connection;
pub mod frame;
pub mod guard;
pub mod listener;
