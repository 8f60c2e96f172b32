#pragma once

/*
 * The producer on shared memory. One lane for each partition written to: an open batch that records are appended to, and a
 * queue of closed batches in the order of their sequences. lane.c moves batches, producer.c is the public face.
 *
 *   open --close--> READY --submit--> SENT --ACKED--> gone
 *                     ^                 |
 *                     +--- retriable ---+   (also when the session dies)
 *
 * Invariants
 *   INV-PROD-1 batches of a lane are submitted in queue order; at most PRODUCER_IN_FLIGHT_MAX are SENT (the broker
 *              recognises doubles among that many), and one until the first of an idempotent producer is acknowledged: a
 *              broker without state of a producer takes any sequence, so a second batch could pass a refused first one
 *   INV-PROD-2 a batch keeps producer id, epoch and sequence over every re-send, until the lane's epoch is raised with
 *              nothing SENT
 *   INV-PROD-3 the sum of counts of all batches is producer->in_flight
 */

#include "client/client.h"
#include "wire/batch.h"
#include "wire/error.h"

#define PRODUCER_IN_FLIGHT_MAX 5
#define PRODUCER_BATCH_FIRST   16384u /* room of a lane's first batch; doubles while batches fill up, to batch.size */
#define PRODUCER_BATCH_LEAST   4096u
#define PRODUCER_REPORTS_MAX   (1u << 20) /* not drained; then leat_produce() says -EAGAIN */
#define PRODUCER_HEADERS_MAX   1024

typedef struct Lane Lane;
typedef struct TcpProducer TcpProducer;

typedef enum BatchState { BATCH_OPEN, BATCH_READY, BATCH_SENT } BatchState;

typedef struct Mark { /* a record whose program wants to hear of it */
    void *opaque;
    int64_t timestamp_ms;
    int32_t index;
} Mark;

typedef struct Batch {
    List node; /* lane->queue */
    Lane *lane;
    BatchState state;
    bool in_arena; /* data is a block of the present session's arena, else heap */
    bool in_doubt; /* its session died before the answer: it may be in the log, and only its old stamp can tell */
    uint8_t *data;
    size_t size, capacity;
    BatchBuilder builder; /* while open; builder.count stays the number of records */
    int32_t base_sequence;
    int out_of_order; /* times the broker said OUT_OF_ORDER_SEQUENCE_NUMBER with nothing before it */
    int16_t refusal;  /* why the broker last sent it back for another try; 0 = never */
    int64_t born_ns;
    uint64_t op_id; /* SENT */
    Mark *marks;
    uint32_t n_marks, marks_capacity;
} Batch;

struct Lane {
    List active_node; /* producer->active while it has batches */
    leat_producer *producer;
    leat_topic *topic;
    int32_t partition;
    Batch *open;
    List queue;
    int32_t n_queued, n_sent;
    uint32_t room; /* for the next open batch: follows how full they get */
    int32_t next_sequence;
    int64_t producer_id; /* of the stamps: the producer's when the lane began, or when its epochs had run out */
    int16_t epoch;
    bool proven;      /* the broker has a batch of this epoch: from now on it notices a gap. One at a time before */
    bool raise_epoch; /* a sequence was lost: stamp anew under the next epoch once nothing is SENT */
    int64_t retry_at_ns;
};

typedef struct ProducerTopic {
    Lane **lanes;
    int32_t n_lanes;
    int32_t sticky;
} ProducerTopic;

struct leat_producer {
    List node; /* client->producers */
    leat_client *client;
    TcpProducer *tcp;
    bool owns_client, idempotent, flushing;
    bool stalled; /* queue or arena was full: look at all lanes again */
    bool refused; /* a batch was refused for good and the report not read yet */
    int16_t acks;
    Settings settings;
    int64_t producer_id; /* for lanes that begin; -1: none yet */
    Request *id_request;
    int id_error; /* of the last id_request; -EAGAIN: worth another */
    int64_t id_retry_at_ns;
    ProducerTopic *topics; /* by leat_topic.index */
    size_t n_topics;
    List active;
    uint64_t in_flight, lost;
    size_t heap_bytes;
    int64_t due_ns; /* earliest timer of any lane, or earlier */
    uint64_t round_robin;
    int64_t first_now_ms; /* when the last batch got its first record */
    Batch *spare; /* free list through ->node.next */
    RecordHeader *headers; /* scratch */

    Lane *claim; /* between leat_claim() and leat_commit() */
    BatchBuilder claim_undo;
    void *claim_opaque;
    int64_t claim_timestamp_ms;

    leat_report *reports; /* ring */
    uint64_t reports_first, reports_end, reports_mask;
};

static inline leat_producer *producer_of_node(List *node)
{
    return CONTAINER_OF(node, leat_producer, node);
}

/* ---- lane.c: called by producer.c ---- */
Lane *lane_get(leat_producer *p, leat_topic *t, int32_t partition); /* NULL: out of memory */
/* A new open batch with room for one record of that size. Return: 0; -EAGAIN no room now; -ENOMEM. */
int lane_open(Lane *lane, size_t record_size);
void lane_close(Lane *lane, bool full);   /* open batch -> READY; it must hold a record. full: the next may be larger */
void lane_discard_open(Lane *lane);       /* an open batch without records */
void lane_pump(Lane *lane, int64_t now_ns); /* submits what may go */
int batch_mark(Batch *b, void *opaque, int64_t timestamp_ms);
void producer_flush_lanes(leat_producer *p, int64_t now_ns); /* closes every open batch and pumps */
const char *producer_obstacle(const leat_producer *p); /* why records wait, for an error text */
void producer_renew_id(leat_producer *p);                    /* asks for another producer id, if no one is asking */
void producer_free_lanes(leat_producer *p);                  /* fails nothing, reports nothing */

/* ---- called by client.c and topic.c ---- */
void producer_turn(leat_producer *p, int64_t now_ns);
int64_t producer_deadline_ns(const leat_producer *p);
void producer_down(leat_producer *p);
void producer_topic_opened(leat_producer *p, leat_topic *t);
void producer_completed(Batch *b, const FabCqe *cqe);
void producer_report(leat_producer *p, const leat_report *report);
