/*
 * Subscriptions and the rounds that fill delivery rings. See delivery.h.
 *
 * States of a subscription, by the list its node is in:
 *   idle     Partition.subscribers   no data below the high watermark, or fewer than min_bytes (then a deadline runs)
 *   ready    Session.ready           looks at its partition in the next round
 *   stopped  none                    told an error; the client subscribes anew or gives up
 * A session is in Delivery.ready while it has ready subscriptions and room in its ring.
 *
 * INV-DELIVERY-1 no frame holds a batch at or past the high watermark read before the copy
 * INV-DELIVERY-2 a subscription holds no Partition between rounds: topics may go at any time
 */

#include "broker/delivery.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/fs.h"
#include "broker/session.h"

#define FRAME_BYTES_DEFAULT (1u << 20)
#define FRAME_BYTES_MIN     4096u

#define BUCKETS             256u

struct Subscription {
    List session_node; /* Session.subscriptions */
    List bucket_node;  /* Session.by_partition */
    List node;         /* Session.ready, Partition.subscribers, or none */
    Session *session;
    Topic *topic; /* referenced */
    uint32_t handle;
    int32_t partition;
    uint32_t generation, min_bytes, max_wait_ms, max_frame_bytes;
    int64_t offset;
    bool hurry;    /* max_wait passed: any data goes */
    bool told_end; /* the client knows that it stands at the end */
    Deadline deadline;
};

struct Delivery {
    Broker *broker;
    List ready; /* Session.ready_node */
};

typedef enum Outcome { SENT, IDLE, NO_SPACE, STOPPED } Outcome;

int delivery_new(Broker *b, Delivery **ret)
{
    Delivery *d = calloc(1, sizeof(*d));
    if (!d)
        return -ENOMEM;
    d->broker = b;
    list_init(&d->ready);
    *ret = d;
    return 0;
}

Delivery *delivery_free(Delivery *d)
{
    free(d);
    return NULL;
}

static void ready_session(Session *s)
{
    if (!s->no_space && list_is_empty(&s->ready_node) && !list_is_empty(&s->ready))
        list_append(&s->broker->delivery->ready, &s->ready_node);
}

static void make_ready(Subscription *sub)
{
    list_remove(&sub->node);
    list_append(&sub->session->ready, &sub->node);
    ready_session(sub->session);
}

static void on_max_wait(Deadline *deadline)
{
    Subscription *sub = CONTAINER_OF(deadline, Subscription, deadline);
    sub->hurry = true;
    make_ready(sub);
}

static List *bucket(const Session *s, uint32_t handle, int32_t partition)
{
    return &s->by_partition[(handle * 31 + (uint32_t)partition) % BUCKETS];
}

static Subscription *find(const Session *s, uint32_t handle, int32_t partition)
{
    if (!s->by_partition)
        return NULL;
    list_for_each(l, bucket(s, handle, partition)) {
        Subscription *sub = CONTAINER_OF(l, Subscription, bucket_node);
        if (sub->handle == handle && sub->partition == partition)
            return sub;
    }
    return NULL;
}

static void subscription_free(Subscription *sub)
{
    deadline_clear(&sub->session->broker->deadlines, &sub->deadline);
    sub->session->subscriptions_count--;
    list_remove(&sub->session_node);
    list_remove(&sub->bucket_node);
    list_remove(&sub->node);
    topic_unref(sub->topic);
    free(sub);
}

static Subscription *subscription_new(Session *s, uint32_t handle, int32_t partition)
{
    if (!s->by_partition) {
        s->by_partition = malloc(BUCKETS * sizeof(List));
        if (!s->by_partition)
            return NULL;
        for (size_t i = 0; i < BUCKETS; i++)
            list_init(&s->by_partition[i]);
    }
    Subscription *sub = calloc(1, sizeof(*sub));
    if (!sub)
        return NULL;
    list_init(&sub->session_node);
    list_init(&sub->bucket_node);
    list_init(&sub->node);
    sub->session = s;
    sub->topic = topic_ref(s->handles[handle].topic);
    sub->handle = handle;
    sub->partition = partition;
    sub->deadline.fn = on_max_wait;
    list_append(&s->subscriptions, &sub->session_node);
    list_append(bucket(s, handle, partition), &sub->bucket_node);
    s->subscriptions_count++;
    return sub;
}

int16_t delivery_subscribe(Session *s, uint32_t handle, int32_t partition, const FabSubscribe *want)
{
    Broker *b = s->broker;
    Partition *p = partition_of(s->handles[handle].topic, partition);
    KafkaError e = partition_check(p, -1);
    if (e != K_NONE)
        return e;
    Subscription *sub = find(s, handle, partition);
    if (!sub && s->subscriptions_count >= SUBSCRIPTIONS_MAX)
        return K_POLICY_VIOLATION;
    if (!sub && !(sub = subscription_new(s, handle, partition)))
        return K_UNKNOWN_SERVER_ERROR;
    deadline_clear(&b->deadlines, &sub->deadline);
    sub->generation = want->generation;
    sub->min_bytes = want->min_bytes;
    sub->max_wait_ms = want->max_wait_ms;
    sub->max_frame_bytes = want->max_frame_bytes ? MAX(want->max_frame_bytes, FRAME_BYTES_MIN) : FRAME_BYTES_DEFAULT;
    sub->offset = want->offset == -1 ? partition_hw(p) : want->offset == -2 ? plog_start(p->log) : want->offset;
    sub->hurry = sub->told_end = false;
    make_ready(sub);
    return K_NONE;
}

int16_t delivery_unsubscribe(Session *s, uint32_t handle, int32_t partition)
{
    Subscription *sub = find(s, handle, partition);
    if (!sub)
        return K_UNKNOWN_TOPIC_OR_PARTITION;
    subscription_free(sub);
    return K_NONE;
}

void delivery_session_closed(Session *s)
{
    while (!list_is_empty(&s->subscriptions))
        subscription_free(CONTAINER_OF(s->subscriptions.next, Subscription, session_node));
    list_remove(&s->ready_node);
    free(s->by_partition);
    s->by_partition = NULL;
}

void delivery_space(Session *s)
{
    s->no_space = false;
    ready_session(s);
}

void delivery_wake(Broker *b, Partition *p)
{
    (void)b;
    while (!list_is_empty(&p->subscribers))
        make_ready(CONTAINER_OF(p->subscribers.next, Subscription, node));
}

static FabFrame frame_of(const Subscription *sub, const Partition *p, FabFrameType type)
{
    FabFrame f = {.type = (uint16_t)type,
                  .handle = sub->handle,
                  .partition = sub->partition,
                  .generation = sub->generation,
                  .next_offset = sub->offset,
                  .leader_epoch = -1};
    if (p && p->log) {
        f.high_watermark = partition_hw(p);
        f.log_start = plog_start(p->log);
        f.leader_epoch = p->replica.leader_epoch;
    }
    return f;
}

static Outcome stop(Subscription *sub, const Partition *p, KafkaError error, int64_t next_offset)
{
    FabFrame f = frame_of(sub, p, FAB_FRAME_ERROR);
    f.kafka_error = error;
    f.next_offset = next_offset;
    (void)fab_session_send(sub->session->fab, &f, NULL);
    return STOPPED;
}

static Outcome wait_for_more(Subscription *sub, Partition *p)
{
    list_remove(&sub->node);
    list_append(&p->subscribers, &sub->node);
    return IDLE;
}

static Outcome at_end(Subscription *sub, Partition *p)
{
    if (!sub->told_end) {
        FabFrame f = frame_of(sub, p, FAB_FRAME_POSITION);
        f.aux = 1;
        (void)fab_session_send(sub->session->fab, &f, NULL);
        sub->told_end = true;
    }
    return wait_for_more(sub, p);
}

static void sent(Subscription *sub, const Partition *p, const PlogSlice *slice)
{
    Broker *b = sub->session->broker;
    counter_add(b->row, COUNTER_BYTES_OUT_SHM, slice->size);
    counter_add(b->row, COUNTER_RECORDS_OUT, (uint64_t)(slice->next_offset - MAX(slice->first_offset, sub->offset)));
    sub->offset = slice->next_offset;
    sub->hurry = false;
    sub->told_end = slice->next_offset >= partition_hw(p); /* next_offset and high_watermark of the frame say so */
    deadline_clear(&b->deadlines, &sub->deadline);
}

/* An eighth of the ring: a program that holds on to records while it waits for an answer must get that answer. */
static size_t room_for_answers(const FabSession *fab)
{
    return fab_session_frame_max(fab) / 4;
}

static Outcome cannot_read(Subscription *sub, Partition *p, int r, const PlogSlice *slice)
{
    if (r == PLOG_E_OUT_OF_RANGE)
        return stop(sub, p, K_OFFSET_OUT_OF_RANGE, sub->offset);
    if (r == PLOG_E_CORRUPT)
        return stop(sub, p, K_CORRUPT_MESSAGE, slice->next_offset);
    partition_log_failed(sub->session->broker, p, "read", r);
    return stop(sub, p, K_KAFKA_STORAGE_ERROR, sub->offset);
}

static int read_slice(Partition *p, const PlogSlice *slice, void *memory)
{
    size_t got = 0;
    int fd = plog_slice_fd(p->log, slice);
    int r = fd < 0 ? fd : fs_pread_all(fd, memory, slice->size, slice->position, &got);
    return r == 0 && got != slice->size ? -EIO : r;
}

/* One batch that no ring can hold travels as a sealed memfd. */
static Outcome send_large(Subscription *sub, Partition *p, PlogSlice *slice)
{
    void *memory = malloc(slice->size);
    int r = memory ? read_slice(p, slice, memory) : -ENOMEM;
    if (r < 0) {
        free(memory);
        return cannot_read(sub, p, r, slice);
    }
    FabFrame f = frame_of(sub, p, FAB_FRAME_BATCHES);
    f.size = (uint32_t)slice->size;
    f.next_offset = slice->next_offset;
    (void)fab_session_send(sub->session->fab, &f, memory);
    free(memory);
    sent(sub, p, slice);
    return SENT;
}

/* The first batch is larger than the room that was tried, or compaction left nothing below the high watermark. */
static Outcome send_first(Subscription *sub, Partition *p, int64_t end)
{
    FabSession *fab = sub->session->fab;
    PlogSlice slice = {0};
    int r = plog_locate(p->log, sub->offset, end, 1, true, &slice);
    if (r != 0)
        return cannot_read(sub, p, r, &slice);
    if (slice.size == 0) {
        sub->offset = end;
        return at_end(sub, p);
    }
    size_t keep = room_for_answers(fab);
    if (slice.size + keep > fab_session_frame_max(fab))
        return send_large(sub, p, &slice);
    void *memory = fab_session_reserve(fab, slice.size + keep);
    if (!memory)
        return NO_SPACE;
    r = read_slice(p, &slice, memory);
    if (r < 0)
        return cannot_read(sub, p, r, &slice);
    FabFrame f = frame_of(sub, p, FAB_FRAME_BATCHES);
    f.size = (uint32_t)slice.size;
    f.next_offset = slice.next_offset;
    fab_session_commit(fab, &f);
    sent(sub, p, &slice);
    return SENT;
}

static bool too_little(Subscription *sub, const PlogSlice *slice, int64_t end)
{
    if (sub->hurry || slice->size >= sub->min_bytes || slice->next_offset < end || sub->max_wait_ms == 0)
        return false;
    if (!deadline_is_set(&sub->deadline))
        broker_set_deadline(sub->session->broker, &sub->deadline, sub->max_wait_ms);
    return true;
}

static Outcome send_one(Subscription *sub, size_t *ret_size)
{
    FabSession *fab = sub->session->fab;
    Partition *p = partition_of(sub->topic, sub->partition);
    KafkaError e = partition_check(p, -1);
    *ret_size = 0;
    if (e != K_NONE)
        return stop(sub, p, e, sub->offset);
    int64_t end = partition_hw(p); /* INV-DELIVERY-1: before the copy */
    if (sub->offset < plog_start(p->log) || sub->offset > plog_end(p->log))
        return stop(sub, p, K_OFFSET_OUT_OF_RANGE, sub->offset);
    if (sub->offset >= end)
        return at_end(sub, p);

    size_t keep = room_for_answers(fab);
    size_t max = MIN((size_t)sub->max_frame_bytes + keep, fab_session_frame_max(fab));
    size_t room = MIN(max, fab_session_frame_room(fab));
    if (room < FRAME_BYTES_MIN + keep)
        room = max;
    void *memory = fab_session_reserve(fab, room);
    if (!memory)
        return NO_SPACE;
    PlogSlice slice = {0};
    int r = plog_read(p->log, sub->offset, end, memory, room - keep, false, &slice);
    if (r != 0)
        return cannot_read(sub, p, r, &slice);
    if (slice.size == 0)
        return send_first(sub, p, end);
    if (too_little(sub, &slice, end))
        return wait_for_more(sub, p);
    FabFrame f = frame_of(sub, p, FAB_FRAME_BATCHES);
    f.size = (uint32_t)slice.size;
    f.next_offset = slice.next_offset;
    fab_session_commit(fab, &f);
    sent(sub, p, &slice);
    *ret_size = slice.size;
    return SENT;
}

/* One frame of every subscription that is ready now. Return: bytes sent. */
static size_t serve(Session *s)
{
    List now;
    size_t total = 0;
    list_init(&now);
    for (List *l; (l = list_pop(&s->ready)) != NULL;)
        list_append(&now, l);
    for (List *l; (l = list_pop(&now)) != NULL;) {
        Subscription *sub = CONTAINER_OF(l, Subscription, node);
        size_t size;
        Outcome o = send_one(sub, &size);
        total += size;
        if (o == SENT)
            list_append(&s->ready, &sub->node);
        if (o == NO_SPACE) {
            s->no_space = true;
            list_append(&s->ready, &sub->node);
            while ((l = list_pop(&now)) != NULL)
                list_append(&s->ready, l);
            break;
        }
    }
    return total;
}

bool delivery_is_pending(const Broker *b)
{
    return !list_is_empty(&b->delivery->ready);
}

void delivery_run(Broker *b)
{
    size_t spent = 0;
    for (List *l; spent < DELIVERY_TURN_BYTES && (l = list_pop(&b->delivery->ready)) != NULL;) {
        Session *s = CONTAINER_OF(l, Session, ready_node);
        spent += serve(s);
        ready_session(s);
    }
}
