/*
 * Idempotent producers of one log (kafka-wire.md section 8): for each producer id the epoch and the last five batches, so
 * that a batch sent again is recognised and a gap in the sequence is refused. The state is a function of the log; the
 * snapshots (producer_snapshot.c) only shorten the way there.
 *
 * Sequences wrap from 2^31-1 to 0. A dense array of states and a table of indexes into it; expiry rebuilds the table.
 */

#include "storage/internal.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define SLOTS_MIN 16

static uint64_t mix(int64_t producer_id)
{
    uint64_t x = (uint64_t)producer_id * 0x9e3779b97f4a7c15u;
    return x ^ (x >> 32);
}

void producers_deinit(Producers *p)
{
    free(p->states);
    free(p->slots);
    *p = (Producers){0};
}

void producers_clear(Producers *p)
{
    p->n = 0;
    if (p->slots)
        memset(p->slots, 0, p->n_slots * sizeof(*p->slots));
}

static ProducerState *find(const Producers *p, int64_t producer_id)
{
    if (p->n_slots == 0)
        return NULL;
    for (size_t i = mix(producer_id) & (p->n_slots - 1); p->slots[i] != 0; i = (i + 1) & (p->n_slots - 1)) {
        ProducerState *s = &p->states[p->slots[i] - 1];
        if (s->producer_id == producer_id)
            return s;
    }
    return NULL;
}

const ProducerState *producers_find(const Producers *p, int64_t producer_id)
{
    return find(p, producer_id);
}

static void put_slot(Producers *p, size_t index)
{
    size_t i = mix(p->states[index].producer_id) & (p->n_slots - 1);
    while (p->slots[i] != 0)
        i = (i + 1) & (p->n_slots - 1);
    p->slots[i] = (uint32_t)index + 1;
}

static void rebuild_slots(Producers *p)
{
    memset(p->slots, 0, p->n_slots * sizeof(*p->slots));
    for (size_t i = 0; i < p->n; i++)
        put_slot(p, i);
}

static int grow(Producers *p)
{
    size_t capacity = p->capacity == 0 ? 4 : p->capacity * 2;
    ProducerState *states = realloc(p->states, capacity * sizeof(*states));
    if (!states)
        return -ENOMEM;
    p->states = states;
    p->capacity = capacity;
    if (capacity * 2 > p->n_slots) {
        size_t n_slots = MAX((size_t)SLOTS_MIN, capacity * 2);
        uint32_t *slots = calloc(n_slots, sizeof(*slots));
        if (!slots)
            return -ENOMEM;
        free(p->slots);
        p->slots = slots;
        p->n_slots = n_slots;
        rebuild_slots(p);
    }
    return 0;
}

static int by_time(const void *a, const void *b)
{
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return x < y ? -1 : x > y;
}

/* The table is full: the sixteenth that was silent longest goes. */
static int evict(Producers *p)
{
    int64_t *times = malloc(p->n * sizeof(*times)), before;
    if (!times)
        return -ENOMEM;
    for (size_t i = 0; i < p->n; i++)
        times[i] = p->states[i].last_timestamp;
    qsort(times, p->n, sizeof(*times), by_time);
    before = times[p->n / 16];
    free(times);
    if (before < INT64_MAX)
        before++;
    producers_expire(p, before);
    if (p->n == PLOG_PRODUCERS_MAX) { /* all open transactions: still bounded */
        p->n--;
        rebuild_slots(p);
    }
    return 0;
}

static ProducerState *find_or_add(Producers *p, int64_t producer_id)
{
    ProducerState *s = find(p, producer_id);
    if (s)
        return s;
    if (p->n == PLOG_PRODUCERS_MAX && evict(p) < 0)
        return NULL;
    if (p->n == p->capacity && grow(p) < 0)
        return NULL;
    s = &p->states[p->n++];
    *s = (ProducerState){.producer_id = producer_id, .epoch = -1, .txn_first_offset = -1, .coordinator_epoch = -1};
    put_slot(p, p->n - 1);
    return s;
}

static int32_t last_sequence_of(const BatchHeader *h)
{
    if (h->base_sequence < 0)
        return -1;
    return (int32_t)(((uint32_t)h->base_sequence + (uint32_t)h->last_offset_delta) & 0x7fffffffu);
}

int producers_check(const Producers *p, const BatchHeader *h, int64_t *ret_offset)
{
    const ProducerState *s = h->producer_id < 0 ? NULL : find(p, h->producer_id);
    int32_t expected = 0;

    if (!s) /* not idempotent, or its state was retired: any first sequence is fine */
        return 0;
    if (h->producer_epoch == s->epoch) {
        for (unsigned i = 0; i < s->n; i++)
            if (s->window[i].first_sequence == h->base_sequence && s->window[i].last_sequence == last_sequence_of(h)) {
                *ret_offset = s->window[i].first_offset;
                return PLOG_E_DUPLICATE;
            }
        if (s->n > 0)
            expected = (int32_t)(((uint32_t)s->window[s->n - 1].last_sequence + 1) & 0x7fffffffu);
    } else if (h->producer_epoch < s->epoch) {
        return PLOG_E_PRODUCER_EPOCH;
    }
    return h->base_sequence == expected ? 0 : PLOG_E_OUT_OF_ORDER;
}

static void update_control(ProducerState *s, const BatchHeader *h)
{
    if (h->producer_epoch > s->epoch) {
        s->epoch = h->producer_epoch;
        s->n = 0;
    }
    s->txn_first_offset = -1;
}

int producers_update(Producers *p, const BatchHeader *h)
{
    ProducerState *s;

    if (h->producer_id < 0)
        return 0;
    s = find_or_add(p, h->producer_id);
    if (!s)
        return -ENOMEM;
    s->last_timestamp = h->max_timestamp;
    if (h->attributes & BATCH_ATTR_CONTROL) {
        update_control(s, h);
        return 0;
    }
    if (h->base_sequence < 0)
        return 0;
    if (h->producer_epoch != s->epoch) {
        s->epoch = h->producer_epoch;
        s->n = 0;
    }
    if (s->n == PRODUCER_WINDOW) {
        memmove(s->window, s->window + 1, (PRODUCER_WINDOW - 1) * sizeof(s->window[0]));
        s->n--;
    }
    s->window[s->n++] = (ProducerBatch){.first_sequence = h->base_sequence,
                                        .last_sequence = last_sequence_of(h),
                                        .first_offset = h->base_offset,
                                        .last_offset = batch_last_offset(h),
                                        .timestamp = h->max_timestamp};
    if ((h->attributes & BATCH_ATTR_TXN) && s->txn_first_offset < 0)
        s->txn_first_offset = h->base_offset;
    return 0;
}

void producers_expire(Producers *p, int64_t before_ms)
{
    size_t kept = 0;

    for (size_t i = 0; i < p->n; i++)
        if (p->states[i].last_timestamp >= before_ms || p->states[i].txn_first_offset >= 0)
            p->states[kept++] = p->states[i];
    if (kept == p->n)
        return;
    p->n = kept;
    rebuild_slots(p);
}
