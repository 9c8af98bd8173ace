package chronik.clients;

import java.time.Duration;
import java.util.List;
import java.util.Map;
import java.util.TreeSet;
import java.util.stream.Collectors;
import org.apache.kafka.clients.consumer.CommitFailedException;
import org.apache.kafka.clients.consumer.ConsumerConfig;
import org.apache.kafka.clients.consumer.ConsumerRecords;
import org.apache.kafka.clients.consumer.CooperativeStickyAssignor;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.clients.consumer.RangeAssignor;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.errors.RebalanceInProgressException;
import org.apache.kafka.common.serialization.ByteArrayDeserializer;

/** A member that says what it is assigned and what it takes, until it is asked to leave. */
final class Members {
    private Members() {}

    static void run(Arguments args) {
        String group = args.topics().get(1);
        Map<String, Object> settings = Map.of(
            ConsumerConfig.BOOTSTRAP_SERVERS_CONFIG, args.bootstrap(),
            ConsumerConfig.GROUP_ID_CONFIG, group,
            ConsumerConfig.GROUP_PROTOCOL_CONFIG, "classic",
            ConsumerConfig.PARTITION_ASSIGNMENT_STRATEGY_CONFIG,
                (group.endsWith(".range") ? RangeAssignor.class : CooperativeStickyAssignor.class).getName(),
            ConsumerConfig.SESSION_TIMEOUT_MS_CONFIG, 6000,
            ConsumerConfig.HEARTBEAT_INTERVAL_MS_CONFIG, 200,
            ConsumerConfig.ENABLE_AUTO_COMMIT_CONFIG, false,
            ConsumerConfig.AUTO_OFFSET_RESET_CONFIG, "earliest");
        Termination.handle();
        try (KafkaConsumer<byte[], byte[]> consumer =
                new KafkaConsumer<>(settings, new ByteArrayDeserializer(), new ByteArrayDeserializer())) {
            consumer.subscribe(List.of(args.topics().get(0)));
            String said = null;
            while (!Termination.asked()) {
                ConsumerRecords<byte[], byte[]> polled = consumer.poll(Duration.ofMillis(100));
                String assigned = new TreeSet<>(consumer.assignment().stream().map(TopicPartition::partition).toList())
                    .stream().map(partition -> " " + partition).collect(Collectors.joining("", "assigned", ""));
                if (!assigned.equals(said)) {
                    System.out.println(assigned);
                    said = assigned;
                }
                polled.forEach(record -> System.out.println("took " + record.partition() + " " + record.offset()));
                try {
                    if (!polled.isEmpty()) {
                        consumer.commitSync();
                    }
                } catch (CommitFailedException | RebalanceInProgressException error) {
                    // Who has the partition next takes the records again.
                    System.out.println("not committed: " + error);
                }
            }
        }
    }
}
