/*
 * Brokers: registration, heartbeats, fencing, controlled shutdown, producer-id blocks.
 *
 * Life of an incarnation: registered (fenced) -> caught up and asking for work -> unfenced -> fenced by its own wish, its death
 * or its silence; or in controlled shutdown -> allowed to stop (fenced). A new incarnation always registers anew.
 */

#include <errno.h>
#include <string.h>

#include "controller/state/decide.h"

/* ---- registration ---- */

static bool text_fits(KStr s, size_t size)
{
    return s.len >= 0 && (size_t)s.len < size;
}

static bool registration_is_sound(const KRegisterBrokerRequest *q)
{
    if (q->broker_id < 0 || uuid_is_zero(&q->incarnation_id) || q->listeners.n > META_ENDPOINTS_MAX ||
        q->log_dirs.n > META_LOG_DIRS_MAX || (q->rack.len >= 0 && !text_fits(q->rack, sizeof(((MetaBroker *)0)->rack))))
        return false;
    for (int32_t i = 0; i < q->listeners.n; i++)
        if (!text_fits(q->listeners.items[i].name, sizeof(((MetaEndpoint *)0)->name)) ||
            !text_fits(q->listeners.items[i].host, sizeof(((MetaEndpoint *)0)->host)))
            return false;
    return true;
}

static void put_registration(Decide *d, const KRegisterBrokerRequest *q)
{
    KMetaRegisterBrokerRecord m = {.broker_id = q->broker_id, .incarnation_id = q->incarnation_id, .rack = q->rack, .fenced = true};
    KMetaRegisterBrokerRecordLogDirs *dirs = take(d, (size_t)q->log_dirs.n * sizeof(*dirs));
    KMetaRegisterBrokerRecordEndpoints *ends = take(d, (size_t)q->listeners.n * sizeof(*ends));
    if (d->error)
        return;
    for (int32_t i = 0; i < q->log_dirs.n; i++)
        dirs[i] = (KMetaRegisterBrokerRecordLogDirs){.id = q->log_dirs.items[i].id, .state = q->log_dirs.items[i].state};
    for (int32_t i = 0; i < q->listeners.n; i++)
        ends[i] = (KMetaRegisterBrokerRecordEndpoints){
            .name = q->listeners.items[i].name, .host = q->listeners.items[i].host, .port = q->listeners.items[i].port};
    m.log_dirs.items = dirs;
    m.log_dirs.n = q->log_dirs.n;
    m.endpoints.items = ends;
    m.endpoints.n = q->listeners.n;
    put_record(d, &k_meta_register_broker_record, &m);
}

/* How this incarnation found the directory of a replica. A directory that is not there any more is the worst case: a wiped or
 * replaced disk never counts as synced (D4). */
static int8_t replica_state(const KRegisterBrokerRequest *q, const MetaPartition *p)
{
    int8_t worst = META_DIR_CLEAN;
    Uuid dir = {{0}};
    for (int i = 0; i < p->n_replicas; i++)
        if (p->replicas[i] == q->broker_id)
            dir = p->directories[i];
    for (int32_t i = 0; i < q->log_dirs.n; i++) {
        if (uuid_equal(&q->log_dirs.items[i].id, &dir))
            return q->log_dirs.items[i].state;
        worst = MAX(worst, q->log_dirs.items[i].state);
    }
    return uuid_is_zero(&dir) && q->log_dirs.n > 0 ? worst : META_DIR_SUSPECT;
}

static bool is_unclean(const Policy *policy, int8_t state)
{
    return state != META_DIR_CLEAN && !(state == META_DIR_SYNCED && policy->synced_is_clean);
}

/* C4: in the batch of the registration, the old incarnation leaves every ISR, an unclean one every ELR too. */
static void drop_incarnation(Decide *d, const KRegisterBrokerRequest *q)
{
    Liveness live = {.ctl = d->ctl, .dead = q->broker_id, .alive = -1};
    for (const MetaTopic *t = NULL; (t = meta_topic_next(d->image, t));) {
        ConfigView view = view_of(d, t);
        Policy policy = policy_of(&view);
        for (int32_t i = 0; i < t->n_partitions; i++) {
            const MetaPartition *p = &t->partitions[i];
            if (!in_list(p->replicas, p->n_replicas, q->broker_id))
                continue;
            bool unclean = is_unclean(&policy, replica_state(q, p));
            refresh_partition(d, &live, &policy, t, p, NULL, unclean ? q->broker_id : -1);
        }
    }
}

static bool session_is_valid(const Decide *d, int32_t broker_id)
{
    const Session *s = session_find(d->ctl, broker_id);
    return s && s->heard_ms + config_i64(d->ctl->conf, "broker.session.timeout.ms") > d->q->now_ms;
}

/* A second broker process on this host cannot exist while the first lives (flock, D16). */
static bool is_own_broker(const Decide *d, int32_t broker_id)
{
    return d->q->own_host && broker_id == d->ctl->node_id;
}

int decide_register(Decide *d, const void *request, void *response)
{
    const KRegisterBrokerRequest *q = request;
    KRegisterBrokerResponse *a = response;
    const MetaBroker *b = meta_broker(d->image, q->broker_id);
    if (!registration_is_sound(q)) {
        a->error_code = K_INVALID_REQUEST;
    } else if (!k_str_equal(q->cluster_id, meta_cluster_id(d->image))) {
        a->error_code = K_INCONSISTENT_CLUSTER_ID;
        a->error_message = say(d, "this cluster is %s", meta_cluster_id(d->image));
    } else if (b && uuid_equal(&b->incarnation_id, &q->incarnation_id)) { /* asked again: keeps its epoch (C2) */
        a->broker_epoch = b->epoch;
        a->metadata_index = (int64_t)meta_index(d->image);
    } else if (b && !b->fenced && !is_own_broker(d, b->id) && session_is_valid(d, b->id)) {
        a->error_code = K_DUPLICATE_BROKER_REGISTRATION;
        a->error_message = say(d, "broker %d is alive as another process", b->id);
    } else {
        a->broker_epoch = next_index(d);
        put_registration(d, q);
        if (b)
            drop_incarnation(d, q);
        a->metadata_index = next_index(d) - 1;
        if (d->error == 0 && !session_open(d->ctl, q->broker_id, d->q->now_ms))
            return -ENOMEM;
    }
    return 0;
}

/* ---- fencing ---- */

static void put_change(Decide *d, const MetaBroker *b, int8_t fenced, int8_t controlled_shutdown)
{
    KMetaBrokerChangeRecord m = {.broker_id = b->id, .broker_epoch = b->epoch, .fenced = fenced,
                                 .controlled_shutdown = controlled_shutdown};
    put_record(d, &k_meta_broker_change_record, &m);
}

void fence_broker(Decide *d, const MetaBroker *b, int8_t controlled_shutdown)
{
    Liveness live = {.ctl = d->ctl, .dead = b->id, .alive = -1};
    put_change(d, b, 1, controlled_shutdown);
    refresh_broker(d, &live, b->id);
}

static void unfence(Decide *d, const MetaBroker *b)
{
    Liveness live = {.ctl = d->ctl, .dead = -1, .alive = b->id};
    put_change(d, b, -1, 0);
    refresh_broker(d, &live, b->id);
}

/* ---- heartbeat ---- */

/* The broker whose epoch the request carries, or NULL with the error. */
static const MetaBroker *known_broker(const Decide *d, int32_t id, int64_t epoch, int16_t *ret_error)
{
    const MetaBroker *b = meta_broker(d->image, id);
    if (!b)
        *ret_error = K_BROKER_ID_NOT_REGISTERED;
    else if (b->epoch != epoch)
        *ret_error = K_STALE_BROKER_EPOCH;
    else
        return b;
    return NULL;
}

static bool set_offline_dirs(Session *s, const KUuidArray *dirs)
{
    int n = (int)MIN(MAX(dirs->n, 0), META_LOG_DIRS_MAX);
    if (n == s->n_offline_dirs && (n == 0 || memcmp(s->offline_dirs, dirs->items, (size_t)n * sizeof(Uuid)) == 0))
        return false;
    if (n > 0)
        memcpy(s->offline_dirs, dirs->items, (size_t)n * sizeof(Uuid));
    s->n_offline_dirs = n;
    return true;
}

/* C14: everyone who could be asked for the moved leaderships knows of the move. */
static bool others_know(const Decide *d, const MetaBroker *b, int64_t index)
{
    for (const MetaBroker *o = NULL; (o = meta_broker_next(d->image, o));) {
        const Session *s = session_find(d->ctl, o->id);
        if (o->id != b->id && !o->fenced && !o->in_controlled_shutdown && (!s || s->metadata_index < index))
            return false;
    }
    return true;
}

/* Its leaderships move first; it may stop when all others have seen that. A broker without others may at once. */
static bool shut_down(Decide *d, const MetaBroker *b, Session *s)
{
    Liveness live = {.ctl = d->ctl, .dead = b->id, .alive = -1};
    if (b->fenced)
        return true;
    if (!b->in_controlled_shutdown) {
        size_t before = d->out->n_records;
        put_change(d, b, 0, 1);
        refresh_broker(d, &live, b->id);
        s->shutdown_index = next_index(d) - 1;
        if (!others_know(d, b, s->shutdown_index))
            return false;
        d->out->n_records = before; /* nobody to wait for: one step */
        d->out->bytes.size = before ? d->out->records[before - 1].offset + d->out->records[before - 1].size : 0;
    } else if (!others_know(d, b, s->shutdown_index)) {
        return false;
    }
    fence_broker(d, b, 1);
    return true;
}

int decide_heartbeat(Decide *d, const void *request, void *response)
{
    const KBrokerHeartbeatRequest *q = request;
    KBrokerHeartbeatResponse *a = response;
    const MetaBroker *b = known_broker(d, q->broker_id, q->broker_epoch, &a->error_code);
    if (!b)
        return 0;
    Session *s = session_find(d->ctl, b->id);
    s = s ? s : session_open(d->ctl, b->id, d->q->now_ms);
    if (!s)
        return -ENOMEM;
    s->heard_ms = d->q->now_ms;
    s->metadata_index = MAX(s->metadata_index, q->metadata_index);
    bool dirs_changed = set_offline_dirs(s, &q->offline_log_dirs);
    a->is_caught_up = q->metadata_index >= b->epoch; /* C13 */
    a->is_fenced = b->fenced;
    if (q->want_shutdown) {
        a->should_shutdown = shut_down(d, b, s);
        a->is_fenced = b->fenced || a->should_shutdown;
    } else if (!b->fenced && q->want_fence) {
        fence_broker(d, b, 0);
        a->is_fenced = true;
    } else if (b->fenced && !q->want_fence && !b->in_controlled_shutdown && a->is_caught_up) {
        unfence(d, b);
        a->is_fenced = false;
    } else if (dirs_changed && !b->fenced) {
        Liveness live = {.ctl = d->ctl, .dead = -1, .alive = -1};
        refresh_broker(d, &live, b->id);
    }
    return 0;
}

/* ---- producer ids ---- */

int decide_producer_ids(Decide *d, const void *request, void *response)
{
    const KAllocateProducerIdsRequest *q = request;
    KAllocateProducerIdsResponse *a = response;
    const MetaBroker *b = known_broker(d, q->broker_id, q->broker_epoch, &a->error_code);
    if (!b)
        return 0;
    a->first_id = meta_next_producer_id(d->image);
    a->count = CTL_PRODUCER_BLOCK;
    if (a->first_id > INT64_MAX - CTL_PRODUCER_BLOCK) {
        a->error_code = K_UNKNOWN_SERVER_ERROR;
        a->first_id = -1;
        a->count = 0;
        return 0;
    }
    KMetaProducerIdsRecord m = {.broker_id = b->id, .broker_epoch = b->epoch, .next_producer_id = a->first_id + CTL_PRODUCER_BLOCK};
    put_record(d, &k_meta_producer_ids_record, &m);
    return 0;
}
