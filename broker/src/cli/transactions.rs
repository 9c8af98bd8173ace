//! `chronik transactions`: list and describe transactional ids.

use std::io::Write;

use anyhow::Result;
use chronik_client::{Client, Transaction};
use clap::{Args, Subcommand};

use super::{Server, runtime, table};
use crate::storage::now_ms;

/// See transactional ids and their transactions
#[derive(Debug, Args)]
#[command(mut_arg("bootstrap", |arg| arg.global(true)))]
pub struct TransactionsArgs {
    #[command(flatten)]
    server: Server,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// List the transactional ids
    List {
        /// Only those in this state, such as Ongoing
        #[arg(long)]
        state: Option<String>,
    },
    /// Show a transactional id's producer, and what is in its transaction
    Describe {
        /// The transactional id
        id: String,
    },
}

/// Runs `chronik transactions`. Not to be called inside an async runtime: it brings its own.
///
/// # Errors
/// In words for the user; refusals by Kafka's name.
pub fn run(args: TransactionsArgs) -> Result<()> {
    runtime()?.block_on(async {
        let mut client = args.server.connect().await?;
        let mut out = std::io::stdout().lock();
        match args.command {
            Command::List { state } => list(&mut client, state.as_deref(), &mut out).await,
            Command::Describe { id } => show(&client.describe_transaction(&id).await?, now_ms(), &mut out),
        }
    })
}

async fn list(client: &mut Client, state: Option<&str>, out: &mut impl Write) -> Result<()> {
    let mut listed = client.transactions().await?;
    listed.retain(|transaction| state.is_none_or(|state| state.eq_ignore_ascii_case(&transaction.state)));
    if listed.is_empty() {
        return Ok(writeln!(out, "No transactions.")?);
    }
    let mut rows = vec![["TRANSACTIONAL ID", "STATE", "PRODUCER"].map(str::to_owned).to_vec()];
    rows.extend(listed.into_iter().map(|t| vec![t.id, t.state, t.producer_id.to_string()]));
    table(out, rows)
}

fn show(transaction: &Transaction, now_ms: i64, out: &mut impl Write) -> Result<()> {
    let Transaction { id, state, producer_id, producer_epoch, timeout_ms, started_ms, partitions } =
        transaction;
    writeln!(out, "Transactional id  {id}")?;
    writeln!(out, "State             {state}")?;
    writeln!(out, "Producer          {producer_id}, epoch {producer_epoch}")?;
    writeln!(out, "Timeout           {timeout_ms} ms")?;
    if state == "Ongoing"
        && let Some(started_ms) = started_ms
    {
        writeln!(out, "Running for       {} ms", now_ms.saturating_sub(*started_ms).max(0))?;
    }
    if partitions.is_empty() {
        return Ok(());
    }
    writeln!(out)?;
    let mut rows = vec![["TOPIC", "PARTITION"].map(str::to_owned).to_vec()];
    rows.extend(partitions.iter().map(|(topic, index)| vec![topic.clone(), index.to_string()]));
    table(out, rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_transaction_is_shown_with_its_partitions() {
        let transaction = Transaction {
            id: "tx".to_owned(),
            state: "Ongoing".to_owned(),
            producer_id: 7,
            producer_epoch: 3,
            timeout_ms: 60_000,
            started_ms: Some(1_000),
            partitions: vec![("t".to_owned(), 0), ("topic".to_owned(), 12)],
        };
        let mut out = Vec::new();
        show(&transaction, 1_250, &mut out).unwrap();
        assert_eq!(
            String::from_utf8(out).unwrap(),
            "Transactional id  tx\nState             Ongoing\nProducer          7, epoch 3\n\
             Timeout           60000 ms\nRunning for       250 ms\n\n\
             TOPIC  PARTITION\nt      0\ntopic  12\n"
        );
    }
}
