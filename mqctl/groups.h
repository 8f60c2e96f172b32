#pragma once

/* What the verbs of mqctl group, and `check lag`, know about consumer groups. */

#include "mqctl/mqctl.h"
#include "wire/messages.h"

typedef struct GroupRow { /* one partition of a group */
    const char *topic;
    int32_t partition;
    int64_t committed;  /* -1 = none */
    int64_t start, end; /* of the log; -1 = the topic is gone */
    int64_t lag_ms;     /* age of the oldest record not yet read; 0 = there is none, -1 = unknown */
    const char *member; /* NULL = nobody */
} GroupRow;

typedef struct GroupRows {
    GroupRow *items;
    size_t n, capacity;
} GroupRows;

GroupRow *group_row(Mq *m, GroupRows *rows, const char *topic, int32_t partition); /* found, or made */
int64_t group_row_lag(const GroupRow *r); /* records; -1 = unknown */

/*
 * One request to the coordinator of a group. Asks again, up to --timeout, while @error_of the answer says that it is starting
 * or has moved; what else the answer says is the caller's.
 */
int group_call(Mq *m, const char *group, int16_t key, int16_t version, const void *request, void *ret_response,
               KafkaError (*error_of)(const void *response));
int group_describe(Mq *m, const char *group, KDescribeGroupsResponseGroups *ret);
int group_fetch_committed(Mq *m, const char *group, GroupRows *rows);
/* Start and end of every partition that has a row; sorts them. */
int group_fetch_ends(Mq *m, GroupRows *rows);
int group_fetch_lag_times(Mq *m, GroupRows *rows); /* after the ends */

typedef struct GroupName {
    const char *name, *state, *protocol_type;
} GroupName;
/* Of all brokers. */
int group_names(Mq *m, GroupName **ret, size_t *ret_n);
int group_not_found(Mq *m, const char *group); /* says so, and a likely name; MQ_E_NOT_FOUND */
/* One row {group, state, protocol_type, members, partitions, lag, lag_ms}. */
int group_summary(Mq *m, const GroupName *g, json_t **ret);
json_t *group_rows_doc(const GroupRows *rows, int64_t *ret_lag, int64_t *ret_lag_ms);
