//! net

pub mod frame;
pub mod guard;
