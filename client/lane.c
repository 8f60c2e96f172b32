/*
 * Lanes: one partition's batches from the first record to the acknowledgement (see producer.h).
 *
 * Memory. An open batch is a block of the session's arena, so that closing it is no copy; the block stays until the batch is
 * acknowledged, because it is the only copy that can be sent again. Heap is used where that cannot be: compressed batches,
 * batches that are large for the arena, while there is no session, and for the first batch of a partition when the
 * arena is full of other partitions' batches. Heap is bounded by buffer.memory; beyond that, and when the arena is full
 * while this partition has batches under way, the program gets -EAGAIN: back-pressure, not growth.
 *
 * Order. A retriable error puts the batch back to READY; those behind it come back with OUT_OF_ORDER and are put back too;
 * then the queue goes out again in its order. A batch that is refused for good leaves a hole in the sequences: the lane
 * waits until nothing is SENT, raises its epoch and stamps what is left from 0, as Java does (KIP-360). Batches in doubt go
 * out under their old stamp first: under a new one the broker would not know them, and take them twice. When the epochs of a
 * producer id have run out (32,767 losses of one partition), the lane goes on under another id.
 */

#include "client/producer.h"
#include "base/clock.h"
#include "wire/compress.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define OUT_OF_ORDER_MAX 3 /* then the broker has lost our state: new epoch */

static void pump_active(leat_producer *p, int64_t now_ns);

/* ---- batches ------------------------------------------------------------------------------------------------------- */

static Batch *batch_new(leat_producer *p)
{
    Batch *b = p->spare;
    if (b) {
        p->spare = (Batch *)(void *)b->node.next;
        b->node.next = NULL;
        return b;
    }
    return calloc(1, sizeof *b);
}

static void batch_drop_data(Batch *b)
{
    leat_client *c = b->lane->producer->client;

    if (!b->data)
        return;
    if (!b->in_arena) {
        b->lane->producer->heap_bytes -= b->capacity;
        free(b->data);
    } else if (c->fab) {
        Op *op = b->op_id ? client_find_op(c, b->op_id) : NULL;
        if (op)
            op->block = b->data; /* the broker has not read it yet */
        else
            fab_arena_free(c->fab, b->data);
    }
    b->data = NULL;
}

static void batch_free(Batch *b)
{
    leat_producer *p = b->lane->producer;
    Op *op = b->op_id ? client_find_op(p->client, b->op_id) : NULL;

    batch_drop_data(b);
    if (op)
        op->owner = NULL;
    Mark *marks = b->marks;
    uint32_t capacity = b->marks_capacity;
    *b = (Batch){.marks = marks, .marks_capacity = capacity};
    b->node.next = (List *)(void *)p->spare;
    p->spare = b;
}

int batch_mark(Batch *b, void *opaque, int64_t timestamp_ms)
{
    if (b->n_marks == b->marks_capacity) {
        uint32_t n = MAX(b->marks_capacity * 2, 64);
        Mark *marks = reallocarray(b->marks, n, sizeof *marks);
        if (!marks)
            return -ENOMEM;
        b->marks = marks;
        b->marks_capacity = n;
    }
    b->marks[b->n_marks++] = (Mark){.opaque = opaque, .timestamp_ms = timestamp_ms, .index = b->builder.count - 1};
    return 0;
}

/* A private copy, when its arena is about to go away. */
static int batch_to_heap(Batch *b, size_t bytes_used)
{
    uint8_t *copy = malloc(b->capacity);
    if (!copy)
        return -ENOMEM;
    memcpy(copy, b->data, bytes_used);
    b->data = copy;
    b->in_arena = false;
    b->lane->producer->heap_bytes += b->capacity;
    if (b->state == BATCH_OPEN)
        b->builder.data = copy;
    return 0;
}

/* ---- reports ------------------------------------------------------------------------------------------------------- */

void producer_report(leat_producer *p, const leat_report *report)
{
    if (!p->reports || p->reports_end - p->reports_first > p->reports_mask) {
        leat_report *grown = client_ring_grow(p->reports, sizeof *grown, 256, p->reports_first, p->reports_end, &p->reports_mask);
        if (!grown)
            return; /* the program learns of the failure by -EIO and the count that leat_producer_close() gives */
        p->reports = grown;
    }
    p->reports[p->reports_end++ & p->reports_mask] = *report;
}

/* The batch leaves the producer: counts, reports, memory. */
static void batch_end(Batch *b, int error, int16_t kafka_error, int64_t base_offset, int64_t append_ms)
{
    Lane *lane = b->lane;
    leat_producer *p = lane->producer;
    uint32_t unmarked = (uint32_t)b->builder.count - b->n_marks;
    leat_report r = {.error = error, .kafka_error = kafka_error, .topic = lane->topic, .partition = lane->partition,
                     .offset = -1, .timestamp_ms = -1, .records = 1};

    assert(p->in_flight >= (uint64_t)b->builder.count);
    p->in_flight -= (uint64_t)b->builder.count;
    for (uint32_t i = 0; i < b->n_marks; i++) {
        r.opaque = b->marks[i].opaque;
        r.timestamp_ms = append_ms >= 0 ? append_ms : b->marks[i].timestamp_ms;
        r.offset = error == 0 && base_offset >= 0 ? base_offset + b->marks[i].index : -1;
        producer_report(p, &r);
    }
    if (error != 0) {
        p->refused = true;
        p->lost += (uint64_t)b->builder.count;
        r = (leat_report){.error = error, .kafka_error = kafka_error, .topic = lane->topic, .partition = lane->partition,
                          .offset = -1, .timestamp_ms = -1, .records = unmarked};
        if (unmarked > 0)
            producer_report(p, &r);
    }
    if (b->state == BATCH_SENT)
        lane->n_sent--;
    lane->n_queued--;
    list_remove(&b->node);
    batch_free(b);
    if (lane->n_queued == 0 && !lane->open)
        list_remove(&lane->active_node);
}

/* ---- lanes --------------------------------------------------------------------------------------------------------- */

static Lane *lane_new(leat_producer *p, leat_topic *t, int32_t partition)
{
    Lane *lane = calloc(1, sizeof *lane);
    if (!lane)
        return NULL;
    *lane = (Lane){.producer = p, .topic = t, .partition = partition, .producer_id = p->producer_id,
                   .room = (uint32_t)MIN((int64_t)PRODUCER_BATCH_FIRST, p->settings.batch_size)};
    list_init(&lane->active_node);
    list_init(&lane->queue);
    return lane;
}

Lane *lane_get(leat_producer *p, leat_topic *t, int32_t partition)
{
    if (t->index >= p->n_topics) {
        size_t n = MAX((size_t)t->index + 1, 2 * p->n_topics);
        ProducerTopic *grown = reallocarray(p->topics, n, sizeof *grown);
        if (!grown)
            return NULL;
        memset(grown + p->n_topics, 0, (n - p->n_topics) * sizeof *grown);
        p->topics = grown;
        p->n_topics = n;
    }
    ProducerTopic *pt = &p->topics[t->index];
    if (partition >= pt->n_lanes) {
        int32_t n = MAX(partition + 1, t->partitions);
        Lane **grown = reallocarray(pt->lanes, (size_t)n, sizeof(Lane *));
        if (!grown)
            return NULL;
        memset(grown + pt->n_lanes, 0, (size_t)(n - pt->n_lanes) * sizeof(Lane *));
        pt->lanes = grown;
        pt->n_lanes = n;
    }
    if (!pt->lanes[partition])
        pt->lanes[partition] = lane_new(p, t, partition);
    return pt->lanes[partition];
}

static uint8_t *arena_room(Lane *lane, size_t *inout_capacity, size_t need)
{
    leat_client *c = lane->producer->client;

    if (!c->fab || c->broken || lane->producer->settings.compression != CODEC_NONE)
        return NULL;
    size_t most = fab_arena_block_max(c->fab) / 2;
    if (need > most)
        return NULL;
    size_t want = MIN(*inout_capacity, most);
    uint8_t *data = fab_arena_alloc(c->fab, (uint32_t)want);
    /* Many partitions share the arena: smaller ones, unless this partition has enough under way. */
    while (!data && lane->n_queued < PRODUCER_IN_FLIGHT_MAX && want / 4 >= MAX(need, PRODUCER_BATCH_LEAST))
        data = fab_arena_alloc(c->fab, (uint32_t)(want /= 4));
    if (data)
        *inout_capacity = want;
    return data;
}

static bool heap_is_allowed(const Lane *lane, size_t need)
{
    const leat_producer *p = lane->producer;
    const leat_client *c = p->client;

    if (p->heap_bytes > 0 && p->heap_bytes + need > (size_t)p->settings.buffer_memory)
        return false;
    return !c->fab || c->broken || p->settings.compression != CODEC_NONE || lane->n_queued == 0 ||
           need > fab_arena_block_max(c->fab) / 2;
}

int lane_open(Lane *lane, size_t record_size)
{
    leat_producer *p = lane->producer;
    size_t need = BATCH_HEADER_SIZE + record_size, capacity = MAX(need, (size_t)lane->room);

    assert(!lane->open);
    bool in_arena = true;
    uint8_t *data = arena_room(lane, &capacity, need);
    if (!data) {
        in_arena = false;
        capacity = MAX(need, (size_t)(p->settings.compression != CODEC_NONE ? p->settings.batch_size : lane->room));
        if (!heap_is_allowed(lane, capacity))
            return -EAGAIN;
        data = malloc(capacity);
    }
    Batch *b = data ? batch_new(p) : NULL;
    if (!b) {
        if (data && in_arena)
            fab_arena_free(p->client->fab, data);
        else
            free(data);
        return -ENOMEM;
    }
    b->lane = lane;
    b->state = BATCH_OPEN;
    b->in_arena = in_arena;
    b->data = data;
    b->capacity = capacity;
    b->n_marks = 0;
    b->born_ns = clock_mono_ns();
    if (!in_arena)
        p->heap_bytes += capacity;
    list_init(&b->node);
    batch_builder_init(&b->builder, data, capacity);
    lane->open = b;
    list_remove(&lane->active_node);
    list_append(&p->active, &lane->active_node);
    int64_t due_ns = b->born_ns + MIN(p->settings.linger_ms, p->settings.delivery_timeout_ms) * NS_PER_MS;
    p->due_ns = MIN(p->due_ns, p->settings.linger_ms ? due_ns : b->born_ns + p->settings.delivery_timeout_ms * NS_PER_MS);
    return 0;
}

void lane_discard_open(Lane *lane)
{
    Batch *b = TAKE(lane->open);

    assert(b->builder.count == 0);
    batch_free(b);
    if (lane->n_queued == 0)
        list_remove(&lane->active_node);
}

static int32_t sequence_add(int32_t sequence, int32_t n) /* wraps from 2^31-1 to 0 */
{
    return (int32_t)(((uint32_t)sequence + (uint32_t)n) & 0x7fffffffu);
}

static void batch_compress_closed(Batch *b)
{
    leat_producer *p = b->lane->producer;
    Buf out = BUF_NULL;
    int r = batch_compress(b->data, b->size, (BatchCodec)p->settings.compression, (int)p->settings.compression_level, &out);

    if (r < 0 || out.size >= b->size) { /* incompressible: as it is */
        buf_deinit(&out);
        return;
    }
    batch_drop_data(b);
    uint8_t *exact = realloc(out.data, out.size);
    b->data = exact ? exact : out.data;
    b->size = b->capacity = out.size;
    b->in_arena = false;
    p->heap_bytes += b->capacity;
}

/* Blocks as large as the load fills: idle partitions do not hold the arena of busy ones. */
static void adapt_room(Lane *lane, const Batch *b, bool full)
{
    uint32_t most = (uint32_t)lane->producer->settings.batch_size;

    if (full)
        lane->room = MIN(most, MAX(lane->room, (uint32_t)MIN(b->capacity, most)) * 2);
    else if (b->builder.size < lane->room / 4)
        lane->room = MAX(lane->room / 2, MIN(most, PRODUCER_BATCH_LEAST));
}

void lane_close(Lane *lane, bool full)
{
    leat_producer *p = lane->producer;
    Batch *b = TAKE(lane->open);
    BatchStamp stamp = BATCH_STAMP_NONE;

    assert(b->builder.count > 0);
    adapt_room(lane, b, full);
    if (p->idempotent) {
        stamp.producer_id = lane->producer_id;
        stamp.producer_epoch = lane->epoch;
        stamp.base_sequence = b->base_sequence = lane->next_sequence;
        lane->next_sequence = sequence_add(lane->next_sequence, b->builder.count);
    }
    b->size = batch_builder_finish(&b->builder, &stamp);
    b->state = BATCH_READY;
    if (b->in_arena) {
        fab_arena_shrink(p->client->fab, b->data, (uint32_t)b->size);
        b->capacity = b->size;
    }
    if (p->settings.compression != CODEC_NONE)
        batch_compress_closed(b);
    list_append(&lane->queue, &b->node);
    lane->n_queued++;
    ProducerTopic *pt = &p->topics[lane->topic->index];
    if (pt->sticky == lane->partition && lane->topic->partitions > 0)
        pt->sticky = (pt->sticky + 1) % lane->topic->partitions;
}

/* A new epoch for this partition alone: the broker keeps producer state by partition. Return: false: a new producer id must
 * come first. */
static bool lane_stamp_anew(Lane *lane)
{
    leat_producer *p = lane->producer;
    bool same_id = lane->producer_id == p->producer_id;

    assert(lane->n_sent == 0);
    if (same_id && lane->epoch == INT16_MAX) {
        producer_renew_id(p);
        return false;
    }
    lane->raise_epoch = lane->proven = false;
    lane->next_sequence = 0;
    lane->epoch = same_id ? (int16_t)(lane->epoch + 1) : 0;
    lane->producer_id = p->producer_id;
    list_for_each(it, &lane->queue) {
        Batch *b = CONTAINER_OF(it, Batch, node);
        BatchHeader h;
        int r = batch_header_decode(b->data, b->size, &h);
        assert(r == 0);
        h.producer_id = lane->producer_id;
        h.producer_epoch = lane->epoch;
        h.base_sequence = b->base_sequence = lane->next_sequence;
        b->out_of_order = 0;
        batch_header_encode(&h, b->data);
        h.crc = batch_crc_compute(b->data, &h);
        batch_header_encode(&h, b->data);
        lane->next_sequence = sequence_add(lane->next_sequence, b->builder.count);
    }
    return true;
}

static bool lane_is_in_doubt(const Lane *lane)
{
    list_for_each(it, &lane->queue)
        if (CONTAINER_OF(it, Batch, node)->in_doubt)
            return true;
    return false;
}

static int batch_send(Batch *b)
{
    leat_producer *p = b->lane->producer;
    leat_client *c = p->client;
    FabSqe sqe = {.op = FAB_OP_PRODUCE, .acks = p->acks, .handle = b->lane->topic->handle, .partition = b->lane->partition,
                  .timeout_ms = (uint32_t)p->settings.request_timeout_ms};
    Op *op;
    int r;

    if (b->in_arena) {
        sqe.off = fab_arena_offset(c->fab, b->data);
        sqe.len = (uint32_t)b->size;
        r = client_submit(c, OP_PRODUCE, b, &sqe, &op);
    } else {
        r = client_submit_copy(c, OP_PRODUCE, b, &sqe, b->data, b->size, &op);
    }
    if (r == 0) {
        b->op_id = op->id;
        op->ends_when_consumed = p->acks == 0;
    }
    return r;
}

void lane_pump(Lane *lane, int64_t now_ns)
{
    leat_producer *p = lane->producer;

    if (lane->n_sent == lane->n_queued)
        return;
    if (lane->retry_at_ns > now_ns) {
        p->due_ns = MIN(p->due_ns, lane->retry_at_ns);
        return;
    }
    lane->retry_at_ns = 0;
    if (lane->topic->state != TOPIC_OPEN || !p->client->fab) {
        lane->topic->wanted = true; /* also after this client has deleted it: another may make it anew */
        return;
    }
    bool in_doubt = lane->raise_epoch && lane_is_in_doubt(lane);
    if (lane->raise_epoch && !in_doubt && (lane->n_sent > 0 || !lane_stamp_anew(lane)))
        return;
    int32_t most = lane->proven || !p->idempotent ? PRODUCER_IN_FLIGHT_MAX : 1;
    list_for_each(it, &lane->queue) {
        Batch *b = CONTAINER_OF(it, Batch, node);
        if (b->state == BATCH_SENT)
            continue;
        if (lane->n_sent >= most || (in_doubt && !b->in_doubt))
            break;
        if (batch_send(b) < 0) {
            p->stalled = true; /* no room, or no session: a later turn */
            break;
        }
        b->state = BATCH_SENT;
        lane->n_sent++;
    }
}

/* ---- completions --------------------------------------------------------------------------------------------------- */

static void batch_again(Batch *b, int64_t wait_ms)
{
    Lane *lane = b->lane;

    b->state = BATCH_READY;
    lane->n_sent--;
    lane->retry_at_ns = MAX(lane->retry_at_ns, clock_mono_ns() + wait_ms * NS_PER_MS);
}

/* Refused before anything was appended: its sequence was not used. */
static bool is_refused_unseen(int16_t kafka_error)
{
    switch (kafka_error) {
    case K_MESSAGE_TOO_LARGE:
    case K_RECORD_LIST_TOO_LARGE:
    case K_INVALID_RECORD:
    case K_INVALID_TIMESTAMP:
    case K_INVALID_TOPIC_EXCEPTION:
    case K_TOPIC_AUTHORIZATION_FAILED:
    case K_UNSUPPORTED_COMPRESSION_TYPE:
    case K_POLICY_VIOLATION:
        return true;
    default:
        return false;
    }
}

static void batch_refused(Batch *b, int error, int16_t kafka_error)
{
    Lane *lane = b->lane;
    leat_producer *p = lane->producer;

    client_fail_kafka(p->client, kafka_error, lane->topic->name);
    /* The last sequence given out can be taken back; any other leaves a hole. */
    if (is_refused_unseen(kafka_error) && b->node.next == &lane->queue && lane->n_sent == 1)
        lane->next_sequence = b->base_sequence;
    else
        lane->raise_epoch = p->idempotent;
    batch_end(b, error, kafka_error, -1, -1);
}

/* The broker expected another sequence. */
static void batch_out_of_order(Batch *b, int16_t kafka_error)
{
    Lane *lane = b->lane;

    if (b->node.prev != &lane->queue) { /* one before it failed: it goes out again behind that one */
        batch_again(b, 0);
        return;
    }
    list_for_each(it, &lane->queue) /* without this one the broker has none of those behind it either */
        CONTAINER_OF(it, Batch, node)->in_doubt = false;
    if (++b->out_of_order >= OUT_OF_ORDER_MAX || kafka_error != K_OUT_OF_ORDER_SEQUENCE_NUMBER)
        lane->raise_epoch = true;
    batch_again(b, lane->producer->settings.retry_backoff_ms);
}

void producer_completed(Batch *b, const FabCqe *cqe)
{
    Lane *lane = b->lane;
    leat_producer *p = lane->producer;
    int16_t e = cqe->kafka_error;

    assert(b->state == BATCH_SENT);
    b->op_id = 0; /* the op is gone, the broker has read the batch */
    b->in_doubt = false;
    if (LIKELY(e == K_NONE) || e == K_DUPLICATE_SEQUENCE_NUMBER) {
        lane->proven = true;
        batch_end(b, 0, 0, p->acks == 0 || e != K_NONE ? -1 : cqe->base_offset, p->acks == 0 ? -1 : cqe->log_append_ms);
    } else if (p->idempotent && (e == K_OUT_OF_ORDER_SEQUENCE_NUMBER || e == K_UNKNOWN_PRODUCER_ID ||
                                 e == K_INVALID_PRODUCER_EPOCH)) {
        batch_out_of_order(b, e);
    } else if (k_error_is_retriable(e) && p->acks != 0) {
        if (e == K_UNKNOWN_TOPIC_OR_PARTITION || e == K_UNKNOWN_TOPIC_ID)
            topic_reopen(lane->topic);
        client_fail_kafka(p->client, e, lane->topic->name);
        b->refusal = e;
        batch_again(b, p->settings.retry_backoff_ms);
    } else {
        batch_refused(b, error_from_kafka(e), e);
    }
    int64_t now_ns = lane->retry_at_ns ? clock_mono_ns() : 0;
    if (lane->open && lane->n_queued == 0 && lane->open->builder.count > 0 && lane != p->claim &&
        (p->settings.linger_ms == 0 || p->flushing))
        lane_close(lane, false); /* natural batching: what gathered meanwhile goes now */
    lane_pump(lane, now_ns);
}

/* ---- turns --------------------------------------------------------------------------------------------------------- */

/* What the broker last said about the topic or the batch; 0 = nothing. */
static int16_t refusal_of(const Batch *b)
{
    const leat_topic *t = b->lane->topic;
    return t->state != TOPIC_OPEN && t->kafka_error ? t->kafka_error : b->refusal;
}

const char *producer_obstacle(const leat_producer *p)
{
    if (!p->client->fab)
        return "no broker";
    list_for_each(it, &p->active) {
        const Lane *lane = CONTAINER_OF(it, Lane, active_node);
        const Batch *b = list_is_empty(&lane->queue) ? lane->open : CONTAINER_OF(lane->queue.next, Batch, node);
        if (b && refusal_of(b))
            return k_error_message(refusal_of(b));
    }
    return "the broker has not answered";
}

/* Its time is over. A program that is told why the broker kept sending it back can do something about it. */
static void batch_expire(Batch *b)
{
    Lane *lane = b->lane;
    leat_producer *p = lane->producer;
    int16_t refusal = refusal_of(b);
    bool told_why = refusal != 0 && b->state == BATCH_READY;

    client_fail(p->client, -ETIMEDOUT, "topic '%s' partition %d: not acknowledged within delivery.timeout.ms%s%s",
                lane->topic->name, lane->partition, refusal ? "; the broker's last answer: " : "",
                refusal ? k_error_message(refusal) : "");
    lane->raise_epoch = p->idempotent; /* whether it is in the log is not known */
    batch_end(b, p->client->fab ? -ETIMEDOUT : -ECONNRESET, told_why ? refusal : K_REQUEST_TIMED_OUT, -1, -1);
}

static void lane_expire(Lane *lane, int64_t now_ns)
{
    leat_producer *p = lane->producer;
    int64_t limit_ns = p->settings.delivery_timeout_ms * NS_PER_MS;

    while (!list_is_empty(&lane->queue)) {
        Batch *b = CONTAINER_OF(lane->queue.next, Batch, node);
        if (now_ns - b->born_ns < limit_ns)
            return;
        batch_expire(b);
    }
}

static void lane_turn(Lane *lane, int64_t now_ns)
{
    leat_producer *p = lane->producer;

    lane_expire(lane, now_ns);
    Batch *b = lane->open;
    if (b && b->builder.count > 0 && lane != p->claim) {
        bool due = p->settings.linger_ms ? now_ns >= b->born_ns + p->settings.linger_ms * NS_PER_MS : lane->n_queued == 0;
        if (due || p->flushing || now_ns - b->born_ns >= p->settings.delivery_timeout_ms * NS_PER_MS)
            lane_close(lane, false);
        else if (p->settings.linger_ms)
            p->due_ns = MIN(p->due_ns, b->born_ns + p->settings.linger_ms * NS_PER_MS);
    }
    lane_pump(lane, now_ns);
    if (!list_is_empty(&lane->queue))
        p->due_ns = MIN(p->due_ns, CONTAINER_OF(lane->queue.next, Batch, node)->born_ns +
                                       p->settings.delivery_timeout_ms * NS_PER_MS);
    else if (lane->open)
        p->due_ns = MIN(p->due_ns, lane->open->born_ns + p->settings.delivery_timeout_ms * NS_PER_MS);
}

static void pump_active(leat_producer *p, int64_t now_ns)
{
    p->due_ns = INT64_MAX;
    p->stalled = false;
    list_for_each_safe(it, &p->active)
        lane_turn(CONTAINER_OF(it, Lane, active_node), now_ns);
}

void producer_turn(leat_producer *p, int64_t now_ns)
{
    if (p->tcp || (LIKELY(!p->stalled) && now_ns < p->due_ns))
        return;
    pump_active(p, now_ns);
}

void producer_flush_lanes(leat_producer *p, int64_t now_ns)
{
    p->flushing = true;
    pump_active(p, now_ns);
}

int64_t producer_deadline_ns(const leat_producer *p)
{
    return p->due_ns; /* a stalled producer waits for completions, which wake */
}

void producer_topic_opened(leat_producer *p, leat_topic *t)
{
    if (p->tcp || t->index >= p->n_topics)
        return;
    int64_t now_ns = clock_mono_ns();
    ProducerTopic *pt = &p->topics[t->index];
    for (int32_t i = 0; i < pt->n_lanes; i++)
        if (pt->lanes[i])
            lane_pump(pt->lanes[i], now_ns);
    if (pt->sticky >= t->partitions)
        pt->sticky = 0;
}

void producer_down(leat_producer *p)
{
    list_for_each_safe(it, &p->active) {
        Lane *lane = CONTAINER_OF(it, Lane, active_node);
        lane->n_sent = 0;
        lane->retry_at_ns = 0;
        list_for_each_safe(at, &lane->queue) {
            Batch *b = CONTAINER_OF(at, Batch, node);
            b->in_doubt |= b->state == BATCH_SENT;
            b->state = BATCH_READY;
            b->op_id = 0;
            if (b->in_arena && batch_to_heap(b, b->size) < 0) {
                b->data = NULL;
                lane->raise_epoch = p->idempotent;
                batch_end(b, -ENOMEM, K_UNKNOWN_SERVER_ERROR, -1, -1);
            }
        }
        Batch *b = lane->open;
        if (b && b->in_arena && batch_to_heap(b, b->builder.size) < 0) {
            b->in_arena = false; /* stamped into the dying arena, only to be counted as lost */
            lane_close(lane, false);
            b->data = NULL;
            batch_end(b, -ENOMEM, K_UNKNOWN_SERVER_ERROR, -1, -1);
        }
    }
    p->stalled = true;
}

void producer_free_lanes(leat_producer *p)
{
    for (size_t i = 0; i < p->n_topics; i++) {
        for (int32_t k = 0; k < p->topics[i].n_lanes; k++) {
            Lane *lane = p->topics[i].lanes[k];
            if (!lane)
                continue;
            if (lane->open)
                batch_free(TAKE(lane->open));
            list_for_each_safe(it, &lane->queue)
                batch_free(CONTAINER_OF(it, Batch, node));
            list_remove(&lane->active_node);
            free(lane);
        }
        free(p->topics[i].lanes);
    }
    free(p->topics);
    while (p->spare) {
        Batch *b = p->spare;
        p->spare = (Batch *)(void *)b->node.next;
        free(b->marks);
        free(b);
    }
}
