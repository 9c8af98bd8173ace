package main

import (
	"context"
	"fmt"

	"chronik.example/clients/common"
	"github.com/IBM/sarama"
)

// adminAPI is the Admin API in the versions that sarama has.
func adminAPI(_ context.Context, args common.Arguments) error {
	topic := args.Topics[0]
	return connected(args, newConfig(), func(client sarama.Client, admin sarama.ClusterAdmin) error {
		setting := func(name, want string) error {
			entries, err := admin.DescribeConfig(sarama.ConfigResource{
				Type: sarama.TopicResource, Name: topic, ConfigNames: []string{name},
			})
			if err != nil || len(entries) != 1 || entries[0].Name != name || entries[0].Value != want {
				return fmt.Errorf("%s is %+v, expected %s; %v", name, entries, want, err)
			}
			return nil
		}
		large, small := "60000", "50000"
		created := map[string]*string{"max.message.bytes": &large}
		altered := map[string]*string{"segment.bytes": ptr("1048576"), "max.message.bytes": &small}
		incremental := map[string]sarama.IncrementalAlterConfigsEntry{
			"max.message.bytes": {Operation: sarama.IncrementalAlterConfigsOperationSet, Value: &large},
		}
		steps := []func() error{
			func() error {
				return admin.CreateTopic(topic, &sarama.TopicDetail{
					NumPartitions: 1, ReplicationFactor: 1, ConfigEntries: created,
				}, false)
			},
			func() error { return setting("max.message.bytes", large) },
			func() error { return admin.AlterConfig(sarama.TopicResource, topic, altered, false) },
			func() error { return setting("max.message.bytes", small) },
			func() error {
				return admin.IncrementalAlterConfig(sarama.TopicResource, topic, incremental, false)
			},
			func() error { return setting("max.message.bytes", large) },
			func() error { return setting("segment.bytes", "1048576") },
			func() error { return admin.CreatePartitions(topic, 3, nil, false) },
			func() error { return describe(client, admin, topic) },
			func() error { return deleteRecords(client, admin, topic) },
			func() error { return admin.DeleteTopic(topic) },
			func() error {
				topics, err := admin.ListTopics()
				if _, listed := topics[topic]; err != nil || listed {
					return fmt.Errorf("%s is still listed, %v", topic, err)
				}
				return nil
			},
		}
		for at, step := range steps {
			if err := step(); err != nil {
				return fmt.Errorf("step %d: %w", at, err)
			}
		}
		return nil
	})
}

func ptr(text string) *string { return &text }

func describe(client sarama.Client, admin sarama.ClusterAdmin, topic string) error {
	brokers, controller, err := admin.DescribeCluster()
	if err != nil || len(brokers) == 0 {
		return fmt.Errorf("brokers %v, %v", brokers, err)
	}
	described, err := admin.DescribeTopics([]string{topic})
	if err != nil || len(described) != 1 || len(described[0].Partitions) != 3 {
		return fmt.Errorf("%s is %+v, %v", topic, described, err)
	}
	for _, partition := range described[0].Partitions {
		if len(partition.Isr) != 1 || partition.Leader != partition.Isr[0] {
			return fmt.Errorf("%s is led as %+v", topic, partition)
		}
	}
	topics, err := admin.ListTopics()
	if detail, listed := topics[topic]; err != nil || !listed || detail.NumPartitions != 3 {
		return fmt.Errorf("%s is listed as %+v, %v", topic, detail, err)
	}
	dirs, err := admin.DescribeLogDirs([]int32{brokers[0].ID()})
	if err != nil || len(dirs[brokers[0].ID()]) == 0 {
		return fmt.Errorf("log directories %+v, %v", dirs, err)
	}
	if _, err := client.Controller(); err != nil {
		return fmt.Errorf("controller %d: %w", controller, err)
	}
	return nil
}

func deleteRecords(client sarama.Client, admin sarama.ClusterAdmin, topic string) error {
	if err := client.RefreshMetadata(topic); err != nil {
		return err
	}
	producer, err := sarama.NewSyncProducerFromClient(client)
	if err != nil {
		return err
	}
	defer producer.Close()
	for range 5 {
		if _, _, err := producer.SendMessage(&sarama.ProducerMessage{Topic: topic, Value: sarama.StringEncoder("x")}); err != nil {
			return err
		}
	}
	if err := admin.DeleteRecords(topic, map[int32]int64{0: 3}); err != nil {
		return err
	}
	if first, err := client.GetOffset(topic, 0, sarama.OffsetOldest); err != nil || first != 3 {
		return fmt.Errorf("the first offset is %d, expected 3; %v", first, err)
	}
	return nil
}
