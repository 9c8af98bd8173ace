// franz-go: always the newest version of each request. What the program does: ../../README.md
package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"chronik.example/clients/common"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

func main() {
	common.Main(map[string]common.Command{
		"write": write, "read": read, "group": group, "member": member, "transact": transact,
		"transform": transform, "verify": verify,
	})
}

func create(ctx context.Context, admin *kadm.Client, args common.Arguments, topic string) error {
	config := map[string]*string{"retention.ms": kadm.StringPtr("-1")}
	if _, err := admin.CreateTopic(ctx, int32(args.Partitions), 1, config, topic); err != nil {
		return fmt.Errorf("create %s: %w", topic, err)
	}
	if _, err := admin.CreateTopic(ctx, int32(args.Partitions), 1, config, topic); !errors.Is(err, kerr.TopicAlreadyExists) {
		return fmt.Errorf("create %s again: %v", topic, err)
	}
	return nil
}

// codecs are the numbers in a batch's attributes; 0 for none.
var codecs = map[string]uint8{"gzip": 1, "snappy": 2, "lz4": 3, "zstd": 4}

func toSend(record common.Record) *kgo.Record {
	sent := &kgo.Record{
		Topic:     record.Topic,
		Partition: int32(record.Partition),
		Timestamp: time.UnixMilli(record.TimestampMs),
		Key:       record.Key,
		Value:     record.Value,
	}
	for _, header := range record.Headers {
		sent.Headers = append(sent.Headers, kgo.RecordHeader(header))
	}
	return sent
}

func fromRead(record *kgo.Record) common.Record {
	read := common.Record{
		Topic:       record.Topic,
		Partition:   int(record.Partition),
		Offset:      int(record.Offset),
		TimestampMs: record.Timestamp.UnixMilli(),
		Key:         record.Key,
		Value:       record.Value,
	}
	for _, header := range record.Headers {
		read.Headers = append(read.Headers, common.Header(header))
	}
	return read
}

func producerOptions(topic string) ([]kgo.Opt, error) {
	mode := common.Mode(topic)
	if mode == "idempotent" {
		return []kgo.Opt{kgo.RequiredAcks(kgo.AllISRAcks()), kgo.ProducerBatchCompression(kgo.NoCompression())}, nil
	}
	codec, known := map[string]kgo.CompressionCodec{
		"plain": kgo.NoCompression(), "gzip": kgo.GzipCompression(), "snappy": kgo.SnappyCompression(),
		"lz4": kgo.Lz4Compression(), "zstd": kgo.ZstdCompression(),
	}[mode]
	if !known {
		return nil, fmt.Errorf("unknown way to write %s", topic)
	}
	return []kgo.Opt{kgo.RequiredAcks(kgo.LeaderAck()), kgo.DisableIdempotentWrite(), kgo.ProducerBatchCompression(codec)}, nil
}

func write(ctx context.Context, args common.Arguments) error {
	for _, topic := range args.Topics {
		options, err := producerOptions(topic)
		if err != nil {
			return err
		}
		client, err := kgo.NewClient(append(options,
			kgo.SeedBrokers(args.Bootstrap),
			kgo.RecordPartitioner(kgo.ManualPartitioner()),
			kgo.ProducerLinger(5*time.Millisecond),
			// A fresh topic is asked for again soon, not after 5 s.
			kgo.MetadataMinAge(100*time.Millisecond),
		)...)
		if err != nil {
			return err
		}
		defer client.Close()
		if args.First == 0 {
			if err := create(ctx, kadm.NewClient(client), args, topic); err != nil {
				return err
			}
		}
		var batch []*kgo.Record
		// The results come as they were acknowledged; each carries the record given.
		index := map[*kgo.Record]int{}
		for _, record := range args.Expected(topic) {
			sent := toSend(record)
			batch = append(batch, sent)
			index[sent] = record.Offset
		}
		for _, result := range client.ProduceSync(ctx, batch...) {
			if result.Err != nil {
				return fmt.Errorf("%s: %w", topic, result.Err)
			}
			if got, want := result.Record.Offset, int64(index[result.Record]); got != want {
				return fmt.Errorf("%s/%d: acknowledged at offset %d, expected %d", topic, result.Record.Partition, got, want)
			}
		}
	}
	return nil
}

func newReader(args common.Arguments, assigned map[string]map[int32]kgo.Offset) (*kgo.Client, error) {
	return kgo.NewClient(
		kgo.SeedBrokers(args.Bootstrap),
		kgo.ConsumePartitions(assigned),
		kgo.ConsumeResetOffset(kgo.NoResetOffset()),
		kgo.FetchIsolationLevel(kgo.ReadCommitted()),
		// Small, so that a partition takes several fetches and one batch is larger than the limit.
		kgo.FetchMaxPartitionBytes(16384),
		kgo.FetchMaxWait(100*time.Millisecond),
	)
}

func read(ctx context.Context, args common.Arguments) error {
	assigned := map[string]map[int32]kgo.Offset{}
	for _, topic := range args.Topics {
		assigned[topic] = map[int32]kgo.Offset{}
		for partition := range args.Partitions {
			assigned[topic][int32(partition)] = kgo.NewOffset().At(0)
		}
	}
	client, err := newReader(args, assigned)
	if err != nil {
		return err
	}
	defer client.Close()

	type partition struct {
		topic string
		id    int32
	}
	seen := map[partition]int{}
	compressed := map[partition]int{}
	for missing := len(args.Topics) * args.Partitions * args.Records; missing > 0; {
		fetches := client.PollFetches(ctx)
		if err := fetches.Err(); err != nil {
			return fmt.Errorf("%d records missing; seen %v: %w", missing, seen, err)
		}
		for have := range fetches.RecordsAll() {
			at := partition{have.Topic, have.Partition}
			if err := common.Compare(fromRead(have), seen[at]); err != nil {
				return err
			}
			seen[at]++
			missing--
			if codec := codecs[common.Mode(have.Topic)]; codec != 0 && have.Attrs.CompressionType() == codec {
				compressed[at]++
			} else if have.Attrs.CompressionType() != 0 {
				return fmt.Errorf("%v offset %d: compressed by codec %d", at, have.Offset, have.Attrs.CompressionType())
			}
		}
	}
	for at, count := range seen {
		if count != args.Records {
			return fmt.Errorf("%v: %d records, expected %d", at, count, args.Records)
		}
	}
	admin := kadm.NewClient(client)
	groups, err := servesGroups(ctx, admin)
	if err != nil {
		return err
	}
	for at := range seen {
		// librdkafka takes a broker without FindCoordinator for one too old for lz4, and sends as it is.
		may := codecs[common.Mode(at.topic)] != 0 && (groups || !strings.HasSuffix(at.topic, ".confluent.lz4"))
		// Not all records: clients leave a batch alone that would not get smaller.
		if may && compressed[at] == 0 {
			return fmt.Errorf("%v: no record is compressed", at)
		}
	}
	if err := checkOffsets(ctx, admin, args); err != nil {
		return err
	}
	return checkErrors(ctx, client, args)
}

func servesGroups(ctx context.Context, admin *kadm.Client) (bool, error) {
	brokers, err := admin.ApiVersions(ctx)
	if err != nil {
		return false, fmt.Errorf("ApiVersions: %w", err)
	}
	for _, broker := range brokers {
		if _, served := broker.KeyMaxVersion(int16(kmsg.FindCoordinator)); !served || broker.Err != nil {
			return false, broker.Err
		}
	}
	return true, nil
}

func checkOffsets(ctx context.Context, admin *kadm.Client, args common.Arguments) error {
	check := func(what string, listed kadm.ListedOffsets, err error, want func(partition int) int64) error {
		if err != nil {
			return fmt.Errorf("%s: %w", what, err)
		}
		for _, topic := range args.Topics {
			for partition := range args.Partitions {
				got, found := listed.Lookup(topic, int32(partition))
				if !found || got.Err != nil || got.Offset != want(partition) {
					return fmt.Errorf("%s of %s/%d: %+v, expected %d", what, topic, partition, got, want(partition))
				}
			}
		}
		return nil
	}
	start, err := admin.ListStartOffsets(ctx, args.Topics...)
	if err := check("first offset", start, err, func(int) int64 { return 0 }); err != nil {
		return err
	}
	end, err := admin.ListEndOffsets(ctx, args.Topics...)
	if err := check("end offset", end, err, func(int) int64 { return int64(args.Records) }); err != nil {
		return err
	}
	for _, at := range common.Times(args) {
		listed, err := admin.ListOffsetsAfterMilli(ctx, at, args.Topics...)
		err = check(fmt.Sprint("offset for time ", at), listed, err, func(partition int) int64 {
			if found := common.OffsetForTime(partition, args.Records, at); found >= 0 {
				return found
			}
			// kadm answers the end offset where no record is as late.
			return int64(args.Records)
		})
		if err != nil {
			return err
		}
	}
	return nil
}

func checkErrors(ctx context.Context, client *kgo.Client, args common.Arguments) error {
	unknown := args.Topics[0] + ".no-such-topic"
	topics, err := kadm.NewClient(client).ListTopics(ctx, unknown)
	if err != nil || !errors.Is(topics[unknown].Err, kerr.UnknownTopicOrPartition) {
		return fmt.Errorf("unknown topic: %v, %v", topics[unknown].Err, err)
	}
	beyond, err := newReader(args, map[string]map[int32]kgo.Offset{
		args.Topics[0]: {0: kgo.NewOffset().At(int64(args.Records + 1000))},
	})
	if err != nil {
		return err
	}
	defer beyond.Close()
	if err := beyond.PollFetches(ctx).Err(); !errors.Is(err, kerr.OffsetOutOfRange) {
		return fmt.Errorf("a fetch beyond the end: %v", err)
	}
	return nil
}
