//! The records of the metadata log and the image they build.
