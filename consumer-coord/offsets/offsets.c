/* Two levels of sorted arrays: groups have few topics, and iteration in order makes answers and tests stable. */

#include "consumer-coord/offsets/offsets.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

static int compare(KStr a, KStr b)
{
    size_t common = (size_t)MIN(a.len, b.len);
    int r = common ? memcmp(a.ptr, b.ptr, common) : 0;
    return r ? r : (a.len > b.len) - (a.len < b.len);
}

/* First topic whose name is not less; *ret_found: it is the one. */
static int32_t topic_position(const OffsetTable *t, KStr topic, bool *ret_found)
{
    int32_t low = 0, high = t->n;
    while (low < high) {
        int32_t middle = low + (high - low) / 2;
        if (compare(offset_topic_name(&t->topics[middle]), topic) < 0)
            low = middle + 1;
        else
            high = middle;
    }
    *ret_found = low < t->n && k_str_same(offset_topic_name(&t->topics[low]), topic);
    return low;
}

static int32_t item_position(const OffsetTopic *t, int32_t partition, bool *ret_found)
{
    int32_t low = 0, high = t->n;
    while (low < high) {
        int32_t middle = low + (high - low) / 2;
        if (t->items[middle].partition < partition)
            low = middle + 1;
        else
            high = middle;
    }
    *ret_found = low < t->n && t->items[low].partition == partition;
    return low;
}

static void topic_deinit(OffsetTopic *t)
{
    for (int32_t i = 0; i < t->n; i++)
        free(t->items[i].metadata);
    free(t->items);
    free(t->name);
}

void offsets_deinit(OffsetTable *t)
{
    for (int32_t i = 0; i < t->n; i++)
        topic_deinit(&t->topics[i]);
    free(t->topics);
    *t = (OffsetTable){0};
}

const OffsetTopic *offsets_topic(const OffsetTable *t, KStr topic)
{
    bool found;
    int32_t at = topic_position(t, topic, &found);
    return found ? &t->topics[at] : NULL;
}

const CommittedOffset *offsets_find(const OffsetTable *t, KStr topic, int32_t partition)
{
    bool found = false;
    const OffsetTopic *o = offsets_topic(t, topic);
    int32_t at = o ? item_position(o, partition, &found) : 0;
    return found ? &o->items[at] : NULL;
}

/* Room for one more element. */
static int grow(void **items, int32_t n, int32_t *capacity, size_t size)
{
    if (n < *capacity)
        return 0;
    int32_t wanted = *capacity ? 2 * *capacity : 4;
    void *p = realloc(*items, (size_t)wanted * size);
    if (!p)
        return -ENOMEM;
    *items = p;
    *capacity = wanted;
    return 0;
}

static char *copy(KStr s)
{
    char *p = s.len > 0 ? malloc((size_t)s.len) : NULL;
    if (p)
        memcpy(p, s.ptr, (size_t)s.len);
    return p;
}

static OffsetTopic *add_topic(OffsetTable *t, KStr topic, int32_t at)
{
    if (grow((void **)&t->topics, t->n, &t->capacity, sizeof(t->topics[0])) < 0)
        return NULL;
    char *name = copy(topic);
    if (!name && topic.len > 0)
        return NULL;
    memmove(&t->topics[at + 1], &t->topics[at], (size_t)(t->n - at) * sizeof(t->topics[0]));
    t->topics[at] = (OffsetTopic){.name = name, .name_len = topic.len};
    t->n++;
    return &t->topics[at];
}

static void drop_topic(OffsetTable *t, int32_t at)
{
    topic_deinit(&t->topics[at]);
    t->n--;
    memmove(&t->topics[at], &t->topics[at + 1], (size_t)(t->n - at) * sizeof(t->topics[0]));
}

int offsets_set(OffsetTable *t, KStr topic, const CommittedOffset *o, KStr metadata)
{
    bool found;
    int32_t at = topic_position(t, topic, &found);
    char *text = copy(metadata);
    if (!text && metadata.len > 0)
        return -ENOMEM;
    OffsetTopic *owner = found ? &t->topics[at] : add_topic(t, topic, at);
    if (!owner)
        goto fail;
    int32_t i = item_position(owner, o->partition, &found);
    if (!found) {
        if (grow((void **)&owner->items, owner->n, &owner->capacity, sizeof(owner->items[0])) < 0)
            goto fail;
        memmove(&owner->items[i + 1], &owner->items[i], (size_t)(owner->n - i) * sizeof(owner->items[0]));
        owner->items[i].metadata = NULL;
        owner->n++;
        t->total++;
    }
    free(owner->items[i].metadata);
    owner->items[i] = *o;
    owner->items[i].metadata = text;
    owner->items[i].metadata_len = MAX(metadata.len, 0);
    return 0;
fail:
    if (owner && owner->n == 0)
        drop_topic(t, at);
    free(text);
    return -ENOMEM;
}

bool offsets_remove(OffsetTable *t, KStr topic, int32_t partition)
{
    bool found;
    int32_t at = topic_position(t, topic, &found);
    if (!found)
        return false;
    OffsetTopic *owner = &t->topics[at];
    int32_t i = item_position(owner, partition, &found);
    if (!found)
        return false;
    free(owner->items[i].metadata);
    owner->n--;
    t->total--;
    memmove(&owner->items[i], &owner->items[i + 1], (size_t)(owner->n - i) * sizeof(owner->items[0]));
    if (owner->n == 0)
        drop_topic(t, at);
    return true;
}
