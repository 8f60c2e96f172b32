// The sweep: every version of every API that the broker advertises, asked once. The answer must decode, and encoding what was
// decoded must give the broker's bytes back: no field missing, moved or left over.
package main

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"
)

type wire struct {
	net.Conn
	correlation int32
}

// ask returns the response's body.
func (w *wire) ask(r kmsg.Request) ([]byte, error) {
	w.correlation++
	if err := w.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
		return nil, err
	}
	if _, err := w.Write(kmsg.NewRequestFormatter(kmsg.FormatterClientID("sweep")).AppendRequest(nil, r, w.correlation)); err != nil {
		return nil, err
	}
	var size [4]byte
	if _, err := io.ReadFull(w, size[:]); err != nil {
		return nil, err
	}
	answer := make([]byte, binary.BigEndian.Uint32(size[:]))
	if _, err := io.ReadFull(w, answer); err != nil {
		return nil, err
	}
	if c := int32(binary.BigEndian.Uint32(answer)); c != w.correlation {
		return nil, fmt.Errorf("correlation %d instead of %d", c, w.correlation)
	}
	answer = answer[4:]
	if r.IsFlexible() && r.Key() != 18 {
		if answer[0] != 0 {
			return nil, fmt.Errorf("%d tags in the header", answer[0])
		}
		answer = answer[1:]
	}
	return answer, nil
}

// What each request asks for: something that is there and something that is not.
func fill(r kmsg.Request, v int16, topic string) {
	switch q := r.(type) {
	case *kmsg.MetadataRequest:
		t := kmsg.NewMetadataRequestTopic()
		t.Topic = kmsg.StringPtr(topic)
		q.Topics = append(q.Topics, t)
		q.IncludeTopicAuthorizedOperations = true
		q.IncludeClusterAuthorizedOperations = true
	case *kmsg.ListOffsetsRequest:
		q.ReplicaID = -1
		t := kmsg.NewListOffsetsRequestTopic()
		t.Topic = topic
		for _, ts := range []int64{-1, -2, -3, 0} {
			p := kmsg.NewListOffsetsRequestTopicPartition()
			p.Partition = 0
			p.Timestamp = ts
			if v == 1 || ts == -1 || v >= 7 {
				t.Partitions = append(t.Partitions, p)
				break
			}
		}
		q.Topics = append(q.Topics, t)
	case *kmsg.FetchRequest:
		q.MaxWaitMillis = 10
		q.MinBytes = 1
		q.MaxBytes = 1 << 20
		q.ReplicaID = -1
		t := kmsg.NewFetchRequestTopic()
		t.Topic = topic
		p := kmsg.NewFetchRequestTopicPartition()
		p.Partition = 0
		p.PartitionMaxBytes = 1 << 20
		p2 := p
		p2.Partition = 99
		t.Partitions = append(t.Partitions, p, p2)
		q.Topics = append(q.Topics, t)
	case *kmsg.ProduceRequest:
		q.Acks = -1
		q.TimeoutMillis = 1000
		t := kmsg.NewProduceRequestTopic()
		t.Topic = topic
		p := kmsg.NewProduceRequestTopicPartition()
		p.Partition = 0
		p.Records = []byte("nonsense that is no batch at all, but long enough to hold a header of one batch ok")
		p2 := p
		p2.Partition = 77
		t.Partitions = append(t.Partitions, p, p2)
		q.Topics = append(q.Topics, t)
	case *kmsg.OffsetCommitRequest:
		q.Group = "sweep"
		q.Generation = -1
		t := kmsg.NewOffsetCommitRequestTopic()
		t.Topic = topic
		p := kmsg.NewOffsetCommitRequestTopicPartition()
		p.Partition, p.Offset, p.Metadata = 0, 3, kmsg.StringPtr("hello")
		t.Partitions = append(t.Partitions, p)
		q.Topics = append(q.Topics, t)
	case *kmsg.OffsetFetchRequest:
		q.Group = "sweep"
		t := kmsg.NewOffsetFetchRequestTopic()
		t.Topic = topic
		t.Partitions = []int32{0, 1}
		q.Topics = append(q.Topics, t)
		g := kmsg.NewOffsetFetchRequestGroup()
		g.Group = "sweep"
		g2 := g
		g2.Group = "unheard"
		gt := kmsg.NewOffsetFetchRequestGroupTopic()
		gt.Topic = topic
		gt.Partitions = []int32{0, 1}
		g2.Topics = append(g2.Topics, gt)
		q.Groups = append(q.Groups, g, g2)
	case *kmsg.FindCoordinatorRequest:
		q.CoordinatorKey = "sweep"
		q.CoordinatorKeys = []string{"sweep", "other"}
	case *kmsg.JoinGroupRequest:
		q.Group = fmt.Sprintf("join%d", v)
		q.SessionTimeoutMillis = 6000
		q.RebalanceTimeoutMillis = 6000
		q.ProtocolType = "consumer"
		p := kmsg.NewJoinGroupRequestProtocol()
		p.Name = "range"
		p.Metadata = []byte{0, 0, 0, 0, 0, 0, 0, 0, 0, 0}
		q.Protocols = append(q.Protocols, p)
	case *kmsg.SyncGroupRequest:
		q.Group = "sweep"
		q.MemberID = "nobody"
		q.ProtocolType, q.Protocol = kmsg.StringPtr("consumer"), kmsg.StringPtr("range")
	case *kmsg.HeartbeatRequest:
		q.Group = "sweep"
		q.MemberID = "nobody"
	case *kmsg.LeaveGroupRequest:
		q.Group = "sweep"
		q.MemberID = "nobody"
		m := kmsg.NewLeaveGroupRequestMember()
		m.MemberID = "nobody"
		q.Members = append(q.Members, m)
	case *kmsg.DescribeGroupsRequest:
		q.Groups = []string{"sweep", "unheard"}
		q.IncludeAuthorizedOperations = true
	case *kmsg.CreateTopicsRequest:
		t := kmsg.NewCreateTopicsRequestTopic()
		t.Topic, t.NumPartitions, t.ReplicationFactor = fmt.Sprintf("ct%d-%d", v, time.Now().UnixNano()), 1, 1
		t2 := t
		t2.Topic = topic
		q.Topics = append(q.Topics, t, t2)
		q.TimeoutMillis = 3000
	case *kmsg.DeleteTopicsRequest:
		t := kmsg.NewDeleteTopicsRequestTopic()
		t.Topic = kmsg.StringPtr("nonono")
		q.Topics = append(q.Topics, t)
		t2 := kmsg.NewDeleteTopicsRequestTopic()
		t2.TopicID = [16]byte{1, 2}
		q.Topics = append(q.Topics, t2)
		q.TopicNames = []string{"nonono"}
		q.TimeoutMillis = 3000
	case *kmsg.DeleteRecordsRequest:
		t := kmsg.NewDeleteRecordsRequestTopic()
		t.Topic = topic
		for i, o := range []int64{0, 5} {
			p := kmsg.NewDeleteRecordsRequestTopicPartition()
			p.Partition, p.Offset = int32(i*50), o
			t.Partitions = append(t.Partitions, p)
		}
		q.Topics = append(q.Topics, t)
		q.TimeoutMillis = 1000
	case *kmsg.InitProducerIDRequest:
		q.ProducerID, q.ProducerEpoch = -1, -1
		if v%2 == 1 {
			q.TransactionalID = kmsg.StringPtr("tx")
			q.TransactionTimeoutMillis = 10000
		}
	case *kmsg.DescribeConfigsRequest:
		for i, n := range []string{topic, "1", "nono", "1"} {
			x := kmsg.NewDescribeConfigsRequestResource()
			x.ResourceType = []kmsg.ConfigResourceType{2, 4, 2, 8}[i]
			x.ResourceName = n
			q.Resources = append(q.Resources, x)
		}
		q.IncludeSynonyms = true
		q.IncludeDocumentation = true
	case *kmsg.AlterConfigsRequest:
		for i, n := range []string{topic, "nono", "1"} {
			x := kmsg.NewAlterConfigsRequestResource()
			x.ResourceType = []kmsg.ConfigResourceType{2, 2, 8}[i]
			x.ResourceName = n
			c := kmsg.NewAlterConfigsRequestResourceConfig()
			c.Name, c.Value = "retention.ms", kmsg.StringPtr("1234567")
			x.Configs = append(x.Configs, c)
			q.Resources = append(q.Resources, x)
		}
	case *kmsg.IncrementalAlterConfigsRequest:
		for _, op := range []int{0, 1, 2, 3} {
			x := kmsg.NewIncrementalAlterConfigsRequestResource()
			x.ResourceType = 2
			x.ResourceName = topic
			if op > 0 {
				x.ResourceName = fmt.Sprint("nono", op)
			}
			c := kmsg.NewIncrementalAlterConfigsRequestResourceConfig()
			c.Name, c.Value, c.Op = "retention.ms", kmsg.StringPtr("1234567"), kmsg.IncrementalAlterConfigOp(op)
			x.Configs = append(x.Configs, c)
			q.Resources = append(q.Resources, x)
		}
	case *kmsg.CreatePartitionsRequest:
		for _, n := range []string{topic, "nono"} {
			t := kmsg.NewCreatePartitionsRequestTopic()
			t.Topic, t.Count = n, 1
			q.Topics = append(q.Topics, t)
		}
		q.TimeoutMillis = 1000
	case *kmsg.DeleteGroupsRequest:
		q.Groups = []string{"unheard", ""}
	case *kmsg.OffsetDeleteRequest:
		q.Group = "sweep"
		t := kmsg.NewOffsetDeleteRequestTopic()
		t.Topic = topic
		p := kmsg.NewOffsetDeleteRequestTopicPartition()
		t.Partitions = append(t.Partitions, p)
		q.Topics = append(q.Topics, t)
	case *kmsg.ApiVersionsRequest:
		q.ClientSoftwareName, q.ClientSoftwareVersion = "sweep", "1.0"
	}
}

func sweepOne(w *wire, key, version int16, topic string) error {
	r := kmsg.RequestForKey(key)
	if d, ok := r.(interface{ Default() }); ok {
		d.Default()
	}
	r.SetVersion(version)
	fill(r, version, topic)
	body, err := w.ask(r)
	if err != nil {
		return err
	}
	a := r.ResponseKind()
	a.SetVersion(version)
	if err := a.ReadFrom(body); err != nil {
		return err
	}
	if again := a.AppendTo(nil); !bytes.Equal(again, body) {
		return fmt.Errorf("\n  sent %x\n  read %x", body, again)
	}
	return nil
}

// sweep returns how many versions were spoken and how many kmsg does not know.
func sweep(seed, topic string) (spoken, unknown int) {
	c, err := net.Dial("tcp", seed)
	check("sweep", err)
	defer c.Close()
	w := &wire{Conn: c}
	q := kmsg.NewPtrApiVersionsRequest()
	q.SetVersion(3)
	fill(q, 3, topic)
	body, err := w.ask(q)
	check("ApiVersions", err)
	a := kmsg.NewPtrApiVersionsResponse()
	a.SetVersion(3)
	check("ApiVersions", a.ReadFrom(body))
	for _, k := range a.ApiKeys {
		for v := k.MinVersion; v <= k.MaxVersion; v++ {
			if k.ApiKey == 0 && v < 3 {
				continue // advertised for librdkafka's sake alone
			}
			if v > kmsg.RequestForKey(k.ApiKey).MaxVersion() {
				unknown++
				continue
			}
			check(fmt.Sprintf("%s v%d", kmsg.NameForKey(k.ApiKey), v), sweepOne(w, k.ApiKey, v, topic))
			spoken++
		}
	}
	return spoken, unknown
}
