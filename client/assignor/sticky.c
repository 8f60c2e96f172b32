/*
 * sticky and cooperative-sticky: as balanced as the subscriptions allow, and among balanced assignments one that moves few
 * partitions.
 *
 * 1. Keep. Each member keeps what it claims and may have; when two claim the same partition the higher generation wins, and
 *    with equal generations neither does (Java's rule: one of them is a zombie).
 * 2. Deal. Every partition without owner goes to the subscriber with the least load.
 * 3. Level. While a partition can move from a member to another subscriber that has at least two less, it does. Each move
 *    lowers the sum of squared loads, so this ends. Moves pick the most loaded giver and, in it, the partition that leaves
 *    the previous owner's claim alone when there is a choice.
 *
 * Cost: O(partitions * members) for dealing, the same for each round of levelling.
 */

#include "client/assignor/assignor.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define NOBODY (-1)

typedef struct Sticky {
    const AssignInput *in;
    size_t *first;      /* index of a topic's partition 0 in the flat arrays */
    size_t n;           /* all partitions */
    int32_t *owner;     /* by flat index: member or NOBODY */
    int32_t *previous;  /* whom the winning claim names */
    int32_t *generation;
    int32_t *load;      /* by member */
    uint8_t *wants;     /* members x topics */
} Sticky;

static void sticky_deinit(Sticky *s)
{
    free(s->first);
    free(s->owner);
    free(s->previous);
    free(s->generation);
    free(s->load);
    free(s->wants);
}

static int sticky_init(Sticky *s, const AssignInput *in)
{
    *s = (Sticky){.in = in, .first = calloc(in->n_topics + 1, sizeof(size_t))};
    if (!s->first)
        return -ENOMEM;
    for (size_t t = 0; t < in->n_topics; t++) {
        s->first[t] = s->n;
        s->n += (size_t)MAX(in->topics[t].partitions, 0);
    }
    s->owner = calloc(s->n + 1, sizeof(int32_t));
    s->previous = calloc(s->n + 1, sizeof(int32_t));
    s->generation = calloc(s->n + 1, sizeof(int32_t));
    s->load = calloc(in->n_members + 1, sizeof(int32_t));
    s->wants = calloc(in->n_members * in->n_topics + 1, 1);
    if (!s->owner || !s->previous || !s->generation || !s->load || !s->wants)
        return -ENOMEM;
    for (size_t i = 0; i < s->n; i++) {
        s->owner[i] = s->previous[i] = NOBODY;
        s->generation[i] = INT32_MIN;
    }
    for (size_t m = 0; m < in->n_members; m++)
        for (size_t t = 0; t < in->members[m].n_topics; t++)
            s->wants[m * in->n_topics + (size_t)in->members[m].topics[t]] = 1;
    return 0;
}

static bool wants(const Sticky *s, int32_t member, size_t topic)
{
    return s->wants[(size_t)member * s->in->n_topics + topic];
}

static void keep(Sticky *s)
{
    const AssignInput *in = s->in;

    for (size_t m = 0; m < in->n_members; m++) {
        for (size_t k = 0; k < in->members[m].n_owned; k++) {
            AssignPartition p = in->members[m].owned[k];
            if (p.topic < 0 || (size_t)p.topic >= in->n_topics || p.partition < 0 ||
                p.partition >= in->topics[p.topic].partitions)
                continue; /* gone, or never was */
            size_t at = s->first[p.topic] + (size_t)p.partition;
            if (in->members[m].generation > s->generation[at]) {
                s->generation[at] = in->members[m].generation;
                s->previous[at] = (int32_t)m;
            } else if (in->members[m].generation == s->generation[at] && s->previous[at] != (int32_t)m) {
                s->previous[at] = NOBODY;
            }
        }
    }
    for (size_t t = 0; t < in->n_topics; t++)
        for (int32_t p = 0; p < in->topics[t].partitions; p++) {
            size_t at = s->first[t] + (size_t)p;
            int32_t m = s->previous[at];
            if (m == NOBODY || !wants(s, m, t))
                continue;
            s->owner[at] = m;
            s->load[m]++;
        }
}

/* The subscriber of the topic with the least load; NOBODY without one. order breaks ties the same way everywhere. */
static int32_t least_loaded(const Sticky *s, const size_t *order, size_t topic)
{
    int32_t best = NOBODY;

    for (size_t i = 0; i < s->in->n_members; i++) {
        int32_t m = (int32_t)order[i];
        if (wants(s, m, topic) && (best == NOBODY || s->load[m] < s->load[best]))
            best = m;
    }
    return best;
}

static void deal(Sticky *s, const size_t *order)
{
    for (size_t t = 0; t < s->in->n_topics; t++)
        for (int32_t p = 0; p < s->in->topics[t].partitions; p++) {
            size_t at = s->first[t] + (size_t)p;
            if (s->owner[at] != NOBODY)
                continue;
            int32_t m = least_loaded(s, order, t);
            if (m == NOBODY)
                break;
            s->owner[at] = m;
            s->load[m]++;
        }
}

static void move(Sticky *s, size_t at, int32_t to)
{
    s->load[s->owner[at]]--;
    s->load[to]++;
    s->owner[at] = to;
}

/* One round over all partitions. @strays_only: touch only partitions that are not where they were before. */
static bool level_round(Sticky *s, const size_t *order, bool strays_only)
{
    bool moved = false;

    for (size_t t = 0; t < s->in->n_topics; t++) {
        int32_t to = least_loaded(s, order, t);
        if (to == NOBODY)
            continue;
        for (int32_t p = 0; p < s->in->topics[t].partitions; p++) {
            size_t at = s->first[t] + (size_t)p;
            int32_t from = s->owner[at];
            if (s->load[from] - s->load[to] < 2 || (strays_only && s->previous[at] == from))
                continue;
            /* Going home costs nothing. */
            int32_t home = s->previous[at];
            if (home != NOBODY && home != from && wants(s, home, t) && s->load[from] - s->load[home] >= 2)
                to = home;
            move(s, at, to);
            moved = true;
            to = least_loaded(s, order, t);
        }
    }
    return moved;
}

/* Levelling by topic order would strip the first owners; taking from the most loaded first keeps claims longest. */
static bool level_heaviest(Sticky *s, const size_t *order)
{
    int32_t gap_best = 1, to_best = NOBODY;
    size_t at_best = 0;

    for (size_t t = 0; t < s->in->n_topics; t++) {
        int32_t to = least_loaded(s, order, t);
        for (int32_t p = 0; to != NOBODY && p < s->in->topics[t].partitions; p++) {
            size_t at = s->first[t] + (size_t)p;
            int32_t gap = s->load[s->owner[at]] - s->load[to];
            if (gap > gap_best) {
                gap_best = gap;
                at_best = at;
                to_best = to;
            }
        }
    }
    if (to_best == NOBODY)
        return false;
    move(s, at_best, to_best);
    return true;
}

static int sticky_run(Sticky *s, const AssignInput *in)
{
    int r = sticky_init(s, in);
    size_t *order = r == 0 ? calloc(in->n_members + 1, sizeof *order) : NULL;
    if (!order)
        return -ENOMEM;
    assign_order_members(in, order);
    keep(s);
    deal(s, order);
    while (level_round(s, order, true))
        ;
    if (s->n <= 4096)
        while (level_heaviest(s, order))
            ;
    else
        while (level_round(s, order, false))
            ;
    free(order);
    return 0;
}

/* Partitions that somebody else than their new owner still claims, rightly or not. NULL: out of memory. */
static uint8_t *claimed_by_others(const Sticky *s)
{
    uint8_t *claimed = calloc(s->n + 1, 1);

    for (size_t m = 0; claimed && m < s->in->n_members; m++)
        for (size_t k = 0; k < s->in->members[m].n_owned; k++) {
            AssignPartition p = s->in->members[m].owned[k];
            if (p.topic < 0 || (size_t)p.topic >= s->in->n_topics || p.partition < 0 ||
                p.partition >= s->in->topics[p.topic].partitions)
                continue;
            size_t at = s->first[p.topic] + (size_t)p.partition;
            claimed[at] |= s->owner[at] != (int32_t)m;
        }
    return claimed;
}

/* @held: partitions that nobody gets now; or NULL. */
static int sticky_give(const Sticky *s, const uint8_t *held, AssignShare *ret)
{
    for (size_t t = 0; t < s->in->n_topics; t++)
        for (int32_t p = 0; p < s->in->topics[t].partitions; p++) {
            size_t at = s->first[t] + (size_t)p;
            if (s->owner[at] == NOBODY || (held && held[at]))
                continue;
            if (assign_give(&ret[s->owner[at]], (int32_t)t, p) < 0)
                return -ENOMEM;
        }
    return 0;
}

int assign_sticky(const AssignInput *in, AssignShare *ret)
{
    Sticky s;
    int r = sticky_run(&s, in);
    if (r == 0)
        r = sticky_give(&s, NULL, ret);
    sticky_deinit(&s);
    return r;
}

int assign_cooperative(const AssignInput *in, AssignShare *ret)
{
    Sticky s;
    int r = sticky_run(&s, in);
    uint8_t *held = r == 0 ? claimed_by_others(&s) : NULL;
    if (r == 0)
        r = held ? sticky_give(&s, held, ret) : -ENOMEM;
    free(held);
    sticky_deinit(&s);
    return r;
}
