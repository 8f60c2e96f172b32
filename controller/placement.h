#pragma once

/*
 * Placement: which brokers hold the replicas of new partitions, and who leads. Pure.
 *
 * Greedy over what is placed already, so that growing a topic or adding a second one keeps the spread:
 *   - the replicas of a partition are distinct brokers, in as many racks as there are
 *   - the next replica goes to the broker with the fewest replicas of this topic, then the fewest in all, then in turn
 *   - the first replica (preferred leader) goes to the broker that leads the fewest of this topic, then in all
 * For P partitions x R replicas on N equal brokers every broker gets P*R/N replicas, rounded down or up.
 */

#include "base/compiler.h"

#define PLACEMENT_BROKERS_MAX  4096
#define PLACEMENT_REPLICAS_MAX 15

typedef struct PlacementBroker {
    int32_t id;
    const char *rack; /* NULL or "": unknown; brokers of unknown rack count as one rack each */
    /* what it holds already, updated by placement_assign() */
    int32_t replicas, leaders;             /* in all topics */
    int32_t topic_replicas, topic_leaders; /* of the topic that is placed */
} PlacementBroker;

/**
 * placement_assign() - replicas for `n_partitions` more partitions of one topic
 * @brokers: usable (registered, not fenced) brokers, in ascending id order; counts are updated
 * @start: rotates ties, so that topics do not all begin at the same broker (e.g. a hash of the topic id)
 * @ret: n_partitions * n_replicas broker ids, preferred leader first
 * Return: 0; -ERANGE: n_replicas < 1, more than brokers, or than PLACEMENT_REPLICAS_MAX.
 */
int placement_assign(PlacementBroker *brokers, size_t n_brokers, int32_t n_partitions, int n_replicas, uint32_t start, int32_t *ret);
