#pragma once

/*
 * Requests: one Kafka request from a local session or a TCP connection, and the table of who answers it.
 *
 * request_start() decodes and checks rights, then runs the API's handler. A handler answers at once or keeps the request
 * (request->state, ->cancel) and answers later; exactly one of request_reply(), request_reply_body(), request_refuse()
 * ends it. When its source dies first, cancel() runs, must let go of everything it waits for, and the request is freed
 * without an answer.
 *
 * Memory: `frame` holds the request's bytes, decoded strings point into it; everything else comes from `arena`.
 */

#include "base/buf.h"
#include "base/list.h"
#include "broker/broker.h"
#include "wire/codec.h"
#include "wire/error.h"
#include "wire/messages.h"

enum { /* Kafka's api keys that this broker knows by name */
    API_PRODUCE = 0,
    API_FETCH = 1,
    API_LIST_OFFSETS = 2,
    API_METADATA = 3,
    API_OFFSET_COMMIT = 8,
    API_OFFSET_FETCH = 9,
    API_FIND_COORDINATOR = 10,
    API_JOIN_GROUP = 11,
    API_HEARTBEAT = 12,
    API_LEAVE_GROUP = 13,
    API_SYNC_GROUP = 14,
    API_DESCRIBE_GROUPS = 15,
    API_LIST_GROUPS = 16,
    API_API_VERSIONS = 18,
    API_CREATE_TOPICS = 19,
    API_DELETE_TOPICS = 20,
    API_DELETE_RECORDS = 21,
    API_INIT_PRODUCER_ID = 22,
    API_OFFSET_FOR_LEADER_EPOCH = 23,
    API_DESCRIBE_CONFIGS = 32,
    API_ALTER_CONFIGS = 33,
    API_CREATE_PARTITIONS = 37,
    API_DELETE_GROUPS = 42,
    API_INCREMENTAL_ALTER_CONFIGS = 44,
    API_OFFSET_DELETE = 47,
    API_REGISTER_BROKER = 1001,
    API_BROKER_HEARTBEAT = 1002,
    API_ALLOCATE_PRODUCER_IDS = 1003,
};

#define REQUEST_ARENA_MAX (64u << 20) /* decoded form and answer of one request */

typedef struct Request Request;

typedef struct Principal {
    uint32_t rights; /* RIGHT_* */
    uint32_t uid;    /* local peers */
    uint64_t session_id; /* local sessions; 0 for TCP */
    bool local;
    const char *listener;    /* name of the listener a TCP request came in on, NULL for sessions */
    const char *client_host; /* "/127.0.0.1" or "/local" */
} Principal;

/* A piece of a response: bytes, or a range of a segment file (its fd belongs to the piece). */
typedef struct ReplyPiece {
    const void *data; /* NULL: file */
    size_t size;
    int fd;
    int64_t position;
} ReplyPiece;

typedef struct RequestSource {
    /* Takes the pieces of a response body (no header); they are valid for the call, fds pass to the callee. */
    void (*reply)(Request *r, const ReplyPiece *pieces, size_t n);
    /* No answer can or may be given (acks=0 error, undecodable): the source decides, TCP closes. */
    void (*abandon)(Request *r, const char *why);
    /* No answer is due (acks=0 success). */
    void (*silent)(Request *r);
} RequestSource;

struct Request {
    Broker *broker;
    const KApi *api;
    int16_t version;
    int32_t correlation_id;
    KStr client_id;
    Buf frame;
    size_t body_at;    /* offset of the body in frame */
    int header_status; /* of k_request_header_decode() */
    Arena arena;
    void *body; /* decoded */
    Principal who;

    const RequestSource *source; /* NULL: the source died */
    void *source_data;
    uint64_t tag;     /* session: user_data */
    List source_node; /* the source's open requests */

    void *state;
    void (*cancel)(Request *r);
    Deadline deadline;
    int64_t received_ns;
};

typedef struct ApiHandler {
    int16_t key;
    uint32_t rights; /* RIGHT_* needed for all of it; finer checks are the handler's */
    void (*handle)(Request *r);
} ApiHandler;

const ApiHandler *api_handler(int16_t key);

/* @frame: header and body without the size word; its memory is taken. Return: the new request, or NULL: out of memory or
 * too short to hold a header (frame freed). Call request_start() after linking it to its source. */
Request *request_new(Broker *b, Buf *frame, const Principal *who);
void request_start(Request *r);
void request_orphan(Request *r); /* its source died */

void request_reply(Request *r, const void *response); /* the API's response struct */
void request_reply_body(Request *r, const void *body, size_t size);
void request_reply_pieces(Request *r, const ReplyPiece *pieces, size_t n);
/* In the API's own shape. @why: NULL = the error's own sentence. */
void request_refuse(Request *r, KafkaError error, const char *why);
void request_abandon(Request *r, const char *why);
void request_end_silently(Request *r);
bool request_may(const Request *r, uint32_t rights);
/* Arena shorthands; on failure they return NULL and the handler answers UNKNOWN_SERVER_ERROR. */
void *request_alloc(Request *r, size_t n, size_t size);

/* Handlers, by file */
void api_versions_handle(Request *r);      /* versions.c */
void api_metadata_handle(Request *r);      /* metadata.c */
void api_produce_handle(Request *r);       /* produce.c */
void api_fetch_handle(Request *r);         /* fetch.c */
void api_list_offsets_handle(Request *r);  /* offsets.c */
void api_epoch_end_handle(Request *r);
void api_delete_records_handle(Request *r);
void api_find_coordinator_handle(Request *r); /* coordinator.c */
void api_group_handle(Request *r);            /* forwards to the coordinator */
void api_init_producer_id_handle(Request *r); /* producer_id.c */
void api_describe_configs_handle(Request *r); /* configs.c */
void api_admin_handle(Request *r);            /* admin.c: forwards to the controller */
void api_fetch_wake(Broker *b, Partition *p);
void api_fetch_run_woken(Broker *b);           /* end of turn: parked fetches whose partitions moved */

bool api_topic_is_internal(KStr name);
