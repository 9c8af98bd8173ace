// Package common is what the Go clients' programs share: the records that every client writes and expects, and the
// command line (../../README.md).
package common

import (
	"bytes"
	"fmt"
	"hash/crc32"
	"slices"
	"strings"
)

// Record is one record of any client.
type Record struct {
	Topic             string
	Partition, Offset int
	TimestampMs       int64
	Key, Value        []byte
	Headers           []Header
}

// Header of a record.
type Header struct {
	Key   string
	Value []byte
}

// Old on purpose: a broker that takes its own clock for the record's is found out.
const baseTimestampMs = 1_700_000_000_000

// pseudoRandomBytes are the top bytes of xorshift32: the same few lines in each language.
func pseudoRandomBytes(seed uint32, count int) []byte {
	state := max(seed, 1)
	out := make([]byte, count)
	for at := range out {
		state ^= state << 13
		state ^= state >> 17
		state ^= state << 5
		out[at] = byte(state >> 24)
	}
	return out
}

// TimestampMs is the time of a record.
func TimestampMs(partition, index int) int64 {
	at := int64(baseTimestampMs + partition*1_000_000 + index*1000)
	if index%5 == 3 {
		at -= 5000
	}
	return at
}

// limited: written by a client that refuses null header values, or a record without key and value.
func limited(topic string) bool {
	return slices.ContainsFunc([]string{".kafkajs.", ".kafka-python.", ".aiokafka."}, func(name string) bool {
		return strings.Contains(topic, name)
	})
}

// Mode is how a topic's records are written: the last part of its name.
func Mode(topic string) string {
	return topic[strings.LastIndexByte(topic, '.')+1:]
}

// Expected is the record that the README defines.
func Expected(topic string, partition, index int) Record {
	seed := crc32.ChecksumIEEE(fmt.Appendf(nil, "%s/%d/%d", topic, partition, index))
	r := Record{Topic: topic, Partition: partition, Offset: index, TimestampMs: TimestampMs(partition, index)}
	switch index % 5 {
	case 1:
		r.Key = []byte{}
	case 2:
		r.Key = fmt.Appendf(nil, "key-%d", index)
	case 3:
		r.Key = pseudoRandomBytes(seed, 16)
	case 4:
		r.Key = fmt.Appendf(nil, "ключ-%d", index)
	}
	switch index % 7 {
	case 0:
		r.Value = pseudoRandomBytes(seed, 256)
	case 1:
		r.Value = []byte{}
	case 3:
		r.Value = fmt.Appendf(nil, "value %d of %s/%d", index, topic, partition)
	case 4:
		r.Value = pseudoRandomBytes(seed, 1+int(seed%1000))
	case 5:
		r.Value = fmt.Appendf(nil, `{"i":%d}`, index)
	case 6:
		r.Value = pseudoRandomBytes(seed, 17)
	}
	if index == 10 {
		r.Value = bytes.Repeat(pseudoRandomBytes(seed, 1000), 100)
	}
	switch index % 4 {
	case 1:
		r.Headers = []Header{{Key: "h", Value: []byte("1")}}
	case 2:
		r.Headers = []Header{
			{Key: "trace", Value: pseudoRandomBytes(seed, 8)}, {Key: "empty", Value: []byte{}},
		}
	case 3:
		r.Headers = []Header{
			{Key: "twice", Value: []byte("a")}, {Key: "twice", Value: []byte("b")}, {Key: "twice", Value: []byte("a")},
		}
	}
	if limited(topic) {
		if r.Key == nil && r.Value == nil {
			r.Value = []byte{}
		}
	} else if index%4 == 2 {
		r.Headers = append(r.Headers, Header{Key: "null"})
	}
	return r
}

// sameBytes tells null from empty, which bytes.Equal does not.
func sameBytes(a, b []byte) bool {
	return (a == nil) == (b == nil) && bytes.Equal(a, b)
}

// Compare says in what a record that was read differs from the expected one.
func Compare(have Record, index int) error {
	want := Expected(have.Topic, have.Partition, index)
	differs := func(field string, a, b any) error {
		return fmt.Errorf("%s/%d record %d: %s is %.300s, expected %.300s",
			have.Topic, have.Partition, index, field, fmt.Sprintf("%#v", a), fmt.Sprintf("%#v", b))
	}
	switch {
	case have.Offset != want.Offset:
		return differs("offset", have.Offset, want.Offset)
	case have.TimestampMs != want.TimestampMs:
		return differs("timestamp", have.TimestampMs, want.TimestampMs)
	case !sameBytes(have.Key, want.Key):
		return differs("key", have.Key, want.Key)
	case !sameBytes(have.Value, want.Value):
		return differs("value", have.Value, want.Value)
	}
	same := slices.EqualFunc(have.Headers, want.Headers, func(a, b Header) bool {
		return a.Key == b.Key && sameBytes(a.Value, b.Value)
	})
	if !same {
		return differs("headers", have.Headers, want.Headers)
	}
	return nil
}

// OffsetForTime is the first offset, in the log's order, whose timestamp is at least t; -1 if there is none.
func OffsetForTime(partition, records int, t int64) int64 {
	for i := range records {
		if TimestampMs(partition, i) >= t {
			return int64(i)
		}
	}
	return -1
}

// Times before, amid and after the records of some partition: each is asked of all partitions.
func Times(args Arguments) []int64 {
	return []int64{
		0, TimestampMs(0, args.Records/2), TimestampMs(1, args.Records/2), TimestampMs(args.Partitions, args.Records),
	}
}
