/* A binary heap on at_ns; every node knows its slot, so moving and clearing are O(log n). See deadline.h. */

#include "broker/deadline.h"

#include <errno.h>
#include <stdlib.h>

static void place(Deadlines *h, size_t i, Deadline *d)
{
    h->heap[i] = d;
    d->slot = (uint32_t)(i + 1);
}

static size_t sift_up(Deadlines *h, size_t i, Deadline *d)
{
    while (i > 0) {
        size_t parent = (i - 1) / 2;
        if (h->heap[parent]->at_ns <= d->at_ns)
            break;
        place(h, i, h->heap[parent]);
        i = parent;
    }
    place(h, i, d);
    return i;
}

static void sift_down(Deadlines *h, size_t i, Deadline *d)
{
    for (;;) {
        size_t child = 2 * i + 1;
        if (child >= h->n)
            break;
        if (child + 1 < h->n && h->heap[child + 1]->at_ns < h->heap[child]->at_ns)
            child++;
        if (d->at_ns <= h->heap[child]->at_ns)
            break;
        place(h, i, h->heap[child]);
        i = child;
    }
    place(h, i, d);
}

void deadlines_deinit(Deadlines *h)
{
    free(h->heap);
    *h = (Deadlines){0};
}

int deadline_set(Deadlines *h, Deadline *d, int64_t at_ns)
{
    if (d->slot == 0) {
        if (h->n == h->capacity) {
            size_t capacity = h->capacity ? 2 * h->capacity : 64;
            Deadline **heap = realloc(h->heap, capacity * sizeof(Deadline *));
            if (!heap)
                return -ENOMEM;
            h->heap = heap;
            h->capacity = capacity;
        }
        place(h, h->n++, d);
    }
    assert(h->heap[d->slot - 1] == d);
    d->at_ns = at_ns;
    sift_down(h, sift_up(h, d->slot - 1, d), d);
    return 0;
}

void deadline_clear(Deadlines *h, Deadline *d)
{
    if (d->slot == 0)
        return;
    size_t i = d->slot - 1;
    assert(i < h->n && h->heap[i] == d);
    d->slot = 0;
    Deadline *last = h->heap[--h->n];
    if (last != d)
        sift_down(h, sift_up(h, i, last), last);
}

int64_t deadlines_next(const Deadlines *h)
{
    return h->n > 0 ? h->heap[0]->at_ns : INT64_MAX;
}

void deadlines_run(Deadlines *h, int64_t now_ns)
{
    while (h->n > 0 && h->heap[0]->at_ns <= now_ns) {
        Deadline *d = h->heap[0];
        deadline_clear(h, d);
        d->fn(d);
    }
}
