package chronik.clients;

import java.time.Duration;
import java.util.Collection;
import java.util.HashMap;
import java.util.HashSet;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.function.BooleanSupplier;
import java.util.stream.Collectors;
import org.apache.kafka.clients.admin.Admin;
import org.apache.kafka.clients.admin.ConsumerGroupDescription;
import org.apache.kafka.clients.admin.ListGroupsOptions;
import org.apache.kafka.clients.consumer.ConsumerConfig;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.clients.consumer.OffsetAndMetadata;
import org.apache.kafka.common.ClassicGroupState;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.errors.GroupIdNotFoundException;
import org.apache.kafka.common.errors.GroupNotEmptyException;
import org.apache.kafka.common.serialization.ByteArrayDeserializer;

/** Consumers of classic groups: they go on where their group has come to, and share its partitions. */
final class Groups {
    private static final Duration SHORTLY = Duration.ofMillis(100);

    private Groups() {}

    static void run(Arguments args) throws Exception {
        String topic = args.topics().get(0);
        String group = topic + ".group";
        goOn(args, topic, group, member(args, group, null));
        if (args.first() == 0) {
            share(args, topic, topic + ".shared");
        }
        describe(args, topic, group);
    }

    private static KafkaConsumer<byte[], byte[]> member(Arguments args, String group, String instance) {
        Map<String, Object> settings = new HashMap<>(Map.of(
            ConsumerConfig.BOOTSTRAP_SERVERS_CONFIG, args.bootstrap(),
            ConsumerConfig.GROUP_ID_CONFIG, group,
            ConsumerConfig.GROUP_PROTOCOL_CONFIG, "classic",
            ConsumerConfig.ENABLE_AUTO_COMMIT_CONFIG, false,
            ConsumerConfig.AUTO_OFFSET_RESET_CONFIG, "earliest",
            // Short, so that nobody waits long for a rebalance.
            ConsumerConfig.HEARTBEAT_INTERVAL_MS_CONFIG, 200));
        if (instance != null) {
            settings.put(ConsumerConfig.GROUP_INSTANCE_ID_CONFIG, instance);
        }
        return new KafkaConsumer<>(settings, new ByteArrayDeserializer(), new ByteArrayDeserializer());
    }

    /** A member reads what is new since its group's last commit, commits it, and leaves. */
    static void goOn(Arguments args, String topic, String group, KafkaConsumer<byte[], byte[]> member) {
        int end = args.first() + args.records();
        Set<TopicPartition> all = new HashSet<>(args.topicPartitions());
        try (member) {
            Map<TopicPartition, OffsetAndMetadata> before = member.committed(all, Main.WAIT);
            for (TopicPartition at : all) {
                Long offset = before.get(at) == null ? null : before.get(at).offset();
                Check.equal(at + " committed", offset, args.first() == 0 ? null : Long.valueOf(args.first()));
            }
            member.subscribe(List.of(topic));
            Map<Integer, Integer> next = new HashMap<>();
            all.forEach(at -> next.put(at.partition(), args.first()));
            long deadline = System.nanoTime() + Main.WAIT.toNanos();
            while (member.assignment().size() < all.size() || next.values().stream().anyMatch(n -> n < end)) {
                Check.that(System.nanoTime() < deadline, group, "has come only to", next);
                for (ConsumerRecord<byte[], byte[]> record : member.poll(SHORTLY)) {
                    Records.compare(record, next.get(record.partition()));
                    next.merge(record.partition(), 1, Integer::sum);
                }
            }
            Map<TopicPartition, OffsetAndMetadata> commit = all.stream().collect(
                Collectors.toMap(at -> at, at -> new OffsetAndMetadata(end, "of " + at.partition())));
            member.commitSync(commit, Main.WAIT);
            Check.equal("committed", member.committed(all, Main.WAIT), commit);
        }
    }

    /** Two members, one of them static, share the partitions; who stays gets those of who leaves. */
    private static void share(Arguments args, String topic, String group) {
        Set<TopicPartition> all = new HashSet<>(args.topicPartitions());
        try (KafkaConsumer<byte[], byte[]> one = member(args, group, null)) {
            one.subscribe(List.of(topic));
            until(Main.WAIT, List.of(one), "the first member has not got all", () -> one.assignment().equals(all));
            try (KafkaConsumer<byte[], byte[]> other = member(args, group, "static")) {
                other.subscribe(List.of(topic));
                List<KafkaConsumer<byte[], byte[]>> both = List.of(one, other);
                until(Main.WAIT, both, "the two do not share", () -> share(both, all));
                other.commitSync(Map.of(other.assignment().iterator().next(), new OffsetAndMetadata(7)), Main.WAIT);
                // A static member that closes does not leave: as a dynamic one it does.
                other.unsubscribe();
            }
            try (Admin admin = Admin.create(Map.of("bootstrap.servers", args.bootstrap()))) {
                Check.fails(GroupNotEmptyException.class, "deleting a group with members",
                    () -> admin.deleteConsumerGroups(List.of(group)).all().get());
                admin.removeMembersFromConsumerGroup(group,
                    new org.apache.kafka.clients.admin.RemoveMembersFromConsumerGroupOptions(
                        List.of(new org.apache.kafka.clients.admin.MemberToRemove("static")))).all().get();
            } catch (InterruptedException | java.util.concurrent.ExecutionException error) {
                throw new Check.Mismatch("removing the static member: " + error.getCause(), error);
            }
            until(Main.WAIT, List.of(one), "what was the other's is nobody's", () -> one.assignment().equals(all));
        }
    }

    /** Whether the members have all partitions among them, each its share. */
    static boolean share(Collection<KafkaConsumer<byte[], byte[]>> members, Set<TopicPartition> all) {
        Set<TopicPartition> together = new HashSet<>();
        int count = 0;
        for (KafkaConsumer<byte[], byte[]> member : members) {
            together.addAll(member.assignment());
            count += member.assignment().size();
        }
        return together.equals(all) && count == all.size()
            && members.stream().noneMatch(member -> member.assignment().isEmpty());
    }

    static void until(
        Duration within, Collection<KafkaConsumer<byte[], byte[]>> members, String complaint, BooleanSupplier condition) {
        long deadline = System.nanoTime() + within.toNanos();
        while (!condition.getAsBoolean()) {
            Check.that(System.nanoTime() < deadline, complaint,
                members.stream().map(KafkaConsumer::assignment).toList());
            members.forEach(member -> member.poll(SHORTLY));
        }
    }

    /** What the Admin API says of groups, and does to them. */
    private static void describe(Arguments args, String topic, String group) throws Exception {
        int end = args.first() + args.records();
        try (Admin admin = Admin.create(Map.of("bootstrap.servers", args.bootstrap()))) {
            ConsumerGroupDescription described = admin.describeConsumerGroups(List.of(group)).all().get().get(group);
            Check.equal(group + " members", described.members().size(), 0);
            Check.that(admin.listGroups(ListGroupsOptions.forConsumerGroups()).all().get().stream()
                .anyMatch(listed -> listed.groupId().equals(group)), group, "is not listed");
            Check.equal(group + " state",
                admin.describeClassicGroups(List.of(group)).all().get().get(group).state(), ClassicGroupState.EMPTY);
            Map<TopicPartition, OffsetAndMetadata> offsets =
                admin.listConsumerGroupOffsets(group).partitionsToOffsetAndMetadata().get();
            for (TopicPartition at : args.topicPartitions()) {
                Check.equal(at + " offset", offsets.get(at).offset(), (long) end);
                Check.equal(at + " metadata", offsets.get(at).metadata(), "of " + at.partition());
            }
            String other = group + ".altered";
            TopicPartition at = new TopicPartition(topic, 0);
            admin.alterConsumerGroupOffsets(other, Map.of(at, new OffsetAndMetadata(1))).all().get();
            admin.deleteConsumerGroupOffsets(other, Set.of(at)).all().get();
            admin.alterConsumerGroupOffsets(other, Map.of(at, new OffsetAndMetadata(2))).all().get();
            admin.deleteConsumerGroups(List.of(other)).all().get();
            Check.fails(GroupIdNotFoundException.class, "describing a deleted group",
                () -> admin.describeConsumerGroups(List.of(other)).all().get());
        }
    }
}
