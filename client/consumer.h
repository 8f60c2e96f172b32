#pragma once

/*
 * The consumer on shared memory. A Part is one assigned partition; what the broker delivers waits as frames in one queue in
 * the order of arrival, and leat_poll() walks the records where they lie.
 *
 *   part.c      states of partitions: where to start, subscribe, errors, seek, pause
 *   delivery.c  frames, batches, records
 *   lease.c     catching up from closed segments, past the ring
 *   offsets.c   commit, committed, list offsets
 *   group.c     membership
 *   consumer.c  the public face
 *
 * Invariants
 *   INV-CONS-1 a frame counts only when its generation is its part's; seek, pause, revocation and reconnection change it
 *   INV-CONS-2 part->position is the offset behind the last record that the program was given (or that was skipped as
 *              control or compacted away); it never goes back but by seek
 *   INV-CONS-3 memory of records stays until the next leat_poll(): held frames, scratch buffers, dead sessions
 */

#include "client/client.h"
#include "wire/batch.h"
#include "wire/error.h"

#define CONSUMER_PARTS_MAX      65536
#define CONSUMER_DECOMPRESS_MAX (256u << 20) /* one batch */

typedef struct TcpConsumer TcpConsumer;
typedef struct Group Group;

typedef enum PartState {
    PART_NEED_COMMITTED, /* ask the group's offset */
    PART_NEED_OFFSET,    /* ask the broker for earliest or latest (want) */
    PART_READY,          /* position is known; subscribe */
    PART_LIVE,           /* subscribed */
    PART_LEASING,        /* asked for a lease */
    PART_LEASED,         /* reads a closed segment itself */
    PART_FAILED,         /* for good; leat_poll() says why once */
} PartState;

typedef struct Lease { /* of one closed segment; read with pread, checked by CRC */
    int fd;
    uint64_t op_id;
    int64_t at, end;     /* bytes */
    int64_t ahead;       /* where the kernel is asked to read on */
    int64_t next_offset; /* behind the segment */
} Lease;

struct Part {
    leat_consumer *consumer;
    leat_topic *topic;
    int32_t partition;
    PartState state;
    int64_t retry_at_ns; /* nothing is tried before */
    int64_t want;        /* PART_NEED_OFFSET: LEAT_OFFSET_EARLIEST or _LATEST */
    bool asked;          /* a request about it is under way */
    bool paused;
    bool at_end;      /* the broker said so after the last record */
    bool try_lease;   /* far behind */
    int64_t lease_refused_at;
    Lease lease;      /* PART_LEASING (op_id), PART_LEASED */
    uint32_t generation;
    int64_t position; /* -1 unknown */
    int64_t high_watermark;
    int64_t committed; /* last known to be committed by us; -1 */
    int32_t leader_epoch;
};

typedef struct Pending { /* a frame that waits */
    FabFrame frame;
    const void *payload;
    uint64_t held;
    void *copy; /* not NULL: on the heap (spilled, or read by lease); no frame is held */
    bool leased;
} Pending;

typedef struct Cursor { /* where leat_poll() stopped */
    Part *part;         /* NULL: no frame is open */
    Pending at;
    const uint8_t *next; /* batch behind the present one */
    size_t left;         /* bytes from there */
    BatchIter iter;
    bool in_batch;
    int32_t leader_epoch;
    int64_t batch_end; /* offset behind the present batch */
    int64_t first;     /* the part's position when the frame was opened */
} Cursor;

struct leat_consumer {
    List node; /* client->consumers */
    leat_client *client;
    TcpConsumer *tcp;
    bool owns_client;
    Settings settings;

    Part **parts;
    size_t n_parts;
    size_t n_leased, lease_turn;
    bool dirty; /* some part may have something to ask or subscribe */
    int64_t due_ns;
    Request *offsets_request, *committed_request;
    struct OffsetsAsk *offsets_ask, *committed_ask;

    Pending *pending; /* ring of pending_mask + 1 */
    uint64_t pending_first, pending_end, pending_mask;
    Cursor cursor;
    uint64_t *spent; /* held frames that the last poll used up */
    size_t n_spent, spent_capacity;
    void **spent_copies;
    size_t n_spent_copies, spent_copies_capacity;
    Buf *scratch; /* decompressed batches of the last poll; [0, n_scratch_used) are borrowed */
    size_t n_scratch, n_scratch_used;
    bool borrowed; /* the program holds records of the last poll */
    bool in_event; /* inside the program's rebalance function */

    int error; /* reported by the next leat_poll(), once */
    int16_t kafka_error;
    char error_text[CLIENT_ERROR_MAX];

    Group *group; /* NULL: leat_assign() */
    List commits; /* of offsets.c, under way */
    int64_t auto_commit_at_ns;
    leat_rebalance_fn rebalance;
    void *rebalance_userdata;
    leat_partition *names; /* scratch of events and leat_assignment() */
    size_t names_capacity;
};

static inline leat_consumer *consumer_of_node(List *node)
{
    return CONTAINER_OF(node, leat_consumer, node);
}

/* ---- part.c ---- */
Part *part_find(const leat_consumer *k, const char *topic, int32_t partition);
/* Adds; the topic is opened in later turns. offset as in leat_partition. Return: 0; -EBUSY another consumer of this client
 * has it; -ENOMEM; -ENOSPC. */
int part_add(leat_consumer *k, const char *topic, size_t topic_size, int32_t partition, int64_t offset);
void part_remove(leat_consumer *k, size_t i);
void parts_clear(leat_consumer *k);
void part_start_at(Part *p, int64_t offset); /* a number or LEAT_OFFSET_*; what was delivered before is dropped */
void part_again(Part *p); /* subscribes anew at its position */
void part_unsubscribe(Part *p);
void part_pause(Part *p, bool pause);
void part_error(Part *p, int16_t kafka_error); /* of its subscription */
void parts_turn(leat_consumer *k, int64_t now_ns);
void consumer_report(leat_consumer *k, int error, int16_t kafka_error, const char *what);

/* ---- delivery.c ---- */
int delivery_fill(leat_consumer *k, leat_record *ret, size_t n_max); /* count */
void delivery_release(leat_consumer *k);                             /* what the last poll gave out */
void delivery_forget_part(leat_consumer *k, const Part *p);          /* the cursor leaves it */
void delivery_clear(leat_consumer *k);                               /* all that waits */
void delivery_free(leat_consumer *k);

/* ---- lease.c ---- */
void lease_ask(Part *p);
void lease_granted(leat_client *c, Op *op, FabDelivery *d); /* also refusals; takes the fds */
void lease_end(Part *p);                                    /* also one that is only asked for; harmless without */
bool lease_read(leat_consumer *k, Pending *ret);            /* next chunk of some leased part */
void lease_consider(Part *p, const FabFrame *frame, size_t size, int64_t first_offset);

/* ---- offsets.c ---- */
typedef void (*CommitFn)(void *userdata, int error, int16_t kafka_error);
typedef struct CommitItem {
    leat_topic *topic;
    int32_t partition;
    int64_t offset;
    int32_t leader_epoch;
} CommitItem;
/* Sends one OffsetCommit; fn may be NULL. Return: 0, or a negative errno (fn is then not called). */
int commit_start(leat_consumer *k, const CommitItem *items, size_t n, CommitFn fn, void *userdata);
int commit_positions(leat_consumer *k, CommitFn fn, void *userdata); /* 1: nothing to commit */
int commit_and_wait(leat_consumer *k, const CommitItem *items, size_t n, int64_t timeout_ms); /* items NULL: positions */
void commits_cancel(leat_consumer *k);
void offsets_ask_committed(leat_consumer *k); /* for all parts in PART_NEED_COMMITTED */
void offsets_ask_list(leat_consumer *k);
void offsets_cancel(leat_consumer *k);

/* ---- consumer.c ---- */
void consumer_event(leat_consumer *k, leat_group_event_kind kind, Part *const *parts, size_t n);
int consumer_names_reserve(leat_consumer *k, size_t n);

/* ---- called by client.c and topic.c ---- */
bool consumers_take(leat_client *c, const FabDelivery *d, uint64_t held); /* true: the frame is kept */
void consumers_notify(leat_client *c, uint16_t type, const void *payload, size_t size);
void consumer_subscription_failed(leat_consumer *k, uint32_t generation, int16_t kafka_error);
bool consumer_is_borrowing(const leat_consumer *k);
bool consumer_has_records(const leat_consumer *k);
void consumer_up(leat_consumer *k);
void consumer_down(leat_consumer *k);
void consumer_turn(leat_consumer *k, int64_t now_ns, bool nested);
int64_t consumer_deadline_ns(const leat_consumer *k);
void consumer_spill(leat_consumer *k);
void consumer_metadata_changed(leat_consumer *k);
