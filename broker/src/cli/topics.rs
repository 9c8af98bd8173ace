//! `chronik topics`: list, create, describe, grow, alter and delete topics.

use std::io::Write;

use anyhow::{Result, bail};
use chronik_client::{Client, ConfigSource, NewTopic, Position, Resource, Topic};
use clap::{Args, Subcommand};

use super::{Server, key_value, runtime, table};

/// See and change topics
#[derive(Debug, Args)]
#[command(mut_arg("bootstrap", |arg| arg.global(true)))]
pub struct TopicsArgs {
    #[command(flatten)]
    server: Server,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// List the topics
    List {
        /// Also those the brokers keep for themselves
        #[arg(long)]
        internal: bool,
    },
    /// Make a topic
    Create {
        /// Its name
        topic: String,
        /// How many partitions [default: the broker's num.partitions]
        #[arg(long, short, value_parser = clap::value_parser!(i32).range(1..))]
        partitions: Option<i32>,
        /// How many replicas [default: the broker's default.replication.factor]
        #[arg(long, short, value_parser = clap::value_parser!(i16).range(1..))]
        replication_factor: Option<i16>,
        /// A setting, such as retention.ms=3600000 or chronik.wal.profile=low
        #[arg(long, short, value_name = "NAME=VALUE", value_parser = key_value)]
        config: Vec<(String, String)>,
    },
    /// Show a topic's partitions, offsets and settings
    Describe {
        /// Its name
        topic: String,
        /// All settings, also those at their defaults
        #[arg(long)]
        all: bool,
    },
    /// Grow a topic or change its settings
    Alter {
        /// Its name
        topic: String,
        /// How many partitions it shall have; more than now
        #[arg(long, short, value_parser = clap::value_parser!(i32).range(1..))]
        partitions: Option<i32>,
        /// Set a setting
        #[arg(long, short, value_name = "NAME=VALUE", value_parser = key_value)]
        config: Vec<(String, String)>,
        /// Set a setting back to its default
        #[arg(long, value_name = "NAME")]
        reset: Vec<String>,
    },
    /// Delete a topic and its records
    Delete {
        /// Its name
        topic: String,
    },
}

/// Runs `chronik topics`. Not to be called inside an async runtime: it brings its own.
///
/// # Errors
/// In words for the user; refusals by Kafka's name.
pub fn run(args: TopicsArgs) -> Result<()> {
    runtime()?.block_on(async {
        let mut client = args.server.connect().await?;
        let mut out = std::io::stdout().lock();
        execute(&mut client, args.command, &mut out).await
    })
}

async fn execute(client: &mut Client, command: Command, out: &mut impl Write) -> Result<()> {
    match command {
        Command::List { internal } => list(client, internal, out).await,
        Command::Create { topic, partitions, replication_factor, config } => {
            let topic = NewTopic { name: topic, partitions, replication_factor, configs: config };
            let (partitions, replicas) = client.create_topic(&topic).await?;
            let name = &topic.name;
            writeln!(
                out,
                "Created {name} with {} and {}.",
                some(partitions, "partition"),
                replicas_of(replicas)
            )?;
            Ok(())
        }
        Command::Describe { topic, all } => describe(client, &topic, all, out).await,
        Command::Alter { topic, partitions, config, reset } => {
            if partitions.is_none() && config.is_empty() && reset.is_empty() {
                bail!("nothing to alter: give --partitions, --config or --reset");
            }
            let set = config.into_iter().map(|(name, value)| (name, Some(value)));
            let changes: Vec<_> = set.chain(reset.into_iter().map(|name| (name, None))).collect();
            if !changes.is_empty() {
                client.alter_configs(&Resource::Topic(topic.clone()), &changes).await?;
            }
            for (name, value) in &changes {
                match value {
                    Some(value) => writeln!(out, "{topic}: {name} is now {value}.")?,
                    None => writeln!(out, "{topic}: {name} is back at its default.")?,
                }
            }
            if let Some(count) = partitions {
                client.create_partitions(&topic, count).await?;
                writeln!(out, "{topic} has {} now.", some(count, "partition"))?;
            }
            Ok(())
        }
        Command::Delete { topic } => {
            client.delete_topic(&topic).await?;
            Ok(writeln!(out, "Deleted {topic}.")?)
        }
    }
}

async fn list(client: &mut Client, internal: bool, out: &mut impl Write) -> Result<()> {
    let mut topics = client.cluster(None).await?.topics;
    topics.retain(|topic| internal || !topic.internal);
    topics.sort_by(|one, other| one.name.cmp(&other.name));
    if topics.is_empty() {
        return Ok(writeln!(out, "No topics yet. Make one: chronik topics create NAME")?);
    }
    let rows = topics.iter().map(|topic| {
        let replicas = topic.partitions.iter().map(|p| p.replicas.len()).max().unwrap_or(0);
        vec![topic.name.clone(), topic.partitions.len().to_string(), replicas.to_string(), health(topic)]
    });
    let header = ["TOPIC", "PARTITIONS", "REPLICAS", "STATE"].map(str::to_owned).to_vec();
    table(out, std::iter::once(header).chain(rows).collect())
}

fn health(topic: &Topic) -> String {
    let offline = topic.partitions.iter().filter(|p| p.leader.is_none()).count();
    let behind = topic.partitions.iter().filter(|p| p.isr.len() < p.replicas.len()).count();
    match (offline, behind) {
        (0, 0) => "ok".to_owned(),
        (0, behind) => format!("{behind} under-replicated"),
        (offline, _) => format!("{offline} without a leader"),
    }
}

async fn describe(client: &mut Client, name: &str, all: bool, out: &mut impl Write) -> Result<()> {
    let topic = client.topic(name).await?;
    writeln!(out, "Topic       {}", topic.name)?;
    writeln!(out, "Id          {}", topic.id)?;
    writeln!(out, "Partitions  {}\n", topic.partitions.len())?;
    let header = ["PARTITION", "LEADER", "EPOCH", "REPLICAS", "IN SYNC", "START", "END"];
    let mut rows = vec![header.map(str::to_owned).to_vec()];
    for partition in &topic.partitions {
        let (mut start, mut end) = ("-".to_owned(), "-".to_owned());
        if partition.leader.is_some() {
            start = client.list_offset(name, partition.index, Position::Earliest).await?.to_string();
            end = client.list_offset(name, partition.index, Position::Latest).await?.to_string();
        }
        rows.push(vec![
            partition.index.to_string(),
            partition.leader.map_or("none".to_owned(), |leader| leader.to_string()),
            partition.leader_epoch.to_string(),
            numbers(&partition.replicas),
            numbers(&partition.isr),
            start,
            end,
        ]);
    }
    table(out, rows)?;
    let mut settings = client.describe_configs(&Resource::Topic(name.to_owned())).await?;
    settings.retain(|entry| all || entry.source == ConfigSource::Topic);
    settings.sort_by(|one, other| one.name.cmp(&other.name));
    if settings.is_empty() {
        return Ok(writeln!(out, "\nNo settings of its own (--all shows the defaults).")?);
    }
    let mut rows = vec![["SETTING", "VALUE", "FROM"].map(str::to_owned).to_vec()];
    rows.extend(settings.into_iter().map(|entry| {
        let value = entry.value.unwrap_or_else(|| "(secret)".to_owned());
        vec![entry.name, value, source(entry.source)]
    }));
    writeln!(out)?;
    table(out, rows)
}

pub(super) fn source(source: ConfigSource) -> String {
    match source {
        ConfigSource::Topic => "topic".to_owned(),
        ConfigSource::Broker => "broker, live".to_owned(),
        ConfigSource::ClusterDefault => "cluster, live".to_owned(),
        ConfigSource::Static => "broker".to_owned(),
        ConfigSource::Default => "default".to_owned(),
        ConfigSource::Other(other) => format!("source {other}"),
    }
}

fn numbers(ids: &[i32]) -> String {
    ids.iter().map(i32::to_string).collect::<Vec<_>>().join(",")
}

fn some(count: i32, what: &str) -> String {
    match count {
        1 => format!("1 {what}"),
        _ => format!("{count} {what}s"),
    }
}

fn replicas_of(replicas: i16) -> String {
    match replicas {
        1 => "1 replica".to_owned(),
        _ => format!("{replicas} replicas"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_is_not_many() {
        assert_eq!(
            (some(1, "partition"), some(3, "partition")),
            ("1 partition".into(), "3 partitions".into())
        );
        assert_eq!((replicas_of(1), replicas_of(2)), ("1 replica".into(), "2 replicas".into()));
    }
}
