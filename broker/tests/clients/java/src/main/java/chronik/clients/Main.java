package chronik.clients;

import java.time.Duration;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.concurrent.Future;
import java.util.function.IntToLongFunction;
import java.util.stream.Collectors;
import java.util.stream.IntStream;
import org.apache.kafka.clients.admin.Admin;
import org.apache.kafka.clients.admin.NewTopic;
import org.apache.kafka.clients.admin.OffsetSpec;
import org.apache.kafka.clients.consumer.ConsumerConfig;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.consumer.ConsumerRecords;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.clients.consumer.OffsetAndTimestamp;
import org.apache.kafka.clients.consumer.OffsetOutOfRangeException;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.Producer;
import org.apache.kafka.clients.producer.ProducerConfig;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.clients.producer.RecordMetadata;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.errors.TopicExistsException;
import org.apache.kafka.common.errors.UnknownTopicOrPartitionException;
import org.apache.kafka.common.serialization.ByteArrayDeserializer;
import org.apache.kafka.common.serialization.ByteArraySerializer;

/** The Java client. What the program does: README.md beside the folder java/. */
public final class Main {
    static final Duration WAIT = Duration.ofSeconds(30);

    private Main() {}

    public static void main(String[] arguments) {
        Arguments args = Arguments.parse(arguments);
        try {
            switch (args.command()) {
                case "write" -> write(args);
                case "read" -> read(args);
                case "admin" -> AdminApi.run(args);
                case "group" -> Groups.run(args);
                case "consumer-group" -> ConsumerProtocol.run(args);
                case "transact" -> Transactions.run(args);
                default -> throw new IllegalArgumentException("unknown command " + args.command());
            }
        } catch (Check.Mismatch mismatch) {
            System.err.println("MISMATCH: " + mismatch.getMessage());
            System.exit(1);
        } catch (Exception error) {
            error.printStackTrace();
            System.exit(1);
        }
        int count = args.topics().size() * args.partitions() * args.records();
        System.out.println(args.command() + ": "
            + (args.command().equals("admin") ? "done" : count + " records of " + args.topics().size() + " topics"));
    }

    static Producer<byte[], byte[]> producer(Arguments args, Map<String, Object> settings) {
        Map<String, Object> all = new HashMap<>(settings);
        all.put(ProducerConfig.BOOTSTRAP_SERVERS_CONFIG, args.bootstrap());
        return new KafkaProducer<>(all, new ByteArraySerializer(), new ByteArraySerializer());
    }

    /** From the last part of the topic's name. */
    private static Map<String, Object> producerSettings(String topic) {
        String mode = topic.substring(topic.lastIndexOf('.') + 1);
        Check.that(Set.of("plain", "idempotent", "gzip", "snappy", "lz4", "zstd").contains(mode),
            "unknown way to write", topic);
        boolean idempotent = mode.equals("idempotent");
        return Map.of(
            ProducerConfig.ENABLE_IDEMPOTENCE_CONFIG, idempotent,
            ProducerConfig.ACKS_CONFIG, idempotent ? "all" : "1",
            ProducerConfig.COMPRESSION_TYPE_CONFIG, idempotent || mode.equals("plain") ? "none" : mode);
    }

    static void create(Admin admin, Arguments args, String topic) throws Exception {
        List<NewTopic> topics = List.of(
            new NewTopic(topic, args.partitions(), (short) 1).configs(Map.of("retention.ms", "-1")));
        admin.createTopics(topics).all().get();
        Check.fails(TopicExistsException.class, "create " + topic + " again",
            () -> admin.createTopics(topics).all().get());
        // Asks again by itself while a partition has no leader.
        Map<TopicPartition, OffsetSpec> end = IntStream.range(0, args.partitions()).boxed()
            .collect(Collectors.toMap(partition -> new TopicPartition(topic, partition), p -> OffsetSpec.latest()));
        admin.listOffsets(end).all().get();
    }

    private static void write(Arguments args) throws Exception {
        try (Admin admin = Admin.create(Map.of("bootstrap.servers", args.bootstrap()))) {
            for (String topic : args.topics()) {
                if (args.first() == 0) {
                    create(admin, args, topic);
                }
                try (Producer<byte[], byte[]> producer = producer(args, producerSettings(topic))) {
                    Map<Future<RecordMetadata>, ProducerRecord<byte[], byte[]>> sent = new HashMap<>();
                    Map<Future<RecordMetadata>, Integer> indexes = new HashMap<>();
                    for (int index = args.first(); index < args.first() + args.records(); index++) {
                        for (int partition = 0; partition < args.partitions(); partition++) {
                            ProducerRecord<byte[], byte[]> record = Records.expected(topic, partition, index);
                            Future<RecordMetadata> future = producer.send(record);
                            sent.put(future, record);
                            indexes.put(future, index);
                        }
                    }
                    for (Map.Entry<Future<RecordMetadata>, ProducerRecord<byte[], byte[]>> each : sent.entrySet()) {
                        RecordMetadata acked = each.getKey().get();
                        Check.equal(acked + " offset", acked.offset(), (long) indexes.get(each.getKey()));
                        Check.equal(acked + " timestamp", acked.timestamp(), each.getValue().timestamp());
                        Check.equal(acked + " partition", acked.partition(), each.getValue().partition());
                    }
                }
            }
        }
    }

    /** A consumer without a group: it can only be assigned its partitions. */
    static KafkaConsumer<byte[], byte[]> consumer(Arguments args) {
        return new KafkaConsumer<>(
            Map.of(
                ConsumerConfig.BOOTSTRAP_SERVERS_CONFIG, args.bootstrap(),
                ConsumerConfig.AUTO_OFFSET_RESET_CONFIG, "none",
                ConsumerConfig.ALLOW_AUTO_CREATE_TOPICS_CONFIG, false,
                ConsumerConfig.ISOLATION_LEVEL_CONFIG, "read_committed"),
            new ByteArrayDeserializer(), new ByteArrayDeserializer());
    }

    private static void read(Arguments args) throws Exception {
        List<TopicPartition> assigned = args.topicPartitions();
        try (KafkaConsumer<byte[], byte[]> consumer = consumer(args)) {
            consumer.assign(assigned);
            assigned.forEach(at -> consumer.seek(at, 0));
            Map<TopicPartition, Integer> seen = new HashMap<>();
            for (int missing = assigned.size() * args.records(); missing > 0; ) {
                ConsumerRecords<byte[], byte[]> polled = consumer.poll(WAIT);
                Check.that(!polled.isEmpty(), "no record within the time;", missing, "missing, read", seen);
                for (ConsumerRecord<byte[], byte[]> record : polled) {
                    TopicPartition at = new TopicPartition(record.topic(), record.partition());
                    int index = seen.getOrDefault(at, 0);
                    Check.that(index < args.records(), at, "more records than expected");
                    Records.compare(record, index);
                    seen.put(at, index + 1);
                    missing--;
                }
            }
            // Without an assignment, no long poll holds up what follows on the same connection.
            consumer.unsubscribe();
            checkOffsets(consumer, args, assigned);

            TopicPartition beyond = assigned.get(0);
            consumer.assign(List.of(beyond));
            consumer.seek(beyond, args.records() + 1000);
            Check.fails(OffsetOutOfRangeException.class, "a fetch beyond the end", () -> consumer.poll(WAIT));
        }
        try (Admin admin = Admin.create(Map.of("bootstrap.servers", args.bootstrap()))) {
            Check.fails(UnknownTopicOrPartitionException.class, "unknown topic",
                () -> admin.describeTopics(List.of(args.topics().get(0) + ".no-such-topic")).allTopicNames().get());
        }
    }

    private static void checkOffsets(
        KafkaConsumer<byte[], byte[]> consumer, Arguments args, List<TopicPartition> assigned) {
        Map<TopicPartition, Long> first = consumer.beginningOffsets(assigned);
        Map<TopicPartition, Long> end = consumer.endOffsets(assigned);
        for (TopicPartition at : assigned) {
            Check.equal(at + " first offset", first.get(at), 0L);
            Check.equal(at + " end offset", end.get(at), (long) args.records());
        }
        // A time before the first record, one amid them, one after the last.
        List<IntToLongFunction> times = List.of(
            partition -> 0L,
            partition -> Records.timestampMs(partition, args.records() / 2),
            partition -> Records.timestampMs(partition, args.records() + 10));
        for (IntToLongFunction time : times) {
            Map<TopicPartition, OffsetAndTimestamp> answers = new HashMap<>(consumer.offsetsForTimes(
                assigned.stream().collect(Collectors.toMap(at -> at, at -> time.applyAsLong(at.partition())))));
            for (TopicPartition at : assigned) {
                long asked = time.applyAsLong(at.partition());
                OffsetAndTimestamp answer = answers.get(at);
                Long want = Records.offsetForTime(at.partition(), args.records(), asked);
                Check.equal(at + " offset for time " + asked, answer == null ? null : answer.offset(), want);
                if (answer != null) {
                    long timestamp = Records.timestampMs(at.partition(), want.intValue());
                    Check.equal(at + " timestamp at that offset", answer.timestamp(), timestamp);
                }
            }
        }
    }
}
