/*
 * The image against what is here. See apply.h.
 *
 * A pass marks every topic that the image names; what is left unmarked is deleted. New partitions get their directories on the
 * worker, wait in `to_open` and are opened in slices of a turn, at start as well as later: neither a thousand new topics nor a
 * slow disk under one may stop the heartbeat.
 */

#include "broker/apply.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/fs.h"
#include "base/hash.h"
#include "base/log.h"
#include "broker/daemon.h"
#include "broker/delivery.h"
#include "broker/registration.h"
#include "broker/worker.h"
#include "meta/config_keys.h"
#include "wire/compress.h"

#define OPEN_SLICE_NS   (20 * NS_PER_MS)
#define READER_RETRY_MS 20
#define OPEN_RETRY_MS   1000
#define STATUS_EVERY_NS (500 * NS_PER_MS)
#define CREATE_BATCH    1024
#define LZ4_LEVEL_DEFAULT 9 /* Kafka's default names its fast compressor, not level 9 */
#define GIB             (double)(1 << 30)

typedef struct ToOpen {
    List node;
    Topic *topic; /* referenced */
    int32_t partition;
} ToOpen;

/* Directories of new partitions, made on the worker: their syncfs waits for whatever else the disk has to do. */
typedef struct Creation {
    WorkerJob job;
    Apply *apply;
    List partitions; /* ToOpen.node; not empty: under way */
    PlogId *ids;
    size_t count;
    int r;
} Creation;

struct Apply {
    Broker *broker;
    char meta_dir[512];
    Deadline retry, retry_open;
    bool changed;   /* refresh at the end of this turn */
    bool again;     /* compare even if the index is the same: leat.conf changed */
    bool loaded;    /* the first pass is done */
    bool recovered; /* all logs of the first pass are open */
    List to_create; /* not on disk at start; then to_open */
    Creation creation;
    List to_open;
    List to_open_later; /* descriptors or memory ran out: tried again every second */
    size_t opened, total;
    int64_t status_ns;
    List waits; /* ApplyWait.node */
    uint64_t pass;
    uint64_t broker_configs_hash, conf_generation;
    PlogId *on_disk; /* at start, sorted; afterwards what no topic has claimed */
    size_t on_disk_count;
};

static int compare_ids(const void *a, const void *b)
{
    const PlogId *x = a, *y = b;
    int c = strcmp(x->topic, y->topic);
    return c ? c : (x->partition > y->partition) - (x->partition < y->partition);
}

/* --- rules of a topic --- */

static uint64_t hash_configs(const MetaConfigs *configs, uint64_t seed)
{
    uint64_t h = seed;
    for (size_t i = 0; configs && i < configs->n; i++) {
        uint64_t pair[3] = {h, hash64(configs->items[i].name, strlen(configs->items[i].name)),
                            configs->items[i].value ? hash64(configs->items[i].value, strlen(configs->items[i].value)) : 1};
        h = hash64(pair, sizeof(pair));
    }
    return h;
}

static ConfigView view_of(const Broker *b, const MetaConfigs *topic)
{
    return (ConfigView){.conf = &b->conf,
                        .topic = topic,
                        .broker = meta_broker_configs(b->image, b->node_id),
                        .cluster = meta_broker_configs(b->image, -1)};
}

static int level_of(const ConfigView *view, int codec)
{
    switch (codec) {
    case CODEC_GZIP:
        return (int)config_view_topic_i64(view, "compression.gzip.level");
    case CODEC_LZ4: {
        int level = (int)config_view_topic_i64(view, "compression.lz4.level");
        return level == LZ4_LEVEL_DEFAULT ? INT32_MIN : level;
    }
    case CODEC_ZSTD:
        return (int)config_view_topic_i64(view, "compression.zstd.level");
    default:
        return INT32_MIN;
    }
}

static void read_rules(const Broker *b, const MetaTopic *mt, TopicRules *ret)
{
    ConfigView view = view_of(b, &mt->configs);
    config_view_plog(&view, mt->internal, &ret->plog);
    ret->max_message_bytes = (int32_t)config_view_topic_i64(&view, "max.message.bytes");
    ret->min_insync_replicas = (int32_t)config_view_topic_i64(&view, "min.insync.replicas");
    ret->before_max_ms = config_view_topic_i64(&view, "message.timestamp.before.max.ms");
    ret->after_max_ms = config_view_topic_i64(&view, "message.timestamp.after.max.ms");
    ret->compacted = ret->plog.cleanup_compact;
    ret->deletes = ret->plog.cleanup_delete;
    ret->wait_durable = ret->plog.flush_messages == 1;
    const char *type = config_view_topic(&view, config_key("message.timestamp.type"), NULL);
    ret->log_append_time = type && strcmp(type, "LogAppendTime") == 0;
    const char *compression = config_view_topic(&view, config_key("compression.type"), NULL);
    BatchCodec codec;
    ret->compression = -1;
    if (compression && strcmp(compression, "uncompressed") == 0)
        ret->compression = CODEC_NONE;
    else if (compression && strcmp(compression, "producer") != 0 && codec_parse(compression, &codec) == 0)
        ret->compression = (int)codec;
    ret->compression_level = level_of(&view, ret->compression);
}

static void apply_rules(Broker *b, Topic *topic, const MetaTopic *mt)
{
    uint64_t h = hash_configs(&mt->configs, b->apply->broker_configs_hash);
    if (topic->configs_hash == h)
        return;
    topic->configs_hash = h;
    read_rules(b, mt, &topic->rules);
    for (int32_t i = 0; i < topic->partitions_count; i++) {
        Partition *p = topic->partitions[i];
        if (!p || !p->log)
            continue;
        plog_set_config(p->log, &topic->rules.plog);
        if (replica_set_wait_durable(&p->replica, topic->rules.wait_durable))
            partition_wake(b, p);
        partition_advance(b, p);
    }
}

/* --- partitions --- */

static bool is_ours(const Broker *b, const MetaPartition *mp)
{
    for (int i = 0; i < mp->n_replicas; i++) {
        if (mp->replicas[i] == b->node_id)
            return true;
    }
    return false;
}

static void tell_coordinator(Broker *b, int8_t kind, const Topic *topic, int32_t partition, int32_t epoch)
{
    KCoordinatorEvent e = {.kind = kind, .partition = partition, .leader_epoch = epoch, .topic = k_str(topic ? topic->name : NULL)};
    daemon_notify(b->coordinator, 103, &k_coordinator_event, &e);
}

static bool is_offsets(const Topic *topic)
{
    return strcmp(topic->name, "__consumer_offsets") == 0;
}

static void apply_leader(Broker *b, Partition *p, const MetaPartition *mp)
{
    Replica *r = &p->replica;
    if (r->leader_id == mp->leader && r->leader_epoch == mp->leader_epoch && r->partition_epoch == mp->partition_epoch)
        return;
    bool led = replica_is_leader(r);
    ReplicaState state = {.leader_id = mp->leader,
                          .leader_epoch = mp->leader_epoch,
                          .partition_epoch = mp->partition_epoch,
                          .replicas = mp->replicas,
                          .isr = mp->isr,
                          .replicas_count = mp->n_replicas,
                          .isr_count = mp->n_isr};
    bool new_epoch = replica_apply(r, &state);
    if (new_epoch && p->log && plog_last_epoch(p->log) < mp->leader_epoch) {
        int e = plog_assign_epoch(p->log, mp->leader_epoch);
        if (e < 0)
            partition_log_failed(b, p, "leader epoch", e);
    }
    if (is_offsets(p->topic) && (new_epoch || led != replica_is_leader(r)))
        tell_coordinator(b, replica_is_leader(r) ? 1 : 2, p->topic, p->index, mp->leader_epoch);
    partition_advance(b, p);
    partition_wake(b, p);
}

static PlogId plog_id_of(const Topic *topic, int32_t index)
{
    PlogId id = {.partition = index, .topic_id = topic->id};
    memcpy(id.topic, topic->name, sizeof(id.topic));
    return id;
}

/* A log that waits to be opened, or cannot be: its name may be wanted for another topic's. */
static int delete_closed(Broker *b, const Topic *topic, int32_t index)
{
    PlogId id = plog_id_of(topic, index);
    int r = plog_delete_closed(b->log_dir, &id, topic->rules.plog.file_delete_delay_ms);
    return r == -ENOENT ? 0 : r;
}

/* Some of its directories may be under the worker's hands: on_created() will see that it is deleted. */
static bool is_being_created(const Apply *a, const Topic *topic)
{
    list_for_each(l, &a->creation.partitions) {
        if (CONTAINER_OF(l, ToOpen, node)->topic == topic)
            return true;
    }
    return false;
}

static void drop_log(Broker *b, Partition *p)
{
    int r = 0;
    if (p->log)
        r = plog_delete(p->log);
    else if (!is_being_created(b->apply, p->topic))
        r = delete_closed(b, p->topic, p->index);
    p->log = NULL;
    if (r < 0)
        jlog_errno(LOG_WARNING, r, "log of deleted %s-%d stays behind", p->topic->name, (int)p->index);
}

static void drop_partition(Broker *b, Topic *topic, int32_t index)
{
    Partition *p = partition_of(topic, index);
    if (!p)
        return;
    topic->partitions[index] = NULL;
    if (is_offsets(topic))
        tell_coordinator(b, 2, topic, index, p->replica.leader_epoch);
    produce_drop(b, p, K_UNKNOWN_TOPIC_OR_PARTITION);
    partition_wake(b, p);
    drop_log(b, p);
    partition_free(p);
    b->partitions.partitions_count--;
}

static void delete_topic(Broker *b, Topic *topic)
{
    for (int32_t i = 0; i < topic->partitions_count; i++)
        drop_partition(b, topic, i);
    tell_coordinator(b, 3, topic, -1, -1);
    topic_remove(&b->partitions, topic);
}

static const PlogId *find_on_disk(const Apply *a, const Topic *topic, int32_t index)
{
    PlogId key = plog_id_of(topic, index);
    return a->on_disk_count ? bsearch(&key, a->on_disk, a->on_disk_count, sizeof(key), compare_ids) : NULL;
}

/* A directory of this name that is another topic's: that one was deleted while no broker ran, or the metadata was restored
 * from an older dump and a client made the topic anew. Its records are not ours to delete. Return: whether the name is free. */
static bool set_aside(Apply *a, const Topic *topic, const PlogId *old)
{
    if (uuid_is_zero(&old->topic_id) || uuid_equal(&old->topic_id, &topic->id))
        return false; /* ours */
    int r = plog_set_aside(a->broker->log_dir, old);
    if (r == -ENOENT)
        return true; /* gone since it was found */
    jlog(LOG_WARNING, "log of an earlier topic %s-%d %s", old->topic, (int)old->partition,
         r == 0 ? "is kept in a folder that ends with -stray; remove it when nobody misses it" : "is in the way");
    return r == 0;
}

static int queue_open(Apply *a, Topic *topic, int32_t index)
{
    const PlogId *old = find_on_disk(a, topic, index);
    ToOpen *o = calloc(1, sizeof(*o));
    if (!o)
        return -ENOMEM;
    list_init(&o->node);
    o->topic = topic_ref(topic);
    o->partition = index;
    topic->unopened++;
    list_append(!old || set_aside(a, topic, old) ? &a->to_create : &a->to_open, &o->node);
    a->total++;
    return 0;
}

static int apply_topic(Broker *b, const MetaTopic *mt)
{
    Topic *topic = topic_find(&b->partitions, mt->name, strlen(mt->name));
    if (topic && !uuid_equal(&topic->id, &mt->id)) { /* deleted and made anew between two refreshes */
        delete_topic(b, topic);
        topic = NULL;
    }
    int r = topic ? 0 : topic_add(&b->partitions, mt->name, &mt->id, mt->internal, &topic);
    if (r == 0)
        r = topic_resize(topic, mt->n_partitions);
    if (r < 0)
        return r;
    topic->pass = b->apply->pass;
    apply_rules(b, topic, mt);
    for (int32_t i = 0; i < mt->n_partitions; i++) {
        const MetaPartition *mp = &mt->partitions[i];
        Partition *p = partition_of(topic, i);
        if (!is_ours(b, mp)) {
            drop_partition(b, topic, i);
        } else if (p) {
            apply_leader(b, p, mp);
        } else {
            r = partition_new(topic, i, &p);
            if (r == 0) {
                b->partitions.partitions_count++;
                replica_init(&p->replica, b->node_id, topic->rules.wait_durable, 0, 0, 0);
                r = queue_open(b->apply, topic, i);
            }
            if (r < 0)
                return r;
        }
    }
    return 0;
}

/* --- opening logs --- */

static void to_open_free(ToOpen *o)
{
    o->topic->unopened--;
    topic_unref(o->topic);
    free(o);
}

static void create_waiting(Apply *a);

static void on_created(WorkerJob *job)
{
    Creation *c = CONTAINER_OF(job, Creation, job);
    Apply *a = c->apply;
    int r;
    if (c->r == -EIO)
        child_fail(a->broker->child, 74, "creating partitions: %s", strerror(-c->r));
    if (c->r < 0)
        jlog_errno(LOG_ERR, c->r, "cannot create the directories of %zu partitions", c->count);
    for (List *l; (l = list_pop(&c->partitions)) != NULL;) {
        ToOpen *o = CONTAINER_OF(l, ToOpen, node);
        if (o->topic->deleted && (r = delete_closed(a->broker, o->topic, o->partition)) < 0)
            jlog_errno(LOG_WARNING, r, "log of deleted %s-%d stays behind", o->topic->name, (int)o->partition);
        list_append(&a->to_open, l);
    }
    free(c->ids);
    c->ids = NULL;
    create_waiting(a);
}

static void make_directories(WorkerJob *job)
{
    Creation *c = CONTAINER_OF(job, Creation, job);
    c->r = log_dir_create_logs(c->apply->broker->log_dir, c->ids, c->count);
}

/* Directories of all new partitions that are waiting, with one syncfs (D34). One batch at a time: what a topic of the same name
 * left behind is gone before the next. */
static void create_waiting(Apply *a)
{
    Creation *c = &a->creation;
    if (list_is_empty(&a->to_create) || !list_is_empty(&c->partitions))
        return;
    c->ids = malloc(CREATE_BATCH * sizeof(PlogId));
    for (c->count = 0; c->count < CREATE_BATCH;) {
        List *l = list_pop(&a->to_create);
        if (!l)
            break;
        ToOpen *o = CONTAINER_OF(l, ToOpen, node);
        bool direct = !c->ids || o->topic->deleted; /* plog_open() makes a directory that is missing */
        list_append(direct ? &a->to_open : &c->partitions, l);
        if (!direct)
            c->ids[c->count++] = plog_id_of(o->topic, o->partition);
    }
    if (c->count > 0) {
        worker_submit(a->broker->worker, &c->job);
        return;
    }
    free(c->ids);
    c->ids = NULL;
}

/* Return: false = not now, try again. */
static bool open_log(Apply *a, Topic *topic, int32_t index)
{
    Broker *b = a->broker;
    Partition *p = partition_of(topic, index);
    const MetaPartition *mp = meta_partition(b->image, topic->name, strlen(topic->name), index);
    PlogId id = plog_id_of(topic, index);
    char why[256] = "";
    if (!p || !mp)
        return true;
    int r = plog_open(b->log_dir, &id, &topic->rules.plog, &p->log, why, sizeof(why));
    if (r == -EIO)
        child_fail(b->child, 74, "%s-%d: %s", topic->name, (int)index, why);
    if (fs_is_shortage(r)) {
        jlog_limited(LOG_ERR, "cannot open the log of %s-%d now: %s", topic->name, (int)index, strerror(-r));
        return false;
    }
    if (r < 0) { /* offline: clients hear KAFKA_STORAGE_ERROR, the rest of the broker works */
        p->log = NULL;
        jlog_errno(LOG_ERR, r, "cannot open the log of %s-%d: %s", topic->name, (int)index, why);
        return true;
    }
    int64_t end = plog_end(p->log);
    replica_init(&p->replica, b->node_id, topic->rules.wait_durable, end, MIN(plog_durable_end(p->log), end),
                 log_dir_checkpointed_high_watermark(b->log_dir, &id));
    apply_leader(b, p, mp);
    produce_want_sync(b, p);
    return true;
}

static void on_retry_open(Deadline *d)
{
    Apply *a = CONTAINER_OF(d, Apply, retry_open);
    for (List *l; (l = list_pop(&a->to_open_later)) != NULL;)
        list_append(&a->to_open, l);
}

/* What stays has no topic. It is kept: metadata may have been lost rather than topics deleted (mqctl meta restore). */
static void keep_unclaimed(Apply *a)
{
    size_t kept = 0;
    for (size_t i = 0; i < a->on_disk_count; i++) {
        const PlogId *id = &a->on_disk[i];
        const Topic *topic = topic_find(&a->broker->partitions, id->topic, strlen(id->topic));
        if (!topic || !partition_of(topic, id->partition))
            a->on_disk[kept++] = *id;
    }
    a->on_disk_count = kept;
    if (kept > 0) {
        jlog(LOG_WARNING, "%zu directories in the log belong to no topic, %s-%d the first; they stay", kept, a->on_disk[0].topic,
             (int)a->on_disk[0].partition);
        return;
    }
    free(a->on_disk);
    a->on_disk = NULL;
}

/* @where: in which log, "" between two. */
static void show_recovery(Apply *a, const char *where)
{
    Broker *b = a->broker;
    counter_set(b->row, COUNTER_RECOVERY_DONE, a->opened);
    counter_set(b->row, COUNTER_RECOVERY_TOTAL, a->total);
    int64_t now_ns = clock_mono_ns();
    if (a->recovered || now_ns < a->status_ns)
        return;
    a->status_ns = now_ns + STATUS_EVERY_NS;
    char text[400];
    snprintf(text, sizeof(text), "recovering logs: %zu of %zu%s", a->opened, a->total, where);
    (void)child_status(b->child, text, 10000);
}

void apply_progress(Apply *a, const PlogId *id, int64_t done_bytes, int64_t total_bytes)
{
    char where[320];
    snprintf(where, sizeof(where), ", %s-%d: %.1f of %.1f GiB", id->topic, (int)id->partition,
             (double)done_bytes / GIB, (double)total_bytes / GIB);
    counter_add(a->broker->row, COUNTER_HEARTBEAT, 1); /* the loop's timer cannot: a log is read on its thread */
    show_recovery(a, where);
}

static bool is_opening(const Apply *a)
{
    return !list_is_empty(&a->to_create) || !list_is_empty(&a->creation.partitions) || !list_is_empty(&a->to_open) ||
           !list_is_empty(&a->to_open_later);
}

static void open_slice(Apply *a)
{
    int64_t until_ns = clock_mono_ns() + OPEN_SLICE_NS;
    do {
        List *l = list_pop(&a->to_open);
        if (!l)
            break;
        ToOpen *o = CONTAINER_OF(l, ToOpen, node);
        if (!o->topic->deleted && !open_log(a, o->topic, o->partition)) {
            list_append(&a->to_open_later, &o->node);
            broker_set_deadline(a->broker, &a->retry_open, OPEN_RETRY_MS);
            continue;
        }
        to_open_free(o);
        a->opened++;
    } while (clock_mono_ns() < until_ns);
    show_recovery(a, "");
    if (!a->recovered && !is_opening(a)) {
        a->recovered = true;
        keep_unclaimed(a);
        registration_recovered(a->broker->registration);
    }
}

/* --- the pass --- */

static void pass(Apply *a)
{
    Broker *b = a->broker;
    uint64_t h = hash_configs(meta_broker_configs(b->image, -1), 1);
    h = hash_configs(meta_broker_configs(b->image, b->node_id), h) ^ a->conf_generation;
    if (h != a->broker_configs_hash)
        broker_take_settings(b);
    a->broker_configs_hash = h;
    a->pass++;
    for (const MetaTopic *mt = meta_topic_next(b->image, NULL); mt; mt = meta_topic_next(b->image, mt)) {
        int r = apply_topic(b, mt);
        if (r < 0)
            jlog_errno(LOG_ERR, r, "cannot apply metadata of %s", mt->name);
    }
    for (Topic *topic = topic_next(&b->partitions, NULL), *next; topic; topic = next) {
        next = topic_next(&b->partitions, topic);
        if (topic->pass != a->pass)
            delete_topic(b, topic);
    }
    counter_set(b->row, COUNTER_APPLIED_INDEX, meta_index(b->image));
    counter_set(b->row, COUNTER_TOPICS, b->partitions.topics_count);
    counter_set(b->row, COUNTER_PARTITIONS, b->partitions.partitions_count);
}

static void ask_waits(Apply *a)
{
    list_for_each_safe(l, &a->waits) {
        ApplyWait *w = CONTAINER_OF(l, ApplyWait, node);
        if (!w->is_there(w))
            continue;
        apply_cancel(a->broker, w);
        w->done(w, true);
    }
}

static void refresh(Apply *a)
{
    Broker *b = a->broker;
    uint64_t before = meta_index(b->image);
    int r = meta_reader_refresh(b->reader, b->image);
    if (r < 0) {
        jlog_limited(LOG_WARNING, "cannot read the metadata (%s); trying again", strerror(-r));
        broker_set_deadline(b, &a->retry, READER_RETRY_MS);
        return;
    }
    if (a->loaded && meta_index(b->image) == before && !a->again)
        return;
    a->again = false;
    pass(a);
    a->loaded = true;
    if (b->controller) {
        KMetadataChanged changed = {.index = (int64_t)meta_index(b->image)};
        daemon_notify(b->coordinator, 101, &k_metadata_changed, &changed);
    }
    create_waiting(a);
    if (list_is_empty(&a->to_open) && !a->recovered)
        open_slice(a);
}

static void open_reader(Apply *a)
{
    Broker *b = a->broker;
    int r = meta_reader_open(a->meta_dir, &b->reader);
    if (r == 0) {
        a->changed = true;
        return;
    }
    if (r != -ENOENT)
        jlog_limited(LOG_WARNING, "cannot open the metadata in %s (%s); trying again", a->meta_dir, strerror(-r));
    broker_set_deadline(b, &a->retry, READER_RETRY_MS);
}

static void on_retry(Deadline *d)
{
    Apply *a = CONTAINER_OF(d, Apply, retry);
    if (a->broker->reader)
        a->changed = true;
    else
        open_reader(a);
}

void apply_changed(Apply *a)
{
    a->changed = true;
}

bool apply_is_pending(const Apply *a)
{
    return (a->changed && a->broker->reader) || !list_is_empty(&a->to_open);
}

void apply_run(Apply *a)
{
    if (a->changed && a->broker->reader) {
        a->changed = false;
        refresh(a);
        ask_waits(a);
        registration_applied(a->broker->registration);
    }
    if (!list_is_empty(&a->to_open)) {
        open_slice(a);
        ask_waits(a);
    }
}

/* --- life --- */

int apply_new(Broker *b, Apply **ret)
{
    Apply *a = calloc(1, sizeof(*a));
    if (!a)
        return -ENOMEM;
    a->broker = b;
    a->retry.fn = on_retry;
    a->retry_open.fn = on_retry_open;
    a->creation = (Creation){.job = {.run = make_directories, .done = on_created}, .apply = a};
    list_init(&a->to_create);
    list_init(&a->creation.partitions);
    list_init(&a->to_open);
    list_init(&a->to_open_later);
    list_init(&a->waits);
    *ret = a;
    return 0;
}

Apply *apply_free(Apply *a)
{
    if (!a)
        return NULL;
    List *lists[] = {&a->to_create, &a->creation.partitions, &a->to_open, &a->to_open_later};
    for (size_t i = 0; i < ARRAY_SIZE(lists); i++)
        for (List *l; (l = list_pop(lists[i])) != NULL;)
            to_open_free(CONTAINER_OF(l, ToOpen, node));
    free(a->creation.ids);
    free(a->on_disk);
    free(a);
    return NULL;
}

int apply_start(Apply *a)
{
    Broker *b = a->broker;
    snprintf(a->meta_dir, sizeof(a->meta_dir), "%s/meta", conf_get(&b->conf, "leat.data.dir", ""));
    int r = log_dir_list(b->log_dir, &a->on_disk, &a->on_disk_count);
    if (r < 0)
        return r;
    if (a->on_disk_count > 1)
        qsort(a->on_disk, a->on_disk_count, sizeof(PlogId), compare_ids);
    open_reader(a);
    return 0;
}

bool apply_is_recovered(const Apply *a)
{
    return a->recovered;
}

static void wait_expired(Deadline *d)
{
    ApplyWait *w = CONTAINER_OF(d, ApplyWait, deadline);
    apply_cancel(w->broker, w);
    w->done(w, false);
}

void apply_wait(Broker *b, ApplyWait *w, int64_t timeout_ms)
{
    w->broker = b;
    list_init(&w->node);
    if (w->is_there(w)) {
        w->done(w, true);
        return;
    }
    w->deadline = (Deadline){.fn = wait_expired};
    list_append(&b->apply->waits, &w->node);
    broker_set_deadline(b, &w->deadline, timeout_ms);
}

void apply_cancel(Broker *b, ApplyWait *w)
{
    list_remove(&w->node);
    deadline_clear(&b->deadlines, &w->deadline);
}

void apply_configs(Broker *b)
{
    b->apply->conf_generation++;
    b->apply->again = b->apply->changed = true;
}

void apply_greet_coordinator(Broker *b)
{
    KMetadataChanged changed = {.index = (int64_t)meta_index(b->image)};
    tell_coordinator(b, 0, NULL, -1, -1);
    daemon_notify(b->coordinator, 101, &k_metadata_changed, &changed);
    Topic *topic = topic_find(&b->partitions, "__consumer_offsets", strlen("__consumer_offsets"));
    for (int32_t i = 0; topic && i < topic->partitions_count; i++) {
        Partition *p = topic->partitions[i];
        if (p && p->log && replica_is_leader(&p->replica))
            tell_coordinator(b, 1, topic, i, p->replica.leader_epoch);
    }
}

static void on_closing(void *userdata, size_t done, size_t total)
{
    Broker *b = userdata;
    char text[64];
    snprintf(text, sizeof(text), "closing logs: %zu of %zu", done, total);
    (void)child_status(b->child, text, 10000);
}

void apply_close_logs(Broker *b)
{
    Plog **logs = malloc(MAX(b->partitions.partitions_count, (size_t)1) * sizeof(Plog *));
    size_t n = 0;
    for (Topic *topic = topic_next(&b->partitions, NULL); topic; topic = topic_next(&b->partitions, topic)) {
        for (int32_t i = 0; i < topic->partitions_count; i++) {
            Partition *p = topic->partitions[i];
            if (!p)
                continue;
            produce_drop(b, p, K_NOT_LEADER_OR_FOLLOWER);
            if (!p->log)
                continue;
            if (logs)
                logs[n++] = TAKE(p->log);
            else
                p->log = plog_close(p->log);
        }
    }
    if (logs)
        log_dir_close_logs(b->log_dir, logs, n, on_closing, b);
    free(logs);
}
