#pragma once

/*
 * The table-driven codec of every message: Kafka's requests and responses, our internal messages, the values of
 * __consumer_offsets, metadata records and the control socket.
 *
 * wire/schema/ *.txt describe messages in the notation of kafka-wire.md; gen.py turns them into C structs
 * (wire/messages.h) and field tables (messages.c). One interpreter walks a table to decode, encode, size and dump, so a
 * version is right everywhere or nowhere. Two encodings use the same tables: Kafka's (big-endian, flexible versions with
 * tag buffers) and msgpack arrays [type, version, fields...].
 *
 * Decoding never allocates more than the bytes present justify: a count is checked against what remains before memory is
 * taken, strings and bytes point into the input, arrays come from the caller's arena. Pure: no system call, no clock.
 *
 * Names that gen.py gives: message FooRequest -> struct (and typedef) KFooRequest, table `extern const KMessage
 * k_foo_request`; an element of its array `topics` -> KFooRequestTopics, of `partitions` inside ->
 * KFooRequestTopicsPartitions; fields keep their schema names (snake_case). An array of structs is
 * `struct { T *items; int32_t n; } name`, of i8 i32 i64 str uuid a KInt32Array etc.; n = -1 for null. A nullable struct is
 * a pointer. Also enums K_API_FOO (keys) and K_TYPE_FOO (numbers of messages).
 *
 * Defaults, for k_message_init() and for fields that a decoded version lacks: `=x`, else null where the schema says `?`,
 * else zero or empty (also for `?>=n`). A zeroed struct is no initialised one: strings would be empty instead of null.
 *
 * A version outside the message's range is -EOPNOTSUPP everywhere.
 */

#include "base/buf.h"
#include "base/text.h"

typedef struct KStr { /* not NUL-terminated; borrowed from the input or the caller */
    const char *ptr;
    int32_t len; /* -1 = null */
} KStr;

typedef struct KBytes {
    const void *ptr;
    int32_t len; /* -1 = null */
} KBytes;

typedef struct KInt8Array {
    int8_t *items;
    int32_t n;
} KInt8Array;
typedef struct KInt32Array {
    int32_t *items;
    int32_t n;
} KInt32Array;
typedef struct KInt64Array {
    int64_t *items;
    int32_t n;
} KInt64Array;
typedef struct KStrArray {
    KStr *items;
    int32_t n;
} KStrArray;
typedef struct KUuidArray {
    Uuid *items;
    int32_t n;
} KUuidArray;

#define K_STR_NULL   ((KStr){NULL, -1})
#define K_BYTES_NULL ((KBytes){NULL, -1})
KStr k_str(const char *s); /* NULL -> null string; borrows */
bool k_str_equal(KStr a, const char *s);
bool k_str_same(KStr a, KStr b);
/* Java's String.hashCode() of UTF-8 text, and what Kafka makes of it: the partition of __consumer_offsets (or
 * __transaction_state) that keeps a group (or transactional id). */
int32_t k_java_hash(KStr s);
int32_t k_partition_for_id(KStr id, int32_t partitions_count);

typedef struct KMessage KMessage; /* one message's table */

typedef struct KApi {
    int16_t key;
    const char *name; /* "Produce" */
    int16_t version_min, version_max;               /* what the tables can encode and decode */
    int16_t advertise_min, advertise_max;           /* what ApiVersions names; min > max = not advertised */
    int16_t flexible_since;                         /* INT16_MAX = never */
    const KMessage *request, *response;
} KApi;

const KApi *k_api_find(int16_t key); /* NULL when unknown */
const KApi *k_api_at(size_t i);      /* enumerate in ascending key order; NULL past the end */

typedef struct KRequestHeader {
    int16_t api_key, api_version;
    int32_t correlation_id;
    KStr client_id;
} KRequestHeader;

/* @ret_header_size: where the body begins. Return: 0; -EBADMSG short or malformed; -EOPNOTSUPP: api or version that the
 * tables lack (header filled as far as api_key, api_version, correlation_id). */
int k_request_header_decode(const void *frame, size_t size, KRequestHeader *ret, size_t *ret_header_size);
int k_request_header_encode(const KRequestHeader *h, Buf *out);
int k_response_header_encode(int16_t api_key, int16_t api_version, int32_t correlation_id, Buf *out);
int k_response_header_decode(int16_t api_key, int16_t api_version, const void *frame, size_t size, int32_t *ret_correlation_id,
                             size_t *ret_header_size);

size_t k_message_struct_size(const KMessage *m);
const char *k_message_name(const KMessage *m);
void k_message_init(const KMessage *m, void *ret_struct); /* zero + schema defaults (not recursive into arrays) */

/**
 * k_decode() - bytes to struct in Kafka's encoding
 * @ret_struct: k_message_struct_size() bytes, overwritten; valid as long as `data` and `arena` are
 * @version: for a `prefixed` message -1 (the prefix rules) or what the prefix must be; k_encode() writes the prefix
 * Trailing bytes are an error except for requests (clients do send them, Kafka reads on) and messages marked `lenient` in
 * the schema (embedded consumer protocol); of those a prefix above our newest version is read as far as we know it.
 * Return: 0; -EBADMSG malformed; -ENOMEM arena limit; -EOPNOTSUPP version.
 */
int k_decode(const KMessage *m, int16_t version, const void *data, size_t size, Arena *arena, void *ret_struct);
/* Appends. Fields that the version lacks are skipped. Return: 0, -ENOMEM, or -EINVAL: a null where the version forbids it. */
int k_encode(const KMessage *m, int16_t version, const void *message, Buf *out);

/* msgpack: [type, version, fields...]. `type` is the message's number in its schema. Unpacking: -EBADMSG malformed or
 * another type, -EOPNOTSUPP a version that we lack, -ENOMEM. ret_version may be NULL. */
int k_pack(const KMessage *m, int16_t version, const void *message, Buf *out);
int k_unpack(const KMessage *m, const void *data, size_t size, Arena *arena, void *ret_struct, int16_t *ret_version);
/* Looks at [type, version] only, so that a reader can choose the table. */
int k_unpack_type(const void *data, size_t size, int16_t *ret_type, int16_t *ret_version);
const KMessage *k_message_by_type(int16_t type); /* messages that have a number but are no Kafka API */

/* The API's answer to a request that is refused as a whole, with the error wherever clients look for it and an element for each
 * that was asked for (refusal.c). Strings are the request's. @why: goes with the error, may be NULL. Return: 0, -ENOMEM. */
int k_refusal(const KApi *api, int16_t version, const void *request, int16_t error, const char *why, Arena *arena, void *ret_response);

int k_dump(const KMessage *m, int16_t version, const void *message, Buf *out); /* JSON, for people and mqctl */
