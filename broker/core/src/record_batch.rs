//! The header of a v2 record batch, seen in place.
