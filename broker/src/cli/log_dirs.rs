//! `chronik log-dirs`: how much of each broker's disk its partitions take.

use std::io::Write;

use anyhow::Result;
use chronik_client::LogDir;
use clap::Args;

use super::{Server, runtime, table};

/// Show how much of the disk each partition takes
#[derive(Debug, Args)]
pub struct LogDirsArgs {
    #[command(flatten)]
    server: Server,
    /// Only these topics; several with commas
    #[arg(long, short, value_delimiter = ',')]
    topic: Vec<String>,
    /// Exact numbers of bytes, for programs
    #[arg(long)]
    bytes: bool,
}

/// Runs `chronik log-dirs`. Not to be called inside an async runtime: it brings its own.
///
/// # Errors
/// In words for the user; refusals by Kafka's name.
pub fn run(args: LogDirsArgs) -> Result<()> {
    runtime()?.block_on(async {
        let mut client = args.server.connect().await?;
        let topics: Vec<&str> = args.topic.iter().map(String::as_str).collect();
        // Also tells of topics that do not exist.
        let cluster = client.cluster((!topics.is_empty()).then_some(&topics)).await?;
        let mut out = std::io::stdout().lock();
        for id in cluster.brokers.keys() {
            for mut dir in client.log_dirs(*id).await? {
                dir.partitions.retain(|p| topics.is_empty() || topics.contains(&p.topic.as_str()));
                show(*id, &dir, args.bytes, &mut out)?;
            }
        }
        Ok(())
    })
}

fn show(broker: i32, dir: &LogDir, exact: bool, out: &mut impl Write) -> Result<()> {
    let size = |bytes: u64| if exact { bytes.to_string() } else { readable(bytes) };
    writeln!(out, "Broker {broker}  {}", dir.path)?;
    if let (Some(total), Some(usable)) = (dir.total_bytes, dir.usable_bytes) {
        writeln!(out, "Disk      {} of {} free", size(usable), size(total))?;
    }
    let all: u64 = dir.partitions.iter().map(|p| p.bytes).sum();
    writeln!(out, "Logs      {} in {} partitions", size(all), dir.partitions.len())?;
    if dir.partitions.is_empty() {
        return Ok(());
    }
    writeln!(out)?;
    let mut rows = vec![["TOPIC", "PARTITION", "SIZE"].map(str::to_owned).to_vec()];
    rows.extend(dir.partitions.iter().map(|p| vec![p.topic.clone(), p.partition.to_string(), size(p.bytes)]));
    table(out, rows)
}

/// Bytes in the unit that suits.
fn readable(bytes: u64) -> String {
    const UNITS: [&str; 4] = ["KiB", "MiB", "GiB", "TiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let mut value = bytes as f64 / 1024.0;
    let mut units = UNITS.iter();
    let mut unit = units.next();
    while let (true, Some(next)) = (value >= 1024.0, units.as_slice().first()) {
        value /= 1024.0;
        unit = Some(next);
        units.next();
    }
    format!("{value:.1} {}", unit.unwrap_or(&"KiB"))
}

#[cfg(test)]
mod tests {
    use chronik_client::PartitionSize;

    use super::*;

    #[test]
    fn sizes_are_readable_or_exact() {
        assert_eq!(
            [0, 1023, 1536, 5 << 20, 3 << 40, 5000 << 40].map(readable),
            ["0 B", "1023 B", "1.5 KiB", "5.0 MiB", "3.0 TiB", "5000.0 TiB"]
        );
        let partitions = vec![PartitionSize { topic: "t".into(), partition: 3, bytes: 1536 }];
        let dir =
            LogDir { path: "/d".into(), total_bytes: Some(4 << 30), usable_bytes: Some(1 << 30), partitions };
        let shown = |exact| {
            let mut out = Vec::new();
            show(1, &dir, exact, &mut out).unwrap();
            String::from_utf8(out).unwrap()
        };
        assert_eq!(
            shown(false),
            "Broker 1  /d\nDisk      1.0 GiB of 4.0 GiB free\nLogs      1.5 KiB in 1 partitions\n\n\
             TOPIC  PARTITION  SIZE\nt      3          1.5 KiB\n"
        );
        assert!(shown(true).ends_with("t      3          1536\n"));
    }
}
