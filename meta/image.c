/*
 * Look-ups in a MetaImage, and its life. Few brokers, up to some ten thousand topics: sorted arrays of pointers are small,
 * fast to search and always in the order that dumps and digests need. apply.c changes them.
 */

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "meta/image_private.h"

int meta_image_new(MetaImage **ret)
{
    MetaImage *image = calloc(1, sizeof(*image));
    if (!image)
        return -ENOMEM;
    *ret = image;
    return 0;
}

void meta_partition_clear(MetaPartition *p)
{
    free(p->replicas); /* one block holds all arrays (apply.c) */
    p->replicas = NULL;
}

static void topic_free(TopicNode *node)
{
    for (int32_t i = 0; i < node->topic.n_partitions; i++)
        meta_partition_clear(&node->topic.partitions[i]);
    free(node->topic.partitions);
    meta_configs_clear(&node->topic.configs);
    free(node);
}

void meta_image_clear(MetaImage *image)
{
    for (size_t i = 0; i < image->n_topics; i++)
        topic_free(image->by_name[i]);
    for (size_t i = 0; i < image->n_brokers; i++)
        free(image->brokers[i]);
    for (size_t i = 0; i < image->n_broker_configs; i++)
        meta_configs_clear(&image->broker_configs[i].configs);
    for (size_t i = 0; i < META_ANSWERS_MAX && image->answers; i++)
        free(image->answers[i].body);
    free(image->answers);
    free(image->by_name);
    free(image->by_id);
    free(image->brokers);
    free(image->broker_configs);
    arena_deinit(&image->scratch);
    *image = (MetaImage){0};
}

MetaImage *meta_image_free(MetaImage *image)
{
    if (!image)
        return NULL;
    meta_image_clear(image);
    free(image);
    return NULL;
}

/* Binary search; cmp(i) < 0: element i is before the key. */
#define SEARCH(n, cmp)                                                                             \
    size_t low = 0, high = (n);                                                                    \
    while (low < high) {                                                                           \
        size_t i = low + (high - low) / 2;                                                         \
        int c = (cmp);                                                                             \
        if (c == 0) {                                                                              \
            *ret_at = i;                                                                           \
            return true;                                                                           \
        }                                                                                          \
        if (c < 0)                                                                                 \
            low = i + 1;                                                                           \
        else                                                                                       \
            high = i;                                                                              \
    }                                                                                              \
    *ret_at = low;                                                                                 \
    return false

static int compare_name(const char *a, const char *name, size_t size)
{
    size_t n = strlen(a);
    int r = memcmp(a, name, MIN(n, size));
    return r ? r : (n > size) - (n < size);
}

bool meta_find_topic(const MetaImage *image, const char *name, size_t size, size_t *ret_at)
{
    SEARCH(image->n_topics, compare_name(image->by_name[i]->topic.name, name, size));
}

bool meta_find_topic_id(const MetaImage *image, const Uuid *id, size_t *ret_at)
{
    SEARCH(image->n_topics, memcmp(image->by_id[i]->topic.id.b, id->b, sizeof(id->b)));
}

bool meta_find_broker(const MetaImage *image, int32_t id, size_t *ret_at)
{
    SEARCH(image->n_brokers, (image->brokers[i]->id > id) - (image->brokers[i]->id < id));
}

bool meta_find_broker_configs(const MetaImage *image, int32_t id, size_t *ret_at)
{
    SEARCH(image->n_broker_configs, (image->broker_configs[i].id > id) - (image->broker_configs[i].id < id));
}

uint64_t meta_index(const MetaImage *image)
{
    return image->index;
}

const MetaTopic *meta_topic(const MetaImage *image, const char *name, size_t size)
{
    size_t at;
    return meta_find_topic(image, name, size, &at) ? &image->by_name[at]->topic : NULL;
}

const MetaTopic *meta_topic_by_id(const MetaImage *image, const Uuid *id)
{
    size_t at;
    return meta_find_topic_id(image, id, &at) ? &image->by_id[at]->topic : NULL;
}

const MetaTopic *meta_topic_next(const MetaImage *image, const MetaTopic *after)
{
    size_t at = 0;
    if (after && meta_find_topic(image, after->name, strlen(after->name), &at))
        at++;
    return at < image->n_topics ? &image->by_name[at]->topic : NULL;
}

size_t meta_topics(const MetaImage *image)
{
    return image->n_topics;
}

size_t meta_partitions(const MetaImage *image)
{
    return image->n_partitions;
}

const MetaPartition *meta_partition(const MetaImage *image, const char *topic, size_t size, int32_t partition)
{
    const MetaTopic *t = meta_topic(image, topic, size);
    return t && partition >= 0 && partition < t->n_partitions ? &t->partitions[partition] : NULL;
}

const MetaBroker *meta_broker(const MetaImage *image, int32_t id)
{
    size_t at;
    return meta_find_broker(image, id, &at) ? image->brokers[at] : NULL;
}

const MetaBroker *meta_broker_next(const MetaImage *image, const MetaBroker *after)
{
    size_t at = 0;
    if (after && meta_find_broker(image, after->id, &at))
        at++;
    return at < image->n_brokers ? image->brokers[at] : NULL;
}

size_t meta_brokers(const MetaImage *image)
{
    return image->n_brokers;
}

const MetaConfigs *meta_broker_configs(const MetaImage *image, int32_t id)
{
    size_t at;
    return meta_find_broker_configs(image, id, &at) ? &image->broker_configs[at].configs : NULL;
}

const char *meta_cluster_id(const MetaImage *image)
{
    return image->cluster_id;
}

int64_t meta_next_producer_id(const MetaImage *image)
{
    return image->next_producer_id;
}

const MetaAnswer *meta_answer(const MetaImage *image, const Uuid *sender, int64_t call)
{
    for (size_t i = 0; i < META_ANSWERS_MAX && image->answers; i++) {
        const MetaAnswer *a = &image->answers[i];
        if (a->body && a->call == call && uuid_equal(&a->sender, sender))
            return a;
    }
    return NULL;
}

int64_t meta_next_answer(const MetaImage *image)
{
    return image->next_answer;
}

int16_t meta_version(const MetaImage *image)
{
    for (size_t i = 0; i < image->n_features; i++)
        if (strcmp(image->features[i].name, META_VERSION_NAME) == 0)
            return image->features[i].level;
    return 0;
}
