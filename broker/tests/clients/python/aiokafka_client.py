"""aiokafka: asyncio, with the codec that needs no further package (gzip)."""

import asyncio
import os
import sys

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.coordinator.assignors.range import RangePartitionAssignor
from aiokafka.coordinator.assignors.roundrobin import RoundRobinPartitionAssignor
from aiokafka.errors import (KafkaError, OffsetOutOfRangeError, ProducerFenced, TopicAlreadyExistsError,
                             UnknownTopicOrPartitionError, for_code)

import records as r

TIMEOUT_S = 30


async def create(args, admin, topic):
    async def once():
        new = NewTopic(topic, args.partitions, 1, topic_configs=r.TOPIC_CONFIG)
        answer = await admin.create_topics([new])
        return [for_code(code) for _, code, *_ in answer.topic_errors]

    errors = [(await once())[0], (await once())[0]]
    r.check(errors[0].errno == 0, topic, "create:", errors[0])
    r.check(errors[1] is TopicAlreadyExistsError, topic, "create again:", errors[1])


async def write(args):
    admin = AIOKafkaAdminClient(bootstrap_servers=args.bootstrap)
    await admin.start()
    for topic in args.topics:
        if args.first == 0:
            await create(args, admin, topic)
        idempotent, codec = r.how(topic)
        async with AIOKafkaProducer(
            bootstrap_servers=args.bootstrap,
            enable_idempotence=idempotent,
            acks="all" if idempotent else 1,
            compression_type=codec,
            linger_ms=5,
        ) as producer:
            sent = {}
            for partition, index in r.indexes(args):
                want = r.record(topic, partition, index)
                sent[partition, index] = await producer.send(
                    topic, want.value, want.key, partition, want.timestamp, want.headers)
            for (partition, index), future in sent.items():
                got = await asyncio.wait_for(future, TIMEOUT_S)
                # Its timestamp is not looked at: aiokafka hands out that of the batch's first record.
                r.check((got.partition, got.offset) == (partition, index),
                        f"{topic}/{partition} record {index} acknowledged as", got)
    await admin.close()


async def read(args):
    async with AIOKafkaConsumer(
        bootstrap_servers=args.bootstrap,
        group_id=None,
        enable_auto_commit=False,
        auto_offset_reset="none",
        fetch_max_wait_ms=100,  # questions about offsets wait behind the long poll on the same connection
    ) as reader:
        assigned = [TopicPartition(topic, partition) for topic, partition in r.partitions(args)]
        reader.assign(assigned)
        for at in assigned:
            reader.seek(at, 0)
        records = r.Reader(args)
        while records.missing:
            polled = await reader.getmany(timeout_ms=TIMEOUT_S * 1000)
            for at, messages in (polled or records.wait_is_over()).items():
                for m in messages:
                    records.take(*at, r.Record(m.offset, m.timestamp, m.key, m.value, list(m.headers)))

        earliest, latest = await reader.beginning_offsets(assigned), await reader.end_offsets(assigned)
        for_times = [
            await reader.offsets_for_times({at: time(at.partition, args.records) for at in assigned})
            for time in r.TIMES.values()
        ]
        for at in assigned:
            offsets = [answers[at] and answers[at].offset for answers in for_times]
            r.check_offsets(*at, args.records, earliest[at], latest[at], offsets)

        at = TopicPartition(args.topics[0], 0)
        reader.assign([at])
        reader.seek(at, args.records + 1000)
        try:
            r.check(False, "a fetch beyond the end gave", await asyncio.wait_for(reader.getone(), TIMEOUT_S))
        except OffsetOutOfRangeError:
            pass

    # Not by asking for its metadata: that would create it.
    admin = AIOKafkaAdminClient(bootstrap_servers=args.bootstrap)
    await admin.start()
    answer = await admin.delete_topics([r.unknown_topic(args)])
    (_, code), = answer.topic_error_codes
    r.check(for_code(code) is UnknownTopicOrPartitionError, "deleting an unknown topic gave", answer)
    await admin.close()


async def group(args):
    taken = r.Group(args)
    partitions = [TopicPartition(taken.topic, p) for p in range(args.partitions)]

    async def check_committed(reader, expected):
        for at in partitions:
            taken.check_committed(at.partition, await reader.committed(at), expected)

    async with AIOKafkaConsumer(
        taken.topic,
        bootstrap_servers=args.bootstrap,
        group_id=taken.id,
        enable_auto_commit=False,
        auto_offset_reset="earliest",
        heartbeat_interval_ms=200,
    ) as reader:
        await check_committed(reader, args.first)
        while not taken.is_complete():
            for at, messages in (await reader.getmany(timeout_ms=100)).items():
                for m in messages:
                    taken.take(at.partition, r.Record(m.offset, m.timestamp, m.key, m.value, list(m.headers)))
        await reader.commit({at: taken.end for at in partitions})
        await check_committed(reader, taken.end)


async def member(args):
    self = r.Member(args)
    async with AIOKafkaConsumer(
        self.topic,
        bootstrap_servers=args.bootstrap,
        group_id=self.group,
        enable_auto_commit=False,
        auto_offset_reset="earliest",
        session_timeout_ms=6000,
        heartbeat_interval_ms=200,
        partition_assignment_strategy=(RangePartitionAssignor if self.ranges else RoundRobinPartitionAssignor,),
    ) as reader:
        while not self.is_asked_to_leave():
            polled = await reader.getmany(timeout_ms=100)
            self.assigned(at.partition for at in reader.assignment())
            for at, messages in polled.items():
                for m in messages:
                    self.took(at.partition, m.offset)
            if polled:
                try:
                    await reader.commit()
                except KafkaError as error:
                    self.not_committed(error)


async def transact(args):
    topic = args.topics[0]
    end = args.first + args.records
    group_id = topic + ".group"
    partitions = [TopicPartition(topic, p) for p in range(args.partitions)]
    if args.first == 0:
        admin = AIOKafkaAdminClient(bootstrap_servers=args.bootstrap)
        await admin.start()
        await create(args, admin, topic)
        await admin.close()

    async def producer():
        made = AIOKafkaProducer(bootstrap_servers=args.bootstrap, transactional_id=topic)
        # What the program has left by its last end is aborted by the first of these.
        await made.start()
        await made.begin_transaction()
        return made

    async def send(to):
        for partition, index in r.indexes(args):
            want = r.record(topic, partition, index)
            await to.send(topic, want.value, want.key, partition, want.timestamp, want.headers)

    async def lose(to):
        """Records that nobody is to see."""
        for at in partitions:
            await to.send_and_wait(topic, b"lost", partition=at.partition)

    old = await producer()
    await lose(old)
    new = await producer()
    try:
        await old.commit_transaction()
    except ProducerFenced:
        pass
    else:
        r.check(False, "an old incarnation has committed")
    await old.stop()
    await send(new)
    await new.abort_transaction()

    await new.begin_transaction()
    await send(new)
    await new.send_offsets_to_transaction({at: end for at in partitions}, group_id)
    await new.commit_transaction()

    await new.begin_transaction()
    await lose(new)
    await new.abort_transaction()

    async with AIOKafkaConsumer(
        bootstrap_servers=args.bootstrap,
        group_id=group_id,
        enable_auto_commit=False,
        isolation_level="read_committed",
        fetch_max_wait_ms=100,
    ) as reader:
        reader.assign(partitions)
        await reader.seek_to_beginning(*partitions)
        stable = await reader.end_offsets(partitions)
        records = r.Committed(args, topic, end)
        while any([await reader.position(at) < stable[at] for at in partitions]):
            records.check_time()
            for at, messages in (await reader.getmany(timeout_ms=100)).items():
                for m in messages:
                    records.take(at.partition, m.value)
        records.check_complete()
        for at in partitions:
            committed = await reader.committed(at)
            r.check(committed == end, group_id, "has committed", committed, "in", at)

    # Whoever starts next with its id finds an ongoing transaction, be the broker the same or not.
    await new.begin_transaction()
    await lose(new)
    # Without its end, which would wait for the transaction's.
    r.finish(args)
    sys.stdout.flush()
    os._exit(0)


r.run(lambda args: asyncio.run(
    r.commands(write=write, read=read, group=group, member=member, transact=transact)(args)))
