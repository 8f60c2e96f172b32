/* What all assignors need: orders, shares. */

#include "client/assignor/assignor.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

int assign_give(AssignShare *share, int32_t topic, int32_t partition)
{
    if (share->n == share->capacity) {
        size_t n = MAX(2 * share->capacity, 8);
        AssignPartition *grown = reallocarray(share->items, n, sizeof *grown);
        if (!grown)
            return -ENOMEM;
        share->items = grown;
        share->capacity = n;
    }
    share->items[share->n++] = (AssignPartition){topic, partition};
    return 0;
}

void assign_shares_deinit(AssignShare *shares, size_t n)
{
    for (size_t i = 0; shares && i < n; i++)
        free(shares[i].items);
    if (shares)
        memset(shares, 0, n * sizeof *shares);
}

bool assign_subscribes(const AssignMember *m, int32_t topic)
{
    for (size_t i = 0; i < m->n_topics; i++)
        if (m->topics[i] == topic)
            return true;
    return false;
}

static bool member_is_before(const AssignMember *a, const AssignMember *b)
{
    if (a->instance_id && b->instance_id)
        return strcmp(a->instance_id, b->instance_id) < 0;
    if (a->instance_id || b->instance_id)
        return a->instance_id != NULL;
    return strcmp(a->id, b->id) < 0;
}

static bool topic_is_before(const AssignTopic *a, const AssignTopic *b)
{
    return strcmp(a->name, b->name) < 0;
}

/* Merge sort of indexes; qsort() cannot see the input without a global. */
static void order(const AssignInput *in, size_t *a, size_t *scratch, size_t n, bool by_member)
{
    if (n < 2)
        return;
    size_t half = n / 2, i = 0, j = half;
    order(in, a, scratch, half, by_member);
    order(in, a + half, scratch, n - half, by_member);
    for (size_t k = 0; k < n; k++) {
        bool right = i == half || (j < n && (by_member ? member_is_before(&in->members[a[j]], &in->members[a[i]])
                                                       : topic_is_before(&in->topics[a[j]], &in->topics[a[i]])));
        scratch[k] = right ? a[j++] : a[i++];
    }
    memcpy(a, scratch, n * sizeof *a);
}

static void order_all(const AssignInput *in, size_t *ret, size_t n, bool by_member)
{
    size_t small[256], *scratch = n <= ARRAY_SIZE(small) ? small : calloc(n, sizeof *scratch);

    for (size_t i = 0; i < n; i++)
        ret[i] = i;
    if (scratch) /* without memory: input order, which is a legal order too */
        order(in, ret, scratch, n, by_member);
    if (scratch != small)
        free(scratch);
}

void assign_order_members(const AssignInput *in, size_t *ret_order)
{
    order_all(in, ret_order, in->n_members, true);
}

void assign_order_topics(const AssignInput *in, size_t *ret_order)
{
    order_all(in, ret_order, in->n_topics, false);
}
