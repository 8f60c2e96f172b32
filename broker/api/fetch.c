/*
 * Fetch. Sessions (KIP-227) are declined, which is complete and safe: every request is a full one.
 *
 * A fetch that finds too little parks: a node in each of its partitions and a deadline. Whatever moves one of them puts the
 * request on Broker.fetch_woken, and at the end of the turn it looks at everything again from the start - partitions may
 * have come, gone or changed leaders meanwhile, so it keeps names and no pointers.
 *
 * The answer is encoded by hand because its bulk does not pass through memory: large slices leave by sendfile, their bytes
 * exactly as they stand in the segment (kafka-wire.md 4.3, 5).
 */

#include "broker/api/api.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/fs.h"

#define SENDFILE_MIN (32u << 10) /* smaller slices are copied: a dup and a sendfile cost more */
#define FLEXIBLE     12

typedef struct FetchOp FetchOp;

typedef struct FetchPart {
    List node; /* Partition.fetch_waits */
    FetchOp *op;
    KStr topic;
    const KFetchRequestTopicsPartitions *q;
    /* of the last look */
    KafkaError error;
    int64_t high_watermark, log_start;
    PlogSlice slice; /* size 0: nothing */
} FetchPart;

struct FetchOp {
    Request *request;
    List woken_node; /* Broker.fetch_woken */
    FetchPart *parts;
    size_t parts_count;
    size_t bytes;
    bool has_error;
};

/* --- looking --- */

static void look_at(FetchOp *op, FetchPart *part, size_t left)
{
    const KFetchRequestTopicsPartitions *q = part->q;
    Partition *p = partition_find(&op->request->broker->partitions, part->topic, q->partition);
    part->slice = (PlogSlice){0};
    part->high_watermark = part->log_start = -1;
    part->error = partition_check(p, op->request->version >= 9 ? q->current_leader_epoch : -1);
    if (part->error != K_NONE)
        return;
    part->high_watermark = partition_hw(p);
    part->log_start = plog_start(p->log);
    if (q->fetch_offset < part->log_start || q->fetch_offset > plog_end(p->log)) {
        part->error = K_OFFSET_OUT_OF_RANGE;
        return;
    }
    bool first = op->bytes == 0; /* at least one whole batch, or a consumer stalls for ever */
    size_t max = MIN(left, (size_t)MAX(q->partition_max_bytes, 0));
    if (q->fetch_offset >= part->high_watermark || (max == 0 && !first))
        return;
    int r = plog_locate(p->log, q->fetch_offset, part->high_watermark, max, first, &part->slice);
    if (r == 0)
        return;
    part->slice.size = 0;
    part->error = r == PLOG_E_OUT_OF_RANGE ? K_OFFSET_OUT_OF_RANGE : r == PLOG_E_CORRUPT ? K_CORRUPT_MESSAGE : K_KAFKA_STORAGE_ERROR;
    if (r < 0)
        partition_log_failed(op->request->broker, p, "read", r);
}

static void look(FetchOp *op)
{
    const KFetchRequest *q = op->request->body;
    size_t max = (size_t)MAX(0, MIN((int64_t)q->max_bytes, op->request->broker->settings.fetch_max_bytes));
    op->bytes = 0;
    op->has_error = false;
    for (size_t i = 0; i < op->parts_count; i++) {
        look_at(op, &op->parts[i], op->bytes < max ? max - op->bytes : 0);
        op->bytes += op->parts[i].slice.size;
        op->has_error |= op->parts[i].error != K_NONE;
    }
}

static size_t wanted_bytes(const KFetchRequest *q)
{
    return (size_t)MAX(0, MIN(q->min_bytes, q->max_bytes));
}

/* --- encoding --- */

typedef struct Encoder {
    Request *request;
    Buf out;
    ReplyPiece *pieces; /* data pieces hold offsets into out until the end */
    size_t count, mark; /* bytes of out before mark belong to pieces */
    int error;
} Encoder;

static void put(Encoder *e, uint64_t value, int bytes)
{
    uint8_t be[8];
    for (int i = 0; i < bytes; i++)
        be[i] = (uint8_t)(value >> (8 * (bytes - 1 - i)));
    if (buf_append(&e->out, be, (size_t)bytes) < 0)
        e->error = -ENOMEM;
}

static bool flexible(const Encoder *e)
{
    return e->request->version >= FLEXIBLE;
}

static void put_uvarint(Encoder *e, uint32_t value)
{
    for (; value >= 0x80; value >>= 7)
        put(e, (value & 0x7f) | 0x80, 1);
    put(e, value, 1);
}

static void put_count(Encoder *e, int64_t count) /* of an array or of bytes; -1 = null */
{
    if (flexible(e))
        put_uvarint(e, (uint32_t)(count + 1));
    else
        put(e, (uint32_t)(int32_t)count, 4);
}

static void put_str(Encoder *e, KStr s)
{
    if (flexible(e))
        put_uvarint(e, (uint32_t)s.len + 1);
    else
        put(e, (uint16_t)s.len, 2);
    if (s.len > 0 && buf_append(&e->out, s.ptr, (size_t)s.len) < 0)
        e->error = -ENOMEM;
}

static void put_tags(Encoder *e)
{
    if (flexible(e))
        put(e, 0, 1);
}

static void cut(Encoder *e)
{
    if (e->out.size == e->mark)
        return;
    e->pieces[e->count++] = (ReplyPiece){.size = e->out.size - e->mark, .fd = -1, .position = (int64_t)e->mark};
    e->mark = e->out.size;
}

/* Without a descriptor to give away the bytes are copied. */
static bool put_file(Encoder *e, int file, const PlogSlice *s)
{
    if (s->size < SENDFILE_MIN || e->request->who.local)
        return false;
    int fd = fcntl(file, F_DUPFD_CLOEXEC, 3);
    if (fd >= 0 && sock_is_in_reserve(fd))
        base_closep(&fd);
    if (fd < 0)
        return false;
    cut(e);
    e->pieces[e->count++] = (ReplyPiece){.data = NULL, .size = s->size, .fd = fd, .position = s->position};
    return true;
}

/* Now, not when it was looked at: that many files need not be open at once. */
static int open_slice(Encoder *e, FetchPart *part)
{
    Broker *b = e->request->broker;
    Partition *p = part->slice.size > 0 ? partition_find(&b->partitions, part->topic, part->q->partition) : NULL;
    if (!p)
        return -1;
    int file = plog_slice_fd(p->log, &part->slice);
    if (file < 0) {
        partition_log_failed(b, p, "read", file);
        part->error = K_KAFKA_STORAGE_ERROR;
        part->slice.size = 0;
    }
    return file;
}

static void put_slice(Encoder *e, int file, const PlogSlice *s)
{
    if (s->size == 0 || put_file(e, file, s))
        return;
    size_t got = 0;
    int r = buf_reserve(&e->out, s->size);
    if (r == 0)
        r = fs_pread_all(file, e->out.data + e->out.size, s->size, s->position, &got);
    if (r == 0 && got == s->size)
        e->out.size += s->size;
    else
        e->error = r < 0 ? r : -EIO;
}

static void put_partition(Encoder *e, FetchPart *part)
{
    const KFetchRequest *q = e->request->body;
    int16_t version = e->request->version;
    int file = open_slice(e, part);
    put(e, (uint32_t)part->q->partition, 4);
    put(e, (uint16_t)part->error, 2);
    put(e, (uint64_t)part->high_watermark, 8);
    put(e, (uint64_t)part->high_watermark, 8); /* last stable offset: there are no transactions yet */
    if (version >= 5)
        put(e, (uint64_t)part->log_start, 8);
    put_count(e, q->isolation_level == 0 ? -1 : 0); /* aborted transactions */
    if (version >= 11)
        put(e, (uint32_t)-1, 4); /* preferred read replica */
    put_count(e, (int64_t)part->slice.size); /* never null: librdkafka would drop the whole answer */
    put_slice(e, file, &part->slice);
    put_tags(e);
}

static void put_head(Encoder *e, KafkaError error)
{
    put(e, 0, 4); /* throttle */
    if (e->request->version >= 7) {
        put(e, (uint16_t)error, 2);
        put(e, 0, 4); /* session: declined */
    }
}

static void count_out(const FetchOp *op)
{
    CountersRow *row = op->request->broker->row;
    uint64_t records = 0;
    for (size_t i = 0; i < op->parts_count; i++) {
        const FetchPart *part = &op->parts[i];
        if (part->slice.size > 0)
            records += (uint64_t)(part->slice.next_offset - MAX(part->slice.first_offset, part->q->fetch_offset));
    }
    counter_add(row, COUNTER_RECORDS_OUT, records);
    counter_add(row, op->request->who.local ? COUNTER_BYTES_OUT_SHM : COUNTER_BYTES_OUT_TCP, op->bytes);
}

static void encoder_end(Encoder *e)
{
    Request *r = e->request;
    cut(e);
    for (size_t i = 0; i < e->count; i++) {
        if (e->pieces[i].fd < 0)
            e->pieces[i].data = e->out.data + e->pieces[i].position;
    }
    if (e->error == 0) {
        request_reply_pieces(r, e->pieces, e->count);
    } else {
        for (size_t i = 0; i < e->count; i++)
            base_closep(&(int){e->pieces[i].fd});
        request_abandon(r, "the answer does not fit into memory");
    }
    buf_deinit(&e->out);
    free(e->pieces);
}

static void answer(FetchOp *op)
{
    Request *r = op->request;
    const KFetchRequest *q = r->body;
    Encoder e = {.request = r, .pieces = calloc(2 * op->parts_count + 2, sizeof(ReplyPiece))};
    if (!e.pieces) {
        request_abandon(r, "out of memory");
        return;
    }
    count_out(op);
    FetchPart *part = op->parts;
    put_head(&e, K_NONE);
    put_count(&e, MAX(q->topics.n, 0));
    for (int32_t i = 0; i < q->topics.n; i++) {
        put_str(&e, q->topics.items[i].topic);
        put_count(&e, MAX(q->topics.items[i].partitions.n, 0));
        for (int32_t j = 0; j < q->topics.items[i].partitions.n; j++)
            put_partition(&e, part++);
        put_tags(&e);
    }
    put_tags(&e);
    encoder_end(&e);
}

static void refuse_session(Request *r)
{
    Encoder e = {.request = r, .pieces = calloc(2, sizeof(ReplyPiece))};
    if (!e.pieces) {
        request_abandon(r, "out of memory");
        return;
    }
    put_head(&e, K_FETCH_SESSION_ID_NOT_FOUND);
    put_count(&e, 0);
    put_tags(&e);
    encoder_end(&e);
}

/* --- waiting --- */

static void unpark(FetchOp *op)
{
    list_remove(&op->woken_node);
    for (size_t i = 0; i < op->parts_count; i++)
        list_remove(&op->parts[i].node);
}

static void park(FetchOp *op)
{
    for (size_t i = 0; i < op->parts_count; i++) {
        FetchPart *part = &op->parts[i];
        Partition *p = partition_find(&op->request->broker->partitions, part->topic, part->q->partition);
        if (p)
            list_append(&p->fetch_waits, &part->node);
    }
}

static void try_answer(FetchOp *op, bool at_once)
{
    Request *r = op->request;
    const KFetchRequest *q = r->body;
    unpark(op);
    look(op);
    if (at_once || op->has_error || op->bytes >= wanted_bytes(q))
        answer(op);
    else
        park(op);
}

static void on_deadline(Deadline *d)
{
    Request *r = CONTAINER_OF(d, Request, deadline);
    try_answer(r->state, true);
}

static void cancel(Request *r)
{
    unpark(r->state);
}

void api_fetch_wake(Broker *b, Partition *p)
{
    for (List *l; (l = list_pop(&p->fetch_waits)) != NULL;) {
        FetchOp *op = CONTAINER_OF(l, FetchPart, node)->op;
        if (list_is_empty(&op->woken_node))
            list_append(&b->fetch_woken, &op->woken_node);
    }
}

void api_fetch_run_woken(Broker *b)
{
    for (List *l; (l = list_pop(&b->fetch_woken)) != NULL;)
        try_answer(CONTAINER_OF(l, FetchOp, woken_node), false);
}

static FetchOp *new_op(Request *r)
{
    const KFetchRequest *q = r->body;
    FetchOp *op = request_alloc(r, 1, sizeof(*op));
    size_t count = 0;
    for (int32_t i = 0; i < q->topics.n; i++)
        count += (size_t)MAX(q->topics.items[i].partitions.n, 0);
    FetchPart *parts = request_alloc(r, count, sizeof(*parts));
    if (!op || !parts)
        return NULL;
    *op = (FetchOp){.request = r, .parts = parts};
    list_init(&op->woken_node);
    for (int32_t i = 0; i < q->topics.n; i++) {
        for (int32_t j = 0; j < q->topics.items[i].partitions.n; j++) {
            FetchPart *part = &parts[op->parts_count++];
            list_init(&part->node);
            part->op = op;
            part->topic = q->topics.items[i].topic;
            part->q = &q->topics.items[i].partitions.items[j];
        }
    }
    return op;
}

void api_fetch_handle(Request *r)
{
    const KFetchRequest *q = r->body;
    if (q->session_id != 0 && q->session_epoch > 0) {
        refuse_session(r);
        return;
    }
    FetchOp *op = new_op(r);
    if (!op) {
        request_abandon(r, "out of memory");
        return;
    }
    r->state = op;
    r->cancel = cancel;
    r->deadline.fn = on_deadline;
    if (q->max_wait_ms > 0)
        broker_set_deadline(r->broker, &r->deadline, q->max_wait_ms);
    try_answer(op, q->max_wait_ms <= 0);
}
