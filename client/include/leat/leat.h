#ifndef LEAT_H
#define LEAT_H

/*
 * libleat: produce to and consume from Leat.
 *
 * One program, two roads, chosen by the configuration alone:
 *   bootstrap.servers = unix:/run/leat/main/client.sock   shared memory; no thread is made, nothing hidden
 *   bootstrap.servers = host:9092                          TCP through librdkafka; same calls, its threads exist
 *
 * Errors     0 or a count on success, else a negative errno: leat_error_text() has a sentence about the last one with
 *            thing and place, leat_kafka_error() the broker's number when it was the broker's. Every call may also
 *            return -EINVAL (an argument that cannot be), -ENOMEM, and -ECHILD in a forked child, where nothing works.
 * Threads    a client, and all producers, consumers and topics on it, belong to one thread at a time; different clients
 *            are independent. No callback ever comes from another thread.
 * Ownership  what you pass is copied before the call returns, but for handles. What you get is borrowed: each says how
 *            long. A topic lives as long as its client. *_free and *_close take NULL and return NULL.
 * Units      times are milliseconds; timestamps are milliseconds since 1970; sizes are bytes, -1 = null.
 * Time-outs  leat_wait(), leat_poll(), leat_flush(): negative = without end, 0 = do not wait. Calls that ask the broker
 *            something: negative = request.timeout.ms; after -ETIMEDOUT or -ECONNRESET it may be done all the same.
 * Reconnects are the library's: a broker that restarts costs waiting, no acknowledged record, and no handle.
 *
 * Event loops: poll leat_fd() for leat_events() no longer than leat_timeout(), then call leat_process(), then take what
 * there is with leat_poll(..., 0, ...) and leat_reports() - and nothing else is ever needed. leat_timeout() prepares
 * the sleep, so it comes last before poll. Without a loop, the calls with a timeout do the waiting.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct leat_conf leat_conf;
typedef struct leat_client leat_client;     /* a connection: session or TCP; reconnects by itself */
typedef struct leat_topic leat_topic;       /* a topic as one client sees it */
typedef struct leat_producer leat_producer;
typedef struct leat_consumer leat_consumer;

/* ---- configuration ----------------------------------------------------------------------------------------------- */
/* bootstrap.servers client.id acks linger.ms batch.size compression.type compression.level enable.idempotence
 * delivery.timeout.ms request.timeout.ms socket.connection.setup.timeout.ms (of the first connection) partitioner (murmur2, sticky, roundrobin) buffer.memory
 * group.id group.instance.id auto.offset.reset (earliest, latest, none) enable.auto.commit auto.commit.interval.ms
 * partition.assignment.strategy (range, roundrobin, sticky, cooperative-sticky; comma list) session.timeout.ms
 * heartbeat.interval.ms max.poll.interval.ms fetch.min.bytes fetch.max.wait.ms max.partition.fetch.bytes
 * isolation.level reconnect.backoff.ms reconnect.backoff.max.ms retry.backoff.ms metadata.max.age.ms check.crcs
 * allow.auto.create.topics ; sizes take units (64K), durations too (250ms). Ours alone, for sessions:
 * session.arena.bytes session.delivery.bytes lease.min.bytes. With host:port any librdkafka property; on a session
 * those mean nothing.
 *
 * Where a session differs from what the names promise: a member that dies is out of its group at once; one that is
 * alive but does not poll - busy, stopped or frozen, that looks the same - is out after max.poll.interval.ms (five
 * minutes unless set). session.timeout.ms is how long a member may stay away after the broker came back from a restart;
 * heartbeat.interval.ms does not matter. With host:port the strategy "sticky" is missing. Transactions are in neither: transactional.id is refused,
 * -ENOTSUP. */
leat_conf *leat_conf_new(void); /* NULL: out of memory */
leat_conf *leat_conf_free(leat_conf *conf); /* at any time: clients, producers and consumers have read what they need */
/* Return: 0; -ENOENT no such key; -EINVAL bad value. */
int leat_conf_set(leat_conf *conf, const char *key, const char *value);
const char *leat_conf_get(const leat_conf *conf, const char *key); /* borrowed till set again; NULL: unknown */

/* ---- connection -------------------------------------------------------------------------------------------------- */
/* A session connects here: -ENOENT or -ECONNREFUSED nobody at that path; -EACCES this user may not; -EPROTONOSUPPORT
 * another release; -ETIMEDOUT. host:port connects later, so mistakes show at the first use. conf NULL: all defaults. */
int leat_client_new(const leat_conf *conf, leat_client **ret);
leat_client *leat_client_free(leat_client *client); /* its producers and consumers must be gone */
int leat_fd(const leat_client *client);      /* stays the same for the client's life, also over reconnects */
int leat_events(const leat_client *client);  /* poll(2) events */
int64_t leat_timeout(leat_client *client);   /* ms until leat_process() is due; -1 none */
int leat_process(leat_client *client);       /* never blocks; does all that is due. May call the rebalance function */
/* Sleeps until there is something or a signal comes, then processes. */
int leat_wait(leat_client *client, int64_t timeout_ms);
bool leat_is_connected(const leat_client *client);
/* Of the last failure on this client; never NULL. client NULL: why the last leat_*_new() of this thread failed. */
const char *leat_error_text(const leat_client *client); /* borrowed until the next call on the client */
const char *leat_strerror(int error);        /* negative errno or leat_kafka_error() */
const char *leat_version(void);

/* Borrowed until the client goes. Waits up to request.timeout.ms. -ENOENT: no such topic; a client with a producer, or
 * with allow.auto.create.topics, asks for it first, and the broker's auto.create.topics.enable decides. -EACCES. */
int leat_topic_open(leat_client *client, const char *name, leat_topic **ret);
const char *leat_topic_name(const leat_topic *topic);
int32_t leat_topic_partitions(const leat_topic *topic);

/* ---- records ----------------------------------------------------------------------------------------------------- */
typedef struct leat_header {
    const char *key; /* not NULL, not NUL-terminated: key_size counts */
    size_t key_size;
    const void *value;
    ptrdiff_t value_size; /* -1 = null */
} leat_header;

#define LEAT_PARTITION_ANY (-1)

typedef struct leat_message { /* what a producer hands over; begin with LEAT_MESSAGE_INIT */
    size_t size;              /* sizeof(leat_message) */
    leat_topic *topic;
    int32_t partition;        /* LEAT_PARTITION_ANY: by key (murmur2), sticky without */
    int64_t timestamp_ms;     /* 0: now */
    const void *key;
    ptrdiff_t key_size; /* -1 = null */
    const void *value;
    ptrdiff_t value_size; /* -1 = null */
    const leat_header *headers; /* 1024 at most; keys may repeat */
    size_t headers_count;
    void *opaque; /* not NULL: a report for this record will carry it */
} leat_message;
#define LEAT_MESSAGE_INIT {.size = sizeof(leat_message), .partition = LEAT_PARTITION_ANY, .key_size = -1, .value_size = -1}

/* ---- producer ---------------------------------------------------------------------------------------------------- */
int leat_producer_new(const leat_conf *conf, leat_producer **ret); /* with a client of its own */
int leat_producer_attach(leat_client *client, const leat_conf *conf, leat_producer **ret);
/* Flushes for delivery.timeout.ms at most. *ret_lost (may be NULL) = records of its whole life that were not
 * acknowledged, those that reports spoke of included. Returns NULL. */
leat_producer *leat_producer_close(leat_producer *producer, uint64_t *ret_lost);
leat_client *leat_producer_client(leat_producer *producer);

/* Hands over one record; never blocks. It is acknowledged when its report says so, or when leat_flush() returned 0.
 * Return: 0; -EAGAIN buffer full, or 2^20 reports unread: call leat_wait() or leat_flush(), leat_reports(), and again;
 * -EMSGSIZE larger than message.max.bytes of the broker; -ENOENT no such partition; -EIO a record before was refused
 * for good: so until leat_reports() has been drained; -ECONNRESET only after delivery.timeout.ms without a broker. */
int leat_produce(leat_producer *producer, const leat_message *message);

/* Zero-copy: room for the value inside the open batch; fill it, then commit or abort before any other call on the
 * producer (-EBUSY till then). key, partition, timestamp and opaque of the message count, its value does not; no
 * headers. Errors as leat_produce(); -ENOTSUP over TCP. A process that dies in between leaves nothing behind. */
int leat_claim(leat_producer *producer, const leat_message *message_without_value, size_t value_size, void **ret_value);
int leat_commit(leat_producer *producer);
int leat_abort(leat_producer *producer);

/* Return: 0 all sent and acknowledged; -ETIMEDOUT (the text says what they wait for); -EIO some were refused: see
 * reports */
int leat_flush(leat_producer *producer, int64_t timeout_ms);
uint64_t leat_in_flight(const leat_producer *producer);      /* records not yet acknowledged */

typedef struct leat_report { /* for records with an opaque, and for every batch that failed */
    void *opaque;            /* NULL: failed batch of records without one */
    int error;               /* 0, negative errno */
    int16_t kafka_error;
    leat_topic *topic;
    int32_t partition;
    int64_t offset; /* -1 with acks=0 */
    int64_t timestamp_ms;
    uint32_t records; /* how many this report speaks of */
} leat_report;
/* Takes up to n_max reports, oldest first; 0 = none now. Within a partition they come in the order of the records. */
size_t leat_reports(leat_producer *producer, leat_report *ret, size_t n_max);

/* ---- consumer ---------------------------------------------------------------------------------------------------- */
typedef struct leat_record { /* borrowed: valid until the next leat_poll() on this consumer */
    leat_topic *topic;
    int32_t partition;
    int32_t leader_epoch;
    int64_t offset;
    int64_t timestamp_ms;
    const void *key;
    ptrdiff_t key_size; /* -1 = null */
    const void *value;
    ptrdiff_t value_size; /* -1 = null */
    size_t headers_count;
    const void *headers; /* walk with leat_record_header() */
    size_t headers_size;
} leat_record;
/* i-th header. Return: 0; -ENOENT past the last. */
int leat_record_header(const leat_record *record, size_t i, leat_header *ret);

typedef struct leat_partition {
    const char *topic;
    int32_t partition;
    int64_t offset; /* LEAT_OFFSET_*, or a number */
    int error;      /* per item, in results */
} leat_partition;
#define LEAT_OFFSET_LATEST   (-1)
#define LEAT_OFFSET_EARLIEST (-2)
#define LEAT_OFFSET_COMMITTED (-1000) /* of group.id; auto.offset.reset when there is none */

int leat_consumer_new(const leat_conf *conf, leat_consumer **ret);
int leat_consumer_attach(leat_client *client, const leat_conf *conf, leat_consumer **ret);
/* Commits (auto-commit), leaves the group; 2 s at most for each. The rebalance function is not called. Returns NULL. */
leat_consumer *leat_consumer_close(leat_consumer *consumer);
leat_client *leat_consumer_client(leat_consumer *consumer);

/* Joins group.id; the joining happens in the polls that follow. Both replace what was subscribed or assigned before. A
 * topic or partition that is not there is waited for without an error: leat_topic_open() tells. */
int leat_subscribe(leat_consumer *consumer, const char *const *topics, size_t n);
int leat_unsubscribe(leat_consumer *consumer); /* commits (auto-commit) and leaves; also ends leat_assign() */
/* No membership. -EBUSY: one of them twice, or with another consumer of this client. */
int leat_assign(leat_consumer *consumer, const leat_partition *partitions, size_t n);
/* Up to n_max records in the order of each partition; 0 = none within timeout_ms, or a signal came. Counts as progress
 * (max.poll.interval.ms). Ends the loan of the records of the call before; with auto-commit those count as processed.
 * -ERANGE: offset out of range or none committed, and auto.offset.reset=none; leat_seek() goes on. -EACCES. -EBADMSG:
 * damage that the broker reports; it is tried again, leat_seek() passes it. -EBUSY inside the rebalance function. Never
 * -EAGAIN or -ECONNRESET: it reconnects. */
int leat_poll(leat_consumer *consumer, int64_t timeout_ms, leat_record *ret, size_t n_max);
/* offset: a number or LEAT_OFFSET_*. What was on its way is dropped. -ENOENT not assigned. */
int leat_seek(leat_consumer *consumer, const char *topic, int32_t partition, int64_t offset);
int leat_pause(leat_consumer *consumer, const char *topic, int32_t partition, bool pause); /* -ENOENT not assigned */
int64_t leat_position(const leat_consumer *consumer, const char *topic, int32_t partition); /* next offset; -1 */
/* Next offsets of everything polled so far (items == NULL), or those given: of the record to read next, not the last
 * one read. Waits for the answer up to timeout_ms; timeout 0: sends and returns. -ESTALE: no member any more, another
 * may have the partitions; -ENOENT no such topic. */
int leat_commit_offsets(leat_consumer *consumer, const leat_partition *items, size_t n, int64_t timeout_ms);
int leat_committed(leat_consumer *consumer, leat_partition *inout, size_t n, int64_t timeout_ms); /* offset -1: none */
/* Current assignment; returns the count (may exceed n_max). Names are borrowed until the next leat_poll(). */
size_t leat_assignment(const leat_consumer *consumer, leat_partition *ret, size_t n_max);
bool leat_at_end(const leat_consumer *consumer); /* every assigned partition delivered up to its high watermark */

/* REVOKED comes while the partitions are still ours: what was processed can be committed. LOST comes when they may be
 * another member's already: too late to commit. ASSIGNED and REVOKED name what changes, not all there is
 * (leat_assignment()). */
typedef enum leat_group_event_kind { LEAT_GROUP_ASSIGNED = 1, LEAT_GROUP_REVOKED, LEAT_GROUP_LOST } leat_group_event_kind;
typedef struct leat_group_event {
    leat_group_event_kind kind;
    const leat_partition *partitions; /* borrowed until the next leat_poll() */
    size_t n;
} leat_group_event;
/* Called inside leat_poll()/leat_process()/leat_wait() of this consumer's own thread, before partitions go or after
 * they came. It may commit, seek, pause and ask; what changes the assignment, and leat_poll(), say -EBUSY there. */
typedef void (*leat_rebalance_fn)(leat_consumer *consumer, const leat_group_event *event, void *userdata);
void leat_on_rebalance(leat_consumer *consumer, leat_rebalance_fn fn, void *userdata);

/* ---- administration ---------------------------------------------------------------------------------------------- */
/* The broker's own sentence is in leat_error_text(). -ENOENT no such topic; -EACCES this user may not; -EINVAL with a
 * reason. */
typedef struct leat_config_item {
    const char *name, *value;
} leat_config_item;
/* partitions and replicas -1: the broker's defaults. Up to 128 configs with Kafka's names. -EEXIST. */
int leat_topic_create(leat_client *client, const char *name, int32_t partitions, int16_t replicas,
                      const leat_config_item *configs, size_t n, int64_t timeout_ms);
int leat_topic_delete(leat_client *client, const char *name, int64_t timeout_ms);
/* To so many in all. */
int leat_topic_grow(leat_client *client, const char *name, int32_t partitions, int64_t timeout_ms);
/* Only the named ones change; a value of NULL takes one back to its default. */
int leat_topic_configure(leat_client *client, const char *name, const leat_config_item *configs, size_t n, int64_t timeout_ms);
/* Earliest or latest (LEAT_OFFSET_*), or first offset at or after a time in ms (>= 0; -1 when there is none). offset of
 * each item is in and out, error tells of each; the first error is returned. */
int leat_list_offsets(leat_client *client, leat_partition *inout, size_t n, int64_t timeout_ms);
/* Everything before the offset goes; -1: everything there is. offset comes back as the new start. -ERANGE past the end.
 * */
int leat_delete_records(leat_client *client, leat_partition *before, size_t n, int64_t timeout_ms);

/* Any Kafka request over the session: body without header; *ret_response is the body of the answer, free() it.
 * -ENOTSUP over TCP. */
int leat_request(leat_client *client, int16_t api_key, int16_t api_version, const void *body, size_t size, int64_t timeout_ms,
                 void **ret_response, size_t *ret_size);
int16_t leat_kafka_error(const leat_client *client); /* of the last failed call; 0 none */

#ifdef __cplusplus
}
#endif
#endif
