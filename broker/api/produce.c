/*
 * Produce from a Kafka request. The records lie in the request's frame, which is ours, so they are checked and patched in
 * place; the answer is sent when the last partition has its result.
 */

#include "broker/api/api.h"

#include <string.h>

typedef struct ProduceRequest {
    Request *request;
    KProduceResponse response;
    int32_t waiting; /* partitions without a result, and one for the handler itself */
    bool failed;
    List items; /* Produce.owner_node */
} ProduceRequest;

typedef KProduceResponseResponsesPartitionResponses Result;
typedef KProduceResponseResponsesPartitionResponsesRecordErrors RecordError;

static void finished(ProduceRequest *s)
{
    Request *r = s->request;
    const KProduceRequest *q = r->body;
    if (--s->waiting > 0)
        return;
    if (q->acks != 0)
        request_reply(r, &s->response);
    else if (s->failed)
        request_abandon(r, "a batch sent with acks=0 was refused"); /* closing is the only way to tell */
    else
        request_end_silently(r);
}

static void name_records(Request *r, const Buf *indexes, Result *a)
{
    size_t n = indexes->size / sizeof(int32_t);
    if (n == 0 || !(a->record_errors.items = request_alloc(r, n, sizeof(RecordError))))
        return;
    for (size_t i = 0; i < n; i++) {
        a->record_errors.items[i].batch_index_error_message = K_STR_NULL; /* the partition's message says it */
        memcpy(&a->record_errors.items[i].batch_index, indexes->data + i * sizeof(int32_t), sizeof(int32_t));
    }
    a->record_errors.n = (int32_t)n;
}

static void set_result(Request *r, const Produce *item, Result *a)
{
    a->error_code = item->error;
    a->base_offset = item->base_offset;
    a->log_append_time_ms = item->log_append_ms;
    if (item->error == K_NONE) {
        a->log_start_offset = item->partition && item->partition->log ? plog_start(item->partition->log) : 0;
        return;
    }
    counter_add(r->broker->row, COUNTER_REQUEST_ERRORS, 1);
    a->error_message = k_str(item->why);
    name_records(r, &item->bad_records, a);
    if (item->error == K_NOT_LEADER_OR_FOLLOWER && item->partition) {
        a->current_leader.leader_id = item->partition->replica.leader_id;
        a->current_leader.leader_epoch = item->partition->replica.leader_epoch;
    }
}

static void on_produced(Produce *item)
{
    ProduceRequest *s = item->owner;
    s->failed |= item->error != K_NONE;
    set_result(s->request, item, (Result *)(uintptr_t)item->tag);
    finished(s);
}

static void cancel(Request *r)
{
    ProduceRequest *s = r->state;
    for (List *l; (l = list_pop(&s->items)) != NULL;) {
        Produce *item = CONTAINER_OF(l, Produce, owner_node);
        item->done = NULL; /* the batch goes to the log all the same; nobody hears of it */
        produce_detach(item);
    }
}

static void new_result(Result *a, int32_t index)
{
    *a = (Result){.index = index,
                  .base_offset = -1,
                  .log_append_time_ms = -1,
                  .log_start_offset = -1,
                  .error_message = K_STR_NULL,
                  .current_leader = {-1, -1}};
}

static KafkaError before_batch(const Request *r, const KProduceRequest *q, const KBytes *records)
{
    BatchHeader h;
    if (q->acks < -1 || q->acks > 1)
        return K_INVALID_REQUIRED_ACKS;
    if (records->len <= 0)
        return K_INVALID_RECORD;
    if (r->version < 7 && batch_header_decode(records->ptr, (size_t)records->len, &h) == 0 &&
        (h.attributes & BATCH_ATTR_CODEC_MASK) == CODEC_ZSTD)
        return K_UNSUPPORTED_COMPRESSION_TYPE;
    return K_NONE;
}

static void produce_one(ProduceRequest *s, KStr topic, const KProduceRequestTopicDataPartitionData *q, Result *a)
{
    Request *r = s->request;
    Broker *b = r->broker;
    const KProduceRequest *body = r->body;
    KafkaError e = before_batch(r, body, &q->records);
    /* Strings and bytes of a decoded request point into its frame, which belongs to it alone. */
    void *memory = (void *)(uintptr_t)q->records.ptr;
    Produce *item = e == K_NONE ? produce_begin(b, partition_find(&b->partitions, topic, q->index), (size_t)q->records.len, memory) : NULL;
    if (!item) {
        a->error_code = e != K_NONE ? e : K_UNKNOWN_SERVER_ERROR;
        s->failed = true;
        return;
    }
    counter_add(b->row, r->who.local ? COUNTER_BYTES_IN_SHM : COUNTER_BYTES_IN_TCP, item->size);
    item->acks = body->acks;
    item->privileged = request_may(r, RIGHT_INTERNAL) || (request_may(r, RIGHT_ADMIN) && k_str_equal(r->client_id, "__admin_client"));
    item->owner = s;
    item->tag = (uint64_t)(uintptr_t)a;
    item->done = on_produced;
    if (body->timeout_ms > 0)
        item->deadline_ns = r->received_ns + body->timeout_ms * NS_PER_MS;
    list_append(&s->items, &item->owner_node);
    s->waiting++;
    produce_submit(item);
}

static bool make_response(ProduceRequest *s, const KProduceRequest *q)
{
    Request *r = s->request;
    s->response.responses.n = MAX(q->topic_data.n, 0);
    s->response.responses.items = request_alloc(r, (size_t)s->response.responses.n, sizeof(*s->response.responses.items));
    for (int32_t i = 0; s->response.responses.items && i < s->response.responses.n; i++) {
        KProduceResponseResponses *to = &s->response.responses.items[i];
        to->name = q->topic_data.items[i].name;
        to->partition_responses.n = MAX(q->topic_data.items[i].partition_data.n, 0);
        to->partition_responses.items = request_alloc(r, (size_t)to->partition_responses.n, sizeof(Result));
        if (!to->partition_responses.items)
            return false;
        for (int32_t j = 0; j < to->partition_responses.n; j++)
            new_result(&to->partition_responses.items[j], q->topic_data.items[i].partition_data.items[j].index);
    }
    return s->response.responses.items != NULL;
}

void api_produce_handle(Request *r)
{
    const KProduceRequest *q = r->body;
    ProduceRequest *s = request_alloc(r, 1, sizeof(*s));
    if (s) {
        *s = (ProduceRequest){.request = r, .waiting = 1};
        list_init(&s->items);
    }
    if (!s || !make_response(s, q)) {
        request_abandon(r, "out of memory");
        return;
    }
    r->state = s;
    r->cancel = cancel;
    for (int32_t i = 0; i < s->response.responses.n; i++) {
        const KProduceRequestTopicData *from = &q->topic_data.items[i];
        for (int32_t j = 0; j < from->partition_data.n; j++)
            produce_one(s, from->name, &from->partition_data.items[j], &s->response.responses.items[i].partition_responses.items[j]);
    }
    finished(s);
}
