"""kafka-python: pure Python, with the codec its standard library has (gzip)."""

from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer, TopicPartition
from kafka.admin import OffsetSpec
from kafka.structs import OffsetAndMetadata
from kafka.errors import BrokerResponseError, OffsetOutOfRangeError, TopicAlreadyExistsError, UnknownTopicOrPartitionError

import records as r

TIMEOUT_S = 30


def create(args, admin, topic):
    new = {topic: {"num_partitions": args.partitions, "replication_factor": 1, "configs": r.TOPIC_CONFIG}}
    admin.create_topics(new)
    try:
        r.check(False, topic, "was created twice", admin.create_topics(new))
    except TopicAlreadyExistsError:
        pass
    asked = {TopicPartition(topic, p): OffsetSpec.LATEST for p in range(args.partitions)}
    r.until_led(lambda: admin.list_partition_offsets(asked), BrokerResponseError)


def write(args):
    admin = KafkaAdminClient(bootstrap_servers=args.bootstrap)
    for topic in args.topics:
        if args.first == 0:
            create(args, admin, topic)
        idempotent, codec = r.how(topic)
        producer = KafkaProducer(
            bootstrap_servers=args.bootstrap,
            enable_idempotence=idempotent,
            acks="all" if idempotent else 1,
            compression_type=codec,
            linger_ms=5,
        )
        sent = {}
        for partition, index in r.indexes(args):
            want = r.record(topic, partition, index)
            sent[partition, index] = producer.send(
                topic, want.value, want.key, want.headers, partition, want.timestamp)
        producer.flush(TIMEOUT_S)
        for (partition, index), future in sent.items():
            got = future.get(TIMEOUT_S)
            r.check((got.partition, got.offset, got.timestamp) == (partition, index, r.timestamp_ms(partition, index)),
                    f"{topic}/{partition} record {index} acknowledged as", got)
        producer.close()
    admin.close()


def read(args):
    reader = KafkaConsumer(
        bootstrap_servers=args.bootstrap,
        group_id=None,
        enable_auto_commit=False,
        auto_offset_reset="none",
        fetch_max_wait_ms=100,  # questions about offsets wait behind the long poll on the same connection
        allow_auto_create_topics=False,
    )
    assigned = [TopicPartition(topic, partition) for topic, partition in r.partitions(args)]
    reader.assign(assigned)
    for at in assigned:
        reader.seek(at, 0)
    records = r.Reader(args)
    while records.missing:
        for at, messages in (reader.poll(TIMEOUT_S * 1000) or records.wait_is_over()).items():
            for m in messages:
                records.take(*at, r.Record(m.offset, m.timestamp, m.key, m.value, list(m.headers)))

    earliest, latest = reader.beginning_offsets(assigned), reader.end_offsets(assigned)
    for_times = [
        reader.offsets_for_times({at: time(at.partition, args.records) for at in assigned})
        for time in r.TIMES.values()
    ]
    for at in assigned:
        offsets = [answers[at] and answers[at].offset for answers in for_times]
        r.check_offsets(*at, args.records, earliest[at], latest[at], offsets)

    at = TopicPartition(args.topics[0], 0)
    reader.assign([at])
    reader.seek(at, args.records + 1000)
    try:
        r.check(False, "a fetch beyond the end gave", reader.poll(TIMEOUT_S * 1000))
    except OffsetOutOfRangeError:
        pass
    reader.close()

    # Not by asking for its metadata: that would create it.
    admin = KafkaAdminClient(bootstrap_servers=args.bootstrap)
    try:
        r.check(False, "deleting an unknown topic gave", admin.delete_topics([r.unknown_topic(args)]))
    except UnknownTopicOrPartitionError:
        pass
    admin.close()


def group(args):
    taken = r.Group(args)
    partitions = [TopicPartition(taken.topic, p) for p in range(args.partitions)]
    reader = KafkaConsumer(
        taken.topic,
        bootstrap_servers=args.bootstrap,
        group_id=taken.id,
        enable_auto_commit=False,
        auto_offset_reset="earliest",
        heartbeat_interval_ms=200,
    )

    def check_committed(expected):
        for at in partitions:
            taken.check_committed(at.partition, reader.committed(at), expected)

    check_committed(args.first)
    while not taken.is_complete() or not reader.assignment():
        for at, messages in reader.poll(100).items():
            for m in messages:
                taken.take(at.partition, r.Record(m.offset, m.timestamp, m.key, m.value, list(m.headers)))
    reader.commit({at: OffsetAndMetadata(taken.end, "", -1) for at in partitions})
    check_committed(taken.end)
    reader.close()


r.run(r.commands(write=write, read=read, group=group))
