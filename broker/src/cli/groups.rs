//! `chronik groups`: list, describe and delete consumer groups, and set their offsets.

use std::collections::BTreeMap;
use std::io::Write;

use anyhow::{Result, bail, ensure};
use chronik_client::{Client, CommittedOffset, Group, GroupEpochs, GroupMember, Position};
use clap::{Args, Subcommand};

use super::{Server, runtime, table};

/// See consumer groups, and set their offsets
#[derive(Debug, Args)]
#[command(mut_arg("bootstrap", |arg| arg.global(true)))]
pub struct GroupsArgs {
    #[command(flatten)]
    server: Server,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// List the groups
    List,
    /// Show a group's members, its offsets, and how far they are behind
    Describe {
        /// Its id
        group: String,
    },
    /// Delete a group without members, and its offsets
    Delete {
        /// Its id
        group: String,
    },
    /// Set the offsets of a group without members
    ResetOffsets(ResetArgs),
}

#[derive(Debug, Args)]
struct ResetArgs {
    /// The group's id
    group: String,
    /// Topics, each with :PARTITION if it is about one [default: all that the group has offsets of]
    #[arg(long, short, value_delimiter = ',', value_name = "TOPIC[:PARTITION]")]
    topic: Vec<String>,
    #[command(flatten)]
    to: To,
    /// Show what would be set, and set nothing
    #[arg(long)]
    dry_run: bool,
}

#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
struct To {
    /// To the first record still there
    #[arg(long)]
    to_earliest: bool,
    /// To the end
    #[arg(long)]
    to_latest: bool,
    /// To this offset
    #[arg(long, value_name = "OFFSET")]
    to_offset: Option<i64>,
    /// To the first record at or after this time, in milliseconds since 1970
    #[arg(long, value_name = "MS")]
    to_time: Option<i64>,
    /// So many records forward; backward with a minus
    #[arg(long, value_name = "RECORDS", allow_negative_numbers = true)]
    shift_by: Option<i64>,
}

/// Runs `chronik groups`. Not to be called inside an async runtime: it brings its own.
///
/// # Errors
/// In words for the user; refusals by Kafka's name.
pub fn run(args: GroupsArgs) -> Result<()> {
    runtime()?.block_on(async {
        let mut client = args.server.connect().await?;
        let mut out = std::io::stdout().lock();
        match args.command {
            Command::List => list(&mut client, &mut out).await,
            Command::Describe { group } => describe(&mut client, &group, &mut out).await,
            Command::Delete { group } => {
                client.delete_group(&group).await?;
                Ok(writeln!(out, "Deleted {group}.")?)
            }
            Command::ResetOffsets(args) => reset(&mut client, &args, &mut out).await,
        }
    })
}

async fn list(client: &mut Client, out: &mut impl Write) -> Result<()> {
    let groups = client.groups().await?;
    if groups.is_empty() {
        return Ok(writeln!(out, "No groups yet.")?);
    }
    let mut rows = vec![["GROUP", "STATE", "TYPE", "PROTOCOL"].map(str::to_owned).to_vec()];
    rows.extend(
        groups
            .into_iter()
            .map(|group| vec![group.id, group.state, or_dash(group.kind), or_dash(group.protocol_type)]),
    );
    table(out, rows)
}

/// A partition of a group: one that was committed, or that a member has.
#[derive(Debug, Default, PartialEq)]
struct Row {
    offset: Option<i64>,
    end: Option<i64>,
    member: Option<usize>,
}

async fn describe(client: &mut Client, id: &str, out: &mut impl Write) -> Result<()> {
    let group = client.describe_group(id).await?;
    ensure!(group.state != "Dead", "there is no group {id}");
    let mut rows: BTreeMap<(String, i32), Row> = BTreeMap::new();
    for at in client.committed(id).await? {
        rows.entry((at.topic, at.partition)).or_default().offset = Some(at.offset);
    }
    for (number, member) in group.members.iter().enumerate() {
        for at in &member.assigned {
            rows.entry(at.clone()).or_default().member = Some(number);
        }
    }
    for ((topic, partition), row) in &mut rows {
        // A topic that was deleted has no end.
        row.end = client.list_offset(topic, *partition, Position::Latest).await.ok();
    }
    show(&group, &rows, out)
}

fn show(group: &Group, rows: &BTreeMap<(String, i32), Row>, out: &mut impl Write) -> Result<()> {
    writeln!(out, "Group     {}", group.id)?;
    writeln!(out, "Type      {}", if group.epochs.is_some() { "consumer" } else { "classic" })?;
    writeln!(out, "State     {}", group.state)?;
    writeln!(out, "Assignor  {}", or_dash(group.protocol.clone()))?;
    if let Some(GroupEpochs { group, assignment }) = group.epochs {
        let behind =
            if assignment < group { format!(", assigned up to {assignment}") } else { String::new() };
        writeln!(out, "Epoch     {group}{behind}")?;
    }
    writeln!(out, "Members   {}", group.members.len())?;
    show_ways(group, out)?;
    if rows.is_empty() {
        return Ok(writeln!(out, "\nNo offsets, and no partition is assigned.")?);
    }
    writeln!(out)?;
    let header = ["TOPIC", "PARTITION", "OFFSET", "END", "LAG", "MEMBER", "HOST"];
    let mut shown = vec![header.map(str::to_owned).to_vec()];
    for ((topic, partition), row) in rows {
        let member = row.member.and_then(|number| group.members.get(number));
        let lag = row.offset.zip(row.end).map(|(offset, end)| (end - offset).max(0));
        shown.push(vec![
            topic.clone(),
            partition.to_string(),
            number(row.offset),
            number(row.end),
            number(lag),
            member.map_or("-".to_owned(), name),
            member.map_or("-".to_owned(), |member| member.host.clone()),
        ]);
    }
    let idle = group.members.iter().filter(|member| member.assigned.is_empty());
    shown.extend(idle.map(|member| {
        let none = || "-".to_owned();
        vec![none(), none(), none(), none(), none(), name(member), member.host.clone()]
    }));
    table(out, shown)
}

/// The members of a group of the new protocol: what each has by now, and what it is to have in the end.
fn show_ways(group: &Group, out: &mut impl Write) -> Result<()> {
    let ways = group.members.iter().filter_map(|member| Some((member, member.way.as_ref()?)));
    let mut shown = vec![["MEMBER", "EPOCH", "HOST", "HAS", "IS TO HAVE"].map(str::to_owned).to_vec()];
    shown.extend(ways.map(|(member, way)| {
        let classic = if way.classic { " (classic)" } else { "" };
        vec![
            format!("{}{classic}", name(member)),
            way.epoch.to_string(),
            member.host.clone(),
            partitions(&member.assigned),
            partitions(&way.target),
        ]
    }));
    if shown.len() == 1 {
        return Ok(());
    }
    writeln!(out)?;
    table(out, shown)
}

/// `TOPIC:PARTITION,PARTITION`, and the next topic.
fn partitions(all: &[(String, i32)]) -> String {
    let of_one_topic = all.chunk_by(|one, next| one.0 == next.0);
    let each = of_one_topic.filter_map(|of| {
        let (topic, _) = of.first()?;
        let numbers: Vec<String> = of.iter().map(|(_, partition)| partition.to_string()).collect();
        Some(format!("{topic}:{}", numbers.join(",")))
    });
    or_dash(each.collect::<Vec<_>>().join(" "))
}

/// A static member's own name, or else the coordinator's.
fn name(member: &GroupMember) -> String {
    member.instance_id.clone().unwrap_or_else(|| member.id.clone())
}

fn number(n: Option<i64>) -> String {
    n.map_or("-".to_owned(), |n| n.to_string())
}

fn or_dash(text: String) -> String {
    if text.is_empty() { "-".to_owned() } else { text }
}

async fn reset(client: &mut Client, args: &ResetArgs, out: &mut impl Write) -> Result<()> {
    let group = &args.group;
    let before: BTreeMap<(String, i32), i64> =
        client.committed(group).await?.into_iter().map(|at| ((at.topic, at.partition), at.offset)).collect();
    let mut wanted: Vec<(String, i32)> = Vec::new();
    for named in &args.topic {
        wanted.extend(partitions_of(client, named).await?);
    }
    if args.topic.is_empty() {
        wanted.extend(before.keys().cloned());
    }
    ensure!(!wanted.is_empty(), "group {group} has no offsets yet: name topics with --topic");
    let mut rows = vec![["TOPIC", "PARTITION", "BEFORE", "NOW"].map(str::to_owned).to_vec()];
    let mut offsets = Vec::new();
    for at in wanted {
        let known = before.get(&at).copied();
        let offset = target(client, &at, known, &args.to).await?;
        rows.push(vec![at.0.clone(), at.1.to_string(), number(known), offset.to_string()]);
        offsets.push(CommittedOffset { topic: at.0, partition: at.1, offset });
    }
    if !args.dry_run {
        let members = client.describe_group(group).await?.members.len();
        ensure!(members == 0, "group {group} has {members} members: stop them first");
        client.commit(group, &offsets).await?;
    }
    table(out, rows)?;
    if args.dry_run {
        writeln!(out, "\nNothing was set (--dry-run).")?;
    }
    Ok(())
}

/// `TOPIC` or `TOPIC:PARTITION`.
async fn partitions_of(client: &mut Client, named: &str) -> Result<Vec<(String, i32)>> {
    if let Some((topic, partition)) = named.rsplit_once(':') {
        let Ok(partition) = partition.parse() else { bail!("{named:?} is not TOPIC or TOPIC:PARTITION") };
        return Ok(vec![(topic.to_owned(), partition)]);
    }
    let topic = client.topic(named).await?;
    Ok(topic.partitions.iter().map(|p| (topic.name.clone(), p.index)).collect())
}

/// Where the group shall go on; never outside of the log.
async fn target(client: &mut Client, at: &(String, i32), known: Option<i64>, to: &To) -> Result<i64> {
    let (topic, partition) = (at.0.as_str(), at.1);
    let first = client.list_offset(topic, partition, Position::Earliest).await?;
    let end = client.list_offset(topic, partition, Position::Latest).await?;
    let wanted = if to.to_earliest {
        first
    } else if let Some(offset) = to.to_offset {
        offset
    } else if let Some(time) = to.to_time {
        match client.list_offset(topic, partition, Position::Time(time)).await? {
            found if found >= 0 => found,
            // No record is as late.
            _ => end,
        }
    } else if let Some(by) = to.shift_by {
        let Some(known) = known else { bail!("{topic}-{partition} has no offset to be shifted") };
        known.saturating_add(by)
    } else {
        end
    };
    Ok(wanted.clamp(first, end))
}

#[cfg(test)]
mod tests {
    use chronik_client::MemberWay;

    use super::*;

    fn member(id: &str, instance: Option<&str>, assigned: &[i32]) -> GroupMember {
        GroupMember {
            id: id.to_owned(),
            instance_id: instance.map(str::to_owned),
            client_id: "c".to_owned(),
            host: "10.0.0.1".to_owned(),
            assigned: of_t(assigned),
            way: None,
        }
    }

    fn of_t(partitions: &[i32]) -> Vec<(String, i32)> {
        partitions.iter().map(|partition| ("t".to_owned(), *partition)).collect()
    }

    fn group(members: Vec<GroupMember>) -> Group {
        Group {
            id: "g".to_owned(),
            state: "Stable".to_owned(),
            protocol_type: "consumer".to_owned(),
            protocol: "range".to_owned(),
            members,
            epochs: None,
        }
    }

    fn shown(group: &Group, rows: &BTreeMap<(String, i32), Row>) -> String {
        let mut out = Vec::new();
        show(group, rows, &mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn a_group_is_shown_with_its_lag_and_who_has_what() {
        let group = group(vec![member("m-1", None, &[0]), member("m-2", Some("one"), &[])]);
        let rows = BTreeMap::from([
            (("t".to_owned(), 0), Row { offset: Some(5), end: Some(9), member: Some(0) }),
            (("t".to_owned(), 1), Row { offset: None, end: Some(9), member: None }),
        ]);
        assert_eq!(
            shown(&group, &rows),
            "Group     g\nType      classic\nState     Stable\nAssignor  range\nMembers   2\n\n\
             TOPIC  PARTITION  OFFSET  END  LAG  MEMBER  HOST\n\
             t      0          5       9    4    m-1     10.0.0.1\n\
             t      1          -       9    -    -       -\n\
             -      -          -       -    -    one     10.0.0.1\n"
        );
    }

    #[test]
    fn members_of_the_new_protocol_are_shown_with_what_is_to_move() {
        let way = |epoch: i32, target: &[i32], classic: bool| {
            Some(MemberWay { epoch, target: of_t(target), classic })
        };
        let mut group = group(vec![member("m-1", None, &[0, 1]), member("m-2", Some("one"), &[])]);
        group.epochs = Some(GroupEpochs { group: 7, assignment: 6 });
        group.members[0].way = way(6, &[0], false);
        group.members[1].way = way(5, &[1], true);
        let row = |offset| Row { offset, end: Some(9), member: Some(0) };
        let rows = BTreeMap::from([(("t".to_owned(), 0), row(Some(5))), (("t".to_owned(), 1), row(None))]);
        assert_eq!(
            shown(&group, &rows),
            "Group     g\nType      consumer\nState     Stable\nAssignor  range\n\
             Epoch     7, assigned up to 6\nMembers   2\n\n\
             MEMBER         EPOCH  HOST      HAS    IS TO HAVE\n\
             m-1            6      10.0.0.1  t:0,1  t:0\n\
             one (classic)  5      10.0.0.1  -      t:1\n\n\
             TOPIC  PARTITION  OFFSET  END  LAG  MEMBER  HOST\n\
             t      0          5       9    4    m-1     10.0.0.1\n\
             t      1          -       9    -    m-1     10.0.0.1\n\
             -      -          -       -    -    one     10.0.0.1\n"
        );
    }
}
