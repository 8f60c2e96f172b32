/*
 * From frames to records. A frame of whole batches is walked where it lies in the delivery ring; the record's pointers lead
 * into it (or into a scratch buffer when the batch is compressed). A frame that is used up stays held until the next poll.
 *
 * While a call waits for an answer and nobody polls, frames could fill the ring and keep the answer out: consumer_spill()
 * then copies what waits to the heap and releases it. What the program has borrowed cannot move; the broker keeps room for
 * answers beside batches.
 */

#include "client/consumer.h"
#include "wire/compress.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* ---- the queue ----------------------------------------------------------------------------------------------------- */

static bool pending_has_room(leat_consumer *k)
{
    if (k->pending && k->pending_end - k->pending_first <= k->pending_mask)
        return true;
    Pending *grown = client_ring_grow(k->pending, sizeof *grown, 64, k->pending_first, k->pending_end, &k->pending_mask);
    if (grown)
        k->pending = grown;
    return grown != NULL;
}

static Part *part_of_frame(const leat_client *c, const FabFrame *f)
{
    leat_topic *t = topic_by_handle(c, f->handle);
    if (!t || f->partition < 0 || f->partition >= t->n_parts)
        return NULL;
    Part *p = t->parts[f->partition];
    return p && p->generation == f->generation && (p->state == PART_LIVE || p->state == PART_LEASED) ? p : NULL;
}

bool consumers_take(leat_client *c, const FabDelivery *d, uint64_t held)
{
    Part *p = part_of_frame(c, &d->frame);
    if (!p)
        return false; /* of a generation that is over */
    leat_consumer *k = p->consumer;
    if (!pending_has_room(k)) {
        part_error(p, K_UNKNOWN_SERVER_ERROR); /* out of memory: fetch it again later */
        return false;
    }
    bool keep = d->frame.type == FAB_FRAME_BATCHES;
    k->pending[k->pending_end++ & k->pending_mask] = (Pending){.frame = d->frame, .payload = keep ? d->payload : NULL, .held = held};
    return keep;
}

static void copy_is_spent(leat_consumer *k, void *copy)
{
    if (k->n_spent_copies == k->spent_copies_capacity) {
        size_t n = MAX(2 * k->spent_copies_capacity, 8);
        void **grown = reallocarray(k->spent_copies, n, sizeof *grown);
        if (!grown)
            return; /* leaked rather than freed under the program's feet */
        k->spent_copies = grown;
        k->spent_copies_capacity = n;
    }
    k->spent_copies[k->n_spent_copies++] = copy;
}

/* The frame is used up; its memory stays until the next poll. */
static void frame_is_spent(leat_consumer *k, const Pending *f)
{
    if (f->copy) {
        copy_is_spent(k, f->copy);
        return;
    }
    if (!f->payload)
        return;
    if (k->n_spent == k->spent_capacity) {
        size_t n = MAX(2 * k->spent_capacity, 64);
        uint64_t *grown = reallocarray(k->spent, n, sizeof *grown);
        if (!grown)
            return; /* its ring space comes back with the session's end */
        k->spent = grown;
        k->spent_capacity = n;
    }
    k->spent[k->n_spent++] = f->held;
}

/* Nothing of the frame was given out. */
static void frame_drop(leat_consumer *k, Pending *f)
{
    if (f->copy)
        free(f->copy);
    else if (f->payload)
        client_let_go(k->client, f->held);
}

void delivery_forget_part(leat_consumer *k, const Part *p)
{
    if (k->cursor.part != p)
        return;
    frame_is_spent(k, &k->cursor.at);
    k->cursor = (Cursor){0};
}

void delivery_release(leat_consumer *k)
{
    for (size_t i = 0; i < k->n_spent; i++)
        client_let_go(k->client, k->spent[i]);
    for (size_t i = 0; i < k->n_spent_copies; i++)
        free(k->spent_copies[i]);
    k->n_spent = k->n_spent_copies = 0;
    /* The batch that the cursor stands in keeps its buffer: the last one in use. */
    if (k->n_scratch_used > 0 && k->cursor.in_batch && k->cursor.part) {
        Buf last = k->scratch[k->n_scratch_used - 1];
        k->scratch[k->n_scratch_used - 1] = k->scratch[0];
        k->scratch[0] = last;
        k->n_scratch_used = 1;
    } else {
        k->n_scratch_used = 0;
    }
    k->borrowed = false;
    client_bury(k->client);
}

void delivery_clear(leat_consumer *k)
{
    if (k->cursor.part)
        delivery_forget_part(k, k->cursor.part);
    while (k->pending_first < k->pending_end)
        frame_drop(k, &k->pending[k->pending_first++ & k->pending_mask]);
}

void delivery_free(leat_consumer *k)
{
    delivery_clear(k);
    delivery_release(k);
    for (size_t i = 0; i < k->n_scratch; i++)
        buf_deinit(&k->scratch[i]);
    free(k->scratch);
    free(k->spent);
    free(k->spent_copies);
    free(k->pending);
}

bool consumer_is_borrowing(const leat_consumer *k)
{
    return k->borrowed;
}

/* The frame that the cursor stands in moves; its pointers follow. */
static void cursor_spill(leat_consumer *k)
{
    Cursor *at = &k->cursor;
    const uint8_t *from = at->at.payload;

    if (!at->part || at->at.copy)
        return;
    uint8_t *copy = malloc(at->at.frame.size);
    if (!copy)
        return;
    memcpy(copy, from, at->at.frame.size);
    if (at->in_batch && at->iter.at >= from && at->iter.end <= from + at->at.frame.size) {
        at->iter.at = copy + (at->iter.at - from);
        at->iter.end = copy + (at->iter.end - from);
    }
    at->next = copy + (at->next - from);
    at->at.payload = at->at.copy = copy;
    client_let_go(k->client, at->at.held);
}

void consumer_spill(leat_consumer *k)
{
    if (k->tcp || k->borrowed) /* what is borrowed lies in front of all others: copying frees nothing */
        return;
    cursor_spill(k);
    for (uint64_t i = k->pending_first; i < k->pending_end; i++) {
        Pending *f = &k->pending[i & k->pending_mask];
        if (f->copy || !f->payload)
            continue;
        void *copy = malloc(f->frame.size);
        if (!copy)
            return;
        memcpy(copy, f->payload, f->frame.size);
        f->payload = f->copy = copy;
        client_let_go(k->client, f->held);
    }
}

/* ---- batches ------------------------------------------------------------------------------------------------------- */

static Buf *scratch_next(leat_consumer *k)
{
    if (k->n_scratch_used == k->n_scratch) {
        size_t n = MAX(2 * k->n_scratch, 4);
        Buf *grown = reallocarray(k->scratch, n, sizeof *grown);
        if (!grown)
            return NULL;
        memset(grown + k->n_scratch, 0, (n - k->n_scratch) * sizeof *grown);
        k->scratch = grown;
        k->n_scratch = n;
    }
    Buf *b = &k->scratch[k->n_scratch_used++];
    buf_clear(b);
    return b;
}

/* Opens the next batch of the cursor's frame. Return: 1; 0 no more; a Kafka error as a negative number. */
static int batch_begin(leat_consumer *k)
{
    Cursor *at = &k->cursor;
    BatchHeader h;

    for (;;) {
        if (at->left == 0)
            return 0;
        if (batch_header_decode(at->next, at->left, &h) < 0 || batch_total_size(&h) > at->left)
            return -K_CORRUPT_MESSAGE;
        const uint8_t *batch = at->next;
        size_t size = batch_total_size(&h);
        at->next += size;
        at->left -= size;
        if (batch_last_offset(&h) < at->part->position)
            continue; /* all of it was given out before */
        if ((k->settings.check_crcs || at->at.leased) && !batch_crc_is_valid(batch, &h))
            return -K_CORRUPT_MESSAGE;
        at->batch_end = batch_last_offset(&h) + 1;
        at->leader_epoch = h.leader_epoch;
        if (h.attributes & BATCH_ATTR_CONTROL) {
            at->part->position = at->batch_end;
            continue;
        }
        const void *records = batch + BATCH_HEADER_SIZE;
        size_t records_size = size - BATCH_HEADER_SIZE;
        BatchCodec codec = (BatchCodec)(h.attributes & BATCH_ATTR_CODEC_MASK);
        if (codec != CODEC_NONE) {
            Buf *out = scratch_next(k);
            if (!out || codec_decompress(codec, records, records_size, CONSUMER_DECOMPRESS_MAX, out) < 0)
                return -K_CORRUPT_MESSAGE;
            records = out->data;
            records_size = out->size;
        }
        batch_iter_init(&at->iter, &h, records, records_size);
        at->in_batch = true;
        return 1;
    }
}

static void frame_end(leat_consumer *k)
{
    Cursor *at = &k->cursor;
    Part *p = at->part;

    /* What retention or compaction took out of the end. */
    if (at->at.frame.next_offset > p->position)
        p->position = at->at.frame.next_offset;
    p->high_watermark = at->at.frame.high_watermark;
    p->at_end = p->high_watermark >= 0 && p->position >= p->high_watermark;
    Pending frame = at->at;
    int64_t first = at->first;
    frame_is_spent(k, &frame);
    *at = (Cursor){0};
    if (frame.leased && p->lease.at >= p->lease.end)
        part_again(p); /* the segment is read; perhaps the next one is leased too */
    else if (!frame.leased)
        lease_consider(p, &frame.frame, frame.frame.size, first);
}

/* From the ring and from leases in turn. */
static bool frame_next(leat_consumer *k, Pending *ret)
{
    bool waiting = k->pending_first < k->pending_end;

    if (UNLIKELY(k->n_leased > 0) && (!waiting || (k->lease_turn++ & 1)) && lease_read(k, ret))
        return true;
    if (!waiting)
        return false;
    *ret = k->pending[k->pending_first++ & k->pending_mask];
    return true;
}

/* Opens the next frame that holds batches for us. */
static bool frame_begin(leat_consumer *k)
{
    Pending f;

    while (frame_next(k, &f)) {
        Part *p = part_of_frame(k->client, &f.frame);
        if (!p || p->consumer != k) {
            frame_drop(k, &f);
        } else if (f.frame.type == FAB_FRAME_BATCHES) {
            p->at_end = false;
            k->cursor = (Cursor){.part = p, .at = f, .next = f.payload, .left = f.frame.size, .first = p->position};
            return true;
        } else if (f.frame.type == FAB_FRAME_POSITION) {
            p->high_watermark = f.frame.high_watermark;
            p->at_end = f.frame.aux == 1 || (p->high_watermark >= 0 && p->position >= p->high_watermark);
        } else {
            part_error(p, f.frame.kafka_error);
        }
    }
    return false;
}

static inline void record_copy(leat_record *to, const Record *r, const Cursor *at)
{
    *to = (leat_record){
        .topic = at->part->topic,
        .partition = at->part->partition,
        .leader_epoch = at->leader_epoch,
        .offset = r->offset,
        .timestamp_ms = r->timestamp,
        .key = r->key,
        .key_size = r->key_size,
        .value = r->value,
        .value_size = r->value_size,
        .headers_count = (size_t)r->headers_count,
        .headers = r->headers,
        .headers_size = r->headers_size,
    };
}

/* Records of the open batch. Return: count; *ret_damaged set when the batch turned out malformed. */
static size_t batch_fill(Cursor *at, leat_record *ret, size_t n_max, bool *ret_damaged)
{
    Part *p = at->part;
    BatchIter it = at->iter;
    int64_t position = p->position;
    size_t n = 0;
    Record r;
    int more = 1;

    while (n < n_max && (more = batch_iter_next(&it, &r)) > 0) {
        if (UNLIKELY(r.offset < position))
            continue;
        record_copy(&ret[n++], &r, at);
        position = r.offset + 1;
    }
    at->iter = it;
    p->position = position;
    if (n > 0)
        p->leader_epoch = at->leader_epoch;
    if (more == 0) {
        at->in_batch = false;
        p->position = MAX(position, at->batch_end);
    }
    *ret_damaged = more < 0;
    return n;
}

/* What a lease shows may have been punched out meanwhile: the broker is asked. What the broker sends should be right. */
static void batch_is_bad(Cursor *at)
{
    Part *p = at->part;

    if (at->at.leased) {
        p->try_lease = false;
        part_again(p);
    } else {
        part_error(p, K_CORRUPT_MESSAGE);
    }
}

int delivery_fill(leat_consumer *k, leat_record *ret, size_t n_max)
{
    Cursor *at = &k->cursor;
    size_t n = 0;

    n_max = MIN(n_max, (size_t)INT32_MAX);
    while (n < n_max) {
        if (!at->part && !frame_begin(k))
            break;
        if (!at->in_batch) {
            int r = batch_begin(k);
            if (r < 0)
                batch_is_bad(at);
            else if (r == 0)
                frame_end(k);
            if (r <= 0)
                continue;
        }
        bool damaged;
        n += batch_fill(at, ret + n, n_max - n, &damaged);
        if (damaged)
            batch_is_bad(at);
    }
    if (n > 0)
        k->borrowed = true;
    return (int)n;
}
