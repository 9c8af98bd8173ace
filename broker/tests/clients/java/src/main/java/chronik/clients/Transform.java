package chronik.clients;

import java.time.Duration;
import java.util.Comparator;
import java.util.List;
import java.util.Map;
import java.util.TreeMap;
import org.apache.kafka.clients.consumer.ConsumerConfig;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.consumer.ConsumerRecords;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.clients.consumer.OffsetAndMetadata;
import org.apache.kafka.clients.producer.Producer;
import org.apache.kafka.clients.producer.ProducerConfig;
import org.apache.kafka.common.KafkaException;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.serialization.ByteArrayDeserializer;

/** Consumes, transforms and produces in transactions, as one of the members of a group, until it is asked to stop. */
final class Transform {
    /** So that many transactions are needed. */
    private static final int RECORDS_AT_ONCE = 10;

    private final Arguments args;
    private final String out;
    private final String id;
    private final KafkaConsumer<byte[], byte[]> consumer;
    private Producer<byte[], byte[]> producer;

    private Transform(Arguments args, KafkaConsumer<byte[], byte[]> consumer) {
        this.args = args;
        this.out = args.topics().get(1);
        this.id = out + "." + args.topics().get(2);
        this.consumer = consumer;
        this.producer = newProducer();
    }

    static void run(Arguments args) {
        Map<String, Object> settings = Map.of(
            ConsumerConfig.BOOTSTRAP_SERVERS_CONFIG, args.bootstrap(),
            ConsumerConfig.GROUP_ID_CONFIG, args.topics().get(1) + ".group",
            ConsumerConfig.GROUP_PROTOCOL_CONFIG, "classic",
            ConsumerConfig.SESSION_TIMEOUT_MS_CONFIG, 6000,
            ConsumerConfig.HEARTBEAT_INTERVAL_MS_CONFIG, 200,
            ConsumerConfig.MAX_POLL_RECORDS_CONFIG, RECORDS_AT_ONCE,
            ConsumerConfig.ISOLATION_LEVEL_CONFIG, "read_committed",
            ConsumerConfig.ENABLE_AUTO_COMMIT_CONFIG, false,
            ConsumerConfig.AUTO_OFFSET_RESET_CONFIG, "earliest");
        Termination.handle();
        try (KafkaConsumer<byte[], byte[]> consumer =
                new KafkaConsumer<>(settings, new ByteArrayDeserializer(), new ByteArrayDeserializer())) {
            consumer.subscribe(List.of(args.topics().get(0)));
            Transform transform = new Transform(args, consumer);
            while (!Termination.asked()) {
                transform.once(consumer.poll(Duration.ofMillis(100)));
            }
            transform.producer.close();
        }
    }

    private Producer<byte[], byte[]> newProducer() {
        Producer<byte[], byte[]> made = Main.producer(args, Map.of(
            ProducerConfig.TRANSACTIONAL_ID_CONFIG, id, ProducerConfig.TRANSACTION_TIMEOUT_CONFIG, 10_000));
        made.initTransactions();
        return made;
    }

    private void once(ConsumerRecords<byte[], byte[]> polled) {
        if (polled.isEmpty()) {
            return;
        }
        Map<TopicPartition, OffsetAndMetadata> offsets = new TreeMap<>(
            Comparator.comparingInt(TopicPartition::partition));
        try {
            producer.beginTransaction();
            for (ConsumerRecord<byte[], byte[]> record : polled) {
                int index = Math.toIntExact(record.offset());
                Records.compare(record, index);
                producer.send(Records.expected(out, record.partition(), index));
                TopicPartition at = new TopicPartition(record.topic(), record.partition());
                offsets.put(at, new OffsetAndMetadata(record.offset() + 1));
            }
            producer.sendOffsetsToTransaction(offsets, consumer.groupMetadata());
            producer.commitTransaction();
        } catch (KafkaException error) {
            System.out.println("not committed: " + error);
            startOver();
            return;
        }
        StringBuilder said = new StringBuilder("committed");
        offsets.forEach((at, next) -> said.append(" ").append(at.partition()).append(" ").append(next.offset()));
        System.out.println(said);
    }

    /** From what is committed, be the transaction aborted by us or by another incarnation. */
    private void startOver() {
        try {
            producer.abortTransaction();
        } catch (KafkaException fatal) {
            producer.close(Duration.ZERO);
            producer = newProducer();
        }
        consumer.committed(consumer.assignment(), Main.WAIT).forEach((at, offset) -> {
            if (offset == null) {
                consumer.seekToBeginning(List.of(at));
            } else {
                consumer.seek(at, offset);
            }
        });
    }
}
