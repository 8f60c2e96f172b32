/* Administration through librdkafka: one request, its result event, one topic at a time. */

#include "client/tcp.h"
#include "base/clock.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

typedef struct Call {
    leat_client *client;
    rd_kafka_t *handle;
    rd_kafka_queue_t *queue;
    rd_kafka_AdminOptions_t *options;
    int timeout_ms;
} Call;

static int call_begin(Call *call, leat_client *c, rd_kafka_admin_op_t op, int64_t timeout_ms)
{
    char why[128];
    rd_kafka_t *rk = tcp_handle(c);
    if (!rk)
        return -EIO;
    *call = (Call){.client = c, .handle = rk, .timeout_ms = (int)MIN(MAX(timeout_ms, 1), 3600000)};
    call->queue = rd_kafka_queue_new(rk);
    call->options = rd_kafka_AdminOptions_new(rk, op);
    rd_kafka_AdminOptions_set_request_timeout(call->options, call->timeout_ms, why, sizeof why);
    return 0;
}

static rd_kafka_event_t *call_wait(Call *call)
{
    return rd_kafka_queue_poll(call->queue, call->timeout_ms + 1000);
}

static int call_end(Call *call, rd_kafka_event_t *event, int r)
{
    if (event)
        rd_kafka_event_destroy(event);
    rd_kafka_AdminOptions_destroy(call->options);
    rd_kafka_queue_destroy(call->queue);
    return r;
}

/* The event's own error, or 0. */
static int event_error(Call *call, rd_kafka_event_t *event, const char *what)
{
    if (!event)
        return tcp_fail(call->client, RD_KAFKA_RESP_ERR__TIMED_OUT, what);
    rd_kafka_resp_err_t e = rd_kafka_event_error(event);
    if (!e)
        return 0;
    const char *text = rd_kafka_event_error_string(event);
    int r = tcp_fail(call->client, e, what);
    int16_t kafka_error = call->client->kafka_error;
    if (text && *text)
        client_fail(call->client, r, "%s: %s", what, text);
    call->client->kafka_error = kafka_error;
    return r;
}

static int topic_result(Call *call, const rd_kafka_topic_result_t **results, size_t n, const char *what)
{
    if (n != 1)
        return client_fail(call->client, -EPROTO, "%s: the answer does not speak of it", what);
    rd_kafka_resp_err_t e = rd_kafka_topic_result_error(results[0]);
    if (!e)
        return 0;
    const char *text = rd_kafka_topic_result_error_string(results[0]);
    int r = tcp_fail(call->client, e, what);
    int16_t kafka_error = call->client->kafka_error;
    if (text && *text)
        client_fail(call->client, r, "%s: %s (%s)", what, text, rd_kafka_err2name(e));
    call->client->kafka_error = kafka_error;
    return r;
}

int tcp_topic_create(leat_client *c, const char *name, int32_t partitions, int16_t replicas, const leat_config_item *configs,
                     size_t n, int64_t timeout_ms)
{
    char why[256];
    Call call = {0};
    int r = call_begin(&call, c, RD_KAFKA_ADMIN_OP_CREATETOPICS, timeout_ms);
    if (r < 0)
        return r;
    rd_kafka_NewTopic_t *t = rd_kafka_NewTopic_new(name, partitions, replicas, why, sizeof why);
    if (!t)
        return call_end(&call, NULL, client_fail(c, -EINVAL, "%s: %s", name, why));
    for (size_t i = 0; i < n; i++)
        rd_kafka_NewTopic_set_config(t, configs[i].name, configs[i].value);
    char op_why[128];
    rd_kafka_AdminOptions_set_operation_timeout(call.options, call.timeout_ms, op_why, sizeof op_why);
    rd_kafka_CreateTopics(call.handle, &t, 1, call.options, call.queue);
    rd_kafka_NewTopic_destroy(t);
    rd_kafka_event_t *event = call_wait(&call);
    r = event_error(&call, event, name);
    if (r == 0) {
        size_t count;
        const rd_kafka_topic_result_t **results = rd_kafka_CreateTopics_result_topics(rd_kafka_event_CreateTopics_result(event), &count);
        r = topic_result(&call, results, count, name);
    }
    return call_end(&call, event, r);
}

int tcp_topic_delete(leat_client *c, const char *name, int64_t timeout_ms)
{
    Call call = {0};
    int r = call_begin(&call, c, RD_KAFKA_ADMIN_OP_DELETETOPICS, timeout_ms);
    if (r < 0)
        return r;
    rd_kafka_DeleteTopic_t *t = rd_kafka_DeleteTopic_new(name);
    rd_kafka_DeleteTopics(call.handle, &t, 1, call.options, call.queue);
    rd_kafka_DeleteTopic_destroy(t);
    rd_kafka_event_t *event = call_wait(&call);
    r = event_error(&call, event, name);
    if (r == 0) {
        size_t count;
        const rd_kafka_topic_result_t **results = rd_kafka_DeleteTopics_result_topics(rd_kafka_event_DeleteTopics_result(event), &count);
        r = topic_result(&call, results, count, name);
    }
    return call_end(&call, event, r);
}

int tcp_topic_grow(leat_client *c, const char *name, int32_t partitions, int64_t timeout_ms)
{
    char why[256];
    Call call = {0};
    int r = call_begin(&call, c, RD_KAFKA_ADMIN_OP_CREATEPARTITIONS, timeout_ms);
    if (r < 0)
        return r;
    rd_kafka_NewPartitions_t *t = rd_kafka_NewPartitions_new(name, (size_t)MAX(partitions, 0), why, sizeof why);
    if (!t)
        return call_end(&call, NULL, client_fail(c, -EINVAL, "%s: %s", name, why));
    rd_kafka_CreatePartitions(call.handle, &t, 1, call.options, call.queue);
    rd_kafka_NewPartitions_destroy(t);
    rd_kafka_event_t *event = call_wait(&call);
    r = event_error(&call, event, name);
    if (r == 0) {
        size_t count;
        const rd_kafka_topic_result_t **results =
            rd_kafka_CreatePartitions_result_topics(rd_kafka_event_CreatePartitions_result(event), &count);
        r = topic_result(&call, results, count, name);
    }
    leat_topic *known = topic_find(c, name, strlen(name));
    if (r == 0 && known)
        topic_set_partitions(known, partitions);
    return call_end(&call, event, r);
}

/* librdkafka 2.0 has no IncrementalAlterConfigs, and AlterConfigs replaces everything: the topic's own configs are read
 * first. Two who do this at once can undo each other; over a session it is one atomic request. */
static int current_configs(Call *call, const char *name, rd_kafka_ConfigResource_t *target, const leat_config_item *configs, size_t n)
{
    rd_kafka_ConfigResource_t *t = rd_kafka_ConfigResource_new(RD_KAFKA_RESOURCE_TOPIC, name);
    rd_kafka_DescribeConfigs(call->handle, &t, 1, call->options, call->queue);
    rd_kafka_ConfigResource_destroy(t);
    rd_kafka_event_t *event = call_wait(call);
    int r = event_error(call, event, name);
    size_t count = 0, n_entries = 0;
    const rd_kafka_ConfigResource_t **results =
        r == 0 ? rd_kafka_DescribeConfigs_result_resources(rd_kafka_event_DescribeConfigs_result(event), &count) : NULL;
    if (r == 0 && count == 1 && rd_kafka_ConfigResource_error(results[0]))
        r = tcp_fail(call->client, rd_kafka_ConfigResource_error(results[0]), name);
    const rd_kafka_ConfigEntry_t **entries = r == 0 && count == 1 ? rd_kafka_ConfigResource_configs(results[0], &n_entries) : NULL;
    for (size_t i = 0; i < n_entries; i++) {
        bool given = false;
        for (size_t k = 0; k < n && !given; k++)
            given = strcmp(configs[k].name, rd_kafka_ConfigEntry_name(entries[i])) == 0;
        if (!given && rd_kafka_ConfigEntry_source(entries[i]) == RD_KAFKA_CONFIG_SOURCE_DYNAMIC_TOPIC_CONFIG)
            rd_kafka_ConfigResource_set_config(target, rd_kafka_ConfigEntry_name(entries[i]), rd_kafka_ConfigEntry_value(entries[i]));
    }
    if (event)
        rd_kafka_event_destroy(event);
    return r;
}

int tcp_topic_configure(leat_client *c, const char *name, const leat_config_item *configs, size_t n, int64_t timeout_ms)
{
    Call read = {0}, call = {0};
    int r = call_begin(&read, c, RD_KAFKA_ADMIN_OP_DESCRIBECONFIGS, timeout_ms);
    if (r < 0)
        return r;
    rd_kafka_ConfigResource_t *t = rd_kafka_ConfigResource_new(RD_KAFKA_RESOURCE_TOPIC, name);
    r = call_end(&read, NULL, current_configs(&read, name, t, configs, n));
    for (size_t i = 0; r == 0 && i < n; i++)
        if (configs[i].value)
            rd_kafka_ConfigResource_set_config(t, configs[i].name, configs[i].value);
    if (r == 0)
        r = call_begin(&call, c, RD_KAFKA_ADMIN_OP_ALTERCONFIGS, timeout_ms);
    if (r < 0) {
        rd_kafka_ConfigResource_destroy(t);
        return r;
    }
    rd_kafka_AlterConfigs(call.handle, &t, 1, call.options, call.queue);
    rd_kafka_ConfigResource_destroy(t);
    rd_kafka_event_t *event = call_wait(&call);
    r = event_error(&call, event, name);
    size_t count = 0;
    const rd_kafka_ConfigResource_t **results =
        r == 0 ? rd_kafka_AlterConfigs_result_resources(rd_kafka_event_AlterConfigs_result(event), &count) : NULL;
    if (r == 0 && count == 1 && rd_kafka_ConfigResource_error(results[0])) {
        const char *text = rd_kafka_ConfigResource_error_string(results[0]);
        r = tcp_fail(c, rd_kafka_ConfigResource_error(results[0]), text && *text ? text : name);
    }
    return call_end(&call, event, r);
}

/* ---- offsets --------------------------------------------------------------------------------------------------------- */

static rd_kafka_resp_err_t offset_at_time(rd_kafka_t *rk, leat_partition *item, int timeout_ms)
{
    rd_kafka_topic_partition_list_t *list = rd_kafka_topic_partition_list_new(1);
    rd_kafka_topic_partition_t *at = rd_kafka_topic_partition_list_add(list, item->topic, item->partition);
    at->offset = item->offset;
    rd_kafka_resp_err_t e = rd_kafka_offsets_for_times(rk, list, timeout_ms);
    if (!e)
        e = list->elems[0].err;
    if (!e)
        item->offset = list->elems[0].offset;
    rd_kafka_topic_partition_list_destroy(list);
    return e;
}

int tcp_list_offsets(leat_client *c, leat_partition *inout, size_t n, int64_t timeout_ms)
{
    rd_kafka_t *rk = tcp_handle(c);
    int64_t deadline_ms = clock_mono_ms() + timeout_ms;
    int first = 0;
    if (!rk)
        return -EIO;
    for (size_t i = 0; i < n; i++) {
        int left_ms = (int)MIN(MAX(deadline_ms - clock_mono_ms(), 1), INT32_MAX);
        int64_t low = -1, high = -1;
        rd_kafka_resp_err_t e;
        if (inout[i].offset >= 0) {
            e = offset_at_time(rk, &inout[i], left_ms);
        } else {
            e = rd_kafka_query_watermark_offsets(rk, inout[i].topic, inout[i].partition, &low, &high, left_ms);
            if (!e)
                inout[i].offset = inout[i].offset == LEAT_OFFSET_EARLIEST ? low : high;
        }
        inout[i].error = e ? tcp_fail(c, e, inout[i].topic) : 0;
        if (e)
            inout[i].offset = -1;
        if (first == 0)
            first = inout[i].error;
    }
    return first;
}

int tcp_delete_records(leat_client *c, leat_partition *before, size_t n, int64_t timeout_ms)
{
    Call call = {0};
    int r = call_begin(&call, c, RD_KAFKA_ADMIN_OP_DELETERECORDS, timeout_ms);
    if (r < 0)
        return r;
    rd_kafka_topic_partition_list_t *list = rd_kafka_topic_partition_list_new((int)n);
    for (size_t i = 0; i < n; i++)
        rd_kafka_topic_partition_list_add(list, before[i].topic, before[i].partition)->offset = before[i].offset;
    rd_kafka_DeleteRecords_t *t = rd_kafka_DeleteRecords_new(list);
    rd_kafka_topic_partition_list_destroy(list);
    rd_kafka_DeleteRecords(call.handle, &t, 1, call.options, call.queue);
    rd_kafka_DeleteRecords_destroy(t);
    rd_kafka_event_t *event = call_wait(&call);
    r = event_error(&call, event, "delete records");
    const rd_kafka_topic_partition_list_t *done =
        r == 0 ? rd_kafka_DeleteRecords_result_offsets(rd_kafka_event_DeleteRecords_result(event)) : NULL;
    for (size_t i = 0; done && i < n; i++) {
        const rd_kafka_topic_partition_t *at =
            rd_kafka_topic_partition_list_find((rd_kafka_topic_partition_list_t *)(uintptr_t)done, before[i].topic, before[i].partition);
        before[i].error = !at ? -EPROTO : at->err ? tcp_fail(c, at->err, before[i].topic) : 0;
        if (at && !at->err)
            before[i].offset = at->offset;
        if (r == 0)
            r = before[i].error;
    }
    return call_end(&call, event, r);
}
