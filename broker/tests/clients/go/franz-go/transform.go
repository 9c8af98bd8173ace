package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"chronik.example/clients/common"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
)

// atOnce is small, so that many transactions are needed.
const atOnce = 10

// transform consumes, transforms and produces in transactions, as one of the members of a group, until it is asked to stop.
func transform(ctx context.Context, args common.Arguments) error {
	for ctx.Err() == nil {
		err := transformInSession(ctx, args)
		var mismatch mismatch
		if errors.As(err, &mismatch) {
			return err
		}
		if err != nil {
			// Of a session that has failed, nothing is to be used again.
			fmt.Println("not committed:", err)
		}
	}
	return nil
}

// mismatch is an error that no new session mends.
type mismatch struct{ error }

func transformInSession(ctx context.Context, args common.Arguments) error {
	source, out, name := args.Topics[0], args.Topics[1], args.Topics[2]
	session, err := kgo.NewGroupTransactSession(
		kgo.SeedBrokers(args.Bootstrap),
		kgo.ConsumerGroup(out+".group"),
		kgo.ConsumeTopics(source),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()),
		kgo.FetchIsolationLevel(kgo.ReadCommitted()),
		kgo.FetchMaxWait(100*time.Millisecond),
		kgo.SessionTimeout(6*time.Second),
		kgo.HeartbeatInterval(200*time.Millisecond),
		kgo.RequireStableFetchOffsets(),
		kgo.TransactionalID(out+"."+name),
		kgo.TransactionTimeout(10*time.Second),
		kgo.RecordPartitioner(kgo.ManualPartitioner()),
	)
	if err != nil {
		return mismatch{err}
	}
	defer session.Close()
	for ctx.Err() == nil {
		fetches := session.PollRecords(ctx, atOnce)
		if fetches.NumRecords() == 0 {
			continue
		}
		if err := session.Begin(); err != nil {
			return err
		}
		var produced kgo.FirstErrPromise
		next := map[int32]int64{}
		for have := range fetches.RecordsAll() {
			if err := common.Compare(fromRead(have), int(have.Offset)); err != nil {
				return mismatch{err}
			}
			record := toSend(common.Expected(out, int(have.Partition), int(have.Offset)))
			session.Produce(context.Background(), record, produced.Promise())
			next[have.Partition] = have.Offset + 1
		}
		// To its end, also if the program is asked to stop meanwhile.
		committed, err := session.End(context.Background(), kgo.TransactionEndTry(produced.Err() == nil))
		if err != nil {
			return err
		}
		if committed {
			said := "committed"
			for partition, offset := range next {
				said += fmt.Sprintf(" %d %d", partition, offset)
			}
			fmt.Println(said)
		}
	}
	return nil
}

// verify reads the output: each record of the input is there once, and the group is done with it.
func verify(ctx context.Context, args common.Arguments) error {
	out := args.Topics[1]
	if err := readCommitted(ctx, args, out); err != nil {
		return err
	}
	client, err := kgo.NewClient(kgo.SeedBrokers(args.Bootstrap))
	if err != nil {
		return err
	}
	defer client.Close()
	return checkCommitted(ctx, kadm.NewClient(client), args, out+".group", args.End())
}
