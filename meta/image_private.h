#pragma once

/*
 * Inside of a MetaImage, for the files of meta/ that change or walk it: image.c (look-ups), apply.c (records), rows.c (the
 * image as records). INV-META-1: arrays are sorted by their key, without doubles. INV-META-2: every MetaTopic is in by_name
 * and by_id. INV-META-3: n_partitions counts partitions 0..n-1, all present.
 */

#include "meta/image.h"

#define META_FEATURES_MAX 16
#define META_BROKERS_MAX  4096

typedef struct TopicNode {
    MetaTopic topic; /* first: a MetaTopic pointer is a TopicNode pointer */
    int32_t capacity;
} TopicNode;

typedef struct BrokerConfigs {
    int32_t id; /* -1 cluster default */
    MetaConfigs configs;
} BrokerConfigs;

typedef struct FeatureLevel {
    char name[64];
    int16_t level;
} FeatureLevel;

struct MetaImage {
    uint64_t index;
    char cluster_id[64];
    int64_t created_ms;
    FeatureLevel features[META_FEATURES_MAX]; /* by name */
    size_t n_features;
    int64_t next_producer_id;
    MetaBroker **brokers; /* by id */
    size_t n_brokers;
    TopicNode **by_name, **by_id;
    size_t n_topics, capacity_topics;
    size_t n_partitions; /* of all topics */
    BrokerConfigs *broker_configs; /* by id */
    size_t n_broker_configs;
    MetaAnswer *answers; /* by slot; NULL before the first */
    int64_t next_answer;
    Arena scratch; /* decoding of one record */
};

/* image.c; *ret_at: where it is or belongs */
bool meta_find_topic(const MetaImage *image, const char *name, size_t size, size_t *ret_at);
bool meta_find_topic_id(const MetaImage *image, const Uuid *id, size_t *ret_at);
bool meta_find_broker(const MetaImage *image, int32_t id, size_t *ret_at);
bool meta_find_broker_configs(const MetaImage *image, int32_t id, size_t *ret_at);
void meta_image_clear(MetaImage *image);
void meta_partition_clear(MetaPartition *p);

/* apply.c: the record's effect without the index check and without moving the index; rows of the store are loaded so.
 * @index: becomes the epoch of a broker that the record registers. */
int meta_apply_record(MetaImage *image, uint64_t index, const void *record, size_t size);
