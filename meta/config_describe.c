/*
 * Entries: one for each topic or broker key of the catalogue (ignored Kafka keys only where they have a default or were set on
 * a topic).
 * Synonyms are the values that would count in turn, the effective one first, as Kafka lists them.
 */

#include "meta/config_describe.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "wire/error.h"

#define RESOURCE_TOPIC  2
#define RESOURCE_BROKER 4

typedef KDescribeConfigsResponseResultsConfigs Entry;
typedef KDescribeConfigsResponseResultsConfigsSynonyms Synonym;

int32_t config_live_brokers(const MetaImage *image)
{
    int32_t n = 0;
    for (const MetaBroker *b = NULL; (b = meta_broker_next(image, b));)
        n += !b->fenced && !b->in_controlled_shutdown;
    return n;
}

int16_t config_default_replicas(const Conf *conf, const MetaImage *image)
{
    int64_t wanted = config_i64(conf, "default.replication.factor");
    if (wanted > 0)
        return (int16_t)wanted;
    return (int16_t)MAX(1, MIN(3, config_live_brokers(image)));
}

/* Values may lie in buffers that later look-ups reuse. */
static int keep(Arena *arena, const char *value, KStr *ret)
{
    if (!value) {
        *ret = K_STR_NULL;
        return 0;
    }
    char *copy = arena_strndup(arena, value, strlen(value));
    *ret = k_str(copy);
    return copy ? 0 : -ENOMEM;
}

static int add_synonym(Entry *e, Arena *arena, const char *name, const char *value, ConfigSource source)
{
    if (!value)
        return 0;
    Synonym *s = &e->synonyms.items[e->synonyms.n++];
    *s = (Synonym){.name = k_str(name), .source = (int8_t)source};
    return keep(arena, value, &s->value);
}

static const char *dynamic(const MetaConfigs *configs, const char *name)
{
    return configs ? meta_config_value(configs, name) : NULL;
}

/* @key: broker key, or a topic key without one */
static int add_synonyms(Entry *e, const ConfigView *view, const ConfigKey *key, const ConfigKey *topic_key, Arena *arena)
{
    ConfigView file = {.conf = view->conf}, nothing = {0};
    ConfigSource source;
    e->synonyms.items = arena_alloc(arena, 5 * sizeof(Synonym));
    if (!e->synonyms.items)
        return -ENOMEM;
    int r = topic_key ? add_synonym(e, arena, topic_key->name, dynamic(view->topic, topic_key->name), SOURCE_TOPIC) : 0;
    if (!key)
        return r ? r : add_synonym(e, arena, topic_key->name, topic_key->fallback, SOURCE_DEFAULT);
    r = r ? r : add_synonym(e, arena, key->name, dynamic(view->broker, key->name), SOURCE_DYNAMIC_BROKER);
    r = r ? r : add_synonym(e, arena, key->name, dynamic(view->cluster, key->name), SOURCE_DYNAMIC_DEFAULT);
    const char *in_file = config_view_broker(&file, key, &source);
    if (r == 0 && source == SOURCE_STATIC)
        r = add_synonym(e, arena, key->name, in_file, SOURCE_STATIC);
    return r ? r : add_synonym(e, arena, key->name, config_view_broker(&nothing, key, NULL), SOURCE_DEFAULT);
}

static bool is_wanted(const KStrArray *names, const char *name)
{
    if (!names || names->n <= 0) /* null and empty mean all */
        return true;
    for (int32_t i = 0; i < names->n; i++)
        if (k_str_equal(names->items[i], name))
            return true;
    return false;
}

/* What is there for every entry, value and synonyms apart. */
static Entry begin_entry(const ConfigDescribe *c, const ConfigKey *key, ConfigSource source)
{
    return (Entry){.name = k_str(key->name), .config_source = (int8_t)source, .is_sensitive = key->type == CONFIG_PASSWORD,
                   .config_type = (int8_t)key->type, .documentation = c->documentation ? k_str(key->doc) : K_STR_NULL};
}

static int set_value(const ConfigKey *key, const char *value, Arena *arena, Entry *e)
{
    return keep(arena, key->type == CONFIG_PASSWORD ? NULL : value, &e->value);
}

static int new_entries(Arena *arena, KDescribeConfigsResponseResults *ret)
{
    size_t n = 0;
    while (config_key_at(n))
        n++;
    ret->configs.items = arena_alloc(arena, n * sizeof(Entry));
    return ret->configs.items ? 0 : -ENOMEM;
}

static bool is_topic_entry(const ConfigView *view, const ConfigKey *key)
{
    if (!(key->scope & CONFIG_SCOPE_TOPIC))
        return false;
    return !(key->scope & CONFIG_SCOPE_IGNORED) || key->fallback || dynamic(view->topic, key->name);
}

static int describe_topic(const ConfigDescribe *c, const KDescribeConfigsRequestResources *q, const MetaTopic *t, Arena *arena,
                          KDescribeConfigsResponseResults *ret)
{
    ConfigView view = {.conf = c->conf, .topic = &t->configs, .broker = meta_broker_configs(c->image, c->node_id),
                       .cluster = meta_broker_configs(c->image, -1)};
    const ConfigKey *key;
    int r = new_entries(arena, ret);
    for (size_t i = 0; (key = config_key_at(i)) && r == 0; i++) {
        ConfigSource source = SOURCE_DEFAULT;
        if (!is_topic_entry(&view, key) || !is_wanted(&q->configuration_keys, key->name))
            continue;
        const char *value = config_view_topic(&view, key, &source);
        Entry *e = &ret->configs.items[ret->configs.n++];
        *e = begin_entry(c, key, source);
        r = set_value(key, value, arena, e);
        if (r == 0 && c->synonyms)
            r = add_synonyms(e, &view, key->broker_key ? config_key(key->broker_key) : NULL, key, arena);
    }
    return r;
}

/* What the broker goes by where nobody said it. NULL: nothing. */
static const char *worked_out(const ConfigDescribe *c, const char *name, const char *value, Buf *text)
{
    const MetaBroker *b = meta_broker(c->image, c->node_id);
    const char *data = conf_get(c->conf, "leat.data.dir", NULL);
    int r = -1;
    if (strcmp(name, "default.replication.factor") == 0 && value && strcmp(value, "-1") == 0) {
        r = buf_printf(text, "%d", config_default_replicas(c->conf, c->image)); /* tools pass it on */
    } else if (strcmp(name, "node.id") == 0 || strcmp(name, "broker.id") == 0) {
        r = buf_printf(text, "%d", c->node_id);
    } else if (strcmp(name, "log.dirs") == 0 && !value && data) {
        r = buf_printf(text, "%s/log", data);
    } else if (strcmp(name, "advertised.listeners") == 0 && !value && b) {
        for (int i = 0; i < b->n_endpoints; i++)
            r = buf_printf(text, strchr(b->endpoints[i].host, ':') ? "%s%s://[%s]:%u" : "%s%s://%s:%u", i ? "," : "",
                           b->endpoints[i].name, b->endpoints[i].host, b->endpoints[i].port);
    }
    return r < 0 ? value : (const char *)text->data;
}

static int describe_broker(const ConfigDescribe *c, const KDescribeConfigsRequestResources *q, Arena *arena,
                           KDescribeConfigsResponseResults *ret)
{
    ConfigView view = {.conf = c->conf, .broker = meta_broker_configs(c->image, c->node_id),
                       .cluster = meta_broker_configs(c->image, -1)};
    _cleanup_(buf_deinit) Buf text = BUF_NULL;
    const ConfigKey *key;
    int r = new_entries(arena, ret);
    for (size_t i = 0; (key = config_key_at(i)) && r == 0; i++) {
        ConfigSource source = SOURCE_DEFAULT;
        if (!(key->scope & CONFIG_SCOPE_BROKER) || (key->scope & CONFIG_SCOPE_IGNORED) ||
            !is_wanted(&q->configuration_keys, key->name))
            continue;
        buf_clear(&text);
        const char *value = worked_out(c, key->name, config_view_broker(&view, key, &source), &text);
        Entry *e = &ret->configs.items[ret->configs.n++];
        *e = begin_entry(c, key, source);
        e->read_only = !(key->scope & CONFIG_SCOPE_DYNAMIC);
        r = set_value(key, value, arena, e);
        if (r == 0 && c->synonyms)
            r = add_synonyms(e, &view, key, NULL, arena);
    }
    return r;
}

/* Resource 4 "": what was set for all brokers, nothing else. */
static int describe_cluster(const ConfigDescribe *c, const KDescribeConfigsRequestResources *q, Arena *arena,
                            KDescribeConfigsResponseResults *ret)
{
    const MetaConfigs *configs = meta_broker_configs(c->image, -1);
    int r = new_entries(arena, ret);
    for (size_t i = 0; configs && i < configs->n && r == 0; i++) {
        const ConfigKey *key = config_key(configs->items[i].name);
        if (!key || !is_wanted(&q->configuration_keys, key->name))
            continue; /* a key of another version */
        Entry *e = &ret->configs.items[ret->configs.n++];
        *e = begin_entry(c, key, SOURCE_DYNAMIC_DEFAULT);
        r = set_value(key, configs->items[i].value, arena, e);
        if (r == 0 && c->synonyms) {
            e->synonyms.items = arena_alloc(arena, sizeof(Synonym));
            r = e->synonyms.items ? add_synonym(e, arena, key->name, configs->items[i].value, SOURCE_DYNAMIC_DEFAULT) : -ENOMEM;
        }
    }
    return r;
}

static int refuse(KDescribeConfigsResponseResults *ret, KafkaError error, const char *why)
{
    ret->error_code = error;
    ret->error_message = k_str(why);
    return 0;
}

int config_describe(const ConfigDescribe *c, const KDescribeConfigsRequestResources *q, Arena *arena,
                    KDescribeConfigsResponseResults *ret)
{
    *ret = (KDescribeConfigsResponseResults){.error_message = K_STR_NULL, .resource_type = q->resource_type,
                                             .resource_name = q->resource_name};
    if (q->resource_type == RESOURCE_TOPIC) {
        const MetaTopic *t = q->resource_name.len < 0 ? NULL : meta_topic(c->image, q->resource_name.ptr, (size_t)q->resource_name.len);
        if (q->resource_name.len < 0 || !topic_name_is_valid(q->resource_name.ptr, (size_t)q->resource_name.len))
            return refuse(ret, K_INVALID_TOPIC_EXCEPTION, "The topic name is invalid.");
        if (!t)
            return refuse(ret, K_UNKNOWN_TOPIC_OR_PARTITION, "This server does not host this topic-partition.");
        return describe_topic(c, q, t, arena, ret);
    }
    if (q->resource_type == RESOURCE_BROKER) {
        char own[16];
        snprintf(own, sizeof(own), "%d", c->node_id);
        if (k_str_equal(q->resource_name, ""))
            return describe_cluster(c, q, arena, ret);
        if (!k_str_equal(q->resource_name, own))
            return refuse(ret, K_INVALID_REQUEST, "Unexpected broker id: a broker describes itself, or \"\" for the cluster default.");
        return describe_broker(c, q, arena, ret);
    }
    return refuse(ret, K_INVALID_REQUEST, "Only topics (2) and brokers (4) have configs.");
}

int config_describe_created(const ConfigView *view, Arena *arena, KCreateTopicsResponseTopics *ret)
{
    const ConfigKey *key;
    size_t n = 0;
    int r = 0;
    while (config_key_at(n))
        n++;
    ret->configs.items = arena_alloc(arena, n * sizeof(*ret->configs.items));
    ret->configs.n = 0;
    if (!ret->configs.items)
        return -ENOMEM;
    for (size_t i = 0; (key = config_key_at(i)) && r == 0; i++) {
        ConfigSource source = SOURCE_DEFAULT;
        if (!is_topic_entry(view, key))
            continue;
        const char *value = config_view_topic(view, key, &source);
        KCreateTopicsResponseTopicsConfigs *e = &ret->configs.items[ret->configs.n++];
        *e = (KCreateTopicsResponseTopicsConfigs){.name = k_str(key->name), .config_source = (int8_t)source};
        r = keep(arena, value, &e->value);
    }
    return r;
}
