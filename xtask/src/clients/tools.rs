//! Apache Kafka's command line tools, as they come from Maven Central.

use anyhow::{Result, ensure};

use super::install::Places;

const RECORDS: u32 = 1000;

pub struct Tools<'a> {
    pub places: &'a Places,
    pub bootstrap: &'a str,
    /// Created and deleted again.
    pub topic: &'a str,
}

impl Tools<'_> {
    /// Runs a tool's main class and returns what it printed.
    fn tool(&self, class: &str, args: &[&str]) -> Result<String> {
        let all = [&["--bootstrap-server", self.bootstrap][..], args].concat();
        Ok(self.places.java(class).args(all).output()?.text())
    }

    fn topics(&self, args: &[&str]) -> Result<String> {
        self.tool("org.apache.kafka.tools.TopicCommand", args)
    }

    fn configs(&self, args: &[&str]) -> Result<String> {
        let of = ["--entity-type", "topics", "--entity-name", self.topic];
        self.tool("kafka.admin.ConfigCommand", &[&of[..], args].concat())
    }

    /// All of them, in an order in which each can rely on the one before.
    pub fn run(&self) -> Result<String> {
        self.creates_and_describes()?;
        self.alters_configs()?;
        self.produces_and_consumes()?;
        self.groups()?;
        self.deletes_records()?;
        let versions = self.tool("org.apache.kafka.tools.BrokerApiVersionsCommand", &[])?;
        contains("kafka-broker-api-versions", &versions, "Produce(0): 0 to")?;
        self.topics(&["--delete", "--topic", self.topic])?;
        let list = self.topics(&["--list"])?;
        ensure!(list.lines().all(|topic| topic != self.topic), "kafka-topics lists the topic it deleted");
        Ok("kafka-topics, -configs, -producer-perf-test, -get-offsets, -console-consumer, -consumer-perf-test, \
            -consumer-groups, -log-dirs, -delete-records, -broker-api-versions"
            .into())
    }

    fn creates_and_describes(&self) -> Result<()> {
        let topic = self.topic;
        let create =
            ["--create", "--topic", topic, "--partitions", "2", "--config", "max.message.bytes=200000"];
        contains("kafka-topics --create", &self.topics(&create)?, &format!("Created topic {topic}."))?;
        contains("kafka-topics --list", &self.topics(&["--list"])?, topic)?;
        self.topics(&["--alter", "--topic", topic, "--partitions", "3"])?;
        let described = self.topics(&["--describe", "--topic", topic])?;
        for part in ["PartitionCount: 3", "ReplicationFactor: 1", "max.message.bytes=200000", "Partition: 2"]
        {
            contains("kafka-topics --describe", &described, part)?;
        }
        Ok(())
    }

    fn alters_configs(&self) -> Result<()> {
        let done =
            self.configs(&["--alter", "--add-config", "max.message.bytes=300000,min.insync.replicas=1"])?;
        contains("kafka-configs --alter", &done, "Completed updating config")?;
        let described = self.configs(&["--describe"])?;
        contains("kafka-configs --describe", &described, "max.message.bytes=300000")?;
        self.configs(&["--alter", "--delete-config", "max.message.bytes"])?;
        let described = self.configs(&["--describe"])?;
        ensure!(!described.contains("max.message.bytes=300000"), "kafka-configs did not delete: {described}");
        contains("kafka-configs --describe", &described, "min.insync.replicas=1")
    }

    fn produces_and_consumes(&self) -> Result<()> {
        let load = ["--topic", self.topic, "--record-size", "100", "--throughput", "-1", "--num-records"];
        let count = RECORDS.to_string();
        let load = [&load[..], &[&count]].concat();
        let sent = self.tool("org.apache.kafka.tools.ProducerPerformance", &load)?;
        contains("kafka-producer-perf-test", &sent, &format!("{RECORDS} records sent"))?;

        let offsets = self.tool("org.apache.kafka.tools.GetOffsetShell", &["--topic", self.topic])?;
        let ends: Vec<u32> =
            offsets.lines().filter_map(|line| line.rsplit(':').next()?.parse().ok()).collect();
        ensure!(ends.len() == 3 && ends.iter().sum::<u32>() == RECORDS, "kafka-get-offsets: {offsets}");

        // Of the fullest partition: which one the producer liked best is its own affair.
        let (end, partition) = ends.iter().zip(0u32..).max().unwrap_or((&0, 0));
        let (end, partition) = (end.to_string(), partition.to_string());
        let consume = ["--topic", self.topic, "--partition", &partition, "--offset", "earliest"];
        let consume = [&consume[..], &["--max-messages", &end, "--timeout-ms", "30000"]].concat();
        let consumed = self.tool("org.apache.kafka.tools.consumer.ConsoleConsumer", &consume)?;
        let right = consumed.lines().filter(|line| line.len() == 100).count();
        ensure!(right.to_string() == end, "kafka-console-consumer printed {right} of {end} records");
        Ok(())
    }

    /// A group of the console consumer goes on where it has come to; then its offsets are set, and it is deleted.
    fn groups(&self) -> Result<()> {
        let group = format!("{}.group", self.topic);
        let consume = |count: u32| {
            let count = count.to_string();
            let args =
                ["--topic", self.topic, "--group", &group, "--from-beginning", "--max-messages", &count];
            self.tool(
                "org.apache.kafka.tools.consumer.ConsoleConsumer",
                &[&args[..], &["--timeout-ms", "30000"]].concat(),
            )
        };
        for count in [RECORDS - 10, 10] {
            let consumed = consume(count)?.lines().filter(|line| line.len() == 100).count();
            ensure!(
                consumed == count as usize,
                "kafka-console-consumer --group: {consumed} of {count} records"
            );
        }
        let groups =
            |args: &[&str]| self.tool("org.apache.kafka.tools.consumer.group.ConsumerGroupCommand", args);
        contains("kafka-consumer-groups --list", &groups(&["--list"])?, &group)?;
        let described = groups(&["--describe", "--group", &group])?;
        // GROUP TOPIC PARTITION CURRENT-OFFSET LOG-END-OFFSET LAG
        let lags: Vec<_> = described
            .lines()
            .filter(|line| line.starts_with(&group))
            .filter_map(|line| line.split_whitespace().nth(5))
            .collect();
        ensure!(lags == ["0"; 3], "kafka-consumer-groups --describe: {described}");
        let state = groups(&["--describe", "--state", "--group", &group])?;
        contains("kafka-consumer-groups --describe --state", &state, "Empty")?;
        let reset =
            ["--reset-offsets", "--group", &group, "--topic", self.topic, "--to-earliest", "--execute"];
        groups(&reset)?;
        let described = groups(&["--describe", "--group", &group])?;
        let offsets: Vec<_> = described
            .lines()
            .filter(|line| line.starts_with(&group))
            .filter_map(|line| line.split_whitespace().nth(3))
            .collect();
        ensure!(offsets == ["0"; 3], "kafka-consumer-groups --reset-offsets: {described}");
        let deleted = groups(&["--delete", "--group", &group])?;
        contains("kafka-consumer-groups --delete", &deleted, "was successful")?;
        let listed = groups(&["--list"])?;
        ensure!(listed.lines().all(|line| line != group), "kafka-consumer-groups lists what it deleted");

        let count = RECORDS.to_string();
        let load = ["--topic", self.topic, "--num-records", &count, "--timeout", "30000"];
        let measured = self.tool("org.apache.kafka.tools.ConsumerPerformance", &load)?;
        contains("kafka-consumer-perf-test", &measured, &format!(" {RECORDS},"))
    }

    /// All records of every partition go, after their sizes were told.
    fn deletes_records(&self) -> Result<()> {
        let sizes =
            self.tool("org.apache.kafka.tools.LogDirsCommand", &["--describe", "--topic-list", self.topic])?;
        let sizes: Vec<u64> = sizes
            .split("\"size\":")
            .skip(1)
            .filter_map(|rest| rest.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok())
            .collect();
        let all: u64 = sizes.iter().sum();
        ensure!(sizes.len() == 3 && all >= u64::from(RECORDS) * 100, "kafka-log-dirs: {sizes:?}");

        let partitions: Vec<String> =
            (0..3).map(|n| format!(r#"{{"topic":"{}","partition":{n},"offset":-1}}"#, self.topic)).collect();
        let file = std::env::temp_dir().join(format!("chronik-delete-records-{}.json", std::process::id()));
        std::fs::write(&file, format!(r#"{{"version":1,"partitions":[{}]}}"#, partitions.join(",")))?;
        let shown = file.display().to_string();
        let deleted =
            self.tool("org.apache.kafka.tools.DeleteRecordsCommand", &["--offset-json-file", &shown]);
        std::fs::remove_file(&file)?;
        contains("kafka-delete-records", &deleted?, "low_watermark: ")?;
        let at = |time| {
            self.tool("org.apache.kafka.tools.GetOffsetShell", &["--topic", self.topic, "--time", time])
        };
        let (starts, ends) = (at("earliest")?, at("latest")?);
        ensure!(starts == ends && ends.lines().count() == 3, "kafka-get-offsets: {starts} and {ends}");
        Ok(())
    }
}

fn contains(who: &str, output: &str, part: &str) -> Result<()> {
    ensure!(output.contains(part), "{who} did not print {part:?} but:\n{output}");
    Ok(())
}
