// sarama. What the program does: ../../README.md
package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"chronik.example/clients/common"
	"github.com/IBM/sarama"
)

func main() {
	common.Main(map[string]common.Command{
		"write": write, "read": read, "group": group, "member": member, "transact": transact, "admin": adminAPI,
	})
}

func newConfig() *sarama.Config {
	config := sarama.NewConfig()
	config.Version = sarama.MaxVersion
	config.Producer.Partitioner = sarama.NewManualPartitioner
	config.Producer.Return.Successes = true
	// Else a retry, as on a new topic that has no leader yet, would reorder the records.
	config.Net.MaxOpenRequests = 1
	config.Consumer.Return.Errors = true
	config.Consumer.IsolationLevel = sarama.ReadCommitted
	config.Consumer.MaxWaitTime = 100 * time.Millisecond
	config.Consumer.Offsets.AutoCommit.Enable = false
	config.Consumer.Offsets.Initial = sarama.OffsetOldest
	config.Consumer.Group.Session.Timeout = 6 * time.Second
	config.Consumer.Group.Heartbeat.Interval = 200 * time.Millisecond
	return config
}

// connected opens a client and an admin beside it, and calls with both.
func connected(args common.Arguments, config *sarama.Config, use func(sarama.Client, sarama.ClusterAdmin) error) error {
	client, err := sarama.NewClient([]string{args.Bootstrap}, config)
	if err != nil {
		return err
	}
	admin, err := sarama.NewClusterAdminFromClient(client)
	if err != nil {
		return err
	}
	// It closes the client, too.
	defer admin.Close()
	return use(client, admin)
}

func create(admin sarama.ClusterAdmin, args common.Arguments, topic string) error {
	retention := "-1"
	detail := &sarama.TopicDetail{
		NumPartitions:     int32(args.Partitions),
		ReplicationFactor: 1,
		ConfigEntries:     map[string]*string{"retention.ms": &retention},
	}
	if err := admin.CreateTopic(topic, detail, false); err != nil {
		return fmt.Errorf("create %s: %w", topic, err)
	}
	if err := admin.CreateTopic(topic, detail, false); !errors.Is(err, sarama.ErrTopicAlreadyExists) {
		return fmt.Errorf("create %s again: %v", topic, err)
	}
	return nil
}

func producerConfig(topic string) (*sarama.Config, error) {
	config := newConfig()
	mode := common.Mode(topic)
	if mode == "idempotent" {
		config.Producer.Idempotent = true
		config.Producer.RequiredAcks = sarama.WaitForAll
		return config, nil
	}
	codec, known := map[string]sarama.CompressionCodec{
		"plain": sarama.CompressionNone, "gzip": sarama.CompressionGZIP, "snappy": sarama.CompressionSnappy,
		"lz4": sarama.CompressionLZ4, "zstd": sarama.CompressionZSTD,
	}[mode]
	if !known {
		return nil, fmt.Errorf("unknown way to write %s", topic)
	}
	config.Producer.RequiredAcks = sarama.WaitForLocal
	config.Producer.Compression = codec
	return config, nil
}

func toSend(record common.Record) *sarama.ProducerMessage {
	message := &sarama.ProducerMessage{
		Topic:     record.Topic,
		Partition: int32(record.Partition),
		Timestamp: time.UnixMilli(record.TimestampMs),
		Metadata:  record.Offset,
	}
	if record.Key != nil {
		message.Key = sarama.ByteEncoder(record.Key)
	}
	if record.Value != nil {
		message.Value = sarama.ByteEncoder(record.Value)
	}
	for _, header := range record.Headers {
		message.Headers = append(message.Headers, sarama.RecordHeader{Key: []byte(header.Key), Value: header.Value})
	}
	return message
}

func fromRead(message *sarama.ConsumerMessage) common.Record {
	record := common.Record{
		Topic:       message.Topic,
		Partition:   int(message.Partition),
		Offset:      int(message.Offset),
		TimestampMs: message.Timestamp.UnixMilli(),
		Key:         message.Key,
		Value:       message.Value,
	}
	for _, header := range message.Headers {
		record.Headers = append(record.Headers, common.Header{Key: string(header.Key), Value: header.Value})
	}
	return record
}

// all the records to write.
func all(args common.Arguments, topic string) []*sarama.ProducerMessage {
	var batch []*sarama.ProducerMessage
	for _, record := range args.Expected(topic) {
		batch = append(batch, toSend(record))
	}
	return batch
}

func write(_ context.Context, args common.Arguments) error {
	for _, topic := range args.Topics {
		config, err := producerConfig(topic)
		if err != nil {
			return err
		}
		err = connected(args, config, func(client sarama.Client, admin sarama.ClusterAdmin) error {
			if args.First == 0 {
				if err := create(admin, args, topic); err != nil {
					return err
				}
			}
			producer, err := sarama.NewSyncProducerFromClient(client)
			if err != nil {
				return err
			}
			defer producer.Close()
			batch := all(args, topic)
			if err := producer.SendMessages(batch); err != nil {
				return fmt.Errorf("%s: %w", topic, err)
			}
			for _, message := range batch {
				if index := message.Metadata.(int); message.Offset != int64(index) {
					return fmt.Errorf("%s/%d: acknowledged at offset %d, expected %d",
						topic, message.Partition, message.Offset, index)
				}
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

func read(ctx context.Context, args common.Arguments) error {
	return connected(args, newConfig(), func(client sarama.Client, admin sarama.ClusterAdmin) error {
		consumer, err := sarama.NewConsumerFromClient(client)
		if err != nil {
			return err
		}
		defer consumer.Close()
		// All are opened first, so that one fetch is for many.
		var readers []sarama.PartitionConsumer
		for _, topic := range args.Topics {
			for partition := range args.Partitions {
				reader, err := consumer.ConsumePartition(topic, int32(partition), 0)
				if err != nil {
					return fmt.Errorf("%s/%d: %w", topic, partition, err)
				}
				readers = append(readers, reader)
			}
		}
		for at, reader := range readers {
			topic, partition := args.Topics[at/args.Partitions], at%args.Partitions
			if err := readPartition(ctx, reader, topic, partition, args.Records); err != nil {
				return err
			}
		}
		if err := checkOffsets(client, args); err != nil {
			return err
		}
		_, err = consumer.ConsumePartition(args.Topics[0], 0, int64(args.Records+1000))
		if !errors.Is(err, sarama.ErrOffsetOutOfRange) {
			return fmt.Errorf("a reader beyond the end: %v", err)
		}
		unknown, err := admin.DescribeTopics([]string{args.Topics[0] + ".no-such-topic"})
		if err != nil || len(unknown) != 1 || !errors.Is(unknown[0].Err, sarama.ErrUnknownTopicOrPartition) {
			return fmt.Errorf("unknown topic: %+v, %v", unknown, err)
		}
		return nil
	})
}

func readPartition(ctx context.Context, reader sarama.PartitionConsumer, topic string, partition, records int) error {
	defer reader.AsyncClose()
	for index := range records {
		select {
		case message := <-reader.Messages():
			if err := common.Compare(fromRead(message), index); err != nil {
				return err
			}
		case err := <-reader.Errors():
			return fmt.Errorf("%s/%d record %d: %w", topic, partition, index, err)
		case <-ctx.Done():
			return fmt.Errorf("%s/%d: read only up to %d", topic, partition, index)
		}
	}
	if end := reader.HighWaterMarkOffset(); end != int64(records) {
		return fmt.Errorf("%s/%d: the high watermark is %d, expected %d", topic, partition, end, records)
	}
	return nil
}

func checkOffsets(client sarama.Client, args common.Arguments) error {
	for _, topic := range args.Topics {
		for partition := range args.Partitions {
			asked := map[int64]int64{sarama.OffsetOldest: 0, sarama.OffsetNewest: int64(args.Records)}
			for _, at := range common.Times(args) {
				asked[at] = common.OffsetForTime(partition, args.Records, at)
			}
			for at, want := range asked {
				if got, err := client.GetOffset(topic, int32(partition), at); err != nil || got != want {
					return fmt.Errorf("offset of %s/%d for %d: %d, expected %d; %v", topic, partition, at, got, want, err)
				}
			}
		}
	}
	return nil
}
