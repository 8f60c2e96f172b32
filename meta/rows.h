#pragma once

/*
 * An image as rows of tables: what the store writes, digests hash and dumps print. A row is one metadata record (and the
 * index it stands at, which is a broker's epoch); applying all rows in table order to an empty image gives the image back.
 */

#include "meta/image_private.h"

typedef enum MetaTable {
    META_TABLE_STATE,      /* cluster record, feature levels, next producer id, answers */
    META_TABLE_BROKERS,    /* registration; a second row while in controlled shutdown */
    META_TABLE_TOPICS,
    META_TABLE_PARTITIONS,
    META_TABLE_CONFIGS,
    META_TABLE_COUNT
} MetaTable;

#define META_KEY_MAX 511 /* LMDB's limit */

typedef struct MetaRowKey {
    MetaTable table;
    uint16_t size;
    uint8_t bytes[META_KEY_MAX];
    /* what the bytes say */
    char kind;             /* state: 'a' answer, 'c' cluster, 'f' feature, 'p' producer ids; broker: 'r' registration, 's' shutdown */
    int32_t id;            /* broker, partition, or slot of an answer */
    int8_t resource_type;  /* config */
    Uuid topic;
    KStr name, config;     /* feature; resource and config name: borrowed */
} MetaRowKey;

typedef int (*MetaRowFn)(void *userdata, const MetaRowKey *key, uint64_t index, const void *record, size_t size);
typedef int (*MetaKeyFn)(void *userdata, const MetaRowKey *key);

const char *meta_table_name(MetaTable table);
/* All rows in table and key order of the image. Stops at the first nonzero return. */
int meta_rows_each(const MetaImage *image, MetaRowFn fn, void *userdata);
/* The row of a key as the image has it now. Return: 0, -ENOENT not in the image, -ENOMEM. *out is overwritten. */
int meta_row(const MetaImage *image, const MetaRowKey *key, Buf *out, uint64_t *ret_index);
/* The rows that a record may change. A removed topic's rows are not known here: *ret_removed is set to its id, else zero. */
int meta_rows_touched(const void *record, size_t size, Arena *arena, MetaKeyFn fn, void *userdata, Uuid *ret_removed);
/* Begin of the keys of one topic's configs, to delete them all. */
void meta_key_topic(const Uuid *id, MetaRowKey *ret);
void meta_key_topic_configs(KStr topic, MetaRowKey *ret);
