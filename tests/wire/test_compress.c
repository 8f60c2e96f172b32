/* Every codec there and back, foreign framings, bounds, and damaged input. */

#include <check.h>
#include <errno.h>
#include <lz4frame.h>
#include <snappy-c.h>
#include <stdlib.h>
#include <string.h>
#include <zlib.h>
#include <zstd.h>

#include "base/hash.h"
#include "wire/compress.h"

#define LIMIT (8u << 20)

static const size_t sizes[] = {0, 1, 100, 4096, 32767, 32768, 32769, 65536, 1000003};

/* Half text-like, half noise: compresses, but not to nothing. */
static uint8_t *sample(size_t size)
{
    uint8_t *p = malloc(size + 1);
    Rng rng;

    ck_assert_ptr_nonnull(p);
    rng_init(&rng, size);
    for (size_t i = 0; i < size; i++)
        p[i] = (i / 64) % 2 ? (uint8_t)rng_next(&rng) : (uint8_t)('a' + i % 7);
    return p;
}

static void expect_plain(BatchCodec codec, const void *data, size_t size, const void *plain, size_t plain_size)
{
    Buf out = BUF_NULL;

    ck_assert_int_eq(buf_append(&out, "##", 2), 0);
    ck_assert_int_eq(codec_decompress(codec, data, size, plain_size, &out), 0); /* the limit is exact */
    ck_assert_uint_eq(out.size, plain_size + 2);
    ck_assert_mem_eq(out.data, "##", 2);
    if (plain_size > 0)
        ck_assert_mem_eq(out.data + 2, plain, plain_size);
    buf_deinit(&out);
}

static int decompress(BatchCodec codec, const void *data, size_t size, size_t size_max)
{
    Buf out = BUF_NULL;
    int r = codec_decompress(codec, data, size, size_max, &out);

    ck_assert_uint_le(out.size, size_max);
    if (r < 0)
        ck_assert_uint_eq(out.size, 0);
    buf_deinit(&out);
    return r;
}

START_TEST(there_and_back)
{
    BatchCodec codec = (BatchCodec)_i;

    for (size_t i = 0; i < ARRAY_SIZE(sizes); i++) {
        uint8_t *plain = sample(sizes[i]);
        Buf packed = BUF_NULL;

        ck_assert_int_eq(codec_compress(codec, INT32_MIN, plain, sizes[i], &packed), 0);
        expect_plain(codec, packed.data, packed.size, plain, sizes[i]);
        if (sizes[i] > 0)
            ck_assert_int_eq(decompress(codec, packed.data, packed.size, sizes[i] - 1), -EFBIG);
        buf_deinit(&packed);
        free(plain);
    }
}
END_TEST

START_TEST(levels)
{
    static const struct {
        BatchCodec codec;
        int level, result;
    } v[] = {
        {CODEC_GZIP, 1, 0},  {CODEC_GZIP, 9, 0},  {CODEC_GZIP, 10, -EINVAL}, {CODEC_LZ4, 1, 0},
        {CODEC_LZ4, 17, 0},  {CODEC_LZ4, 18, -EINVAL}, {CODEC_ZSTD, -5, 0},  {CODEC_ZSTD, 19, 0},
        {CODEC_ZSTD, 99, -EINVAL}, {CODEC_SNAPPY, 7, 0},
    };
    uint8_t *plain = sample(5000);

    for (size_t i = 0; i < ARRAY_SIZE(v); i++) {
        Buf packed = BUF_NULL;
        ck_assert_int_eq(codec_compress(v[i].codec, v[i].level, plain, 5000, &packed), v[i].result);
        if (v[i].result == 0)
            expect_plain(v[i].codec, packed.data, packed.size, plain, 5000);
        else
            ck_assert_uint_eq(packed.size, 0);
        buf_deinit(&packed);
    }
    free(plain);
}
END_TEST

START_TEST(cut_at_every_byte)
{
    BatchCodec codec = (BatchCodec)_i;
    uint8_t *plain = sample(3000);
    Buf packed = BUF_NULL;

    ck_assert_int_eq(codec_compress(codec, INT32_MIN, plain, 3000, &packed), 0);
    for (size_t n = 0; n < packed.size; n++) {
        uint8_t *copy = malloc(n > 0 ? n : 1); /* its own block: a sanitizer sees a read past the end */
        int r;

        memcpy(copy, packed.data, n);
        r = decompress(codec, copy, n, LIMIT);
        /* xerial has no end mark: a cut between header and first block is an empty stream */
        ck_assert_msg(r == -EBADMSG || (codec == CODEC_SNAPPY && n == 16 && r == 0), "cut %zu: %d", n, r);
        free(copy);
    }
    buf_deinit(&packed);
    free(plain);
}
END_TEST

START_TEST(flipped_bits)
{
    BatchCodec codec = (BatchCodec)_i;
    uint8_t *plain = sample(700);
    Buf packed = BUF_NULL;

    ck_assert_int_eq(codec_compress(codec, INT32_MIN, plain, 700, &packed), 0);
    for (size_t bit = 0; bit < packed.size * 8; bit++) {
        packed.data[bit / 8] ^= (uint8_t)(1u << (bit % 8));
        (void)decompress(codec, packed.data, packed.size, LIMIT);
        packed.data[bit / 8] ^= (uint8_t)(1u << (bit % 8));
    }
    expect_plain(codec, packed.data, packed.size, plain, 700);
    buf_deinit(&packed);
    free(plain);
}
END_TEST

START_TEST(bombs)
{
    BatchCodec codec = (BatchCodec)_i;
    size_t size = 32u << 20;
    uint8_t *zeros = calloc(1, size);
    Buf packed = BUF_NULL, out = BUF_NULL;

    ck_assert_ptr_nonnull(zeros);
    ck_assert_int_eq(codec_compress(codec, INT32_MIN, zeros, size, &packed), 0);
    ck_assert_int_eq(codec_decompress(codec, packed.data, packed.size, 1 << 20, &out), -EFBIG);
    ck_assert_uint_le(out.capacity, 4 << 20);
    buf_deinit(&out);
    buf_deinit(&packed);
    free(zeros);
}
END_TEST

START_TEST(raw_snappy_is_read)
{
    uint8_t *plain = sample(50000);
    size_t n = snappy_max_compressed_length(50000);
    char *packed = malloc(n);

    ck_assert_int_eq((int)snappy_compress((char *)plain, 50000, packed, &n), SNAPPY_OK);
    expect_plain(CODEC_SNAPPY, packed, n, plain, 50000);
    ck_assert_int_eq(decompress(CODEC_SNAPPY, packed, n, 49999), -EFBIG);
    free(packed);
    free(plain);
}
END_TEST

START_TEST(snappy_lies_about_its_length)
{
    /* 0xfffffff0 bytes promised in six; and a xerial block that ends beyond the data */
    static const uint8_t huge[] = {0xf0, 0xff, 0xff, 0xff, 0x0f, 0x00};
    static const uint8_t block[] = {0x82, 'S', 'N', 'A', 'P', 'P', 'Y', 0, 0, 0, 0, 1, 0, 0, 0, 1, 0x7f, 0xff, 0xff, 0xff, 1};

    ck_assert_int_eq(decompress(CODEC_SNAPPY, huge, sizeof huge, SIZE_MAX), -EBADMSG);
    ck_assert_int_eq(decompress(CODEC_SNAPPY, block, sizeof block, LIMIT), -EBADMSG);
}
END_TEST

START_TEST(xerial_layout)
{
    static const uint8_t header[] = {0x82, 'S', 'N', 'A', 'P', 'P', 'Y', 0, 0, 0, 0, 1, 0, 0, 0, 1};
    Buf packed = BUF_NULL;

    ck_assert_int_eq(codec_compress(CODEC_SNAPPY, INT32_MIN, "hello", 5, &packed), 0);
    ck_assert_mem_eq(packed.data, header, sizeof header);
    ck_assert_uint_eq(packed.data[16] << 24 | packed.data[17] << 16 | packed.data[18] << 8 | packed.data[19],
                      packed.size - 20);
    buf_deinit(&packed);
}
END_TEST

START_TEST(gzip_members)
{
    Buf packed = BUF_NULL;

    ck_assert_int_eq(codec_compress(CODEC_GZIP, 1, "hello ", 6, &packed), 0);
    ck_assert_int_eq(codec_compress(CODEC_GZIP, 9, "world", 5, &packed), 0);
    expect_plain(CODEC_GZIP, packed.data, packed.size, "hello world", 11);
    ck_assert_int_eq(buf_append(&packed, "junk", 4), 0);
    ck_assert_int_eq(decompress(CODEC_GZIP, packed.data, packed.size, LIMIT), -EBADMSG);
    buf_deinit(&packed);
}
END_TEST

START_TEST(zstd_frames_without_size)
{
    ZSTD_CCtx *c = ZSTD_createCCtx();
    uint8_t *plain = sample(100000);
    size_t bound = ZSTD_compressBound(100000) + 1000, n;
    uint8_t *packed = malloc(bound);

    ZSTD_CCtx_setParameter(c, ZSTD_c_contentSizeFlag, 0);
    ZSTD_CCtx_setParameter(c, ZSTD_c_checksumFlag, 1);
    n = ZSTD_compress2(c, packed, bound, plain, 60000);
    n += ZSTD_compress2(c, packed + n, bound - n, plain + 60000, 40000);
    expect_plain(CODEC_ZSTD, packed, n, plain, 100000);
    ck_assert_int_eq(decompress(CODEC_ZSTD, packed, n, 99999), -EFBIG);
    ck_assert_int_eq(decompress(CODEC_ZSTD, packed, n, 60000), -EFBIG);
    packed[n - 1] ^= 1; /* the checksum */
    ck_assert_int_eq(decompress(CODEC_ZSTD, packed, n, LIMIT), -EBADMSG);
    ZSTD_freeCCtx(c);
    free(packed);
    free(plain);
}
END_TEST

START_TEST(lz4_frames)
{
    LZ4F_preferences_t p = {.frameInfo = {.blockMode = LZ4F_blockLinked, .blockSizeID = LZ4F_max64KB}};
    uint8_t *plain = sample(200000);
    size_t bound = LZ4F_compressFrameBound(200000, &p) + 100, n; /* headroom for the checksums below */
    uint8_t *packed = malloc(bound + 1);

    n = LZ4F_compressFrame(packed, bound, plain, 200000, &p);
    ck_assert_int_eq(decompress(CODEC_LZ4, packed, n, LIMIT), -EBADMSG); /* Java could not read it */
    p.frameInfo.blockMode = LZ4F_blockIndependent;
    p.frameInfo.contentSize = 200000;
    p.frameInfo.contentChecksumFlag = LZ4F_contentChecksumEnabled;
    p.frameInfo.blockChecksumFlag = LZ4F_blockChecksumEnabled;
    n = LZ4F_compressFrame(packed, bound, plain, 200000, &p);
    ck_assert(!LZ4F_isError(n));
    expect_plain(CODEC_LZ4, packed, n, plain, 200000);
    packed[n] = 0;
    ck_assert_int_eq(decompress(CODEC_LZ4, packed, n + 1, LIMIT), -EBADMSG);
    packed[6] ^= 1; /* header checksum or size */
    ck_assert_int_eq(decompress(CODEC_LZ4, packed, n, LIMIT), -EBADMSG);
    free(packed);
    free(plain);
}
END_TEST

START_TEST(whole_batches)
{
    static uint8_t memory[40000];
    BatchCodec codec = (BatchCodec)_i;
    Buf packed = BUF_NULL, again = BUF_NULL, back = BUF_NULL;
    BatchBuilder b;
    BatchHeader h;
    size_t size;

    batch_builder_init(&b, memory, sizeof memory);
    for (int i = 0; i < 300; i++) {
        RecordView r = {.timestamp = 1000 + i, .key = "key", .key_size = 3, .value = "a value that repeats", .value_size = 20};
        ck_assert_int_eq(batch_builder_append(&b, &r), 0);
    }
    size = batch_builder_finish(&b, &(BatchStamp){.producer_id = 7, .producer_epoch = 2, .base_sequence = 5});
    ck_assert_int_eq(batch_compress(memory, size, codec, INT32_MIN, &packed), 0);
    ck_assert_int_eq(batch_header_decode(packed.data, packed.size, &h), 0);
    ck_assert_uint_eq(batch_total_size(&h), packed.size);
    ck_assert(batch_crc_is_valid(packed.data, &h));
    ck_assert_int_eq(h.attributes, codec);
    ck_assert_int_eq(h.records_count, 300);
    ck_assert_int_eq(h.producer_id, 7);
    ck_assert_int_eq(h.max_timestamp, 1299);
    ck_assert(codec == CODEC_NONE || packed.size < size / 2);
    ck_assert_int_eq(batch_compress(packed.data, packed.size, CODEC_ZSTD, 1, &again), 0);
    ck_assert_int_eq(batch_compress(again.data, again.size, CODEC_NONE, 0, &back), 0);
    ck_assert_uint_eq(back.size, size);
    ck_assert_mem_eq(back.data, memory, size);
    ck_assert_int_eq(batch_compress(memory, size - 1, codec, INT32_MIN, &back), -EBADMSG);
    ck_assert_int_eq(batch_compress(memory, 60, codec, INT32_MIN, &back), -EBADMSG);
    ck_assert_uint_eq(back.size, size);
    buf_deinit(&packed);
    buf_deinit(&again);
    buf_deinit(&back);
}
END_TEST

START_TEST(names)
{
    BatchCodec c;

    for (int i = 0; i < CODEC_COUNT; i++) {
        ck_assert_int_eq(codec_parse(codec_name((BatchCodec)i), &c), 0);
        ck_assert_int_eq(c, i);
    }
    ck_assert_int_eq(codec_parse("brotli", &c), -EINVAL);
    ck_assert_int_eq(decompress((BatchCodec)5, "x", 1, 10), -EOPNOTSUPP);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("wire/compress");
    TCase *t = tcase_create("codecs");
    SRunner *runner = srunner_create(suite);

    suite_add_tcase(suite, t);
    tcase_add_loop_test(t, there_and_back, 0, CODEC_COUNT);
    tcase_add_test(t, levels);
    tcase_add_loop_test(t, cut_at_every_byte, 1, CODEC_COUNT);
    tcase_add_loop_test(t, flipped_bits, 1, CODEC_COUNT);
    tcase_add_loop_test(t, bombs, 1, CODEC_COUNT);
    tcase_add_test(t, raw_snappy_is_read);
    tcase_add_test(t, snappy_lies_about_its_length);
    tcase_add_test(t, xerial_layout);
    tcase_add_test(t, gzip_members);
    tcase_add_test(t, zstd_frames_without_size);
    tcase_add_test(t, lz4_frames);
    tcase_add_loop_test(t, whole_batches, 0, CODEC_COUNT);
    tcase_add_test(t, names);
    srunner_run_all(runner, CK_ENV);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? 0 : 1;
}
