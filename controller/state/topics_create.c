/*
 * CreateTopics with Kafka's checks in Kafka's order; every topic of a request succeeds or fails alone, all that succeed are one
 * atomic batch.
 */

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "controller/state/decide.h"
#include "meta/config_describe.h"

typedef KCreateTopicsRequestTopics Ask;
typedef KCreateTopicsResponseTopics Answer;

typedef struct Creation { /* one request */
    Decide *d;
    const KCreateTopicsRequest *q;
    KCreateTopicsResponse *a;
    Loads *loads;
    int64_t n_partitions; /* of the topics accepted so far */
    KStr *marked;         /* names with '.' or '_', without dots; sorted */
    size_t n_marked;
} Creation;

typedef struct NewTopic { /* one topic that passed so far */
    Uuid id;
    MetaConfigs configs; /* canonical; only what will be recorded */
    int32_t n_partitions;
    int n_replicas;
    int32_t *replicas; /* n_partitions * n_replicas */
} NewTopic;

static int refuse(Answer *a, KafkaError error, KStr why)
{
    a->error_code = error;
    a->error_message = why;
    return -1;
}

/* ---- names ---- */

/* Kafka's metric names turn '.' into '_': two names that differ only there may not both exist. */
static KStr without_dots(Decide *d, KStr name)
{
    char *copy = arena_strndup(&d->arena, name.ptr, (size_t)name.len);
    if (!copy) {
        d->error = -ENOMEM;
        return (KStr){"", 0};
    }
    for (char *p = copy; (p = strchr(p, '.'));)
        *p = '_';
    return (KStr){copy, name.len};
}

static bool has_marks(KStr name)
{
    return memchr(name.ptr, '.', (size_t)name.len) || memchr(name.ptr, '_', (size_t)name.len);
}

/* All names that exist or were accepted earlier in this request and have marks, without dots, sorted: made when the first name with
 * marks comes. */
static void load_marked(Creation *c)
{
    size_t n = 0;
    for (const MetaTopic *t = NULL; (t = meta_topic_next(c->d->image, t));)
        n += has_marks(k_str(t->name));
    c->marked = take(c->d, (n + (size_t)c->q->topics.n) * sizeof(KStr));
    for (const MetaTopic *t = NULL; c->marked && (t = meta_topic_next(c->d->image, t));)
        if (has_marks(k_str(t->name)))
            c->marked[c->n_marked++] = without_dots(c->d, k_str(t->name));
    if (c->n_marked > 1)
        qsort(c->marked, c->n_marked, sizeof(KStr), compare_names);
}

/* Where the dotless name is or belongs. */
static size_t find_marked(const Creation *c, KStr dotless, bool *ret_found)
{
    size_t low = 0, high = c->n_marked;
    *ret_found = false;
    while (low < high) {
        size_t mid = (low + high) / 2;
        int r = compare_names(&c->marked[mid], &dotless);
        if (r == 0) {
            *ret_found = true;
            return mid;
        }
        if (r < 0)
            low = mid + 1;
        else
            high = mid;
    }
    return low;
}

static bool collides(Creation *c, KStr name)
{
    bool found = false;
    if (!has_marks(name))
        return false;
    if (!c->marked)
        load_marked(c);
    if (c->marked)
        (void)find_marked(c, without_dots(c->d, name), &found);
    return found;
}

static void remember_name(Creation *c, KStr name)
{
    bool found;
    if (!has_marks(name))
        return;
    KStr dotless = without_dots(c->d, name);
    size_t at = find_marked(c, dotless, &found);
    memmove(&c->marked[at + 1], &c->marked[at], (c->n_marked - at) * sizeof(KStr));
    c->marked[at] = dotless;
    c->n_marked++;
}

static int check_name(Creation *c, int32_t i, Answer *a)
{
    Decide *d = c->d;
    KStr name = c->q->topics.items[i].name;
    if (!topic_name_is_valid(name.ptr, (size_t)name.len))
        return refuse(a, K_INVALID_TOPIC_EXCEPTION,
                      say(d, "Topic name is invalid: it must have 1 to 249 characters of [a-zA-Z0-9._-] and not be \".\" or \"..\"."));
    if (meta_topic(d->image, name.ptr, (size_t)name.len))
        return refuse(a, K_TOPIC_ALREADY_EXISTS, say(d, "Topic '%.*s' already exists.", name.len, name.ptr));
    if (collides(c, name))
        return refuse(a, K_INVALID_TOPIC_EXCEPTION,
                      say(d, "Topic '%.*s' collides with another topic: names may not differ in '.' and '_' only.", name.len, name.ptr));
    return 0;
}

static bool is_internal_name(KStr name)
{
    return k_str_equal(name, META_TOPIC_OFFSETS) || k_str_equal(name, META_TOPIC_TRANSACTIONS);
}

static int check_rights(Creation *c, KStr name, Answer *a)
{
    if (may(c->d, is_internal_name(name) ? CTL_RIGHT_ADMIN : CTL_RIGHT_ADMIN | CTL_RIGHT_CREATE))
        return 0;
    return refuse(a, K_TOPIC_AUTHORIZATION_FAILED, K_STR_NULL);
}

/* ---- configs ---- */

static int set_config(Decide *d, NewTopic *n, const char *name, const char *value)
{
    if (meta_config_value(&n->configs, name))
        return 0; /* the client's wish stands */
    if (meta_configs_set(&n->configs, k_str(name), k_str(value)) < 0)
        d->error = -ENOMEM;
    return d->error;
}

static int check_config(Creation *c, const KCreateTopicsRequestTopicsConfigs *q, NewTopic *n, Answer *a)
{
    Decide *d = c->d;
    char name[200], *value, out[CONFIG_VALUE_MAX], why[400];
    if (q->name.len <= 0 || (size_t)q->name.len >= sizeof(name) || memchr(q->name.ptr, 0, (size_t)q->name.len))
        return refuse(a, K_INVALID_CONFIG, say(d, "Unknown topic config name."));
    if (q->value.len < 0)
        return refuse(a, K_INVALID_CONFIG,
                      say(d, "Null value not supported for topic configs: %.*s", q->name.len, q->name.ptr));
    memcpy(name, q->name.ptr, (size_t)q->name.len);
    name[q->name.len] = 0;
    value = arena_strndup(&d->arena, q->value.ptr, (size_t)q->value.len);
    if (!value)
        return d->error = -ENOMEM;
    if (config_check_topic(name, value, why, sizeof(why)) < 0)
        return refuse(a, K_INVALID_CONFIG, say(d, "%s", why));
    (void)config_normalize(config_key(name), value, out, sizeof(out), why, sizeof(why)); /* just checked */
    if (meta_configs_set(&n->configs, q->name, k_str(out)) < 0)
        return d->error = -ENOMEM;
    return 0;
}

/* What an internal topic needs, unless the request says otherwise. */
static void add_internal_configs(Decide *d, KStr name, NewTopic *n)
{
    bool offsets = k_str_equal(name, META_TOPIC_OFFSETS);
    const Conf *conf = d->ctl->conf;
    if (!is_internal_name(name))
        return;
    set_config(d, n, "cleanup.policy", "compact");
    set_config(d, n, "segment.bytes", config_text(conf, offsets ? "offsets.topic.segment.bytes" : "transaction.state.log.segment.bytes"));
    set_config(d, n, "compression.type", offsets ? "producer" : "uncompressed");
    if (!offsets) {
        KStr min = say(d, "%lld", (long long)MIN(config_i64(conf, "transaction.state.log.min.isr"), n->n_replicas));
        set_config(d, n, "min.insync.replicas", min.ptr ? min.ptr : "1");
        set_config(d, n, "unclean.leader.election.enable", "false");
    }
}

/* D29: two copies in sync where there are three, unless somebody has set a number. */
static void add_min_isr(Decide *d, NewTopic *n)
{
    ConfigView view = view_of(d, NULL);
    ConfigSource source;
    (void)config_view_topic(&view, config_key("min.insync.replicas"), &source);
    if (n->n_replicas >= 3 && source == SOURCE_DEFAULT)
        set_config(d, n, "min.insync.replicas", "2");
}

/* ---- numbers and replicas ---- */

static int check_numbers(Creation *c, const Ask *q, Answer *a)
{
    Decide *d = c->d;
    if (q->assignments.n > 0) {
        if (q->replication_factor != -1)
            return refuse(a, K_INVALID_REQUEST,
                          say(d, "A manual partition assignment was specified, but replication factor was not set to -1."));
        if (q->num_partitions != -1)
            return refuse(a, K_INVALID_REQUEST,
                          say(d, "A manual partition assignment was specified, but numPartitions was not set to -1."));
        return 0;
    }
    if (q->num_partitions < -1 || q->num_partitions == 0)
        return refuse(a, K_INVALID_PARTITIONS, say(d, "Number of partitions was set to an invalid non-positive value."));
    if (q->replication_factor < -1 || q->replication_factor == 0)
        return refuse(a, K_INVALID_REPLICATION_FACTOR,
                      say(d, "Replication factor must be larger than 0, or -1 to use the default value."));
    return 0;
}

static int32_t default_partitions(const Decide *d, KStr name)
{
    const char *key = k_str_equal(name, META_TOPIC_OFFSETS)        ? "offsets.topic.num.partitions"
                      : k_str_equal(name, META_TOPIC_TRANSACTIONS) ? "transaction.state.log.num.partitions"
                                                                   : "num.partitions";
    return (int32_t)config_i64(d->ctl->conf, key);
}

static int default_replicas(const Decide *d, KStr name)
{
    if (!is_internal_name(name))
        return config_default_replicas(d->ctl->conf, d->image);
    bool offsets = k_str_equal(name, META_TOPIC_OFFSETS);
    int64_t wanted =
        config_i64(d->ctl->conf, offsets ? "offsets.topic.replication.factor" : "transaction.state.log.replication.factor");
    return (int)MAX(1, MIN(wanted, config_live_brokers(d->image)));
}

static int check_total(Creation *c, int64_t n_partitions, Answer *a)
{
    int64_t total = (int64_t)meta_partitions(c->d->image) + c->n_partitions + n_partitions;
    if (c->n_partitions + n_partitions > CTL_RECORDS_MAX / 2)
        return refuse(a, K_POLICY_VIOLATION, say(c->d, "Excessively large number of partitions per request."));
    if (total > CTL_PARTITIONS_MAX)
        return refuse(a, K_POLICY_VIOLATION, say(c->d, "The cluster would have more than %d partitions.", CTL_PARTITIONS_MAX));
    return 0;
}

static int place(Creation *c, const Ask *q, NewTopic *n, Answer *a)
{
    KStr why = K_STR_NULL;
    n->n_partitions = q->num_partitions > 0 ? q->num_partitions : default_partitions(c->d, q->name);
    n->n_replicas = q->replication_factor > 0 ? q->replication_factor : default_replicas(c->d, q->name);
    if (check_total(c, n->n_partitions, a) < 0)
        return -1;
    if (n->n_replicas > META_REPLICAS_MAX) /* bounds what the answer below takes */
        return refuse(a, K_INVALID_REPLICATION_FACTOR, say(c->d, "A partition has at most %d replicas.", META_REPLICAS_MAX));
    if (!c->loads)
        c->loads = loads_new(c->d);
    n->replicas = c->loads ? assign_replicas(c->d, c->loads, NULL, n->n_partitions, n->n_replicas, &why) : NULL;
    return n->replicas || c->d->error ? 0 : refuse(a, K_INVALID_REPLICATION_FACTOR, why);
}

static int place_manually(Creation *c, const Ask *q, NewTopic *n, Answer *a)
{
    Decide *d = c->d;
    KStr why = K_STR_NULL;
    if (check_total(c, q->assignments.n, a) < 0)
        return -1;
    n->n_partitions = q->assignments.n;
    for (int32_t p = 0; p < n->n_partitions; p++) {
        const KCreateTopicsRequestTopicsAssignments *found = NULL;
        for (int32_t i = 0; i < q->assignments.n && !found; i++) /* in any order; usually the next */
            if (q->assignments.items[(p + i) % q->assignments.n].partition_index == p)
                found = &q->assignments.items[(p + i) % q->assignments.n];
        if (!found)
            return refuse(a, K_INVALID_REPLICA_ASSIGNMENT,
                          say(d, "partitions should be a consecutive 0-based integer sequence"));
        KafkaError error = check_assignment(d, &found->broker_ids, p, n->n_replicas, &why);
        if (error != K_NONE)
            return refuse(a, error, why);
        if (p == 0) {
            n->n_replicas = found->broker_ids.n;
            n->replicas = take(d, (size_t)n->n_partitions * (size_t)n->n_replicas * sizeof(int32_t));
        }
        if (d->error)
            return 0;
        memcpy(n->replicas + (size_t)p * (size_t)n->n_replicas, found->broker_ids.items, (size_t)n->n_replicas * sizeof(int32_t));
    }
    return 0;
}

/* ---- one topic ---- */

/* Version 4, variant 1; never begins with '-' as text, so that it is no option on a command line (as in Kafka). */
static Uuid new_topic_id(Decide *d)
{
    Uuid u;
    do {
        uint64_t a = rng_next(&d->ctl->rng), b = rng_next(&d->ctl->rng);
        memcpy(u.b, &a, 8);
        memcpy(u.b + 8, &b, 8);
        u.b[6] = (uint8_t)((u.b[6] & 0x0f) | 0x40);
        u.b[8] = (uint8_t)((u.b[8] & 0x3f) | 0x80);
    } while (u.b[0] >> 2 == 62 || meta_topic_by_id(d->image, &u));
    return u;
}

static void put_topic(Decide *d, KStr name, const NewTopic *n)
{
    KMetaTopicRecord t = {.name = name, .topic_id = n->id};
    put_record(d, &k_meta_topic_record, &t);
    for (size_t i = 0; i < n->configs.n; i++) {
        KMetaConfigRecord c = {.resource_type = RESOURCE_TOPIC, .resource_name = name, .name = k_str(n->configs.items[i].name),
                               .value = k_str(n->configs.items[i].value)};
        put_record(d, &k_meta_config_record, &c);
    }
    for (int32_t p = 0; p < n->n_partitions; p++)
        put_partition(d, &n->id, p, n->replicas + (size_t)p * (size_t)n->n_replicas, n->n_replicas);
}

int describe_created(Decide *d, const MetaConfigs *configs, Answer *a)
{
    ConfigView view = view_of(d, NULL);
    view.topic = configs;
    view.broker = meta_broker_configs(d->image, d->ctl->node_id);
    return config_describe_created(&view, &d->arena, a);
}

static void answer_topic(Creation *c, const NewTopic *n, Answer *a)
{
    Decide *d = c->d;
    a->num_partitions = n->n_partitions;
    a->replication_factor = (int16_t)n->n_replicas;
    a->topic_id = c->q->validate_only ? (Uuid){{0}} : n->id;
    if (d->q->api_version < 5)
        return;
    if (describe_created(d, &n->configs, a) < 0)
        d->error = -ENOMEM;
}

/* 0: accepted, n complete. -1: refused, or d->error. */
static int check_topic(Creation *c, int32_t i, NewTopic *n, Answer *a)
{
    const Ask *q = &c->q->topics.items[i];
    if (check_rights(c, q->name, a) < 0 || check_name(c, i, a) < 0 || check_numbers(c, q, a) < 0)
        return -1;
    for (int32_t k = 0; k < q->configs.n; k++)
        if (check_config(c, &q->configs.items[k], n, a) < 0)
            return -1;
    if ((q->assignments.n > 0 ? place_manually(c, q, n, a) : place(c, q, n, a)) < 0 || c->d->error)
        return -1;
    add_internal_configs(c->d, q->name, n);
    add_min_isr(c->d, n);
    return c->d->error ? -1 : 0;
}

static void create_one(Creation *c, int32_t i, Answer *a)
{
    NewTopic n = {0};
    if (check_topic(c, i, &n, a) == 0) {
        n.id = new_topic_id(c->d);
        c->n_partitions += n.n_partitions;
        remember_name(c, c->q->topics.items[i].name);
        answer_topic(c, &n, a);
        if (!c->q->validate_only)
            put_topic(c->d, c->q->topics.items[i].name, &n);
    }
    meta_configs_clear(&n.configs);
}

static bool answered_before(const KCreateTopicsResponse *a, KStr name)
{
    for (int32_t i = 0; i < a->topics.n; i++)
        if (k_str_same(a->topics.items[i].name, name))
            return true;
    return false;
}

int decide_create_topics(Decide *d, const void *request, void *response)
{
    const KCreateTopicsRequest *q = request;
    KCreateTopicsResponse *a = response;
    Creation c = {.d = d, .q = q, .a = a};
    static_assert(offsetof(Ask, name) == 0, "sorted_names()");
    KStr *names = sorted_names(d, q->topics.items, sizeof(Ask), q->topics.n);
    a->topics.items = take(d, (size_t)q->topics.n * sizeof(Answer));
    for (int32_t i = 0; i < q->topics.n && d->error == 0; i++) {
        KStr name = q->topics.items[i].name;
        bool twice = count_name(names, q->topics.n, name) > 1;
        if (twice && answered_before(a, name))
            continue;
        Answer *one = &a->topics.items[a->topics.n++];
        *one = (Answer){.name = name, .error_message = K_STR_NULL, .num_partitions = -1, .replication_factor = -1};
        one->configs.n = -1;
        if (twice)
            refuse(one, K_INVALID_REQUEST, say(d, "Duplicate topic name."));
        else
            create_one(&c, i, one);
    }
    return 0;
}

