#pragma once

/*
 * The catalogue of configuration keys: broker, topic and supervisor keys with type, default, range, where they may be set
 * and when a change takes effect. One table for the parser, DescribeConfigs, mqctl config, the man page and completion.
 * Kafka's names and defaults unless D29 says otherwise. Pure.
 */

#include "base/conf.h"
#include "meta/image.h"
#include "storage/plog.h"

typedef enum ConfigType { CONFIG_BOOL = 1, CONFIG_STRING, CONFIG_INT, CONFIG_SHORT, CONFIG_LONG, CONFIG_DOUBLE, CONFIG_LIST, CONFIG_CLASS, CONFIG_PASSWORD } ConfigType; /* Kafka's codes */
typedef enum ConfigEffect { CONFIG_LIVE, CONFIG_PROCESS, CONFIG_NODE, CONFIG_FIXED } ConfigEffect; /* what a reload needs */
typedef enum ConfigUnit { UNIT_NONE, UNIT_BYTES, UNIT_MS, UNIT_MINUTES, UNIT_HOURS, UNIT_PERCENT, UNIT_COUNT_EACH /* name:count */ } ConfigUnit;

#define CONFIG_SCOPE_BROKER  0x1 /* in leat.conf */
#define CONFIG_SCOPE_TOPIC   0x2 /* a topic config */
#define CONFIG_SCOPE_IGNORED 0x4 /* Kafka key without meaning here: warning with `ignored` reason */
#define CONFIG_SCOPE_DYNAMIC 0x8 /* may be altered at run time by AlterConfigs on the broker */

typedef struct ConfigKey {
    const char *name;
    ConfigType type;
    ConfigUnit unit;
    uint32_t scope;
    ConfigEffect effect;
    const char *fallback;     /* default as text */
    int64_t min, max;         /* numbers */
    const char *choices;      /* "a,b,c" or NULL */
    const char *broker_key;   /* topic keys: the broker key that is their default (log.retention.ms) */
    const char *doc;          /* one or two sentences; ignored keys: why */
} ConfigKey;

const ConfigKey *config_key(const char *name);
const ConfigKey *config_key_at(size_t i); /* NULL ends; sorted by name */
/* Canonical text of a value ("7d" -> "604800000"). Return 0, -EINVAL with why filled. `out` of CONFIG_VALUE_MAX bytes
 * always suffices for what a request or file may hold. */
#define CONFIG_VALUE_MAX 8192
int config_normalize(const ConfigKey *key, const char *value, char *out, size_t out_size, char *why, size_t why_size);
/* Whole configuration: unknown keys, types, ranges, cross rules. Errors go to `out` as lines file:line: error: text;
 * warnings too. Return: number of errors. */
int config_check(const Conf *conf, Buf *out);

/* Typed look-ups on a checked configuration (fallback from the catalogue; Kafka's .ms/.minutes/.hours order). */
int64_t config_i64(const Conf *conf, const char *name);
bool config_bool(const Conf *conf, const char *name);
const char *config_text(const Conf *conf, const char *name);
int64_t config_disk_reserve(const Conf *conf, int64_t disk_bytes); /* "5%", at least 64 MiB */

typedef enum ConfigSource { SOURCE_TOPIC = 1, SOURCE_DYNAMIC_BROKER = 2, SOURCE_DYNAMIC_DEFAULT = 3, SOURCE_STATIC = 4, SOURCE_DEFAULT = 5 } ConfigSource; /* Kafka's codes */
/* Effective value of a topic key: topic config > dynamic broker > leat.conf > default. */
const char *config_topic_value(const Conf *conf, const MetaConfigs *topic_configs, const ConfigKey *key, ConfigSource *ret_source);
void config_plog(const Conf *conf, const MetaConfigs *topic_configs, bool internal, PlogConfig *ret);
/* Validates one topic config. Return 0 or -EINVAL with why. */
int config_check_topic(const char *name, const char *value, char *why, size_t why_size);

/* The same with the dynamic broker configs of the image in between. Pointers may be NULL. */
typedef struct ConfigView {
    const Conf *conf;           /* leat.conf */
    const MetaConfigs *topic;
    const MetaConfigs *broker;  /* dynamic, of one broker */
    const MetaConfigs *cluster; /* dynamic, of all brokers */
} ConfigView;

/* Effective canonical values; NULL: unset and without default. The text is the view's, the catalogue's, or (a value that
 * had to be converted, like log.retention.hours) one of 16 buffers of this thread that later calls use in turn. */
const char *config_view_topic(const ConfigView *view, const ConfigKey *topic_key, ConfigSource *ret_source);
const char *config_view_broker(const ConfigView *view, const ConfigKey *broker_key, ConfigSource *ret_source);
int64_t config_view_i64(const ConfigView *view, const char *broker_key); /* 0: unset */
int64_t config_view_topic_i64(const ConfigView *view, const char *name);
void config_view_plog(const ConfigView *view, bool internal, PlogConfig *ret);

/* "compact,delete" contains "delete" */
bool config_list_has(const char *list, const char *item);

/* Parsed listeners (or advertised.listeners, which default to listeners; an empty host then means "this host's name").
 * Listeners named in controller.listener.names are left out. Return: count, or -EINVAL with why. */
int config_listeners(const Conf *conf, bool advertised, MetaEndpoint *ret, size_t max, char *why, size_t why_size);
bool config_host_is_loopback(const char *host);
