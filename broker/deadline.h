#pragma once

/*
 * Deadlines: an intrusive binary heap of points in time. The broker hangs one loop timer on its top, so a parked fetch, a
 * connection or a forwarded request costs no timer of its own. Pure.
 */

#include "base/compiler.h"

typedef struct Deadline Deadline;

struct Deadline { /* zero-initialised = not armed */
    int64_t at_ns;
    uint32_t slot; /* position in the heap + 1; 0 = not armed */
    void (*fn)(Deadline *d);
};

typedef struct Deadlines {
    Deadline **heap;
    size_t n, capacity;
} Deadlines;

void deadlines_deinit(Deadlines *h);
/* Arms or moves. Return: 0 or -ENOMEM (moving never fails). */
int deadline_set(Deadlines *h, Deadline *d, int64_t at_ns);
void deadline_clear(Deadlines *h, Deadline *d); /* idempotent */
static inline bool deadline_is_set(const Deadline *d)
{
    return d->slot != 0;
}
int64_t deadlines_next(const Deadlines *h); /* INT64_MAX: none */
/* Runs fn of every deadline due at now_ns, earliest first; each is disarmed before its fn. */
void deadlines_run(Deadlines *h, int64_t now_ns);
