/*
 * Record batches: header codec, the walk over records, the checks of a produced batch, and the builder.
 *
 * Two loops in here decide how fast Leat is: record_parse() (every produced batch is walked once by the broker, every
 * consumed one once by the client) and batch_builder_append(). Both treat the one-byte varint as the normal case; a
 * record of 100 bytes has two-byte lengths and five one-byte fields. The slow ends are out of line.
 *
 * INV-BATCH-1 nothing is read at or past `end`; a record's fields are bounded by that record's own length
 * INV-BATCH-2 a record is accepted only when its length is used up to the last byte
 * INV-BATCH-3 a 32-bit varint has at most 5 bytes, a 64-bit one 10, and neither carries surplus bits: Java refuses
 *             longer ones, so a broker that let them in would hand its consumers a batch that they cannot read
 */

#include "wire/batch.h"

#include <endian.h>
#include <errno.h>
#include <string.h>

#include "base/hash.h"
#include "wire/bigendian.h"

#define BATCH_LENGTH_MIN   (BATCH_HEADER_SIZE - BATCH_LOG_OVERHEAD)
#define BATCH_CRC_FROM     21
#define BATCH_AT_LENGTH    8
#define BATCH_AT_EPOCH     12
#define BATCH_AT_MAGIC     16
#define BATCH_AT_CRC       17
#define BATCH_AT_ATTRS     21
#define BATCH_AT_MAX_TIME  35
#define BATCH_MAGIC        2
#define BATCH_ATTR_KNOWN   0x7f
#define RECORD_BODY_MIN    6 /* attributes, timestamp, offset, key, value, headers: one byte each */
#define VARINT32_SIZE_MAX  5
#define VARINT64_SIZE_MAX  10

static_assert(BATCH_LENGTH_MIN == 49, "kafka-wire.md section 5");

/* ---- varints ------------------------------------------------------------------------------------------------------- */

static inline uint64_t zigzag(int64_t v)
{
    return ((uint64_t)v << 1) ^ (uint64_t)(v >> 63);
}

static inline int64_t unzigzag(uint64_t v)
{
    return (int64_t)(v >> 1) ^ -(int64_t)(v & 1);
}

static inline size_t uvarint_size(uint64_t v)
{
    unsigned bits = 64u - (unsigned)__builtin_clzll(v | 1);
    return (bits * 9 + 64) / 64; /* ceil(bits / 7) for 1..64 without a division */
}

static inline size_t varint_size(int64_t v)
{
    return uvarint_size(zigzag(v));
}

static inline uint8_t *varint_put(uint8_t *p, int64_t value)
{
    uint64_t v = zigzag(value);

    while (UNLIKELY(v >= 0x80)) {
        *p++ = (uint8_t)(v | 0x80);
        v >>= 7;
    }
    *p++ = (uint8_t)v;
    return p;
}

/* @size_max: bytes the type may take; the last of them may carry only what is left of the type's bits. */
static __attribute__((noinline)) const uint8_t *
uvarint_get_slow(const uint8_t *p, const uint8_t *end, unsigned size_max, uint8_t last_max, uint64_t *ret)
{
    uint64_t v = 0;

    for (unsigned i = 0; i < size_max; i++) {
        if (p == end)
            return NULL;
        uint8_t b = *p++;
        v |= (uint64_t)(b & 0x7f) << (7 * i);
        if (b < 0x80) {
            if (i + 1 == size_max && b > last_max)
                return NULL;
            *ret = v;
            return p;
        }
    }
    return NULL;
}

/* Return: where the next field begins, or NULL. */
static inline const uint8_t *varint32_get(const uint8_t *p, const uint8_t *end, int32_t *ret)
{
    uint64_t v;

    if (LIKELY(p < end && *p < 0x80)) {
        v = *p++;
    } else if (LIKELY(end - p >= 2 && p[1] < 0x80)) {
        v = (uint64_t)(p[0] & 0x7f) | (uint64_t)p[1] << 7;
        p += 2;
    } else {
        p = uvarint_get_slow(p, end, VARINT32_SIZE_MAX, 0x0f, &v);
        if (p == NULL)
            return NULL;
    }
    *ret = (int32_t)unzigzag(v);
    return p;
}

static inline const uint8_t *varint64_get(const uint8_t *p, const uint8_t *end, int64_t *ret)
{
    uint64_t v;

    if (LIKELY(p < end && *p < 0x80)) {
        v = *p++;
    } else {
        p = uvarint_get_slow(p, end, VARINT64_SIZE_MAX, 0x01, &v);
        if (p == NULL)
            return NULL;
    }
    *ret = unzigzag(v);
    return p;
}

size_t varint_encode(int64_t value, uint8_t out[10])
{
    return (size_t)(varint_put(out, value) - out);
}

int varint_decode(const uint8_t **inout_at, const uint8_t *end, int64_t *ret)
{
    const uint8_t *p = varint64_get(*inout_at, end, ret);

    if (p == NULL)
        return -EBADMSG;
    *inout_at = p;
    return 0;
}

/* ---- header -------------------------------------------------------------------------------------------------------- */

int batch_header_decode(const void *data, size_t size, BatchHeader *ret)
{
    const uint8_t *p = data;
    BatchHeader h;

    if (size < BATCH_HEADER_SIZE)
        return -EAGAIN;
    h.magic = (int8_t)p[BATCH_AT_MAGIC];
    h.batch_length = (int32_t)get_be32(p + BATCH_AT_LENGTH);
    if (h.magic != BATCH_MAGIC || h.batch_length < BATCH_LENGTH_MIN)
        return -EBADMSG;
    h.base_offset = (int64_t)get_be64(p);
    h.leader_epoch = (int32_t)get_be32(p + BATCH_AT_EPOCH);
    h.crc = get_be32(p + BATCH_AT_CRC);
    h.attributes = (int16_t)get_be16(p + BATCH_AT_ATTRS);
    h.last_offset_delta = (int32_t)get_be32(p + 23);
    h.base_timestamp = (int64_t)get_be64(p + 27);
    h.max_timestamp = (int64_t)get_be64(p + BATCH_AT_MAX_TIME);
    h.producer_id = (int64_t)get_be64(p + 43);
    h.producer_epoch = (int16_t)get_be16(p + 51);
    h.base_sequence = (int32_t)get_be32(p + 53);
    h.records_count = (int32_t)get_be32(p + 57);
    *ret = h;
    return 0;
}

void batch_header_encode(const BatchHeader *h, void *out61)
{
    uint8_t *p = out61;

    assert(h->magic == BATCH_MAGIC && h->batch_length >= BATCH_LENGTH_MIN);
    put_be64(p, (uint64_t)h->base_offset);
    put_be32(p + BATCH_AT_LENGTH, (uint32_t)h->batch_length);
    put_be32(p + BATCH_AT_EPOCH, (uint32_t)h->leader_epoch);
    p[BATCH_AT_MAGIC] = (uint8_t)h->magic;
    put_be32(p + BATCH_AT_CRC, h->crc);
    put_be16(p + BATCH_AT_ATTRS, (uint16_t)h->attributes);
    put_be32(p + 23, (uint32_t)h->last_offset_delta);
    put_be64(p + 27, (uint64_t)h->base_timestamp);
    put_be64(p + BATCH_AT_MAX_TIME, (uint64_t)h->max_timestamp);
    put_be64(p + 43, (uint64_t)h->producer_id);
    put_be16(p + 51, (uint16_t)h->producer_epoch);
    put_be32(p + 53, (uint32_t)h->base_sequence);
    put_be32(p + 57, (uint32_t)h->records_count);
}

uint32_t batch_crc_compute(const void *batch, const BatchHeader *h)
{
    assert(h->batch_length >= BATCH_LENGTH_MIN);
    return crc32c(0, (const uint8_t *)batch + BATCH_CRC_FROM, batch_total_size(h) - BATCH_CRC_FROM);
}

bool batch_crc_is_valid(const void *batch, const BatchHeader *h)
{
    return batch_crc_compute(batch, h) == h->crc;
}

void batch_set_base_offset(void *batch, int64_t base_offset)
{
    put_be64(batch, (uint64_t)base_offset);
}

void batch_set_leader_epoch(void *batch, int32_t leader_epoch)
{
    put_be32((uint8_t *)batch + BATCH_AT_EPOCH, (uint32_t)leader_epoch);
}

void batch_set_max_timestamp(void *batch, int64_t max_timestamp, bool log_append_time)
{
    uint8_t *p = batch;
    size_t total = (size_t)get_be32(p + BATCH_AT_LENGTH) + BATCH_LOG_OVERHEAD;
    uint16_t attributes = get_be16(p + BATCH_AT_ATTRS);

    assert(total >= BATCH_HEADER_SIZE);
    attributes = (uint16_t)(log_append_time ? attributes | BATCH_ATTR_LOG_APPEND
                                            : attributes & ~BATCH_ATTR_LOG_APPEND);
    put_be16(p + BATCH_AT_ATTRS, attributes);
    put_be64(p + BATCH_AT_MAX_TIME, (uint64_t)max_timestamp);
    put_be32(p + BATCH_AT_CRC, crc32c(0, p + BATCH_CRC_FROM, total - BATCH_CRC_FROM));
}

/* ---- records ------------------------------------------------------------------------------------------------------- */

typedef struct RawRecord { /* as it stands in the batch: deltas */
    int64_t timestamp_delta;
    int32_t offset_delta;
    int32_t key_size, value_size, headers_count;
    const uint8_t *key, *value, *headers, *end;
} RawRecord;

/* A length-prefixed byte string; -1 = null. Return: what follows, or NULL. */
static inline const uint8_t *
bytes_get(const uint8_t *p, const uint8_t *end, const uint8_t **ret, int32_t *ret_size)
{
    int32_t n;

    p = varint32_get(p, end, &n);
    if (UNLIKELY(p == NULL || n < -1 || n > end - p))
        return NULL;
    *ret = n < 0 ? NULL : p;
    *ret_size = n;
    return n < 0 ? p : p + n;
}

int record_header_next(const void **inout_at, size_t *inout_size, RecordHeader *ret)
{
    const uint8_t *p = *inout_at, *end = p + *inout_size;
    const uint8_t *key, *value;
    RecordHeader h;

    if (*inout_size == 0)
        return 0;
    p = bytes_get(p, end, &key, &h.key_size);
    if (p == NULL || key == NULL)
        return -EBADMSG;
    p = bytes_get(p, end, &value, &h.value_size);
    if (p == NULL)
        return -EBADMSG;
    h.key = key;
    h.value = value;
    *ret = h;
    *inout_size = (size_t)(end - p);
    *inout_at = p;
    return 1;
}

/* Exactly `count` headers and not a byte more. */
static __attribute__((noinline)) bool headers_are_valid(const uint8_t *p, size_t size, int32_t count)
{
    const void *at = p;
    RecordHeader h;

    if ((size_t)count > size / 2) /* a header takes two bytes at least */
        return false;
    for (int32_t i = 0; i < count; i++)
        if (record_header_next(&at, &size, &h) != 1)
            return false;
    return size == 0;
}

/* Return: the byte behind the record, or NULL when it is malformed. */
static inline const uint8_t *record_parse(const uint8_t *p, const uint8_t *end, RawRecord *ret)
{
    int32_t length;

    p = varint32_get(p, end, &length);
    if (UNLIKELY(p == NULL || length < RECORD_BODY_MIN || length > end - p))
        return NULL;
    end = p + length;
    p = varint64_get(p + 1, end, &ret->timestamp_delta); /* +1: record attributes, unused in Kafka too */
    if (UNLIKELY(p == NULL))
        return NULL;
    p = varint32_get(p, end, &ret->offset_delta);
    if (UNLIKELY(p == NULL))
        return NULL;
    p = bytes_get(p, end, &ret->key, &ret->key_size);
    if (UNLIKELY(p == NULL))
        return NULL;
    p = bytes_get(p, end, &ret->value, &ret->value_size);
    if (UNLIKELY(p == NULL))
        return NULL;
    p = varint32_get(p, end, &ret->headers_count);
    if (UNLIKELY(p == NULL || ret->headers_count < 0))
        return NULL;
    if (UNLIKELY(p != end || ret->headers_count != 0) &&
        !headers_are_valid(p, (size_t)(end - p), ret->headers_count))
        return NULL;
    ret->headers = p;
    ret->end = end;
    return end;
}

void batch_iter_init(BatchIter *it, const BatchHeader *h, const void *records, size_t size)
{
    *it = (BatchIter){
        .at = records,
        .end = bytes_end(records, size),
        .base_offset = h->base_offset,
        .base_timestamp = h->base_timestamp,
        .max_timestamp = h->max_timestamp,
        .log_append_time = (h->attributes & BATCH_ATTR_LOG_APPEND) != 0,
        .left = h->records_count,
    };
}

int batch_iter_next(BatchIter *it, Record *ret)
{
    RawRecord r;
    const uint8_t *next;

    if (it->left <= 0)
        return it->left == 0 && it->at == it->end ? 0 : -EBADMSG;
    next = record_parse(it->at, it->end, &r);
    if (UNLIKELY(next == NULL || r.offset_delta < 0))
        return -EBADMSG;
    it->at = next;
    it->left--;
    ret->offset = (int64_t)((uint64_t)it->base_offset + (uint64_t)r.offset_delta);
    ret->timestamp = it->log_append_time
                         ? it->max_timestamp
                         : (int64_t)((uint64_t)it->base_timestamp + (uint64_t)r.timestamp_delta);
    ret->key = r.key;
    ret->key_size = r.key_size;
    ret->value = r.value;
    ret->value_size = r.value_size;
    ret->headers_count = r.headers_count;
    ret->headers = r.headers;
    ret->headers_size = (size_t)(r.end - r.headers);
    return 1;
}

/* ---- checks of a produced batch ------------------------------------------------------------------------------------ */

static KafkaError refuse(BatchCheck *ret, KafkaError error, int32_t record, const char *why)
{
    ret->bad_record = record;
    ret->why = why;
    return error;
}

static KafkaError check_client_header(const BatchHeader *h, BatchCheck *ret)
{
    if (h->base_offset != 0)
        return refuse(ret, K_INVALID_RECORD, -1, "base offset of a produced batch is not 0");
    if (h->records_count <= 0)
        return refuse(ret, K_INVALID_RECORD, -1, "batch has no records");
    if (h->records_count - 1 != h->last_offset_delta)
        return refuse(ret, K_INVALID_RECORD, -1, "record count and last offset delta disagree");
    if (h->attributes & (BATCH_ATTR_CONTROL | BATCH_ATTR_HORIZON))
        return refuse(ret, K_INVALID_RECORD, -1, "clients may not write control batches");
    if (h->attributes & BATCH_ATTR_LOG_APPEND)
        return refuse(ret, K_INVALID_TIMESTAMP, -1, "producer set timestamp type LogAppendTime");
    if (h->producer_id >= 0 && h->base_sequence < 0)
        return refuse(ret, K_INVALID_RECORD, -1, "producer id without a sequence number");
    if (h->producer_id < 0 && (h->attributes & BATCH_ATTR_TXN))
        return refuse(ret, K_INVALID_RECORD, -1, "transactional batch without a producer id");
    return K_NONE;
}

KafkaError batch_check_header(const BatchHeader *h, size_t size, const BatchRules *rules, BatchCheck *ret)
{
    *ret = (BatchCheck){.max_timestamp_seen = -1, .bad_record = -1, .why = ""};
    if (h->batch_length < BATCH_LENGTH_MIN || batch_total_size(h) > size)
        return refuse(ret, K_CORRUPT_MESSAGE, -1, "batch is shorter than its length says");
    if (h->magic != BATCH_MAGIC)
        return refuse(ret, K_INVALID_RECORD, -1, "only magic 2 is supported");
    if (batch_total_size(h) < size)
        return refuse(ret, K_INVALID_RECORD, -1, "more than one batch for a partition");
    if ((h->attributes & BATCH_ATTR_CODEC_MASK) >= CODEC_COUNT)
        return refuse(ret, K_UNSUPPORTED_COMPRESSION_TYPE, -1, "unknown compression codec");
    if (h->attributes & ~BATCH_ATTR_KNOWN)
        return refuse(ret, K_INVALID_RECORD, -1, "unknown attribute bits");
    if (h->last_offset_delta < 0 || h->records_count < 0 || h->records_count - 1 > h->last_offset_delta)
        return refuse(ret, K_INVALID_RECORD, -1, "record count and last offset delta disagree");
    return rules->from_client ? check_client_header(h, ret) : K_NONE;
}

static int64_t add_saturated(int64_t a, int64_t b)
{
    int64_t sum;

    if (__builtin_add_overflow(a, b, &sum))
        return b < 0 ? INT64_MIN : INT64_MAX;
    return sum;
}

typedef struct RecordRules {
    bool need_key, check_time;
    int64_t time_min, time_max;
} RecordRules;

static RecordRules record_rules(const BatchRules *rules)
{
    return (RecordRules){
        .need_key = rules->compacted,
        .check_time = !rules->log_append_time && rules->from_client,
        .time_min = add_saturated(rules->now_ms, -rules->before_max_ms),
        .time_max = add_saturated(rules->now_ms, rules->after_max_ms),
    };
}

static inline bool lacks_key(const RecordRules *rules, const RawRecord *r)
{
    return rules->need_key && r->key_size < 0;
}

static inline bool is_out_of_time(const RecordRules *rules, int64_t timestamp)
{
    return rules->check_time && (timestamp < rules->time_min || timestamp > rules->time_max) && timestamp != -1;
}

KafkaError batch_check_records(const BatchHeader *h,
                               const void *records,
                               size_t size,
                               const BatchRules *rules,
                               BatchCheck *ret)
{
    const uint8_t *p = records, *end = bytes_end(records, size);
    const bool dense = rules->from_client;
    const RecordRules each = record_rules(rules);
    int64_t newest = -1;
    int32_t offset_next = 0;
    RawRecord r;

    *ret = (BatchCheck){.max_timestamp_seen = -1, .bad_record = -1, .why = ""};
    for (int32_t i = 0; i < h->records_count; i++) {
        int64_t timestamp;

        p = record_parse(p, end, &r);
        if (UNLIKELY(p == NULL))
            return refuse(ret, K_INVALID_RECORD, i, "malformed record");
        if (UNLIKELY(dense ? r.offset_delta != i : r.offset_delta < offset_next || r.offset_delta > h->last_offset_delta))
            return refuse(ret, K_INVALID_RECORD, i, "offset delta out of order");
        offset_next = r.offset_delta == INT32_MAX ? INT32_MAX : r.offset_delta + 1;
        if (UNLIKELY(lacks_key(&each, &r)))
            return refuse(ret, K_INVALID_RECORD, i, "compacted topics need a key in every record");
        if (UNLIKELY(__builtin_add_overflow(h->base_timestamp, r.timestamp_delta, &timestamp)))
            return refuse(ret, K_INVALID_TIMESTAMP, i, "timestamp overflows");
        if (UNLIKELY(is_out_of_time(&each, timestamp)))
            return refuse(ret, K_INVALID_TIMESTAMP, i, "timestamp outside message.timestamp.before/after.max.ms");
        newest = MAX(newest, timestamp);
    }
    if (p != end)
        return refuse(ret, K_INVALID_RECORD, -1, "bytes behind the last record");
    ret->max_timestamp_seen = h->attributes & BATCH_ATTR_LOG_APPEND ? h->max_timestamp : newest;
    return K_NONE;
}

int batch_list_refused(const BatchHeader *h, const void *records, size_t size, const BatchRules *rules, Buf *out)
{
    const uint8_t *p = records, *end = bytes_end(records, size);
    const RecordRules each = record_rules(rules);
    RawRecord r;

    for (int32_t i = 0, listed = 0; i < h->records_count && listed < BATCH_REFUSED_MAX; i++) {
        int64_t timestamp;

        p = record_parse(p, end, &r);
        if (p == NULL)
            break;
        bool overflows = __builtin_add_overflow(h->base_timestamp, r.timestamp_delta, &timestamp);
        if (!overflows && !lacks_key(&each, &r) && !is_out_of_time(&each, timestamp))
            continue;
        int e = buf_append(out, &i, sizeof(i));
        if (e < 0)
            return e;
        listed++;
    }
    return 0;
}

/* ---- builder ------------------------------------------------------------------------------------------------------- */

void batch_builder_init(BatchBuilder *b, void *memory, size_t capacity)
{
    assert(capacity >= BATCH_HEADER_SIZE);
    *b = (BatchBuilder){
        .data = memory,
        .capacity = MIN(capacity, (size_t)INT32_MAX),
        .size = BATCH_HEADER_SIZE,
    };
}

size_t batch_record_size_max(const RecordView *r)
{
    /* length, timestamp, offset, key, value and header-count varints, attributes */
    size_t n = 5 * VARINT32_SIZE_MAX + VARINT64_SIZE_MAX + 1;

    n += (size_t)MAX(r->key_size, 0) + (size_t)MAX(r->value_size, 0);
    for (int32_t i = 0; i < r->headers_count; i++)
        n += 2 * VARINT32_SIZE_MAX + (size_t)r->headers[i].key_size + (size_t)MAX(r->headers[i].value_size, 0);
    return n;
}

static inline uint8_t *bytes_put(uint8_t *p, const void *data, int32_t size)
{
    p = varint_put(p, size);
    if (size > 0) {
        memcpy(p, data, (size_t)size);
        p += size;
    }
    return p;
}

static inline size_t bytes_encoded_size(int32_t size)
{
    return varint_size(size) + (size_t)MAX(size, 0);
}

static __attribute__((noinline)) size_t headers_encoded_size(const RecordHeader *headers, int32_t count)
{
    size_t n = 0;

    for (int32_t i = 0; i < count; i++) {
        assert(headers[i].key_size >= 0 && headers[i].value_size >= -1);
        n += bytes_encoded_size(headers[i].key_size) + bytes_encoded_size(headers[i].value_size);
    }
    return n;
}

static __attribute__((noinline)) uint8_t *headers_put(uint8_t *p, const RecordHeader *headers, int32_t count)
{
    for (int32_t i = 0; i < count; i++) {
        p = bytes_put(p, headers[i].key, headers[i].key_size);
        p = bytes_put(p, headers[i].value, headers[i].value_size);
    }
    return p;
}

/* Writes everything in front of the key's bytes. Return: where the key goes, or NULL when the record does not fit. */
static inline uint8_t *record_begin(BatchBuilder *b,
                                    int64_t timestamp,
                                    int32_t key_size,
                                    int32_t value_size,
                                    int32_t headers_count,
                                    size_t headers_size)
{
    int64_t delta;
    size_t body;
    uint8_t *p = b->data + b->size;

    assert(key_size >= -1 && value_size >= -1 && headers_count >= 0);
    if (b->count == 0) {
        delta = 0;
    } else if (UNLIKELY(__builtin_sub_overflow(timestamp, b->base_timestamp, &delta))) {
        return NULL;
    }
    body = 1 + varint_size(delta) + varint_size(b->count) + bytes_encoded_size(key_size) +
           bytes_encoded_size(value_size) + varint_size(headers_count) + headers_size;
    if (UNLIKELY(body > INT32_MAX || body + varint_size((int64_t)body) > b->capacity - b->size ||
                 b->count == INT32_MAX))
        return NULL;
    p = varint_put(p, (int64_t)body);
    *p++ = 0;
    p = varint_put(p, delta);
    return varint_put(p, b->count);
}

static inline void record_end(BatchBuilder *b, int64_t timestamp, const uint8_t *p)
{
    if (b->count == 0)
        b->base_timestamp = b->max_timestamp = timestamp;
    else
        b->max_timestamp = MAX(b->max_timestamp, timestamp);
    b->count++;
    b->size = (size_t)(p - b->data);
    assert(b->size <= b->capacity);
}

int batch_builder_append(BatchBuilder *b, const RecordView *r)
{
    size_t headers_size = r->headers_count > 0 ? headers_encoded_size(r->headers, r->headers_count) : 0;
    uint8_t *p = record_begin(b, r->timestamp, r->key_size, r->value_size, r->headers_count, headers_size);

    if (UNLIKELY(p == NULL))
        return -ENOSPC;
    p = bytes_put(p, r->key, r->key_size);
    p = bytes_put(p, r->value, r->value_size);
    p = varint_put(p, r->headers_count);
    if (UNLIKELY(r->headers_count > 0))
        p = headers_put(p, r->headers, r->headers_count);
    record_end(b, r->timestamp, p);
    return 0;
}

void *batch_builder_claim(BatchBuilder *b, int64_t timestamp, const void *key, int32_t key_size, int32_t value_size)
{
    uint8_t *p = record_begin(b, timestamp, key_size, value_size, 0, 0);
    uint8_t *value;

    if (p == NULL)
        return NULL;
    assert(value_size >= 0);
    p = bytes_put(p, key, key_size);
    value = varint_put(p, value_size);
    p = value + value_size;
    *p++ = 0; /* no headers */
    record_end(b, timestamp, p);
    return value;
}

size_t batch_builder_finish(BatchBuilder *b, const BatchStamp *stamp)
{
    BatchHeader h = {
        .base_offset = 0,
        .batch_length = (int32_t)(b->size - BATCH_LOG_OVERHEAD),
        .leader_epoch = -1,
        .magic = BATCH_MAGIC,
        .attributes = stamp->attributes,
        .last_offset_delta = b->count - 1,
        .base_timestamp = b->base_timestamp,
        .max_timestamp = b->max_timestamp,
        .producer_id = stamp->producer_id,
        .producer_epoch = stamp->producer_epoch,
        .base_sequence = stamp->base_sequence,
        .records_count = b->count,
    };

    assert(b->count > 0 && b->size <= b->capacity);
    batch_header_encode(&h, b->data);
    put_be32(b->data + BATCH_AT_CRC, batch_crc_compute(b->data, &h));
    return b->size;
}

/* ---- partitioner --------------------------------------------------------------------------------------------------- */

int32_t murmur2(const void *key, size_t size)
{
    const uint32_t m = 0x5bd1e995u;
    const uint8_t *p = key, *words_end = p + (size & ~(size_t)3);
    uint32_t h = 0x9747b28cu ^ (uint32_t)size;
    size_t tail = size & 3;

    for (; p < words_end; p += 4) {
        uint32_t k;
        memcpy(&k, p, sizeof k);
        k = le32toh(k) * m;
        k ^= k >> 24;
        h = (h * m) ^ (k * m);
    }
    if (tail > 0) {
        for (size_t i = 0; i < tail; i++)
            h ^= (uint32_t)p[i] << (8 * i);
        h *= m;
    }
    h ^= h >> 13;
    h *= m;
    h ^= h >> 15;
    return (int32_t)h;
}
