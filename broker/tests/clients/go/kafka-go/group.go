package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"chronik.example/clients/common"
	"github.com/segmentio/kafka-go"
)

func newGroup(args common.Arguments, id string, balancer kafka.GroupBalancer) (*kafka.ConsumerGroup, error) {
	return kafka.NewConsumerGroup(kafka.ConsumerGroupConfig{
		ID:                id,
		Brokers:           []string{args.Bootstrap},
		Topics:            args.Topics[:1],
		GroupBalancers:    []kafka.GroupBalancer{balancer},
		SessionTimeout:    6 * time.Second,
		HeartbeatInterval: 200 * time.Millisecond,
		JoinGroupBackoff:  100 * time.Millisecond,
	})
}

// consume hands each message of a partition to `take`, from the offset that the group has, until its generation ends.
func consume(ctx context.Context, args common.Arguments, from kafka.PartitionAssignment, take func(kafka.Message) error) error {
	reader := kafka.NewReader(kafka.ReaderConfig{
		Brokers:   []string{args.Bootstrap},
		Topic:     args.Topics[0],
		Partition: from.ID,
		MinBytes:  1,
		MaxBytes:  10_000_000,
		MaxWait:   100 * time.Millisecond,
	})
	defer reader.Close()
	if err := reader.SetOffset(from.Offset); err != nil {
		return err
	}
	for {
		message, err := reader.ReadMessage(ctx)
		if errors.Is(err, kafka.ErrGenerationEnded) || ctx.Err() != nil {
			return nil
		}
		if err == nil {
			err = take(message)
		}
		if err != nil {
			return err
		}
	}
}

// group goes on where the group of the topic has come to, reads what is new, and commits it.
func group(ctx context.Context, args common.Arguments) error {
	topic := args.Topics[0]
	id := topic + ".group"
	client := newClient(args)
	if err := checkCommitted(ctx, client, args, id, args.First); err != nil {
		return err
	}
	if err := goOn(ctx, args, topic, id); err != nil {
		return err
	}
	if err := checkCommitted(ctx, client, args, id, args.End()); err != nil {
		return err
	}
	described, err := client.DescribeGroups(ctx, &kafka.DescribeGroupsRequest{GroupIDs: []string{id}})
	if err != nil || len(described.Groups) != 1 || described.Groups[0].GroupState != "Empty" {
		return fmt.Errorf("%s is %+v, %v", id, described, err)
	}
	return nil
}

func goOn(ctx context.Context, args common.Arguments, topic, id string) error {
	consumer, err := newGroup(args, id, kafka.RangeGroupBalancer{})
	if err != nil {
		return err
	}
	defer consumer.Close()
	generation, err := consumer.Next(ctx)
	if err != nil {
		return fmt.Errorf("joining %s: %w", id, err)
	}
	assigned := generation.Assignments[topic]
	if len(assigned) != args.Partitions {
		return fmt.Errorf("the one member of %s has %+v", id, assigned)
	}
	results := make(chan error, len(assigned))
	for _, from := range assigned {
		want := int64(args.First)
		if args.First == 0 {
			want = kafka.FirstOffset
		}
		if from.Offset != want {
			return fmt.Errorf("%s goes on at %+v, expected %d", id, from, want)
		}
		generation.Start(func(ctx context.Context) {
			results <- takeAll(ctx, args, from, generation)
			// Its end would end the generation for the others.
			<-ctx.Done()
		})
	}
	for range assigned {
		select {
		case err := <-results:
			if err != nil {
				return err
			}
		case <-ctx.Done():
			return fmt.Errorf("%s has not read all in time", id)
		}
	}
	return nil
}

// takeAll takes the records meant of one partition, and commits them.
func takeAll(ctx context.Context, args common.Arguments, from kafka.PartitionAssignment, generation *kafka.Generation) error {
	topic := args.Topics[0]
	done := errors.New("all read")
	next := args.First
	take := func(message kafka.Message) error {
		if next == args.End() {
			return fmt.Errorf("%s/%d: a record behind %d", topic, from.ID, next)
		}
		want := common.Expected(topic, from.ID, next)
		// Its Reader has an empty key, value or header as null.
		sameValue := string(message.Value) == string(want.Value) && string(message.Key) == string(want.Key)
		if !sameValue || message.Offset != int64(next) || message.Time.UnixMilli() != want.TimestampMs {
			return fmt.Errorf("%s/%d record %d is %+v", topic, from.ID, next, message)
		}
		if next++; next == args.End() {
			return done
		}
		return nil
	}
	if args.Records > 0 {
		if err := consume(ctx, args, from, take); !errors.Is(err, done) {
			return fmt.Errorf("%s/%d: read only up to %d: %v", topic, from.ID, next, err)
		}
	}
	return generation.CommitOffsets(map[string]map[int]int64{topic: {from.ID: int64(args.End())}})
}

func checkCommitted(ctx context.Context, client *kafka.Client, args common.Arguments, id string, want int) error {
	topic := args.Topics[0]
	var partitions []int
	for partition := range args.Partitions {
		partitions = append(partitions, partition)
	}
	if want == 0 {
		want = -1
	}
	offsets, err := client.OffsetFetch(ctx, &kafka.OffsetFetchRequest{GroupID: id, Topics: map[string][]int{topic: partitions}})
	if err != nil || offsets.Error != nil || len(offsets.Topics[topic]) != args.Partitions {
		return fmt.Errorf("offsets of %s: %+v, %v", id, offsets, err)
	}
	for _, at := range offsets.Topics[topic] {
		if at.Error != nil || at.CommittedOffset != int64(want) {
			return fmt.Errorf("%s has committed %+v, expected %d", id, at, want)
		}
	}
	return nil
}

// member takes what its share of the partitions has, until it is asked to leave.
func member(ctx context.Context, args common.Arguments) error {
	self := common.NewMember(args)
	var balancer kafka.GroupBalancer = kafka.RoundRobinGroupBalancer{}
	if self.Ranges() {
		balancer = kafka.RangeGroupBalancer{}
	}
	consumer, err := newGroup(args, self.Group, balancer)
	if err != nil {
		return err
	}
	for {
		generation, err := consumer.Next(ctx)
		if ctx.Err() != nil {
			return consumer.Close()
		}
		if err != nil {
			// The broker may be away: it tries again by itself.
			fmt.Println("generation:", err)
			continue
		}
		var partitions []int32
		for _, from := range generation.Assignments[self.Topic] {
			partitions = append(partitions, int32(from.ID))
			generation.Start(func(ctx context.Context) {
				err := consume(ctx, args, from, func(message kafka.Message) error {
					self.Took(int32(message.Partition), message.Offset)
					next := map[int]int64{message.Partition: message.Offset + 1}
					return generation.CommitOffsets(map[string]map[int]int64{self.Topic: next})
				})
				if err != nil {
					fmt.Println("partition:", from.ID, err)
				}
			})
		}
		self.Assigned(partitions)
	}
}
