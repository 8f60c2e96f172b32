/*
 * range: for each topic, its subscribers in order take contiguous runs; the first (partitions mod members) take one more.
 * Co-partitioned topics (equal counts, equal subscribers) come out alike, which is what range is chosen for.
 */

#include "client/assignor/assignor.h"

#include <errno.h>
#include <stdlib.h>

static int range_topic(const AssignInput *in, const size_t *order, int32_t topic, AssignShare *ret)
{
    int32_t subscribers = 0;

    for (size_t i = 0; i < in->n_members; i++)
        subscribers += assign_subscribes(&in->members[i], topic);
    if (subscribers == 0)
        return 0;
    int32_t each = in->topics[topic].partitions / subscribers, more = in->topics[topic].partitions % subscribers, next = 0;
    for (size_t i = 0; i < in->n_members; i++) {
        if (!assign_subscribes(&in->members[order[i]], topic))
            continue;
        int32_t n = each + (more-- > 0);
        while (n-- > 0)
            if (assign_give(&ret[order[i]], topic, next++) < 0)
                return -ENOMEM;
    }
    assert(next == in->topics[topic].partitions);
    return 0;
}

int assign_range(const AssignInput *in, AssignShare *ret)
{
    size_t *order = calloc(in->n_members + 1, sizeof *order);
    int r = order ? 0 : -ENOMEM;

    if (order)
        assign_order_members(in, order);
    for (size_t t = 0; r == 0 && t < in->n_topics; t++)
        r = range_topic(in, order, (int32_t)t, ret);
    free(order);
    return r;
}
