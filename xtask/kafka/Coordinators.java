import java.time.Duration;
import java.util.ArrayList;
import java.util.Collection;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.Properties;
import java.util.Set;
import java.util.TreeMap;
import java.util.concurrent.Callable;
import java.util.concurrent.ConcurrentHashMap;
import java.util.concurrent.ExecutionException;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.concurrent.Future;
import java.util.concurrent.Semaphore;
import java.util.concurrent.atomic.AtomicBoolean;
import java.util.concurrent.atomic.AtomicLong;
import org.apache.kafka.clients.admin.Admin;
import org.apache.kafka.clients.consumer.ConsumerRebalanceListener;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.clients.consumer.OffsetAndMetadata;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.serialization.ByteArrayDeserializer;
import org.apache.kafka.common.serialization.ByteArraySerializer;

/**
 * What groups and transactions cost, with Java's clients as they ship. One measurement in each run; it prints one line of
 * figures. All of them check what they have measured, and fail when something is missing.
 */
public class Coordinators {
    /** Clients compile their hot paths in this time; nothing counts. */
    static final long WARM_UP_NS = 4_000_000_000L;
    static final Duration POLL = Duration.ofMillis(100);

    static String bootstrap;

    public static void main(String[] args) throws Exception {
        bootstrap = args[1];
        switch (args[0]) {
            case "transactions" -> transactions(args[2], seconds(args[3]), number(args[4]), number(args[5]));
            case "commits" -> commits(args[2], seconds(args[3]), number(args[4]));
            case "fill" -> fill(args[2], number(args[3]), number(args[4]));
            case "read" -> read(args[2], number(args[3]));
            case "rebalance" -> rebalance(args[2], number(args[3]));
            case "groups" -> groups(args[2], number(args[3]));
            default -> throw new IllegalArgumentException(args[0]);
        }
        // Clients' threads that linger do not matter any more.
        System.exit(0);
    }

    /** Producers that begin, send, commit, each for itself: transactions a second. What committed must be there to read. */
    static void transactions(String topic, long ns, int producers, int records) throws Exception {
        AtomicLong all = new AtomicLong(), counted = new AtomicLong();
        long begun = System.nanoTime(), from = begun + WARM_UP_NS, until = from + ns;
        each(producers, i -> {
            Properties more = new Properties();
            more.put("transactional.id", topic + "-" + i);
            try (var producer = producer(more)) {
                producer.initTransactions();
                for (byte[] value = new byte[100];;) {
                    producer.beginTransaction();
                    for (int record = 0; record < records; record++) {
                        producer.send(new ProducerRecord<>(topic, value));
                    }
                    // Kafka's producer (4.3.1) may else send EndTxn before the records of a transaction that is quickly done: its
                    // sender looks for batches, and then for requests, and both can come in between.
                    producer.flush();
                    producer.commitTransaction();
                    all.incrementAndGet();
                    long now = System.nanoTime();
                    if (now >= until) {
                        return null;
                    }
                    if (now >= from) {
                        counted.incrementAndGet();
                    }
                }
            }
        });
        Properties committed = new Properties();
        committed.put("isolation.level", "read_committed");
        try (var consumer = consumer(committed)) {
            var partitions = partitions(consumer, topic);
            consumer.assign(partitions);
            consumer.seekToBeginning(partitions);
            long wanted = all.get() * records, seen = 0, last = System.nanoTime();
            while (seen < wanted) {
                int count = consumer.poll(POLL).count();
                seen += count;
                last = patient(count > 0, last, seen + " of " + wanted + " records");
            }
        }
        System.out.printf("%.1f%n", counted.get() / (ns / 1e9));
    }

    /** Members of one group, each with partitions of its own, that commit and wait for the answer: commits a second. */
    static void commits(String topic, long ns, int members) throws Exception {
        String group = topic + "-" + System.nanoTime();
        AtomicLong counted = new AtomicLong();
        long[] last = new long[members];
        long from = System.nanoTime() + WARM_UP_NS, until = from + ns;
        each(members, i -> {
            try (var consumer = consumer(member(group))) {
                var partition = new TopicPartition(topic, i);
                consumer.assign(List.of(partition));
                for (long offset = 1;; offset++) {
                    consumer.commitSync(Map.of(partition, new OffsetAndMetadata(offset)));
                    last[i] = offset;
                    long now = System.nanoTime();
                    if (now >= until) {
                        return null;
                    }
                    if (now >= from) {
                        counted.incrementAndGet();
                    }
                }
            }
        });
        try (var consumer = consumer(member(group))) {
            for (int i = 0; i < members; i++) {
                var partition = new TopicPartition(topic, i);
                var found = consumer.committed(Set.of(partition)).get(partition);
                check(found != null && found.offset() == last[i], partition + ": " + found + " and not " + last[i]);
            }
        }
        System.out.printf("%.1f%n", counted.get() / (ns / 1e9));
    }

    /** Values of 1 KiB, spread over the partitions. */
    static void fill(String topic, int partitions, int records) throws Exception {
        try (var producer = producer(new Properties())) {
            byte[] value = new byte[1024];
            List<Future<?>> sent = new ArrayList<>();
            for (int i = 0; i < records; i++) {
                sent.add(producer.send(new ProducerRecord<>(topic, i % partitions, null, value)));
            }
            for (var one : sent) {
                one.get();
            }
        }
        System.out.println(records);
    }

    /** A group that reads a topic from its beginning to its end: MB a second from the first record to the last. */
    static void read(String topic, int members) throws Exception {
        long wanted;
        try (var consumer = consumer(new Properties())) {
            wanted = consumer.endOffsets(partitions(consumer, topic)).values().stream().mapToLong(Long::longValue).sum();
        }
        String group = topic + "-" + System.nanoTime();
        AtomicLong seen = new AtomicLong(), bytes = new AtomicLong(), first = new AtomicLong(), last = new AtomicLong();
        Map<TopicPartition, Long> next = new ConcurrentHashMap<>();
        each(members, i -> {
            try (var consumer = consumer(member(group))) {
                consumer.subscribe(List.of(topic));
                long quiet = System.nanoTime();
                while (seen.get() < wanted) {
                    var polled = consumer.poll(POLL);
                    long now = System.nanoTime();
                    if (!polled.isEmpty()) {
                        first.compareAndSet(0, now);
                        last.accumulateAndGet(now, Math::max);
                    }
                    for (ConsumerRecord<byte[], byte[]> record : polled) {
                        var partition = new TopicPartition(topic, record.partition());
                        long expected = next.getOrDefault(partition, 0L);
                        check(record.offset() == expected, partition + ": " + record.offset() + ", not " + expected);
                        next.put(partition, expected + 1);
                        bytes.addAndGet(record.value().length);
                    }
                    seen.addAndGet(polled.count());
                    quiet = patient(!polled.isEmpty() || seen.get() >= wanted, quiet, seen + " of " + wanted + " records");
                }
                return null;
            }
        });
        System.out.printf("%.1f%n", bytes.get() / ((last.get() - first.get()) / 1e9) / (1 << 20));
    }

    /**
     * A group of many: seconds until all partitions are given to all its members when they all come at once, and again
     * when one of them leaves.
     */
    static void rebalance(String topic, int members) throws Exception {
        String group = topic + "-" + System.nanoTime();
        Map<Integer, Set<TopicPartition>> assigned = new ConcurrentHashMap<>();
        var leave = new AtomicBoolean();
        var end = new AtomicBoolean();
        ExecutorService threads = Executors.newCachedThreadPool();
        List<Future<?>> running = new ArrayList<>();
        int partitions;
        try (var consumer = consumer(new Properties())) {
            partitions = consumer.partitionsFor(topic).size();
        }
        long begun = System.nanoTime();
        for (int i = 0; i < members; i++) {
            int me = i;
            running.add(threads.submit(() -> {
                try (var consumer = consumer(member(group))) {
                    consumer.subscribe(List.of(topic), new Assigned(assigned, me));
                    while (!end.get() && !(me == 0 && leave.get())) {
                        consumer.poll(POLL);
                    }
                }
                assigned.remove(me);
                return null;
            }));
        }
        double joined = until(begun, assigned, running, members, partitions);
        leave.set(true);
        long left = System.nanoTime();
        double again = until(left, assigned, running, members - 1, partitions);
        end.set(true);
        for (var one : running) {
            one.get();
        }
        System.out.printf("%.2f %.2f%n", joined, again);
    }

    record Assigned(Map<Integer, Set<TopicPartition>> all, int me) implements ConsumerRebalanceListener {
        public void onPartitionsAssigned(Collection<TopicPartition> partitions) {
            all.put(me, Set.copyOf(partitions));
        }

        public void onPartitionsRevoked(Collection<TopicPartition> partitions) {
            all.remove(me);
        }
    }

    /** Waits until so many members have all partitions among them, each with its share. */
    static double until(
        long begun, Map<Integer, Set<TopicPartition>> assigned, List<Future<?>> running, int members, int partitions
    ) throws Exception {
        while (true) {
            var now = new HashMap<>(assigned);
            long given = now.values().stream().mapToLong(Set::size).sum();
            if (now.size() == members && given == partitions) {
                return (System.nanoTime() - begun) / 1e9;
            }
            patient(false, begun, now.size() + " members with " + given + " partitions");
            for (var one : running) {
                if (one.isDone()) {
                    one.get();
                }
            }
            Thread.sleep(1);
        }
    }

    /** Commits one offset for each of so many groups. */
    static void groups(String topic, int count) throws Exception {
        try (var admin = Admin.create(properties())) {
            var window = new Semaphore(200);
            var failed = new ConcurrentHashMap<String, Throwable>();
            var offset = Map.of(new TopicPartition(topic, 0), new OffsetAndMetadata(1));
            for (int i = 0; i < count; i++) {
                String group = "group-" + i;
                window.acquire();
                admin.alterConsumerGroupOffsets(group, offset).all().whenComplete((ok, error) -> {
                    if (error != null) {
                        failed.put(group, error);
                    }
                    window.release();
                });
            }
            window.acquire(200);
            check(failed.isEmpty(), "failed: " + new TreeMap<>(failed).entrySet().stream().findFirst());
            int found = admin.listGroups().all().get().size();
            check(found >= count, "only " + found + " groups are listed");
        }
        System.out.println(count);
    }

    interface Part {
        Void run(int index) throws Exception;
    }

    static void each(int count, Part part) throws Exception {
        ExecutorService threads = Executors.newFixedThreadPool(count);
        List<Callable<Void>> parts = new ArrayList<>();
        for (int i = 0; i < count; i++) {
            int index = i;
            parts.add(() -> part.run(index));
        }
        var all = threads.invokeAll(parts);
        threads.shutdown();
        for (var done : all) {
            try {
                done.get();
            } catch (ExecutionException e) {
                throw new IllegalStateException(e.getCause());
            }
        }
    }

    /** When something was seen last: now, or before; a minute before at most. */
    static long patient(boolean seen, long last, String what) {
        long now = System.nanoTime();
        check(now - last < 60_000_000_000L, "only " + what);
        return seen ? now : last;
    }

    static void check(boolean holds, String what) {
        if (!holds) {
            throw new IllegalStateException(what);
        }
    }

    static List<TopicPartition> partitions(KafkaConsumer<?, ?> consumer, String topic) {
        return consumer.partitionsFor(topic).stream().map(i -> new TopicPartition(topic, i.partition())).toList();
    }

    static Properties properties() {
        Properties properties = new Properties();
        properties.put("bootstrap.servers", bootstrap);
        return properties;
    }

    static Properties member(String group) {
        Properties properties = new Properties();
        properties.put("group.id", group);
        properties.put("auto.offset.reset", "earliest");
        properties.put("enable.auto.commit", "false");
        return properties;
    }

    static KafkaConsumer<byte[], byte[]> consumer(Properties more) {
        Properties properties = properties();
        properties.putAll(more);
        return new KafkaConsumer<>(properties, new ByteArrayDeserializer(), new ByteArrayDeserializer());
    }

    static KafkaProducer<byte[], byte[]> producer(Properties more) {
        Properties properties = properties();
        properties.putAll(more);
        return new KafkaProducer<>(properties, new ByteArraySerializer(), new ByteArraySerializer());
    }

    static long seconds(String text) {
        return (long) (Double.parseDouble(text) * 1e9);
    }

    static int number(String text) {
        return Integer.parseInt(text);
    }
}
