package common

import (
	"bytes"
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"
)

// Arguments are the command line that all clients share.
type Arguments struct {
	Bootstrap                  string
	Partitions, First, Records int
	Topics                     []string
}

// End is the index behind the last record that is meant.
func (args Arguments) End() int { return args.First + args.Records }

// Expected are all the records of a topic that are meant, the partitions interleaved.
func (args Arguments) Expected(topic string) []Record {
	var records []Record
	for index := args.First; index < args.End(); index++ {
		for partition := range args.Partitions {
			records = append(records, Expected(topic, partition, index))
		}
	}
	return records
}

// Command is one of a program's. It ends with its context: in time, or for a member when it is asked to leave.
type Command func(ctx context.Context, args Arguments) error

// Main runs the command asked for, and turns what goes wrong into one line and exit code 1.
func Main(commands map[string]Command) {
	if len(os.Args) < 2 || commands[os.Args[1]] == nil {
		fmt.Fprintln(os.Stderr, "usage: COMMAND --bootstrap ... TOPIC...")
		os.Exit(2)
	}
	name := os.Args[1]
	var args Arguments
	flags := flag.NewFlagSet(name, flag.ExitOnError)
	flags.StringVar(&args.Bootstrap, "bootstrap", "", "HOST:PORT")
	flags.IntVar(&args.Partitions, "partitions", 1, "partitions of each topic")
	flags.IntVar(&args.First, "first", 0, "index of the first record to write")
	flags.IntVar(&args.Records, "records", 0, "records of each partition")
	_ = flags.Parse(os.Args[2:])
	args.Topics = flags.Args()

	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	if name == "member" || name == "transform" {
		ctx, cancel = signal.NotifyContext(context.Background(), syscall.SIGTERM)
	}
	defer cancel()
	if err := commands[name](ctx, args); err != nil {
		fmt.Fprintln(os.Stderr, "MISMATCH:", err)
		os.Exit(1)
	}
	if name == "admin" {
		fmt.Println("admin: done")
	} else {
		fmt.Printf("%s: %d records of %d topics\n", name, len(args.Topics)*args.Partitions*args.Records, len(args.Topics))
	}
}

// Taking is what a group takes: of each partition of the topic, the records from the committed one on.
type Taking struct {
	mutex   sync.Mutex
	args    Arguments
	next    []int
	missing int
}

// NewTaking starts at the first record that is meant.
func NewTaking(args Arguments) *Taking {
	next := slices.Repeat([]int{args.First}, args.Partitions)
	return &Taking{args: args, next: next, missing: args.Partitions * args.Records}
}

// Take compares a record with the one that comes next.
func (t *Taking) Take(have Record) error {
	t.mutex.Lock()
	defer t.mutex.Unlock()
	if t.next[have.Partition] >= t.args.End() {
		return fmt.Errorf("%s/%d: a record behind %d", have.Topic, have.Partition, t.args.End())
	}
	if err := Compare(have, t.next[have.Partition]); err != nil {
		return err
	}
	t.next[have.Partition]++
	t.missing--
	return nil
}

// Complete tells whether all were taken.
func (t *Taking) Complete() bool {
	t.mutex.Lock()
	defer t.mutex.Unlock()
	return t.missing == 0
}

// Seen says how far it has come.
func (t *Taking) Seen() string {
	t.mutex.Lock()
	defer t.mutex.Unlock()
	return fmt.Sprint(t.next)
}

// Committed is what a read_committed reader takes of a topic that transactions wrote: of each partition the records from
// the first on, each once. Only their values are compared: offsets have gaps.
type Committed struct {
	Topic string
	Seen  []int
}

// Take compares a value with the next record's.
func (c *Committed) Take(partition int, value []byte) error {
	want := Expected(c.Topic, partition, c.Seen[partition]).Value
	if !bytes.Equal(value, want) {
		return fmt.Errorf("%s/%d record %d: %.200q, expected %.200q", c.Topic, partition, c.Seen[partition], value, want)
	}
	c.Seen[partition]++
	return nil
}

// CheckComplete wants as many in each partition.
func (c *Committed) CheckComplete(want int) error {
	if slices.ContainsFunc(c.Seen, func(seen int) bool { return seen != want }) {
		return fmt.Errorf("%s has %v committed records, expected %d each", c.Topic, c.Seen, want)
	}
	return nil
}

// Member says what a member of a group is assigned and what it takes.
type Member struct {
	Topic, Group string
	mutex        sync.Mutex
	said         string
}

// NewMember of the group that the arguments name behind the topic.
func NewMember(args Arguments) *Member {
	return &Member{Topic: args.Topics[0], Group: args.Topics[1]}
}

// Ranges tells whether it is to have the assignor that all clients know.
func (m *Member) Ranges() bool { return strings.HasSuffix(m.Group, ".range") }

// Assigned says the partitions, if they are others than before.
func (m *Member) Assigned(partitions []int32) {
	slices.Sort(partitions)
	said := "assigned"
	for _, partition := range partitions {
		said += fmt.Sprintf(" %d", partition)
	}
	m.mutex.Lock()
	defer m.mutex.Unlock()
	if said != m.said {
		m.said = said
		fmt.Println(said)
	}
}

// Took says the record.
func (m *Member) Took(partition int32, offset int64) {
	fmt.Printf("took %d %d\n", partition, offset)
}
