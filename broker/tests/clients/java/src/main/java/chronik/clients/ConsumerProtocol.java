package chronik.clients;

import java.util.Collection;
import java.util.HashMap;
import java.util.HashSet;
import java.util.List;
import java.util.Map;
import java.util.Optional;
import java.util.Set;
import java.util.concurrent.ExecutionException;
import java.util.function.BooleanSupplier;
import org.apache.kafka.clients.admin.Admin;
import org.apache.kafka.clients.admin.AlterConfigOp;
import org.apache.kafka.clients.admin.ConfigEntry;
import org.apache.kafka.clients.admin.ConsumerGroupDescription;
import org.apache.kafka.clients.admin.ListConfigResourcesOptions;
import org.apache.kafka.clients.admin.ListGroupsOptions;
import org.apache.kafka.clients.admin.MemberDescription;
import org.apache.kafka.clients.consumer.CloseOptions;
import org.apache.kafka.clients.consumer.ConsumerConfig;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.clients.consumer.OffsetAndMetadata;
import org.apache.kafka.clients.consumer.SubscriptionPattern;
import org.apache.kafka.common.GroupState;
import org.apache.kafka.common.GroupType;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.config.ConfigResource;
import org.apache.kafka.common.errors.GroupIdNotFoundException;
import org.apache.kafka.common.errors.GroupNotEmptyException;
import org.apache.kafka.common.errors.InvalidConfigurationException;
import org.apache.kafka.common.serialization.ByteArrayDeserializer;

/** Consumers of groups of the new protocol (KIP-848): the coordinator shares out the partitions. */
final class ConsumerProtocol {
    private ConsumerProtocol() {}

    static void run(Arguments args) throws Exception {
        String topic = args.topics().get(0);
        String group = topic + ".consumer";
        Groups.goOn(args, topic, group, member(args, group, Map.of()));
        describe(args, group);
        if (args.first() == 0) {
            share(args, topic, topic + ".consumer.shared");
            byPattern(args, topic, topic + ".consumer.pattern");
            migrate(args, topic, topic + ".consumer.migrated");
            settings(args, topic + ".consumer.settings");
        }
    }

    private static KafkaConsumer<byte[], byte[]> member(Arguments args, String group, Map<String, Object> more) {
        Map<String, Object> settings = new HashMap<>(Map.of(
            ConsumerConfig.BOOTSTRAP_SERVERS_CONFIG, args.bootstrap(),
            ConsumerConfig.GROUP_ID_CONFIG, group,
            ConsumerConfig.GROUP_PROTOCOL_CONFIG, "consumer",
            ConsumerConfig.ENABLE_AUTO_COMMIT_CONFIG, false,
            ConsumerConfig.AUTO_OFFSET_RESET_CONFIG, "earliest"));
        settings.putAll(more);
        return new KafkaConsumer<>(settings, new ByteArrayDeserializer(), new ByteArrayDeserializer());
    }

    /** Three members, one of them static and one with another assignor's name, share the partitions; who stays gets all. */
    private static void share(Arguments args, String topic, String group) throws Exception {
        Set<TopicPartition> all = new HashSet<>(args.topicPartitions());
        try (KafkaConsumer<byte[], byte[]> one = member(args, group, Map.of());
            Admin admin = Admin.create(Map.of("bootstrap.servers", args.bootstrap()))) {
            one.subscribe(List.of(topic));
            until(List.of(one), "the first member has not got all", () -> one.assignment().equals(all));
            try (KafkaConsumer<byte[], byte[]> named =
                    member(args, group, Map.of(ConsumerConfig.GROUP_INSTANCE_ID_CONFIG, "static"));
                KafkaConsumer<byte[], byte[]> ranged =
                    member(args, group, Map.of(ConsumerConfig.GROUP_REMOTE_ASSIGNOR_CONFIG, "range"))) {
                List<KafkaConsumer<byte[], byte[]>> three = List.of(one, named, ranged);
                named.subscribe(List.of(topic));
                ranged.subscribe(List.of(topic));
                until(three, "the three do not share", () -> Groups.share(three, all));
                named.commitSync(Map.of(named.assignment().iterator().next(), new OffsetAndMetadata(7)), Main.WAIT);
                Check.fails(GroupNotEmptyException.class, "deleting a group with members",
                    () -> admin.deleteConsumerGroups(List.of(group)).all().get());
                // The last move is told to the coordinator by a heartbeat of its own.
                Check.eventually(group + " is stable",
                    () -> described(admin, group).groupState() == GroupState.STABLE);
                ConsumerGroupDescription described = described(admin, group);
                Check.equal(group + " members", described.members().size(), 3);
                for (MemberDescription member : described.members()) {
                    Check.equal(member.consumerId() + " target", member.targetAssignment().orElse(null),
                        member.assignment());
                    Check.equal(member.consumerId() + " upgraded", member.upgraded().orElse(null), true);
                }
                Check.that(described.members().stream()
                    .anyMatch(member -> member.groupInstanceId().equals(Optional.of("static"))),
                    group, "has no static member", described.members());
                // A static member that closes stays a member, unless it says that it leaves.
                named.close(CloseOptions.groupMembershipOperation(CloseOptions.GroupMembershipOperation.LEAVE_GROUP));
            }
            until(List.of(one), "what was the others' is nobody's", () -> one.assignment().equals(all));
        }
    }

    /** The coordinator knows the topics that match a regular expression (RE2), and those that come later. */
    private static void byPattern(Arguments args, String topic, String group) throws Exception {
        Set<TopicPartition> all = new HashSet<>(args.topicPartitions());
        String later = topic + ".later";
        try (KafkaConsumer<byte[], byte[]> one = member(args, group, Map.of());
            Admin admin = Admin.create(Map.of("bootstrap.servers", args.bootstrap()))) {
            one.subscribe(new SubscriptionPattern(topic.replace(".", "\\.") + "(\\.later)?"));
            until(List.of(one), "the pattern does not find the topic", () -> one.assignment().equals(all));
            Main.create(admin, args, later);
            for (int partition = 0; partition < args.partitions(); partition++) {
                all.add(new TopicPartition(later, partition));
            }
            until(List.of(one), "the pattern does not find the later topic", () -> one.assignment().equals(all));
        }
    }

    /** A classic group goes over to the new protocol while it has members, and back. */
    private static void migrate(Arguments args, String topic, String group) throws Exception {
        Set<TopicPartition> all = new HashSet<>(args.topicPartitions());
        Map<String, Object> classic = Map.of(ConsumerConfig.GROUP_PROTOCOL_CONFIG, "classic",
            ConsumerConfig.HEARTBEAT_INTERVAL_MS_CONFIG, 200);
        try (Admin admin = Admin.create(Map.of("bootstrap.servers", args.bootstrap()));
            KafkaConsumer<byte[], byte[]> old = member(args, group, classic)) {
            old.subscribe(List.of(topic));
            until(List.of(old), "the classic member has not got all", () -> old.assignment().equals(all));
            Check.equal(group + " type", described(admin, group).type(), GroupType.CLASSIC);
            try (KafkaConsumer<byte[], byte[]> young = member(args, group, Map.of())) {
                young.subscribe(List.of(topic));
                List<KafkaConsumer<byte[], byte[]>> both = List.of(old, young);
                until(both, "the old and the new member do not share", () -> Groups.share(both, all));
                ConsumerGroupDescription described = described(admin, group);
                Check.equal(group + " type", described.type(), GroupType.CONSUMER);
                Check.equal(group + " members that are upgraded", described.members().stream()
                    .filter(member -> member.upgraded().orElse(false)).count(), 1L);
            }
            until(List.of(old), "what was the new member's is nobody's", () -> old.assignment().equals(all));
            Check.equal(group + " type", described(admin, group).type(), GroupType.CLASSIC);
        }
    }

    /** Group settings, which need no group that is there. */
    private static void settings(Arguments args, String group) throws Exception {
        ConfigResource resource = new ConfigResource(ConfigResource.Type.GROUP, group);
        String name = "consumer.heartbeat.interval.ms";
        try (Admin admin = Admin.create(Map.of("bootstrap.servers", args.bootstrap()))) {
            alter(admin, resource, name, "6000");
            Check.eventually(group + " " + name, () -> {
                ConfigEntry entry = admin.describeConfigs(List.of(resource)).all().get().get(resource).get(name);
                return entry.value().equals("6000") && entry.source() == ConfigEntry.ConfigSource.DYNAMIC_GROUP_CONFIG;
            });
            Check.that(admin.listConfigResources(Set.of(ConfigResource.Type.GROUP),
                new ListConfigResourcesOptions()).all().get().contains(resource),
                group, "is not among the groups with settings");
            Check.fails(InvalidConfigurationException.class, "a heartbeat interval below the broker's least", () -> {
                alter(admin, resource, name, "1");
                return null;
            });
        }
    }

    private static void alter(Admin admin, ConfigResource resource, String name, String value)
        throws InterruptedException, ExecutionException {
        AlterConfigOp op = new AlterConfigOp(new ConfigEntry(name, value), AlterConfigOp.OpType.SET);
        admin.incrementalAlterConfigs(Map.of(resource, List.of(op))).all().get();
    }

    private static ConsumerGroupDescription described(Admin admin, String group)
        throws InterruptedException, ExecutionException {
        return admin.describeConsumerGroups(List.of(group)).all().get().get(group);
    }

    private static void until(
        Collection<KafkaConsumer<byte[], byte[]>> members, String complaint, BooleanSupplier condition) {
        // Moves go by heartbeats, which the coordinator wants five seconds apart.
        Groups.until(Main.WAIT.multipliedBy(2), members, complaint, condition);
    }

    /** What the Admin API says of a group whose members have left, and does to another. */
    private static void describe(Arguments args, String group) throws Exception {
        int end = args.first() + args.records();
        try (Admin admin = Admin.create(Map.of("bootstrap.servers", args.bootstrap()))) {
            ConsumerGroupDescription described = described(admin, group);
            Check.equal(group + " members", described.members().size(), 0);
            Check.equal(group + " state", described.groupState(), GroupState.EMPTY);
            Check.equal(group + " type", described.type(), GroupType.CONSUMER);
            Check.that(admin.listGroups(new ListGroupsOptions().withTypes(Set.of(GroupType.CONSUMER))).all().get()
                .stream().anyMatch(listed -> listed.groupId().equals(group)), group, "is not listed");
            Map<TopicPartition, OffsetAndMetadata> offsets =
                admin.listConsumerGroupOffsets(group).partitionsToOffsetAndMetadata().get();
            for (TopicPartition at : args.topicPartitions()) {
                Check.equal(at + " offset", offsets.get(at).offset(), (long) end);
                Check.equal(at + " metadata", offsets.get(at).metadata(), "of " + at.partition());
            }
            Check.fails(GroupIdNotFoundException.class, "describing a group that is not there",
                () -> described(admin, group + ".none"));
        }
    }
}
