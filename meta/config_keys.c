/*
 * Meaning of one configuration value: look-up in the catalogue, canonical text, ranges and choices, and the check of a
 * whole file with its cross rules.
 *
 * Canonical text is what Kafka's tools expect: plain numbers in the key's unit, "true"/"false", lists without blanks. People
 * may write "7d", "1GiB", "yes". Numbers always pass parse_i64() first, so every server.properties keeps its meaning.
 */

#include "meta/config_keys.h"

#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "meta/config_catalog.h"

/* Families of Kafka keys that are ignored as a whole. */
static const struct {
    const char *prefix, *why;
} ignored_prefixes[] = {
    {"ssl.",           "TLS does not exist yet"                         },
    {"sasl.",          "SASL does not exist yet"                        },
    {"listener.name.", "TLS and SASL do not exist yet"                  },
    {"zookeeper.",     "there is no ZooKeeper"                          },
    {"remote.",        "tiered storage does not exist"                  },
    {"group.share.",   "share groups do not exist yet"                  },
    {"share.",         "share groups do not exist yet"                  },
    {"group.streams.", "only classic groups exist so far"               },
    {"add.partitions.to.txn.", "transactions do not exist yet"          },
    {"controller.performance.", "not used by this controller"           },
    {"internal.metadata.", "metadata is kept in LMDB"                   },
    {"socket.connection.setup.timeout.", "not used by this broker"      },
    {"group.consumer.", "only classic groups exist so far"              },
    {"confluent.",     "belongs to another product"                     },
    {"log4j.",         "logging is set with log.level"                  },
};

/* What the supervisor adds for its children (meta/child.h). */
static const char *const instance_keys[] = {"leat.instance",   "leat.data.dir", "leat.run.dir",       "leat.node.id",
                                            "leat.cluster.id", "leat.build.id", "leat.previous.state"};

static int key_compare(const void *name, const void *row)
{
    return strcmp(name, ((const ConfigKey *)row)->name);
}

const ConfigKey *config_key(const char *name)
{
    return bsearch(name, config_catalog, config_catalog_size, sizeof(config_catalog[0]), key_compare);
}

const ConfigKey *config_key_at(size_t i)
{
    return i < config_catalog_size ? &config_catalog[i] : NULL;
}

static bool is_blank(char c)
{
    return c == ' ' || c == '\t' || c == '\r' || c == '\n';
}

static void trim(const char **begin, size_t *size)
{
    while (*size > 0 && is_blank(**begin)) {
        (*begin)++;
        (*size)--;
    }
    while (*size > 0 && is_blank((*begin)[*size - 1]))
        (*size)--;
}

static bool choice_has(const char *choices, const char *item, size_t size)
{
    for (const char *p = choices; p;) {
        const char *comma = strchr(p, ',');
        size_t n = comma ? (size_t)(comma - p) : strlen(p);
        if (n == size && memcmp(p, item, n) == 0)
            return true;
        p = comma ? comma + 1 : NULL;
    }
    return false;
}

bool config_list_has(const char *list, const char *item)
{
    return choice_has(list, item, strlen(item));
}

static int64_t unit_ms(ConfigUnit unit)
{
    return unit == UNIT_MINUTES ? 60000 : unit == UNIT_HOURS ? 3600000 : 1;
}

static int parse_number(const ConfigKey *key, const char *value, int64_t *ret, char *why, size_t why_size)
{
    if (parse_i64(value, ret) == 0)
        return 0;
    if (key->unit == UNIT_BYTES) {
        if (parse_size(value, ret) == 0)
            return 0;
        return text_refuse(why, why_size, -EINVAL, "\"%s\" is no size (examples: 1048576, 1MiB, 10G)", value);
    }
    if (key->unit == UNIT_MS || key->unit == UNIT_MINUTES || key->unit == UNIT_HOURS) {
        int64_t ms;
        if (parse_duration(value, unit_ms(key->unit), &ms) < 0)
            return text_refuse(why, why_size, -EINVAL, "\"%s\" is no duration (examples: 5000, 250ms, 36h, 7d)", value);
        if (ms % unit_ms(key->unit) != 0)
            return text_refuse(why, why_size, -EINVAL, "\"%s\" is no whole number of %s", value,
                               key->unit == UNIT_HOURS ? "hours" : "minutes");
        *ret = ms / unit_ms(key->unit);
        return 0;
    }
    return text_refuse(why, why_size, -EINVAL, "\"%s\" is no number", value);
}

static int normalize_number(const ConfigKey *key, const char *value, char *out, size_t out_size, char *why, size_t why_size)
{
    int64_t v;
    int r = parse_number(key, value, &v, why, why_size);
    if (r < 0)
        return r;
    if (v < key->min)
        return text_refuse(why, why_size, -EINVAL, "%" PRId64 " is too small: at least %" PRId64, v, key->min);
    if (v > key->max)
        return text_refuse(why, why_size, -EINVAL, "%" PRId64 " is too large: at most %" PRId64, v, key->max);
    snprintf(out, out_size, "%" PRId64, v);
    return 0;
}

static int normalize_double(const ConfigKey *key, const char *value, char *out, size_t out_size, char *why, size_t why_size)
{
    char *end;
    errno = 0;
    double v = strtod(value, &end);
    if (end == value || *end || v != v) /* v != v: NaN */
        return text_refuse(why, why_size, -EINVAL, "\"%s\" is no number", value);
    if (v < (double)key->min || (key->max != INT64_MAX && v > (double)key->max))
        return text_refuse(why, why_size, -EINVAL, "%s is outside %" PRId64 " to %" PRId64, value, key->min, key->max);
    snprintf(out, out_size, "%s", value);
    return 0;
}

/* "25%" or a size */
static int normalize_percent(const char *value, char *out, size_t out_size, char *why, size_t why_size)
{
    char number[32];
    size_t n = strlen(value);
    int64_t v;
    if (n > 1 && n < sizeof(number) && value[n - 1] == '%') {
        memcpy(number, value, n - 1);
        number[n - 1] = 0;
        if (parse_i64(number, &v) < 0 || v < 0 || v > 100)
            return text_refuse(why, why_size, -EINVAL, "\"%s\" is no share between 0%% and 100%%", value);
        snprintf(out, out_size, "%" PRId64 "%%", v);
        return 0;
    }
    if (parse_size(value, &v) < 0 || v < 0)
        return text_refuse(why, why_size, -EINVAL, "\"%s\" is neither a share (5%%) nor a size (2GiB)", value);
    snprintf(out, out_size, "%" PRId64, v);
    return 0;
}

/* "10.0.0.1:5" */
static bool is_name_and_count(const char *item, size_t size)
{
    char number[24];
    int64_t v;
    size_t n = 0; /* behind the last colon */
    while (n < size && item[size - n - 1] != ':')
        n++;
    if (n + 1 >= size || n >= sizeof(number))
        return false;
    snprintf(number, sizeof(number), "%.*s", (int)n, item + size - n);
    return parse_i64(number, &v) == 0 && v >= 0 && v <= INT32_MAX;
}

static int normalize_list(const ConfigKey *key, const char *value, char *out, size_t out_size, char *why, size_t why_size)
{
    size_t used = 0;
    out[0] = 0;
    for (const char *p = value; p;) {
        const char *comma = strchr(p, ','), *item = p;
        size_t n = comma ? (size_t)(comma - p) : strlen(p);
        p = comma ? comma + 1 : NULL;
        trim(&item, &n);
        if (n == 0 || (used > 0 && choice_has(out, item, n)))
            continue;
        if (key->choices && !choice_has(key->choices, item, n))
            return text_refuse(why, why_size, -EINVAL, "\"%.*s\" is none of %s", (int)n, item, key->choices);
        if (key->unit == UNIT_COUNT_EACH && !is_name_and_count(item, n))
            return text_refuse(why, why_size, -EINVAL, "\"%.*s\" is no address:count", (int)n, item);
        if (used + n + 2 > out_size)
            return text_refuse(why, why_size, -EINVAL, "the list is too long");
        if (used > 0)
            out[used++] = ',';
        memcpy(out + used, item, n);
        used += n;
        out[used] = 0;
    }
    if (key->choices && used == 0)
        return text_refuse(why, why_size, -EINVAL, "at least one of %s is needed", key->choices);
    return 0;
}

static int normalize_text(const ConfigKey *key, const char *value, char *out, size_t out_size, char *why, size_t why_size)
{
    if (key->choices && !config_list_has(key->choices, value))
        return text_refuse(why, why_size, -EINVAL, "\"%s\" is none of %s", value, key->choices);
    if (strlen(value) >= out_size)
        return text_refuse(why, why_size, -EINVAL, "the value is too long");
    snprintf(out, out_size, "%s", value);
    return 0;
}

static int normalize_trimmed(const ConfigKey *key, const char *value, char *out, size_t out_size, char *why, size_t why_size)
{
    bool b;
    if (key->unit == UNIT_PERCENT)
        return normalize_percent(value, out, out_size, why, why_size);
    switch (key->type) {
    case CONFIG_BOOL:
        if (parse_bool(value, &b) < 0)
            return text_refuse(why, why_size, -EINVAL, "\"%s\" is neither true nor false", value);
        snprintf(out, out_size, "%s", b ? "true" : "false");
        return 0;
    case CONFIG_INT:
    case CONFIG_SHORT:
    case CONFIG_LONG:
        return normalize_number(key, value, out, out_size, why, why_size);
    case CONFIG_DOUBLE:
        return normalize_double(key, value, out, out_size, why, why_size);
    case CONFIG_LIST:
        return normalize_list(key, value, out, out_size, why, why_size);
    case CONFIG_STRING:
    case CONFIG_CLASS:
    case CONFIG_PASSWORD:
    default:
        return normalize_text(key, value, out, out_size, why, why_size);
    }
}

int config_normalize(const ConfigKey *key, const char *value, char *out, size_t out_size, char *why, size_t why_size)
{
    char text[CONFIG_VALUE_MAX];
    size_t n = strlen(value);
    assert(out_size > 0);
    trim(&value, &n);
    if (n >= sizeof(text))
        return text_refuse(why, why_size, -EINVAL, "the value is longer than %zu bytes", sizeof(text) - 1);
    memcpy(text, value, n);
    text[n] = 0;
    return normalize_trimmed(key, text, out, out_size, why, why_size);
}

int config_check_topic(const char *name, const char *value, char *why, size_t why_size)
{
    const ConfigKey *key = config_key(name);
    char out[CONFIG_VALUE_MAX], text[200];
    if (!key || !(key->scope & CONFIG_SCOPE_TOPIC))
        return text_refuse(why, why_size, -EINVAL, "Unknown topic config name: %s", name);
    if (config_normalize(key, value, out, sizeof(out), text, sizeof(text)) < 0)
        return text_refuse(why, why_size, -EINVAL, "Invalid value for configuration %s: %s", name, text);
    if (strcmp(name, "remote.storage.enable") == 0 && strcmp(out, "true") == 0)
        return text_refuse(why, why_size, -EINVAL, "Invalid value for configuration %s: tiered storage does not exist", name);
    return 0;
}

/* ---- whole files ---------------------------------------------------------------------------------------------------- */

typedef struct Check {
    const Conf *conf;
    Buf *out;
    int errors;
} Check;

static void PRINTF_LIKE(4, 5) report(Check *c, const ConfEntry *e, const char *severity, const char *fmt, ...)
{
    char text[1024];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof(text), fmt, ap);
    va_end(ap);
    if (severity[0] == 'e')
        c->errors++;
    if (e && e->file && e->line > 0)
        (void)buf_printf(c->out, "%s:%d: %s: %s\n", e->file, e->line, severity, text); /* no memory: the count remains */
    else if (e && e->file) /* "environment", "--set" */
        (void)buf_printf(c->out, "%s: %s: %s\n", e->file, severity, text);
    else
        (void)buf_printf(c->out, "%s: %s\n", severity, text);
}

static const char *ignored_family(const char *name)
{
    for (size_t i = 0; i < ARRAY_SIZE(ignored_prefixes); i++)
        if (strncmp(name, ignored_prefixes[i].prefix, strlen(ignored_prefixes[i].prefix)) == 0)
            return ignored_prefixes[i].why;
    return NULL;
}

static bool is_instance_key(const char *name)
{
    for (size_t i = 0; i < ARRAY_SIZE(instance_keys); i++)
        if (strcmp(name, instance_keys[i]) == 0)
            return true;
    return false;
}

static void report_unknown(Check *c, const ConfEntry *e)
{
    const char *names[512];
    size_t n = 0;
    for (size_t i = 0; i < config_catalog_size && n < ARRAY_SIZE(names); i++)
        if (config_catalog[i].scope & CONFIG_SCOPE_BROKER)
            names[n++] = config_catalog[i].name;
    const char *near = text_suggest(e->key, names, n);
    if (near)
        report(c, e, "error", "unknown key %s; did you mean %s?", e->key, near);
    else
        report(c, e, "error", "unknown key %s", e->key);
}

static void check_entry(Check *c, const ConfEntry *e)
{
    char out[CONFIG_VALUE_MAX], why[300];
    const ConfigKey *key = config_key(e->key);
    const char *family = key ? NULL : ignored_family(e->key);
    if (is_instance_key(e->key))
        return;
    if (!key && family)
        report(c, e, "warning", "%s is ignored: %s", e->key, family);
    else if (!key)
        report_unknown(c, e);
    else if (!(key->scope & CONFIG_SCOPE_BROKER) && key->broker_key)
        report(c, e, "error", "%s is a topic key; the default of all topics is %s", e->key, key->broker_key);
    else if (!(key->scope & CONFIG_SCOPE_BROKER))
        report(c, e, "error", "%s is a topic key", e->key);
    else if (key->scope & CONFIG_SCOPE_IGNORED)
        report(c, e, "warning", "%s is ignored: %s", e->key, key->doc);
    else if (config_normalize(key, e->value, out, sizeof(out), why, sizeof(why)) < 0)
        report(c, e, "error", "%s: %s", e->key, why);
}

static const ConfEntry *either(const Conf *conf, const char *first, const char *second)
{
    const ConfEntry *e = conf_find(conf, first);
    return e ? e : conf_find(conf, second);
}

/* first <= second, both as effective values */
static void check_order(Check *c, const char *first, const char *second)
{
    int64_t a = config_i64(c->conf, first), b = config_i64(c->conf, second);
    if (a > b)
        report(c, either(c->conf, first, second), "error", "%s (%" PRId64 ") is larger than %s (%" PRId64 ")", first, a,
               second, b);
}

static void check_same(Check *c, const char *name, const char *other)
{
    const ConfEntry *a = conf_find(c->conf, name), *b = conf_find(c->conf, other);
    if (a && b && strcmp(a->value, b->value) != 0)
        report(c, b, "error", "%s says %s but %s says %s", other, b->value, name, a->value);
}

static bool name_is_listed(const MetaEndpoint *list, int n, const char *name)
{
    for (int i = 0; i < n; i++)
        if (strcmp(list[i].name, name) == 0)
            return true;
    return false;
}

static void check_listeners(Check *c)
{
    MetaEndpoint bound[META_ENDPOINTS_MAX], told[META_ENDPOINTS_MAX];
    char why[300];
    int n = config_listeners(c->conf, false, bound, ARRAY_SIZE(bound), why, sizeof(why));
    if (n < 0) {
        report(c, conf_find(c->conf, "listeners"), "error", "listeners: %s", why);
        return;
    }
    for (int i = 0; i < n; i++)
        if (!config_host_is_loopback(bound[i].host) && !config_bool(c->conf, "allow.insecure"))
            report(c, conf_find(c->conf, "listeners"), "error",
                   "listener %s is reachable from other hosts without TLS; bind 127.0.0.1 or set allow.insecure=true",
                   bound[i].name);
    int m = config_listeners(c->conf, true, told, ARRAY_SIZE(told), why, sizeof(why));
    if (m < 0)
        report(c, conf_find(c->conf, "advertised.listeners"), "error", "advertised.listeners: %s", why);
    for (int i = 0; i < m; i++)
        if (!name_is_listed(bound, n, told[i].name))
            report(c, conf_find(c->conf, "advertised.listeners"), "error", "advertised.listeners: %s is no name in listeners",
                   told[i].name);
}

static void check_cross_rules(Check *c)
{
    check_listeners(c);
    check_same(c, "node.id", "broker.id");
    check_same(c, "broker.rack", "rack");
    check_order(c, "group.min.session.timeout.ms", "group.max.session.timeout.ms");
    check_order(c, "message.max.bytes", "socket.request.max.bytes");
    if (config_i64(c->conf, "message.max.bytes") > config_i64(c->conf, "log.segment.bytes"))
        report(c, either(c->conf, "message.max.bytes", "log.segment.bytes"), "warning",
               "message.max.bytes is larger than log.segment.bytes: batches larger than a segment are refused");
    check_order(c, "log.cleaner.min.compaction.lag.ms", "log.cleaner.max.compaction.lag.ms");
    if (config_i64(c->conf, "broker.session.timeout.ms") < 2 * config_i64(c->conf, "broker.heartbeat.interval.ms"))
        report(c, either(c->conf, "broker.session.timeout.ms", "broker.heartbeat.interval.ms"), "error",
               "broker.session.timeout.ms must be at least twice broker.heartbeat.interval.ms");
    const ConfEntry *dirs = either(c->conf, "log.dirs", "log.dir");
    if (dirs && strchr(dirs->value, ','))
        report(c, dirs, "error", "%s: one directory is possible", dirs->key);
    int64_t replicas = config_i64(c->conf, "default.replication.factor");
    if (replicas == 0)
        report(c, conf_find(c->conf, "default.replication.factor"), "error", "default.replication.factor: 0 is no number of replicas");
    if (replicas > 0 && config_i64(c->conf, "min.insync.replicas") > replicas)
        report(c, either(c->conf, "min.insync.replicas", "default.replication.factor"), "warning",
               "min.insync.replicas is larger than default.replication.factor: acks=all can never succeed on such topics");
}

int config_check(const Conf *conf, Buf *out)
{
    Check c = {.conf = conf, .out = out};
    for (size_t i = 0; i < conf->n; i++)
        check_entry(&c, &conf->entries[i]);
    if (c.errors == 0) /* cross rules read values, which must be sound */
        check_cross_rules(&c);
    return c.errors;
}
