/*
 * Arbitrary bytes as a produced batch: header, CRC, checks, walk. The walk and the check must agree on what a record is,
 * and a batch that was accepted must come out the same when it is built anew from its records.
 */

#include <stdlib.h>
#include <string.h>

#include "wire/compress.h"

#define RECORDS_SIZE_MAX (1u << 20)

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void require(bool condition)
{
    if (!condition)
        abort();
}

static void touch(const void *p, int32_t size)
{
    static volatile uint8_t sink;
    const uint8_t *bytes = p;

    for (int32_t i = 0; i < size; i++)
        sink = (uint8_t)(sink + bytes[i]);
}

static void walk_headers(const Record *r)
{
    const void *at = r->headers;
    size_t left = r->headers_size;
    RecordHeader h;
    int32_t n = 0;

    while (record_header_next(&at, &left, &h) == 1) {
        touch(h.key, h.key_size);
        touch(h.value, h.value_size);
        n++;
    }
    require(left == 0 && n == r->headers_count);
}

/* Return: all counted records were there and nothing else. */
static bool walk(const BatchHeader *h, const void *records, size_t size)
{
    BatchIter it;
    Record r;
    int n;
    int32_t seen = 0;

    batch_iter_init(&it, h, records, size);
    while ((n = batch_iter_next(&it, &r)) == 1) {
        touch(r.key, r.key_size);
        touch(r.value, r.value_size);
        walk_headers(&r);
        seen++;
    }
    require(n < 0 || seen == h->records_count);
    return n == 0;
}

static void rebuild(const BatchHeader *h, const void *records, size_t size)
{
    /* A canonical encoding is never longer than the one that was accepted. */
    uint8_t *memory = malloc(BATCH_HEADER_SIZE + size);
    BatchBuilder b;
    BatchIter it;
    Record r;
    BatchHeader back;

    require(memory != NULL);
    batch_builder_init(&b, memory, BATCH_HEADER_SIZE + size);
    batch_iter_init(&it, h, records, size);
    while (batch_iter_next(&it, &r) == 1) {
        RecordView v = {.timestamp = r.timestamp, .key = r.key, .key_size = r.key_size, .value = r.value,
                        .value_size = r.value_size};
        if (r.headers_count > 0 || batch_builder_append(&b, &v) < 0) { /* deltas to another base may be longer */
            free(memory);
            return;
        }
    }
    size = batch_builder_finish(&b, &BATCH_STAMP_NONE);
    require(batch_header_decode(memory, size, &back) == 0 && batch_total_size(&back) == size);
    require(batch_crc_is_valid(memory, &back) && walk(&back, memory + BATCH_HEADER_SIZE, size - BATCH_HEADER_SIZE));
    free(memory);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    BatchRules rules = {.from_client = true, .now_ms = 1700000000000, .before_max_ms = INT64_MAX, .after_max_ms = 3600000};
    Buf plain = BUF_NULL;
    const uint8_t *records = data + BATCH_HEADER_SIZE;
    size_t records_size = size - BATCH_HEADER_SIZE;
    BatchHeader h;
    BatchCheck check;
    BatchCodec codec;

    if (batch_header_decode(data, size, &h) < 0)
        return 0;
    if (batch_total_size(&h) <= size)
        (void)batch_crc_is_valid(data, &h); /* mutations rarely hit a CRC, so the rest runs without it */
    (void)batch_check_header(&h, size, &rules, &check);
    codec = (BatchCodec)(h.attributes & BATCH_ATTR_CODEC_MASK);
    if (codec != CODEC_NONE) {
        if (codec_decompress(codec, records, records_size, RECORDS_SIZE_MAX, &plain) < 0) {
            require(plain.size == 0);
            buf_deinit(&plain);
            return 0;
        }
        records = plain.data;
        records_size = plain.size;
    }
    if (batch_check_records(&h, records, records_size, &rules, &check) == K_NONE) {
        require(h.records_count < 0 || walk(&h, records, records_size));
        if (h.records_count > 0)
            rebuild(&h, records, records_size);
    } else {
        (void)walk(&h, records, records_size);
    }
    buf_deinit(&plain);
    return 0;
}
