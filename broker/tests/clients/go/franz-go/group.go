package main

import (
	"context"
	"fmt"
	"slices"
	"time"

	"chronik.example/clients/common"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
)

// group goes on where the group of the topic has come to, reads what is new, and commits it.
func group(ctx context.Context, args common.Arguments) error {
	topic := args.Topics[0]
	id, end := topic+".group", args.End()
	client, err := kgo.NewClient(
		kgo.SeedBrokers(args.Bootstrap),
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
	if err := checkCommitted(ctx, admin, args, id, args.First); err != nil {
		return err
	}
	taken := common.NewTaking(args)
	for !taken.Complete() {
		fetches := client.PollFetches(ctx)
		if err := fetches.Err(); err != nil {
			return fmt.Errorf("%s has come only to %s: %w", id, taken.Seen(), err)
		}
		for have := range fetches.RecordsAll() {
			if err := taken.Take(fromRead(have)); err != nil {
				return err
			}
		}
	}
	if args.Records > 0 {
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

func checkCommitted(ctx context.Context, admin *kadm.Client, args common.Arguments, id string, want int) error {
	offsets, err := admin.FetchOffsets(ctx, id)
	if err != nil {
		return fmt.Errorf("offsets of %s: %w", id, err)
	}
	for partition := range args.Partitions {
		got, found := offsets.Lookup(args.Topics[0], int32(partition))
		if found != (want > 0) || (found && got.At != int64(want)) {
			return fmt.Errorf("%s has committed %+v in partition %d, expected %d", id, got, partition, want)
		}
	}
	return nil
}

// member takes what its share of the partitions has, until it is asked to leave.
func member(ctx context.Context, args common.Arguments) error {
	self := common.NewMember(args)
	var assigned []int32
	add := func(_ context.Context, _ *kgo.Client, more map[string][]int32) {
		assigned = append(assigned, more[self.Topic]...)
		self.Assigned(assigned)
	}
	remove := func(_ context.Context, _ *kgo.Client, less map[string][]int32) {
		assigned = slices.DeleteFunc(assigned, func(partition int32) bool {
			return slices.Contains(less[self.Topic], partition)
		})
		self.Assigned(assigned)
	}
	balancer := kgo.CooperativeStickyBalancer()
	if self.Ranges() {
		balancer = kgo.RangeBalancer()
	}
	client, err := kgo.NewClient(
		kgo.SeedBrokers(args.Bootstrap),
		kgo.ConsumerGroup(self.Group),
		kgo.ConsumeTopics(self.Topic),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()),
		kgo.Balancers(balancer),
		kgo.SessionTimeout(6*time.Second),
		kgo.HeartbeatInterval(200*time.Millisecond),
		kgo.FetchMaxWait(100*time.Millisecond),
		kgo.DisableAutoCommit(),
		// Nothing is revoked between a poll and its commit.
		kgo.BlockRebalanceOnPoll(),
		kgo.OnPartitionsAssigned(add),
		kgo.OnPartitionsRevoked(remove),
		kgo.OnPartitionsLost(remove),
	)
	if err != nil {
		return err
	}
	for ctx.Err() == nil {
		fetches := client.PollFetches(ctx)
		for have := range fetches.RecordsAll() {
			self.Took(have.Partition, have.Offset)
		}
		if err := client.CommitUncommittedOffsets(ctx); err != nil {
			fmt.Println("not committed:", err)
		}
		client.AllowRebalance()
	}
	client.CloseAllowingRebalance()
	return nil
}
