#pragma once

/*
 * What the files of libleat share about one connection. client.c owns the session and its reconnection, request.c Kafka
 * requests, topic.c topics; producer.c and consumer.c hang on it.
 *
 * A turn (client_turn) does all that is due: completions, frames, time-outs, what producers and consumers want to send;
 * one doorbell at its end. Nothing of the library runs outside of a turn but leat_produce(), which appends and submits.
 *
 * Vocabulary
 *   op     an entry of the submission queue that still owes a completion; its id travels as user_data
 *   frame  what the broker put into the delivery ring; taken in order, released in order (client_hold/client_let_go)
 *   down   no session: batches and requests wait here, reconnection is due at reconnect_at_ns
 */

#include "base/buf.h"
#include "base/list.h"
#include "client/conf.h"
#include "shm/fab_client.h"
#include "wire/codec.h"

#include <errno.h>

#define CLIENT_ERROR_MAX    512
#define CLIENT_REQUESTS_MAX 4096 /* in flight; then -EBUSY */
#define CLIENT_OLD_MAX      8    /* dead sessions whose records are still borrowed */

typedef struct Request Request;
typedef struct TcpRoad TcpRoad;
typedef struct Part Part;

typedef enum OpKind { OP_FREE, OP_REQUEST, OP_OPEN, OP_SUBSCRIBE, OP_UNSUBSCRIBE, OP_PRODUCE, OP_LEASE } OpKind;

typedef struct Op {
    uint64_t id; /* user_data; changes with every use of the slot */
    OpKind kind;
    bool ends_when_consumed; /* OP_PRODUCE with acks=0: no ACKED follows */
    uint32_t next_free;
    uint32_t generation; /* OP_SUBSCRIBE, OP_LEASE: of the part */
    void *block; /* arena memory of a batch that was given up before the broker took it; or NULL */
    void *owner; /* Request, leat_topic, leat_consumer, Batch; NULL: nobody waits any more */
} Op;

typedef struct HeldFrame {
    uint64_t release_at;
    bool done;
} HeldFrame;

typedef enum TopicState { TOPIC_CLOSED, TOPIC_OPENING, TOPIC_OPEN } TopicState;

struct leat_topic {
    leat_client *client;
    char *name;
    uint32_t index; /* in client->topics, for life */
    int32_t partitions;
    TopicState state; /* of the handle in the present session */
    bool wanted;      /* open it again when a session begins */
    uint32_t handle;
    int16_t kafka_error; /* of the last attempt to open */
    int64_t retry_at_ns;
    Part **parts; /* subscriptions by partition; n_parts slots */
    int32_t n_parts;
};

struct leat_client {
    const uint8_t *alive; /* 1; reads 0 in a forked child (MADV_WIPEONFORK) */
    Settings settings;
    TcpRoad *tcp; /* the other road; everything below is then unused but error_text */

    FabClient *fab;     /* NULL = down */
    FabClient *joining; /* HELLO is sent, the answer awaited */
    bool broken;    /* the session died; the next turn tears it down */
    FabClient *old[CLIENT_OLD_MAX];
    size_t n_old;
    int epoll_fd;
    int64_t down_since_ns, reconnect_at_ns, backoff_ms;
    uint64_t sessions; /* how many there were */
    bool ring;         /* a doorbell is due */
    bool in_turn;

    Op *ops;
    uint32_t n_ops, free_op; /* free_op: index + 1, 0 = none */
    uint64_t op_serial;

    HeldFrame *held; /* ring of held_mask + 1 */
    uint64_t held_first, held_end, held_mask;

    List requests; /* Request */
    uint32_t n_requests, n_unsent;
    List producers, consumers;
    leat_topic **topics;
    size_t n_topics;
    leat_topic **by_handle; /* small handles; others by scan */
    size_t n_by_handle;
    size_t topics_unopened; /* in this session */
    int64_t metadata_due_ns;
    Request *metadata_request, *versions_request;
    char versions_fault[160]; /* the broker is of another release; "" = it is not */

    uint32_t generation; /* last one given to a subscription */
    int16_t kafka_error;
    char error_text[CLIENT_ERROR_MAX];
};

/* ---- client.c ------------------------------------------------------------------------------------------------------ */

/* Return: 0, -ECHILD in a forked child, -EINVAL for NULL. Every public call begins with it. */
static inline int client_check(const leat_client *c)
{
    if (UNLIKELY(!c))
        return -EINVAL;
    return LIKELY(*(const volatile uint8_t *)c->alive) ? 0 : -ECHILD;
}

/* Of a call that asks the broker: a negative time is request.timeout.ms. */
static inline int64_t client_timeout_ms(const leat_client *c, int64_t timeout_ms)
{
    return timeout_ms < 0 ? c->settings.request_timeout_ms : timeout_ms;
}

/* Remembers why. Return: `error`. */
int client_fail(leat_client *c, int error, const char *fmt, ...) PRINTF_LIKE(3, 4);
/* The same for an error of the broker; what: "topic 'x'". Return: its errno (error.c). */
int client_fail_kafka(leat_client *c, int16_t kafka_error, const char *what);

int client_turn(leat_client *c); /* never blocks. Return: 0 or -ECHILD */
void client_turn_quietly(leat_client *c); /* without rebalance callbacks: from inside leat_produce() */
void client_orphan(const leat_client *c); /* its error text outlives it, for leat_error_text(NULL) */
void client_reap(leat_client *c); /* completions only; cheap */
void client_doorbell(leat_client *c);
/* Sleeps until something may have arrived or the deadline (mono ns). Return: 0; -EINTR. */
int client_sleep(leat_client *c, int64_t deadline_ns);
int64_t client_deadline_ns(leat_client *c); /* next timer; INT64_MAX none */
/* Between two tries of one call: sleeps for retry.backoff.ms. Return: false past the deadline, without sleeping. */
bool client_back_off(leat_client *c, int64_t deadline_ns);
/* A ring of *inout_mask + 1 items becomes twice as large (items NULL: the first memory of `least`, a power of two). Return: the
 * new memory, with items first..end in their places; NULL: out of memory, nothing changed. */
void *client_ring_grow(void *items, size_t item_size, size_t least, uint64_t first, uint64_t end, uint64_t *inout_mask);
typedef bool (*ClientDoneFn)(void *userdata);
/* Turns and sleeps until done. Return: 0; -ETIMEDOUT; -ECHILD. Signals do not end it. */
int client_run_until(leat_client *c, ClientDoneFn done, void *userdata, int64_t deadline_ns);

/* Submits one descriptor; sqe->user_data is filled. Return: 0; -EAGAIN queue full; -ENOTCONN. */
int client_submit(leat_client *c, OpKind kind, void *owner, FabSqe *sqe, Op **ret_op);
/* Copies the payload to the arena, or sends a memfd when it is large. */
int client_submit_copy(leat_client *c, OpKind kind, void *owner, FabSqe *sqe, const void *payload, size_t size, Op **ret_op);
Op *client_find_op(leat_client *c, uint64_t id);
void client_op_free(leat_client *c, Op *op);
/* Under the id of an op that is there already. */
int client_submit_again(leat_client *c, const Op *op, FabSqe *sqe);

void client_let_go(leat_client *c, uint64_t held); /* frame `held` is used up */
bool client_is_borrowing(const leat_client *c);
void client_bury(leat_client *c); /* frees dead sessions when no record of theirs is borrowed */

/* ---- request.c ----------------------------------------------------------------------------------------------------- */

/* @error: 0 with the body (borrowed), or -ECONNRESET, -ETIMEDOUT. The request is gone when this returns. */
typedef void (*RequestFn)(void *userdata, int error, const void *body, size_t size);

typedef struct RequestOptions {
    int16_t api_key;
    bool again; /* may be sent anew in the next session: asking twice does no harm */
    int64_t timeout_ms;
    RequestFn fn;
    void *userdata;
} RequestOptions;

/* @message: struct of the API's request. Return: 0; -EBUSY; -ENOMEM; -EINVAL. */
int request_start(leat_client *c, const RequestOptions *o, const void *message, Request **ret);
int request_start_raw(leat_client *c, const RequestOptions *o, int16_t version, const void *body, size_t size, Request **ret);
Request *request_cancel(Request *r); /* the callback is not called; returns NULL */
/* Waits for the answer and decodes it into the arena. Return: 0; -ETIMEDOUT; -ECONNRESET; -EBADMSG ... (error text set) */
int request_call(leat_client *c, int16_t api_key, bool again, const void *message, int64_t timeout_ms, Arena *arena,
                 void *ret_response);
/* The body of an answer, in the version that was asked in. Return: 0, -EBADMSG, -ENOMEM. */
int request_decode(int16_t api_key, const void *body, size_t size, Arena *arena, void *ret_response);
void requests_turn(leat_client *c, int64_t now_ns);
int64_t requests_deadline_ns(const leat_client *c);
void requests_down(leat_client *c); /* the session died */
/* @kafka_error: the broker refused the request as a whole; there is no body. */
void request_answer(leat_client *c, Op *op, int16_t kafka_error, const void *body, size_t size);

/* ---- admin.c ------------------------------------------------------------------------------------------------------- */

/* Each names a topic and a partition. Return: 0; -EINVAL with text; -ECHILD. */
int items_check(leat_client *c, const leat_partition *items, size_t n);

/* ---- versions.c ---------------------------------------------------------------------------------------------------- */

int16_t request_version(int16_t api_key); /* the one that the library speaks */
void versions_ask(leat_client *c);        /* a fault breaks the session: c->versions_fault says which */
bool versions_are_known(void *client);

/* ---- topic.c ------------------------------------------------------------------------------------------------------- */

/* The topic by name, made when unknown (state closed: it opens in the next turns). NULL: out of memory. */
leat_topic *topic_intern(leat_client *c, const char *name, size_t size);
leat_topic *topic_find(const leat_client *c, const char *name, size_t size);
leat_topic *topic_by_handle(const leat_client *c, uint32_t handle);
void topics_turn(leat_client *c, int64_t now_ns);
int64_t topics_deadline_ns(const leat_client *c);
void topics_down(leat_client *c);
void topics_free(leat_client *c);
void topic_opened(leat_topic *t, const FabCqe *cqe);
void topic_reopen(leat_topic *t);                             /* the handle went stale: deleted, perhaps made anew */
void topic_set_partitions(leat_topic *t, int32_t partitions); /* counts only grow */
int topics_refresh(leat_client *c);                           /* asks for metadata soon; harmless to repeat */
int topic_require_partition(leat_topic *t, int32_t partition); /* room in parts[]; -ENOMEM */

/* ---- error.c ------------------------------------------------------------------------------------------------------- */

int error_from_kafka(int16_t kafka_error); /* negative errno; 0 for 0 */
