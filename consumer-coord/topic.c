/* See topic.h. */

#include "consumer-coord/topic.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/list.h"
#include "base/log.h"
#include "wire/batch.h"
#include "wire/compress.h"
#include "wire/error.h"

#define RETRY_MS         100
#define FRAME_BYTES      (256u << 10)
#define DECOMPRESSED_MAX (64u << 20)

/* user_data of our descriptors: kind, partition, number */
#define UD_PARTITION_SHIFT 44
#define UD_KIND_SHIFT      60
typedef enum UdKind { UD_NONE, UD_OPEN, UD_SUBSCRIBE, UD_WRITE } UdKind;

typedef enum PartitionPhase {
    PHASE_AWAY,    /* another host leads it, or nobody */
    PHASE_WAITING, /* ours, to be loaded when session, handle and writes allow */
    PHASE_READING,
    PHASE_READY,
} PartitionPhase;

typedef struct Pending {
    List node; /* TopicPartition.writes, in order */
    uint64_t id;
    bool is_sent;
    bool is_orphan; /* its partition was lost: the completion is only waited for */
    int16_t failed; /* could not even be sent: told at the end of the turn */
    size_t size;
    uint8_t batch[];
} Pending;

typedef struct TopicPartition {
    PartitionPhase phase;
    int32_t leader_epoch;
    uint32_t generation; /* of the subscription */
    bool target_is_known;
    int64_t target; /* high watermark when reading began */
    uint64_t records;
    int64_t began_ms;
    List writes;
} TopicPartition;

struct OffsetsTopic {
    Loop *loop;
    LoopTimer *retry;
    OffsetsTopicOps ops;
    void *userdata;
    FabLink *link; /* NULL: down */
    int32_t node_id;
    Uuid topic_id;
    bool is_opening, is_open;
    uint32_t handle;
    TopicPartition *partitions;
    int32_t n;
    size_t n_writes;
    uint32_t write_timeout_ms;
    bool has_failed; /* some Pending.failed */
    Buf records;     /* decompressed */
};

static uint64_t user_data(UdKind kind, int32_t partition, uint64_t number)
{
    return (uint64_t)kind << UD_KIND_SHIFT | (uint64_t)partition << UD_PARTITION_SHIFT | number;
}

static void retry_soon(OffsetsTopic *t)
{
    if (loop_timer_deadline(t->retry) == INT64_MAX)
        loop_timer_set(t->retry, clock_mono_ns() + RETRY_MS * NS_PER_MS);
}

/* Writes */

static void pending_free(OffsetsTopic *t, Pending *w)
{
    list_remove(&w->node);
    t->n_writes--;
    free(w);
}

static void fail_later(OffsetsTopic *t, Pending *w, int16_t error)
{
    w->failed = error;
    t->has_failed = true;
}

static void send_write(OffsetsTopic *t, int32_t partition, Pending *w)
{
    if (!t->link || !t->is_open || w->is_sent || w->failed)
        return;
    FabSqe sqe = {
        .op = FAB_OP_PRODUCE,
        .acks = -1,
        .handle = t->handle,
        .partition = partition,
        .user_data = user_data(UD_WRITE, partition, w->id),
        .timeout_ms = t->write_timeout_ms,
    };
    int r = fab_link_send(t->link, &sqe, w->batch, w->size);
    if (r == 0)
        w->is_sent = true;
    else if (r != -ENOTCONN) /* then it is sent again when the session is back */
        fail_later(t, w, r == -EMSGSIZE ? K_MESSAGE_TOO_LARGE : K_COORDINATOR_NOT_AVAILABLE);
}

static RecordView record_of(const GroupEffect *e, size_t i)
{
    return (RecordView){
        .timestamp = e->timestamp_ms,
        .key = e->records[i].key.ptr,
        .key_size = e->records[i].key.len,
        .value = e->records[i].value.ptr,
        .value_size = e->records[i].value.len,
    };
}

static Pending *build(const GroupEffect *e)
{
    size_t capacity = BATCH_HEADER_SIZE;
    for (size_t i = 0; i < e->n_records; i++) {
        RecordView r = record_of(e, i);
        capacity += batch_record_size_max(&r);
    }
    Pending *w = calloc(1, sizeof(*w) + capacity);
    if (!w)
        abort(); /* as in the core: a lost write would be a lie */
    BatchBuilder b;
    batch_builder_init(&b, w->batch, capacity);
    for (size_t i = 0; i < e->n_records; i++) {
        RecordView r = record_of(e, i);
        int error = batch_builder_append(&b, &r);
        assert(error == 0);
    }
    BatchStamp stamp = BATCH_STAMP_NONE;
    w->id = e->write_id;
    w->size = batch_builder_finish(&b, &stamp);
    return w;
}

void offsets_topic_write(OffsetsTopic *t, const GroupEffect *e)
{
    assert(e->partition >= 0 && e->partition < t->n);
    Pending *w = build(e);
    list_append(&t->partitions[e->partition].writes, &w->node);
    t->n_writes++;
    send_write(t, e->partition, w);
}

size_t offsets_topic_writes(const OffsetsTopic *t)
{
    return t->n_writes;
}

bool offsets_topic_is_loading(const OffsetsTopic *t)
{
    for (int32_t i = 0; i < t->n; i++)
        if (t->partitions[i].phase == PHASE_WAITING || t->partitions[i].phase == PHASE_READING)
            return true;
    return false;
}

static void finish_write(OffsetsTopic *t, Pending *w, int16_t error)
{
    uint64_t id = w->id;
    bool is_orphan = w->is_orphan;
    pending_free(t, w);
    if (!is_orphan)
        t->ops.written(t->userdata, id, error);
}

static void maybe_load(OffsetsTopic *t, int32_t partition);

static void on_acked(OffsetsTopic *t, int32_t partition, uint64_t id, int16_t error)
{
    list_for_each(it, &t->partitions[partition].writes)
    {
        Pending *w = CONTAINER_OF(it, Pending, node);
        if (w->id != id)
            continue;
        finish_write(t, w, error);
        maybe_load(t, partition);
        return;
    }
}

static Pending *next_failed(OffsetsTopic *t)
{
    for (int32_t p = 0; p < t->n; p++)
        list_for_each(it, &t->partitions[p].writes)
        {
            Pending *w = CONTAINER_OF(it, Pending, node);
            if (w->failed)
                return w;
        }
    return NULL;
}

static void on_turn_end(void *userdata)
{
    OffsetsTopic *t = userdata;
    if (!t->has_failed)
        return;
    t->has_failed = false;
    for (Pending *w; (w = next_failed(t)) != NULL;)
        finish_write(t, w, w->failed);
}

/* Loading */

static void drop_writes(OffsetsTopic *t, TopicPartition *p)
{
    list_for_each_safe(it, &p->writes)
    {
        Pending *w = CONTAINER_OF(it, Pending, node);
        w->is_orphan = true;
        if (!w->is_sent || !t->link)
            pending_free(t, w);
    }
}

static int subscribe(OffsetsTopic *t, int32_t partition, int64_t offset)
{
    TopicPartition *p = &t->partitions[partition];
    FabSubscribe want = {
        .offset = offset,
        .leader_epoch = -1,
        .generation = ++p->generation,
        .min_bytes = 1,
        .max_frame_bytes = FRAME_BYTES,
    };
    FabSqe sqe = {
        .op = FAB_OP_SUBSCRIBE,
        .handle = t->handle,
        .partition = partition,
        .user_data = user_data(UD_SUBSCRIBE, partition, p->generation),
    };
    return fab_link_send(t->link, &sqe, &want, sizeof(want));
}

static void unsubscribe(OffsetsTopic *t, int32_t partition)
{
    FabSqe sqe = {.op = FAB_OP_UNSUBSCRIBE, .handle = t->handle, .partition = partition};
    if (t->link && t->is_open)
        (void)fab_link_send(t->link, &sqe, NULL, 0); /* failing, frames of an old generation go on being ignored */
}

static void maybe_load(OffsetsTopic *t, int32_t partition)
{
    TopicPartition *p = &t->partitions[partition];
    if (p->phase != PHASE_WAITING || !t->link || !t->is_open || !list_is_empty(&p->writes))
        return;
    p->target_is_known = false;
    p->records = 0;
    p->began_ms = clock_mono_ms();
    t->ops.loading(t->userdata, partition); /* again, when an earlier attempt broke off */
    if (subscribe(t, partition, -2) < 0)
        retry_soon(t);
    else
        p->phase = PHASE_READING;
}

static void load_all(OffsetsTopic *t)
{
    for (int32_t i = 0; i < t->n; i++)
        maybe_load(t, i);
}

static void take_records(OffsetsTopic *t, int32_t partition, const BatchHeader *h, const void *data, size_t size)
{
    BatchIter it;
    Record record;
    int r;
    batch_iter_init(&it, h, data, size);
    while ((r = batch_iter_next(&it, &record)) > 0) {
        t->partitions[partition].records++;
        t->ops.record(t->userdata, partition, (KBytes){record.key, record.key_size}, (KBytes){record.value, record.value_size});
    }
    if (r < 0)
        jlog(LOG_ERR, "%s-%d: the batch at offset %lld holds records that cannot be read", OFFSETS_TOPIC_NAME, partition,
             (long long)h->base_offset);
}

static void take_batch(OffsetsTopic *t, int32_t partition, const BatchHeader *h, const uint8_t *batch)
{
    const void *data = batch + BATCH_HEADER_SIZE;
    size_t size = batch_total_size(h) - BATCH_HEADER_SIZE;
    BatchCodec codec = (BatchCodec)(h->attributes & BATCH_ATTR_CODEC_MASK);
    if (h->attributes & BATCH_ATTR_CONTROL)
        return;
    if (!batch_crc_is_valid(batch, h)) {
        jlog(LOG_ERR, "%s-%d: the batch at offset %lld is damaged; its records are skipped", OFFSETS_TOPIC_NAME, partition,
             (long long)h->base_offset);
        return;
    }
    if (codec != CODEC_NONE) {
        buf_clear(&t->records);
        int r = codec_decompress(codec, data, size, DECOMPRESSED_MAX, &t->records);
        if (r < 0) {
            jlog_errno(LOG_ERR, r, "%s-%d: the batch at offset %lld cannot be read", OFFSETS_TOPIC_NAME, partition, (long long)h->base_offset);
            return;
        }
        data = t->records.data;
        size = t->records.size;
    }
    take_records(t, partition, h, data, size);
}

static void take_batches(OffsetsTopic *t, int32_t partition, const void *payload, size_t size)
{
    const uint8_t *at = payload;
    BatchHeader h;
    while (size > 0 && batch_header_decode(at, size, &h) == 0 && batch_total_size(&h) <= size) {
        take_batch(t, partition, &h, at);
        size -= batch_total_size(&h);
        at += batch_total_size(&h);
    }
    if (size > 0)
        jlog(LOG_ERR, "%s-%d: %zu bytes that are no batch", OFFSETS_TOPIC_NAME, partition, size);
}

static void finish_load(OffsetsTopic *t, int32_t partition)
{
    TopicPartition *p = &t->partitions[partition];
    p->phase = PHASE_READY;
    unsubscribe(t, partition);
    t->ops.loaded(t->userdata, partition, p->records, clock_mono_ms() - p->began_ms);
}

static void on_read_error(OffsetsTopic *t, int32_t partition, const FabFrame *f)
{
    TopicPartition *p = &t->partitions[partition];
    if (f->kafka_error == K_CORRUPT_MESSAGE) {
        jlog(LOG_ERR, "%s-%d: damaged records before offset %lld are skipped", OFFSETS_TOPIC_NAME, partition, (long long)f->next_offset);
        if (subscribe(t, partition, f->next_offset) == 0)
            return;
    }
    p->phase = PHASE_WAITING;
    retry_soon(t);
}

void offsets_topic_frame(OffsetsTopic *t, const FabDelivery *d)
{
    const FabFrame *f = &d->frame;
    if (!t->is_open || f->handle != t->handle || f->partition < 0 || f->partition >= t->n)
        return;
    TopicPartition *p = &t->partitions[f->partition];
    if (p->phase != PHASE_READING || f->generation != p->generation)
        return;
    if (f->type == FAB_FRAME_ERROR) {
        on_read_error(t, f->partition, f);
        return;
    }
    if (!p->target_is_known) {
        p->target = f->high_watermark;
        p->target_is_known = true;
    }
    if (f->type == FAB_FRAME_BATCHES)
        take_batches(t, f->partition, d->payload, f->size);
    if (f->next_offset >= p->target || (f->type == FAB_FRAME_POSITION && f->aux == 1))
        finish_load(t, f->partition);
}

/* The topic and its handle */

static void open_topic(OffsetsTopic *t)
{
    if (!t->link || t->is_open || t->is_opening || t->n == 0)
        return;
    FabSqe sqe = {.op = FAB_OP_OPEN, .user_data = user_data(UD_OPEN, 0, 0)};
    if (fab_link_send(t->link, &sqe, OFFSETS_TOPIC_NAME, strlen(OFFSETS_TOPIC_NAME)) == 0)
        t->is_opening = true;
    else
        retry_soon(t);
}

static void on_opened(OffsetsTopic *t, const FabCqe *cqe)
{
    t->is_opening = false;
    if (cqe->kafka_error != K_NONE) { /* the broker's metadata are behind ours */
        retry_soon(t);
        return;
    }
    t->is_open = true;
    t->handle = (uint32_t)cqe->base_offset;
    for (int32_t i = 0; i < t->n; i++)
        list_for_each(it, &t->partitions[i].writes)
        {
            send_write(t, i, CONTAINER_OF(it, Pending, node));
        }
    load_all(t);
}

static void on_subscribed(OffsetsTopic *t, int32_t partition, uint64_t generation, int16_t error)
{
    TopicPartition *p = &t->partitions[partition];
    if (error == K_NONE || p->phase != PHASE_READING || p->generation != (uint32_t)generation)
        return;
    p->phase = PHASE_WAITING;
    retry_soon(t);
}

void offsets_topic_completion(OffsetsTopic *t, const FabCqe *cqe)
{
    UdKind kind = (UdKind)(cqe->user_data >> UD_KIND_SHIFT);
    int32_t partition = (int32_t)(cqe->user_data >> UD_PARTITION_SHIFT & 0xffff);
    uint64_t number = cqe->user_data & ((1ull << UD_PARTITION_SHIFT) - 1);
    if (kind == UD_OPEN && cqe->kind == FAB_CQE_DONE)
        on_opened(t, cqe);
    else if (kind == UD_SUBSCRIBE && cqe->kind == FAB_CQE_DONE && partition < t->n)
        on_subscribed(t, partition, number, cqe->kafka_error);
    else if (kind == UD_WRITE && cqe->kind == FAB_CQE_ACKED && partition < t->n)
        on_acked(t, partition, number, cqe->kafka_error);
}

void offsets_topic_up(OffsetsTopic *t, FabLink *link)
{
    t->link = link;
    open_topic(t);
}

void offsets_topic_down(OffsetsTopic *t)
{
    t->link = NULL;
    t->is_open = t->is_opening = false;
    for (int32_t i = 0; i < t->n; i++) {
        TopicPartition *p = &t->partitions[i];
        if (p->phase == PHASE_READING)
            p->phase = PHASE_WAITING;
        list_for_each_safe(it, &p->writes)
        {
            Pending *w = CONTAINER_OF(it, Pending, node);
            w->is_sent = false;
            if (w->is_orphan)
                pending_free(t, w);
        }
    }
}

static void on_retry(void *userdata)
{
    OffsetsTopic *t = userdata;
    open_topic(t);
    load_all(t);
}

/* Leadership */

static void grow(OffsetsTopic *t, int32_t n)
{
    TopicPartition *p = calloc((size_t)n, sizeof(*p));
    if (!p)
        abort();
    for (int32_t i = 0; i < n; i++) {
        List *writes = &p[i].writes;
        if (i < t->n)
            p[i] = t->partitions[i];
        list_init(writes);
        for (List *node; i < t->n && (node = list_pop(&t->partitions[i].writes));)
            list_append(writes, node);
    }
    free(t->partitions);
    t->partitions = p;
    t->n = n;
    t->ops.partitions(t->userdata, n);
}

static void lose(OffsetsTopic *t, int32_t partition)
{
    TopicPartition *p = &t->partitions[partition];
    if (p->phase == PHASE_AWAY)
        return;
    if (p->phase == PHASE_READING)
        unsubscribe(t, partition);
    p->phase = PHASE_AWAY;
    drop_writes(t, p);
    t->ops.lost(t->userdata, partition);
}

static void gain(OffsetsTopic *t, int32_t partition, int32_t leader_epoch)
{
    TopicPartition *p = &t->partitions[partition];
    if (p->phase != PHASE_AWAY && p->leader_epoch == leader_epoch)
        return;
    if (p->phase == PHASE_READING)
        unsubscribe(t, partition);
    drop_writes(t, p);
    p->phase = PHASE_WAITING;
    p->leader_epoch = leader_epoch;
    t->ops.loading(t->userdata, partition);
    maybe_load(t, partition);
}

void offsets_topic_image(OffsetsTopic *t, const MetaImage *image)
{
    const MetaTopic *topic = meta_topic(image, OFFSETS_TOPIC_NAME, strlen(OFFSETS_TOPIC_NAME));
    if (!topic || !uuid_equal(&topic->id, &t->topic_id)) { /* gone, or made anew: nothing we know is in it */
        for (int32_t i = 0; i < t->n; i++)
            lose(t, i);
        t->is_open = false;
    }
    if (!topic)
        return;
    t->topic_id = topic->id;
    int32_t n = MIN(topic->n_partitions, OFFSETS_PARTITIONS_MAX);
    if (n > t->n)
        grow(t, n);
    for (int32_t i = 0; i < n; i++) {
        const MetaPartition *p = &topic->partitions[i];
        if (p->leader == t->node_id)
            gain(t, i, p->leader_epoch);
        else
            lose(t, i);
    }
    open_topic(t);
}

/* Life */

int offsets_topic_new(Loop *loop, int32_t node_id, const OffsetsTopicOps *ops, void *userdata, OffsetsTopic **ret)
{
    OffsetsTopic *t = calloc(1, sizeof(*t));
    if (!t)
        return -ENOMEM;
    *t = (OffsetsTopic){.loop = loop, .ops = *ops, .userdata = userdata, .node_id = node_id, .write_timeout_ms = 5000};
    int r = loop_add_timer(loop, on_retry, t, &t->retry);
    if (r == 0)
        r = loop_add_turn_end(loop, on_turn_end, t);
    if (r < 0) {
        offsets_topic_free(t);
        return r;
    }
    *ret = t;
    return 0;
}

OffsetsTopic *offsets_topic_free(OffsetsTopic *t)
{
    if (!t)
        return NULL;
    for (int32_t i = 0; i < t->n; i++)
        for (List *node; (node = list_pop(&t->partitions[i].writes));)
            free(CONTAINER_OF(node, Pending, node));
    loop_timer_free(t->retry);
    free(t->partitions);
    buf_deinit(&t->records);
    free(t);
    return NULL;
}

void offsets_topic_set_write_timeout(OffsetsTopic *t, uint32_t timeout_ms)
{
    t->write_timeout_ms = timeout_ms;
}
