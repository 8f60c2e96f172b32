/*
 * Life of a request and the table of handlers. See api.h. A request is decoded before rights are looked at, because even a
 * refusal names what was asked for.
 */

#include "broker/api/api.h"

#include "base/log.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

static const ApiHandler handlers[] = { /* ascending */
    {API_PRODUCE, RIGHT_USE, api_produce_handle},
    {API_FETCH, RIGHT_USE, api_fetch_handle},
    {API_LIST_OFFSETS, RIGHT_USE, api_list_offsets_handle},
    {API_METADATA, RIGHT_USE, api_metadata_handle},
    {API_OFFSET_COMMIT, RIGHT_USE, api_group_handle},
    {API_OFFSET_FETCH, RIGHT_USE, api_group_handle},
    {API_FIND_COORDINATOR, RIGHT_USE, api_find_coordinator_handle},
    {API_JOIN_GROUP, RIGHT_USE, api_group_handle},
    {API_HEARTBEAT, RIGHT_USE, api_group_handle},
    {API_LEAVE_GROUP, RIGHT_USE, api_group_handle},
    {API_SYNC_GROUP, RIGHT_USE, api_group_handle},
    {API_DESCRIBE_GROUPS, RIGHT_USE, api_group_handle},
    {API_LIST_GROUPS, RIGHT_USE, api_group_handle},
    {API_API_VERSIONS, 0, api_versions_handle},
    {API_CREATE_TOPICS, RIGHT_CREATE, api_admin_handle},
    {API_DELETE_TOPICS, RIGHT_ADMIN, api_admin_handle},
    {API_DELETE_RECORDS, RIGHT_ADMIN, api_delete_records_handle},
    {API_INIT_PRODUCER_ID, RIGHT_USE, api_init_producer_id_handle},
    {API_OFFSET_FOR_LEADER_EPOCH, RIGHT_USE, api_epoch_end_handle},
    {API_DESCRIBE_CONFIGS, RIGHT_USE, api_describe_configs_handle},
    {API_ALTER_CONFIGS, RIGHT_ADMIN, api_admin_handle},
    {API_CREATE_PARTITIONS, RIGHT_ADMIN, api_admin_handle},
    {API_DELETE_GROUPS, RIGHT_ADMIN, api_group_handle},
    {API_INCREMENTAL_ALTER_CONFIGS, RIGHT_ADMIN, api_admin_handle},
    {API_OFFSET_DELETE, RIGHT_ADMIN, api_group_handle},
};

const ApiHandler *api_handler(int16_t key)
{
    for (size_t i = 0; i < ARRAY_SIZE(handlers); i++) {
        if (handlers[i].key == key)
            return &handlers[i];
    }
    return NULL;
}

bool api_topic_is_internal(KStr name)
{
    return k_str_equal(name, "__consumer_offsets") || k_str_equal(name, "__transaction_state");
}

Request *request_new(Broker *b, Buf *frame, const Principal *who)
{
    KRequestHeader h = {.api_key = -1, .client_id = K_STR_NULL};
    size_t header_size = 0;
    int status = k_request_header_decode(frame->data, frame->size, &h, &header_size);
    Request *r = status == -EBADMSG ? NULL : calloc(1, sizeof(*r));
    if (!r) {
        buf_deinit(frame);
        return NULL;
    }
    r->broker = b;
    r->frame = *frame;
    *frame = BUF_NULL;
    r->header_status = status;
    r->api = k_api_find(h.api_key);
    r->version = h.api_version;
    r->correlation_id = h.correlation_id;
    r->client_id = h.client_id;
    r->body_at = header_size;
    r->who = *who;
    r->arena.limit_bytes = REQUEST_ARENA_MAX;
    r->received_ns = broker_now_ns(b);
    list_init(&r->source_node);
    return r;
}

static void request_free(Request *r)
{
    list_remove(&r->source_node);
    deadline_clear(&r->broker->deadlines, &r->deadline);
    arena_deinit(&r->arena);
    buf_deinit(&r->frame);
    free(r);
}

static bool version_is_offered(const Request *r)
{
    const KApi *api = r->api;
    if (r->version < api->version_min || r->version > api->version_max)
        return false;
    if (api->advertise_min > api->advertise_max)
        return r->who.local; /* known, offered to nobody outside this host's sessions */
    return r->version <= api->advertise_max;
}

/* Clients ask with a version we may not know; the answer is in version 0 and tells the range. */
static void refuse_api_versions(Request *r)
{
    KApiVersionsResponse response;
    k_message_init(&k_api_versions_response, &response);
    KApiVersionsResponseApiKeys range = {
        .api_key = API_API_VERSIONS, .min_version = r->api->advertise_min, .max_version = r->api->advertise_max};
    response.error_code = K_UNSUPPORTED_VERSION;
    response.api_keys.items = &range;
    response.api_keys.n = 1;
    r->version = 0;
    request_reply(r, &response);
}

void request_start(Request *r)
{
    counter_add(r->broker->row, COUNTER_REQUESTS, 1);
    const ApiHandler *handler = r->api ? api_handler(r->api->key) : NULL;
    if (!handler) {
        request_abandon(r, "unknown API");
        return;
    }
    if (r->header_status < 0 || !version_is_offered(r)) {
        if (handler->key == API_API_VERSIONS)
            refuse_api_versions(r);
        else
            request_abandon(r, "version not offered");
        return;
    }
    r->body = arena_alloc(&r->arena, k_message_struct_size(r->api->request));
    if (!r->body || k_decode(r->api->request, r->version, r->frame.data + r->body_at, r->frame.size - r->body_at, &r->arena,
                             r->body) < 0) {
        request_abandon(r, "malformed request");
        return;
    }
    if (!request_may(r, handler->rights)) {
        request_refuse(r, handler->rights == RIGHT_USE ? K_TOPIC_AUTHORIZATION_FAILED : K_CLUSTER_AUTHORIZATION_FAILED, NULL);
        return;
    }
    handler->handle(r);
}

void request_orphan(Request *r)
{
    r->source = NULL;
    r->source_data = NULL;
    list_remove(&r->source_node);
    if (!r->cancel)
        return; /* whatever it waits for ends it, unheard */
    r->cancel(r);
    request_free(r);
}

void request_reply_pieces(Request *r, const ReplyPiece *pieces, size_t n)
{
    if (r->source) {
        r->source->reply(r, pieces, n);
    } else {
        for (size_t i = 0; i < n; i++) {
            if (!pieces[i].data)
                base_closep(&(int){pieces[i].fd});
        }
    }
    request_free(r);
}

void request_reply_body(Request *r, const void *body, size_t size)
{
    static const char nothing[1];
    ReplyPiece piece = {.data = size > 0 ? body : nothing, .size = size, .fd = -1};
    request_reply_pieces(r, &piece, 1);
}

void request_reply(Request *r, const void *response)
{
    Buf out = BUF_NULL;
    int e = k_encode(r->api->response, r->version, response, &out);
    if (e < 0) {
        jlog_errno(LOG_ERR, e, "cannot encode the answer to %s v%d", r->api->name, (int)r->version);
        request_abandon(r, "answer cannot be encoded");
    } else {
        request_reply_body(r, out.data, out.size);
    }
    buf_deinit(&out);
}

void request_refuse(Request *r, KafkaError error, const char *why)
{
    void *answer = request_alloc(r, 1, k_message_struct_size(r->api->response));
    counter_add(r->broker->row, COUNTER_REQUEST_ERRORS, 1);
    if (answer && k_refusal(r->api, r->version, r->body, error, why ? why : k_error_message(error), &r->arena, answer) == 0)
        request_reply(r, answer);
    else
        request_abandon(r, "out of memory");
}

void request_abandon(Request *r, const char *why)
{
    counter_add(r->broker->row, COUNTER_REQUEST_ERRORS, 1);
    if (r->source)
        r->source->abandon(r, why);
    request_free(r);
}

void request_end_silently(Request *r)
{
    if (r->source)
        r->source->silent(r);
    request_free(r);
}

bool request_may(const Request *r, uint32_t rights)
{
    return rights_missing(r->who.rights, rights) == 0;
}

void *request_alloc(Request *r, size_t n, size_t size)
{
    if (size > 0 && n > REQUEST_ARENA_MAX / size)
        return NULL;
    return arena_alloc(&r->arena, MAX(n * size, (size_t)1));
}
