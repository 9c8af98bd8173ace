package chronik.clients;

import java.util.ArrayList;
import java.util.List;
import org.apache.kafka.common.TopicPartition;

/** The command line that all clients share. */
record Arguments(String command, String bootstrap, int partitions, int first, int records, List<String> topics) {
    static Arguments parse(String[] args) {
        String command = args[0];
        String bootstrap = null;
        int partitions = 1;
        int first = 0;
        int records = 0;
        List<String> topics = new ArrayList<>();
        for (int at = 1; at < args.length; at++) {
            switch (args[at]) {
                case "--bootstrap" -> bootstrap = args[++at];
                case "--partitions" -> partitions = Integer.parseInt(args[++at]);
                case "--first" -> first = Integer.parseInt(args[++at]);
                case "--records" -> records = Integer.parseInt(args[++at]);
                default -> topics.add(args[at]);
            }
        }
        return new Arguments(command, bootstrap, partitions, first, records, topics);
    }

    Arguments with(List<String> otherTopics) {
        return new Arguments(command, bootstrap, partitions, first, records, otherTopics);
    }

    List<TopicPartition> topicPartitions() {
        List<TopicPartition> all = new ArrayList<>();
        for (String topic : topics) {
            for (int partition = 0; partition < partitions; partition++) {
                all.add(new TopicPartition(topic, partition));
            }
        }
        return all;
    }
}
