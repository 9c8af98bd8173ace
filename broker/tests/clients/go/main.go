// franz-go: always the newest version of each request. What the program does: ../README.md
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

type arguments struct {
	bootstrap                  string
	partitions, first, records int
	topics                     []string
}

func main() {
	if len(os.Args) < 2 {
		fmt.Fprintln(os.Stderr, "usage: write|read|group --bootstrap ... TOPIC...")
		os.Exit(2)
	}
	var args arguments
	flags := flag.NewFlagSet(os.Args[1], flag.ExitOnError)
	flags.StringVar(&args.bootstrap, "bootstrap", "", "HOST:PORT")
	flags.IntVar(&args.partitions, "partitions", 1, "partitions of each topic")
	flags.IntVar(&args.first, "first", 0, "index of the first record to write")
	flags.IntVar(&args.records, "records", 0, "records of each partition")
	_ = flags.Parse(os.Args[2:])
	args.topics = flags.Args()

	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	var err error
	switch os.Args[1] {
	case "write":
		err = write(ctx, args)
	case "read":
		err = read(ctx, args)
	case "group":
		err = group(ctx, args)
	default:
		err = fmt.Errorf("unknown command %q", os.Args[1])
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "MISMATCH:", err)
		os.Exit(1)
	}
	fmt.Printf("%s: %d records of %d topics\n", os.Args[1], len(args.topics)*args.partitions*args.records, len(args.topics))
}

func create(ctx context.Context, admin *kadm.Client, args arguments, topic string) error {
	config := map[string]*string{"retention.ms": kadm.StringPtr("-1")}
	if _, err := admin.CreateTopic(ctx, int32(args.partitions), 1, config, topic); err != nil {
		return fmt.Errorf("create %s: %w", topic, err)
	}
	if _, err := admin.CreateTopic(ctx, int32(args.partitions), 1, config, topic); !errors.Is(err, kerr.TopicAlreadyExists) {
		return fmt.Errorf("create %s again: %v", topic, err)
	}
	return nil
}

// mode is how a topic's records are written: the last part of its name.
func mode(topic string) string {
	return topic[strings.LastIndexByte(topic, '.')+1:]
}

// codecs are the numbers in a batch's attributes; 0 for none.
var codecs = map[string]uint8{"gzip": 1, "snappy": 2, "lz4": 3, "zstd": 4}

func producerOptions(topic string) ([]kgo.Opt, error) {
	mode := mode(topic)
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

func write(ctx context.Context, args arguments) error {
	for _, topic := range args.topics {
		options, err := producerOptions(topic)
		if err != nil {
			return err
		}
		client, err := kgo.NewClient(append(options,
			kgo.SeedBrokers(args.bootstrap),
			kgo.RecordPartitioner(kgo.ManualPartitioner()),
			kgo.ProducerLinger(5*time.Millisecond),
			// A fresh topic is asked for again soon, not after 5 s.
			kgo.MetadataMinAge(100*time.Millisecond),
		)...)
		if err != nil {
			return err
		}
		defer client.Close()
		if args.first == 0 {
			if err := create(ctx, kadm.NewClient(client), args, topic); err != nil {
				return err
			}
		}
		var batch []*kgo.Record
		var indexes []int
		for index := args.first; index < args.first+args.records; index++ {
			for partition := range args.partitions {
				record := expected(topic, partition, index)
				record.Timestamp = time.UnixMilli(timestampMs(partition, index))
				batch, indexes = append(batch, record), append(indexes, index)
			}
		}
		// The results come as they were acknowledged; each carries the record given.
		index := make(map[*kgo.Record]int, len(batch))
		for at, record := range batch {
			index[record] = indexes[at]
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

func newReader(args arguments, assigned map[string]map[int32]kgo.Offset) (*kgo.Client, error) {
	return kgo.NewClient(
		kgo.SeedBrokers(args.bootstrap),
		kgo.ConsumePartitions(assigned),
		kgo.ConsumeResetOffset(kgo.NoResetOffset()),
		kgo.FetchIsolationLevel(kgo.ReadCommitted()),
		// Small, so that a partition takes several fetches and one batch is larger than the limit.
		kgo.FetchMaxPartitionBytes(16384),
		kgo.FetchMaxWait(100*time.Millisecond),
	)
}

func read(ctx context.Context, args arguments) error {
	assigned := map[string]map[int32]kgo.Offset{}
	for _, topic := range args.topics {
		assigned[topic] = map[int32]kgo.Offset{}
		for partition := range args.partitions {
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
	for missing := len(args.topics) * args.partitions * args.records; missing > 0; {
		fetches := client.PollFetches(ctx)
		if err := fetches.Err(); err != nil {
			return fmt.Errorf("%d records missing; seen %v: %w", missing, seen, err)
		}
		for have := range fetches.RecordsAll() {
			at := partition{have.Topic, have.Partition}
			if err := compare(have, seen[at]); err != nil {
				return err
			}
			seen[at]++
			missing--
			if codec := codecs[mode(have.Topic)]; codec != 0 && have.Attrs.CompressionType() == codec {
				compressed[at]++
			} else if have.Attrs.CompressionType() != 0 {
				return fmt.Errorf("%v offset %d: compressed by codec %d", at, have.Offset, have.Attrs.CompressionType())
			}
		}
	}
	for at, count := range seen {
		if count != args.records {
			return fmt.Errorf("%v: %d records, expected %d", at, count, args.records)
		}
	}
	admin := kadm.NewClient(client)
	groups, err := servesGroups(ctx, admin)
	if err != nil {
		return err
	}
	for at := range seen {
		// librdkafka takes a broker without FindCoordinator for one too old for lz4, and sends as it is.
		may := codecs[mode(at.topic)] != 0 && (groups || !strings.HasSuffix(at.topic, ".confluent.lz4"))
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

func checkOffsets(ctx context.Context, admin *kadm.Client, args arguments) error {
	check := func(what string, listed kadm.ListedOffsets, err error, want func(partition int) int64) error {
		if err != nil {
			return fmt.Errorf("%s: %w", what, err)
		}
		for _, topic := range args.topics {
			for partition := range args.partitions {
				got, found := listed.Lookup(topic, int32(partition))
				if !found || got.Err != nil || got.Offset != want(partition) {
					return fmt.Errorf("%s of %s/%d: %+v, expected %d", what, topic, partition, got, want(partition))
				}
			}
		}
		return nil
	}
	start, err := admin.ListStartOffsets(ctx, args.topics...)
	if err := check("first offset", start, err, func(int) int64 { return 0 }); err != nil {
		return err
	}
	end, err := admin.ListEndOffsets(ctx, args.topics...)
	if err := check("end offset", end, err, func(int) int64 { return int64(args.records) }); err != nil {
		return err
	}
	// Times before, amid and after the records of some partition: each is asked of all partitions.
	for _, at := range []int64{0, timestampMs(0, args.records/2), timestampMs(1, args.records/2), timestampMs(args.partitions, args.records)} {
		listed, err := admin.ListOffsetsAfterMilli(ctx, at, args.topics...)
		err = check(fmt.Sprint("offset for time ", at), listed, err, func(partition int) int64 {
			if found := offsetForTime(partition, args.records, at); found >= 0 {
				return found
			}
			// kadm answers the end offset where no record is as late.
			return int64(args.records)
		})
		if err != nil {
			return err
		}
	}
	return nil
}

func checkErrors(ctx context.Context, client *kgo.Client, args arguments) error {
	unknown := args.topics[0] + ".no-such-topic"
	topics, err := kadm.NewClient(client).ListTopics(ctx, unknown)
	if err != nil || !errors.Is(topics[unknown].Err, kerr.UnknownTopicOrPartition) {
		return fmt.Errorf("unknown topic: %v, %v", topics[unknown].Err, err)
	}
	beyond, err := newReader(args, map[string]map[int32]kgo.Offset{
		args.topics[0]: {0: kgo.NewOffset().At(int64(args.records + 1000))},
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
