package main

import (
	"context"
	"fmt"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
)

// group goes on where the group of the topic has come to, reads what is new, and commits it.
func group(ctx context.Context, args arguments) error {
	topic := args.topics[0]
	id, end := topic+".group", args.first+args.records
	client, err := kgo.NewClient(
		kgo.SeedBrokers(args.bootstrap),
		kgo.ConsumerGroup(id),
		kgo.ConsumeTopics(topic),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()),
		kgo.DisableAutoCommit(),
		kgo.HeartbeatInterval(200*time.Millisecond),
		kgo.FetchMaxWait(100*time.Millisecond),
	)
	if err != nil {
		return err
	}
	defer client.Close()
	admin := kadm.NewClient(client)
	if err := checkCommitted(ctx, admin, args, id, args.first); err != nil {
		return err
	}
	next := map[int32]int{}
	for partition := range args.partitions {
		next[int32(partition)] = args.first
	}
	for missing := args.records * args.partitions; missing > 0; {
		fetches := client.PollFetches(ctx)
		if err := fetches.Err(); err != nil {
			return fmt.Errorf("%s has come only to %v: %w", id, next, err)
		}
		for have := range fetches.RecordsAll() {
			if next[have.Partition] >= end {
				return fmt.Errorf("%s/%d: a record behind %d", topic, have.Partition, end)
			}
			if err := compare(have, next[have.Partition]); err != nil {
				return err
			}
			next[have.Partition]++
			missing--
		}
	}
	if args.records > 0 {
		if err := client.CommitUncommittedOffsets(ctx); err != nil {
			return fmt.Errorf("commit of %s: %w", id, err)
		}
	}
	if err := checkCommitted(ctx, admin, args, id, end); err != nil {
		return err
	}
	if err := client.LeaveGroupContext(ctx); err != nil {
		return fmt.Errorf("leaving %s: %w", id, err)
	}
	described, err := admin.DescribeGroups(ctx, id)
	if err != nil || described[id].Err != nil || described[id].State != "Empty" {
		return fmt.Errorf("%s is %+v, %v", id, described[id], err)
	}
	return nil
}

func checkCommitted(ctx context.Context, admin *kadm.Client, args arguments, id string, want int) error {
	offsets, err := admin.FetchOffsets(ctx, id)
	if err != nil {
		return fmt.Errorf("offsets of %s: %w", id, err)
	}
	for partition := range args.partitions {
		got, found := offsets.Lookup(args.topics[0], int32(partition))
		if found != (want > 0) || (found && got.At != int64(want)) {
			return fmt.Errorf("%s has committed %+v in partition %d, expected %d", id, got, partition, want)
		}
	}
	return nil
}
