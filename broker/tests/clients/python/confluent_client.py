"""librdkafka, through confluent-kafka."""

from confluent_kafka import Consumer, KafkaError, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

import records as r

TIMEOUT_S = 30


def create(args, admin, topic):
    def once():
        new = NewTopic(topic, num_partitions=args.partitions, replication_factor=1, config=r.TOPIC_CONFIG)
        admin.create_topics([new])[topic].result(TIMEOUT_S)

    once()
    try:
        once()
    except KafkaException as error:
        code = error.args[0].code()
        r.check(code == KafkaError.TOPIC_ALREADY_EXISTS, "created twice:", error)
    else:
        r.check(False, topic, "was created twice")


def write(args):
    admin = AdminClient({"bootstrap.servers": args.bootstrap})
    for topic in args.topics:
        if args.first == 0:
            create(args, admin, topic)
        idempotent, codec = r.how(topic)
        producer = Producer({
            "bootstrap.servers": args.bootstrap,
            "enable.idempotence": idempotent,
            "acks": "all" if idempotent else "1",
            "compression.type": codec or "none",
            "linger.ms": 5,
            # Else a retry, as on a new topic that has no leader yet, would reorder the records.
            "max.in.flight": 5 if idempotent else 1,
        })
        acked = {}

        def delivered(error, message):
            r.check(error is None, topic, error)
            acked[message.partition(), message.offset()] = message.timestamp()[1]

        for partition, index in r.indexes(args):
            want = r.record(topic, partition, index)
            producer.produce(topic, want.value, want.key, partition, on_delivery=delivered,
                             timestamp=want.timestamp, headers=want.headers)
        r.check(producer.flush(TIMEOUT_S) == 0, topic, "records not delivered in time")
        expected = {(p, i): r.timestamp_ms(p, i) for p, i in r.indexes(args)}
        r.check(acked == expected, topic, "acknowledged:", acked)


def consumer(args, **settings):
    # librdkafka wants a group.id for its rebalance API; nothing here joins the group or commits to it.
    return Consumer({
        "bootstrap.servers": args.bootstrap,
        "group.id": "unused",
        "enable.auto.commit": False,
        "enable.auto.offset.store": False,
        "auto.offset.reset": "error",
        # Small, so that a partition takes several fetches and one batch is larger than the limit.
        "fetch.message.max.bytes": 16384,
        **settings,
    })


def poll(reader):
    message = reader.poll(TIMEOUT_S)
    if message is not None and message.error():
        raise KafkaException(message.error())
    return message


def read(args):
    reader = consumer(args)
    reader.assign([TopicPartition(topic, partition, 0) for topic, partition in r.partitions(args)])
    records = r.Reader(args)
    while records.missing:
        m = poll(reader)
        if m is None:  # not `not m`: a message's length is its value's, and may be 0
            records.wait_is_over()
        record = r.Record(m.offset(), m.timestamp()[1], m.key(), m.value(), m.headers() or [])
        records.take(m.topic(), m.partition(), record)

    # Else each question would wait behind a long poll on the same connection.
    reader.unassign()
    for_times = []
    for time in r.TIMES.values():
        asked = [TopicPartition(t, p, time(p, args.records)) for t, p in r.partitions(args)]
        answers = reader.offsets_for_times(asked, TIMEOUT_S)
        # Negative (librdkafka's "end") for a time after the last record.
        for_times.append({(a.topic, a.partition): a.offset if a.offset >= 0 else None for a in answers})
    for at in r.partitions(args):
        earliest, latest = reader.get_watermark_offsets(TopicPartition(*at), TIMEOUT_S)
        r.check_offsets(*at, args.records, earliest, latest, [answers[at] for answers in for_times])

    reader.assign([TopicPartition(args.topics[0], 0, args.records + 1000)])
    try:
        r.check(False, "a fetch beyond the end gave", poll(reader))
    except KafkaException as error:
        r.check(error.args[0].code() == KafkaError._AUTO_OFFSET_RESET, "beyond the end:", error)
        r.check("out of range" in str(error).lower(), "beyond the end:", error)

    metadata = reader.list_topics(r.unknown_topic(args), TIMEOUT_S).topics[r.unknown_topic(args)]
    r.check(metadata.error.code() == KafkaError.UNKNOWN_TOPIC_OR_PART, "unknown topic:", metadata.error)
    reader.close()


def group(args):
    taken = r.Group(args)
    partitions = [TopicPartition(taken.topic, p) for p in range(args.partitions)]

    def check_committed(reader, expected):
        for at in reader.committed(partitions, TIMEOUT_S):
            taken.check_committed(at.partition, at.offset if at.offset >= 0 else None, expected)

    settings = {"group.id": taken.id, "auto.offset.reset": "earliest", "heartbeat.interval.ms": 200}
    reader = consumer(args, **settings)
    check_committed(reader, args.first)
    reader.subscribe([taken.topic])
    assigned = []
    while not taken.is_complete() or not assigned:
        m = reader.poll(0.1)
        assigned = reader.assignment()
        if m is not None:
            if m.error():
                raise KafkaException(m.error())
            taken.take(m.partition(), r.Record(m.offset(), m.timestamp()[1], m.key(), m.value(), m.headers() or []))
    reader.commit(offsets=[TopicPartition(taken.topic, p, taken.end) for p in range(args.partitions)],
                  asynchronous=False)
    check_committed(reader, taken.end)
    reader.close()

    admin = AdminClient({"bootstrap.servers": args.bootstrap})
    listed = admin.list_consumer_groups().result(TIMEOUT_S)
    r.check(any(g.group_id == taken.id for g in listed.valid), taken.id, "is not listed:", listed.valid, listed.errors)
    described = admin.describe_consumer_groups([taken.id])[taken.id].result(TIMEOUT_S)
    r.check(described.state.name == "EMPTY" and not described.members, taken.id, "is", described.state)


COMMITTED = {"isolation.level": "read_committed", "enable.partition.eof": True}


def read_committed(args, reader, topic, end, sources):
    """The topic has the records up to `end`, each once, and the reader's group has committed as much of `sources`."""
    records = r.Committed(args, topic, end)
    ended = set()
    reader.assign([TopicPartition(topic, partition, 0) for partition in range(args.partitions)])
    while len(ended) < args.partitions:
        m = reader.poll(0.1)
        records.check_time()
        if m is None:
            continue
        if m.error():
            r.check(m.error().code() == KafkaError._PARTITION_EOF, m.error())
            ended.add(m.partition())
        else:
            records.take(m.partition(), m.value())
    records.check_complete()
    committed = reader.committed(sources, TIMEOUT_S)
    r.check(all(at.offset == end for at in committed), "the group of", topic, "has committed", committed)


def verify(args):
    source, out = args.topics
    reader = consumer(args, **{"group.id": out + ".group", **COMMITTED})
    read_committed(args, reader, out, args.records, [TopicPartition(source, p) for p in range(args.partitions)])
    reader.close()


def member(args):
    self = r.Member(args)
    reader = consumer(args, **{
        "group.id": self.group,
        "auto.offset.reset": "earliest",
        "session.timeout.ms": 6000,
        "heartbeat.interval.ms": 200,
        "partition.assignment.strategy": "range" if self.ranges else "cooperative-sticky",
    })
    reader.subscribe([self.topic])
    while not self.is_asked_to_leave():
        m = reader.poll(0.1)
        self.assigned(at.partition for at in reader.assignment())
        if m is None:
            continue
        if m.error():
            raise KafkaException(m.error())
        self.took(m.partition(), m.offset())
        try:
            reader.commit(message=m, asynchronous=False)
        except KafkaException as error:
            self.not_committed(error)
    reader.close()


def until_done(call, *arguments):
    """A call that may be repeated as it is."""
    while True:
        try:
            return call(*arguments)
        except KafkaException as error:
            if not error.args[0].retriable():
                raise


def transform(args):
    source, out, name = args.topics
    termination = r.Termination()
    batch = []

    def new_producer():
        made = Producer({
            "bootstrap.servers": args.bootstrap,
            "transactional.id": f"{out}.{name}",
            "transaction.timeout.ms": 10_000,
            # Else librdkafka gives its brokers up when all are away, and asks the one of before for the group's coordinator:
            # send_offsets_to_transaction never returns, whatever its timeout (librdkafka's issues 5511 and 5456).
            "metadata.recovery.strategy": "none",
        })
        until_done(made.init_transactions, TIMEOUT_S)
        return made

    def revoked(*_):
        # Another member has them now, and what was not committed with them.
        batch.clear()

    reader = consumer(args, **{
        "group.id": out + ".group",
        "isolation.level": "read_committed",
        "auto.offset.reset": "earliest",
        "session.timeout.ms": 6000,
        "max.poll.interval.ms": 10_000,
        "heartbeat.interval.ms": 200,
    })
    reader.subscribe([source], on_revoke=revoked, on_lost=revoked)
    producer = new_producer()
    while not termination.asked:
        batch.clear()
        while len(batch) < r.AT_ONCE:
            m = reader.poll(0 if batch else 0.1)
            if m is None:
                break
            if m.error():
                # Stopped for that long, it has lost its partitions, and joins again.
                if m.error().code() == KafkaError._MAX_POLL_EXCEEDED:
                    break
                raise KafkaException(m.error())
            batch.append(m)
        if not batch:
            continue
        offsets = {}
        try:
            producer.begin_transaction()
            for m in batch:
                r.check_input(source, m.partition(), m.offset(), m.key(), m.value())
                to = r.record(out, m.partition(), m.offset())
                producer.produce(out, to.value, to.key, m.partition(), timestamp=to.timestamp, headers=to.headers)
                offsets[m.partition()] = m.offset() + 1
            next_ones = [TopicPartition(source, partition, offset) for partition, offset in offsets.items()]
            until_done(producer.send_offsets_to_transaction, next_ones, reader.consumer_group_metadata(), TIMEOUT_S)
            until_done(producer.commit_transaction, TIMEOUT_S)
        except KafkaException as error:
            print("not committed:", error, flush=True)
            try:
                until_done(producer.abort_transaction, TIMEOUT_S)
            except KafkaException:
                # Fenced: the coordinator has aborted by itself.
                producer = new_producer()
            start_over(reader)
            continue
        r.say_committed(offsets)
    reader.close()


def start_over(reader):
    """From what is committed, be the transaction aborted by us or by another incarnation."""
    committed = reader.committed(reader.assignment(), TIMEOUT_S) if reader.assignment() else []
    for at in committed:
        at.offset = max(at.offset, 0)
        try:
            reader.seek(at)
        except KafkaException:
            # It is another member's by now, or about to start from what is committed.
            pass


def transact(args):
    topic = args.topics[0]
    end = args.first + args.records
    group_id = topic + ".group"
    if args.first == 0:
        create(args, AdminClient({"bootstrap.servers": args.bootstrap}), topic)

    def producer():
        made = Producer({"bootstrap.servers": args.bootstrap, "transactional.id": topic})
        # What the program has left by its last end is aborted by the first of these.
        made.init_transactions(TIMEOUT_S)
        made.begin_transaction()
        return made

    def send(to):
        for partition, index in r.indexes(args):
            want = r.record(topic, partition, index)
            to.produce(topic, want.value, want.key, partition, timestamp=want.timestamp, headers=want.headers)

    def lose(to):
        """Records that nobody is to see."""
        for _, partition in r.partitions(args):
            to.produce(topic, b"lost", partition=partition)
        r.check(to.flush(TIMEOUT_S) == 0, topic, "records not delivered in time")

    old = producer()
    lose(old)
    new = producer()
    try:
        old.commit_transaction(TIMEOUT_S)
    except KafkaException as error:
        r.check(error.args[0].code() == KafkaError._FENCED, "a commit of an old incarnation:", error)
    else:
        r.check(False, "an old incarnation has committed")
    send(new)
    new.abort_transaction(TIMEOUT_S)

    reader = consumer(args, **{"group.id": group_id, **COMMITTED})
    new.begin_transaction()
    send(new)
    offsets = [TopicPartition(*at, end) for at in r.partitions(args)]
    new.send_offsets_to_transaction(offsets, reader.consumer_group_metadata(), TIMEOUT_S)
    new.commit_transaction(TIMEOUT_S)

    new.begin_transaction()
    lose(new)
    new.abort_transaction(TIMEOUT_S)

    read_committed(args, reader, topic, end, [TopicPartition(*at) for at in r.partitions(args)])
    reader.close()

    # Whoever starts next with its id finds an ongoing transaction, be the broker the same or not.
    new.begin_transaction()
    lose(new)


r.run(r.commands(write=write, read=read, group=group, member=member, transact=transact, transform=transform,
                 verify=verify))
