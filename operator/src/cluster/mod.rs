//! Clusters: fetch, validate, build, apply, status.
//!
//! A reconcile reads everything anew, decides by pure functions, and writes. It may end anywhere: the next one begins
//! with what is there.

mod apply;
mod build;
mod facts;
mod fetch;
mod identity;
mod live;
mod names;
mod placement;
mod reconcile;
mod roll;
mod settings;
mod status;
mod storage;
mod validate;
mod watch;

pub use roll::Cause;
pub use watch::run;
