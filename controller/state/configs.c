/*
 * AlterConfigs (the whole set) and IncrementalAlterConfigs (set, delete, append, subtract) of topics and brokers. A resource is
 * changed whole or not at all; values are recorded in canonical form, and only what differs from what is recorded.
 *
 * Both first build the resource's next set of configs; one function then compares it with the present one, so elections that the
 * change makes possible (min.insync.replicas lowered, unclean elections allowed) see the next configs.
 */

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "controller/state/decide.h"

enum { OP_SET, OP_DELETE, OP_APPEND, OP_SUBTRACT };

#define NAME_SIZE 200

typedef struct Resource {
    int8_t type;
    KStr asked, name;          /* as the request writes it; as records do */
    const MetaTopic *topic;    /* type 2 */
    int32_t broker_id;         /* type 4; -1 cluster default */
    const MetaConfigs *before; /* may be NULL */
    MetaConfigs next;
} Resource;

typedef struct Result { /* same shape in both responses */
    KafkaError error;
    KStr why;
} Result;

static int refuse(Result *r, KafkaError error, KStr why)
{
    *r = (Result){error, why};
    return -1;
}

/* ---- resources ---- */

static int open_topic(Decide *d, Resource *res, Result *r)
{
    if (!may(d, CTL_RIGHT_ADMIN))
        return refuse(r, K_TOPIC_AUTHORIZATION_FAILED, K_STR_NULL);
    res->topic = meta_topic(d->image, res->name.ptr, (size_t)res->name.len);
    if (!res->topic)
        return refuse(r, K_UNKNOWN_TOPIC_OR_PARTITION, say(d, "The topic '%.*s' does not exist.", res->name.len, res->name.ptr));
    res->before = &res->topic->configs;
    return 0;
}

static int open_broker(Decide *d, Resource *res, Result *r)
{
    char text[16];
    int64_t id = -1;
    if (!may(d, CTL_RIGHT_ADMIN))
        return refuse(r, K_CLUSTER_AUTHORIZATION_FAILED, K_STR_NULL);
    if (res->name.len > 0) {
        size_t n = MIN((size_t)res->name.len, sizeof(text) - 1);
        memcpy(text, res->name.ptr, n);
        text[n] = 0;
        if (parse_i64(text, &id) < 0 || id < 0 || id > INT32_MAX)
            return refuse(r, K_INVALID_REQUEST,
                          say(d, "Node id must be an integer, but it is: %.*s", res->name.len, res->name.ptr));
        if (!meta_broker(d->image, (int32_t)id))
            return refuse(r, K_BROKER_ID_NOT_REGISTERED, say(d, "No broker with id %d found.", (int)id));
        res->name = say(d, "%d", (int)id); /* "07" is 7 */
    }
    res->broker_id = (int32_t)id;
    res->before = meta_broker_configs(d->image, res->broker_id);
    return 0;
}

static int open_resource(Decide *d, Resource *res, Result *r)
{
    res->name = res->asked.len < 0 ? (KStr){"", 0} : res->asked;
    if (res->type == RESOURCE_TOPIC)
        return open_topic(d, res, r);
    if (res->type == RESOURCE_BROKER)
        return open_broker(d, res, r);
    return refuse(r, K_INVALID_REQUEST, say(d, "Only topics (2) and brokers (4) have configs that can be altered; got type %d.", res->type));
}

static int copy_configs(const MetaConfigs *from, MetaConfigs *to)
{
    int r = 0;
    for (size_t i = 0; from && i < from->n && r == 0; i++)
        r = meta_configs_set(to, k_str(from->items[i].name), k_str(from->items[i].value));
    return r;
}

/* ---- one config ---- */

/* The key if this resource may have it. */
static const ConfigKey *find_key(Decide *d, const Resource *res, KStr name, Result *r)
{
    char text[NAME_SIZE];
    const ConfigKey *key = NULL;
    if (name.len > 0 && (size_t)name.len < sizeof(text) && !memchr(name.ptr, 0, (size_t)name.len)) {
        memcpy(text, name.ptr, (size_t)name.len);
        text[name.len] = 0;
        key = config_key(text);
    }
    uint32_t scope = res->type == RESOURCE_TOPIC ? CONFIG_SCOPE_TOPIC : CONFIG_SCOPE_BROKER;
    if (!key || !(key->scope & scope)) {
        refuse(r, K_INVALID_CONFIG,
               say(d, "Unknown %s config name: %.*s", res->type == RESOURCE_TOPIC ? "topic" : "broker", MAX(name.len, 0), name.ptr));
        return NULL;
    }
    if (res->type == RESOURCE_BROKER && !(key->scope & CONFIG_SCOPE_DYNAMIC)) {
        refuse(r, K_INVALID_CONFIG, say(d, "Cannot update these configs dynamically: %s", key->name));
        return NULL;
    }
    return key;
}

/* Checks a value and puts its canonical form in the next set. */
static int set_value(Decide *d, Resource *res, const ConfigKey *key, const char *value, Result *r)
{
    char out[CONFIG_VALUE_MAX], why[400];
    int bad;
    if (res->type == RESOURCE_TOPIC) {
        bad = config_check_topic(key->name, value, why, sizeof(why));
        if (bad == 0)
            bad = config_normalize(key, value, out, sizeof(out), why, sizeof(why));
    } else {
        bad = config_normalize(key, value, out, sizeof(out), why, sizeof(why));
    }
    if (bad < 0)
        return refuse(r, K_INVALID_CONFIG, res->type == RESOURCE_TOPIC
                                               ? say(d, "%s", why)
                                               : say(d, "Invalid value for configuration %s: %s", key->name, why));
    if (meta_configs_set(&res->next, k_str(key->name), k_str(out)) < 0)
        return d->error = -ENOMEM;
    return 0;
}

static char *dup(Decide *d, KStr s)
{
    char *copy = arena_strndup(&d->arena, s.ptr, (size_t)s.len);
    if (!copy)
        d->error = -ENOMEM;
    return copy;
}

/* What append and subtract start from: the effective value. */
static const char *present_list(Decide *d, const Resource *res, const ConfigKey *key)
{
    ConfigView view = view_of(d, NULL);
    const char *set = meta_config_value(&res->next, key->name);
    if (set)
        return set;
    const char *v = res->type == RESOURCE_TOPIC ? config_view_topic(&view, key, NULL) : config_view_broker(&view, key, NULL);
    return v ? v : "";
}

/* present plus or minus the items of `value` */
static char *edit_list(Decide *d, const char *present, const char *value, bool append)
{
    size_t size = strlen(present) + strlen(value) + 2, used = 0;
    char *out = take(d, size);
    if (!out)
        return NULL;
    if (append) {
        memcpy(out, present, strlen(present));
        used = strlen(present);
        if (used > 0 && *value)
            out[used++] = ',';
        memcpy(out + used, value, strlen(value)); /* set_value() drops doubles */
        return out;
    }
    for (const char *p = present; *p;) {
        size_t n = strcspn(p, ",");
        char *item = dup(d, (KStr){p, (int32_t)n});
        if (!item)
            return NULL;
        if (!config_list_has(value, item)) {
            if (used > 0)
                out[used++] = ',';
            memcpy(out + used, p, n);
            used += n;
        }
        p += n + (p[n] == ',');
    }
    return out;
}

static int alter_list(Decide *d, Resource *res, const ConfigKey *key, const char *value, bool append, Result *r)
{
    if (key->type != CONFIG_LIST)
        return refuse(r, K_INVALID_CONFIG, say(d, "Can't %s key %s because its type is not LIST.", append ? "APPEND to" : "SUBTRACT from",
                                               key->name));
    char *next = edit_list(d, present_list(d, res, key), value, append);
    return next ? set_value(d, res, key, next, r) : -1;
}

static int alter_one(Decide *d, Resource *res, KStr name, int8_t op, KStr value, Result *r)
{
    const ConfigKey *key = find_key(d, res, name, r);
    if (!key)
        return -1;
    if (op < OP_SET || op > OP_SUBTRACT)
        return refuse(r, K_INVALID_REQUEST, say(d, "Unknown operation type %d.", op));
    if (op == OP_DELETE)
        return meta_configs_set(&res->next, name, K_STR_NULL);
    if (value.len < 0)
        return refuse(r, K_INVALID_REQUEST, say(d, "Null value not supported for : %s", key->name));
    if (memchr(value.ptr, 0, (size_t)value.len))
        return refuse(r, K_INVALID_CONFIG, say(d, "Invalid value for configuration %s: it contains a NUL", key->name));
    char *text = dup(d, value);
    if (!text)
        return -1;
    return op == OP_SET ? set_value(d, res, key, text, r) : alter_list(d, res, key, text, op == OP_APPEND, r);
}

/* ---- the difference ---- */

static void put_config(Decide *d, const Resource *res, const char *name, const char *value)
{
    KMetaConfigRecord m = {.resource_type = res->type, .resource_name = res->name, .name = k_str(name), .value = k_str(value)};
    put_record(d, &k_meta_config_record, &m);
}

static bool put_difference(Decide *d, const Resource *res)
{
    size_t before = d->out->n_records;
    for (size_t i = 0; i < res->next.n; i++) {
        const char *old = res->before ? meta_config_value(res->before, res->next.items[i].name) : NULL;
        if (!old || strcmp(old, res->next.items[i].value) != 0)
            put_config(d, res, res->next.items[i].name, res->next.items[i].value);
    }
    for (size_t i = 0; res->before && i < res->before->n; i++)
        if (!meta_config_value(&res->next, res->before->items[i].name))
            put_config(d, res, res->before->items[i].name, NULL);
    return d->out->n_records > before;
}

static void refresh_topic(Decide *d, const MetaTopic *t, const ConfigView *view)
{
    Liveness live = {.ctl = d->ctl, .dead = -1, .alive = -1};
    Policy policy = policy_of(view);
    for (int32_t i = 0; i < t->n_partitions; i++)
        refresh_partition(d, &live, &policy, t, &t->partitions[i], NULL, -1);
}

static const char *elections_key(const MetaConfigs *configs, const char *name)
{
    const char *v = configs ? meta_config_value(configs, name) : NULL;
    return v ? v : "";
}

static bool concerns_elections(const Resource *res)
{
    static const char *const names[] = {"min.insync.replicas", "unclean.leader.election.enable"};
    for (size_t i = 0; i < ARRAY_SIZE(names); i++)
        if (strcmp(elections_key(res->before, names[i]), elections_key(&res->next, names[i])) != 0)
            return true;
    return false;
}

static void refresh_after(Decide *d, const Resource *res)
{
    if (res->type == RESOURCE_TOPIC) {
        ConfigView view = view_of(d, res->topic);
        view.topic = &res->next;
        refresh_topic(d, res->topic, &view);
        return;
    }
    for (const MetaTopic *t = NULL; res->broker_id == -1 && (t = meta_topic_next(d->image, t));) {
        ConfigView view = view_of(d, t);
        view.cluster = &res->next;
        refresh_topic(d, t, &view);
    }
}

static void commit_resource(Decide *d, const Resource *res, bool validate_only)
{
    if (!validate_only && put_difference(d, res) && concerns_elections(res))
        refresh_after(d, res);
}

/* ---- requests ---- */

#define RESOURCES_MAX 2000 /* of one request */
#define CONFIGS_MAX   500  /* of one resource */

/* Opens the i-th of n resources, all named already. Return: 0, or -1 with r set. */
static int begin(Decide *d, Resource *all, int32_t n, int32_t i, Result *r)
{
    for (int32_t k = 0; k < n; k++)
        if (k != i && all[k].type == all[i].type && k_str_same(all[k].asked, all[i].asked))
            return refuse(r, K_INVALID_REQUEST, say(d, "Each resource must appear at most once."));
    return open_resource(d, &all[i], r);
}

static void finish(Decide *d, Resource *res, int bad, bool validate_only)
{
    if (!bad && d->error == 0)
        commit_resource(d, res, validate_only);
    meta_configs_clear(&res->next);
}

/* The two requests and their answers differ in type only. */
#define NAME_RESOURCES(all, list)                                                                  \
    for (int32_t i = 0; i < (list).n && (all); i++)                                                \
        (all)[i] = (Resource){.type = (list).items[i].resource_type, .asked = (list).items[i].resource_name}

#define ANSWER(list, i, res, result)                                                               \
    do {                                                                                           \
        (list).items[i].error_code = (result).error;                                               \
        (list).items[i].error_message = (result).why;                                              \
        (list).items[i].resource_type = (res)->type;                                               \
        (list).items[i].resource_name = (res)->asked;                                              \
        (list).n = (i) + 1;                                                                        \
    } while (0)

int decide_alter_configs(Decide *d, const void *request, void *response)
{
    const KAlterConfigsRequest *q = request;
    KAlterConfigsResponse *a = response;
    int32_t n = q->resources.n;
    if (n > RESOURCES_MAX)
        return -EBADMSG;
    Resource *all = take(d, (size_t)n * sizeof(*all));
    a->responses.items = take(d, (size_t)n * sizeof(*a->responses.items));
    NAME_RESOURCES(all, q->resources);
    for (int32_t i = 0; i < n && d->error == 0; i++) {
        const KAlterConfigsRequestResources *one = &q->resources.items[i];
        Result result = {.why = K_STR_NULL};
        int bad = begin(d, all, n, i, &result);
        for (int32_t k = 0; k < one->configs.n && !bad; k++)
            bad = alter_one(d, &all[i], one->configs.items[k].name, OP_SET, one->configs.items[k].value, &result);
        finish(d, &all[i], bad, q->validate_only);
        ANSWER(a->responses, i, &all[i], result);
    }
    return 0;
}

typedef KIncrementalAlterConfigsRequestResources Part;

static int check_part(Decide *d, const Part *q, Result *r)
{
    if (q->configs.n > CONFIGS_MAX)
        return refuse(r, K_INVALID_REQUEST, say(d, "More than %d configs for one resource.", CONFIGS_MAX));
    for (int32_t i = 0; i < q->configs.n; i++)
        for (int32_t k = 0; k < i; k++)
            if (k_str_same(q->configs.items[i].name, q->configs.items[k].name)) {
                KStr twice = q->configs.items[i].name;
                return refuse(r, K_INVALID_REQUEST, say(d, "Error due to duplicate config keys: %.*s", MAX(twice.len, 0), twice.ptr));
            }
    return 0;
}

int decide_incremental_alter_configs(Decide *d, const void *request, void *response)
{
    const KIncrementalAlterConfigsRequest *q = request;
    KIncrementalAlterConfigsResponse *a = response;
    int32_t n = q->resources.n;
    if (n > RESOURCES_MAX)
        return -EBADMSG;
    Resource *all = take(d, (size_t)n * sizeof(*all));
    a->responses.items = take(d, (size_t)n * sizeof(*a->responses.items));
    NAME_RESOURCES(all, q->resources);
    for (int32_t i = 0; i < n && d->error == 0; i++) {
        const Part *one = &q->resources.items[i];
        Result result = {.why = K_STR_NULL};
        int bad = begin(d, all, n, i, &result);
        bad = bad ? bad : check_part(d, one, &result);
        if (!bad && copy_configs(all[i].before, &all[i].next) < 0)
            d->error = -ENOMEM;
        for (int32_t k = 0; k < one->configs.n && !bad && d->error == 0; k++)
            bad = alter_one(d, &all[i], one->configs.items[k].name, one->configs.items[k].config_operation,
                            one->configs.items[k].value, &result);
        finish(d, &all[i], bad, q->validate_only);
        ANSWER(a->responses, i, &all[i], result);
    }
    return 0;
}
