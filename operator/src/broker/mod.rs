//! How the operator talks to brokers: HTTP for what they say about themselves, Kafka's protocol for what is altered.

pub mod admin;
pub mod kafka;
