package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"chronik.example/clients/common"
	"github.com/IBM/sarama"
)

// beginning returns a producer that has fenced those before it, whose first transaction has begun.
func beginning(args common.Arguments) (sarama.SyncProducer, error) {
	config := newConfig()
	config.Producer.Transaction.ID = args.Topics[0]
	config.Producer.Idempotent = true
	config.Producer.RequiredAcks = sarama.WaitForAll
	producer, err := sarama.NewSyncProducer([]string{args.Bootstrap}, config)
	if err != nil {
		return nil, err
	}
	return producer, producer.BeginTxn()
}

// lose writes records that nobody is to see.
func lose(producer sarama.SyncProducer, args common.Arguments) error {
	var batch []*sarama.ProducerMessage
	for partition := range args.Partitions {
		lost := &sarama.ProducerMessage{
			Topic: args.Topics[0], Partition: int32(partition), Value: sarama.StringEncoder("lost"),
		}
		batch = append(batch, lost)
	}
	return producer.SendMessages(batch)
}

func transact(ctx context.Context, args common.Arguments) error {
	topic := args.Topics[0]
	return connected(args, newConfig(), func(client sarama.Client, admin sarama.ClusterAdmin) error {
		if args.First == 0 {
			if err := create(admin, args, topic); err != nil {
				return err
			}
		}
		// What the program has left by its last end is aborted by this.
		old, err := beginning(args)
		if err != nil {
			return err
		}
		if err := lose(old, args); err != nil {
			return err
		}
		producer, err := beginning(args)
		if err != nil {
			return err
		}
		err = old.CommitTxn()
		if !errors.Is(err, sarama.ErrProducerFenced) && !errors.Is(err, sarama.ErrInvalidProducerEpoch) {
			return fmt.Errorf("a commit of an old incarnation: %v", err)
		}
		var offsets []*sarama.PartitionOffsetMetadata
		for partition := range args.Partitions {
			offset := &sarama.PartitionOffsetMetadata{
				Partition: int32(partition), Offset: int64(args.End()), LeaderEpoch: -1,
			}
			offsets = append(offsets, offset)
		}
		steps := []struct {
			what string
			do   func() error
		}{
			{"records to abort", func() error { return producer.SendMessages(all(args, topic)) }},
			{"abort", producer.AbortTxn},
			{"begin", producer.BeginTxn},
			{"records to commit", func() error { return producer.SendMessages(all(args, topic)) }},
			{"offsets", func() error {
				return producer.AddOffsetsToTxn(map[string][]*sarama.PartitionOffsetMetadata{topic: offsets}, topic+".group")
			}},
			{"commit", producer.CommitTxn},
			{"begin", producer.BeginTxn},
			{"records to lose", func() error { return lose(producer, args) }},
			{"abort", producer.AbortTxn},
			{"what is committed", func() error { return readCommitted(ctx, client, args) }},
			{"the group", func() error { return checkCommitted(admin, args, topic+".group", args.End()) }},
			// Whoever starts next with its id finds an ongoing transaction, be the broker the same or not.
			{"begin", producer.BeginTxn},
			{"records to leave", func() error { return lose(producer, args) }},
		}
		for _, step := range steps {
			if err := step.do(); err != nil {
				return fmt.Errorf("%s: %w", step.what, err)
			}
		}
		return nil
	})
}

func readCommitted(ctx context.Context, client sarama.Client, args common.Arguments) error {
	topic := args.Topics[0]
	consumer, err := sarama.NewConsumerFromClient(client)
	if err != nil {
		return err
	}
	defer consumer.Close()
	records := common.Committed{Topic: topic, Seen: make([]int, args.Partitions)}
	for partition := range args.Partitions {
		reader, err := consumer.ConsumePartition(topic, int32(partition), 0)
		if err != nil {
			return err
		}
		// The last records were aborted: that none of them comes shows when nothing does for a few fetches.
		quiet := 30 * time.Second
		for quiet > 0 {
			select {
			case message := <-reader.Messages():
				if err := records.Take(partition, message.Value); err != nil {
					return err
				}
				if records.Seen[partition] == args.End() {
					quiet = 300 * time.Millisecond
				}
			case err := <-reader.Errors():
				return err
			case <-ctx.Done():
				return fmt.Errorf("read up to %v", records.Seen)
			case <-time.After(quiet):
				quiet = 0
			}
		}
		if err := reader.Close(); err != nil {
			return err
		}
	}
	return records.CheckComplete(args.End())
}
