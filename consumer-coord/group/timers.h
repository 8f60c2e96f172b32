#pragma once

/*
 * Timers of the group core: a heap of deadlines, no clock. Moving a deadline later costs a store (heartbeats do it all the
 * time): the heap keeps the old key and looks again when that comes up.
 */

#include "base/compiler.h"

#define TIMER_OFF INT64_MAX

typedef struct GroupTimer {
    int64_t deadline_ms; /* TIMER_OFF: not running */
    int64_t key_ms;      /* what the heap is ordered by; never later than deadline_ms */
    size_t index;        /* position in the heap + 1; 0 = not in it */
    uint8_t kind;        /* the owner's */
} GroupTimer;

typedef struct GroupTimers {
    GroupTimer **heap;
    size_t n, capacity;
} GroupTimers;

void timers_deinit(GroupTimers *t);
void timer_set(GroupTimers *t, GroupTimer *timer, int64_t deadline_ms); /* TIMER_OFF stops it */
void timer_remove(GroupTimers *t, GroupTimer *timer);                   /* before its memory goes */
/* The next timer whose deadline is not after now_ms; it is off then. NULL: none. */
GroupTimer *timers_pop(GroupTimers *t, int64_t now_ms);
int64_t timers_next(GroupTimers *t); /* a moment not after the earliest deadline; TIMER_OFF: none */
