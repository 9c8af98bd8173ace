package chronik.clients;

import java.time.Duration;
import java.util.Arrays;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.stream.Collectors;
import org.apache.kafka.clients.admin.Admin;
import org.apache.kafka.clients.admin.TransactionDescription;
import org.apache.kafka.clients.admin.TransactionState;
import org.apache.kafka.clients.consumer.ConsumerGroupMetadata;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.clients.consumer.OffsetAndMetadata;
import org.apache.kafka.clients.producer.Producer;
import org.apache.kafka.clients.producer.ProducerConfig;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.errors.ProducerFencedException;

/** A transactional producer: what it commits is read once, and nothing else of what it writes. */
final class Transactions {
    private static final Duration SHORTLY = Duration.ofMillis(100);

    private Transactions() {}

    static void run(Arguments args) throws Exception {
        String topic = args.topics().get(0);
        String group = topic + ".group";
        int end = args.first() + args.records();
        try (Admin admin = Admin.create(Map.of("bootstrap.servers", args.bootstrap()))) {
            if (args.first() == 0) {
                Main.create(admin, args, topic);
            }
            Producer<byte[], byte[]> old = producer(args, topic);
            // What the program has left by its last end is aborted by this.
            old.initTransactions();
            old.beginTransaction();
            lose(old, args, topic);
            TransactionDescription ongoing = admin.describeTransactions(List.of(topic)).all().get().get(topic);
            Check.equal(topic + " state", ongoing.state(), TransactionState.ONGOING);
            Check.equal(topic + " partitions", ongoing.topicPartitions().size(), args.partitions());
            try (Producer<byte[], byte[]> producer = producer(args, topic)) {
                producer.initTransactions();
                Check.fails(ProducerFencedException.class, "a commit of an old incarnation", () -> {
                    old.commitTransaction();
                    return null;
                });
                producer.beginTransaction();
                send(producer, args, topic);
                producer.abortTransaction();

                producer.beginTransaction();
                send(producer, args, topic);
                producer.sendOffsetsToTransaction(offsets(args, end), new ConsumerGroupMetadata(group));
                producer.commitTransaction();

                producer.beginTransaction();
                lose(producer, args, topic);
                producer.sendOffsetsToTransaction(offsets(args, 0), new ConsumerGroupMetadata(group));
                producer.abortTransaction();
            } finally {
                old.close(Duration.ZERO);
            }
            read(args, end);
            Check.equal(group, admin.listConsumerGroupOffsets(group).partitionsToOffsetAndMetadata().get(),
                offsets(args, end));
            Check.that(admin.listTransactions().all().get().stream()
                .anyMatch(listed -> listed.transactionalId().equals(topic)), topic, "is not listed");
        }
        // Whoever starts next with its id finds an ongoing transaction, be the broker the same or not.
        Producer<byte[], byte[]> left = producer(args, topic);
        left.initTransactions();
        left.beginTransaction();
        lose(left, args, topic);
        left.close(Duration.ZERO);
    }

    /** Of an input and an output: each record of the one is in the other once, and the group is done with it. */
    static void verify(Arguments args) throws Exception {
        String out = args.topics().get(1);
        read(args.with(List.of(out)), args.records());
        String group = out + ".group";
        try (Admin admin = Admin.create(Map.of("bootstrap.servers", args.bootstrap()))) {
            Map<TopicPartition, OffsetAndMetadata> committed =
                admin.listConsumerGroupOffsets(group).partitionsToOffsetAndMetadata().get();
            for (TopicPartition at : args.with(List.of(args.topics().get(0))).topicPartitions()) {
                Long offset = committed.get(at) == null ? null : committed.get(at).offset();
                Check.equal(group + " in " + at, offset, (long) args.records());
            }
        }
    }

    private static Producer<byte[], byte[]> producer(Arguments args, String id) {
        return Main.producer(args, Map.of(ProducerConfig.TRANSACTIONAL_ID_CONFIG, id));
    }

    private static Map<TopicPartition, OffsetAndMetadata> offsets(Arguments args, long offset) {
        return args.topicPartitions().stream()
            .collect(Collectors.toMap(at -> at, at -> new OffsetAndMetadata(offset)));
    }

    private static void send(Producer<byte[], byte[]> producer, Arguments args, String topic) {
        for (int index = args.first(); index < args.first() + args.records(); index++) {
            for (int partition = 0; partition < args.partitions(); partition++) {
                producer.send(Records.expected(topic, partition, index));
            }
        }
    }

    /** Records that nobody is to see. */
    private static void lose(Producer<byte[], byte[]> producer, Arguments args, String topic) {
        for (int partition = 0; partition < args.partitions(); partition++) {
            producer.send(new ProducerRecord<>(topic, partition, null, "lost".getBytes()));
        }
        producer.flush();
    }

    private static void read(Arguments args, int end) {
        List<TopicPartition> all = args.topicPartitions();
        try (KafkaConsumer<byte[], byte[]> consumer = Main.consumer(args)) {
            consumer.assign(all);
            consumer.seekToBeginning(all);
            Map<TopicPartition, Long> stable = consumer.endOffsets(all);
            Map<Integer, Integer> next = new HashMap<>();
            long deadline = System.nanoTime() + Main.WAIT.toNanos();
            while (all.stream().anyMatch(at -> consumer.position(at) < stable.get(at))) {
                Check.that(System.nanoTime() < deadline, "read only up to", next);
                for (ConsumerRecord<byte[], byte[]> record : consumer.poll(SHORTLY)) {
                    int index = next.merge(record.partition(), 1, Integer::sum) - 1;
                    byte[] want = Records.expected(record.topic(), record.partition(), index).value();
                    Check.that(Arrays.equals(record.value(), want), record.topic(), record.partition(), "has",
                        record, "as record", index);
                }
            }
            for (TopicPartition at : all) {
                Check.equal(at + " records", next.getOrDefault(at.partition(), 0), end);
            }
        }
    }
}
