/*
 * Groups: FindCoordinator, which names this broker, and everything else, which the coordinator answers. Requests pass
 * through as they are, body for body, version for version. What local members join and leave, the agent watches.
 */

#include "broker/api/api.h"

#include <string.h>

#include "broker/agent.h"
#include "broker/api/ensure.h"

#define ENSURE_MS       10000
#define GROUP_CALL_MS   30000
#define JOIN_SLACK_MS   30000
#define KEY_TYPE_GROUP       0
#define KEY_TYPE_TRANSACTION 1

typedef struct GroupOp {
    Request *request;
    Ensure ensure;
    DaemonCall *call;
} GroupOp;

static const KStr offsets_topic = {"__consumer_offsets", 18};

static GroupOp *new_op(Request *r, void (*cancel)(Request *r))
{
    GroupOp *op = request_alloc(r, 1, sizeof(*op));
    if (!op) {
        request_abandon(r, "out of memory");
        return NULL;
    }
    op->request = r;
    op->ensure.broker = r->broker;
    r->state = op;
    r->cancel = cancel;
    return op;
}

static void cancel(Request *r)
{
    GroupOp *op = r->state;
    ensure_cancel(&op->ensure);
    daemon_cancel(op->call);
}

/* --- FindCoordinator --- */

static const MetaEndpoint *own_endpoint(const Request *r)
{
    const MetaBroker *me = meta_broker(r->broker->image, r->broker->node_id);
    for (int i = 0; me && i < me->n_endpoints; i++) {
        if (!r->who.listener || strcmp(me->endpoints[i].name, r->who.listener) == 0)
            return &me->endpoints[i];
    }
    return NULL;
}

static void answer_coordinator(Ensure *e)
{
    GroupOp *op = CONTAINER_OF(e, GroupOp, ensure);
    Request *r = op->request;
    const KFindCoordinatorRequest *q = r->body;
    const MetaEndpoint *endpoint = own_endpoint(r);
    bool there = ensure_is_there(r->broker, offsets_topic) && (endpoint || r->who.local);
    if (!there) {
        request_refuse(r, K_COORDINATOR_NOT_AVAILABLE, NULL);
        return;
    }
    KFindCoordinatorResponse a = {.error_message = K_STR_NULL,
                                  .node_id = r->broker->node_id,
                                  .host = endpoint ? k_str(endpoint->host) : k_str("localhost"),
                                  .port = endpoint ? endpoint->port : 0};
    if (r->version >= 4) {
        a.coordinators.n = MAX(q->coordinator_keys.n, 0);
        a.coordinators.items = request_alloc(r, (size_t)a.coordinators.n, sizeof(*a.coordinators.items));
        if (!a.coordinators.items) {
            request_abandon(r, "out of memory");
            return;
        }
        for (int32_t i = 0; i < a.coordinators.n; i++)
            a.coordinators.items[i] = (KFindCoordinatorResponseCoordinators){.key = q->coordinator_keys.items[i],
                                                                             .node_id = a.node_id,
                                                                             .host = a.host,
                                                                             .port = a.port,
                                                                             .error_message = K_STR_NULL};
    }
    request_reply(r, &a);
}

void api_find_coordinator_handle(Request *r)
{
    const KFindCoordinatorRequest *q = r->body;
    if (r->version >= 1 && q->key_type != KEY_TYPE_GROUP) {
        /* Transactions are not offered yet. Most errors make librdkafka ask for ever; this one is fatal to every client,
         * and Java shows its message. */
        if (q->key_type == KEY_TYPE_TRANSACTION)
            request_refuse(r, K_CLUSTER_AUTHORIZATION_FAILED, "transactions are not offered by this server");
        else
            request_refuse(r, K_INVALID_REQUEST, NULL);
        return;
    }
    GroupOp *op = new_op(r, cancel);
    if (op)
        ensure_topics(r->broker, &op->ensure, &offsets_topic, 1, NULL, ENSURE_MS, answer_coordinator);
}

/* --- everything else --- */

static void on_answer(void *userdata, const void *body, size_t size)
{
    GroupOp *op = userdata;
    Request *r = op->request;
    op->call = NULL;
    if (!body) {
        request_refuse(r, K_COORDINATOR_NOT_AVAILABLE, NULL);
        return;
    }
    if (r->who.local && r->source && (r->api->key == API_JOIN_GROUP || r->api->key == API_LEAVE_GROUP))
        agent_saw(r->broker->agent, r, body, size);
    request_reply_body(r, body, size);
}

/* How long the coordinator may rightly keep it. */
static int64_t patience_ms(const Request *r)
{
    const KJoinGroupRequest *q = r->body;
    if (r->api->key == API_JOIN_GROUP)
        return MAX((int64_t)q->rebalance_timeout_ms, (int64_t)q->session_timeout_ms) + JOIN_SLACK_MS;
    return r->api->key == API_SYNC_GROUP ? 10 * 60 * 1000 : GROUP_CALL_MS;
}

static void forward(Ensure *e)
{
    GroupOp *op = CONTAINER_OF(e, GroupOp, ensure);
    Request *r = op->request;
    char client_id[256] = "";
    if (r->client_id.len > 0)
        memcpy(client_id, r->client_id.ptr, MIN((size_t)r->client_id.len, sizeof(client_id) - 1));
    DaemonRequest q = {.api_key = r->api->key,
                       .api_version = r->version,
                       .body = r->frame.data + r->body_at,
                       .size = r->frame.size - r->body_at,
                       .who = &r->who,
                       .client_id = client_id,
                       .timeout_ms = patience_ms(r)};
    if (daemon_call(r->broker->coordinator, &q, on_answer, op, &op->call) < 0)
        request_refuse(r, K_COORDINATOR_NOT_AVAILABLE, NULL);
}

void api_group_handle(Request *r)
{
    GroupOp *op = new_op(r, cancel);
    if (!op)
        return;
    bool writes = r->api->key == API_JOIN_GROUP || r->api->key == API_OFFSET_COMMIT;
    if (writes && !ensure_is_there(r->broker, offsets_topic))
        ensure_topics(r->broker, &op->ensure, &offsets_topic, 1, NULL, ENSURE_MS, forward);
    else
        forward(&op->ensure);
}
