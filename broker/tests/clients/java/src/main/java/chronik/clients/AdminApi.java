package chronik.clients;

import java.util.Collection;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.stream.Collectors;
import org.apache.kafka.clients.admin.Admin;
import org.apache.kafka.clients.admin.AlterConfigOp;
import org.apache.kafka.clients.admin.Config;
import org.apache.kafka.clients.admin.ConfigEntry;
import org.apache.kafka.clients.admin.CreateTopicsOptions;
import org.apache.kafka.clients.admin.CreateTopicsResult;
import org.apache.kafka.clients.admin.DescribeClusterResult;
import org.apache.kafka.clients.admin.DescribeConfigsOptions;
import org.apache.kafka.clients.admin.NewPartitions;
import org.apache.kafka.clients.admin.NewTopic;
import org.apache.kafka.clients.admin.TopicDescription;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.clients.producer.Producer;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.common.Node;
import org.apache.kafka.common.TopicCollection;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.TopicPartitionInfo;
import org.apache.kafka.common.Uuid;
import org.apache.kafka.common.config.ConfigResource;
import org.apache.kafka.common.errors.InvalidConfigurationException;
import org.apache.kafka.common.errors.InvalidPartitionsException;
import org.apache.kafka.common.errors.InvalidReplicationFactorException;
import org.apache.kafka.common.errors.InvalidTopicException;
import org.apache.kafka.common.errors.RecordTooLargeException;
import org.apache.kafka.common.errors.UnknownTopicIdException;
import org.apache.kafka.common.errors.UnknownTopicOrPartitionException;
import org.apache.kafka.common.record.TimestampType;

/** The Admin API, each call that a single broker serves, and what the altered settings do. */
final class AdminApi {
    private static final String MAX_BYTES = "max.message.bytes";
    private static final String TIMESTAMP_TYPE = "message.timestamp.type";

    private final Arguments args;
    private final Admin admin;
    private final String topic;
    private final ConfigResource resource;

    private AdminApi(Arguments args, Admin admin) {
        this.args = args;
        this.admin = admin;
        this.topic = args.topics().get(0);
        this.resource = new ConfigResource(ConfigResource.Type.TOPIC, topic);
    }

    /** Takes the name of one topic, which it creates and deletes. */
    static void run(Arguments args) throws Exception {
        try (Admin admin = Admin.create(Map.of("bootstrap.servers", args.bootstrap()))) {
            AdminApi it = new AdminApi(args, admin);
            int broker = it.describesCluster();
            Uuid id = it.createsTopics();
            it.describesTopics(id, broker);
            it.refusesBadTopics();
            it.addsPartitions();
            it.describesConfigs(broker);
            it.altersConfigs();
            it.settingsAct();
            it.deletesTopics(id);
        }
    }

    private int describesCluster() throws Exception {
        DescribeClusterResult cluster = admin.describeCluster();
        Check.that(!cluster.clusterId().get().isEmpty(), "no cluster id");
        Collection<Node> nodes = cluster.nodes().get();
        Check.that(!nodes.isEmpty(), "no nodes");
        Check.that(nodes.stream().anyMatch(node -> args.bootstrap().equals(node.host() + ":" + node.port())),
            "bootstrap address", args.bootstrap(), "is not among", nodes);
        Check.that(nodes.contains(cluster.controller().get()), "controller is none of", nodes);
        return nodes.iterator().next().id();
    }

    private Uuid createsTopics() throws Exception {
        NewTopic wanted = new NewTopic(topic, 2, (short) 1)
            .configs(Map.of(TIMESTAMP_TYPE, "LogAppendTime", MAX_BYTES, "200000"));
        admin.createTopics(List.of(wanted), new CreateTopicsOptions().validateOnly(true)).all().get();
        Check.that(!isListed(), "validateOnly created", topic);

        CreateTopicsResult created = admin.createTopics(List.of(wanted));
        Check.equal("partitions", created.numPartitions(topic).get(), 2);
        Check.equal("replication factor", created.replicationFactor(topic).get(), 1);
        Check.equal("config in the answer", created.config(topic).get().get(MAX_BYTES).value(), "200000");
        return created.topicId(topic).get();
    }

    private boolean isListed() throws Exception {
        return admin.listTopics().names().get().contains(topic);
    }

    private TopicDescription describe() throws Exception {
        return admin.describeTopics(List.of(topic)).allTopicNames().get().get(topic);
    }

    private void describesTopics(Uuid id, int broker) throws Exception {
        Check.eventually("listing", this::isListed);
        TopicDescription described = describe();
        Check.equal("topic id", described.topicId(), id);
        Check.equal("partitions", described.partitions().size(), 2);
        for (TopicPartitionInfo partition : described.partitions()) {
            Check.equal("leader", partition.leader().id(), broker);
            Check.equal("replicas", partition.replicas().stream().map(Node::id).toList(), List.of(broker));
            Check.equal("isr", partition.isr().stream().map(Node::id).toList(), List.of(broker));
        }
        TopicCollection ids = TopicCollection.ofTopicIds(List.of(id));
        Check.equal("name by id", admin.describeTopics(ids).allTopicIds().get().get(id).name(), topic);
        TopicCollection unknown = TopicCollection.ofTopicIds(List.of(Uuid.randomUuid()));
        Check.fails(UnknownTopicIdException.class, "describe an unknown id",
            () -> admin.describeTopics(unknown).allTopicIds().get());
    }

    private void refusesBadTopics() {
        Check.fails(InvalidReplicationFactorException.class, "more replicas than brokers",
            () -> admin.createTopics(List.of(new NewTopic(topic + "-r", 1, (short) 100))).all().get());
        Check.fails(InvalidPartitionsException.class, "no partitions",
            () -> admin.createTopics(List.of(new NewTopic(topic + "-p", 0, (short) 1))).all().get());
        Check.fails(InvalidTopicException.class, "a bad name",
            () -> admin.createTopics(List.of(new NewTopic("no spaces allowed", 1, (short) 1))).all().get());
        for (Map<String, String> config : List.of(Map.of("no.such.setting", "1"), Map.of(MAX_BYTES, "many"))) {
            NewTopic bad = new NewTopic(topic + "-c", 1, (short) 1).configs(config);
            Check.fails(InvalidConfigurationException.class, "create with " + config,
                () -> admin.createTopics(List.of(bad)).all().get());
        }
    }

    private void addsPartitions() throws Exception {
        admin.createPartitions(Map.of(topic, NewPartitions.increaseTo(3))).all().get();
        Check.eventually("a third partition", () -> describe().partitions().size() == 3);
        Check.fails(InvalidPartitionsException.class, "fewer partitions",
            () -> admin.createPartitions(Map.of(topic, NewPartitions.increaseTo(1))).all().get());
        Check.fails(UnknownTopicOrPartitionException.class, "partitions for an unknown topic",
            () -> admin.createPartitions(Map.of(topic + "-none", NewPartitions.increaseTo(1))).all().get());
    }

    private Config config(ConfigResource of) throws Exception {
        DescribeConfigsOptions all = new DescribeConfigsOptions().includeSynonyms(true).includeDocumentation(true);
        return admin.describeConfigs(List.of(of), all).all().get().get(of);
    }

    private void describesConfigs(int broker) throws Exception {
        ConfigEntry set = config(resource).get(MAX_BYTES);
        Check.equal("value", set.value(), "200000");
        Check.equal("source", set.source(), ConfigEntry.ConfigSource.DYNAMIC_TOPIC_CONFIG);
        Check.equal("type", set.type(), ConfigEntry.ConfigType.INT);
        Check.that(set.documentation() != null && !set.documentation().isEmpty(), "no documentation");
        Check.equal("first synonym", set.synonyms().get(0).name(), MAX_BYTES);
        ConfigEntry unset = config(resource).get("min.insync.replicas");
        Check.equal("default", unset.value(), "1");
        Check.that(unset.source() != ConfigEntry.ConfigSource.DYNAMIC_TOPIC_CONFIG, "set by whom?", unset);

        ConfigResource ofBroker = new ConfigResource(ConfigResource.Type.BROKER, Integer.toString(broker));
        Check.that(config(ofBroker).get("num.partitions") != null, "the broker's config lacks num.partitions");
        Check.fails(UnknownTopicOrPartitionException.class, "config of an unknown topic",
            () -> config(new ConfigResource(ConfigResource.Type.TOPIC, topic + "-none")));
    }

    private void alter(String name, String value, AlterConfigOp.OpType how) throws Exception {
        AlterConfigOp op = new AlterConfigOp(new ConfigEntry(name, value), how);
        admin.incrementalAlterConfigs(Map.of(resource, List.of(op))).all().get();
    }

    private void altersConfigs() throws Exception {
        alter(MAX_BYTES, "50000", AlterConfigOp.OpType.SET);
        Check.eventually("altering", () -> config(resource).get(MAX_BYTES).value().equals("50000"));
        alter(MAX_BYTES, null, AlterConfigOp.OpType.DELETE);
        Check.eventually("back to the default", () -> config(resource).get(MAX_BYTES).value().equals("1048588"));
        ConfigEntry unset = config(resource).get(MAX_BYTES);
        Check.that(unset.source() != ConfigEntry.ConfigSource.DYNAMIC_TOPIC_CONFIG, "still set:", unset);
        Check.equal("left alone", config(resource).get(TIMESTAMP_TYPE).value(), "LogAppendTime");
        Check.fails(InvalidConfigurationException.class, "an unknown setting",
            () -> { alter("no.such.setting", "1", AlterConfigOp.OpType.SET); return "nothing"; });
        Check.fails(InvalidConfigurationException.class, "a bad value",
            () -> { alter(MAX_BYTES, "-7", AlterConfigOp.OpType.SET); return "nothing"; });
        alter(MAX_BYTES, "50000", AlterConfigOp.OpType.SET);
        Check.eventually("altering", () -> config(resource).get(MAX_BYTES).value().equals("50000"));
    }

    /** LogAppendTime and max.message.bytes, as set above. */
    private void settingsAct() throws Exception {
        TopicPartition at = new TopicPartition(topic, 2);
        try (Producer<byte[], byte[]> producer = Main.producer(args, Map.of());
             KafkaConsumer<byte[], byte[]> consumer = Main.consumer(args)) {
            Check.fails(RecordTooLargeException.class, "a record over " + MAX_BYTES,
                () -> producer.send(new ProducerRecord<>(topic, 2, null, new byte[100_000])).get());
            long before = System.currentTimeMillis();
            long acked = producer.send(new ProducerRecord<>(topic, 2, 1L, null, new byte[10])).get().timestamp();
            long after = System.currentTimeMillis();

            consumer.assign(Set.of(at));
            consumer.seek(at, 0);
            List<ConsumerRecord<byte[], byte[]>> polled = consumer.poll(Main.WAIT).records(at);
            Check.equal("records", polled.stream().map(ConsumerRecord::offset).collect(Collectors.toList()),
                List.of(0L));
            ConsumerRecord<byte[], byte[]> read = polled.get(0);
            Check.equal("timestamp type", read.timestampType(), TimestampType.LOG_APPEND_TIME);
            Check.that(before <= read.timestamp() && read.timestamp() <= after, "appended at", read.timestamp(),
                "not within", before, after);
            Check.equal("timestamp in the acknowledgement", acked, read.timestamp());
        }
    }

    private void deletesTopics(Uuid id) throws Exception {
        admin.deleteTopics(List.of(topic)).all().get();
        Check.eventually("deletion", () -> !isListed());
        Check.fails(UnknownTopicOrPartitionException.class, "describe a deleted topic", this::describe);
        Check.fails(UnknownTopicOrPartitionException.class, "delete it again",
            () -> admin.deleteTopics(List.of(topic)).all().get());

        // A topic of the same name is another topic: new id, no records. Deleted by id.
        NewTopic again = new NewTopic(topic, 3, (short) 1);
        Uuid newId = admin.createTopics(List.of(again)).topicId(topic).get();
        Check.that(!newId.equals(id), "the same topic id again");
        try (KafkaConsumer<byte[], byte[]> consumer = Main.consumer(args)) {
            TopicPartition at = new TopicPartition(topic, 2);
            Check.equal("end offset", new HashMap<>(consumer.endOffsets(Set.of(at))), Map.of(at, 0L));
        }
        admin.deleteTopics(TopicCollection.ofTopicIds(List.of(newId))).all().get();
        Check.eventually("deletion", () -> !isListed());
    }
}
