/*
 * InitProducerId for idempotent producers: ids come from a block that the controller gave to this broker. Requests that
 * find the block empty wait for the next one. Transactional ids are not offered yet.
 */

#include "broker/api/api.h"

#include <errno.h>
#include <stdlib.h>

#include "broker/api/producer_id.h"
#include "broker/daemon.h"
#include "broker/registration.h"

#define BLOCK_MS   10000
#define RETRY_MS   200

struct ProducerIds {
    Broker *broker;
    int64_t next, end;
    List waiting; /* IdWait.node */
    DaemonCall *call;
    Deadline retry;
};

typedef struct IdWait {
    List node;
    Request *request;
} IdWait;

static void give(ProducerIds *ids, Request *r)
{
    KInitProducerIdResponse a = {.producer_id = ids->next++, .producer_epoch = 0};
    request_reply(r, &a);
}

static void want_block(ProducerIds *ids);

static void serve(ProducerIds *ids)
{
    while (ids->next < ids->end && !list_is_empty(&ids->waiting))
        give(ids, CONTAINER_OF(list_pop(&ids->waiting), IdWait, node)->request);
    if (!list_is_empty(&ids->waiting))
        want_block(ids);
}

static void on_block(void *userdata, const void *body, size_t size)
{
    ProducerIds *ids = userdata;
    Arena arena = ARENA_NULL;
    KAllocateProducerIdsResponse a;
    ids->call = NULL;
    bool ok = body && k_decode(&k_allocate_producer_ids_response, 0, body, size, &arena, &a) == 0 && a.error_code == K_NONE &&
              a.count > 0 && a.first_id >= 0;
    arena_deinit(&arena);
    if (ok) {
        ids->next = a.first_id;
        ids->end = a.first_id + a.count;
        serve(ids);
    } else if (!list_is_empty(&ids->waiting)) {
        broker_set_deadline(ids->broker, &ids->retry, RETRY_MS);
    }
}

static void want_block(ProducerIds *ids)
{
    Broker *b = ids->broker;
    if (ids->call || deadline_is_set(&ids->retry))
        return;
    KAllocateProducerIdsRequest q = {.broker_id = b->node_id, .broker_epoch = registration_epoch(b->registration)};
    if (q.broker_epoch < 0 ||
        daemon_call_message(b->controller, API_ALLOCATE_PRODUCER_IDS, 0, NULL, &q, BLOCK_MS, on_block, ids, &ids->call) < 0)
        broker_set_deadline(b, &ids->retry, RETRY_MS);
}

static void on_retry(Deadline *d)
{
    serve(CONTAINER_OF(d, ProducerIds, retry));
}

static void cancel(Request *r)
{
    IdWait *w = r->state;
    list_remove(&w->node);
}

static void on_deadline(Deadline *d)
{
    Request *r = CONTAINER_OF(d, Request, deadline);
    cancel(r);
    request_refuse(r, K_COORDINATOR_NOT_AVAILABLE, NULL);
}

void api_init_producer_id_handle(Request *r)
{
    const KInitProducerIdRequest *q = r->body;
    ProducerIds *ids = r->broker->producer_ids;
    if (q->transactional_id.len >= 0) {
        request_refuse(r, q->transactional_id.len == 0 ? K_INVALID_REQUEST : K_TRANSACTIONAL_ID_AUTHORIZATION_FAILED, NULL);
        return;
    }
    if (ids->next < ids->end) {
        give(ids, r);
        return;
    }
    IdWait *w = request_alloc(r, 1, sizeof(*w));
    if (!w) {
        request_abandon(r, "out of memory");
        return;
    }
    w->request = r;
    list_init(&w->node);
    r->state = w;
    r->cancel = cancel;
    r->deadline.fn = on_deadline;
    broker_set_deadline(r->broker, &r->deadline, BLOCK_MS);
    list_append(&ids->waiting, &w->node);
    want_block(ids);
}

int producer_ids_new(Broker *b, ProducerIds **ret)
{
    ProducerIds *ids = calloc(1, sizeof(*ids));
    if (!ids)
        return -ENOMEM;
    ids->broker = b;
    ids->retry.fn = on_retry;
    list_init(&ids->waiting);
    *ret = ids;
    return 0;
}

ProducerIds *producer_ids_free(ProducerIds *ids)
{
    if (!ids)
        return NULL;
    daemon_cancel(ids->call);
    deadline_clear(&ids->broker->deadlines, &ids->retry);
    free(ids);
    return NULL;
}
