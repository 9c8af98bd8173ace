package main

import (
	"context"
	"errors"
	"fmt"

	"chronik.example/clients/common"
	"github.com/segmentio/kafka-go"
)

// adminAPI is the Admin API in the versions that kafka-go has, and the transactions of a producer that writes nothing but
// a group's offsets: of batches in transactions it knows nothing.
func adminAPI(ctx context.Context, args common.Arguments) error {
	topic := args.Topics[0]
	client := newClient(args)
	one := common.Arguments{Bootstrap: args.Bootstrap, Partitions: 1, Topics: args.Topics}
	steps := []func() error{
		func() error { return create(ctx, client, one, topic) },
		func() error { return setting(ctx, client, topic, "retention.ms", "-1") },
		func() error {
			altered, err := client.IncrementalAlterConfigs(ctx, &kafka.IncrementalAlterConfigsRequest{
				Resources: []kafka.IncrementalAlterConfigsRequestResource{{
					ResourceType: kafka.ResourceTypeTopic, ResourceName: topic,
					Configs: []kafka.IncrementalAlterConfigsRequestConfig{{
						Name: "max.message.bytes", Value: "50000", ConfigOperation: kafka.ConfigOperationSet,
					}},
				}},
			})
			if err == nil {
				err = altered.Resources[0].Error
			}
			return err
		},
		func() error { return setting(ctx, client, topic, "max.message.bytes", "50000") },
		func() error { return setting(ctx, client, topic, "retention.ms", "-1") },
		func() error {
			grown, err := client.CreatePartitions(ctx, &kafka.CreatePartitionsRequest{
				Topics: []kafka.TopicPartitionsConfig{{Name: topic, Count: 3}},
			})
			if err == nil {
				err = grown.Errors[topic]
			}
			return err
		},
		func() error {
			for {
				metadata, err := client.Metadata(ctx, &kafka.MetadataRequest{Topics: []string{topic}})
				if err != nil || len(metadata.Topics) != 1 {
					return fmt.Errorf("%+v, %v", metadata, err)
				}
				if len(metadata.Topics[0].Partitions) == 3 {
					return nil
				}
			}
		},
		func() error { return offsetsInTransactions(ctx, client, one) },
		func() error {
			deleted, err := client.DeleteTopics(ctx, &kafka.DeleteTopicsRequest{Topics: []string{topic}})
			if err == nil {
				err = deleted.Errors[topic]
			}
			return err
		},
	}
	for at, step := range steps {
		if err := step(); err != nil {
			return fmt.Errorf("step %d: %w", at, err)
		}
	}
	return nil
}

func setting(ctx context.Context, client *kafka.Client, topic, name, want string) error {
	described, err := client.DescribeConfigs(ctx, &kafka.DescribeConfigsRequest{Resources: []kafka.DescribeConfigRequestResource{{
		ResourceType: kafka.ResourceTypeTopic, ResourceName: topic, ConfigNames: []string{name},
	}}})
	if err != nil || len(described.Resources) != 1 || described.Resources[0].Error != nil {
		return fmt.Errorf("%s: %+v, %v", name, described, err)
	}
	entries := described.Resources[0].ConfigEntries
	if len(entries) != 1 || entries[0].ConfigName != name || entries[0].ConfigValue != want {
		return fmt.Errorf("%s is %+v, expected %s", name, entries, want)
	}
	return nil
}

// offsetsInTransactions commits offsets, one of them in a transaction that is aborted.
func offsetsInTransactions(ctx context.Context, client *kafka.Client, args common.Arguments) error {
	topic := args.Topics[0]
	group := topic + ".group"
	for _, end := range []struct {
		offset    int
		committed bool
		want      int
	}{{7, true, 7}, {9, false, 7}} {
		producer, err := initProducer(ctx, client, topic)
		if err != nil {
			return err
		}
		id, epoch := producer.ProducerID, producer.ProducerEpoch
		added, err := client.AddOffsetsToTxn(ctx, &kafka.AddOffsetsToTxnRequest{
			TransactionalID: topic, ProducerID: id, ProducerEpoch: epoch, GroupID: group,
		})
		if err != nil || added.Error != nil {
			return fmt.Errorf("AddOffsetsToTxn: %+v, %v", added, err)
		}
		offsets, err := client.TxnOffsetCommit(ctx, &kafka.TxnOffsetCommitRequest{
			TransactionalID: topic, ProducerID: id, ProducerEpoch: epoch, GroupID: group, GenerationID: -1,
			Topics: map[string][]kafka.TxnOffsetCommit{topic: {{Partition: 0, Offset: int64(end.offset)}}},
		})
		if err != nil || errors.Join(partitionErrors(offsets.Topics[topic])...) != nil {
			return fmt.Errorf("TxnOffsetCommit: %+v, %v", offsets, err)
		}
		ended, err := client.EndTxn(ctx, &kafka.EndTxnRequest{
			TransactionalID: topic, ProducerID: id, ProducerEpoch: epoch, Committed: end.committed,
		})
		if err != nil || ended.Error != nil {
			return fmt.Errorf("EndTxn: %+v, %v", ended, err)
		}
		if err := eventuallyCommitted(ctx, client, args, group, end.want); err != nil {
			return err
		}
	}
	return nil
}

// initProducer asks again while the last transaction is being completed: its offsets are there to read a moment before.
func initProducer(ctx context.Context, client *kafka.Client, transactionalID string) (*kafka.ProducerSession, error) {
	for {
		begun, err := client.InitProducerID(ctx, &kafka.InitProducerIDRequest{
			// It knows of no predecessor: 0 would be a producer's id.
			TransactionalID: transactionalID, TransactionTimeoutMs: 10_000, ProducerID: -1, ProducerEpoch: -1,
		})
		if err == nil && begun.Error == nil {
			return begun.Producer, nil
		}
		if err != nil || !errors.Is(begun.Error, kafka.ConcurrentTransactions) {
			return nil, fmt.Errorf("InitProducerId: %+v, %v", begun, err)
		}
	}
}

func partitionErrors(partitions []kafka.TxnOffsetCommitPartition) []error {
	var errs []error
	for _, partition := range partitions {
		errs = append(errs, partition.Error)
	}
	return errs
}

// eventuallyCommitted waits for the transaction's markers, which are written behind the answer to EndTxn.
func eventuallyCommitted(ctx context.Context, client *kafka.Client, args common.Arguments, group string, want int) error {
	for {
		err := checkCommitted(ctx, client, args, group, want)
		if err == nil || ctx.Err() != nil {
			return err
		}
	}
}
