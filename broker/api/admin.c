/*
 * What the controller answers: CreateTopics, DeleteTopics, CreatePartitions, AlterConfigs, IncrementalAlterConfigs. They pass
 * through as they are; the answer waits until this host's own image shows the change, because clients look at once.
 */

#include "broker/api/api.h"

#include <string.h>

#include "broker/api/ensure.h"

#define CALL_MS_MIN 1000
#define CALL_MS_MAX 600000
#define SHOW_MS_MAX 5000

typedef struct AdminOp {
    Request *request;
    DaemonCall *call;
    ApplyWait wait;
    bool waiting;
    Buf answer;
    void *decoded; /* of answer */
    Topic **doomed; /* DeleteTopics: as they were when asked, referenced; a new one may bear the name at once */
    int32_t doomed_count;
} AdminOp;

static void op_deinit(AdminOp *op)
{
    daemon_cancel(op->call);
    op->call = NULL;
    if (op->waiting)
        apply_cancel(op->request->broker, &op->wait);
    op->waiting = false;
    for (int32_t i = 0; i < op->doomed_count; i++)
        topic_unref(op->doomed[i]);
    op->doomed_count = 0;
}

static void cancel(Request *r)
{
    AdminOp *op = r->state;
    op_deinit(op);
    buf_deinit(&op->answer);
}

static void refuse(AdminOp *op, KafkaError error)
{
    op_deinit(op);
    request_refuse(op->request, error, NULL);
}

/* --- does the image show it? --- */

static bool shows_created(const Broker *b, const KCreateTopicsResponse *a)
{
    for (int32_t i = 0; i < a->topics.n; i++) {
        if (a->topics.items[i].error_code == K_NONE && !ensure_is_there(b, a->topics.items[i].name))
            return false;
    }
    return true;
}

static bool shows_deleted(const AdminOp *op, const KDeleteTopicsResponse *a)
{
    for (int32_t i = 0; i < a->responses.n && i < op->doomed_count; i++) {
        if (a->responses.items[i].error_code == K_NONE && op->doomed[i] && !op->doomed[i]->deleted)
            return false;
    }
    return true;
}

static bool shows_grown(const Broker *b, const KCreatePartitionsRequest *q, const KCreatePartitionsResponse *a)
{
    for (int32_t i = 0; i < a->results.n && i < q->topics.n; i++) {
        const Topic *topic = topic_find_str(&b->partitions, q->topics.items[i].name);
        if (a->results.items[i].error_code == K_NONE && topic &&
            (topic->partitions_count < q->topics.items[i].count || topic->unopened > 0))
            return false;
    }
    return true;
}

static bool is_there(ApplyWait *w)
{
    AdminOp *op = CONTAINER_OF(w, AdminOp, wait);
    Request *r = op->request;
    switch (r->api->key) {
    case API_CREATE_TOPICS:
        return shows_created(r->broker, op->decoded);
    case API_DELETE_TOPICS:
        return shows_deleted(op, op->decoded);
    case API_CREATE_PARTITIONS:
        return shows_grown(r->broker, r->body, op->decoded);
    default:
        return true;
    }
}

static void reply(AdminOp *op)
{
    Request *r = op->request;
    Buf answer = op->answer;
    op_deinit(op);
    request_reply_body(r, answer.data, answer.size);
    buf_deinit(&answer);
}

static void waited(ApplyWait *w, bool there)
{
    AdminOp *op = CONTAINER_OF(w, AdminOp, wait);
    (void)there; /* the controller has done it: what this host shows is only late */
    op->waiting = false;
    reply(op);
}

static bool is_dry_run(const Request *r)
{
    if (r->api->key == API_CREATE_TOPICS)
        return ((const KCreateTopicsRequest *)r->body)->validate_only;
    return r->api->key == API_CREATE_PARTITIONS && ((const KCreatePartitionsRequest *)r->body)->validate_only;
}

static void on_answer(void *userdata, const void *body, size_t size)
{
    AdminOp *op = userdata;
    Request *r = op->request;
    op->call = NULL;
    if (!body || buf_append(&op->answer, body, size) < 0) {
        refuse(op, K_REQUEST_TIMED_OUT);
        return;
    }
    op->decoded = request_alloc(r, 1, k_message_struct_size(r->api->response));
    if (is_dry_run(r) || !op->decoded ||
        k_decode(r->api->response, r->version, op->answer.data, op->answer.size, &r->arena, op->decoded) < 0) {
        reply(op);
        return;
    }
    apply_changed(r->broker->apply);
    op->waiting = true;
    op->wait = (ApplyWait){.is_there = is_there, .done = waited};
    apply_wait(r->broker, &op->wait, SHOW_MS_MAX);
}

static int64_t patience_ms(const Request *r)
{
    int64_t ms = CALL_MS_MIN;
    if (r->api->key == API_CREATE_TOPICS)
        ms = ((const KCreateTopicsRequest *)r->body)->timeout_ms;
    else if (r->api->key == API_DELETE_TOPICS)
        ms = ((const KDeleteTopicsRequest *)r->body)->timeout_ms;
    else if (r->api->key == API_CREATE_PARTITIONS)
        ms = ((const KCreatePartitionsRequest *)r->body)->timeout_ms;
    else
        ms = DAEMON_AWAY_MS;
    return MAX((int64_t)CALL_MS_MIN, MIN(ms, (int64_t)CALL_MS_MAX));
}

/* Client rights stop at internal topics, whatever the controller thinks. */
static bool touches_internal(const Request *r)
{
    if (request_may(r, RIGHT_INTERNAL))
        return false;
    if (r->api->key == API_CREATE_TOPICS) {
        const KCreateTopicsRequest *q = r->body;
        for (int32_t i = 0; i < q->topics.n; i++) {
            if (api_topic_is_internal(q->topics.items[i].name))
                return true;
        }
    }
    return false;
}

static bool note_doomed(AdminOp *op)
{
    Request *r = op->request;
    const KDeleteTopicsRequest *q = r->body;
    if (r->api->key != API_DELETE_TOPICS)
        return true;
    bool by_struct = r->version >= 6;
    int32_t n = MAX(by_struct ? q->topics.n : q->topic_names.n, 0);
    op->doomed = request_alloc(r, (size_t)n, sizeof(Topic *));
    if (!op->doomed)
        return false;
    for (int32_t i = 0; i < n; i++) {
        KStr name = by_struct ? q->topics.items[i].name : q->topic_names.items[i];
        Topic *topic = name.len >= 0 ? topic_find_str(&r->broker->partitions, name)
                                     : topic_find_id(&r->broker->partitions, &q->topics.items[i].topic_id);
        op->doomed[i] = topic ? topic_ref(topic) : NULL;
    }
    op->doomed_count = n;
    return true;
}

void api_admin_handle(Request *r)
{
    AdminOp *op = request_alloc(r, 1, sizeof(*op));
    if (!op) {
        request_abandon(r, "out of memory");
        return;
    }
    if (touches_internal(r)) {
        request_refuse(r, K_INVALID_TOPIC_EXCEPTION, NULL);
        return;
    }
    if (r->api->key == API_CREATE_TOPICS && r->broker->disk_low) {
        request_refuse(r, K_KAFKA_STORAGE_ERROR, NULL); /* D7 */
        return;
    }
    op->request = r;
    if (!note_doomed(op)) {
        request_abandon(r, "out of memory");
        return;
    }
    r->state = op;
    r->cancel = cancel;
    DaemonRequest q = {.api_key = r->api->key,
                       .api_version = r->version,
                       .body = r->frame.data + r->body_at,
                       .size = r->frame.size - r->body_at,
                       .who = &r->who,
                       .client_id = "",
                       .timeout_ms = patience_ms(r)};
    if (daemon_call(r->broker->controller, &q, on_answer, op, &op->call) < 0)
        refuse(op, K_REQUEST_TIMED_OUT);
}
