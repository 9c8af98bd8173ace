package chronik.clients;

import java.time.Duration;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.Properties;
import java.util.TreeMap;
import org.apache.kafka.clients.admin.Admin;
import org.apache.kafka.clients.consumer.ConsumerConfig;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.clients.producer.Producer;
import org.apache.kafka.clients.producer.ProducerConfig;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.serialization.LongDeserializer;
import org.apache.kafka.common.serialization.Serdes;
import org.apache.kafka.common.serialization.StringDeserializer;
import org.apache.kafka.common.utils.Bytes;
import org.apache.kafka.streams.KafkaStreams;
import org.apache.kafka.streams.StreamsBuilder;
import org.apache.kafka.streams.StreamsConfig;
import org.apache.kafka.streams.kstream.Consumed;
import org.apache.kafka.streams.kstream.Grouped;
import org.apache.kafka.streams.kstream.Materialized;
import org.apache.kafka.streams.kstream.Produced;
import org.apache.kafka.streams.state.KeyValueStore;

/** Kafka Streams: words counted exactly once, by way of a repartition topic and a store with its changelog. */
final class WordCount {
    private WordCount() {}

    private static String line(int partition, int index) {
        return "all p" + partition + " w" + index % 7 + " w" + (index * 5 + partition) % 13;
    }

    private static String output(String input) {
        return input + ".counts";
    }

    /** Appends lines to each partition of the input. */
    static void lines(Arguments args) throws Exception {
        String input = args.topics().get(0);
        if (args.first() == 0) {
            try (Admin admin = Admin.create(Map.of("bootstrap.servers", args.bootstrap()))) {
                Main.create(admin, args, input);
                Main.create(admin, args, output(input));
            }
        }
        try (Producer<byte[], byte[]> producer = Main.producer(args, Map.of(ProducerConfig.ACKS_CONFIG, "all"))) {
            for (int index = args.first(); index < args.first() + args.records(); index++) {
                for (int partition = 0; partition < args.partitions(); partition++) {
                    byte[] value = line(partition, index).getBytes();
                    producer.send(new ProducerRecord<>(input, partition, null, value));
                }
            }
        }
    }

    /** Counts until it is asked to stop. Its arguments: the input, and a directory for its state. */
    static void run(Arguments args) throws Exception {
        String input = args.topics().get(0);
        StreamsBuilder builder = new StreamsBuilder();
        builder.stream(input, Consumed.with(Serdes.String(), Serdes.String()))
            .flatMapValues(line -> List.of(line.split(" ")))
            .groupBy((key, word) -> word, Grouped.with(Serdes.String(), Serdes.String()))
            .count(Materialized.<String, Long, KeyValueStore<Bytes, byte[]>>as("counts")
                .withKeySerde(Serdes.String()).withValueSerde(Serdes.Long()))
            .toStream()
            .peek((word, count) -> System.out.println("counted " + word + " " + count))
            .to(output(input), Produced.with(Serdes.String(), Serdes.Long()));
        Properties settings = new Properties();
        settings.put(StreamsConfig.APPLICATION_ID_CONFIG, input + ".app");
        settings.put(StreamsConfig.BOOTSTRAP_SERVERS_CONFIG, args.bootstrap());
        settings.put(StreamsConfig.STATE_DIR_CONFIG, args.topics().get(1));
        settings.put(StreamsConfig.PROCESSING_GUARANTEE_CONFIG, StreamsConfig.EXACTLY_ONCE_V2);
        settings.put(StreamsConfig.NUM_STREAM_THREADS_CONFIG, 2);
        settings.put(StreamsConfig.COMMIT_INTERVAL_MS_CONFIG, 100);
        settings.put(StreamsConfig.consumerPrefix(ConsumerConfig.SESSION_TIMEOUT_MS_CONFIG), 6000);
        settings.put(StreamsConfig.consumerPrefix(ConsumerConfig.HEARTBEAT_INTERVAL_MS_CONFIG), 500);
        settings.put(StreamsConfig.producerPrefix(ProducerConfig.TRANSACTION_TIMEOUT_CONFIG), 10_000);
        Termination.handle();
        try (KafkaStreams streams = new KafkaStreams(builder.build(), settings)) {
            streams.start();
            while (!Termination.askedWithin(100)) {
                Check.that(streams.state() != KafkaStreams.State.ERROR, "Kafka Streams is in the state ERROR");
            }
            Check.that(streams.close(Duration.ofSeconds(30)), "Kafka Streams does not close");
        }
    }

    /** Waits until the output says what the lines up to {@code --records} amount to. No count may go back or too far. */
    static void counts(Arguments args) {
        Map<String, Long> want = new TreeMap<>();
        for (int partition = 0; partition < args.partitions(); partition++) {
            for (int index = 0; index < args.records(); index++) {
                for (String word : line(partition, index).split(" ")) {
                    want.merge(word, 1L, Long::sum);
                }
            }
        }
        String output = output(args.topics().get(0));
        List<TopicPartition> all = args.with(List.of(output)).topicPartitions();
        Map<String, Object> settings = Map.of(
            ConsumerConfig.BOOTSTRAP_SERVERS_CONFIG, args.bootstrap(),
            ConsumerConfig.ISOLATION_LEVEL_CONFIG, "read_committed");
        Map<String, Long> have = new HashMap<>();
        try (KafkaConsumer<String, Long> consumer =
                new KafkaConsumer<>(settings, new StringDeserializer(), new LongDeserializer())) {
            consumer.assign(all);
            consumer.seekToBeginning(all);
            long deadline = System.nanoTime() + Duration.ofSeconds(90).toNanos();
            while (!have.equals(want) || isBehind(consumer, all)) {
                Check.that(System.nanoTime() < deadline, "counted so far:", new TreeMap<>(have), "expected:", want);
                for (ConsumerRecord<String, Long> record : consumer.poll(Duration.ofMillis(100))) {
                    Long before = have.put(record.key(), record.value());
                    Check.that(before == null || before < record.value(), record, "comes after", before);
                    Check.that(record.value() <= want.getOrDefault(record.key(), 0L), record, "is more than there is");
                }
            }
        }
    }

    private static boolean isBehind(KafkaConsumer<?, ?> consumer, List<TopicPartition> all) {
        return consumer.endOffsets(all).entrySet().stream()
            .anyMatch(end -> consumer.position(end.getKey()) < end.getValue());
    }
}
