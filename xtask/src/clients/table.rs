//! The clients, and which commands of each program are in the step.

/// How a topic's records are written: the last part of its name.
pub type Mode = &'static str;

const ALL: &[Mode] = &["plain", "idempotent", "gzip", "snappy", "lz4", "zstd"];
/// Of a client whose other codecs would be packages of their own.
const WITHOUT_NATIVE: &[Mode] = &["plain", "idempotent", "gzip"];
/// Of a client without an idempotent producer.
const NOT_IDEMPOTENT: &[Mode] = &["plain", "gzip", "snappy", "lz4", "zstd"];

pub struct Client {
    pub name: &'static str,
    /// What is to be installed for it.
    pub language: &'static str,
    /// Ways in which it writes, and which it can read.
    pub modes: &'static [Mode],
    /// Those that the step runs, beside what all have. A program may have more, for runs by hand.
    commands: &'static [&'static str],
    /// It knows the assignor `range`, which all that share a group must, and what it says when it joins can be read by the others.
    pub mixes: bool,
    /// Beside its loop that consumes, transforms and produces only the broker dies: what happens to a member takes a session's
    /// time, and the step enough of it.
    pub transforms_briefly: bool,
}

impl Client {
    pub fn has(&self, command: &str) -> bool {
        self.commands.contains(&command)
    }
}

const fn client(
    name: &'static str,
    language: &'static str,
    modes: &'static [Mode],
    commands: &'static [&'static str],
) -> Client {
    Client { name, language, modes, commands, mixes: true, transforms_briefly: false }
}

pub const CLIENTS: [Client; 11] = [
    client(
        "java",
        "java",
        ALL,
        &["group", "consumer-group", "member", "transact", "transform", "verify", "admin", "streams"],
    ),
    Client {
        transforms_briefly: true,
        ..client("confluent", "python", ALL, &["group", "member", "transact", "transform", "verify"])
    },
    client("aiokafka", "python", WITHOUT_NATIVE, &["group", "member", "transact"]),
    client("kafka-python", "python", WITHOUT_NATIVE, &["group", "member", "transact", "transform"]),
    Client {
        transforms_briefly: true,
        ..client("franz-go", "go", ALL, &["group", "member", "transact", "transform", "verify"])
    },
    client("sarama", "go", ALL, &["group", "member", "transact", "admin"]),
    Client {
        // Its subscription lacks a field of the version that it says it has: segmentio/kafka-go issue 1156.
        mixes: false,
        ..client("kafka-go", "go", NOT_IDEMPOTENT, &["group", "member", "admin"])
    },
    Client {
        mixes: false,
        ..client("kafkajs", "node", WITHOUT_NATIVE, &["group", "member", "transact", "admin"])
    },
    client("krafka", "rust", ALL, &["group", "transact"]),
    client("kcat", "kcat", ALL, &["group", "member"]),
    // Apache Kafka's command line tools: no program of ours, see `tools`.
    client("tools", "java", &[], &["admin"]),
];
