//! What the fuzz targets share.

#[path = "../../tests/every_request/mod.rs"]
pub mod every_request;
pub mod seeds;
