// kafka-go. What the program does: ../../README.md
//
// kafka-go has no idempotent producer, and so none for transactions.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"chronik.example/clients/common"
	"github.com/segmentio/kafka-go"
)

func main() {
	common.Main(map[string]common.Command{
		"write": write, "read": read, "group": group, "member": member, "admin": adminAPI,
	})
}

// By default a client would see only after seconds which topics it has created.
func newTransport() *kafka.Transport {
	return &kafka.Transport{MetadataTTL: 100 * time.Millisecond}
}

func newClient(args common.Arguments) *kafka.Client {
	return &kafka.Client{Addr: kafka.TCP(args.Bootstrap), Timeout: 30 * time.Second, Transport: newTransport()}
}

func create(ctx context.Context, client *kafka.Client, args common.Arguments, topic string) error {
	request := &kafka.CreateTopicsRequest{Topics: []kafka.TopicConfig{{
		Topic:             topic,
		NumPartitions:     args.Partitions,
		ReplicationFactor: 1,
		ConfigEntries:     []kafka.ConfigEntry{{ConfigName: "retention.ms", ConfigValue: "-1"}},
	}}}
	created, err := client.CreateTopics(ctx, request)
	if err != nil || created.Errors[topic] != nil {
		return fmt.Errorf("create %s: %+v, %v", topic, created, err)
	}
	again, err := client.CreateTopics(ctx, request)
	if err != nil || !errors.Is(again.Errors[topic], kafka.TopicAlreadyExists) {
		return fmt.Errorf("create %s again: %+v, %v", topic, again, err)
	}
	return nil
}

// index of a message, and the partition it is to go to.
type place struct{ partition, index int }

func write(ctx context.Context, args common.Arguments) error {
	client := newClient(args)
	for _, topic := range args.Topics {
		if args.First == 0 {
			if err := create(ctx, client, args, topic); err != nil {
				return err
			}
		}
		if err := writeTo(ctx, args, topic); err != nil {
			return err
		}
	}
	return nil
}

func writeTo(ctx context.Context, args common.Arguments, topic string) error {
	codec, known := map[string]kafka.Compression{
		"plain": 0, "gzip": kafka.Gzip, "snappy": kafka.Snappy, "lz4": kafka.Lz4, "zstd": kafka.Zstd,
	}[common.Mode(topic)]
	if !known {
		return fmt.Errorf("unknown way to write %s", topic)
	}
	var mutex sync.Mutex
	var failure error
	acknowledged := 0
	// Of its own, and so it asks for the topic that was just created.
	transport := newTransport()
	defer transport.CloseIdleConnections()
	writer := &kafka.Writer{
		Addr:         kafka.TCP(args.Bootstrap),
		Transport:    transport,
		Topic:        topic,
		RequiredAcks: kafka.RequireOne,
		Compression:  codec,
		BatchTimeout: 5 * time.Millisecond,
		Balancer: kafka.BalancerFunc(func(message kafka.Message, _ ...int) int {
			return message.WriterData.(place).partition
		}),
		Completion: func(messages []kafka.Message, err error) {
			mutex.Lock()
			defer mutex.Unlock()
			failure = errors.Join(failure, err)
			for _, message := range messages {
				want := message.WriterData.(place)
				if err == nil && (message.Offset != int64(want.index) || message.Partition != want.partition) {
					failure = fmt.Errorf("%s %+v: acknowledged in partition %d at offset %d",
						topic, want, message.Partition, message.Offset)
				}
				acknowledged++
			}
		},
	}
	var batch []kafka.Message
	for _, record := range args.Expected(topic) {
		message := kafka.Message{
			Time:       time.UnixMilli(record.TimestampMs),
			Key:        record.Key,
			Value:      record.Value,
			WriterData: place{record.Partition, record.Offset},
		}
		for _, header := range record.Headers {
			message.Headers = append(message.Headers, kafka.Header(header))
		}
		batch = append(batch, message)
	}
	if err := writer.WriteMessages(ctx, batch...); err != nil {
		return fmt.Errorf("%s: %w", topic, err)
	}
	if err := writer.Close(); err != nil {
		return err
	}
	mutex.Lock()
	defer mutex.Unlock()
	if failure == nil && acknowledged != len(batch) {
		failure = fmt.Errorf("%s: %d of %d records acknowledged", topic, acknowledged, len(batch))
	}
	return failure
}

// bytesOf tells null from empty.
func bytesOf(bytes kafka.Bytes) ([]byte, error) {
	if bytes == nil {
		return nil, nil
	}
	read, err := kafka.ReadAll(bytes)
	if read == nil {
		read = []byte{}
	}
	return read, err
}

func fromRead(topic string, partition int, read *kafka.Record) (common.Record, error) {
	key, keyErr := bytesOf(read.Key)
	value, valueErr := bytesOf(read.Value)
	record := common.Record{
		Topic:       topic,
		Partition:   partition,
		Offset:      int(read.Offset),
		TimestampMs: read.Time.UnixMilli(),
		Key:         key,
		Value:       value,
	}
	for _, header := range read.Headers {
		record.Headers = append(record.Headers, common.Header(header))
	}
	return record, errors.Join(keyErr, valueErr)
}

// read fetches by kafka-go's client: its Reader does not tell null from empty.
func read(ctx context.Context, args common.Arguments) error {
	client := newClient(args)
	for _, topic := range args.Topics {
		for partition := range args.Partitions {
			for next := 0; next < args.Records; {
				fetched, err := fetch(ctx, client, topic, partition, next)
				if err != nil {
					return fmt.Errorf("%s/%d at %d: %w", topic, partition, next, err)
				}
				for {
					have, err := fetched.Records.ReadRecord()
					if errors.Is(err, io.EOF) {
						break
					}
					if err != nil {
						return fmt.Errorf("%s/%d at %d: %w", topic, partition, next, err)
					}
					// A batch is handed out whole.
					if have.Offset < int64(next) {
						continue
					}
					record, err := fromRead(topic, partition, have)
					if err != nil {
						return err
					}
					if next >= args.Records {
						return fmt.Errorf("%s/%d: more than %d records", topic, partition, args.Records)
					}
					if err := common.Compare(record, next); err != nil {
						return err
					}
					next++
				}
			}
		}
	}
	if err := checkOffsets(ctx, client, args); err != nil {
		return err
	}
	return checkErrors(ctx, client, args)
}

func fetch(ctx context.Context, client *kafka.Client, topic string, partition, offset int) (*kafka.FetchResponse, error) {
	fetched, err := client.Fetch(ctx, &kafka.FetchRequest{
		Topic:          topic,
		Partition:      partition,
		Offset:         int64(offset),
		MinBytes:       1,
		MaxBytes:       10_000_000,
		MaxWait:        100 * time.Millisecond,
		IsolationLevel: kafka.ReadCommitted,
	})
	if err != nil {
		return nil, err
	}
	return fetched, fetched.Error
}

func checkOffsets(ctx context.Context, client *kafka.Client, args common.Arguments) error {
	for _, topic := range args.Topics {
		var edges []kafka.OffsetRequest
		for partition := range args.Partitions {
			edges = append(edges, kafka.FirstOffsetOf(partition), kafka.LastOffsetOf(partition))
		}
		listed, err := client.ListOffsets(ctx, &kafka.ListOffsetsRequest{Topics: map[string][]kafka.OffsetRequest{topic: edges}})
		if err != nil || len(listed.Topics[topic]) != args.Partitions {
			return fmt.Errorf("offsets of %s: %+v, %v", topic, listed, err)
		}
		for _, at := range listed.Topics[topic] {
			if at.Error != nil || at.FirstOffset != 0 || at.LastOffset != int64(args.Records) {
				return fmt.Errorf("offsets of %s: %+v, expected 0 and %d", topic, at, args.Records)
			}
		}
		for _, timeMs := range common.Times(args) {
			var asked []kafka.OffsetRequest
			for partition := range args.Partitions {
				asked = append(asked, kafka.TimeOffsetOf(partition, time.UnixMilli(timeMs)))
			}
			listed, err := client.ListOffsets(ctx, &kafka.ListOffsetsRequest{Topics: map[string][]kafka.OffsetRequest{topic: asked}})
			if err != nil || len(listed.Topics[topic]) != args.Partitions {
				return fmt.Errorf("offsets of %s for %d: %+v, %v", topic, timeMs, listed, err)
			}
			for _, at := range listed.Topics[topic] {
				want := common.OffsetForTime(at.Partition, args.Records, timeMs)
				if _, found := at.Offsets[want]; at.Error != nil || !found || len(at.Offsets) != 1 {
					return fmt.Errorf("offset of %s for %d: %+v, expected %d", topic, timeMs, at, want)
				}
			}
		}
	}
	return nil
}

func checkErrors(ctx context.Context, client *kafka.Client, args common.Arguments) error {
	if _, err := fetch(ctx, client, args.Topics[0], 0, args.Records+1000); !errors.Is(err, kafka.OffsetOutOfRange) {
		return fmt.Errorf("a fetch beyond the end: %v", err)
	}
	unknown, err := client.Metadata(ctx, &kafka.MetadataRequest{Topics: []string{args.Topics[0] + ".no-such-topic"}})
	if err != nil || len(unknown.Topics) != 1 || !errors.Is(unknown.Topics[0].Error, kafka.UnknownTopicOrPartition) {
		return fmt.Errorf("unknown topic: %+v, %v", unknown, err)
	}
	return nil
}
