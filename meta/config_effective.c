/*
 * Which value counts: topic config > dynamic config of the broker > of the cluster > leat.conf > catalogue; and Kafka's keys
 * that stand in for each other (.ms, .minutes, .hours). Reads checked configurations; a value that fails its check after
 * all counts as unset.
 */

#include "meta/config_keys.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define TURN_BUFFERS 16
#define TURN_SIZE    1024

/* `key` unset: `other` times `factor` counts (a negative value stays). In order. */
static const struct {
    const char *key, *other;
    int64_t factor;
} stand_ins[] = {
    {"broker.rack",           "rack",                            0      },
    {"log.dirs",              "log.dir",                         0      },
    {"log.flush.interval.ms", "log.flush.scheduler.interval.ms", 1      },
    {"log.retention.ms",      "log.retention.minutes",           60000  },
    {"log.retention.ms",      "log.retention.hours",             3600000},
    {"log.roll.jitter.ms",    "log.roll.jitter.hours",           3600000},
    {"log.roll.ms",           "log.roll.hours",                  3600000},
    {"node.id",               "broker.id",                       1      },
};

static char *turn_buffer(void)
{
    static _Thread_local char buffers[TURN_BUFFERS][TURN_SIZE];
    static _Thread_local unsigned next;
    return buffers[next++ % TURN_BUFFERS];
}

/* The canonical form of raw text: raw itself where it is canonical, else a buffer in turn. NULL: not sound. */
static const char *canonical(const ConfigKey *key, const char *raw)
{
    char why[1], out[CONFIG_VALUE_MAX];
    if (config_normalize(key, raw, out, sizeof(out), why, sizeof(why)) < 0)
        return NULL;
    if (strcmp(raw, out) == 0 || strlen(out) >= TURN_SIZE) /* such long values are lists, whose blanks do no harm */
        return raw;
    char *b = turn_buffer();
    memcpy(b, out, strlen(out) + 1);
    return b;
}

static const char *file_value(const Conf *conf, const ConfigKey *key)
{
    const char *raw = conf ? conf_get(conf, key->name, NULL) : NULL;
    return raw ? canonical(key, raw) : NULL;
}

static const char *scaled(const char *value, int64_t factor)
{
    int64_t v;
    if (factor == 0 || factor == 1 || parse_i64(value, &v) < 0)
        return value;
    char *b = turn_buffer();
    snprintf(b, TURN_SIZE, "%" PRId64, v < 0 ? -1 : v > INT64_MAX / factor ? INT64_MAX : v * factor);
    return b;
}

/* In leat.conf, under the key's own name or one that stands in for it. */
static const char *static_value(const Conf *conf, const ConfigKey *key)
{
    const char *v = file_value(conf, key);
    for (size_t i = 0; i < ARRAY_SIZE(stand_ins) && !v; i++)
        if (strcmp(stand_ins[i].key, key->name) == 0) {
            const char *other = file_value(conf, config_key(stand_ins[i].other));
            v = other ? scaled(other, stand_ins[i].factor) : NULL;
        }
    return v;
}

static const char *default_value(const ConfigKey *key)
{
    if (key->fallback)
        return key->fallback;
    for (size_t i = 0; i < ARRAY_SIZE(stand_ins); i++) {
        const ConfigKey *other = strcmp(stand_ins[i].key, key->name) == 0 ? config_key(stand_ins[i].other) : NULL;
        if (other && other->fallback)
            return scaled(other->fallback, stand_ins[i].factor);
    }
    return NULL;
}

static const char *put_source(const char *value, ConfigSource source, ConfigSource *ret)
{
    if (ret)
        *ret = source;
    return value;
}

static const char *dynamic_value(const MetaConfigs *configs, const char *name)
{
    return configs ? meta_config_value(configs, name) : NULL;
}

const char *config_view_broker(const ConfigView *view, const ConfigKey *key, ConfigSource *ret_source)
{
    const char *v;
    if ((v = dynamic_value(view->broker, key->name)))
        return put_source(v, SOURCE_DYNAMIC_BROKER, ret_source);
    if ((v = dynamic_value(view->cluster, key->name)))
        return put_source(v, SOURCE_DYNAMIC_DEFAULT, ret_source);
    if ((v = static_value(view->conf, key)))
        return put_source(v, SOURCE_STATIC, ret_source);
    /* node.id=1 is a default, broker.id=7 in the file is not: static_value() has looked at both */
    return put_source(default_value(key), SOURCE_DEFAULT, ret_source);
}

const char *config_view_topic(const ConfigView *view, const ConfigKey *key, ConfigSource *ret_source)
{
    const char *v = dynamic_value(view->topic, key->name);
    if (v)
        return put_source(v, SOURCE_TOPIC, ret_source);
    if (!key->broker_key)
        return put_source(key->fallback, SOURCE_DEFAULT, ret_source);
    const ConfigKey *broker_key = config_key(key->broker_key);
    assert(broker_key);
    return config_view_broker(view, broker_key, ret_source);
}

int64_t config_view_topic_i64(const ConfigView *view, const char *name)
{
    const ConfigKey *key = config_key(name);
    int64_t v = 0;
    assert(key && (key->scope & CONFIG_SCOPE_TOPIC));
    const char *text = config_view_topic(view, key, NULL);
    if (!text || parse_i64(text, &v) < 0)
        (void)parse_i64(key->fallback, &v); /* the catalogue is sound: its test says so */
    return v;
}

static double view_double(const ConfigView *view, const char *name)
{
    const char *text = config_view_topic(view, config_key(name), NULL);
    return strtod(text, NULL);
}

void config_view_plog(const ConfigView *view, bool internal, PlogConfig *ret)
{
    const char *policy = config_view_topic(view, config_key("cleanup.policy"), NULL);
    *ret = (PlogConfig){
        .segment_bytes = config_view_topic_i64(view, "segment.bytes"),
        .segment_ms = config_view_topic_i64(view, "segment.ms"),
        .segment_jitter_ms = config_view_topic_i64(view, "segment.jitter.ms"),
        .retention_ms = config_view_topic_i64(view, "retention.ms"),
        .retention_bytes = config_view_topic_i64(view, "retention.bytes"),
        .index_interval_bytes = (int32_t)config_view_topic_i64(view, "index.interval.bytes"),
        .segment_index_bytes = (int32_t)config_view_topic_i64(view, "segment.index.bytes"),
        .flush_messages = config_view_topic_i64(view, "flush.messages"),
        .flush_ms = config_view_topic_i64(view, "flush.ms"),
        .cleanup_delete = config_list_has(policy, "delete"),
        .cleanup_compact = config_list_has(policy, "compact"),
        .min_cleanable_dirty_ratio = view_double(view, "min.cleanable.dirty.ratio"),
        .min_compaction_lag_ms = config_view_topic_i64(view, "min.compaction.lag.ms"),
        .max_compaction_lag_ms = config_view_topic_i64(view, "max.compaction.lag.ms"),
        .delete_retention_ms = config_view_topic_i64(view, "delete.retention.ms"),
        .file_delete_delay_ms = config_view_topic_i64(view, "file.delete.delay.ms"),
        .internal = internal,
    };
}

const char *config_topic_value(const Conf *conf, const MetaConfigs *topic_configs, const ConfigKey *key, ConfigSource *ret_source)
{
    ConfigView view = {.conf = conf, .topic = topic_configs};
    return config_view_topic(&view, key, ret_source);
}

void config_plog(const Conf *conf, const MetaConfigs *topic_configs, bool internal, PlogConfig *ret)
{
    ConfigView view = {.conf = conf, .topic = topic_configs};
    config_view_plog(&view, internal, ret);
}

const char *config_text(const Conf *conf, const char *name)
{
    ConfigView view = {.conf = conf};
    const ConfigKey *key = config_key(name);
    assert(key); /* names in our code are in the catalogue */
    return config_view_broker(&view, key, NULL);
}

int64_t config_view_i64(const ConfigView *view, const char *name)
{
    const ConfigKey *key = config_key(name);
    int64_t v = 0;
    assert(key);
    const char *text = config_view_broker(view, key, NULL);
    if (text)
        (void)parse_i64(text, &v); /* canonical */
    return v;
}

int64_t config_i64(const Conf *conf, const char *name)
{
    ConfigView view = {.conf = conf};
    return config_view_i64(&view, name);
}

bool config_bool(const Conf *conf, const char *name)
{
    const char *text = config_text(conf, name);
    return text && strcmp(text, "true") == 0;
}

#define DISK_RESERVE_MIN (64ll << 20)

int64_t config_disk_reserve(const Conf *conf, int64_t disk_bytes)
{
    const char *text = config_text(conf, "disk.reserve");
    int64_t v = 0;
    size_t n = strlen(text);
    if (n > 0 && text[n - 1] == '%') {
        int64_t share = strtoll(text, NULL, 10);
        v = disk_bytes / 100 * share;
    } else {
        (void)parse_i64(text, &v);
    }
    return MAX(v, DISK_RESERVE_MIN);
}
