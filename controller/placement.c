/* See placement.h. For each partition the replicas are chosen one by one, then the one that leads least is put first. */

#include "controller/placement.h"

#include <errno.h>
#include <string.h>

static bool same_rack(const PlacementBroker *a, const PlacementBroker *b)
{
    return a->rack && b->rack && a->rack[0] && strcmp(a->rack, b->rack) == 0;
}

static bool is_chosen(const size_t *chosen, int n, size_t i)
{
    for (int k = 0; k < n; k++) {
        if (chosen[k] == i)
            return true;
    }
    return false;
}

static int32_t replicas_in_rack_of(const PlacementBroker *brokers, const size_t *chosen, int n, size_t i)
{
    int32_t count = 0;
    for (int k = 0; k < n; k++)
        count += same_rack(&brokers[chosen[k]], &brokers[i]);
    return count;
}

/* Is a the better home for the next replica? First difference decides; the caller's order breaks ties. */
static bool better_home(const PlacementBroker *a, int32_t rack_a, const PlacementBroker *b, int32_t rack_b)
{
    if (rack_a != rack_b)
        return rack_a < rack_b;
    if (a->topic_replicas != b->topic_replicas)
        return a->topic_replicas < b->topic_replicas;
    return a->replicas < b->replicas;
}

static bool better_leader(const PlacementBroker *a, const PlacementBroker *b)
{
    if (a->topic_leaders != b->topic_leaders)
        return a->topic_leaders < b->topic_leaders;
    return a->leaders < b->leaders;
}

static size_t choose_home(const PlacementBroker *brokers, size_t n_brokers, const size_t *chosen, int n, uint32_t start)
{
    size_t best = SIZE_MAX;
    int32_t best_rack = 0;
    for (size_t k = 0; k < n_brokers; k++) {
        size_t i = (k + start) % n_brokers;
        if (is_chosen(chosen, n, i))
            continue;
        int32_t rack = replicas_in_rack_of(brokers, chosen, n, i);
        if (best == SIZE_MAX || better_home(&brokers[i], rack, &brokers[best], best_rack)) {
            best = i;
            best_rack = rack;
        }
    }
    assert(best != SIZE_MAX);
    return best;
}

static void put_leader_first(const PlacementBroker *brokers, size_t *chosen, int n)
{
    int best = 0;
    for (int k = 1; k < n; k++) {
        if (better_leader(&brokers[chosen[k]], &brokers[chosen[best]]))
            best = k;
    }
    size_t leader = chosen[best];
    chosen[best] = chosen[0];
    chosen[0] = leader;
}

int placement_assign(PlacementBroker *brokers, size_t n_brokers, int32_t n_partitions, int n_replicas, uint32_t start, int32_t *ret)
{
    if (n_replicas < 1 || n_replicas > PLACEMENT_REPLICAS_MAX || (size_t)n_replicas > n_brokers || n_partitions < 0)
        return -ERANGE;
    assert(n_brokers <= PLACEMENT_BROKERS_MAX);
    for (int32_t p = 0; p < n_partitions; p++) {
        size_t chosen[PLACEMENT_REPLICAS_MAX];
        for (int k = 0; k < n_replicas; k++) {
            chosen[k] = choose_home(brokers, n_brokers, chosen, k, start + (uint32_t)p);
            brokers[chosen[k]].replicas++;
            brokers[chosen[k]].topic_replicas++;
        }
        put_leader_first(brokers, chosen, n_replicas);
        brokers[chosen[0]].leaders++;
        brokers[chosen[0]].topic_leaders++;
        for (int k = 0; k < n_replicas; k++)
            ret[p * n_replicas + k] = brokers[chosen[k]].id;
    }
    return 0;
}
