#pragma once

/* What several nouns ask about topics. */

#include "mqctl/mqctl.h"
#include "wire/messages.h"

#define OFFSETS_LATEST   (-1)
#define OFFSETS_EARLIEST (-2)
#define OFFSETS_NEWEST   (-3) /* the record with the largest time */

/* Metadata of the named topics, or of all (n = -1). */
int topics_metadata(Mq *m, const char *const *names, int n, KMetadataResponse *ret);
/* Says what a broker answered about a topic; for a name that it does not know, a likely one. */
int topic_fail(Mq *m, KafkaError error, const char *message, const char *name);
void topic_suggest(Mq *m, const char *name);
int topic_partitions(Mq *m, const char *topic, int32_t *ret_n); /* MQ_E_NOT_FOUND when there is none */
/* Offset of each partition 0..n-1 at a time in ms or OFFSETS_*; -1 where no record is that late. */
int topic_offsets(Mq *m, const char *topic, int64_t timestamp, int32_t n, int64_t *ret);
typedef struct OffsetQuery { /* of one partition: the first record at or after a time, or OFFSETS_* */
    int32_t partition;
    int64_t at_ms;
    int64_t offset, timestamp_ms; /* the answer; -1 none */
} OffsetQuery;
int topic_query_offsets(Mq *m, const char *topic, OffsetQuery *inout, size_t n);
/* "0,3,7" -> array of n flags (NULL when text is NULL). */
int partition_list(Mq *m, const char *text, int32_t n, bool **ret);
/* Quick look: leat_topic_open() and, when allowed, creation by asking for it. */
int topic_open(Mq *m, leat_client *client, const char *name, bool create, leat_topic **ret);
/* "retention=7d" -> name and canonical value ("retention.ms", "604800000"); value NULL when empty. */
int topic_config_pair(Mq *m, const char *pair, const char **ret_name, const char **ret_value);
