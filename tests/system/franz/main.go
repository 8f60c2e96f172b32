// franz-go against the TCP listener: idempotent produce with each codec, group consume with static and cooperative members, admin.
// Prints the highest version of each API that was spoken.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sort"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

type spoken struct {
	sync.Mutex
	versions map[int16]int16
}

func (s *spoken) OnBrokerE2E(_ kgo.BrokerMetadata, key int16, _ kgo.BrokerE2E) {
	s.Lock()
	defer s.Unlock()
	if _, ok := s.versions[key]; !ok {
		s.versions[key] = 0
	}
}

func check(what string, err error) {
	if err != nil {
		fmt.Fprintf(os.Stderr, "%s: %v\n", what, err)
		os.Exit(1)
	}
}

func main() {
	seed := os.Args[1]
	ctx, cancel := context.WithTimeout(context.Background(), 90*time.Second)
	defer cancel()
	s := &spoken{versions: map[int16]int16{}}
	cl, err := kgo.NewClient(kgo.SeedBrokers(seed), kgo.WithHooks(s))
	check("client", err)
	defer cl.Close()

	create := kmsg.NewPtrCreateTopicsRequest()
	topic := kmsg.NewCreateTopicsRequestTopic()
	topic.Topic, topic.NumPartitions, topic.ReplicationFactor = "franz", 4, -1
	create.Topics = append(create.Topics, topic)
	created, err := create.RequestWith(ctx, cl)
	check("create", err)
	check("create topic", kerr.ErrorForCode(created.Topics[0].ErrorCode))
	if len(created.Topics[0].Configs) == 0 {
		check("create topic", fmt.Errorf("no configs in the answer"))
	}

	total := 0
	for _, codec := range []kgo.CompressionCodec{kgo.NoCompression(), kgo.GzipCompression(), kgo.SnappyCompression(), kgo.Lz4Compression(), kgo.ZstdCompression()} {
		p, err := kgo.NewClient(kgo.SeedBrokers(seed), kgo.ProducerBatchCompression(codec), kgo.DefaultProduceTopic("franz"), kgo.WithHooks(s))
		check("producer", err)
		for i := 0; i < 200; i++ {
			p.Produce(ctx, &kgo.Record{Key: []byte(fmt.Sprint("k", i)), Value: []byte(fmt.Sprint("v", total))}, func(_ *kgo.Record, err error) { check("produce", err) })
			total++
		}
		check("flush", p.Flush(ctx))
		p.Close()
	}

	var mu sync.Mutex
	got := map[string]bool{}
	var wg sync.WaitGroup
	owners := map[string]bool{}
	done, finish := context.WithCancel(ctx)
	for _, id := range []string{"one", "two"} {
		id := id
		assigned := func(_ context.Context, _ *kgo.Client, p map[string][]int32) {
			mu.Lock()
			owners[id] = owners[id] || len(p["franz"]) > 0
			mu.Unlock()
		}
		c, err := kgo.NewClient(kgo.SeedBrokers(seed), kgo.ConsumerGroup("fg"), kgo.ConsumeTopics("franz"), kgo.InstanceID(id), kgo.WithHooks(s),
			kgo.Balancers(kgo.CooperativeStickyBalancer()), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()),
			kgo.HeartbeatInterval(300*time.Millisecond), kgo.SessionTimeout(6*time.Second), kgo.OnPartitionsAssigned(assigned))
		check("consumer", err)
		wg.Add(1)
		go func() {
			defer wg.Done()
			defer c.Close()
			for done.Err() == nil {
				poll, cancel := context.WithTimeout(done, 200*time.Millisecond)
				f := c.PollFetches(poll)
				cancel()
				f.EachError(func(t string, p int32, err error) {
					if done.Err() == nil && !errors.Is(err, context.DeadlineExceeded) {
						check(fmt.Sprint("fetch ", t, p), err)
					}
				})
				mu.Lock()
				f.EachRecord(func(r *kgo.Record) { got[string(r.Value)] = true })
				if len(got) == total && owners["one"] && owners["two"] {
					finish()
				}
				mu.Unlock()
			}
			check("commit", c.CommitUncommittedOffsets(ctx))
		}()
	}
	wg.Wait()
	finish()
	if len(got) != total {
		check("consume", fmt.Errorf("%d of %d records", len(got), total))
	}
	describe := kmsg.NewPtrDescribeGroupsRequest()
	describe.Groups = []string{"fg"}
	d, err := describe.RequestWith(ctx, cl)
	check("describe", err)
	check("describe group", kerr.ErrorForCode(d.Groups[0].ErrorCode))
	fetch := kmsg.NewPtrOffsetFetchRequest()
	g := kmsg.NewOffsetFetchRequestGroup()
	g.Group = "fg"
	fetch.Groups = append(fetch.Groups, g)
	fetch.Group = "fg"
	o, err := fetch.RequestWith(ctx, cl)
	check("offsets", err)
	var sum int64
	for _, gr := range o.Groups {
		for _, t := range gr.Topics {
			for _, p := range t.Partitions {
				sum += p.Offset
			}
		}
	}
	if sum != int64(total) {
		check("offsets", fmt.Errorf("committed %d of %d", sum, total))
	}
	spoke, unknown := sweep(seed, "franz")
	fmt.Println(spoke, "versions of all APIs read byte for byte,", unknown, "too new for this kmsg")
	del := kmsg.NewPtrDeleteTopicsRequest()
	dt := kmsg.NewDeleteTopicsRequestTopic()
	dt.Topic = kmsg.StringPtr("franz")
	del.Topics, del.TopicNames = append(del.Topics, dt), []string{"franz"}
	x, err := del.RequestWith(ctx, cl)
	check("delete", err)
	check("delete topic", kerr.ErrorForCode(x.Topics[0].ErrorCode))
	keys := []int{}
	for k := range s.versions {
		keys = append(keys, int(k))
	}
	sort.Ints(keys)
	fmt.Println("franz-go spoke api keys", keys)
}
