/* Entries of DescribeConfigs: sources, synonyms, filters, errors. */

#include <check.h>

#include "meta/config_describe.h"
#include "tests/meta/records.h"
#include "wire/error.h"

static MetaImage *image;
static Conf conf;
static Arena arena;
static ConfigDescribe describe;
static KDescribeConfigsResponseResults result;

static void apply(Buf b)
{
    ck_assert_int_eq(meta_apply(image, meta_index(image) + 1, b.data, b.size), 0);
    buf_deinit(&b);
}

static void setup(void)
{
    ck_assert_int_eq(meta_image_new(&image), 0);
    apply(rec_topic("orders", uuid_of(1)));
    apply(rec_config(2, "orders", "retention.ms", "5"));
    apply(rec_config(4, "", "log.retention.ms", "6"));
    conf_set(&conf, "log.retention.hours", "2", "leat.conf", 1);
    describe = (ConfigDescribe){.conf = &conf, .image = image, .node_id = 1, .synonyms = true, .documentation = true};
}

static void teardown(void)
{
    meta_image_free(image);
    conf_deinit(&conf);
    arena_deinit(&arena);
}

static void ask(int8_t type, const char *name, const char *key)
{
    KStr keys[1] = {k_str(key)};
    KDescribeConfigsRequestResources q = {.resource_type = type, .resource_name = k_str(name),
                                          .configuration_keys = {keys, key ? 1 : -1}};
    ck_assert_int_eq(config_describe(&describe, &q, &arena, &result), 0);
}

START_TEST(topic_value_with_all_synonyms)
{
    ask(2, "orders", "retention.ms");
    ck_assert_int_eq(result.error_code, 0);
    ck_assert_int_eq(result.configs.n, 1);
    const KDescribeConfigsResponseResultsConfigs *e = result.configs.items;
    ck_assert(k_str_equal(e->name, "retention.ms") && k_str_equal(e->value, "5"));
    ck_assert_int_eq(e->config_source, SOURCE_TOPIC);
    ck_assert_int_eq(e->config_type, CONFIG_LONG);
    ck_assert_int_gt(e->documentation.len, 10);
    static const struct {
        const char *name, *value;
        int source;
    } want[] = {{"retention.ms", "5", 1}, {"log.retention.ms", "6", 3}, {"log.retention.ms", "7200000", 4},
                {"log.retention.ms", "604800000", 5}};
    ck_assert_int_eq(e->synonyms.n, 4);
    for (int i = 0; i < 4; i++) {
        ck_assert(k_str_equal(e->synonyms.items[i].name, want[i].name));
        ck_assert(k_str_equal(e->synonyms.items[i].value, want[i].value));
        ck_assert_int_eq(e->synonyms.items[i].source, want[i].source);
    }
}
END_TEST

START_TEST(every_topic_key_is_listed)
{
    int topic_keys = 0;
    ask(2, "orders", NULL);
    for (size_t i = 0; config_key_at(i); i++)
        topic_keys += (config_key_at(i)->scope & CONFIG_SCOPE_TOPIC) && config_key_at(i)->fallback; /* of the ignored ones those of Kafka 4 */
    ck_assert_int_eq(result.configs.n, topic_keys);
    for (int32_t i = 0; i < result.configs.n; i++) {
        ck_assert_int_gt(result.configs.items[i].config_type, 0);
        ck_assert_int_ge(result.configs.items[i].value.len, 0);
    }
    apply(rec_config(2, "orders", "message.format.version", "2.8"));
    ask(2, "orders", NULL);
    ck_assert_int_eq(result.configs.n, topic_keys + 1);
    KCreateTopicsResponseTopics created = {0};
    ConfigView view = {.conf = &conf};
    ck_assert_int_eq(config_describe_created(&view, &arena, &created), 0);
    ck_assert_int_eq(created.configs.n, topic_keys);
}
END_TEST

START_TEST(broker_and_cluster_default)
{
    ask(4, "1", "num.partitions");
    ck_assert_int_eq(result.configs.n, 1);
    ck_assert(result.configs.items[0].read_only && k_str_equal(result.configs.items[0].value, "1"));
    ask(4, "1", "log.retention.ms");
    ck_assert(!result.configs.items[0].read_only && k_str_equal(result.configs.items[0].value, "6"));
    ck_assert_int_eq(result.configs.items[0].config_source, SOURCE_DYNAMIC_DEFAULT);
    ask(4, "1", "default.replication.factor");
    ck_assert(k_str_equal(result.configs.items[0].value, "1")); /* effective, not -1 */
    ask(4, "", NULL);
    ck_assert_int_eq(result.configs.n, 1);
    ck_assert(k_str_equal(result.configs.items[0].value, "6"));
    ask(4, "1", "zookeeper.connect");
    ck_assert_int_eq(result.configs.n, 0);
}
END_TEST

/* Tools show what they are told; null says that nothing is known. */
START_TEST(what_nobody_set_is_worked_out)
{
    static const char *const want[][2] = {{"node.id", "1"}, {"broker.id", "1"}, {"log.dirs", "/data/log"}};
    apply(rec_register(1, 9, ""));
    conf_set(&conf, "leat.data.dir", "/data", "leat.conf", 2);
    for (size_t i = 0; i < ARRAY_SIZE(want); i++) {
        ask(4, "1", want[i][0]);
        ck_assert_int_eq(result.configs.n, 1);
        ck_assert_msg(k_str_equal(result.configs.items[0].value, want[i][1]), "%s", want[i][0]);
    }
    const MetaEndpoint *e = &meta_broker(image, 1)->endpoints[0];
    char listener[400];
    (void)snprintf(listener, sizeof(listener), "%s://%s:%u", e->name, e->host, e->port);
    ask(4, "1", "advertised.listeners");
    ck_assert(k_str_equal(result.configs.items[0].value, listener));
    conf_set(&conf, "log.dirs", "/elsewhere", "leat.conf", 3);
    ask(4, "1", "log.dirs");
    ck_assert(k_str_equal(result.configs.items[0].value, "/elsewhere"));
    ck_assert_int_eq(result.configs.items[0].config_source, SOURCE_STATIC);
}
END_TEST

START_TEST(errors_are_per_resource)
{
    ask(2, "nothing", NULL);
    ck_assert_int_eq(result.error_code, K_UNKNOWN_TOPIC_OR_PARTITION);
    ask(2, "a/b", NULL);
    ck_assert_int_eq(result.error_code, K_INVALID_TOPIC_EXCEPTION);
    ask(4, "2", NULL);
    ck_assert_int_eq(result.error_code, K_INVALID_REQUEST);
    ask(8, "1", NULL);
    ck_assert_int_eq(result.error_code, K_INVALID_REQUEST);
    ck_assert_int_gt(result.error_message.len, 0);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("config_describe");
    TCase *t = tcase_create("all");
    tcase_add_checked_fixture(t, setup, teardown);
    tcase_add_test(t, topic_value_with_all_synonyms);
    tcase_add_test(t, every_topic_key_is_listed);
    tcase_add_test(t, broker_and_cluster_default);
    tcase_add_test(t, what_nobody_set_is_worked_out);
    tcase_add_test(t, errors_are_per_resource);
    suite_add_tcase(s, t);
    SRunner *r = srunner_create(s);
    srunner_run_all(r, CK_ENV);
    int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed != 0;
}
