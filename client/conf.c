/*
 * Keys of the configuration. Names, meanings and defaults are Kafka's; where ours differ the table says why:
 *
 *   acks=all, enable.idempotence=true    Kafka's since 3.0
 *   batch.size=65536                     Kafka: 16384. A record batch is an arena block here, not a share of a socket
 *                                        buffer, and with linger.ms=0 a batch only grows this far while one is in flight
 *   buffer.memory=16 MiB                 Kafka: 32 MiB. What exceeds the session's arena is heap (bench: more gains nothing)
 *   socket.connection.setup.timeout.ms=5000   Kafka: 10000; a socket of this host answers at once or hangs
 *   check.crcs=true                      as in Java; librdkafka's default is false
 *   session.arena.bytes, session.delivery.bytes   ours alone: sizes to begin a session with
 *   lease.min.bytes      ours alone: a consumer that is farther behind reads closed segments itself (lease.c)
 *
 * A value is checked when it is set, so settings_load() cannot meet a bad one. A key that is not in the table may still be
 * librdkafka's: it is kept for the TCP road and has no meaning on shared memory.
 */

#include "client/conf.h"
#include "base/text.h"

#include <errno.h>
#include <librdkafka/rdkafka.h>
#include <stdlib.h>
#include <string.h>

typedef enum KeyType { KEY_TEXT, KEY_NUMBER, KEY_SIZE, KEY_DURATION, KEY_BOOL, KEY_CHOICE, KEY_STRATEGIES } KeyType;

typedef struct Key {
    const char *name, *fallback;
    KeyType type;
    size_t offset; /* in Settings: char * for KEY_TEXT and KEY_STRATEGIES, int64_t for the rest */
    int64_t min, max;
    const char *choices; /* "a|b|c"; the value is the index; "a=b" makes a an alias of b */
} Key;

#define MS_MAX   INT32_MAX
#define SIZE_MAX_BYTES INT32_MAX
#define AT(field) offsetof(Settings, field)

static const Key keys[] = {
    {"bootstrap.servers", "unix:/run/leat/main/client.sock", KEY_TEXT, AT(bootstrap_servers), 0, 0, NULL},
    {"client.id", "", KEY_TEXT, AT(client_id), 0, 0, NULL},
    {"acks", "all", KEY_CHOICE, AT(acks), 0, 0, "0|1|all|-1=all"},
    {"linger.ms", "0", KEY_DURATION, AT(linger_ms), 0, MS_MAX, NULL},
    {"batch.size", "65536", KEY_SIZE, AT(batch_size), 256, SIZE_MAX_BYTES, NULL},
    {"compression.type", "none", KEY_CHOICE, AT(compression), 0, 0, "none|gzip|snappy|lz4|zstd"},
    {"compression.level", "-2147483648", KEY_NUMBER, AT(compression_level), INT32_MIN, INT32_MAX, NULL},
    {"enable.idempotence", "true", KEY_BOOL, AT(idempotence), 0, 0, NULL},
    {"delivery.timeout.ms", "120000", KEY_DURATION, AT(delivery_timeout_ms), 1, MS_MAX, NULL},
    {"request.timeout.ms", "30000", KEY_DURATION, AT(request_timeout_ms), 1, MS_MAX, NULL},
    {"socket.connection.setup.timeout.ms", "5000", KEY_DURATION, AT(connect_timeout_ms), 1, MS_MAX, NULL},
    {"retry.backoff.ms", "100", KEY_DURATION, AT(retry_backoff_ms), 1, MS_MAX, NULL},
    {"partitioner", "murmur2", KEY_CHOICE, AT(partitioner), 0, 0, "murmur2|sticky|roundrobin|murmur2_random=murmur2"},
    {"buffer.memory", "16777216", KEY_SIZE, AT(buffer_memory), 65536, INT64_MAX, NULL},
    {"group.id", "", KEY_TEXT, AT(group_id), 0, 0, NULL},
    {"group.instance.id", "", KEY_TEXT, AT(group_instance_id), 0, 0, NULL},
    {"auto.offset.reset", "latest", KEY_CHOICE, AT(offset_reset), 0, 0, "earliest|latest|none"},
    {"enable.auto.commit", "true", KEY_BOOL, AT(auto_commit), 0, 0, NULL},
    {"auto.commit.interval.ms", "5000", KEY_DURATION, AT(auto_commit_interval_ms), 0, MS_MAX, NULL},
    {"partition.assignment.strategy", "range,cooperative-sticky", KEY_STRATEGIES, AT(strategies_text), 0, 0, NULL},
    {"session.timeout.ms", "45000", KEY_DURATION, AT(session_timeout_ms), 1, MS_MAX, NULL},
    {"heartbeat.interval.ms", "3000", KEY_DURATION, AT(heartbeat_interval_ms), 1, MS_MAX, NULL},
    {"max.poll.interval.ms", "300000", KEY_DURATION, AT(max_poll_interval_ms), 1, MS_MAX, NULL},
    {"fetch.min.bytes", "1", KEY_SIZE, AT(fetch_min_bytes), 0, SIZE_MAX_BYTES, NULL},
    {"fetch.max.wait.ms", "500", KEY_DURATION, AT(fetch_max_wait_ms), 0, MS_MAX, NULL},
    {"max.partition.fetch.bytes", "1048576", KEY_SIZE, AT(max_partition_fetch_bytes), 1, SIZE_MAX_BYTES, NULL},
    {"isolation.level", "read_uncommitted", KEY_CHOICE, AT(isolation), 0, 0, "read_uncommitted|read_committed"},
    {"check.crcs", "true", KEY_BOOL, AT(check_crcs), 0, 0, NULL},
    {"reconnect.backoff.ms", "50", KEY_DURATION, AT(reconnect_backoff_ms), 1, MS_MAX, NULL},
    {"reconnect.backoff.max.ms", "1000", KEY_DURATION, AT(reconnect_backoff_max_ms), 1, MS_MAX, NULL},
    {"metadata.max.age.ms", "300000", KEY_DURATION, AT(metadata_max_age_ms), 1, MS_MAX, NULL},
    {"allow.auto.create.topics", "false", KEY_BOOL, AT(auto_create), 0, 0, NULL},
    {"lease.min.bytes", "67108864", KEY_SIZE, AT(lease_min_bytes), 0, INT64_MAX, NULL},
    {"session.arena.bytes", "0", KEY_SIZE, AT(arena_bytes), 0, UINT32_MAX, NULL},
    {"session.delivery.bytes", "0", KEY_SIZE, AT(delivery_bytes), 0, UINT32_MAX, NULL},
};

typedef struct Extra {
    char *name, *value;
} Extra;

struct leat_conf {
    char *values[ARRAY_SIZE(keys)]; /* NULL = default */
    Extra *extras;
    size_t n_extras;
};

static const char *const strategy_names[STRATEGY_COUNT] = {
    [STRATEGY_RANGE] = "range",
    [STRATEGY_ROUNDROBIN] = "roundrobin",
    [STRATEGY_STICKY] = "sticky",
    [STRATEGY_COOPERATIVE] = "cooperative-sticky",
};

const char *strategy_name(Strategy s)
{
    assert(s < STRATEGY_COUNT);
    return strategy_names[s];
}

/* Finds `value` in "a|b|c=a". Return: its index, or -1. */
static int64_t choice_index(const char *choices, const char *value)
{
    size_t n = strlen(value);
    int64_t index = 0;

    for (const char *p = choices; *p; index++) {
        size_t len = strcspn(p, "|");
        const char *eq = memchr(p, '=', len);
        size_t name_len = eq ? (size_t)(eq - p) : len;
        if (name_len == n && strncmp(p, value, n) == 0) {
            if (!eq)
                return index;
            char target[32] = "";
            memcpy(target, eq + 1, MIN(len - name_len - 1, sizeof target - 1));
            return choice_index(choices, target);
        }
        p += len;
        if (*p == '|')
            p++;
    }
    return -1;
}

static int strategies_parse(const char *text, Strategy *ret, size_t *ret_n)
{
    size_t n = 0;

    for (const char *p = text; *p;) {
        p += strspn(p, " ,");
        size_t len = strcspn(p, " ,"), i = 0;
        if (len == 0)
            break;
        while (i < STRATEGY_COUNT && (strlen(strategy_names[i]) != len || strncmp(strategy_names[i], p, len) != 0))
            i++;
        if (i == STRATEGY_COUNT || n == CONF_STRATEGIES_MAX)
            return -EINVAL;
        ret[n++] = (Strategy)i;
        p += len;
    }
    if (n == 0)
        return -EINVAL;
    *ret_n = n;
    return 0;
}

static int number_parse(const Key *key, const char *value, int64_t *ret)
{
    bool yes = false;
    int r;

    switch (key->type) {
    case KEY_NUMBER:
        r = parse_i64(value, ret);
        break;
    case KEY_SIZE:
        r = parse_size(value, ret);
        break;
    case KEY_DURATION:
        r = parse_duration(value, 1, ret);
        break;
    case KEY_BOOL:
        r = parse_bool(value, &yes);
        *ret = yes;
        return r;
    case KEY_CHOICE:
        *ret = choice_index(key->choices, value);
        return *ret < 0 ? -EINVAL : 0;
    case KEY_TEXT:
    case KEY_STRATEGIES:
    default:
        return -EINVAL;
    }
    return r < 0 || *ret < key->min || *ret > key->max ? -EINVAL : 0;
}

static int value_check(const Key *key, const char *value)
{
    Strategy strategies[CONF_STRATEGIES_MAX];
    size_t n;
    int64_t number;

    if (key->type == KEY_TEXT)
        return utf8_is_valid(value, strlen(value)) ? 0 : -EINVAL;
    if (key->type == KEY_STRATEGIES)
        return strategies_parse(value, strategies, &n);
    return number_parse(key, value, &number);
}

static ssize_t key_find(const char *name)
{
    for (size_t i = 0; i < ARRAY_SIZE(keys); i++)
        if (strcmp(keys[i].name, name) == 0)
            return (ssize_t)i;
    return -1;
}

/* Is it librdkafka's, and would it take the value? */
static int foreign_check(const char *name, const char *value)
{
    char why[8];
    rd_kafka_conf_t *scratch = rd_kafka_conf_new();
    if (!scratch)
        return -ENOMEM;
    rd_kafka_conf_res_t r = rd_kafka_conf_set(scratch, name, value, why, sizeof why);
    rd_kafka_conf_destroy(scratch);
    return r == RD_KAFKA_CONF_OK ? 0 : r == RD_KAFKA_CONF_UNKNOWN ? -ENOENT : -EINVAL;
}

static int extra_set(leat_conf *conf, const char *name, const char *value)
{
    char *copy = strdup(value);
    if (!copy)
        return -ENOMEM;
    for (size_t i = 0; i < conf->n_extras; i++)
        if (strcmp(conf->extras[i].name, name) == 0) {
            free(conf->extras[i].value);
            conf->extras[i].value = copy;
            return 0;
        }
    Extra *grown = reallocarray(conf->extras, conf->n_extras + 1, sizeof *grown);
    char *key = strdup(name);
    if (grown)
        conf->extras = grown;
    if (!grown || !key) {
        free(key);
        free(copy);
        return -ENOMEM;
    }
    conf->extras[conf->n_extras++] = (Extra){key, copy};
    return 0;
}

PUBLIC leat_conf *leat_conf_new(void)
{
    return calloc(1, sizeof(leat_conf));
}

PUBLIC leat_conf *leat_conf_free(leat_conf *conf)
{
    if (!conf)
        return NULL;
    for (size_t i = 0; i < ARRAY_SIZE(keys); i++)
        free(conf->values[i]);
    for (size_t i = 0; i < conf->n_extras; i++) {
        free(conf->extras[i].name);
        free(conf->extras[i].value);
    }
    free(conf->extras);
    free(conf);
    return NULL;
}

PUBLIC int leat_conf_set(leat_conf *conf, const char *key, const char *value)
{
    if (!conf || !key || !value)
        return -EINVAL;
    ssize_t i = key_find(key);
    if (i < 0) {
        int r = foreign_check(key, value);
        return r < 0 ? r : extra_set(conf, key, value);
    }
    int r = value_check(&keys[i], value);
    if (r < 0)
        return r;
    char *copy = strdup(value);
    if (!copy)
        return -ENOMEM;
    free(conf->values[i]);
    conf->values[i] = copy;
    return 0;
}

PUBLIC const char *leat_conf_get(const leat_conf *conf, const char *key)
{
    ssize_t i = key_find(key);
    if (i >= 0)
        return conf && conf->values[i] ? conf->values[i] : keys[i].fallback;
    for (size_t k = 0; conf && k < conf->n_extras; k++)
        if (strcmp(conf->extras[k].name, key) == 0)
            return conf->extras[k].value;
    return NULL;
}

const char *conf_extra(const leat_conf *conf, size_t i, const char **ret_value)
{
    if (!conf || i >= conf->n_extras)
        return NULL;
    *ret_value = conf->extras[i].value;
    return conf->extras[i].name;
}

int settings_load(const leat_conf *conf, Settings *ret)
{
    Settings s = {0};
    int r = 0;

    for (size_t i = 0; i < ARRAY_SIZE(keys); i++) {
        const char *value = conf && conf->values[i] ? conf->values[i] : keys[i].fallback;
        char *at = (char *)&s + keys[i].offset;
        if (keys[i].type == KEY_TEXT || keys[i].type == KEY_STRATEGIES) {
            char *copy = strdup(value);
            if (!copy)
                r = -ENOMEM;
            memcpy(at, &copy, sizeof copy);
        } else {
            int64_t number = 0;
            int bad = number_parse(&keys[i], value, &number);
            assert(bad == 0);
            memcpy(at, &number, sizeof number);
        }
    }
    if (r == 0)
        r = strategies_parse(s.strategies_text, s.strategies, &s.n_strategies);
    if (r < 0) {
        settings_deinit(&s);
        return r;
    }
    *ret = s;
    return 0;
}

void settings_deinit(Settings *s)
{
    free(s->bootstrap_servers);
    free(s->client_id);
    free(s->group_id);
    free(s->group_instance_id);
    free(s->strategies_text);
    *s = (Settings){0};
}

bool settings_name_a_broker(const Settings *s)
{
    const char *path = settings_socket_path(s);
    return path ? path[0] != '\0' : s->bootstrap_servers[0] != '\0';
}

const char *settings_socket_path(const Settings *s)
{
    if (strncmp(s->bootstrap_servers, "unix:", 5) == 0)
        return s->bootstrap_servers + 5;
    return s->bootstrap_servers[0] == '/' ? s->bootstrap_servers : NULL;
}
