package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"chronik.example/clients/common"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// beginning returns a producer that has fenced those before it, whose first transaction has begun.
func beginning(ctx context.Context, args common.Arguments) (*kgo.Client, error) {
	client, err := kgo.NewClient(
		kgo.SeedBrokers(args.Bootstrap),
		kgo.TransactionalID(args.Topics[0]),
		kgo.RecordPartitioner(kgo.ManualPartitioner()),
		kgo.MetadataMinAge(100*time.Millisecond),
	)
	if err != nil {
		return nil, err
	}
	if _, _, err := client.ProducerID(ctx); err != nil {
		return nil, fmt.Errorf("producer id: %w", err)
	}
	return client, client.BeginTransaction()
}

func send(ctx context.Context, client *kgo.Client, args common.Arguments) error {
	var batch []*kgo.Record
	for _, record := range args.Expected(args.Topics[0]) {
		batch = append(batch, toSend(record))
	}
	return client.ProduceSync(ctx, batch...).FirstErr()
}

// lose writes records that nobody is to see.
func lose(ctx context.Context, client *kgo.Client, args common.Arguments) error {
	var batch []*kgo.Record
	for partition := range args.Partitions {
		batch = append(batch, &kgo.Record{Topic: args.Topics[0], Partition: int32(partition), Value: []byte("lost")})
	}
	return client.ProduceSync(ctx, batch...).FirstErr()
}

// addOffsets does by hand what kgo's session for consumers does, which would need one here.
func addOffsets(ctx context.Context, client *kgo.Client, args common.Arguments, group string) error {
	id, epoch, err := client.ProducerID(ctx)
	if err != nil {
		return err
	}
	add := kmsg.NewPtrAddOffsetsToTxnRequest()
	add.TransactionalID, add.ProducerID, add.ProducerEpoch, add.Group = args.Topics[0], id, epoch, group
	added, err := add.RequestWith(ctx, client)
	if err == nil {
		err = kerr.ErrorForCode(added.ErrorCode)
	}
	if err != nil {
		return fmt.Errorf("AddOffsetsToTxn: %w", err)
	}
	commit := kmsg.NewPtrTxnOffsetCommitRequest()
	commit.TransactionalID, commit.ProducerID, commit.ProducerEpoch, commit.Group = args.Topics[0], id, epoch, group
	topic := kmsg.NewTxnOffsetCommitRequestTopic()
	topic.Topic = args.Topics[0]
	for partition := range args.Partitions {
		offset := kmsg.NewTxnOffsetCommitRequestTopicPartition()
		offset.Partition, offset.Offset = int32(partition), int64(args.End())
		topic.Partitions = append(topic.Partitions, offset)
	}
	commit.Topics = append(commit.Topics, topic)
	committed, err := commit.RequestWith(ctx, client)
	if err != nil {
		return fmt.Errorf("TxnOffsetCommit: %w", err)
	}
	for _, topic := range committed.Topics {
		for _, partition := range topic.Partitions {
			if err := kerr.ErrorForCode(partition.ErrorCode); err != nil {
				return fmt.Errorf("TxnOffsetCommit: %w", err)
			}
		}
	}
	return nil
}

func transact(ctx context.Context, args common.Arguments) error {
	topic := args.Topics[0]
	if args.First == 0 {
		plain, err := kgo.NewClient(kgo.SeedBrokers(args.Bootstrap))
		if err != nil {
			return err
		}
		defer plain.Close()
		if err := create(ctx, kadm.NewClient(plain), args, topic); err != nil {
			return err
		}
	}
	// What the program has left by its last end is aborted by this.
	old, err := beginning(ctx, args)
	if err != nil {
		return err
	}
	defer old.Close()
	if err := lose(ctx, old, args); err != nil {
		return err
	}
	client, err := beginning(ctx, args)
	if err != nil {
		return err
	}
	defer client.Close()
	err = old.EndTransaction(ctx, kgo.TryCommit)
	if !errors.Is(err, kerr.ProducerFenced) && !errors.Is(err, kerr.InvalidProducerEpoch) {
		return fmt.Errorf("a commit of an old incarnation: %v", err)
	}
	steps := []struct {
		what string
		do   func() error
	}{
		{"records to abort", func() error { return send(ctx, client, args) }},
		{"abort", func() error { return client.EndTransaction(ctx, kgo.TryAbort) }},
		{"begin", client.BeginTransaction},
		{"records to commit", func() error { return send(ctx, client, args) }},
		{"offsets", func() error { return addOffsets(ctx, client, args, topic+".group") }},
		{"commit", func() error { return client.EndTransaction(ctx, kgo.TryCommit) }},
		{"begin", client.BeginTransaction},
		{"records to lose", func() error { return lose(ctx, client, args) }},
		{"abort", func() error { return client.EndTransaction(ctx, kgo.TryAbort) }},
		{"what is committed", func() error { return readCommitted(ctx, args, topic) }},
		{"the group", func() error {
			return checkCommitted(ctx, kadm.NewClient(client), args, topic+".group", args.End())
		}},
		// Whoever starts next with its id finds an ongoing transaction, be the broker the same or not.
		{"begin", client.BeginTransaction},
		{"records to leave", func() error { return lose(ctx, client, args) }},
	}
	for _, step := range steps {
		if err := step.do(); err != nil {
			return fmt.Errorf("%s: %w", step.what, err)
		}
	}
	return nil
}

// readCommitted wants the records up to the last that is meant, each once, and nothing behind them.
func readCommitted(ctx context.Context, args common.Arguments, topic string) error {
	assigned := map[int32]kgo.Offset{}
	for partition := range args.Partitions {
		assigned[int32(partition)] = kgo.NewOffset().At(0)
	}
	client, err := kgo.NewClient(
		kgo.SeedBrokers(args.Bootstrap),
		kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{topic: assigned}),
		kgo.FetchIsolationLevel(kgo.ReadCommitted()),
		kgo.FetchMaxWait(100*time.Millisecond),
		// The last one before the last stable offset is a marker.
		kgo.KeepControlRecords(),
	)
	if err != nil {
		return err
	}
	defer client.Close()
	admin := kadm.NewClient(client)
	stable, err := admin.ListCommittedOffsets(ctx, topic)
	if err != nil {
		return fmt.Errorf("last stable offsets: %w", err)
	}
	records := common.Committed{Topic: topic, Seen: make([]int, args.Partitions)}
	behind := map[int32]bool{}
	for partition := range args.Partitions {
		behind[int32(partition)] = true
	}
	for len(behind) > 0 {
		fetches := client.PollFetches(ctx)
		if err := fetches.Err(); err != nil {
			return fmt.Errorf("read up to %v: %w", records.Seen, err)
		}
		for have := range fetches.RecordsAll() {
			if !have.Attrs.IsControl() {
				if err := records.Take(int(have.Partition), have.Value); err != nil {
					return err
				}
			}
			end, found := stable.Lookup(topic, have.Partition)
			if !found || have.Offset+1 >= end.Offset {
				delete(behind, have.Partition)
			}
		}
	}
	return records.CheckComplete(args.End())
}
