/*
 * Replicas of new partitions: chosen by controller/placement, or named by a client and checked.
 *
 * Brokers that are fenced or stopping get replicas only when the live ones are too few, and never so many that a new
 * partition could have no live replica at all.
 */

#include <string.h>

#include "controller/placement.h"
#include "controller/state/decide.h"

struct Loads {
    PlacementBroker *brokers;
    bool *live;
    size_t n, n_live;
};

static PlacementBroker *find(Loads *l, int32_t id)
{
    for (size_t i = 0; i < l->n; i++)
        if (l->brokers[i].id == id)
            return &l->brokers[i];
    return NULL;
}

static void count_topic(Loads *l, const MetaTopic *t, bool as_topic)
{
    for (int32_t i = 0; i < t->n_partitions; i++)
        for (int k = 0; k < t->partitions[i].n_replicas; k++) {
            PlacementBroker *b = find(l, t->partitions[i].replicas[k]);
            if (!b)
                continue;
            *(as_topic ? &b->topic_replicas : &b->replicas) += 1;
            *(as_topic ? &b->topic_leaders : &b->leaders) += k == 0;
        }
}

Loads *loads_new(Decide *d)
{
    Loads *l = take(d, sizeof(*l));
    if (!l)
        return NULL;
    *l = (Loads){.brokers = take(d, meta_brokers(d->image) * sizeof(*l->brokers)),
                 .live = take(d, meta_brokers(d->image) * sizeof(*l->live))};
    if (d->error)
        return NULL;
    Liveness live = {.ctl = d->ctl, .dead = -1, .alive = -1};
    for (const MetaBroker *b = NULL; (b = meta_broker_next(d->image, b));) {
        l->live[l->n] = is_active(&live, NULL, b->id);
        l->n_live += l->live[l->n];
        l->brokers[l->n++] = (PlacementBroker){.id = b->id, .rack = b->rack};
    }
    for (const MetaTopic *t = NULL; (t = meta_topic_next(d->image, t));)
        count_topic(l, t, false);
    return l;
}

/* The brokers to place on, copied out in id order. */
static size_t usable(const Loads *l, int n_replicas, PlacementBroker *ret)
{
    bool live_only = l->n_live >= (size_t)n_replicas;
    size_t n = 0;
    if (!live_only && l->n - l->n_live >= (size_t)n_replicas)
        return 0; /* a partition could lie on dead brokers alone */
    for (size_t i = 0; i < l->n; i++)
        if (l->live[i] || !live_only)
            ret[n++] = l->brokers[i];
    return n;
}

int32_t *assign_replicas(Decide *d, Loads *l, const MetaTopic *topic, int32_t n_partitions, int n_replicas, KStr *ret_why)
{
    PlacementBroker *brokers = take(d, l->n * sizeof(*brokers));
    int32_t *ids = take(d, (size_t)n_partitions * (size_t)n_replicas * sizeof(*ids));
    if (d->error)
        return NULL;
    for (size_t i = 0; i < l->n; i++)
        l->brokers[i].topic_replicas = l->brokers[i].topic_leaders = 0;
    if (topic)
        count_topic(l, topic, true);
    size_t n = usable(l, n_replicas, brokers);
    uint32_t start = (uint32_t)rng_next(&d->ctl->rng);
    if (n == 0 || placement_assign(brokers, n, n_partitions, n_replicas, start, ids) < 0) {
        *ret_why = say(d, "Unable to replicate the partition %d time(s): The target replication factor of %d cannot be reached "
                          "because only %zu broker(s) are registered and unfenced.",
                       n_replicas, n_replicas, l->n_live);
        return NULL;
    }
    for (size_t i = 0; i < n; i++) {
        PlacementBroker *b = find(l, brokers[i].id);
        assert(b); /* brokers is a part of l->brokers */
        b->replicas = brokers[i].replicas;
        b->leaders = brokers[i].leaders;
    }
    return ids;
}

KafkaError check_assignment(Decide *d, const KInt32Array *brokers, int32_t partition, int n_replicas, KStr *ret_why)
{
    Liveness live = {.ctl = d->ctl, .dead = -1, .alive = -1};
    int active = 0;
    if (brokers->n <= 0)
        *ret_why = say(d, "The manual partition assignment includes an empty replica list.");
    else if (brokers->n > META_REPLICAS_MAX || (n_replicas > 0 && brokers->n != n_replicas))
        *ret_why = say(d, "The manual partition assignment includes a partition with %d replica(s), but this is not consistent with "
                          "previous partitions, which have %d replica(s).", brokers->n, n_replicas);
    else {
        for (int32_t i = 0; i < brokers->n; i++) {
            int32_t id = brokers->items[i];
            if (!meta_broker(d->image, id)) {
                *ret_why = say(d, "The manual partition assignment includes broker %d, but no such broker is registered.", id);
                return K_INVALID_REPLICA_ASSIGNMENT;
            }
            if (in_list(brokers->items, i, id)) {
                *ret_why = say(d, "The manual partition assignment includes the broker %d more than once.", id);
                return K_INVALID_REPLICA_ASSIGNMENT;
            }
            active += is_active(&live, NULL, id);
        }
        if (active > 0)
            return K_NONE;
        *ret_why = say(d, "All brokers specified in the manual partition assignment for partition %d are fenced or in controlled "
                          "shutdown.", partition);
    }
    return K_INVALID_REPLICA_ASSIGNMENT;
}

void put_partition(Decide *d, const Uuid *topic_id, int32_t partition, const int32_t *replicas, int n_replicas)
{
    Liveness live = {.ctl = d->ctl, .dead = -1, .alive = -1};
    int32_t ids[META_REPLICAS_MAX], isr[META_REPLICAS_MAX];
    Uuid dirs[META_REPLICAS_MAX];
    int n_isr = 0;
    assert(n_replicas > 0 && n_replicas <= META_REPLICAS_MAX);
    for (int i = 0; i < n_replicas; i++) {
        const MetaBroker *b = meta_broker(d->image, replicas[i]);
        assert(b);
        ids[i] = b->id;
        dirs[i] = b->n_log_dirs == 1 ? b->log_dirs[0].id : (Uuid){{0}}; /* else the broker chooses */
        if (is_active(&live, NULL, b->id))
            isr[n_isr++] = b->id;
    }
    KMetaPartitionRecord m = {.topic_id = *topic_id, .partition = partition, .replicas = {ids, n_replicas}, .isr = {isr, n_isr},
                              .leader = n_isr > 0 ? isr[0] : -1, .directories = {dirs, n_replicas}};
    put_record(d, &k_meta_partition_record, &m);
}
