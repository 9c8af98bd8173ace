package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"chronik.example/clients/common"
	"github.com/IBM/sarama"
)

// handler is what a group's member does with its sessions.
type handler struct {
	setup func(sarama.ConsumerGroupSession) error
	take  func(sarama.ConsumerGroupSession, *sarama.ConsumerMessage)
}

func (h handler) Setup(session sarama.ConsumerGroupSession) error { return h.setup(session) }

func (handler) Cleanup(sarama.ConsumerGroupSession) error { return nil }

func (h handler) ConsumeClaim(session sarama.ConsumerGroupSession, claim sarama.ConsumerGroupClaim) error {
	for {
		select {
		case message, open := <-claim.Messages():
			if !open {
				return nil
			}
			h.take(session, message)
		case <-session.Context().Done():
			return nil
		}
	}
}

// group goes on where the group of the topic has come to, reads what is new, and commits it.
func group(ctx context.Context, args common.Arguments) error {
	topic := args.Topics[0]
	id := topic + ".group"
	return connected(args, newConfig(), func(_ sarama.Client, admin sarama.ClusterAdmin) error {
		if err := checkCommitted(admin, args, id, args.First); err != nil {
			return err
		}
		if err := goOn(ctx, args, topic, id); err != nil {
			return err
		}
		if err := checkCommitted(admin, args, id, args.End()); err != nil {
			return err
		}
		described, err := admin.DescribeConsumerGroups([]string{id})
		if err != nil || len(described) != 1 || described[0].State != "Empty" {
			return fmt.Errorf("%s is %+v, %v", id, described, err)
		}
		groups, err := admin.ListConsumerGroups()
		if _, listed := groups[id]; err != nil || !listed {
			return fmt.Errorf("%s is not among %v, %v", id, groups, err)
		}
		return nil
	})
}

func goOn(ctx context.Context, args common.Arguments, topic, id string) error {
	consumer, err := sarama.NewConsumerGroup([]string{args.Bootstrap}, id, newConfig())
	if err != nil {
		return err
	}
	done, finish := context.WithCancelCause(ctx)
	defer finish(nil)
	finished := errors.New("finished")
	go func() {
		for err := range consumer.Errors() {
			finish(err)
		}
	}()
	taken := common.NewTaking(args)
	err = consumer.Consume(done, []string{topic}, handler{
		setup: func(session sarama.ConsumerGroupSession) error {
			if claimed := len(session.Claims()[topic]); claimed != args.Partitions {
				return fmt.Errorf("the one member has %d partitions", claimed)
			}
			if taken.Complete() {
				finish(finished)
			}
			return nil
		},
		take: func(session sarama.ConsumerGroupSession, message *sarama.ConsumerMessage) {
			if err := taken.Take(fromRead(message)); err != nil {
				finish(err)
				return
			}
			session.MarkMessage(message, "")
			if taken.Complete() {
				// Another claim's goroutine may not have marked its last one yet.
				for partition := range args.Partitions {
					session.MarkOffset(topic, int32(partition), int64(args.End()), "")
				}
				session.Commit()
				finish(finished)
			}
		},
	})
	if cause := context.Cause(done); cause != finished {
		return fmt.Errorf("%s has come only to %s: %v, %v", id, taken.Seen(), cause, err)
	}
	return consumer.Close()
}

func checkCommitted(admin sarama.ClusterAdmin, args common.Arguments, id string, want int) error {
	topic := args.Topics[0]
	var partitions []int32
	for partition := range args.Partitions {
		partitions = append(partitions, int32(partition))
	}
	if want == 0 {
		want = -1
	}
	offsets, err := admin.ListConsumerGroupOffsets(id, map[string][]int32{topic: partitions})
	if err != nil {
		return fmt.Errorf("offsets of %s: %w", id, err)
	}
	for _, partition := range partitions {
		block := offsets.GetBlock(topic, partition)
		if block == nil || block.Err != sarama.ErrNoError || block.Offset != int64(want) {
			return fmt.Errorf("%s has committed %+v in partition %d, expected %d", id, block, partition, want)
		}
	}
	return nil
}

// member takes what its share of the partitions has, until it is asked to leave.
func member(ctx context.Context, args common.Arguments) error {
	self := common.NewMember(args)
	config := newConfig()
	strategy := sarama.NewBalanceStrategySticky()
	if self.Ranges() {
		strategy = sarama.NewBalanceStrategyRange()
	}
	config.Consumer.Group.Rebalance.GroupStrategies = []sarama.BalanceStrategy{strategy}
	consumer, err := sarama.NewConsumerGroup([]string{args.Bootstrap}, self.Group, config)
	if err != nil {
		return err
	}
	go func() {
		for err := range consumer.Errors() {
			fmt.Println("error:", err)
		}
	}()
	for ctx.Err() == nil {
		err := consumer.Consume(ctx, []string{self.Topic}, handler{
			setup: func(session sarama.ConsumerGroupSession) error {
				self.Assigned(session.Claims()[self.Topic])
				return nil
			},
			take: func(session sarama.ConsumerGroupSession, message *sarama.ConsumerMessage) {
				self.Took(message.Partition, message.Offset)
				session.MarkMessage(message, "")
				session.Commit()
			},
		})
		if err != nil {
			// The broker may be away: the next attempt, soon.
			fmt.Println("session:", err)
			select {
			case <-ctx.Done():
			case <-time.After(100 * time.Millisecond):
			}
		}
	}
	return consumer.Close()
}
