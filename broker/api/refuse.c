/*
 * Refusals of whole requests: rights that lack, a daemon that does not answer. Every API tells an error in a shape of its
 * own, mostly once per thing that was asked for; a client that gets fewer results than it asked for waits or crashes, so
 * each shape echoes the request. Produce, Fetch, ListOffsets and Metadata tell their errors themselves.
 */

#include "broker/api/api.h"

/* `items`: a zeroed array as long as the request's, hung into field; false = out of memory */
#define ECHO(at, field, count)                                                                     \
    (((at)->field.items = request_alloc(r, (size_t)MAX((count), 0), sizeof(*(at)->field.items))),  \
     (at)->field.n = MAX((count), 0), (at)->field.items != NULL)

static bool refuse_offset_commit(Request *r, KafkaError e)
{
    const KOffsetCommitRequest *q = r->body;
    KOffsetCommitResponse a = {0};
    if (!ECHO(&a, topics, q->topics.n))
        return false;
    for (int32_t i = 0; i < a.topics.n; i++) {
        a.topics.items[i].name = q->topics.items[i].name;
        a.topics.items[i].topic_id = q->topics.items[i].topic_id;
        if (!ECHO(&a.topics.items[i], partitions, q->topics.items[i].partitions.n))
            return false;
        for (int32_t j = 0; j < a.topics.items[i].partitions.n; j++) {
            a.topics.items[i].partitions.items[j].partition_index = q->topics.items[i].partitions.items[j].partition_index;
            a.topics.items[i].partitions.items[j].error_code = e;
        }
    }
    request_reply(r, &a);
    return true;
}

static bool refuse_offset_fetch(Request *r, KafkaError e)
{
    const KOffsetFetchRequest *q = r->body;
    KOffsetFetchResponse a = {.error_code = e};
    if (r->version < 2) { /* no error of its own: each partition carries it */
        if (!ECHO(&a, topics, q->topics.n))
            return false;
        for (int32_t i = 0; i < a.topics.n; i++) {
            a.topics.items[i].name = q->topics.items[i].name;
            if (!ECHO(&a.topics.items[i], partitions, q->topics.items[i].partition_indexes.n))
                return false;
            for (int32_t j = 0; j < a.topics.items[i].partitions.n; j++) {
                KOffsetFetchResponseTopicsPartitions *p = &a.topics.items[i].partitions.items[j];
                p->partition_index = q->topics.items[i].partition_indexes.items[j];
                p->committed_offset = -1;
                p->error_code = e;
            }
        }
    }
    if (r->version >= 8) {
        if (!ECHO(&a, groups, q->groups.n))
            return false;
        for (int32_t i = 0; i < a.groups.n; i++) {
            a.groups.items[i].group_id = q->groups.items[i].group_id;
            a.groups.items[i].error_code = e;
        }
    }
    request_reply(r, &a);
    return true;
}

static bool refuse_join_group(Request *r, KafkaError e)
{
    const KJoinGroupRequest *q = r->body;
    KJoinGroupResponse a = {.error_code = e, .generation_id = -1, .protocol_type = K_STR_NULL, .member_id = q->member_id};
    a.protocol_name = r->version >= 7 ? K_STR_NULL : (KStr){"", 0};
    request_reply(r, &a);
    return true;
}

static bool refuse_sync_group(Request *r, KafkaError e)
{
    KSyncGroupResponse a = {.error_code = e, .protocol_type = K_STR_NULL, .protocol_name = K_STR_NULL, .assignment = {"", 0}};
    request_reply(r, &a);
    return true;
}

static bool refuse_heartbeat(Request *r, KafkaError e)
{
    KHeartbeatResponse a = {.error_code = e};
    request_reply(r, &a);
    return true;
}

static bool refuse_leave_group(Request *r, KafkaError e)
{
    KLeaveGroupResponse a = {.error_code = e};
    request_reply(r, &a);
    return true;
}

static bool refuse_describe_groups(Request *r, KafkaError e)
{
    const KDescribeGroupsRequest *q = r->body;
    KDescribeGroupsResponse a = {0};
    if (!ECHO(&a, groups, q->groups.n))
        return false;
    for (int32_t i = 0; i < a.groups.n; i++) {
        a.groups.items[i].error_code = e;
        a.groups.items[i].error_message = K_STR_NULL;
        a.groups.items[i].group_id = q->groups.items[i];
        a.groups.items[i].authorized_operations = INT32_MIN;
    }
    request_reply(r, &a);
    return true;
}

static bool refuse_list_groups(Request *r, KafkaError e)
{
    KListGroupsResponse a = {.error_code = e};
    request_reply(r, &a);
    return true;
}

static bool refuse_delete_groups(Request *r, KafkaError e)
{
    const KDeleteGroupsRequest *q = r->body;
    KDeleteGroupsResponse a = {0};
    if (!ECHO(&a, results, q->groups_names.n))
        return false;
    for (int32_t i = 0; i < a.results.n; i++) {
        a.results.items[i].group_id = q->groups_names.items[i];
        a.results.items[i].error_code = e;
    }
    request_reply(r, &a);
    return true;
}

static bool refuse_offset_delete(Request *r, KafkaError e)
{
    KOffsetDeleteResponse a = {.error_code = e};
    request_reply(r, &a);
    return true;
}

static bool refuse_create_topics(Request *r, KafkaError e)
{
    const KCreateTopicsRequest *q = r->body;
    KCreateTopicsResponse a = {0};
    if (!ECHO(&a, topics, q->topics.n))
        return false;
    for (int32_t i = 0; i < a.topics.n; i++) {
        a.topics.items[i].name = q->topics.items[i].name;
        a.topics.items[i].error_code = e;
        a.topics.items[i].error_message = k_str(k_error_message(e));
        a.topics.items[i].num_partitions = a.topics.items[i].replication_factor = -1;
        a.topics.items[i].configs.n = -1;
    }
    request_reply(r, &a);
    return true;
}

static bool refuse_delete_topics(Request *r, KafkaError e)
{
    const KDeleteTopicsRequest *q = r->body;
    KDeleteTopicsResponse a = {0};
    bool by_struct = r->version >= 6;
    if (!ECHO(&a, responses, by_struct ? q->topics.n : q->topic_names.n))
        return false;
    for (int32_t i = 0; i < a.responses.n; i++) {
        a.responses.items[i].name = by_struct ? q->topics.items[i].name : q->topic_names.items[i];
        if (by_struct)
            a.responses.items[i].topic_id = q->topics.items[i].topic_id;
        a.responses.items[i].error_code = e;
        a.responses.items[i].error_message = k_str(k_error_message(e));
    }
    request_reply(r, &a);
    return true;
}

static bool refuse_create_partitions(Request *r, KafkaError e)
{
    const KCreatePartitionsRequest *q = r->body;
    KCreatePartitionsResponse a = {0};
    if (!ECHO(&a, results, q->topics.n))
        return false;
    for (int32_t i = 0; i < a.results.n; i++) {
        a.results.items[i].name = q->topics.items[i].name;
        a.results.items[i].error_code = e;
        a.results.items[i].error_message = k_str(k_error_message(e));
    }
    request_reply(r, &a);
    return true;
}

static bool refuse_alter_configs(Request *r, KafkaError e)
{
    const KAlterConfigsRequest *q = r->body;
    KAlterConfigsResponse a = {0};
    if (!ECHO(&a, responses, q->resources.n))
        return false;
    for (int32_t i = 0; i < a.responses.n; i++) {
        a.responses.items[i].error_code = e;
        a.responses.items[i].error_message = k_str(k_error_message(e));
        a.responses.items[i].resource_type = q->resources.items[i].resource_type;
        a.responses.items[i].resource_name = q->resources.items[i].resource_name;
    }
    request_reply(r, &a);
    return true;
}

static bool refuse_incremental_alter_configs(Request *r, KafkaError e)
{
    const KIncrementalAlterConfigsRequest *q = r->body;
    KIncrementalAlterConfigsResponse a = {0};
    if (!ECHO(&a, responses, q->resources.n))
        return false;
    for (int32_t i = 0; i < a.responses.n; i++) {
        a.responses.items[i].error_code = e;
        a.responses.items[i].error_message = k_str(k_error_message(e));
        a.responses.items[i].resource_type = q->resources.items[i].resource_type;
        a.responses.items[i].resource_name = q->resources.items[i].resource_name;
    }
    request_reply(r, &a);
    return true;
}

static bool refuse_delete_records(Request *r, KafkaError e)
{
    const KDeleteRecordsRequest *q = r->body;
    KDeleteRecordsResponse a = {0};
    if (!ECHO(&a, topics, q->topics.n))
        return false;
    for (int32_t i = 0; i < a.topics.n; i++) {
        a.topics.items[i].name = q->topics.items[i].name;
        if (!ECHO(&a.topics.items[i], partitions, q->topics.items[i].partitions.n))
            return false;
        for (int32_t j = 0; j < a.topics.items[i].partitions.n; j++) {
            KDeleteRecordsResponseTopicsPartitions *p = &a.topics.items[i].partitions.items[j];
            p->partition_index = q->topics.items[i].partitions.items[j].partition_index;
            p->low_watermark = -1;
            p->error_code = e;
        }
    }
    request_reply(r, &a);
    return true;
}

static bool refuse_find_coordinator(Request *r, KafkaError e)
{
    const KFindCoordinatorRequest *q = r->body;
    bool transaction = r->version >= 1 && q->key_type == 1;
    KStr why = transaction ? k_str("transactions are not offered by this server") : K_STR_NULL;
    KFindCoordinatorResponse a = {.error_code = e, .error_message = why, .node_id = -1, .port = -1};
    if (r->version >= 4) {
        if (!ECHO(&a, coordinators, q->coordinator_keys.n))
            return false;
        for (int32_t i = 0; i < a.coordinators.n; i++) {
            a.coordinators.items[i].key = q->coordinator_keys.items[i];
            a.coordinators.items[i].node_id = a.coordinators.items[i].port = -1;
            a.coordinators.items[i].error_code = e;
            a.coordinators.items[i].error_message = why;
        }
    }
    request_reply(r, &a);
    return true;
}

static bool refuse_init_producer_id(Request *r, KafkaError e)
{
    KInitProducerIdResponse a = {.error_code = e, .producer_id = -1, .producer_epoch = -1};
    request_reply(r, &a);
    return true;
}

bool api_refuse(Request *r, KafkaError error)
{
    static const struct {
        int16_t key;
        bool (*refuse)(Request *r, KafkaError e);
    } shapes[] = {
        {API_OFFSET_COMMIT, refuse_offset_commit},
        {API_OFFSET_FETCH, refuse_offset_fetch},
        {API_FIND_COORDINATOR, refuse_find_coordinator},
        {API_JOIN_GROUP, refuse_join_group},
        {API_HEARTBEAT, refuse_heartbeat},
        {API_LEAVE_GROUP, refuse_leave_group},
        {API_SYNC_GROUP, refuse_sync_group},
        {API_DESCRIBE_GROUPS, refuse_describe_groups},
        {API_LIST_GROUPS, refuse_list_groups},
        {API_CREATE_TOPICS, refuse_create_topics},
        {API_DELETE_TOPICS, refuse_delete_topics},
        {API_DELETE_RECORDS, refuse_delete_records},
        {API_INIT_PRODUCER_ID, refuse_init_producer_id},
        {API_ALTER_CONFIGS, refuse_alter_configs},
        {API_CREATE_PARTITIONS, refuse_create_partitions},
        {API_DELETE_GROUPS, refuse_delete_groups},
        {API_INCREMENTAL_ALTER_CONFIGS, refuse_incremental_alter_configs},
        {API_OFFSET_DELETE, refuse_offset_delete},
    };
    for (size_t i = 0; i < ARRAY_SIZE(shapes); i++) {
        if (shapes[i].key == r->api->key)
            return shapes[i].refuse(r, error);
    }
    return false;
}
