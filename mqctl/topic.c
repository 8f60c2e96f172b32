/* mqctl topic: create, list, describe, alter, delete, trim. `plan` is in plan.c: it needs no node. */

#include <errno.h>
#include <fnmatch.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/text.h"
#include "mqctl/connect.h"
#include "mqctl/output.h"
#include "mqctl/range.h"
#include "mqctl/topics.h"

#define API_CREATE_TOPICS     19
#define API_DELETE_TOPICS     20
#define API_DELETE_RECORDS    21
#define API_DESCRIBE_CONFIGS  32
#define API_CREATE_PARTITIONS 37
#define API_ALTER_CONFIGS     44
#define RESOURCE_TOPIC        2
#define CONFIG_OP_SET         0
#define CONFIG_OP_DELETE      1
#define SOURCE_TOPIC_CONFIG   1

static json_t *kstr(KStr s)
{
    return s.len < 0 ? json_null() : doc_bytes(s.ptr, (size_t)s.len);
}

static char *text_of(Mq *m, KStr s)
{
    return s.len < 0 ? NULL : mq_printf(m, "%.*s", s.len, s.ptr);
}

static json_t *id_text(const Uuid *id)
{
    char text[UUID_TEXT_SIZE];

    uuid_format(id, text);
    return json_string(text);
}

static json_t *ints(const KInt32Array *a)
{
    json_t *list = json_array();

    for (int32_t i = 0; i < a->n; i++)
        json_array_append_new(list, json_integer(a->items[i]));
    return list;
}

/* ---- create -------------------------------------------------------------------------------------------------------- */

static int collect_configs(Mq *m, const char *const **ret_pairs, int32_t *ret_n)
{
    const char **pairs;
    const char *pair;
    int32_t n = 0;

    while (opt_nth(m, "config", (size_t)n) != NULL)
        n++;
    pairs = mq_alloc(m, (size_t)MAX(n, 1) * 2 * sizeof *pairs);
    for (int32_t i = 0; i < n; i++) {
        int r;
        pair = opt_nth(m, "config", (size_t)i);
        r = topic_config_pair(m, pair, &pairs[2 * i], &pairs[2 * i + 1]);
        if (r != 0)
            return r;
    }
    *ret_pairs = pairs;
    *ret_n = n;
    return 0;
}

static int check_name(Mq *m, const char *name)
{
    if (topic_name_is_valid(name, strlen(name)))
        return 0;
    return mq_fail(m, MQ_E_USAGE, "'%.260s' is no topic name: 1 to 249 of a-z A-Z 0-9 . _ -, not . or ..", name);
}

static int create_answer(Mq *m, const KCreateTopicsResponse *response, json_t *rows)
{
    int r = MQ_OK;

    for (int32_t i = 0; i < response->topics.n; i++) {
        const KCreateTopicsResponseTopics *t = &response->topics.items[i];
        json_t *row;

        if (t->error_code == K_TOPIC_ALREADY_EXISTS && opt_has(m, "if-not-exists"))
            continue;
        if (t->error_code != 0) {
            r = mq_fail_kafka(m, t->error_code, text_of(m, t->error_message), "topic %.*s", t->name.len, t->name.ptr);
            continue;
        }
        row = json_object();
        doc_set(row, "topic", kstr(t->name));
        doc_set(row, "partitions", json_integer(t->num_partitions));
        doc_set(row, "replicas", json_integer(t->replication_factor));
        doc_set(row, "id", id_text(&t->topic_id));
        json_array_append_new(rows, row);
    }
    return response->topics.n > 1 && r != MQ_OK ? MQ_E_FAILED : r;
}

int topic_create_run(Mq *m)
{
    static const Column columns[] = {{"TOPIC", "topic", COL_TEXT, false}, {"PARTITIONS", "partitions", COL_COUNT, false},
                                     {"REPLICAS", "replicas", COL_COUNT, false}, {"ID", "id", COL_TEXT, false}, {NULL, NULL, COL_TEXT, false}};
    KCreateTopicsRequest request;
    KCreateTopicsResponse response;
    int64_t partitions = -1, replicas = -1;
    const char *const *pairs;
    int32_t n_pairs;
    json_t *doc, *rows;
    int r = opt_i64(m, "partitions", 1, 1000000, &partitions), e;

    r = r ? r : opt_i64(m, "replicas", 1, INT16_MAX, &replicas);
    r = r ? r : collect_configs(m, &pairs, &n_pairs);
    if (r != 0)
        return r;
    k_message_init(&k_create_topics_request, &request);
    request.timeout_ms = (int32_t)MIN(m->timeout_ms, INT32_MAX);
    request.validate_only = m->dry_run;
    request.topics.n = m->n_args;
    request.topics.items = mq_alloc(m, (size_t)m->n_args * sizeof *request.topics.items);
    for (int i = 0; i < m->n_args; i++) {
        KCreateTopicsRequestTopics *t = &request.topics.items[i];

        r = check_name(m, m->args[i]);
        if (r != 0)
            return r;
        t->name = k_str(m->args[i]);
        t->num_partitions = (int32_t)partitions;
        t->replication_factor = (int16_t)replicas;
        t->configs.n = n_pairs;
        t->configs.items = mq_alloc(m, (size_t)MAX(n_pairs, 1) * sizeof *t->configs.items);
        for (int32_t j = 0; j < n_pairs; j++) {
            t->configs.items[j].name = k_str(pairs[2 * j]);
            t->configs.items[j].value = k_str(pairs[2 * j + 1]);
        }
    }
    r = api_call(m, API_CREATE_TOPICS, 7, &request, &response);
    if (r != 0)
        return r;
    doc = json_object();
    rows = json_array();
    doc_set(doc, "topics", rows);
    doc_set(doc, "dry_run", json_boolean(m->dry_run));
    r = create_answer(m, &response, rows);
    if (r != MQ_OK && json_array_size(rows) == 0 && output_is_text(m)) {
        json_decref(doc);
        return r;
    }
    e = output_rows(m, doc, "topics", columns);
    if (m->dry_run && r == MQ_OK)
        r = MQ_E_REFUSED;
    return r ? r : e;
}

/* ---- list ---------------------------------------------------------------------------------------------------------- */

static bool wanted(const Mq *m, const char *name, bool internal)
{
    if (internal && !opt_has(m, "internal") && m->n_args == 0)
        return false;
    for (int i = 0; i < m->n_args; i++)
        if (fnmatch(m->args[i], name, 0) == 0)
            return true;
    return m->n_args == 0;
}

static const char *isr_state(const KMetadataResponseTopics *t)
{
    int under = 0, leaderless = 0;

    for (int32_t i = 0; i < t->partitions.n; i++) {
        const KMetadataResponseTopicsPartitions *p = &t->partitions.items[i];
        leaderless += p->leader_id < 0;
        under += p->isr_nodes.n < p->replica_nodes.n;
    }
    return leaderless ? "leaderless" : under ? "under-replicated" : "ok";
}

/* Records between start and end; -1 when a partition does not answer. */
static int64_t count_records(Mq *m, const char *name, int32_t n)
{
    int64_t *start = mq_alloc(m, (size_t)MAX(n, 1) * sizeof *start), *end = mq_alloc(m, (size_t)MAX(n, 1) * sizeof *end), sum = 0;

    if (topic_offsets(m, name, OFFSETS_EARLIEST, n, start) != 0 || topic_offsets(m, name, OFFSETS_LATEST, n, end) != 0)
        return -1;
    for (int32_t i = 0; i < n; i++)
        sum += MAX(end[i] - start[i], 0);
    return sum;
}

int topic_list_run(Mq *m)
{
    static const Column columns[] = {{"TOPIC", "topic", COL_TEXT, false}, {"PARTITIONS", "partitions", COL_COUNT, false},
                                     {"REPLICAS", "replicas", COL_COUNT, false}, {"ISR", "isr", COL_TEXT, false},
                                     {"RECORDS", "records", COL_COUNT, false}, {"ID", "id", COL_TEXT, true},
                                     {"INTERNAL", "internal", COL_TEXT, true}, {NULL, NULL, COL_TEXT, false}};
    KMetadataResponse response;
    json_t *doc, *rows;
    int r = topics_metadata(m, NULL, -1, &response);

    if (r != 0)
        return r;
    doc = json_object();
    rows = json_array();
    doc_set(doc, "topics", rows);
    for (int32_t i = 0; i < response.topics.n; i++) {
        const KMetadataResponseTopics *t = &response.topics.items[i];
        const char *name = text_of(m, t->name);
        int64_t records;
        json_t *row;

        if (name == NULL || !wanted(m, name, t->is_internal))
            continue;
        records = count_records(m, name, t->partitions.n);
        row = json_object();
        doc_set_text(row, "topic", name);
        doc_set(row, "partitions", json_integer(t->partitions.n));
        doc_set(row, "replicas", json_integer(t->partitions.n > 0 ? t->partitions.items[0].replica_nodes.n : 0));
        doc_set(row, "isr", json_string(isr_state(t)));
        doc_set(row, "records", records >= 0 ? json_integer(records) : json_null());
        doc_set(row, "internal", json_boolean(t->is_internal));
        doc_set(row, "id", id_text(&t->topic_id));
        json_array_append_new(rows, row);
    }
    return output_rows(m, doc, "topics", columns);
}

/* ---- describe ------------------------------------------------------------------------------------------------------ */

static int describe_configs(Mq *m, const char *name, json_t *ret)
{
    KDescribeConfigsRequestResources resource = {.resource_type = RESOURCE_TOPIC, .resource_name = k_str(name)};
    KDescribeConfigsRequest request;
    KDescribeConfigsResponse response;
    int r;

    k_message_init(&k_describe_configs_request, &request);
    resource.configuration_keys.n = -1;
    request.resources.items = &resource;
    request.resources.n = 1;
    r = api_call(m, API_DESCRIBE_CONFIGS, 4, &request, &response);
    if (r != 0 || response.results.n < 1)
        return r;
    if (response.results.items[0].error_code != 0)
        return mq_fail_kafka(m, response.results.items[0].error_code, text_of(m, response.results.items[0].error_message),
                             "settings of %s", name);
    for (int32_t i = 0; i < response.results.items[0].configs.n; i++) {
        const KDescribeConfigsResponseResultsConfigs *c = &response.results.items[0].configs.items[i];
        if (c->config_source == SOURCE_TOPIC_CONFIG)
            doc_set(ret, text_of(m, c->name), kstr(c->value));
    }
    return 0;
}

static json_t *age_ms(int64_t timestamp_ms)
{
    return timestamp_ms < 0 ? json_null() : json_integer(MAX(clock_wall_ms() - timestamp_ms, 0));
}

static int describe_partitions(Mq *m, const KMetadataResponseTopics *t, const char *name, json_t *rows)
{
    int32_t n = t->partitions.n;
    int64_t *start = mq_alloc(m, (size_t)MAX(n, 1) * sizeof *start), *end = mq_alloc(m, (size_t)MAX(n, 1) * sizeof *end);
    OffsetQuery *oldest = mq_alloc(m, (size_t)MAX(n, 1) * sizeof *oldest), *newest = mq_alloc(m, (size_t)MAX(n, 1) * sizeof *newest);
    int r = topic_offsets(m, name, OFFSETS_EARLIEST, n, start);

    for (int32_t i = 0; i < n; i++) {
        oldest[i] = (OffsetQuery){.partition = i};
        newest[i] = (OffsetQuery){.partition = i, .at_ms = OFFSETS_NEWEST};
    }
    r = r ? r : topic_offsets(m, name, OFFSETS_LATEST, n, end);
    r = r ? r : topic_query_offsets(m, name, oldest, (size_t)n);
    r = r ? r : topic_query_offsets(m, name, newest, (size_t)n);
    for (int32_t want = 0; r == 0 && want < n; want++) {
        for (int32_t i = 0; i < n; i++) {
            const KMetadataResponseTopicsPartitions *p = &t->partitions.items[i];
            json_t *row;

            if (p->partition_index != want)
                continue;
            row = json_object();
            doc_set_text(row, "topic", name);
            doc_set(row, "partition", json_integer(p->partition_index));
            doc_set(row, "leader", json_integer(p->leader_id));
            doc_set(row, "leader_epoch", json_integer(p->leader_epoch));
            doc_set(row, "replicas", ints(&p->replica_nodes));
            doc_set(row, "isr", ints(&p->isr_nodes));
            doc_set(row, "start", json_integer(start[want]));
            doc_set(row, "end", json_integer(end[want]));
            doc_set(row, "records", json_integer(MAX(end[want] - start[want], 0)));
            doc_set(row, "oldest_age_ms", age_ms(oldest[want].timestamp_ms));
            doc_set(row, "newest_age_ms", age_ms(newest[want].timestamp_ms));
            json_array_append_new(rows, row);
        }
    }
    return r;
}

static const Column partition_columns[] = {{"TOPIC", "topic", COL_TEXT, true},          {"PARTITION", "partition", COL_COUNT, false},
                                           {"LEADER", "leader", COL_COUNT, false},      {"REPLICAS", "replicas", COL_TEXT, false},
                                           {"ISR", "isr", COL_TEXT, false},             {"START", "start", COL_COUNT, false},
                                           {"END", "end", COL_COUNT, false},            {"RECORDS", "records", COL_COUNT, false},
                                           {"LAST WRITE", "newest_age_ms", COL_MS_AGO, false}, {"OLDEST", "oldest_age_ms", COL_MS, false},
                                           {NULL, NULL, COL_TEXT, false}};

static void print_topics(Mq *m, json_t *doc)
{
    size_t i;
    json_t *topic, *value;
    const char *key;

    json_array_foreach(json_object_get(doc, "topics"), i, topic) {
        printf("%s%s  %lld partition%s", i > 0 ? "\n" : "", doc_text(topic, "topic", ""),
               (long long)json_array_size(json_object_get(topic, "partitions")),
               json_array_size(json_object_get(topic, "partitions")) == 1 ? "" : "s");
        json_object_foreach(json_object_get(topic, "configs"), key, value)
            printf("  %s=%s", key, json_is_string(value) ? json_string_value(value) : "");
        putchar('\n');
        output_table(m, json_object_get(topic, "partitions"), partition_columns);
    }
}

int topic_describe_run(Mq *m)
{
    KMetadataResponse response;
    json_t *doc, *topics, *all;
    int r = topics_metadata(m, m->args, m->n_args, &response), status = MQ_OK;

    if (r != 0)
        return r;
    doc = json_object();
    topics = json_array();
    all = json_array(); /* partitions of all topics, for line formats */
    doc_set(doc, "topics", topics);
    for (int32_t i = 0; i < response.topics.n; i++) {
        const KMetadataResponseTopics *t = &response.topics.items[i];
        const char *name = text_of(m, t->name);
        json_t *row, *parts, *configs;

        if (t->error_code != 0 || name == NULL) {
            status = topic_fail(m, t->error_code, NULL, name ? name : m->args[i]);
            continue;
        }
        row = json_object();
        parts = json_array();
        configs = json_object();
        doc_set_text(row, "topic", name);
        doc_set(row, "internal", json_boolean(t->is_internal));
        doc_set(row, "id", id_text(&t->topic_id));
        doc_set(row, "partitions", parts);
        doc_set(row, "configs", configs);
        json_array_append_new(topics, row);
        r = describe_partitions(m, t, name, parts);
        r = r ? r : describe_configs(m, name, configs);
        status = status ? status : r;
        json_array_extend(all, parts);
    }
    if (json_array_size(topics) > 0)
        r = output_detail(m, json_incref(doc), all, partition_columns, print_topics);
    json_decref(doc);
    json_decref(all);
    return status ? status : r;
}

/* ---- alter --------------------------------------------------------------------------------------------------------- */

static int alter_configs(Mq *m, const char *name, const char *const *pairs, int32_t n)
{
    KIncrementalAlterConfigsRequestResources resource = {.resource_type = RESOURCE_TOPIC, .resource_name = k_str(name)};
    KIncrementalAlterConfigsRequest request;
    KIncrementalAlterConfigsResponse response;
    int r;

    k_message_init(&k_incremental_alter_configs_request, &request);
    resource.configs.n = n;
    resource.configs.items = mq_alloc(m, (size_t)MAX(n, 1) * sizeof *resource.configs.items);
    for (int32_t i = 0; i < n; i++) {
        resource.configs.items[i].name = k_str(pairs[2 * i]);
        resource.configs.items[i].value = k_str(pairs[2 * i + 1]);
        resource.configs.items[i].config_operation = pairs[2 * i + 1] != NULL ? CONFIG_OP_SET : CONFIG_OP_DELETE;
    }
    request.resources.items = &resource;
    request.resources.n = 1;
    request.validate_only = m->dry_run;
    r = api_call(m, API_ALTER_CONFIGS, 1, &request, &response);
    if (r == 0 && response.responses.n > 0 && response.responses.items[0].error_code != 0)
        r = mq_fail_kafka(m, response.responses.items[0].error_code, text_of(m, response.responses.items[0].error_message), "%s",
                          name);
    return r;
}

static int grow(Mq *m, const char *name, int32_t partitions)
{
    KCreatePartitionsRequestTopics topic = {.name = k_str(name), .count = partitions};
    KCreatePartitionsRequest request;
    KCreatePartitionsResponse response;
    int r;

    topic.assignments.n = -1;
    k_message_init(&k_create_partitions_request, &request);
    request.topics.items = &topic;
    request.topics.n = 1;
    request.timeout_ms = (int32_t)MIN(m->timeout_ms, INT32_MAX);
    request.validate_only = m->dry_run;
    r = api_call(m, API_CREATE_PARTITIONS, 2, &request, &response);
    if (r == 0 && response.results.n > 0 && response.results.items[0].error_code != 0)
        r = mq_fail_kafka(m, response.results.items[0].error_code, text_of(m, response.results.items[0].error_message), "%s", name);
    return r;
}

static void print_changes(Mq *m, json_t *doc)
{
    static const Column columns[] = {{"SETTING", "setting", COL_TEXT, false}, {"OLD", "old", COL_TEXT, false},
                                     {"NEW", "new", COL_TEXT, false}, {NULL, NULL, COL_TEXT, false}};

    if (json_array_size(json_object_get(doc, "changes")) == 0)
        printf("nothing to change\n");
    else
        output_table(m, json_object_get(doc, "changes"), columns);
}

static void add_change(json_t *rows, const char *setting, json_t *from, json_t *to)
{
    json_t *row;

    if (json_equal(from, to)) {
        json_decref(from);
        json_decref(to);
        return;
    }
    row = json_object();
    doc_set(row, "setting", json_string(setting));
    doc_set(row, "old", from);
    doc_set(row, "new", to);
    json_array_append_new(rows, row);
}

int topic_alter_run(Mq *m)
{
    const char *name = m->args[0], *const *pairs;
    int64_t partitions = 0;
    int32_t n_pairs, now;
    json_t *doc, *rows, *configs;
    int r = opt_i64(m, "partitions", 1, 1000000, &partitions), e;
    bool changes;

    r = r ? r : collect_configs(m, &pairs, &n_pairs);
    if (r == 0 && partitions == 0 && n_pairs == 0)
        r = mq_fail(m, MQ_E_USAGE, "say what to change: -p or -c");
    r = r ? r : topic_partitions(m, name, &now);
    if (r != 0)
        return r;
    configs = json_object();
    doc = json_object();
    rows = json_array();
    doc_set_text(doc, "topic", name);
    doc_set(doc, "changes", rows);
    doc_set(doc, "dry_run", json_boolean(m->dry_run));
    r = describe_configs(m, name, configs);
    if (partitions > 0)
        add_change(rows, "partitions", json_integer(now), json_integer(partitions));
    for (int32_t i = 0; i < n_pairs; i++) {
        json_t *old = json_object_get(configs, pairs[2 * i]);
        add_change(rows, pairs[2 * i], old ? json_incref(old) : json_null(),
                   pairs[2 * i + 1] ? json_string(pairs[2 * i + 1]) : json_null());
    }
    json_decref(configs);
    changes = json_array_size(rows) > 0;
    if (r == 0 && partitions > 0 && partitions != now) {
        r = grow(m, name, (int32_t)partitions);
        if (r == 0)
            mq_note(m, "%s: keys map to other partitions from now on", m->dry_run ? "note" : name);
    }
    if (r == 0 && n_pairs > 0)
        r = alter_configs(m, name, pairs, n_pairs);
    if (r != 0) {
        json_decref(doc);
        return r;
    }
    e = output_doc(m, doc, print_changes);
    return m->dry_run && changes ? MQ_E_REFUSED : e;
}

/* ---- delete -------------------------------------------------------------------------------------------------------- */

static int announce_delete(Mq *m)
{
    KMetadataResponse response;
    int r = topics_metadata(m, m->args, m->n_args, &response);

    for (int32_t i = 0; r == 0 && i < response.topics.n; i++) {
        const KMetadataResponseTopics *t = &response.topics.items[i];
        const char *name = text_of(m, t->name);
        int64_t records;

        if (t->error_code != 0)
            return topic_fail(m, t->error_code, NULL, name ? name : m->args[i]);
        records = m->yes && m->quiet ? -1 : count_records(m, name, t->partitions.n);
        if (records >= 0)
            mq_note(m, "%s: %lld records in %d partitions", name, (long long)records, t->partitions.n);
    }
    return r;
}

int topic_delete_run(Mq *m)
{
    static const Column columns[] = {{"TOPIC", "topic", COL_TEXT, false}, {"RESULT", "result", COL_TEXT, false}, {NULL, NULL, COL_TEXT, false}};
    KDeleteTopicsRequest request;
    KDeleteTopicsResponse response;
    KStr *names = mq_alloc(m, (size_t)m->n_args * sizeof *names);
    json_t *doc, *rows;
    int r = announce_delete(m), e;

    if (r == 0 && m->dry_run) {
        doc = json_object();
        rows = json_array();
        doc_set(doc, "topics", rows);
        for (int i = 0; i < m->n_args; i++)
            json_array_append_new(rows, json_pack("{ssss}", "topic", m->args[i], "result", "would be deleted"));
        doc_set(doc, "dry_run", json_true());
        e = output_rows(m, doc, "topics", columns);
        return e ? e : MQ_E_REFUSED;
    }
    r = r ? r : mq_confirm(m, "delete %s%s with all records?", m->args[0], m->n_args > 1 ? " and the others" : "");
    if (r != 0)
        return r;
    k_message_init(&k_delete_topics_request, &request);
    for (int i = 0; i < m->n_args; i++)
        names[i] = k_str(m->args[i]);
    request.topic_names.items = names;
    request.topic_names.n = m->n_args;
    request.timeout_ms = (int32_t)MIN(m->timeout_ms, INT32_MAX);
    r = api_call(m, API_DELETE_TOPICS, 5, &request, &response);
    if (r != 0)
        return r;
    doc = json_object();
    rows = json_array();
    doc_set(doc, "topics", rows);
    for (int32_t i = 0; i < response.responses.n; i++) {
        json_t *row = json_object();

        if (response.responses.items[i].error_code != 0)
            r = mq_fail_kafka(m, response.responses.items[i].error_code, text_of(m, response.responses.items[i].error_message),
                              "topic %s", text_of(m, response.responses.items[i].name));
        doc_set(row, "topic", kstr(response.responses.items[i].name));
        doc_set(row, "result", json_string(response.responses.items[i].error_code ? "failed" : "deleted"));
        json_array_append_new(rows, row);
    }
    doc_set(doc, "dry_run", json_false());
    e = output_rows(m, doc, "topics", columns);
    return r ? r : e;
}

/* ---- trim ---------------------------------------------------------------------------------------------------------- */

static int delete_records(Mq *m, const char *name, json_t *rows)
{
    KDeleteRecordsRequestTopics topic = {.name = k_str(name)};
    KDeleteRecordsRequest request;
    KDeleteRecordsResponse response;
    size_t i;
    json_t *row;
    int r, status = MQ_OK;

    k_message_init(&k_delete_records_request, &request);
    topic.partitions.items = mq_alloc(m, MAX(json_array_size(rows), 1) * sizeof *topic.partitions.items);
    json_array_foreach(rows, i, row)
        topic.partitions.items[topic.partitions.n++] = (KDeleteRecordsRequestTopicsPartitions){
            .partition_index = (int32_t)doc_i64(row, "partition", 0), .offset = doc_i64(row, "before", 0)};
    request.topics.items = &topic;
    request.topics.n = 1;
    request.timeout_ms = (int32_t)MIN(m->timeout_ms, INT32_MAX);
    r = topic.partitions.n > 0 ? api_call(m, API_DELETE_RECORDS, 1, &request, &response) : 0;
    if (r != 0 || topic.partitions.n == 0)
        return r;
    for (int32_t t = 0; t < response.topics.n; t++)
        for (int32_t p = 0; p < response.topics.items[t].partitions.n; p++)
            if (response.topics.items[t].partitions.items[p].error_code != 0)
                status = mq_fail_kafka(m, response.topics.items[t].partitions.items[p].error_code, NULL, "%s-%d", name,
                                       response.topics.items[t].partitions.items[p].partition_index);
    return status;
}

static int trim_rows(Mq *m, const char *name, const Point *before, json_t *rows, int64_t *ret_records)
{
    int32_t n;
    bool *chosen;
    int64_t *start, *end, *at;
    int r = topic_partitions(m, name, &n);

    r = r ? r : partition_list(m, opt(m, "partition"), n, &chosen);
    if (r != 0)
        return r;
    start = mq_alloc(m, (size_t)MAX(n, 1) * sizeof *start);
    end = mq_alloc(m, (size_t)MAX(n, 1) * sizeof *end);
    at = mq_alloc(m, (size_t)MAX(n, 1) * sizeof *at);
    r = topic_offsets(m, name, OFFSETS_EARLIEST, n, start);
    r = r ? r : topic_offsets(m, name, OFFSETS_LATEST, n, end);
    r = r || before->kind != POINT_TIME ? r : topic_offsets(m, name, before->n, n, at);
    for (int32_t i = 0; r == 0 && i < n; i++) {
        int64_t to = point_resolve(before, start[i], end[i], at[i]);
        json_t *row;

        if (to <= start[i] || (chosen != NULL && !chosen[i]))
            continue;
        row = json_object();
        doc_set(row, "partition", json_integer(i));
        doc_set(row, "start", json_integer(start[i]));
        doc_set(row, "before", json_integer(to));
        doc_set(row, "records", json_integer(to - start[i]));
        *ret_records += to - start[i];
        json_array_append_new(rows, row);
    }
    return r;
}

int topic_trim_run(Mq *m)
{
    static const Column columns[] = {{"PARTITION", "partition", COL_COUNT, false}, {"START", "start", COL_COUNT, false},
                                     {"NEW START", "before", COL_COUNT, false},   {"RECORDS", "records", COL_COUNT, false},
                                     {NULL, NULL, COL_TEXT, false}};
    const char *name = m->args[0], *text = opt(m, "before"), *why;
    json_t *doc = json_object(), *rows = json_array();
    int64_t records = 0;
    Point before;
    int r = 0, e;

    doc_set_text(doc, "topic", name);
    doc_set(doc, "partitions", rows);
    if (text == NULL)
        r = mq_fail(m, MQ_E_USAGE, "say up to where: --before 47, end, -100 or @-7d");
    else if (point_parse(text, clock_wall_ms(), &before, &why) < 0)
        r = mq_fail(m, MQ_E_USAGE, "--before %s: %s", text, why);
    r = r ? r : trim_rows(m, name, &before, rows, &records);
    if (r == 0 && records > 0 && !m->dry_run)
        r = mq_confirm(m, "%s: delete %lld records?", name, (long long)records);
    if (r == 0 && !m->dry_run)
        r = delete_records(m, name, rows);
    if (r != 0) {
        json_decref(doc);
        return r;
    }
    doc_set(doc, "records", json_integer(records));
    doc_set(doc, "dry_run", json_boolean(m->dry_run));
    e = output_rows(m, doc, "partitions", columns);
    return m->dry_run && records > 0 ? MQ_E_REFUSED : e;
}
