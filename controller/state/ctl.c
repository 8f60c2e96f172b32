/*
 * Life of the core, the table of requests, and records without a request. What each request decides is in the other files.
 */

#include "controller/state/ctl.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "controller/state/decide.h"

#define TICK_PAUSE_MS      50
#define REQUEST_MEMORY_MAX (256u << 20) /* decoded request and response */

void ctl_out_clear(CtlOut *out)
{
    buf_clear(&out->bytes);
    buf_clear(&out->response);
    out->n_records = 0;
}

void ctl_out_deinit(CtlOut *out)
{
    buf_deinit(&out->bytes);
    buf_deinit(&out->response);
    free(out->records);
    *out = (CtlOut){0};
}

/* ---- helpers of a decision ---- */

void put_record(Decide *d, const KMessage *m, const void *record)
{
    CtlOut *out = d->out;
    if (d->error)
        return;
    if (out->n_records == out->capacity) {
        size_t capacity = out->capacity ? 2 * out->capacity : 16;
        CtlRecord *records = realloc(out->records, capacity * sizeof(*records));
        if (!records) {
            d->error = -ENOMEM;
            return;
        }
        out->records = records;
        out->capacity = capacity;
    }
    size_t offset = out->bytes.size;
    d->error = k_pack(m, 0, record, &out->bytes);
    if (d->error == 0)
        out->records[out->n_records++] = (CtlRecord){offset, out->bytes.size - offset};
}

int64_t next_index(const Decide *d)
{
    return (int64_t)(meta_index(d->image) + d->out->n_records + 1);
}

void *take(Decide *d, size_t size)
{
    void *p = arena_alloc(&d->arena, size ? size : 1);
    if (!p)
        d->error = -ENOMEM;
    return p;
}

KStr say(Decide *d, const char *fmt, ...)
{
    char text[512];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof(text), fmt, ap);
    va_end(ap);
    return k_str(arena_strndup(&d->arena, text, strlen(text))); /* out of memory: an error without its text */
}

bool may(const Decide *d, int32_t rights)
{
    return (d->q->rights & (rights | CTL_RIGHT_INTERNAL)) != 0;
}

Session *session_find(const Ctl *ctl, int32_t broker_id)
{
    for (size_t i = 0; i < ctl->n_sessions; i++)
        if (ctl->sessions[i].broker_id == broker_id)
            return &ctl->sessions[i];
    return NULL;
}

Session *session_open(Ctl *ctl, int32_t broker_id, int64_t now_ms)
{
    Session *s = session_find(ctl, broker_id);
    if (!s) { /* as many as there are brokers, which the image bounds */
        Session *sessions = realloc(ctl->sessions, (ctl->n_sessions + 1) * sizeof(*sessions));
        if (!sessions)
            return NULL;
        ctl->sessions = sessions;
        s = &sessions[ctl->n_sessions++];
    }
    *s = (Session){.broker_id = broker_id, .heard_ms = now_ms};
    return s;
}

/* ---- life ---- */

static int open_sessions(Ctl *ctl, int64_t now_ms)
{
    ctl->n_sessions = 0;
    for (const MetaBroker *b = NULL; (b = meta_broker_next(ctl->image, b));)
        if (!session_open(ctl, b->id, now_ms))
            return -ENOMEM;
    return 0;
}

int ctl_new(const CtlOptions *o, MetaImage *image, Ctl **ret)
{
    Ctl *ctl = calloc(1, sizeof(*ctl));
    if (!ctl)
        return -ENOMEM;
    ctl->conf = o->conf;
    ctl->node_id = o->node_id;
    ctl->ticked_ms = o->now_ms;
    ctl->image = image;
    rng_init(&ctl->rng, o->seed);
    if (open_sessions(ctl, o->now_ms) < 0) {
        ctl->image = NULL;
        ctl_free(ctl);
        return -ENOMEM;
    }
    *ret = ctl;
    return 0;
}

Ctl *ctl_free(Ctl *ctl)
{
    if (!ctl)
        return NULL;
    meta_image_free(ctl->image);
    free(ctl->sessions);
    free(ctl);
    return NULL;
}

const MetaImage *ctl_image(const Ctl *ctl)
{
    return ctl->image;
}

void ctl_reset(Ctl *ctl, MetaImage *image, int64_t now_ms)
{
    meta_image_free(ctl->image);
    ctl->image = image;
    (void)open_sessions(ctl, now_ms); /* no memory: a broker without session opens one with its next heartbeat */
}

int ctl_apply(Ctl *ctl, uint64_t index, const void *record, size_t size)
{
    return meta_apply(ctl->image, index, record, size);
}

/* ---- requests ---- */

static const struct {
    int16_t api_key;
    bool internal; /* only our own daemons may ask; the response begins with its error code */
    HandlerFn decide;
} handlers[] = {
    {K_API_CREATE_TOPICS,             false, decide_create_topics            },
    {K_API_DELETE_TOPICS,             false, decide_delete_topics            },
    {K_API_CREATE_PARTITIONS,         false, decide_create_partitions        },
    {K_API_ALTER_CONFIGS,             false, decide_alter_configs            },
    {K_API_INCREMENTAL_ALTER_CONFIGS, false, decide_incremental_alter_configs},
    {K_API_REGISTER_BROKER,           true,  decide_register                 },
    {K_API_BROKER_HEARTBEAT,          true,  decide_heartbeat                },
    {K_API_ALLOCATE_PRODUCER_IDS,     true,  decide_producer_ids             },
    {K_API_ALTER_PARTITION,           true,  decide_alter_partition          },
};
static_assert(offsetof(KRegisterBrokerResponse, error_code) == 0 && offsetof(KBrokerHeartbeatResponse, error_code) == 0 &&
                  offsetof(KAllocateProducerIdsResponse, error_code) == 0 && offsetof(KAlterPartitionResponse, error_code) == 0,
              "decide_one() sets it");

static int decide_one(Decide *d, const KApi *api, size_t handler)
{
    void *request = take(d, k_message_struct_size(api->request));
    void *response = take(d, k_message_struct_size(api->response));
    if (d->error)
        return d->error;
    int r = k_decode(api->request, d->q->api_version, d->q->body, d->q->size, &d->arena, request);
    if (r < 0)
        return r;
    k_message_init(api->response, response);
    if (handlers[handler].internal && !(d->q->rights & CTL_RIGHT_INTERNAL))
        *(int16_t *)response = K_CLUSTER_AUTHORIZATION_FAILED;
    else
        r = handlers[handler].decide(d, request, response);
    r = r ? r : d->error;
    r = r ? r : k_encode(api->response, d->q->api_version, response, &d->out->response);
    if (r == 0 && !handlers[handler].internal)
        remember_answer(d, api, response);
    return r ? r : d->error;
}

int ctl_decide(Ctl *ctl, const CtlRequest *request, CtlOut *out)
{
    Decide d = {.ctl = ctl, .image = ctl->image, .q = request, .out = out, .arena = {.limit_bytes = REQUEST_MEMORY_MAX}};
    const KApi *api = k_api_find(request->api_key);
    int r = -EOPNOTSUPP;
    ctl_out_clear(out);
    for (size_t i = 0; i < ARRAY_SIZE(handlers) && api; i++)
        if (handlers[i].api_key == request->api_key && !answer_again(&d, &r))
            r = decide_one(&d, api, i);
    arena_deinit(&d.arena);
    if (r < 0)
        ctl_out_clear(out);
    return r;
}

/* ---- without a request ---- */

static int end(Decide *d)
{
    arena_deinit(&d->arena);
    if (d->error)
        ctl_out_clear(d->out);
    return d->error;
}

int ctl_bootstrap(Ctl *ctl, const char *cluster_id, int64_t wall_ms, CtlOut *out)
{
    Decide d = {.ctl = ctl, .image = ctl->image, .out = out};
    ctl_out_clear(out);
    if (meta_cluster_id(d.image)[0])
        return 0;
    KMetaClusterRecord c = {.cluster_id = k_str(cluster_id), .created_ms = wall_ms};
    KMetaFeatureLevelRecord f = {.name = k_str(META_VERSION_NAME), .level = META_VERSION_NOW};
    put_record(&d, &k_meta_cluster_record, &c);
    put_record(&d, &k_meta_feature_level_record, &f);
    return end(&d);
}

int ctl_broker_died(Ctl *ctl, int32_t broker_id, CtlOut *out)
{
    Decide d = {.ctl = ctl, .image = ctl->image, .out = out};
    const MetaBroker *b = meta_broker(ctl->image, broker_id);
    ctl_out_clear(out);
    if (b && !b->fenced)
        fence_broker(&d, b, 0);
    return end(&d);
}

static int64_t session_end_ms(const Ctl *ctl, const MetaBroker *b)
{
    const Session *s = session_find(ctl, b->id);
    return s ? s->heard_ms + config_i64(ctl->conf, "broker.session.timeout.ms") : INT64_MIN;
}

/*
 * A silent broker is fenced only when another unfenced one can take over. Where it is the only one, fencing would make
 * nothing available that is not, and would end its leadership over a stall (a long fsync, a stopped process); its death is
 * known at once from the supervisor.
 */
static bool has_other_live(const Ctl *ctl, const MetaBroker *b, int64_t now_ms)
{
    for (const MetaBroker *o = NULL; (o = meta_broker_next(ctl->image, o));)
        if (o->id != b->id && !o->fenced && !o->in_controlled_shutdown && session_end_ms(ctl, o) > now_ms)
            return true;
    return false;
}

int ctl_tick(Ctl *ctl, int64_t now_ms, CtlOut *out)
{
    Decide d = {.ctl = ctl, .image = ctl->image, .out = out};
    ctl_out_clear(out);
    ctl->ticked_ms = now_ms;
    for (const MetaBroker *b = NULL; (b = meta_broker_next(ctl->image, b));)
        if (!b->fenced && session_end_ms(ctl, b) <= now_ms && has_other_live(ctl, b, now_ms)) {
            fence_broker(&d, b, 0);
            break;
        }
    return end(&d);
}

int64_t ctl_deadline_ms(const Ctl *ctl)
{
    int64_t nearest = INT64_MAX;
    size_t unfenced = 0;
    for (const MetaBroker *b = NULL; (b = meta_broker_next(ctl->image, b));)
        if (!b->fenced) {
            unfenced++;
            nearest = MIN(nearest, session_end_ms(ctl, b));
        }
    /* A deadline that has passed and led to nothing (nobody can take over) is looked at again later, not spun on. */
    return unfenced > 1 ? MAX(nearest, ctl->ticked_ms + TICK_PAUSE_MS) : INT64_MAX;
}
