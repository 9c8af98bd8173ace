import java.time.Duration;
import java.util.List;
import java.util.Map;
import java.util.Properties;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.consumer.ConsumerRecords;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.common.PartitionInfo;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.serialization.ByteArrayDeserializer;

/**
 * Reads a topic from its beginning to its present end with Java's consumer as it ships, all partitions by assignment, and says
 * how long that took. Every offset must be there, and every value must have the expected length.
 */
public class ReadBack {
    public static void main(String[] args) {
        String bootstrap = args[0], topic = args[1];
        int length = Integer.parseInt(args[2]);
        Properties properties = new Properties();
        properties.put("bootstrap.servers", bootstrap);
        try (var consumer = new KafkaConsumer<>(properties, new ByteArrayDeserializer(), new ByteArrayDeserializer())) {
            List<TopicPartition> partitions = consumer.partitionsFor(topic).stream()
                .map((PartitionInfo info) -> new TopicPartition(topic, info.partition()))
                .toList();
            Map<TopicPartition, Long> ends = consumer.endOffsets(partitions);
            long wanted = ends.values().stream().mapToLong(Long::longValue).sum();
            consumer.assign(partitions);
            consumer.seekToBeginning(partitions);
            long begun = System.nanoTime(), last = begun, records = 0, bytes = 0;
            long[] next = new long[partitions.size()];
            while (records < wanted) {
                ConsumerRecords<byte[], byte[]> polled = consumer.poll(Duration.ofSeconds(1));
                for (ConsumerRecord<byte[], byte[]> record : polled) {
                    if (record.offset() != next[record.partition()]++ || record.value().length != length) {
                        throw new IllegalStateException("unexpected: " + record);
                    }
                    bytes += record.value().length;
                    records++;
                }
                long now = System.nanoTime();
                last = polled.isEmpty() ? last : now;
                if (now - last > 60_000_000_000L) {
                    throw new IllegalStateException("only " + records + " of " + wanted + " records");
                }
            }
            double seconds = (System.nanoTime() - begun) / 1e9;
            System.out.printf("%d records, %.3f s, %.2f MB/sec%n", records, seconds, bytes / seconds / (1024 * 1024));
        }
    }
}
