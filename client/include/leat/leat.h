#ifndef LEAT_H
#define LEAT_H

/*
 * libleat: produce to and consume from Leat.
 *
 * One program, two roads, chosen by the configuration alone:
 *   bootstrap.servers = unix:/run/leat/main/client.sock   shared memory; no thread is made, nothing runs behind your back
 *   bootstrap.servers = host:9092                          TCP through librdkafka; same calls, its threads exist
 *
 * Every function that can fail returns 0 (or a count) or a negative errno; leat_error_text() says more about the last one.
 * A handle and what hangs on it belong to one thread at a time. After fork() the child gets -ECHILD from every call.
 * Names and meanings of configuration keys are Kafka's. Strings are UTF-8; a size of -1 for a key or value means null.
 *
 * Event loops: poll leat_fd() for leat_events() no longer than leat_timeout(), then call leat_process() - and nothing else
 * is ever needed. Without a loop, the calls with a timeout do the waiting.
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

/* ---- configuration ------------------------------------------------------------------------------------------------- */
/* bootstrap.servers client.id acks linger.ms batch.size compression.type compression.level enable.idempotence
 * delivery.timeout.ms request.timeout.ms partitioner (murmur2, sticky, roundrobin) buffer.memory
 * group.id group.instance.id auto.offset.reset (earliest, latest, none) enable.auto.commit auto.commit.interval.ms
 * partition.assignment.strategy (range, roundrobin, sticky, cooperative-sticky; comma list) session.timeout.ms
 * heartbeat.interval.ms max.poll.interval.ms fetch.min.bytes fetch.max.wait.ms max.partition.fetch.bytes
 * isolation.level reconnect.backoff.ms reconnect.backoff.max.ms retry.backoff.ms metadata.max.age.ms check.crcs
 * allow.auto.create.topics ; sizes take units (64K), durations too (250ms). Ours alone, for sessions: session.arena.bytes
 * session.delivery.bytes lease.min.bytes. With host:port any librdkafka property. */
leat_conf *leat_conf_new(void); /* NULL: out of memory */
leat_conf *leat_conf_free(leat_conf *conf);
/* Return: 0; -ENOENT no such key; -EINVAL bad value. */
int leat_conf_set(leat_conf *conf, const char *key, const char *value);
const char *leat_conf_get(const leat_conf *conf, const char *key); /* NULL: unknown key */

/* ---- connection ---------------------------------------------------------------------------------------------------- */
int leat_client_new(const leat_conf *conf, leat_client **ret);
leat_client *leat_client_free(leat_client *client); /* its producers and consumers must be gone */
int leat_fd(const leat_client *client);      /* stays the same for the client's life, also over reconnects */
int leat_events(const leat_client *client);  /* poll(2) events */
int64_t leat_timeout(leat_client *client);   /* ms until leat_process() is due; -1 none */
int leat_process(leat_client *client);       /* never blocks; does all that is due */
int leat_wait(leat_client *client, int64_t timeout_ms); /* sleeps until there is something, then processes */
bool leat_is_connected(const leat_client *client);
/* Of the last failure on this client; never NULL. client NULL: why the last leat_*_new() of this thread failed. */
const char *leat_error_text(const leat_client *client);
const char *leat_strerror(int error);        /* negative errno or leat_kafka_error() */
const char *leat_version(void);

/* Borrowed until the client goes. -ENOENT: no such topic. */
int leat_topic_open(leat_client *client, const char *name, leat_topic **ret);
const char *leat_topic_name(const leat_topic *topic);
int32_t leat_topic_partitions(const leat_topic *topic);

/* ---- records ------------------------------------------------------------------------------------------------------- */
typedef struct leat_header {
    const char *key; /* NUL-terminated when produced; key_size counts */
    size_t key_size;
    const void *value;
    ptrdiff_t value_size; /* -1 = null */
} leat_header;

#define LEAT_PARTITION_ANY (-1)

typedef struct leat_message { /* what a producer hands over; copied before leat_produce() returns */
    size_t size;              /* sizeof(leat_message) */
    leat_topic *topic;
    int32_t partition;        /* LEAT_PARTITION_ANY: by key (murmur2), sticky without */
    int64_t timestamp_ms;     /* 0: now */
    const void *key;
    ptrdiff_t key_size; /* -1 = null */
    const void *value;
    ptrdiff_t value_size; /* -1 = null */
    const leat_header *headers;
    size_t headers_count;
    void *opaque; /* not NULL: a report for this record will carry it */
} leat_message;
#define LEAT_MESSAGE_INIT {.size = sizeof(leat_message), .partition = LEAT_PARTITION_ANY, .key_size = -1, .value_size = -1}

/* ---- producer ------------------------------------------------------------------------------------------------------ */
int leat_producer_new(const leat_conf *conf, leat_producer **ret); /* with a client of its own */
int leat_producer_attach(leat_client *client, const leat_conf *conf, leat_producer **ret);
/* Flushes for delivery.timeout.ms; *ret_lost (may be NULL) = records not acknowledged. Returns NULL. */
leat_producer *leat_producer_close(leat_producer *producer, uint64_t *ret_lost);
leat_client *leat_producer_client(leat_producer *producer);

/* Return: 0; -EAGAIN buffer full, call leat_wait() or leat_flush(); -EMSGSIZE; -ENOENT no such partition; -EIO a record before
 * was refused for good: so until leat_reports() has been drained; -ECONNRESET only after delivery.timeout.ms without a broker. */
int leat_produce(leat_producer *producer, const leat_message *message);

/* Zero-copy: room for the value inside the open batch; fill it, then commit or abort before any other call. No headers. */
int leat_claim(leat_producer *producer, const leat_message *message_without_value, size_t value_size, void **ret_value);
int leat_commit(leat_producer *producer);
int leat_abort(leat_producer *producer);

int leat_flush(leat_producer *producer, int64_t timeout_ms); /* all sent and acknowledged; -ETIMEDOUT; -EIO some refused */
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
size_t leat_reports(leat_producer *producer, leat_report *ret, size_t n_max); /* drains; 0 = none now */

/* ---- consumer ------------------------------------------------------------------------------------------------------ */
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
#define LEAT_OFFSET_COMMITTED (-1000) /* of the group; auto.offset.reset when there is none */

int leat_consumer_new(const leat_conf *conf, leat_consumer **ret);
int leat_consumer_attach(leat_client *client, const leat_conf *conf, leat_consumer **ret);
leat_consumer *leat_consumer_close(leat_consumer *consumer); /* commits (auto-commit), leaves the group. Returns NULL */
leat_client *leat_consumer_client(leat_consumer *consumer);

int leat_subscribe(leat_consumer *consumer, const char *const *topics, size_t n); /* joins group.id */
int leat_unsubscribe(leat_consumer *consumer);
int leat_assign(leat_consumer *consumer, const leat_partition *partitions, size_t n); /* no group membership */
/* Up to n records; 0 = none within timeout_ms. Counts as progress (max.poll.interval.ms). Releases the records of the call
 * before. -EAGAIN never; -ECONNRESET never (it reconnects); -ERANGE: offset out of range and auto.offset.reset=none. */
int leat_poll(leat_consumer *consumer, int64_t timeout_ms, leat_record *ret, size_t n_max);
int leat_seek(leat_consumer *consumer, const char *topic, int32_t partition, int64_t offset);
int leat_pause(leat_consumer *consumer, const char *topic, int32_t partition, bool pause);
int64_t leat_position(const leat_consumer *consumer, const char *topic, int32_t partition); /* next offset; -1 */
/* Next offsets of everything polled so far (items == NULL), or those given. Waits for the answer up to timeout_ms;
 * timeout 0: sends and returns. */
int leat_commit_offsets(leat_consumer *consumer, const leat_partition *items, size_t n, int64_t timeout_ms);
int leat_committed(leat_consumer *consumer, leat_partition *inout, size_t n, int64_t timeout_ms);
/* Current assignment; returns the count (may exceed n_max). Names are borrowed until the next leat_poll(). */
size_t leat_assignment(const leat_consumer *consumer, leat_partition *ret, size_t n_max);
bool leat_at_end(const leat_consumer *consumer); /* every assigned partition delivered up to its high watermark */

typedef enum leat_group_event_kind { LEAT_GROUP_ASSIGNED = 1, LEAT_GROUP_REVOKED, LEAT_GROUP_LOST } leat_group_event_kind;
typedef struct leat_group_event {
    leat_group_event_kind kind;
    const leat_partition *partitions; /* borrowed until the next leat_poll() */
    size_t n;
} leat_group_event;
/* Called inside leat_poll()/leat_process()/leat_wait() of this consumer's own thread, before partitions go or after they came.
 * It may commit, seek, pause and ask; what changes the assignment, and leat_poll(), say -EBUSY there. */
typedef void (*leat_rebalance_fn)(leat_consumer *consumer, const leat_group_event *event, void *userdata);
void leat_on_rebalance(leat_consumer *consumer, leat_rebalance_fn fn, void *userdata);

/* ---- administration ------------------------------------------------------------------------------------------------ */
typedef struct leat_config_item {
    const char *name, *value;
} leat_config_item;
int leat_topic_create(leat_client *client, const char *name, int32_t partitions, int16_t replicas,
                      const leat_config_item *configs, size_t n, int64_t timeout_ms); /* -EEXIST; partitions -1 = default */
int leat_topic_delete(leat_client *client, const char *name, int64_t timeout_ms);
int leat_topic_grow(leat_client *client, const char *name, int32_t partitions, int64_t timeout_ms);
int leat_topic_configure(leat_client *client, const char *name, const leat_config_item *configs, size_t n, int64_t timeout_ms);
/* Earliest or latest (LEAT_OFFSET_*), or first offset at or after a time in ms (>= 0). offset of each item is in and out. */
int leat_list_offsets(leat_client *client, leat_partition *inout, size_t n, int64_t timeout_ms);
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
