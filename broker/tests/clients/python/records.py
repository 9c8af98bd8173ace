"""The records that every client writes and expects (../README.md), and the command line all share."""

import argparse
import signal
import sys
import time
import zlib
from collections import namedtuple

Record = namedtuple("Record", "offset timestamp key value headers")

# Old on purpose: a broker that takes its own clock for the record's is found out.
BASE_TIMESTAMP_MS = 1_700_000_000_000
TOPIC_CONFIG = {"retention.ms": "-1"}


class Mismatch(Exception):
    """The broker, or the client, did something else than expected."""


def check(condition, *what):
    if not condition:
        raise Mismatch(" ".join(str(w) for w in what))


def pseudo_random_bytes(seed, count):
    """The top bytes of xorshift32: the same few lines in each language."""
    state = seed or 1
    out = bytearray(count)
    for at in range(count):
        state ^= (state << 13) & 0xFFFFFFFF
        state ^= state >> 17
        state ^= (state << 5) & 0xFFFFFFFF
        out[at] = state >> 24
    return bytes(out)


def timestamp_ms(partition, index):
    late = 5000 if index % 5 == 3 else 0
    return BASE_TIMESTAMP_MS + partition * 1_000_000 + index * 1000 - late


def limited(topic):
    """Written by a client that refuses null header values, or a record without key and value."""
    return any(f".{name}." in topic for name in ("kafkajs", "kafka-python", "aiokafka"))


def record(topic, partition, index):
    seed = zlib.crc32(f"{topic}/{partition}/{index}".encode())
    key = [
        lambda: None,
        lambda: b"",
        lambda: f"key-{index}".encode(),
        lambda: pseudo_random_bytes(seed, 16),
        lambda: f"ключ-{index}".encode(),
    ][index % 5]()
    value = [
        lambda: pseudo_random_bytes(seed, 256),
        lambda: b"",
        lambda: None,
        lambda: f"value {index} of {topic}/{partition}".encode(),
        lambda: pseudo_random_bytes(seed, 1 + seed % 1000),
        lambda: f'{{"i":{index}}}'.encode(),
        lambda: pseudo_random_bytes(seed, 17),
    ][index % 7]()
    if index == 10:
        value = pseudo_random_bytes(seed, 1000) * 100
    headers = [
        [],
        [("h", b"1")],
        [("trace", pseudo_random_bytes(seed, 8)), ("empty", b"")],
        [("twice", b"a"), ("twice", b"b"), ("twice", b"a")],
    ][index % 4]
    if limited(topic):
        value = b"" if key is None and value is None else value
    elif index % 4 == 2:
        headers.append(("null", None))
    return Record(index, timestamp_ms(partition, index), key, value, headers)


def offset_for_time(partition, records, timestamp):
    """The first offset, in the log's order, whose timestamp is at least `timestamp`; None if there is none."""
    found = (i for i in range(records) if timestamp_ms(partition, i) >= timestamp)
    return next(found, None)


def until_led(ask, error):
    """Calls `ask`, which needs the leaders of a new topic, until it no longer raises `error` (../README.md)."""
    deadline = time.monotonic() + 30
    while True:
        try:
            return ask()
        except error as not_yet:
            check(time.monotonic() < deadline, "no leader:", not_yet)
            time.sleep(0.02)


def partitions(args):
    return [(topic, partition) for topic in args.topics for partition in range(args.partitions)]


class Reader:
    """Takes records of all partitions in the order the client hands them out, and compares each with its own."""

    def __init__(self, args):
        self.args = args
        self.seen = dict.fromkeys(partitions(args), 0)
        self.missing = args.records * len(self.seen)

    def take(self, topic, partition, have):
        index = self.seen.get((topic, partition))
        check(index is not None, f"a record of {topic}/{partition}, which was not asked for")
        check(index < self.args.records, f"{topic}/{partition}: more than {self.args.records} records")
        want = record(topic, partition, index)
        for field in Record._fields:
            a, b = getattr(want, field), getattr(have, field)
            check(a == b, f"{topic}/{partition} record {index}: {field} is {b!r:.200}, expected {a!r:.200}")
        self.seen[topic, partition] += 1
        self.missing -= 1

    def wait_is_over(self):
        short = {f"{t}/{p}": seen for (t, p), seen in self.seen.items() if seen < self.args.records}
        raise Mismatch(f"no record within the time; of {self.args.records} each, read {short}")


class Group:
    """What a group's consumer takes: of each partition of the one topic, the records from the committed one on."""

    def __init__(self, args):
        self.args, self.topic = args, args.topics[0]
        self.id = self.topic + ".group"
        self.end = args.first + args.records
        self.next = dict.fromkeys(range(args.partitions), args.first)
        self.deadline = time.monotonic() + 30

    def take(self, partition, have):
        index = self.next[partition]
        check(index < self.end, f"{self.topic}/{partition}: a record behind {self.end}")
        want = record(self.topic, partition, index)
        check(have == want, f"{self.topic}/{partition} record {index}: {have!r:.200}, expected {want!r:.200}")
        self.next[partition] += 1

    def is_complete(self):
        check(time.monotonic() < self.deadline, f"{self.id} has come only to {self.next} of {self.end}")
        return all(at == self.end for at in self.next.values())

    def check_committed(self, partition, offset, expected):
        """`offset`: None if there is none. Nothing is committed before the first record."""
        want = expected or None
        check(offset == want, f"{self.id}: committed in partition {partition}: {offset}, expected {want}")


class Committed:
    """What a read_committed reader takes of a topic that transactions wrote: of each partition the records from the first
    on, each once. Only their values are compared: offsets have gaps."""

    def __init__(self, args, topic, end):
        self.topic, self.end = topic, end
        self.seen = dict.fromkeys(range(args.partitions), 0)
        self.deadline = time.monotonic() + 30

    def take(self, partition, value):
        want = record(self.topic, partition, self.seen[partition]).value
        check(value == want, f"{self.topic}/{partition} record {self.seen[partition]}: {value!r:.200}, not {want!r:.200}")
        self.seen[partition] += 1

    def check_time(self):
        check(time.monotonic() < self.deadline, f"{self.topic} is read only up to {self.seen}")

    def check_complete(self):
        check(all(count == self.end for count in self.seen.values()), self.topic, "has", self.seen, "of", self.end)


# What `transform` takes in one transaction: little, so that many are needed.
AT_ONCE = 10


def check_input(topic, partition, offset, key, value):
    want = record(topic, partition, offset)
    check((key, value) == (want.key, want.value), f"{topic}/{partition} offset {offset}: {key!r:.200}, {value!r:.200}")


def say_committed(offsets):
    print("committed", *(number for pair in sorted(offsets.items()) for number in pair), flush=True)


class Termination:
    """SIGTERM asks a program that otherwise goes on for ever to end in order."""

    def __init__(self):
        self.asked = False
        signal.signal(signal.SIGTERM, self._ask)

    def _ask(self, *_):
        self.asked = True


class Member:
    """Says what a member of a group is assigned and what it takes."""

    def __init__(self, args):
        self.topic, self.group = args.topics
        self.ranges = self.group.endswith(".range")
        self.said = None
        self.termination = Termination()

    def is_asked_to_leave(self):
        return self.termination.asked

    def assigned(self, partitions):
        partitions = sorted(partitions)
        if self.said != partitions:
            self.said = partitions
            print("assigned", *self.said, flush=True)

    def took(self, partition, offset):
        print("took", partition, offset, flush=True)

    def not_committed(self, error):
        """Who has the partition next takes the records again."""
        print("not committed:", repr(error), flush=True)


def how(topic):
    """From the topic's name: (idempotent?, codec or None)."""
    mode = topic.rsplit(".", 1)[1]
    check(mode in ("plain", "idempotent", "gzip", "snappy", "lz4", "zstd"), "unknown way to write", topic)
    return mode == "idempotent", mode if mode not in ("plain", "idempotent") else None


def arguments():
    parser = argparse.ArgumentParser()
    parser.add_argument("command", choices=["write", "read", "group", "member", "transact", "transform", "verify"])
    parser.add_argument("--bootstrap", required=True)
    parser.add_argument("--partitions", type=int, required=True)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--records", type=int, default=0)
    parser.add_argument("topics", nargs="+")
    return parser.parse_args()


def indexes(args):
    """(partition, index) of all records to write, the partitions interleaved."""
    return [(p, i) for i in range(args.first, args.first + args.records) for p in range(args.partitions)]


# For ListOffsets: a time before the first record, one amid them, one after the last.
TIMES = {
    "before": lambda partition, records: 0,
    "amid": lambda partition, records: timestamp_ms(partition, records // 2),
    "after": lambda partition, records: timestamp_ms(partition, records + 10),
}


def check_offsets(topic, partition, records, earliest, latest, for_times):
    """`for_times`: for each of TIMES, in order, an offset, or None if no record is as late."""
    check(earliest == 0, f"{topic}/{partition}: earliest offset {earliest}, expected 0")
    check(latest == records, f"{topic}/{partition}: latest offset {latest}, expected {records}")
    for (name, at), got in zip(TIMES.items(), for_times, strict=True):
        want = offset_for_time(partition, records, at(partition, records))
        check(got == want, f"{topic}/{partition}: the offset for a time {name} is {got}, expected {want}")


def unknown_topic(args):
    return args.topics[0] + ".no-such-topic"


def commands(**by_name):
    """A main function that runs the command asked for."""
    return lambda args: by_name[args.command](args)


def finish(args):
    count = args.records * args.partitions * len(args.topics)
    print(f"{args.command}: {count} records of {len(args.topics)} topics")


def run(main):
    """Runs `main(args)`, and turns what goes wrong into one line and exit code 1."""
    args = arguments()
    try:
        main(args)
    except Mismatch as wrong:
        print(f"MISMATCH: {wrong}", file=sys.stderr)
        sys.exit(1)
    finish(args)


