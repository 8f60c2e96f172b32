/* Binary heap with lazy keys: see timers.h. */

#include "consumer-coord/group/timers.h"

#include <stdlib.h>

void timers_deinit(GroupTimers *t)
{
    free(t->heap);
    *t = (GroupTimers){0};
}

static void reserve_one(GroupTimers *t)
{
    if (t->n < t->capacity)
        return;
    t->capacity = MAX(64, 2 * t->capacity);
    t->heap = realloc(t->heap, t->capacity * sizeof(t->heap[0]));
    if (!t->heap)
        abort(); /* see group.h */
}

static void put(GroupTimers *t, size_t i, GroupTimer *timer)
{
    t->heap[i] = timer;
    timer->index = i + 1;
}

static void sift_up(GroupTimers *t, size_t i, GroupTimer *timer)
{
    while (i > 0 && t->heap[(i - 1) / 2]->key_ms > timer->key_ms) {
        put(t, i, t->heap[(i - 1) / 2]);
        i = (i - 1) / 2;
    }
    put(t, i, timer);
}

static void sift_down(GroupTimers *t, size_t i, GroupTimer *timer)
{
    for (;;) {
        size_t child = 2 * i + 1;
        if (child + 1 < t->n && t->heap[child + 1]->key_ms < t->heap[child]->key_ms)
            child++;
        if (child >= t->n || t->heap[child]->key_ms >= timer->key_ms)
            break;
        put(t, i, t->heap[child]);
        i = child;
    }
    put(t, i, timer);
}

void timer_remove(GroupTimers *t, GroupTimer *timer)
{
    timer->deadline_ms = TIMER_OFF;
    if (timer->index == 0)
        return;
    size_t i = timer->index - 1;
    GroupTimer *last = t->heap[--t->n];
    timer->index = 0;
    if (last == timer)
        return;
    sift_up(t, i, last);
    sift_down(t, last->index - 1, last);
}

void timer_set(GroupTimers *t, GroupTimer *timer, int64_t deadline_ms)
{
    if (deadline_ms == TIMER_OFF) {
        timer_remove(t, timer);
        return;
    }
    timer->deadline_ms = deadline_ms;
    if (timer->index == 0) {
        reserve_one(t);
        timer->key_ms = deadline_ms;
        sift_up(t, t->n++, timer);
    } else if (deadline_ms < timer->key_ms) {
        timer->key_ms = deadline_ms;
        sift_up(t, timer->index - 1, timer);
    }
}

/* Puts the heap's top where its true deadline belongs, until the top's key is true. */
static void settle(GroupTimers *t)
{
    while (t->n > 0 && t->heap[0]->key_ms < t->heap[0]->deadline_ms) {
        GroupTimer *top = t->heap[0];
        top->key_ms = top->deadline_ms;
        sift_down(t, 0, top);
    }
}

GroupTimer *timers_pop(GroupTimers *t, int64_t now_ms)
{
    while (t->n > 0 && t->heap[0]->key_ms <= now_ms) {
        GroupTimer *top = t->heap[0];
        if (top->deadline_ms <= now_ms) {
            timer_remove(t, top);
            return top;
        }
        top->key_ms = top->deadline_ms;
        sift_down(t, 0, top);
    }
    return NULL;
}

int64_t timers_next(GroupTimers *t)
{
    settle(t);
    return t->n > 0 ? t->heap[0]->key_ms : TIMER_OFF;
}
