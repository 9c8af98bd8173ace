//! Transactions: both protocols, fencing, what readers see, and what nobody began.

use anyhow::Result;
use serde_json::{Value, json};

use super::fixture::{create, produced};
use super::{Case, Scenario, case, json_with, sample};
use crate::pair::Pair;

pub const SCENARIOS: &[Scenario] = &[
    Scenario { api: "InitProducerId", name: "producers begin", run: producers_begin },
    Scenario { api: "AddPartitionsToTxn", name: "a transaction", run: transaction },
    Scenario { api: "EndTxn", name: "transactions end", run: transactions_end },
    Scenario { api: "TxnOffsetCommit", name: "offsets in a transaction", run: offsets },
    Scenario { api: "WriteTxnMarkers", name: "markers", run: markers },
];

/// The newest version of EndTxn with the first protocol; the next one bumps epochs.
const CLASSIC_END: i16 = 4;

fn producer(id: &str) -> Value {
    json!({"TransactionalId": id, "ProducerId": 900_000_100_i64, "ProducerEpoch": 0})
}

fn older_partitions(id: &str) -> Value {
    json!({
        "V3AndBelowTransactionalId": id, "V3AndBelowProducerId": 900_000_100_i64, "V3AndBelowProducerEpoch": 0,
        "V3AndBelowTopics": [{"Name": "decided", "Partitions": [0]}],
    })
}

pub fn cases() -> Vec<Case> {
    let init = |id: Value, timeout: i32| json!({"TransactionalId": id, "TransactionTimeoutMs": timeout});
    let topics = json!([{"Name": "decided", "Partitions": [0]}]);
    vec![
        sample("InitProducerId", init(json!("sample-{n}"), 60_000)),
        case("InitProducerId", "idempotent", init(Value::Null, 60_000)),
        case("InitProducerId", "an empty id", init(json!(""), 60_000)),
        case("InitProducerId", "no timeout", init(json!("init-{n}"), 0)),
        case("InitProducerId", "too long a timeout", init(json!("init-{n}"), i32::MAX)),
        case("InitProducerId", "an unknown producer", {
            json_with(
                init(json!("init-{n}"), 60_000),
                &json!({"ProducerId": 900_000_100_i64, "ProducerEpoch": 3}),
            )
        }),
        case("InitProducerId", "an idempotent producer that was one", {
            json_with(init(Value::Null, 60_000), &json!({"ProducerId": 900_000_100_i64, "ProducerEpoch": 3}))
        }),
        sample("AddPartitionsToTxn", older_partitions("nobody-knows")),
        sample("AddPartitionsToTxn", {
            json!({"Transactions": [json_with(producer("nobody-knows"), &json!({"VerifyOnly": true, "Topics": topics}))]})
        }),
        sample("AddOffsetsToTxn", json_with(producer("nobody-knows"), &json!({"GroupId": "g"}))),
        sample("EndTxn", json_with(producer("nobody-knows"), &json!({"Committed": true}))),
        sample("TxnOffsetCommit", txn_offsets(&producer("nobody-knows"), "g-{n}")),
        sample("DescribeTransactions", json!({"TransactionalIds": ["nobody-knows"]})),
        case(
            "DescribeTransactions",
            "several",
            json!({"TransactionalIds": ["fixture", "", "nobody-knows", "fixture"]}),
        ),
        case("DescribeTransactions", "none", json!({"TransactionalIds": []})),
        sample(
            "ListTransactions",
            json!({"StateFilters": ["Ongoing"], "ProducerIdFilters": [900_000_100_i64]}),
        ),
        case("ListTransactions", "empty ones", json!({"StateFilters": ["Empty"]})),
        case("ListTransactions", "states there are not", json!({"StateFilters": ["Sleepy", "Empty"]})),
        case("ListTransactions", "in other letters", json!({"StateFilters": ["empty"]})),
        case("ListTransactions", "for long", json!({"DurationFilter": 1_000_000})),
        case("ListTransactions", "with a pattern", json!({"TransactionalIdPattern": "fix.*"})),
        case("ListTransactions", "with a broken pattern", json!({"TransactionalIdPattern": "fix(("})),
        sample(
            "WriteTxnMarkers",
            json!({"Markers": [{
                "ProducerId": 900_000_200_i64, "ProducerEpoch": 0, "TransactionResult": true, "CoordinatorEpoch": 0,
                "Topics": [{"Name": "decided", "PartitionIndexes": [1]}],
            }]}),
        ),
    ]
}

fn txn_offsets(who: &Value, group: &str) -> Value {
    let offsets = json!({"GroupId": group, "Topics": [{"Name": "plain", "Partitions": [
        {"PartitionIndex": 0, "CommittedOffset": 4, "CommittedLeaderEpoch": 0, "CommittedMetadata": "m"},
    ]}]});
    json_with(who.clone(), &offsets)
}

/// A producer begins: `$pid` and `$epoch` are its.
fn begin(pair: &mut Pair<'_>, v: i16, id: &str) -> Result<()> {
    let body = json!({"TransactionalId": id, "TransactionTimeoutMs": 60_000});
    let answers = pair.ask("InitProducerId", v, body)?;
    pair.keep("pid", &answers, "/ProducerId");
    pair.keep("epoch", &answers, "/ProducerEpoch");
    Ok(())
}

fn own(id: &str) -> Value {
    json!({"TransactionalId": id, "ProducerId": "$pid", "ProducerEpoch": "$epoch"})
}

fn add(
    pair: &mut Pair<'_>,
    v: i16,
    id: &str,
    epoch: &Value,
    topics: &Value,
    verify_only: bool,
) -> Result<()> {
    let body = if v < 4 {
        json!({"V3AndBelowTransactionalId": id, "V3AndBelowProducerId": "$pid", "V3AndBelowProducerEpoch": epoch,
            "V3AndBelowTopics": topics})
    } else {
        json!({"Transactions": [{"TransactionalId": id, "ProducerId": "$pid", "ProducerEpoch": epoch,
            "VerifyOnly": verify_only, "Topics": topics}]})
    };
    pair.ask("AddPartitionsToTxn", v, body)?;
    Ok(())
}

fn send(pair: &mut Pair<'_>, v: i16, id: &str, topic: &str, epoch: &Value, sequence: i32) -> Result<()> {
    let records =
        json!({"producer": "$pid", "epoch": epoch, "sequence": sequence, "attributes": 0x10, "count": 2});
    pair.ask("Produce", v, json_with(produced(topic, 0, &records), &json!({"TransactionalId": id})))?;
    Ok(())
}

/// What readers, and tools, see of a topic and a transaction.
fn look(pair: &mut Pair<'_>, id: &str, topic: &str) -> Result<()> {
    pair.ask("DescribeTransactions", 0, json!({"TransactionalIds": [id]}))?;
    pair.ask("ListTransactions", 2, json!({"TransactionalIdPattern": id}))?;
    pair.ask("DescribeProducers", 0, json!({"Topics": [{"Name": topic, "PartitionIndexes": [0]}]}))?;
    for isolation in [0, 1] {
        let partition = json!({"Partition": 0, "FetchOffset": 0, "PartitionMaxBytes": 1 << 20});
        let topics = json!([{"Topic": topic, "TopicId": format!("${topic}"), "Partitions": [partition]}]);
        let body = json!({"MaxWaitMs": 1, "IsolationLevel": isolation, "Topics": topics});
        pair.ask("Fetch", i16::MAX, body)?;
        let partitions = json!([{"PartitionIndex": 0, "Timestamp": -1}]);
        let topics = json!([{"Name": topic, "Partitions": partitions}]);
        pair.ask("ListOffsets", 10, json!({"ReplicaId": -1, "IsolationLevel": isolation, "Topics": topics}))?;
    }
    Ok(())
}

/// Waits until a transaction is in this state: markers are written after the answer.
fn settled(pair: &mut Pair<'_>, id: &str, state: &str) -> Result<()> {
    let body = json!({"TransactionalIds": [id]});
    pair.until("DescribeTransactions", &body, |answer| {
        answer.pointer("/TransactionStates/0/TransactionState") == Some(&json!(state))
    })?;
    Ok(())
}

fn producers_begin(pair: &mut Pair<'_>, v: i16) -> Result<()> {
    let id = format!("begin-{v}");
    begin(pair, v, &id)?;
    begin(pair, v, &id)?;
    let again = |producer: Value, epoch: Value| json!({"TransactionalId": id, "TransactionTimeoutMs": 30_000, "ProducerId": producer, "ProducerEpoch": epoch});
    // Since version 3 a producer may ask for its next epoch.
    for (producer, epoch) in [
        (json!("$pid"), json!("$epoch")),
        (json!("$pid"), json!("$epoch")),
        (json!("$pid"), json!(0)),
        (json!("$pid"), json!(40)),
        (json!("$pid"), json!(-1)),
        (json!(900_000_300_i64), json!(0)),
        (json!(-1), json!(0)),
    ] {
        pair.ask("InitProducerId", v, again(producer, epoch))?;
    }
    pair.ask("DescribeTransactions", 0, json!({"TransactionalIds": [id]}))?;
    Ok(())
}

fn transaction(pair: &mut Pair<'_>, v: i16) -> Result<()> {
    let (id, topic) = (format!("added-{v}"), format!("added-{v}"));
    create(pair, &topic, 2, &[])?;
    begin(pair, v, &id)?;
    let epoch = json!("$epoch");
    let topics = |name: &str, partitions: &[i32]| json!([{"Name": name, "Partitions": partitions}]);
    if v >= 4 {
        // Whether a transaction has a partition: asked before it has, and after.
        add(pair, v, &id, &epoch, &topics(&topic, &[0]), true)?;
    }
    add(pair, v, &id, &epoch, &topics("nobody-knows", &[0]), false)?;
    add(pair, v, &id, &epoch, &topics(&topic, &[0, 7]), false)?;
    add(pair, v, &id, &json!(30), &topics(&topic, &[0]), false)?;
    add(pair, v, &id, &epoch, &topics(&topic, &[0]), false)?;
    add(pair, v, &id, &epoch, &topics(&topic, &[0]), false)?;
    if v >= 4 {
        add(pair, v, &id, &epoch, &topics(&topic, &[0, 1]), true)?;
    }
    send(pair, 11, &id, &topic, &epoch, 0)?;
    look(pair, &id, &topic)?;
    pair.ask("EndTxn", v.min(CLASSIC_END), json_with(own(&id), &json!({"Committed": true})))?;
    settled(pair, &id, "CompleteCommit")?;
    look(pair, &id, &topic)
}

fn transactions_end(pair: &mut Pair<'_>, v: i16) -> Result<()> {
    let (id, topic) = (format!("ended-{v}"), format!("ended-{v}"));
    create(pair, &topic, 1, &[])?;
    begin(pair, 4, &id)?;
    let end = |commit: bool| json_with(own(&id), &json!({"Committed": commit}));
    let mut sequence = 0;
    // Nothing has begun.
    for commit in [true, false] {
        let answers = pair.ask("EndTxn", v, end(commit))?;
        if v > CLASSIC_END && answers.iter().all(|a| a["ErrorCode"] == json!(0)) {
            pair.keep("epoch", &answers, "/ProducerEpoch");
        }
    }
    for (commit, state) in [(true, "CompleteCommit"), (false, "CompleteAbort")] {
        if v > CLASSIC_END {
            // Produce adds the partition by itself.
            send(pair, i16::MAX, &id, &topic, &json!("$epoch"), sequence)?;
        } else {
            add(pair, 3, &id, &json!("$epoch"), &json!([{"Name": topic, "Partitions": [0]}]), false)?;
            send(pair, 11, &id, &topic, &json!("$epoch"), sequence)?;
        }
        sequence += 2;
        look(pair, &id, &topic)?;
        pair.ask("EndTxn", v, json_with(end(commit), &json!({"ProducerEpoch": 30})))?;
        let answers = pair.ask("EndTxn", v, end(commit))?;
        settled(pair, &id, state)?;
        // The answer was lost: the same again, and the other way.
        pair.ask("EndTxn", v, end(commit))?;
        pair.ask("EndTxn", v, end(!commit))?;
        if v > CLASSIC_END {
            pair.keep("epoch", &answers, "/ProducerEpoch");
            sequence = 0;
        }
        look(pair, &id, &topic)?;
    }
    // Another producer takes the id, and this one is fenced.
    let body = json!({"TransactionalId": id, "TransactionTimeoutMs": 60_000});
    pair.ask("InitProducerId", 4, body)?;
    add(pair, 3, &id, &json!("$epoch"), &json!([{"Name": topic, "Partitions": [0]}]), false)?;
    send(pair, 11, &id, &topic, &json!("$epoch"), sequence)?;
    pair.ask("EndTxn", v, end(true))?;
    pair.ask("AddOffsetsToTxn", v, json_with(own(&id), &json!({"GroupId": "g"})))?;
    pair.ask("TxnOffsetCommit", v, txn_offsets(&own(&id), "g"))?;
    look(pair, &id, &topic)
}

fn offsets(pair: &mut Pair<'_>, v: i16) -> Result<()> {
    let (id, group) = (format!("offsets-{v}"), format!("txn-offsets-{v}"));
    let fetch =
        |stable: bool| json!({"Groups": [{"GroupId": group, "Topics": null}], "RequireStable": stable});
    begin(pair, 4, &id)?;
    // Nothing has begun; since version 5 this begins it.
    pair.ask("TxnOffsetCommit", v, txn_offsets(&own(&id), &group))?;
    pair.ask("AddOffsetsToTxn", v, json_with(own(&id), &json!({"GroupId": group})))?;
    pair.ask("TxnOffsetCommit", v, txn_offsets(&own(&id), &group))?;
    pair.ask("DescribeTransactions", 0, json!({"TransactionalIds": [id]}))?;
    pair.ask("OffsetFetch", 9, fetch(false))?;
    let strange = json!({"GenerationId": 3, "MemberId": "nobody"});
    pair.ask("TxnOffsetCommit", v, json_with(txn_offsets(&own(&id), &group), &strange))?;
    let unknown =
        json!([{"Name": "nobody-knows", "Partitions": [{"PartitionIndex": 0, "CommittedOffset": 1}]}]);
    pair.ask("TxnOffsetCommit", v, json_with(txn_offsets(&own(&id), &group), &json!({"Topics": unknown})))?;
    pair.ask("OffsetFetch", 7, json!({"GroupId": group, "Topics": null, "RequireStable": false}))?;
    // A group with offsets of an open transaction.
    pair.ask("DeleteGroups", 2, json!({"GroupsNames": [group]}))?;
    pair.ask("EndTxn", v.min(CLASSIC_END), json_with(own(&id), &json!({"Committed": true})))?;
    settled(pair, &id, "CompleteCommit")?;
    pair.ask("OffsetFetch", 9, fetch(true))?;
    pair.ask("DescribeGroups", 6, json!({"Groups": [group]}))?;
    pair.ask("ListGroups", 5, json!({"StatesFilter": ["Empty"]}))?;
    pair.ask("DeleteGroups", 2, json!({"GroupsNames": [group]}))?;
    Ok(())
}

fn markers(pair: &mut Pair<'_>, v: i16) -> Result<()> {
    let topic = format!("markers-{v}");
    create(pair, &topic, 1, &[])?;
    begin(pair, 4, &format!("markers-{v}"))?;
    let mark = |epoch: i16, commit: bool, coordinator: i32, topic: &str| {
        json!({"Markers": [{
            "ProducerId": "$pid", "ProducerEpoch": epoch, "TransactionResult": commit, "CoordinatorEpoch": coordinator,
            "Topics": [{"Name": topic, "PartitionIndexes": [0, 5]}],
        }]})
    };
    for (epoch, commit, coordinator) in
        [(0, true, 0), (0, false, 0), (2, true, 3), (2, true, 1), (1, true, 3)]
    {
        pair.ask("WriteTxnMarkers", v, mark(epoch, commit, coordinator, &topic))?;
    }
    pair.ask("WriteTxnMarkers", v, mark(3, true, 3, "nobody-knows"))?;
    look(pair, "nobody", &topic)
}
