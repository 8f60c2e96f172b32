/* Record batches against the vectors of kafka-wire.md section 13, cut at every byte, and with every byte damaged. */

#include <check.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/hash.h"
#include "wire/batch.h"

static const uint8_t batch_a[92] = {
    0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x50, 0xff, 0xff, 0xff, 0xff,
    2, 0xa5, 0x8c, 0xc4, 0xc7, 0, 0, 0, 0, 0, 1, 0, 0, 1, 0x8b, 0xcf,
    0xe5, 0x68, 0, 0, 0, 1, 0x8b, 0xcf, 0xe5, 0x68, 7, 0, 0, 0, 0, 0,
    0, 0x0f, 0xa0, 0, 1, 0, 0, 0, 0x0a, 0, 0, 0, 2, 0x1a, 0, 0,
    0, 4, 0x6b, 0x31, 0x0a, 0x68, 0x65, 0x6c, 0x6c, 0x6f, 0, 0x20, 0, 0x0e, 2, 1,
    0x0c, 0x77, 0x6f, 0x72, 0x6c, 0x64, 0x21, 2, 2, 0x68, 2, 0x76,
};
static const uint8_t batch_b[69] = {
    0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x39, 0xff, 0xff, 0xff, 0xff,
    2, 0x6a, 0x9a, 0x62, 0x38, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
    0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0xff,
    0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 1, 0x0e, 0, 0,
    0, 1, 2, 0x78, 0,
};
static const uint8_t batch_c[78] = {
    0, 0, 0, 0, 0, 0, 0, 0x2a, 0, 0, 0, 0x42, 0, 0, 0, 5,
    2, 0xd3, 0x49, 0x9e, 0xf9, 0, 0x30, 0, 0, 0, 0, 0, 0, 1, 0x8b, 0xcf,
    0xe5, 0x68, 0x64, 0, 0, 1, 0x8b, 0xcf, 0xe5, 0x68, 0x64, 0, 0, 0, 0, 0,
    0, 0x0f, 0xa0, 0, 1, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 1, 0x20, 0, 0,
    0, 8, 0, 0, 0, 1, 0x0c, 0, 0, 0, 0, 0, 9, 0,
};

static const BatchRules client_rules = {
    .from_client = true,
    .now_ms = 1700000000000,
    .before_max_ms = INT64_MAX,
    .after_max_ms = 3600000,
};

static void decode(const void *batch, size_t size, BatchHeader *ret)
{
    ck_assert_int_eq(batch_header_decode(batch, size, ret), 0);
    ck_assert_uint_eq(batch_total_size(ret), size);
}

/* ---- vectors ------------------------------------------------------------------------------------------------------- */

START_TEST(crc_vectors)
{
    static const struct {
        const char *text;
        uint32_t crc;
    } vectors[] = {{"", 0}, {"a", 0xc1d04330}, {"123456789", 0xe3069283}, {"Some String", 0x2445290f}};
    uint8_t zeros[32] = {0}, ones[32], up[32], down[32];

    for (size_t i = 0; i < ARRAY_SIZE(vectors); i++)
        ck_assert_uint_eq(crc32c(0, vectors[i].text, strlen(vectors[i].text)), vectors[i].crc);
    memset(ones, 0xff, sizeof ones);
    for (int i = 0; i < 32; i++) {
        up[i] = (uint8_t)i;
        down[i] = (uint8_t)(31 - i);
    }
    ck_assert_uint_eq(crc32c(0, zeros, 32), 0x8a9136aa);
    ck_assert_uint_eq(crc32c(0, ones, 32), 0x62a8ab43);
    ck_assert_uint_eq(crc32c(0, up, 32), 0x46dd794e);
    ck_assert_uint_eq(crc32c(0, down, 32), 0x113fdb5c);
    ck_assert_uint_eq(crc32c(crc32c(0, "1234", 4), "56789", 5), 0xe3069283);
}
END_TEST

START_TEST(varint_vectors)
{
    static const struct {
        int64_t value;
        uint8_t size, bytes[10];
    } v[] = {
        {0, 1, {0}},
        {-1, 1, {1}},
        {1, 1, {2}},
        {-2, 1, {3}},
        {63, 1, {0x7e}},
        {-64, 1, {0x7f}},
        {64, 2, {0x80, 1}},
        {-65, 2, {0x81, 1}},
        {127, 2, {0xfe, 1}},
        {128, 2, {0x80, 2}},
        {300, 2, {0xd8, 4}},
        {-300, 2, {0xd7, 4}},
        {8191, 2, {0xfe, 0x7f}},
        {-8192, 2, {0xff, 0x7f}},
        {8192, 3, {0x80, 0x80, 1}},
        {2147483647, 5, {0xfe, 0xff, 0xff, 0xff, 0x0f}},
        {-2147483648, 5, {0xff, 0xff, 0xff, 0xff, 0x0f}},
        {INT64_MAX, 10, {0xfe, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1}},
        {INT64_MIN, 10, {0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1}},
    };

    for (size_t i = 0; i < ARRAY_SIZE(v); i++) {
        uint8_t out[10];
        const uint8_t *at = v[i].bytes;
        int64_t value;

        ck_assert_uint_eq(varint_encode(v[i].value, out), v[i].size);
        ck_assert_mem_eq(out, v[i].bytes, v[i].size);
        ck_assert_int_eq(varint_decode(&at, v[i].bytes + v[i].size, &value), 0);
        ck_assert_int_eq(value, v[i].value);
        ck_assert_ptr_eq(at, v[i].bytes + v[i].size);
        for (size_t cut = 0; cut < v[i].size; cut++) {
            at = v[i].bytes;
            ck_assert_int_eq(varint_decode(&at, v[i].bytes + cut, &value), -EBADMSG);
            ck_assert_ptr_eq(at, v[i].bytes);
        }
    }
}
END_TEST

START_TEST(varint_too_long)
{
    static const uint8_t eleven[11] = {0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0};
    static const uint8_t surplus[10] = {0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2};
    const uint8_t *at = eleven;
    int64_t value;

    ck_assert_int_eq(varint_decode(&at, eleven + 11, &value), -EBADMSG);
    at = surplus;
    ck_assert_int_eq(varint_decode(&at, surplus + 10, &value), -EBADMSG);
}
END_TEST

START_TEST(murmur_vectors)
{
    static const struct {
        const char *key;
        uint32_t hash;
        int32_t mod10, mod6;
    } v[] = {
        {"", 0x106e08d9, 1, 3},
        {"a", 0xa2d0b27c, 4, 4},
        {"abc", 0x1c94221b, 7, 3},
        {"21", 0xc5f2f8ec, 0, 0},
        {"kafka", 0xd067cf64, 0, 4},
        {"foobar", 0xd0e47bbe, 6, 0},
        {"key-0", 0x01bdb5b9, 1, 1},
        {"key-42", 0xf4d94947, 7, 3},
        {"100:48069", 0x3c2c6ab1, 7, 3},
        {"a-little-bit-long-string", 0xc53b1da0, 2, 2},
        {"a-little-bit-longer-string", 0xa768c9c3, 9, 5},
        {"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", 0xfc7d49cd, 7, 5},
    };
    static const uint8_t be32[] = {0, 0, 0, 0x2a}, be64[] = {0, 0, 0, 0, 0, 0, 0, 0x2a};

    for (size_t i = 0; i < ARRAY_SIZE(v); i++) {
        size_t n = strlen(v[i].key);
        ck_assert_uint_eq((uint32_t)murmur2(v[i].key, n), v[i].hash);
        ck_assert_int_eq(partition_for_key(v[i].key, n, 10), v[i].mod10);
        ck_assert_int_eq(partition_for_key(v[i].key, n, 6), v[i].mod6);
    }
    ck_assert_int_eq(murmur2(be32, 4), 1606757304);
    ck_assert_int_eq(murmur2(be64, 8), 506863552);
}
END_TEST

START_TEST(decode_batch_a)
{
    BatchHeader h;
    BatchIter it;
    Record r;
    RecordHeader rh;

    decode(batch_a, sizeof batch_a, &h);
    ck_assert(batch_crc_is_valid(batch_a, &h));
    ck_assert_uint_eq(h.crc, 0xa58cc4c7);
    ck_assert_int_eq(h.producer_id, 4000);
    ck_assert_int_eq(h.producer_epoch, 1);
    ck_assert_int_eq(h.base_sequence, 10);
    ck_assert_int_eq(h.records_count, 2);
    ck_assert_int_eq(h.leader_epoch, -1);
    h.base_offset = 1234;
    batch_iter_init(&it, &h, batch_a + 61, sizeof batch_a - 61);
    ck_assert_int_eq(batch_iter_next(&it, &r), 1);
    ck_assert_int_eq(r.offset, 1234);
    ck_assert_int_eq(r.timestamp, 1700000000000);
    ck_assert_int_eq(r.key_size, 2);
    ck_assert_mem_eq(r.key, "k1", 2);
    ck_assert_int_eq(r.value_size, 5);
    ck_assert_mem_eq(r.value, "hello", 5);
    ck_assert_int_eq(r.headers_count, 0);
    ck_assert_int_eq(batch_iter_next(&it, &r), 1);
    ck_assert_int_eq(r.offset, 1235);
    ck_assert_int_eq(r.timestamp, 1700000000007);
    ck_assert_int_eq(r.key_size, -1);
    ck_assert_ptr_null(r.key);
    ck_assert_mem_eq(r.value, "world!", 6);
    ck_assert_int_eq(r.headers_count, 1);
    ck_assert_int_eq(record_header_next(&r.headers, &r.headers_size, &rh), 1);
    ck_assert_int_eq(rh.key_size, 1);
    ck_assert_mem_eq(rh.key, "h", 1);
    ck_assert_int_eq(rh.value_size, 1);
    ck_assert_mem_eq(rh.value, "v", 1);
    ck_assert_int_eq(record_header_next(&r.headers, &r.headers_size, &rh), 0);
    ck_assert_int_eq(batch_iter_next(&it, &r), 0);
    ck_assert_int_eq(batch_iter_next(&it, &r), 0);
}
END_TEST

START_TEST(build_batch_a)
{
    uint8_t memory[92];
    BatchBuilder b;
    BatchStamp stamp = {.producer_id = 4000, .producer_epoch = 1, .base_sequence = 10};
    RecordHeader rh = {.key = "h", .key_size = 1, .value = "v", .value_size = 1};
    RecordView r0 = {.timestamp = 1700000000000, .key = "k1", .key_size = 2, .value = "hello", .value_size = 5};
    RecordView r1 = {.timestamp = 1700000000007, .key_size = -1, .value = "world!", .value_size = 6,
                     .headers = &rh, .headers_count = 1};

    batch_builder_init(&b, memory, sizeof memory);
    ck_assert_int_eq(batch_builder_append(&b, &r0), 0);
    ck_assert_int_eq(batch_builder_append(&b, &r1), 0);
    ck_assert_uint_eq(batch_builder_finish(&b, &stamp), sizeof batch_a);
    ck_assert_mem_eq(memory, batch_a, sizeof batch_a);

    batch_set_base_offset(memory, 1234);
    batch_set_leader_epoch(memory, 5);
    ck_assert_mem_eq(memory, "\0\0\0\0\0\0\x04\xd2\0\0\0\x50\0\0\0\x05", 16);
    ck_assert_mem_eq(memory + 16, batch_a + 16, sizeof batch_a - 16);
}
END_TEST

START_TEST(build_batch_b_by_claim)
{
    uint8_t memory[69];
    BatchBuilder b;
    char *value;

    batch_builder_init(&b, memory, sizeof memory);
    value = batch_builder_claim(&b, 0, NULL, -1, 1);
    ck_assert_ptr_nonnull(value);
    *value = 'x';
    ck_assert_ptr_null(batch_builder_claim(&b, 0, NULL, -1, 0));
    ck_assert_uint_eq(batch_builder_finish(&b, &BATCH_STAMP_NONE), sizeof batch_b);
    ck_assert_mem_eq(memory, batch_b, sizeof batch_b);
}
END_TEST

START_TEST(decode_control_batch)
{
    BatchHeader h;
    BatchIter it;
    Record r;
    BatchCheck c;
    BatchRules rules = client_rules;

    decode(batch_c, sizeof batch_c, &h);
    ck_assert(batch_crc_is_valid(batch_c, &h));
    ck_assert_int_eq(h.attributes, BATCH_ATTR_TXN | BATCH_ATTR_CONTROL);
    ck_assert_int_eq(batch_last_offset(&h), 42);
    batch_iter_init(&it, &h, batch_c + 61, sizeof batch_c - 61);
    ck_assert_int_eq(batch_iter_next(&it, &r), 1);
    ck_assert_int_eq(r.offset, 42);
    ck_assert_mem_eq(r.key, "\0\0\0\1", 4);
    ck_assert_mem_eq(r.value, "\0\0\0\0\0\x09", 6);
    h.base_offset = 0;
    ck_assert_int_eq(batch_check_header(&h, sizeof batch_c, &rules, &c), K_INVALID_RECORD);
    rules.from_client = false;
    ck_assert_int_eq(batch_check_header(&h, sizeof batch_c, &rules, &c), K_NONE);
}
END_TEST

START_TEST(header_crc_vectors)
{
    uint8_t bytes[61];
    BatchHeader h = {.magic = 2, .batch_length = 49};

    batch_header_encode(&h, bytes);
    ck_assert_uint_eq(batch_crc_compute(bytes, &h), 0x595fb7dd);
    h.attributes = 0x20;
    batch_header_encode(&h, bytes);
    ck_assert_uint_eq(batch_crc_compute(bytes, &h), 0x512e43d9);
    decode(batch_a, sizeof batch_a, &h);
    batch_header_encode(&h, bytes);
    ck_assert_mem_eq(bytes, batch_a, 61);
    decode(batch_c, sizeof batch_c, &h);
    batch_header_encode(&h, bytes);
    ck_assert_mem_eq(bytes, batch_c, 61);
}
END_TEST

START_TEST(log_append_time)
{
    uint8_t batch[sizeof batch_a];
    BatchHeader h;
    BatchIter it;
    Record r;

    memcpy(batch, batch_a, sizeof batch);
    batch_set_max_timestamp(batch, 1800000000000, true);
    decode(batch, sizeof batch, &h);
    ck_assert(batch_crc_is_valid(batch, &h));
    ck_assert_int_eq(h.attributes, BATCH_ATTR_LOG_APPEND);
    batch_iter_init(&it, &h, batch + 61, sizeof batch - 61);
    while (batch_iter_next(&it, &r) == 1)
        ck_assert_int_eq(r.timestamp, 1800000000000);
    batch_set_max_timestamp(batch, 1700000000007, false);
    ck_assert_mem_eq(batch, batch_a, sizeof batch);
}
END_TEST

/* ---- cut and damaged input ----------------------------------------------------------------------------------------- */

/* The records area in memory of exactly its size, so that a sanitizer sees one byte too many. */
static KafkaError check_cut(const uint8_t *batch, size_t records_size)
{
    uint8_t *copy = malloc(records_size > 0 ? records_size : 1);
    BatchHeader h;
    BatchCheck c;
    BatchIter it;
    Record r;
    KafkaError e;
    int n;

    ck_assert_ptr_nonnull(copy);
    memcpy(copy, batch + 61, records_size);
    ck_assert_int_eq(batch_header_decode(batch, 61, &h), 0);
    e = batch_check_records(&h, copy, records_size, &client_rules, &c);
    batch_iter_init(&it, &h, copy, records_size);
    do
        n = batch_iter_next(&it, &r);
    while (n == 1);
    ck_assert(n == (e == K_NONE ? 0 : -EBADMSG));
    free(copy);
    return e;
}

START_TEST(cut_at_every_byte)
{
    BatchHeader h;

    for (size_t n = 0; n < 61; n++)
        ck_assert_int_eq(batch_header_decode(batch_a, n, &h), -EAGAIN);
    for (size_t n = 0; n < sizeof batch_a - 61; n++)
        ck_assert_int_eq(check_cut(batch_a, n), K_INVALID_RECORD);
    ck_assert_int_eq(check_cut(batch_a, sizeof batch_a - 61), K_NONE);
}
END_TEST

START_TEST(flipped_bits)
{
    for (size_t bit = 0; bit < sizeof batch_a * 8; bit++) {
        uint8_t copy[sizeof batch_a];
        BatchHeader h;
        BatchCheck c;

        memcpy(copy, batch_a, sizeof copy);
        copy[bit / 8] ^= (uint8_t)(1u << (bit % 8));
        if (batch_header_decode(copy, sizeof copy, &h) < 0) {
            ck_assert((bit / 8 >= 8 && bit / 8 < 12) || bit / 8 == 16);
            continue;
        }
        if (batch_total_size(&h) == sizeof copy && bit / 8 >= 17)
            ck_assert(!batch_crc_is_valid(copy, &h)); /* any single bit behind the magic */
        (void)batch_check_header(&h, sizeof copy, &client_rules, &c);
        (void)batch_check_records(&h, copy + 61, sizeof copy - 61, &client_rules, &c);
    }
}
END_TEST

START_TEST(bad_headers)
{
    uint8_t copy[61];
    BatchHeader h;

    memcpy(copy, batch_a, 61);
    copy[16] = 1;
    ck_assert_int_eq(batch_header_decode(copy, 61, &h), -EBADMSG);
    memcpy(copy, batch_a, 61);
    copy[11] = 48;
    ck_assert_int_eq(batch_header_decode(copy, 61, &h), -EBADMSG);
    copy[8] = 0x80;
    ck_assert_int_eq(batch_header_decode(copy, 61, &h), -EBADMSG);
}
END_TEST

START_TEST(bad_records)
{
    /* One record area each for a batch of one record; all must be refused. */
    static const struct {
        uint8_t size, bytes[16];
    } bad[] = {
        {7, {0x0a, 0, 0, 0, 1, 1, 0}},                               /* length below the minimum */
        {8, {0x0c, 0, 0, 0, 1, 1, 0, 0}},                            /* a byte behind the record */
        {8, {0x0e, 0, 0, 0, 1, 1, 0, 0}},                            /* a byte behind the headers */
        {7, {0x0c, 0, 0, 0, 3, 1, 0}},                               /* key length -2 */
        {7, {0x0c, 0, 0, 0, 1, 3, 0}},                               /* value length -2 */
        {7, {0x0c, 0, 0, 0, 1, 1, 1}},                               /* header count -1 */
        {7, {0x0c, 0, 0, 0, 1, 1, 2}},                               /* header missing */
        {9, {0x10, 0, 0, 0, 1, 1, 2, 1, 1}},                         /* header key null */
        {7, {0x0c, 0, 0, 0, 1, 0x10, 0}},                            /* value beyond the record */
        {7, {0x0b, 0, 0, 0, 1, 1, 0}},                               /* length negative */
        {14, {0x1a, 0, 0, 0x80, 0x80, 0x80, 0x80, 0x80, 0, 1, 1, 0, 0, 0}}, /* offset varint of 6 bytes */
        {13, {0x18, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0x1f, 1, 0, 0, 0}},    /* key length with surplus bits */
        {13, {0x18, 0, 0, 0, 0xfe, 0xff, 0xff, 0xff, 0x0f, 1, 0, 0, 0}},    /* key length 2^31-1 */
        {7, {0x0c, 0, 0, 2, 1, 1, 0}},                               /* offset delta 1 of record 0 */
    };
    static const uint8_t good[7] = {0x0c, 0, 0, 0, 1, 1, 0};
    BatchHeader h = {.magic = 2, .records_count = 1};
    BatchCheck c;

    ck_assert_int_eq(batch_check_records(&h, good, sizeof good, &client_rules, &c), K_NONE);
    for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
        KafkaError e = batch_check_records(&h, bad[i].bytes, bad[i].size, &client_rules, &c);
        ck_assert_msg(e == K_INVALID_RECORD, "case %zu: %d", i, e);
        ck_assert_ptr_nonnull(c.why);
    }
}
END_TEST

START_TEST(header_rules)
{
    BatchHeader good, h;
    BatchCheck c;

    decode(batch_a, sizeof batch_a, &good);
#define EXPECT(error, size, change)                                                                \
    do {                                                                                           \
        h = good;                                                                                  \
        change;                                                                                    \
        ck_assert_int_eq(batch_check_header(&h, (size), &client_rules, &c), (error));              \
    } while (0)
    EXPECT(K_NONE, sizeof batch_a, (void)0);
    EXPECT(K_CORRUPT_MESSAGE, sizeof batch_a - 1, (void)0);
    EXPECT(K_INVALID_RECORD, sizeof batch_a + 1, (void)0);
    EXPECT(K_INVALID_RECORD, sizeof batch_a, h.base_offset = 1);
    EXPECT(K_INVALID_RECORD, sizeof batch_a, h.records_count = 0);
    EXPECT(K_INVALID_RECORD, sizeof batch_a, h.records_count = 3);
    EXPECT(K_INVALID_RECORD, sizeof batch_a, h.records_count = -1);
    EXPECT(K_INVALID_RECORD, sizeof batch_a, h.last_offset_delta = -1);
    EXPECT(K_INVALID_RECORD, sizeof batch_a, h.last_offset_delta = INT32_MAX);
    EXPECT(K_INVALID_RECORD, sizeof batch_a, h.base_sequence = -1);
    EXPECT(K_INVALID_RECORD, sizeof batch_a, h.attributes = BATCH_ATTR_CONTROL);
    EXPECT(K_INVALID_RECORD, sizeof batch_a, h.attributes = BATCH_ATTR_HORIZON);
    EXPECT(K_INVALID_RECORD, sizeof batch_a, h.attributes = 0x80);
    EXPECT(K_INVALID_RECORD, sizeof batch_a, h.attributes = INT16_MIN);
    EXPECT(K_INVALID_RECORD, sizeof batch_a, (h.attributes = BATCH_ATTR_TXN, h.producer_id = -1));
    EXPECT(K_INVALID_TIMESTAMP, sizeof batch_a, h.attributes = BATCH_ATTR_LOG_APPEND);
    EXPECT(K_UNSUPPORTED_COMPRESSION_TYPE, sizeof batch_a, h.attributes = 5);
    EXPECT(K_NONE, sizeof batch_a, h.attributes = CODEC_ZSTD | BATCH_ATTR_TXN);
#undef EXPECT
}
END_TEST

START_TEST(time_and_key_rules)
{
    BatchRules rules = client_rules;
    BatchHeader h;
    BatchCheck c;
    const void *records = batch_a + 61;
    size_t size = sizeof batch_a - 61;

    decode(batch_a, sizeof batch_a, &h);
    ck_assert_int_eq(batch_check_records(&h, records, size, &rules, &c), K_NONE);
    ck_assert_int_eq(c.max_timestamp_seen, 1700000000007);
    rules.compacted = true;
    ck_assert_int_eq(batch_check_records(&h, records, size, &rules, &c), K_INVALID_RECORD);
    ck_assert_int_eq(c.bad_record, 1);
    rules = client_rules;
    rules.after_max_ms = 6;
    ck_assert_int_eq(batch_check_records(&h, records, size, &rules, &c), K_INVALID_TIMESTAMP);
    ck_assert_int_eq(c.bad_record, 1);
    rules.log_append_time = true; /* producer's time does not matter */
    ck_assert_int_eq(batch_check_records(&h, records, size, &rules, &c), K_NONE);
    rules = client_rules;
    rules.now_ms += 1000;
    rules.before_max_ms = 999;
    ck_assert_int_eq(batch_check_records(&h, records, size, &rules, &c), K_INVALID_TIMESTAMP);
    ck_assert_int_eq(c.bad_record, 0);
    rules.compacted = true; /* now record 1 is at fault as well, for want of a key */
    Buf refused = BUF_NULL;
    ck_assert_int_eq(batch_list_refused(&h, records, size, &rules, &refused), 0);
    ck_assert_uint_eq(refused.size, 2 * sizeof(int32_t));
    ck_assert_mem_eq(refused.data, ((int32_t[]){0, 1}), refused.size);
    buf_deinit(&refused);
    rules.compacted = false;
    rules.before_max_ms = 1000;
    ck_assert_int_eq(batch_check_records(&h, records, size, &rules, &c), K_NONE);
    rules.before_max_ms = 0;
    h.base_timestamp = -8; /* record 1 has no timestamp (-1), record 0 one of 1969 */
    ck_assert_int_eq(batch_check_records(&h, records, size, &rules, &c), K_INVALID_TIMESTAMP);
    ck_assert_int_eq(c.bad_record, 0);
    h.base_timestamp = INT64_MAX - 3;
    rules.after_max_ms = rules.before_max_ms = INT64_MAX;
    ck_assert_int_eq(batch_check_records(&h, records, size, &rules, &c), K_INVALID_TIMESTAMP);
    ck_assert_int_eq(c.bad_record, 1);
}
END_TEST

START_TEST(no_timestamp_passes)
{
    uint8_t memory[128];
    BatchBuilder b;
    BatchHeader h;
    BatchCheck c;
    BatchRules rules = client_rules;
    RecordView r = {.timestamp = -1, .key_size = -1, .value_size = -1};
    size_t size;

    rules.before_max_ms = 1;
    batch_builder_init(&b, memory, sizeof memory);
    ck_assert_int_eq(batch_builder_append(&b, &r), 0);
    size = batch_builder_finish(&b, &BATCH_STAMP_NONE);
    decode(memory, size, &h);
    ck_assert_int_eq(h.max_timestamp, -1);
    ck_assert_int_eq(batch_check_records(&h, memory + 61, size - 61, &rules, &c), K_NONE);
    ck_assert_int_eq(c.max_timestamp_seen, -1);
}
END_TEST

START_TEST(gaps_after_compaction)
{
    /* offsets 3 and 7 are left of a batch of ten */
    static const uint8_t records[] = {0x0c, 0, 0, 6, 1, 1, 0, 0x0c, 0, 0, 14, 1, 1, 0};
    static const uint8_t backwards[] = {0x0c, 0, 0, 14, 1, 1, 0, 0x0c, 0, 0, 6, 1, 1, 0};
    BatchHeader h = {.magic = 2, .base_offset = 100, .last_offset_delta = 9, .records_count = 2, .batch_length = 63};
    BatchRules rules = {.now_ms = 5};
    BatchCheck c;
    BatchIter it;
    Record r;

    ck_assert_int_eq(batch_check_header(&h, 75, &rules, &c), K_NONE);
    ck_assert_int_eq(batch_check_records(&h, records, sizeof records, &rules, &c), K_NONE);
    ck_assert_int_eq(batch_check_records(&h, backwards, sizeof backwards, &rules, &c), K_INVALID_RECORD);
    h.last_offset_delta = 6;
    ck_assert_int_eq(batch_check_records(&h, records, sizeof records, &rules, &c), K_INVALID_RECORD);
    batch_iter_init(&it, &h, records, sizeof records);
    ck_assert_int_eq(batch_iter_next(&it, &r), 1);
    ck_assert_int_eq(r.offset, 103);
    ck_assert_int_eq(batch_iter_next(&it, &r), 1);
    ck_assert_int_eq(r.offset, 107);
    ck_assert_int_eq(batch_iter_next(&it, &r), 0);
}
END_TEST

/* ---- builder ------------------------------------------------------------------------------------------------------- */

typedef struct Planned {
    RecordView view;
    RecordHeader headers[4];
} Planned;

static uint8_t noise[70000];

static int32_t random_size(Rng *rng, bool nullable)
{
    static const int32_t edges[] = {0, 1, 62, 63, 64, 65, 127, 128, 8191, 8192, 20000};

    if (nullable && rng_below(rng, 5) == 0)
        return -1;
    return rng_below(rng, 3) == 0 ? edges[rng_below(rng, ARRAY_SIZE(edges))] : (int32_t)rng_below(rng, 200);
}

static void plan(Rng *rng, Planned *p, int64_t timestamp)
{
    *p = (Planned){.view = {.timestamp = timestamp, .key = noise, .value = noise + 100}};
    p->view.key_size = random_size(rng, true);
    p->view.value_size = random_size(rng, true);
    p->view.headers_count = rng_below(rng, 4) == 0 ? (int32_t)rng_below(rng, 5) : 0;
    p->view.headers = p->headers;
    for (int32_t i = 0; i < p->view.headers_count; i++)
        p->headers[i] = (RecordHeader){.key = noise + i, .key_size = random_size(rng, false), .value = noise + 7,
                                       .value_size = random_size(rng, true)};
}

static void same_bytes(const void *a, int32_t a_size, const void *b, int32_t b_size)
{
    ck_assert_int_eq(a_size, b_size);
    if (a_size > 0)
        ck_assert_mem_eq(a, b, (size_t)a_size);
}

static void expect_record(const Record *r, const Planned *p, int64_t offset)
{
    const void *at = r->headers;
    size_t left = r->headers_size;
    RecordHeader h;

    ck_assert_int_eq(r->offset, offset);
    ck_assert_int_eq(r->timestamp, p->view.timestamp);
    same_bytes(r->key, r->key_size, p->view.key, p->view.key_size);
    same_bytes(r->value, r->value_size, p->view.value, p->view.value_size);
    ck_assert_int_eq(r->headers_count, p->view.headers_count);
    for (int32_t i = 0; i < r->headers_count; i++) {
        ck_assert_int_eq(record_header_next(&at, &left, &h), 1);
        same_bytes(h.key, h.key_size, p->headers[i].key, p->headers[i].key_size);
        same_bytes(h.value, h.value_size, p->headers[i].value, p->headers[i].value_size);
    }
    ck_assert_uint_eq(left, 0);
}

START_TEST(what_is_built_is_read_back)
{
    static uint8_t memory[1 << 20];
    static Planned planned[400];
    BatchRules rules = {.from_client = true, .now_ms = 0, .before_max_ms = INT64_MAX, .after_max_ms = INT64_MAX};
    Rng rng;

    rng_init(&rng, (uint64_t)_i + 1);
    for (size_t i = 0; i < sizeof noise; i++)
        noise[i] = (uint8_t)rng_next(&rng);
    for (int round = 0; round < 20; round++) {
        BatchBuilder b;
        BatchHeader h;
        BatchIter it;
        BatchCheck c;
        Record r;
        int n = 0;
        int64_t newest = INT64_MIN;

        batch_builder_init(&b, memory, 100 + (size_t)rng_below(&rng, sizeof memory - 100));
        for (; n < (int)ARRAY_SIZE(planned); n++) {
            size_t before = b.size;
            plan(&rng, &planned[n], 1700000000000 + (int64_t)rng_below(&rng, 100000) - 50000);
            if (batch_builder_append(&b, &planned[n].view) < 0) {
                ck_assert_uint_eq(b.size, before);
                ck_assert_uint_lt(b.capacity - before, batch_record_size_max(&planned[n].view));
                break;
            }
            ck_assert_uint_le(b.size - before, batch_record_size_max(&planned[n].view));
            newest = MAX(newest, planned[n].view.timestamp);
        }
        if (n == 0)
            continue;
        decode(memory, batch_builder_finish(&b, &BATCH_STAMP_NONE), &h);
        ck_assert(batch_crc_is_valid(memory, &h));
        ck_assert_int_eq(h.max_timestamp, newest);
        ck_assert_int_eq(batch_check_header(&h, batch_total_size(&h), &rules, &c), K_NONE);
        ck_assert_int_eq(batch_check_records(&h, memory + 61, batch_total_size(&h) - 61, &rules, &c), K_NONE);
        ck_assert_int_eq(c.max_timestamp_seen, newest);
        batch_iter_init(&it, &h, memory + 61, batch_total_size(&h) - 61);
        for (int i = 0; i < n; i++) {
            ck_assert_int_eq(batch_iter_next(&it, &r), 1);
            expect_record(&r, &planned[i], i);
        }
        ck_assert_int_eq(batch_iter_next(&it, &r), 0);
    }
}
END_TEST

START_TEST(builder_exact_fit)
{
    uint8_t memory[69];
    BatchBuilder b;
    RecordView r = {.timestamp = 0, .key_size = -1, .value = "xy", .value_size = 2};

    batch_builder_init(&b, memory, sizeof memory);
    ck_assert_int_eq(batch_builder_append(&b, &r), -ENOSPC);
    ck_assert_int_eq(b.count, 0);
    r.value_size = 1;
    ck_assert_int_eq(batch_builder_append(&b, &r), 0);
    r.timestamp = INT64_MIN; /* a delta that no varint carries */
    ck_assert_int_eq(batch_builder_append(&b, &r), -ENOSPC);
    ck_assert_int_eq(b.count, 1);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("wire/batch");
    TCase *vectors = tcase_create("vectors"), *bad = tcase_create("bad input"), *build = tcase_create("build");
    SRunner *runner = srunner_create(suite);

    suite_add_tcase(suite, vectors);
    tcase_add_test(vectors, crc_vectors);
    tcase_add_test(vectors, varint_vectors);
    tcase_add_test(vectors, varint_too_long);
    tcase_add_test(vectors, murmur_vectors);
    tcase_add_test(vectors, decode_batch_a);
    tcase_add_test(vectors, build_batch_a);
    tcase_add_test(vectors, build_batch_b_by_claim);
    tcase_add_test(vectors, decode_control_batch);
    tcase_add_test(vectors, header_crc_vectors);
    tcase_add_test(vectors, log_append_time);
    suite_add_tcase(suite, bad);
    tcase_add_test(bad, cut_at_every_byte);
    tcase_add_test(bad, flipped_bits);
    tcase_add_test(bad, bad_headers);
    tcase_add_test(bad, bad_records);
    tcase_add_test(bad, header_rules);
    tcase_add_test(bad, time_and_key_rules);
    tcase_add_test(bad, no_timestamp_passes);
    tcase_add_test(bad, gaps_after_compaction);
    suite_add_tcase(suite, build);
    tcase_add_loop_test(build, what_is_built_is_read_back, 0, 5);
    tcase_add_test(build, builder_exact_fit);
    srunner_run_all(runner, CK_ENV);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? 0 : 1;
}
