"""kafka-python: pure Python, with the codec its standard library has (gzip)."""

import time

from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer, TopicPartition
from kafka.admin import OffsetSpec
from kafka.coordinator.assignors.cooperative_sticky import CooperativeStickyAssignor
from kafka.coordinator.assignors.range import RangePartitionAssignor
from kafka.structs import OffsetAndMetadata
from kafka.errors import (BrokerResponseError, KafkaError, OffsetOutOfRangeError, ProducerFencedError,
                          RetriableError, TopicAlreadyExistsError, UnknownTopicOrPartitionError)

import records as r

TIMEOUT_S = 30


def retried(act, *args):
    """While a broker starts again, a refused connection is passed on to whoever polls or asks just then."""
    deadline = time.monotonic() + TIMEOUT_S
    while True:
        try:
            return act(*args)
        except RetriableError:
            if time.monotonic() > deadline:
                raise


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


def member(args):
    self = r.Member(args)
    reader = KafkaConsumer(
        self.topic,
        bootstrap_servers=args.bootstrap,
        group_id=self.group,
        enable_auto_commit=False,
        auto_offset_reset="earliest",
        session_timeout_ms=6000,
        heartbeat_interval_ms=200,
        partition_assignment_strategy=[RangePartitionAssignor if self.ranges else CooperativeStickyAssignor],
    )
    while not self.is_asked_to_leave():
        polled = retried(reader.poll, 100)
        self.assigned(at.partition for at in reader.assignment())
        for at, messages in polled.items():
            for m in messages:
                self.took(at.partition, m.offset)
        if polled:
            try:
                reader.commit()
            except KafkaError as error:
                self.not_committed(error)
    reader.close()


def transact(args):
    topic = args.topics[0]
    end = args.first + args.records
    group_id = topic + ".group"
    partitions = [TopicPartition(topic, p) for p in range(args.partitions)]
    if args.first == 0:
        admin = KafkaAdminClient(bootstrap_servers=args.bootstrap)
        create(args, admin, topic)
        admin.close()

    def producer():
        made = KafkaProducer(bootstrap_servers=args.bootstrap, transactional_id=topic)
        # What the program has left by its last end is aborted by the first of these.
        made.init_transactions()
        made.begin_transaction()
        return made

    def send(to):
        for partition, index in r.indexes(args):
            want = r.record(topic, partition, index)
            to.send(topic, want.value, want.key, want.headers, partition, want.timestamp)

    def lose(to):
        """Records that nobody is to see."""
        for at in partitions:
            to.send(topic, b"lost", partition=at.partition)
        to.flush(TIMEOUT_S)

    old = producer()
    lose(old)
    new = producer()
    try:
        old.commit_transaction()
    except ProducerFencedError:
        pass
    else:
        r.check(False, "an old incarnation has committed")
    old.close(1)
    send(new)
    new.abort_transaction()

    new.begin_transaction()
    send(new)
    new.send_offsets_to_transaction({at: OffsetAndMetadata(end, "", -1) for at in partitions}, group_id)
    new.commit_transaction()

    new.begin_transaction()
    lose(new)
    new.abort_transaction()

    reader = KafkaConsumer(
        bootstrap_servers=args.bootstrap,
        group_id=group_id,
        enable_auto_commit=False,
        isolation_level="read_committed",
        fetch_max_wait_ms=100,
    )
    reader.assign(partitions)
    reader.seek_to_beginning(*partitions)
    stable = reader.end_offsets(partitions)
    records = r.Committed(args, topic, end)
    while any(reader.position(at) < stable[at] for at in partitions):
        records.check_time()
        for at, messages in reader.poll(100).items():
            for m in messages:
                records.take(at.partition, m.value)
    records.check_complete()
    for at in partitions:
        r.check(reader.committed(at) == end, group_id, "has committed", reader.committed(at), "in", at)
    reader.close()

    # Whoever starts next with its id finds an ongoing transaction, be the broker the same or not.
    new.begin_transaction()
    lose(new)
    new.close(0)


def transform(args):
    source, out, name = args.topics
    termination = r.Termination()

    def new_producer():
        made = KafkaProducer(
            bootstrap_servers=args.bootstrap, transactional_id=f"{out}.{name}", transaction_timeout_ms=10_000)
        retried(made.init_transactions)
        return made

    reader = KafkaConsumer(
        source,
        bootstrap_servers=args.bootstrap,
        group_id=out + ".group",
        enable_auto_commit=False,
        auto_offset_reset="earliest",
        isolation_level="read_committed",
        session_timeout_ms=6000,
        heartbeat_interval_ms=200,
        max_poll_records=r.AT_ONCE,
    )
    producer = new_producer()
    while not termination.asked:
        polled = retried(reader.poll, 100)
        if not polled:
            continue
        offsets = {at: OffsetAndMetadata(messages[-1].offset + 1, "", -1) for at, messages in polled.items()}
        try:
            producer.begin_transaction()
            for at, messages in polled.items():
                for m in messages:
                    r.check_input(source, at.partition, m.offset, m.key, m.value)
                    to = r.record(out, at.partition, m.offset)
                    producer.send(out, to.value, to.key, to.headers, at.partition, to.timestamp)
            producer.send_offsets_to_transaction(offsets, reader.group_metadata())
            producer.commit_transaction()
        except KafkaError as error:
            print("not committed:", repr(error), flush=True)
            try:
                producer.abort_transaction()
            except KafkaError:
                # Fenced: the coordinator has aborted by itself.
                producer.close(0)
                producer = new_producer()
            # From what is committed, be the transaction aborted by us or by another incarnation.
            for at in reader.assignment():
                reader.seek(at, retried(reader.committed, at) or 0)
            continue
        r.say_committed({at.partition: offset.offset for at, offset in offsets.items()})
    producer.close(5)
    reader.close()


r.run(r.commands(write=write, read=read, group=group, member=member, transact=transact, transform=transform))
