//! What a shard does, seen from outside. Error codes are Kafka's.

mod clock;
mod describe;
mod end;
mod house;
mod init;
mod loading;
mod model;
mod partitions;
mod record;
