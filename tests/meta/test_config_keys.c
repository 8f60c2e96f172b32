/* The catalogue holds what it promises; values, whole files, look-ups. */

#include <check.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "meta/config_catalog.h"
#include "meta/image_private.h"

static Conf parse(const char *text)
{
    Conf conf = {0};
    ConfError error;
    ck_assert_int_eq(conf_parse_buffer(&conf, "leat.conf", text, strlen(text), &error), 0);
    return conf;
}

static int check_text(const char *text, char *out, size_t size)
{
    Conf conf = parse(text);
    Buf buf = BUF_NULL;
    int errors = config_check(&conf, &buf);
    snprintf(out, size, "%.*s", (int)buf.size, buf.size ? (const char *)buf.data : "");
    buf_deinit(&buf);
    conf_deinit(&conf);
    return errors;
}

START_TEST(catalogue_is_sound)
{
    char out[CONFIG_VALUE_MAX], why[256] = "";
    for (size_t i = 0; i < config_catalog_size; i++) {
        const ConfigKey *k = &config_catalog[i];
        if (i > 0)
            ck_assert_msg(strcmp(config_catalog[i - 1].name, k->name) < 0, "order at %s", k->name);
        ck_assert_ptr_eq(config_key(k->name), k);
        ck_assert_msg(k->scope & (CONFIG_SCOPE_BROKER | CONFIG_SCOPE_TOPIC), "%s has no scope", k->name);
        ck_assert_msg(k->doc && strlen(k->doc) > 10, "%s has no text", k->name);
        if (k->scope & CONFIG_SCOPE_IGNORED)
            continue;
        if (k->fallback) {
            ck_assert_msg(config_normalize(k, k->fallback, out, sizeof(out), why, sizeof(why)) == 0, "%s: %s", k->name, why);
            ck_assert_msg(strcmp(out, k->fallback) == 0, "%s: default is not canonical: %s", k->name, out);
        }
        if (k->scope & CONFIG_SCOPE_TOPIC)
            ck_assert_msg(k->fallback, "topic key %s needs a default", k->name);
        if (k->broker_key) {
            const ConfigKey *b = config_key(k->broker_key);
            ConfigSource source;
            ConfigView view = {0};
            ck_assert_msg(b && (b->scope & CONFIG_SCOPE_BROKER), "%s: no broker key %s", k->name, k->broker_key);
            ck_assert_msg(b->type == k->type && b->unit == k->unit && b->min == k->min && b->max == k->max, "%s and %s differ",
                          k->name, k->broker_key);
            ck_assert_str_eq(config_view_topic(&view, k, &source), k->fallback); /* both defaults agree */
            ck_assert_int_eq(source, SOURCE_DEFAULT);
        }
    }
    ck_assert_ptr_null(config_key_at(config_catalog_size));
    ck_assert_ptr_null(config_key("nonsense"));
}
END_TEST

static const struct {
    const char *key, *value, *canonical; /* NULL: refused */
} values[] = {
    {"log.retention.ms", "7d", "604800000"},
    {"max.connections.per.ip.overrides", "10.0.0.1:5, ::1:0", "10.0.0.1:5,::1:0"},
    {"max.connections.per.ip.overrides", "", ""},
    {"max.connections.per.ip.overrides", "10.0.0.1", NULL},
    {"max.connections.per.ip.overrides", "::1:many", NULL},
    {"max.connections.per.ip.overrides", ":5", NULL},
    {"log.retention.ms", "-1", "-1"},
    {"log.retention.ms", "-2", NULL},
    {"log.retention.ms", "later", NULL},
    {"log.retention.hours", "7d", "168"},
    {"log.retention.hours", "90min", NULL},
    {"log.segment.bytes", "1GiB", "1073741824"},
    {"log.segment.bytes", "2GiB", NULL}, /* an int */
    {"log.segment.bytes", "13", NULL},
    {"log.segment.bytes", " 14 ", "14"},
    {"message.max.bytes", "64MiB", "67108864"},
    {"message.max.bytes", "67108865", NULL},
    {"allow.insecure", "yes", "true"},
    {"allow.insecure", "maybe", NULL},
    {"cleanup.policy", "compact , delete", "compact,delete"},
    {"cleanup.policy", "compact,compact", "compact"},
    {"cleanup.policy", "", NULL},
    {"cleanup.policy", "shred", NULL},
    {"compression.type", "gzip", "gzip"},
    {"compression.type", "GZIP", NULL},
    {"min.cleanable.dirty.ratio", "0.25", "0.25"},
    {"min.cleanable.dirty.ratio", "1.5", NULL},
    {"min.cleanable.dirty.ratio", "nan", NULL},
    {"disk.reserve", "5%", "5%"},
    {"disk.reserve", "101%", NULL},
    {"disk.reserve", "%", NULL},
    {"disk.reserve", "2G", "2147483648"},
    {"num.partitions", "0", NULL},
    {"num.partitions", "9999999999999999999999", NULL},
    {"flush.messages", "9223372036854775807", "9223372036854775807"},
};

START_TEST(value_is_normalized)
{
    char out[CONFIG_VALUE_MAX] = "untouched", why[256] = "";
    int r = config_normalize(config_key(values[_i].key), values[_i].value, out, sizeof(out), why, sizeof(why));
    ck_assert_msg((r == 0) == (values[_i].canonical != NULL), "%s=%s gave %d %s", values[_i].key, values[_i].value, r, why);
    if (r == 0)
        ck_assert_str_eq(out, values[_i].canonical);
    else
        ck_assert_msg(r == -EINVAL && why[0], "a refusal says why");
}
END_TEST

static const struct {
    const char *text;
    int errors;
    const char *says; /* part of the output; NULL: no output at all */
} files[] = {
    {"", 0, NULL},
    {"leat.node.id=3\n", 0, NULL},
    {"num.partitions=4\n", 0, NULL},
    {"log.retension.ms=4\n", 1, "leat.conf:1: error: unknown key log.retension.ms; did you mean log.retention.ms?"},
    {"completely.different.thing=4\n", 1, "leat.conf:1: error: unknown key completely.different.thing\n"},
    {"\nretention.ms=4\n", 1, "leat.conf:2: error: retention.ms is a topic key; the default of all topics is log.retention.ms"},
    {"zookeeper.connect=a:1\n", 0, "leat.conf:1: warning: zookeeper.connect is ignored: there is no ZooKeeper"},
    {"ssl.keystore.location=/x\n", 0, "warning: ssl.keystore.location is ignored: TLS does not exist yet"},
    {"num.partitions=x\nnum.partition=1\n", 2, "num.partitions: \"x\" is no number"},
    {"listeners=PLAINTEXT://0.0.0.0:9092\n", 1, "allow.insecure"},
    {"listeners=PLAINTEXT://:9092\nallow.insecure=yes\n", 0, NULL},
    {"listeners=PLAINTEXT://:9092,CONTROLLER://:9093\ncontroller.listener.names=CONTROLLER\nallow.insecure=yes\n", 0,
     "controller.listener.names is ignored"},
    {"listeners=SSL://127.0.0.1:9093\n", 1, "SSL needs SSL, which does not exist yet"},
    {"listeners=INSIDE://127.0.0.1:9093\n", 1, "no entry in listener.security.protocol.map"},
    {"listeners=INSIDE://127.0.0.1:9093\nlistener.security.protocol.map=INSIDE:PLAINTEXT\n", 0, NULL},
    {"listeners=PLAINTEXT://127.0.0.1:9092,OTHER://127.0.0.1:9092\nlistener.security.protocol.map=OTHER:PLAINTEXT\n", 1,
     "port 9092 is there twice"},
    {"listeners=127.0.0.1:9092\n", 1, "is not NAME://host:port"},
    {"listeners=PLAINTEXT://[::1]:9092\n", 0, NULL},
    {"listeners=PLAINTEXT://::1:9092\n", 1, "brackets"},
    {"advertised.listeners=PLAINTEXT://0.0.0.0:9092\n", 1, "need an address"},
    {"advertised.listeners=EXTERNAL://h:9092\nlistener.security.protocol.map=EXTERNAL:PLAINTEXT\n", 1, "no name in listeners"},
    {"node.id=1\nbroker.id=2\n", 1, "broker.id says 2 but node.id says 1"},
    {"group.min.session.timeout.ms=1h\n", 1, "is larger than group.max.session.timeout.ms"},
    {"message.max.bytes=2MiB\nlog.segment.bytes=1MiB\n", 0, "warning: message.max.bytes is larger than log.segment.bytes"},
    {"log.segment.bytes=1MiB\n", 0, "warning: message.max.bytes is larger"},
    {"log.segment.bytes=2MiB\n", 0, NULL},
    {"broker.session.timeout.ms=500\n", 1, "twice"},
    {"log.dirs=/a,/b\n", 1, "one directory"},
    {"min.insync.replicas=2\ndefault.replication.factor=1\n", 0, "warning: min.insync.replicas"},
    {"default.replication.factor=0\n", 1, "no number of replicas"},
};

START_TEST(file_is_checked)
{
    char out[2000];
    int errors = check_text(files[_i].text, out, sizeof(out));
    ck_assert_msg(errors == files[_i].errors, "%s-> %d errors, wanted %d: %s", files[_i].text, errors, files[_i].errors, out);
    if (files[_i].says)
        ck_assert_msg(strstr(out, files[_i].says), "%s-> %s", files[_i].text, out);
    else
        ck_assert_str_eq(out, "");
}
END_TEST

START_TEST(stand_in_keys_follow_kafkas_order)
{
    Conf conf = parse("");
    ck_assert_int_eq(config_i64(&conf, "log.retention.ms"), 168 * 3600000ll);
    ck_assert_int_eq(config_i64(&conf, "log.flush.interval.messages"), 1);
    ck_assert_int_eq(config_i64(&conf, "log.flush.interval.ms"), INT64_MAX);
    conf_set(&conf, "log.retention.hours", "1", "test", 1);
    ck_assert_int_eq(config_i64(&conf, "log.retention.ms"), 3600000);
    conf_set(&conf, "log.retention.minutes", "-1", "test", 1);
    ck_assert_int_eq(config_i64(&conf, "log.retention.ms"), -1);
    conf_set(&conf, "log.retention.ms", "5s", "test", 1);
    ck_assert_int_eq(config_i64(&conf, "log.retention.ms"), 5000);
    conf_set(&conf, "broker.id", "7", "test", 1);
    ck_assert_int_eq(config_i64(&conf, "node.id"), 7);
    conf_set(&conf, "rack", "r1", "test", 1);
    ck_assert_str_eq(config_text(&conf, "broker.rack"), "r1");
    ck_assert_ptr_null(config_text(&conf, "log.dirs"));
    conf_deinit(&conf);
}
END_TEST

START_TEST(sources_win_in_order)
{
    Conf conf = parse("");
    MetaConfigs topic = {0}, broker = {0}, cluster = {0};
    ConfigView view = {&conf, &topic, &broker, &cluster};
    const ConfigKey *key = config_key("retention.ms");
    ConfigSource source;
    ck_assert_str_eq(config_view_topic(&view, key, &source), "604800000");
    ck_assert_int_eq(source, SOURCE_DEFAULT);
    conf_set(&conf, "log.retention.hours", "2", "test", 1);
    ck_assert_str_eq(config_view_topic(&view, key, &source), "7200000");
    ck_assert_int_eq(source, SOURCE_STATIC);
    meta_configs_set(&cluster, k_str("log.retention.ms"), k_str("3"));
    ck_assert_str_eq(config_view_topic(&view, key, &source), "3");
    ck_assert_int_eq(source, SOURCE_DYNAMIC_DEFAULT);
    meta_configs_set(&broker, k_str("log.retention.ms"), k_str("2"));
    ck_assert_str_eq(config_view_topic(&view, key, &source), "2");
    ck_assert_int_eq(source, SOURCE_DYNAMIC_BROKER);
    meta_configs_set(&topic, k_str("retention.ms"), k_str("1"));
    ck_assert_str_eq(config_view_topic(&view, key, &source), "1");
    ck_assert_int_eq(source, SOURCE_TOPIC);
    meta_configs_set(&topic, k_str("cleanup.policy"), k_str("compact"));
    PlogConfig p;
    config_view_plog(&view, true, &p);
    ck_assert(p.internal && p.cleanup_compact && !p.cleanup_delete);
    ck_assert_int_eq(p.retention_ms, 1);
    ck_assert_int_eq(p.flush_messages, 1);
    meta_configs_set(&topic, k_str("retention.ms"), K_STR_NULL);
    ck_assert_str_eq(config_view_topic(&view, key, NULL), "2");
    meta_configs_clear(&topic);
    meta_configs_clear(&broker);
    meta_configs_clear(&cluster);
    conf_deinit(&conf);
}
END_TEST

START_TEST(plog_defaults_match_storage)
{
    PlogConfig a, b = PLOG_CONFIG_DEFAULT;
    config_plog(NULL, NULL, false, &a);
    ck_assert_int_eq(a.segment_bytes, b.segment_bytes);
    ck_assert_int_eq(a.segment_ms, b.segment_ms);
    ck_assert_int_eq(a.retention_ms, b.retention_ms);
    ck_assert_int_eq(a.retention_bytes, b.retention_bytes);
    ck_assert_int_eq(a.index_interval_bytes, b.index_interval_bytes);
    ck_assert_int_eq(a.segment_index_bytes, b.segment_index_bytes);
    ck_assert_int_eq(a.flush_messages, b.flush_messages);
    ck_assert_int_eq(a.flush_ms, b.flush_ms);
    ck_assert(a.cleanup_delete == b.cleanup_delete && a.cleanup_compact == b.cleanup_compact);
    ck_assert_int_eq(a.max_compaction_lag_ms, b.max_compaction_lag_ms);
    ck_assert_int_eq(a.delete_retention_ms, b.delete_retention_ms);
    ck_assert_int_eq(a.file_delete_delay_ms, b.file_delete_delay_ms);
}
END_TEST

START_TEST(disk_reserve_has_a_floor)
{
    Conf conf = parse("");
    ck_assert_int_eq(config_disk_reserve(&conf, 1000ll << 30), (1000ll << 30) / 100 * 5);
    ck_assert_int_eq(config_disk_reserve(&conf, 100 << 20), 64 << 20);
    conf_set(&conf, "disk.reserve", "1GiB", "test", 1);
    ck_assert_int_eq(config_disk_reserve(&conf, 100ll << 30), 1 << 30);
    conf_deinit(&conf);
}
END_TEST

START_TEST(topic_values_are_checked)
{
    char why[300];
    ck_assert_int_eq(config_check_topic("retention.ms", "7d", why, sizeof(why)), 0);
    ck_assert_int_eq(config_check_topic("log.retention.ms", "1", why, sizeof(why)), -EINVAL);
    ck_assert_str_eq(why, "Unknown topic config name: log.retention.ms");
    ck_assert_int_eq(config_check_topic("segment.bytes", "1", why, sizeof(why)), -EINVAL);
    ck_assert_int_eq(config_check_topic("remote.storage.enable", "true", why, sizeof(why)), -EINVAL);
    ck_assert_int_eq(config_check_topic("remote.storage.enable", "false", why, sizeof(why)), 0);
    ck_assert_int_eq(config_check_topic("message.format.version", "2.8", why, sizeof(why)), 0);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("config_keys");
    TCase *t = tcase_create("all");
    tcase_add_test(t, catalogue_is_sound);
    tcase_add_loop_test(t, value_is_normalized, 0, ARRAY_SIZE(values));
    tcase_add_loop_test(t, file_is_checked, 0, ARRAY_SIZE(files));
    tcase_add_test(t, stand_in_keys_follow_kafkas_order);
    tcase_add_test(t, sources_win_in_order);
    tcase_add_test(t, plog_defaults_match_storage);
    tcase_add_test(t, disk_reserve_has_a_floor);
    tcase_add_test(t, topic_values_are_checked);
    suite_add_tcase(s, t);
    SRunner *r = srunner_create(s);
    srunner_run_all(r, CK_ENV);
    int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed != 0;
}
