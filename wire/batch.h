#pragma once

/*
 * Kafka record batches, magic 2 (kafka-wire.md section 5): build, validate, walk. Hand-written: this is the hot path.
 *
 * A batch is 61 header bytes and records. The CRC covers bytes 21..end, so a broker patches base offset and leader epoch
 * without touching it. Everything here is bounded by the bytes present; nothing trusts a length before checking it.
 * Pure, no allocation; records are borrowed from the batch (or from the caller's decompression buffer).
 */

#include "base/buf.h"
#include "base/compiler.h"
#include "wire/error.h"

#define BATCH_HEADER_SIZE     61
#define BATCH_LOG_OVERHEAD    12 /* base_offset + batch_length, not counted in batch_length */
#define BATCH_ATTR_CODEC_MASK 0x07
#define BATCH_ATTR_LOG_APPEND 0x08
#define BATCH_ATTR_TXN        0x10
#define BATCH_ATTR_CONTROL    0x20
#define BATCH_ATTR_HORIZON    0x40

typedef enum BatchCodec { CODEC_NONE, CODEC_GZIP, CODEC_SNAPPY, CODEC_LZ4, CODEC_ZSTD, CODEC_COUNT } BatchCodec;

typedef struct BatchHeader { /* host byte order */
    int64_t base_offset;
    int32_t batch_length;
    int32_t leader_epoch;
    int8_t magic;
    uint32_t crc;
    int16_t attributes;
    int32_t last_offset_delta;
    int64_t base_timestamp, max_timestamp; /* ms since 1970, -1 = none */
    int64_t producer_id;                   /* -1 = none */
    int16_t producer_epoch;
    int32_t base_sequence; /* -1 = none */
    int32_t records_count;
} BatchHeader;

static inline size_t batch_total_size(const BatchHeader *h)
{
    return (size_t)h->batch_length + BATCH_LOG_OVERHEAD;
}
static inline int64_t batch_last_offset(const BatchHeader *h)
{
    return h->base_offset + h->last_offset_delta;
}

/* Return: 0; -EAGAIN fewer than 61 bytes; -EBADMSG magic or batch_length impossible. Does not need the whole batch. */
int batch_header_decode(const void *data, size_t size, BatchHeader *ret);
void batch_header_encode(const BatchHeader *h, void *out61); /* writes crc as given */
bool batch_crc_is_valid(const void *batch, const BatchHeader *h);
uint32_t batch_crc_compute(const void *batch, const BatchHeader *h);
/* In place, outside the CRC. */
void batch_set_base_offset(void *batch, int64_t base_offset);
void batch_set_leader_epoch(void *batch, int32_t leader_epoch);
/* In place; recomputes the CRC. LogAppendTime also sets attribute bit 3. */
void batch_set_max_timestamp(void *batch, int64_t max_timestamp, bool log_append_time);

typedef struct RecordHeader {
    const void *key;
    int32_t key_size;
    const void *value;
    int32_t value_size; /* -1 = null */
} RecordHeader;

typedef struct Record {
    int64_t offset;
    int64_t timestamp;
    const void *key;
    int32_t key_size; /* -1 = null */
    const void *value;
    int32_t value_size; /* -1 = null */
    int32_t headers_count;
    const void *headers; /* encoded; walk with record_header_next */
    size_t headers_size;
} Record;

typedef struct BatchIter {
    const uint8_t *at, *end;
    int64_t base_offset, base_timestamp, max_timestamp;
    bool log_append_time;
    int32_t left; /* records not yet returned */
} BatchIter;

/* @records, @size: the uncompressed record area (behind the header, or what compress.h produced). */
void batch_iter_init(BatchIter *it, const BatchHeader *h, const void *records, size_t size);
/* Return: 1 a record, 0 end (all counted records returned and no byte left), -EBADMSG. */
int batch_iter_next(BatchIter *it, Record *ret);
int record_header_next(const void **inout_at, size_t *inout_size, RecordHeader *ret); /* 1, 0, -EBADMSG */

typedef struct BatchRules {
    bool compacted;             /* every record needs a key */
    bool log_append_time;       /* topic's message.timestamp.type */
    bool from_client;           /* control and horizon bits are refused, counts are dense */
    int64_t now_ms;             /* broker wall clock */
    int64_t before_max_ms, after_max_ms; /* message.timestamp.{before,after}.max.ms */
} BatchRules;

typedef struct BatchCheck {
    int64_t max_timestamp_seen;
    int32_t bad_record; /* index of the first, -1 = none */
    const char *why;    /* static text */
} BatchCheck;

/* Header rules of section 7 items 1 and 2 without the CRC. Return a Kafka error. */
KafkaError batch_check_header(const BatchHeader *h, size_t size, const BatchRules *rules, BatchCheck *ret);
/* Section 7 item 3 over the uncompressed records. */
KafkaError batch_check_records(const BatchHeader *h, const void *records, size_t size, const BatchRules *rules, BatchCheck *ret);
/* Of records that batch_check_records() refused: appends the index (int32_t) of each that lacks its key or has a wrong time,
 * for record_errors. Return: 0 or -ENOMEM. */
#define BATCH_REFUSED_MAX 10000
int batch_list_refused(const BatchHeader *h, const void *records, size_t size, const BatchRules *rules, Buf *out);

/*
 * BatchBuilder writes an uncompressed batch into memory of the caller's (an arena block of a session, a buffer).
 * Timestamps and offsets of records are deltas to the first. finish() fills the header and the CRC.
 */
typedef struct BatchBuilder {
    uint8_t *data;
    size_t capacity, size; /* size includes the header's 61 bytes */
    int64_t base_timestamp, max_timestamp;
    int32_t count;
} BatchBuilder;

typedef struct RecordView { /* what a producer hands over; borrowed for the call */
    int64_t timestamp;
    const void *key;
    int32_t key_size; /* -1 = null */
    const void *value;
    int32_t value_size; /* -1 = null */
    const RecordHeader *headers;
    int32_t headers_count;
} RecordView;

void batch_builder_init(BatchBuilder *b, void *memory, size_t capacity);
/* Upper bound of what one record adds. */
size_t batch_record_size_max(const RecordView *r);
/* Return: 0; -ENOSPC: does not fit, nothing written. */
int batch_builder_append(BatchBuilder *b, const RecordView *r);
/* Appends a record whose value the caller fills in place. Return: pointer to value_size bytes, or NULL: does not fit. */
void *batch_builder_claim(BatchBuilder *b, int64_t timestamp, const void *key, int32_t key_size, int32_t value_size);

typedef struct BatchStamp {
    int64_t producer_id;
    int16_t producer_epoch;
    int32_t base_sequence;
    int16_t attributes; /* codec and flags */
} BatchStamp;
#define BATCH_STAMP_NONE ((BatchStamp){.producer_id = -1, .producer_epoch = -1, .base_sequence = -1})

/* Return: total size of the finished batch (base_offset 0, leader epoch -1). */
size_t batch_builder_finish(BatchBuilder *b, const BatchStamp *stamp);

/* varints, shared with the offsets and group code */
size_t varint_encode(int64_t value, uint8_t out[10]);                                      /* zig-zag */
int varint_decode(const uint8_t **inout_at, const uint8_t *end, int64_t *ret);             /* 0 or -EBADMSG */
int32_t murmur2(const void *key, size_t size);                                             /* Java's, signed */
static inline int32_t partition_for_key(const void *key, size_t size, int32_t partitions_count)
{
    return (murmur2(key, size) & 0x7fffffff) % partitions_count;
}
