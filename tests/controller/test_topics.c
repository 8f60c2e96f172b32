/* CreateTopics, DeleteTopics, CreatePartitions, AlterConfigs, IncrementalAlterConfigs: each error of Kafka's contract. */

#include "tests/controller/cluster.h"

static Cluster c;

static void setup(void)
{
    cluster_open(&c);
    cluster_start(&c, 1);
}

static void teardown(void)
{
    cluster_close(&c);
}

/* ---- CreateTopics ---- */

typedef struct Create {
    const char *name;
    int32_t partitions;
    int16_t replicas;
    const char *config, *value; /* "-" = null value */
    const char *assignment;     /* "0:1 1:1" = partition:broker,broker ... */
    KafkaError error;
    const char *says;
} Create;

static const Create creates[] = {
    {"ok", 3, 1, NULL, NULL, NULL, 0, NULL},
    {"defaults", -1, -1, NULL, NULL, NULL, 0, NULL},
    {"a.b", 1, 1, "retention.ms", "7d", NULL, 0, NULL},
    {"", 1, 1, NULL, NULL, NULL, K_INVALID_TOPIC_EXCEPTION, "invalid"},
    {"..", 1, 1, NULL, NULL, NULL, K_INVALID_TOPIC_EXCEPTION, "invalid"},
    {"../etc", 1, 1, NULL, NULL, NULL, K_INVALID_TOPIC_EXCEPTION, "invalid"},
    {"there", 1, 1, NULL, NULL, NULL, K_TOPIC_ALREADY_EXISTS, "Topic 'there' already exists."},
    {"x_y", 1, 1, NULL, NULL, NULL, K_INVALID_TOPIC_EXCEPTION, "collides"}, /* x.y exists */
    {"t", 0, 1, NULL, NULL, NULL, K_INVALID_PARTITIONS, "non-positive"},
    {"t", -2, 1, NULL, NULL, NULL, K_INVALID_PARTITIONS, "non-positive"},
    {"t", 1, 0, NULL, NULL, NULL, K_INVALID_REPLICATION_FACTOR, "larger than 0"},
    {"t", 1, 3, NULL, NULL, NULL, K_INVALID_REPLICATION_FACTOR, "only 1 broker(s)"},
    {"t", 1, 200, NULL, NULL, NULL, K_INVALID_REPLICATION_FACTOR, "at most"},
    {"t", 1000000, 1, NULL, NULL, NULL, K_POLICY_VIOLATION, "Excessively"},
    {"t", INT32_MAX, 1, NULL, NULL, NULL, K_POLICY_VIOLATION, "Excessively"},
    {"t", 1, 1, "no.such.key", "1", NULL, K_INVALID_CONFIG, "Unknown topic config name: no.such.key"},
    {"t", 1, 1, "retention.ms", "soon", NULL, K_INVALID_CONFIG, "retention.ms"},
    {"t", 1, 1, "retention.ms", "-", NULL, K_INVALID_CONFIG, "Null value not supported"},
    {"t", 1, 1, "cleanup.policy", "shred", NULL, K_INVALID_CONFIG, "shred"},
    {"t", 1, 1, "message.format.version", "2.8", NULL, 0, NULL}, /* accepted and ignored */
    {"t", -1, -1, NULL, NULL, "0:1 1:1", 0, NULL},
    {"t", -1, -1, NULL, NULL, "1:1 0:1", 0, NULL}, /* any order */
    {"t", 2, -1, NULL, NULL, "0:1 1:1", K_INVALID_REQUEST, "numPartitions"},
    {"t", -1, 1, NULL, NULL, "0:1 1:1", K_INVALID_REQUEST, "replication factor"},
    {"t", -1, -1, NULL, NULL, "0:1 2:1", K_INVALID_REPLICA_ASSIGNMENT, "consecutive"},
    {"t", -1, -1, NULL, NULL, "0:1 0:1", K_INVALID_REPLICA_ASSIGNMENT, "consecutive"},
    {"t", -1, -1, NULL, NULL, "0:", K_INVALID_REPLICA_ASSIGNMENT, "empty"},
    {"t", -1, -1, NULL, NULL, "0:7", K_INVALID_REPLICA_ASSIGNMENT, "broker 7"},
    {"t", -1, -1, NULL, NULL, "0:1,1", K_INVALID_REPLICA_ASSIGNMENT, "more than once"},
    {"t", -1, -1, NULL, NULL, "0:2", K_INVALID_REPLICA_ASSIGNMENT, "fenced"},
    {"t", -1, -1, NULL, NULL, "0:1 1:1,2", K_INVALID_REPLICA_ASSIGNMENT, "consistent"},
    {"t", -1, -1, NULL, NULL, "0:2,1", 0, NULL}, /* one of them lives */
};

static int parse_assignment(const char *text, KCreateTopicsRequestTopicsAssignments *out, int32_t *brokers)
{
    int n = 0, used = 0;
    for (const char *p = text; p && *p;) {
        out[n].partition_index = (int32_t)strtol(p, NULL, 10);
        p = strchr(p, ':') + 1;
        out[n].broker_ids = (KInt32Array){brokers + used, 0};
        while (*p && *p != ' ') {
            brokers[used++] = *p++ - '0';
            out[n].broker_ids.n++;
            p += *p == ',';
        }
        p += *p == ' ';
        n++;
    }
    return n;
}

static KCreateTopicsResponseTopics create(const Create *w, bool validate_only, int16_t version)
{
    KCreateTopicsRequestTopicsAssignments as[8];
    int32_t brokers[16];
    KCreateTopicsRequestTopicsConfigs config = {.name = k_str(w->config)};
    KCreateTopicsRequestTopics t = {.name = k_str(w->name), .num_partitions = w->partitions, .replication_factor = w->replicas};
    KCreateTopicsRequest q = {.timeout_ms = 1000, .validate_only = validate_only};
    KCreateTopicsResponse a;
    config.value = w->value && strcmp(w->value, "-") == 0 ? K_STR_NULL : k_str(w->value);
    t.configs.items = &config;
    t.configs.n = w->config != NULL;
    t.assignments.items = as;
    t.assignments.n = parse_assignment(w->assignment, as, brokers);
    q.topics.items = &t;
    q.topics.n = 1;
    cluster_ask(&c, K_API_CREATE_TOPICS, version, &q, &a);
    ck_assert_int_eq(a.topics.n, 1);
    return a.topics.items[0];
}

START_TEST(create_topics)
{
    const Create *w = &creates[_i];
    cluster_register(&c, 2, 1, META_DIR_CLEAN); /* stays fenced */
    cluster_create(&c, "there", 1, 1);
    cluster_create(&c, "x.y", 1, 1);
    uint64_t index = meta_index(image_of(&c));
    for (int pass = 0; pass < 2; pass++) { /* validate_only makes every check and changes nothing */
        KCreateTopicsResponseTopics a = create(w, pass == 0, 7);
        ck_assert_msg(a.error_code == w->error, "%s: %d %.*s", w->name, a.error_code, MAX(a.error_message.len, 0), a.error_message.ptr);
        if (w->says)
            ck_assert_msg(memmem(a.error_message.ptr, (size_t)a.error_message.len, w->says, strlen(w->says)), "%.*s",
                          a.error_message.len, a.error_message.ptr);
        if (pass == 0 || w->error)
            ck_assert_uint_eq(meta_index(image_of(&c)), index);
        if (w->error) {
            ck_assert_int_eq(a.num_partitions, -1);
            continue;
        }
        ck_assert_int_gt(a.configs.n, 30); /* all of them */
        ck_assert_int_ge(a.num_partitions, 1);
        ck_assert_int_ge(a.replication_factor, 1);
        ck_assert(uuid_is_zero(&a.topic_id) == (pass == 0));
        if (pass == 1) {
            const MetaTopic *t = meta_topic(image_of(&c), w->name, strlen(w->name));
            ck_assert_int_eq(t->n_partitions, a.num_partitions);
            ck_assert(uuid_equal(&t->id, &a.topic_id));
            Uuid dir = dir_of(1, 0);
            for (int k = 0; k < t->partitions[0].n_replicas; k++)
                if (t->partitions[0].replicas[k] == 1)
                    ck_assert(uuid_equal(&t->partitions[0].directories[k], &dir));
        }
    }
    expect_invariants(&c);
}
END_TEST

START_TEST(old_versions_of_create)
{
    const Create w = {"v2", 2, 1, NULL, NULL, NULL, 0, NULL};
    for (int16_t v = 2; v <= 7; v++) {
        KCreateTopicsResponseTopics a = create(&w, true, v);
        ck_assert_int_eq(a.error_code, 0);
        ck_assert_int_eq(a.num_partitions, v >= 5 ? 2 : -1);
    }
}
END_TEST

START_TEST(values_are_recorded_canonically)
{
    const Create w = {"t", 1, 1, "retention.ms", "7d", NULL, 0, NULL};
    KCreateTopicsResponseTopics a = create(&w, false, 7);
    ck_assert_str_eq(meta_config_value(&meta_topic(image_of(&c), "t", 1)->configs, "retention.ms"), "604800000");
    int found = 0;
    for (int32_t i = 0; i < a.configs.n; i++)
        if (k_str_equal(a.configs.items[i].name, "retention.ms")) {
            found++;
            ck_assert(k_str_equal(a.configs.items[i].value, "604800000"));
            ck_assert_int_eq(a.configs.items[i].config_source, SOURCE_TOPIC);
        }
    ck_assert_int_eq(found, 1);
}
END_TEST

START_TEST(several_topics_in_one_request)
{
    KCreateTopicsRequestTopics t[5] = {{.name = k_str("good")}, {.name = k_str("twice")}, {.name = k_str("twice")},
                                       {.name = k_str("a.b")},  {.name = k_str("a_b")}};
    KCreateTopicsRequest q = {.timeout_ms = 1};
    KCreateTopicsResponse a;
    for (int i = 0; i < 5; i++) {
        t[i].num_partitions = 1;
        t[i].replication_factor = 1;
    }
    q.topics.items = t;
    q.topics.n = 5;
    cluster_ask(&c, K_API_CREATE_TOPICS, 7, &q, &a);
    ck_assert_int_eq(a.topics.n, 4); /* one answer for each name */
    static const int errors[] = {0, K_INVALID_REQUEST, 0, K_INVALID_TOPIC_EXCEPTION};
    for (int i = 0; i < 4; i++)
        ck_assert_int_eq(a.topics.items[i].error_code, errors[i]);
    ck_assert_uint_eq(meta_topics(image_of(&c)), 2);
    ck_assert_ptr_null(meta_topic(image_of(&c), "twice", 5));
}
END_TEST

START_TEST(rights_of_creation)
{
    static const struct {
        int32_t rights;
        const char *name;
        KafkaError error;
    } rows[] = {{1, "t", K_TOPIC_AUTHORIZATION_FAILED},
                {1 | CTL_RIGHT_CREATE, "t", 0},
                {CTL_RIGHT_ADMIN, "u", 0},
                {1 | CTL_RIGHT_CREATE, META_TOPIC_OFFSETS, K_TOPIC_AUTHORIZATION_FAILED},
                {CTL_RIGHT_INTERNAL, META_TOPIC_OFFSETS, 0}};
    for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
        c.rights = rows[i].rights;
        ck_assert_int_eq(cluster_create(&c, rows[i].name, -1, -1).error_code, rows[i].error);
    }
}
END_TEST

START_TEST(internal_topics_get_their_configs)
{
    conf_set(&c.conf, "offsets.topic.num.partitions", "4", "test", 1);
    ck_assert_int_eq(cluster_create(&c, META_TOPIC_OFFSETS, -1, -1).error_code, 0);
    ck_assert_int_eq(cluster_create(&c, META_TOPIC_TRANSACTIONS, -1, -1).error_code, 0);
    const MetaTopic *t = meta_topic(image_of(&c), META_TOPIC_OFFSETS, strlen(META_TOPIC_OFFSETS));
    ck_assert_int_eq(t->n_partitions, 4);
    ck_assert_int_eq(t->partitions[0].n_replicas, 1); /* 3 wanted, 1 lives */
    ck_assert_str_eq(meta_config_value(&t->configs, "cleanup.policy"), "compact");
    ck_assert_str_eq(meta_config_value(&t->configs, "segment.bytes"), "104857600");
    t = meta_topic(image_of(&c), META_TOPIC_TRANSACTIONS, strlen(META_TOPIC_TRANSACTIONS));
    ck_assert_int_eq(t->n_partitions, 50);
    ck_assert_str_eq(meta_config_value(&t->configs, "min.insync.replicas"), "1");
}
END_TEST

START_TEST(defaults_follow_the_live_brokers)
{
    for (int i = 2; i <= 6; i++) {
        ck_assert_int_eq(cluster_create(&c, "t", -1, -1).replication_factor, MIN(i - 1, 3)); /* D29 */
        KDeleteTopicsRequest q = {.topic_names = {(KStr[]){k_str("t")}, 1}};
        KDeleteTopicsResponse a;
        cluster_ask(&c, K_API_DELETE_TOPICS, 4, &q, &a);
        ck_assert_int_eq(a.responses.items[0].error_code, 0);
        cluster_start(&c, i);
    }
    conf_set(&c.conf, "num.partitions", "10", "test", 1);
    ck_assert_int_eq(cluster_create(&c, "t", -1, 3).num_partitions, 10);
    int replicas[7] = {0};
    for (int p = 0; p < 10; p++)
        for (int k = 0; k < 3; k++)
            replicas[part(&c, "t", p)->replicas[k]]++;
    for (int b = 1; b <= 6; b++)
        ck_assert_int_eq(replicas[b], 5);
    conf_set(&c.conf, "min.insync.replicas", "3", "test", 1); /* somebody's number stands */
    cluster_create(&c, "u", 1, 3);
    ck_assert_ptr_null(meta_config_value(&meta_topic(image_of(&c), "u", 1)->configs, "min.insync.replicas"));
}
END_TEST

START_TEST(fenced_brokers_get_replicas_only_in_need)
{
    cluster_start(&c, 2);
    cluster_register(&c, 3, 1, META_DIR_CLEAN);
    ck_assert_int_eq(cluster_create(&c, "two", 6, 2).error_code, 0);
    for (int p = 0; p < 6; p++)
        for (int k = 0; k < 2; k++)
            ck_assert_int_ne(part(&c, "two", p)->replicas[k], 3);
    ck_assert_int_eq(cluster_create(&c, "three", 6, 3).error_code, 0);
    for (int p = 0; p < 6; p++)
        ck_assert_int_eq(part(&c, "three", p)->n_isr, 2);
    expect_invariants(&c);
    ctl_broker_died(c.ctl, 1, &c.out);
    cluster_apply(&c);
    ctl_broker_died(c.ctl, 2, &c.out);
    cluster_apply(&c);
    ck_assert_int_eq(cluster_create(&c, "none", 1, 1).error_code, K_INVALID_REPLICATION_FACTOR);
}
END_TEST

/* 2,000 topics with marked names in one request: bounded work, unique ids. */
START_TEST(large_request)
{
    enum { N = 2000 };
    KCreateTopicsRequestTopics *t = calloc(N, sizeof(*t));
    char(*names)[16] = calloc(N, sizeof(*names));
    KCreateTopicsRequest q = {.timeout_ms = 1};
    KCreateTopicsResponse a;
    for (int i = 0; i < N; i++) {
        snprintf(names[i], sizeof(names[i]), "t.%d", i);
        t[i] = (KCreateTopicsRequestTopics){.name = k_str(names[i]), .num_partitions = 2, .replication_factor = 1};
    }
    q.topics.items = t;
    q.topics.n = N;
    cluster_ask(&c, K_API_CREATE_TOPICS, 4, &q, &a);
    ck_assert_uint_eq(meta_topics(image_of(&c)), N);
    ck_assert_uint_eq(meta_partitions(image_of(&c)), 2 * N);
    free(t);
    free(names);
}
END_TEST

/* ---- DeleteTopics ---- */

START_TEST(delete_topics)
{
    cluster_create(&c, "a", 1, 1);
    cluster_create(&c, "b", 1, 1);
    Uuid b_id = meta_topic(image_of(&c), "b", 1)->id;
    KDeleteTopicsRequestTopics t[7] = {{.name = k_str("a")},   {.name = K_STR_NULL, .topic_id = b_id},
                                       {.name = k_str("b")},   {.name = K_STR_NULL, .topic_id = {{7}}},
                                       {.name = k_str("nope")}, {.name = K_STR_NULL},
                                       {.name = k_str("a"), .topic_id = b_id}};
    static const int errors[] = {0, K_INVALID_REQUEST, K_INVALID_REQUEST, K_UNKNOWN_TOPIC_ID, K_UNKNOWN_TOPIC_OR_PARTITION, K_INVALID_REQUEST,
                                 K_INVALID_REQUEST};
    KDeleteTopicsRequest q = {0};
    KDeleteTopicsResponse a;
    q.topics.items = t;
    q.topics.n = 7;
    conf_set(&c.conf, "delete.topic.enable", "false", "test", 1);
    cluster_ask(&c, K_API_DELETE_TOPICS, 6, &q, &a);
    ck_assert_int_eq(a.responses.items[0].error_code, K_TOPIC_DELETION_DISABLED);
    conf_set(&c.conf, "delete.topic.enable", "true", "test", 1);
    c.rights = 1 | CTL_RIGHT_CREATE;
    cluster_ask(&c, K_API_DELETE_TOPICS, 6, &q, &a);
    ck_assert_int_eq(a.responses.items[0].error_code, K_TOPIC_AUTHORIZATION_FAILED);
    ck_assert_int_eq(a.responses.items[1].name.len, -1); /* an id is not told its name */
    ck_assert_uint_eq(meta_topics(image_of(&c)), 2);
    c.rights = ALL_RIGHTS;
    cluster_ask(&c, K_API_DELETE_TOPICS, 6, &q, &a);
    ck_assert_int_eq(a.responses.n, 7);
    for (int i = 0; i < 7; i++)
        ck_assert_int_eq(a.responses.items[i].error_code, errors[i]);
    ck_assert_uint_eq(meta_topics(image_of(&c)), 1); /* what is named twice stays */
    KDeleteTopicsRequestTopics twice[2] = {{.name = k_str("b")}, {.name = k_str("b")}};
    q.topics.items = twice;
    q.topics.n = 2;
    cluster_ask(&c, K_API_DELETE_TOPICS, 6, &q, &a);
    ck_assert_int_eq(a.responses.items[0].error_code, K_INVALID_REQUEST);
    ck_assert_int_eq(a.responses.items[1].error_code, K_INVALID_REQUEST);
    ck_assert_uint_eq(meta_topics(image_of(&c)), 1);
    q.topics.items = &t[1];
    q.topics.n = 1;
    cluster_ask(&c, K_API_DELETE_TOPICS, 6, &q, &a);
    ck_assert(k_str_equal(a.responses.items[0].name, "b"));
    ck_assert_uint_eq(meta_topics(image_of(&c)), 0);
    ck_assert_int_eq(cluster_create(&c, "a", 1, 1).error_code, 0); /* a new life with a new id (C15) */
    Uuid first = meta_topic(image_of(&c), "a", 1)->id;
    ck_assert(!uuid_equal(&first, &b_id));
}
END_TEST

/* ---- CreatePartitions ---- */

static KCreatePartitionsResponseResults grow(const char *name, int32_t count, const char *assignment, bool validate_only)
{
    KCreateTopicsRequestTopicsAssignments parsed[8];
    KCreatePartitionsRequestTopicsAssignments as[8];
    int32_t brokers[16];
    KCreatePartitionsRequestTopics t = {.name = k_str(name), .count = count};
    KCreatePartitionsRequest q = {.timeout_ms = 1, .validate_only = validate_only};
    KCreatePartitionsResponse a;
    int n = parse_assignment(assignment, parsed, brokers);
    for (int i = 0; i < n; i++)
        as[i].broker_ids = parsed[i].broker_ids;
    t.assignments.items = as;
    t.assignments.n = assignment ? n : -1;
    q.topics.items = &t;
    q.topics.n = 1;
    cluster_ask(&c, K_API_CREATE_PARTITIONS, 3, &q, &a);
    ck_assert_int_eq(a.results.n, 1);
    return a.results.items[0];
}

START_TEST(create_partitions)
{
    cluster_start(&c, 2);
    cluster_create(&c, "t", 3, 2);
    ck_assert_int_eq(grow("nope", 5, NULL, false).error_code, K_UNKNOWN_TOPIC_OR_PARTITION);
    ck_assert_int_eq(grow("t", 3, NULL, false).error_code, K_INVALID_PARTITIONS);
    ck_assert_int_eq(grow("t", 2, NULL, false).error_code, K_INVALID_PARTITIONS);
    ck_assert_int_eq(grow("t", -1, NULL, false).error_code, K_INVALID_PARTITIONS);
    ck_assert_int_eq(grow("t", INT32_MAX, NULL, false).error_code, K_POLICY_VIOLATION);
    ck_assert_int_eq(grow("t", 5, "0:1,2", false).error_code, K_INVALID_REPLICA_ASSIGNMENT);
    ck_assert_int_eq(grow("t", 4, "0:1", false).error_code, K_INVALID_REPLICA_ASSIGNMENT); /* another number of replicas */
    ck_assert_int_eq(grow("t", 4, "0:1,9", false).error_code, K_INVALID_REPLICA_ASSIGNMENT);
    ck_assert_int_eq(grow("t", 5, NULL, true).error_code, 0);
    ck_assert_int_eq(meta_topic(image_of(&c), "t", 1)->n_partitions, 3);
    ck_assert_int_eq(grow("t", 5, "0:2,1 1:1,2", false).error_code, 0);
    ck_assert_int_eq(part(&c, "t", 3)->leader, 2);
    ck_assert_int_eq(grow("t", 8, NULL, false).error_code, 0);
    int leaders[3] = {0};
    for (int p = 0; p < 8; p++)
        leaders[part(&c, "t", p)->replicas[0]]++;
    ck_assert_int_eq(leaders[1], 4); /* growth keeps the spread of the whole topic */
    ck_assert_int_eq(cluster_create(&c, META_TOPIC_OFFSETS, 4, 1).error_code, 0);
    ck_assert_int_eq(grow(META_TOPIC_OFFSETS, 5, NULL, false).error_code, K_INVALID_REQUEST); /* groups are found by their number */
    c.rights = 1 | CTL_RIGHT_CREATE;
    ck_assert_int_eq(grow("t", 9, NULL, false).error_code, K_TOPIC_AUTHORIZATION_FAILED);
    expect_invariants(&c);
}
END_TEST

/* ---- configs ---- */

enum { SET, DELETE, APPEND, SUBTRACT };

START_TEST(incremental_alter_configs)
{
    static const struct {
        int8_t type;
        const char *name, *key;
        int8_t op;
        const char *value;
        KafkaError error;
        const char *after; /* recorded value, NULL none */
    } rows[] = {
        {2, "t", "retention.ms", SET, "1h", 0, "3600000"},
        {2, "t", "retention.ms", SET, "never", K_INVALID_CONFIG, "3600000"},
        {2, "t", "retention.ms", APPEND, "1", K_INVALID_CONFIG, "3600000"},
        {2, "t", "retention.ms", SET, NULL, K_INVALID_REQUEST, "3600000"},
        {2, "t", "retention.ms", DELETE, NULL, 0, NULL},
        {2, "t", "retention.ms", DELETE, NULL, 0, NULL},
        {2, "t", "cleanup.policy", APPEND, "compact", 0, "delete,compact"}, /* the default, then one more */
        {2, "t", "cleanup.policy", APPEND, "compact", 0, "delete,compact"},
        {2, "t", "cleanup.policy", SUBTRACT, "delete", 0, "compact"},
        {2, "t", "cleanup.policy", SUBTRACT, "compact", K_INVALID_CONFIG, "compact"}, /* none would be left */
        {2, "t", "cleanup.policy", 9, "compact", K_INVALID_REQUEST, "compact"},
        {2, "t", "log.retention.ms", SET, "1", K_INVALID_CONFIG, NULL},
        {2, "t", "", SET, "1", K_INVALID_CONFIG, NULL},
        {2, "nope", "retention.ms", SET, "1", K_UNKNOWN_TOPIC_OR_PARTITION, NULL},
        {4, "", "log.retention.ms", SET, "2h", 0, "7200000"},
        {4, "1", "log.retention.ms", SET, "1", 0, "1"},
        {4, "1", "retention.ms", SET, "1", K_INVALID_CONFIG, NULL},
        {4, "1", "node.id", SET, "1", K_INVALID_CONFIG, NULL},
        {4, "8", "log.retention.ms", SET, "1", K_BROKER_ID_NOT_REGISTERED, "7200000"},
        {4, "x", "log.retention.ms", SET, "1", K_INVALID_REQUEST, "7200000"},
        {8, "1", "x", SET, "1", K_INVALID_REQUEST, NULL},
    };
    cluster_create(&c, "t", 1, 1);
    for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
        KafkaError e = cluster_set(&c, rows[i].type, rows[i].name, rows[i].key, rows[i].op, rows[i].value);
        ck_assert_msg(e == rows[i].error, "row %zu: %d", i, e);
        const MetaConfigs *configs = rows[i].type == 2 ? &meta_topic(image_of(&c), "t", 1)->configs
                                                       : meta_broker_configs(image_of(&c), rows[i].name[0] == '1' ? 1 : -1);
        const char *v = configs ? meta_config_value(configs, rows[i].key) : NULL;
        ck_assert_msg((!v && !rows[i].after) || (v && rows[i].after && strcmp(v, rows[i].after) == 0), "row %zu: %s", i, v ? v : "none");
    }
    cluster_set(&c, 2, "t", "segment.bytes", SET, "2000000");
    cluster_set(&c, 2, "t", "segment.bytes", SET, "2000000");
    ck_assert_uint_eq(c.out.n_records, 0); /* what is recorded already */
    c.rights = 1 | CTL_RIGHT_CREATE;
    ck_assert_int_eq(cluster_set(&c, 2, "t", "segment.bytes", SET, "1000000"), K_TOPIC_AUTHORIZATION_FAILED);
    ck_assert_int_eq(cluster_set(&c, 4, "", "log.retention.ms", SET, "1"), K_CLUSTER_AUTHORIZATION_FAILED);
}
END_TEST

/* One bad config spoils its resource, not the others; a resource or key twice is an error. */
START_TEST(resources_are_atomic_alone)
{
    KIncrementalAlterConfigsRequestResourcesConfigs good[2] = {{.name = k_str("retention.ms"), .value = k_str("1")},
                                                               {.name = k_str("segment.bytes"), .value = k_str("5000")}};
    KIncrementalAlterConfigsRequestResourcesConfigs bad[2] = {{.name = k_str("retention.ms"), .value = k_str("1")},
                                                              {.name = k_str("segment.bytes"), .value = k_str("x")}};
    KIncrementalAlterConfigsRequestResourcesConfigs twice[2] = {{.name = k_str("retention.ms"), .value = k_str("1")},
                                                                {.name = k_str("retention.ms"), .value = k_str("2")}};
    KIncrementalAlterConfigsRequestResources r[5] = {{.resource_type = 2, .resource_name = k_str("a")},
                                                     {.resource_type = 2, .resource_name = k_str("b")},
                                                     {.resource_type = 2, .resource_name = k_str("d")},
                                                     {.resource_type = 2, .resource_name = k_str("e")},
                                                     {.resource_type = 2, .resource_name = k_str("e")}};
    static const int errors[] = {0, K_INVALID_CONFIG, K_INVALID_REQUEST, K_INVALID_REQUEST, K_INVALID_REQUEST};
    KIncrementalAlterConfigsRequest q = {.validate_only = true};
    KIncrementalAlterConfigsResponse a;
    for (int i = 0; i < 4; i++)
        cluster_create(&c, (const char *[]){"a", "b", "d", "e"}[i], 1, 1);
    r[0].configs.items = r[3].configs.items = r[4].configs.items = good;
    r[1].configs.items = bad;
    r[2].configs.items = twice;
    for (int i = 0; i < 5; i++)
        r[i].configs.n = 2;
    q.resources.items = r;
    q.resources.n = 5;
    uint64_t index = meta_index(image_of(&c));
    for (int pass = 0; pass < 2; pass++) {
        q.validate_only = pass == 0;
        cluster_ask(&c, K_API_INCREMENTAL_ALTER_CONFIGS, 1, &q, &a);
        ck_assert_int_eq(a.responses.n, 5);
        for (int i = 0; i < 5; i++)
            ck_assert_int_eq(a.responses.items[i].error_code, errors[i]);
        if (pass == 0)
            ck_assert_uint_eq(meta_index(image_of(&c)), index);
    }
    ck_assert_uint_eq(meta_index(image_of(&c)), index + 2);
    ck_assert_ptr_null(meta_config_value(&meta_topic(image_of(&c), "b", 1)->configs, "retention.ms"));
}
END_TEST

START_TEST(alter_configs_replaces_the_set)
{
    KAlterConfigsRequestResourcesConfigs config = {.name = k_str("segment.bytes"), .value = k_str("5000")};
    KAlterConfigsRequestResources r = {.resource_type = 2, .resource_name = k_str("t")};
    KAlterConfigsRequest q = {0};
    KAlterConfigsResponse a;
    cluster_create(&c, "t", 1, 1);
    cluster_set(&c, 2, "t", "retention.ms", SET, "1");
    r.configs.items = &config;
    r.configs.n = 1;
    q.resources.items = &r;
    q.resources.n = 1;
    q.validate_only = true;
    cluster_ask(&c, K_API_ALTER_CONFIGS, 2, &q, &a);
    ck_assert_int_eq(a.responses.items[0].error_code, 0);
    ck_assert_uint_eq(c.out.n_records, 0);
    q.validate_only = false;
    cluster_ask(&c, K_API_ALTER_CONFIGS, 0, &q, &a);
    const MetaConfigs *configs = &meta_topic(image_of(&c), "t", 1)->configs;
    ck_assert_uint_eq(configs->n, 1);
    ck_assert_str_eq(meta_config_value(configs, "segment.bytes"), "5000");
    config.value = K_STR_NULL;
    cluster_ask(&c, K_API_ALTER_CONFIGS, 2, &q, &a);
    ck_assert_int_eq(a.responses.items[0].error_code, K_INVALID_REQUEST);
    ck_assert_uint_eq(c.out.n_records, 0);
}
END_TEST

/* Any bytes as a body: an error or an answer, never a record that does not apply. */
START_TEST(noise_is_refused)
{
    static const int16_t keys[] = {19, 20, 33, 37, 44, 1001, 1002, 1003, 1004};
    Rng rng;
    uint8_t body[64];
    rng_init(&rng, 3);
    cluster_create(&c, "t", 1, 1);
    for (int i = 0; i < 20000; i++) {
        size_t size = rng_below(&rng, sizeof(body));
        for (size_t k = 0; k < size; k++)
            body[k] = rng_below(&rng, 3) ? (uint8_t)rng_below(&rng, 4) : (uint8_t)rng_next(&rng);
        int16_t key = keys[rng_below(&rng, ARRAY_SIZE(keys))];
        const KApi *api = k_api_find(key);
        CtlRequest q = {.api_key = key, .api_version = (int16_t)rng_below(&rng, (uint64_t)api->version_max + 1), .rights = 15,
                        .body = body, .size = size, .now_ms = c.now_ms};
        if (ctl_decide(c.ctl, &q, &c.out) == 0)
            cluster_apply(&c);
    }
    CtlRequest unknown = {.api_key = 3, .api_version = 9, .body = body};
    ck_assert_int_eq(ctl_decide(c.ctl, &unknown, &c.out), -EOPNOTSUPP);
    expect_invariants(&c);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("topics");
    TCase *t = tcase_create("all");
    tcase_add_checked_fixture(t, setup, teardown);
    tcase_add_loop_test(t, create_topics, 0, ARRAY_SIZE(creates));
    tcase_add_test(t, old_versions_of_create);
    tcase_add_test(t, values_are_recorded_canonically);
    tcase_add_test(t, several_topics_in_one_request);
    tcase_add_test(t, rights_of_creation);
    tcase_add_test(t, internal_topics_get_their_configs);
    tcase_add_test(t, defaults_follow_the_live_brokers);
    tcase_add_test(t, fenced_brokers_get_replicas_only_in_need);
    tcase_add_test(t, large_request);
    tcase_add_test(t, delete_topics);
    tcase_add_test(t, create_partitions);
    tcase_add_test(t, incremental_alter_configs);
    tcase_add_test(t, resources_are_atomic_alone);
    tcase_add_test(t, alter_configs_replaces_the_set);
    tcase_add_test(t, noise_is_refused);
    suite_add_tcase(s, t);
    SRunner *r = srunner_create(s);
    srunner_run_all(r, CK_ENV);
    int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed != 0;
}
