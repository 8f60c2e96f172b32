/*
 * The four codecs behind one call each way.
 *
 * Decompression trusts no length in its input: room grows with what really comes out (doubling, at most size_max), and
 * what a frame claims only caps the first step. Contexts live for one call, so nothing is left behind by a thread that
 * ends. Memory of a decoder is bounded: gzip 40 KiB, lz4 two blocks of 4 MiB, zstd the window, which may not be larger
 * than 8 MiB or the next power of two of size_max.
 */

#include "wire/compress.h"

#include <endian.h>
#include <errno.h>
#include <lz4frame.h>
#include <snappy-c.h>
#include <string.h>
#include <zlib.h>
#include <zstd.h>
#include <zstd_errors.h>

#define COMPRESS_STEP_MIN      (16u << 10)
#define COMPRESS_BATCH_MAX     (256u << 20) /* decompressed records of one batch that batch_compress() accepts */
#define XERIAL_BLOCK_SIZE      (32u << 10)  /* what snappy-java writes */
#define XERIAL_HEADER_SIZE     16
#define SNAPPY_RATIO_MAX       32 /* the format cannot reach it: 3 bytes copy at most 64 */
#define LZ4_FRAME_HEADER_MIN   7
#define LZ4_FLG_VERSION_MASK   0xc0
#define LZ4_FLG_VERSION        0x40
#define LZ4_FLG_INDEPENDENT    0x20
#define LZ4_FLG_DICTIONARY     0x01
#define ZSTD_WINDOW_LOG_MIN    23 /* every decoder should take 8 MiB (RFC 8878); small frames may name that much */
#define ZSTD_WINDOW_LOG_MAX    27

static const uint8_t xerial_header[XERIAL_HEADER_SIZE] = {
    0x82, 'S', 'N', 'A', 'P', 'P', 'Y', 0, 0, 0, 0, 1, 0, 0, 0, 1,
};

/* What one decompression has written and may still write. */
typedef struct Room {
    Buf *out;
    size_t start;    /* out->size before */
    size_t size_max;
} Room;

static size_t room_used(const Room *room)
{
    return room->out->size - room->start;
}

static size_t room_left(const Room *room)
{
    return room->size_max - room_used(room);
}

/* Makes at least one writable byte unless size_max is reached. Return: 0 with *ret_size > 0; -EFBIG; -ENOMEM. */
static int room_grow(Room *room, size_t hint, uint8_t **ret, size_t *ret_size)
{
    size_t step = MAX(MAX(hint, room_used(room)), COMPRESS_STEP_MIN);
    int r;

    step = MIN(step, room_left(room));
    if (step == 0)
        return -EFBIG;
    r = buf_reserve(room->out, step);
    if (r < 0)
        return r;
    *ret = room->out->data + room->out->size;
    *ret_size = step;
    return 0;
}

static int append_bounded(Room *room, const void *data, size_t size)
{
    if (size > room_left(room))
        return -EFBIG;
    return buf_append(room->out, data, size);
}

/* ---- gzip ---------------------------------------------------------------------------------------------------------- */

/* One step. With no room left a byte of scratch finds out whether the stream wants to go on. */
static int gzip_step(z_stream *z, Room *room)
{
    uint8_t spare, *to = &spare;
    size_t to_size = 1;
    int r = room_grow(room, 0, &to, &to_size), zr;

    if (r < 0 && r != -EFBIG)
        return r;
    z->next_out = to;
    z->avail_out = (uInt)MIN(to_size, (size_t)UINT32_MAX);
    to_size = z->avail_out;
    zr = inflate(z, Z_NO_FLUSH);
    if (r == -EFBIG) {
        if (z->avail_out == 0)
            return -EFBIG;
    } else {
        room->out->size += to_size - z->avail_out;
    }
    if (zr == Z_MEM_ERROR)
        return -ENOMEM;
    if (zr == Z_STREAM_END)
        return 1;
    /* Z_BUF_ERROR: input used up before the end. */
    return zr == Z_OK && (z->avail_in > 0 || z->avail_out == 0) ? 0 : -EBADMSG;
}

static int gzip_decompress(const uint8_t *data, size_t size, Room *room)
{
    z_stream z = {0};
    int r;

    if (size > UINT32_MAX)
        return -EFBIG;
    if (size == 0)
        return -EBADMSG;
    if (inflateInit2(&z, 15 + 16) != Z_OK)
        return -ENOMEM;
    z.next_in = (Bytef *)(uintptr_t)data;
    z.avail_in = (uInt)size;
    for (;;) {
        r = gzip_step(&z, room);
        if (r < 0)
            break;
        if (r == 1 && z.avail_in == 0) {
            r = 0;
            break;
        }
        if (r == 1 && inflateReset(&z) != Z_OK) { /* next member */
            r = -EBADMSG;
            break;
        }
    }
    inflateEnd(&z);
    return r;
}

static int gzip_compress(int level, const uint8_t *data, size_t size, Buf *out)
{
    z_stream z = {0};
    size_t bound;
    int r;

    if (level != INT32_MIN && (level < -1 || level > 9))
        return -EINVAL;
    if (size > UINT32_MAX / 2)
        return -EFBIG;
    if (deflateInit2(&z, level == INT32_MIN ? Z_DEFAULT_COMPRESSION : level, Z_DEFLATED, 15 + 16, 8,
                     Z_DEFAULT_STRATEGY) != Z_OK)
        return -ENOMEM;
    bound = deflateBound(&z, (uLong)size);
    r = buf_reserve(out, bound);
    if (r == 0) {
        z.next_in = (Bytef *)(uintptr_t)data;
        z.avail_in = (uInt)size;
        z.next_out = out->data + out->size;
        z.avail_out = (uInt)bound;
        r = deflate(&z, Z_FINISH);
        assert(r == Z_STREAM_END);
        out->size += bound - z.avail_out;
        r = 0;
    }
    deflateEnd(&z);
    return r;
}

/* ---- snappy -------------------------------------------------------------------------------------------------------- */

static int snappy_block_decompress(const uint8_t *data, size_t size, Room *room)
{
    size_t n;
    int r;

    if (snappy_uncompressed_length((const char *)data, size, &n) != SNAPPY_OK || n / SNAPPY_RATIO_MAX > size)
        return -EBADMSG;
    if (n > room_left(room))
        return -EFBIG;
    r = buf_reserve(room->out, n + 1);
    if (r < 0)
        return r;
    if (snappy_uncompress((const char *)data, size, (char *)room->out->data + room->out->size, &n) != SNAPPY_OK)
        return -EBADMSG;
    room->out->size += n;
    return 0;
}

static int snappy_decompress(const uint8_t *data, size_t size, Room *room)
{
    const uint8_t *end = data + size;

    if (size < XERIAL_HEADER_SIZE || memcmp(data, xerial_header, 8) != 0)
        return snappy_block_decompress(data, size, room);
    data += XERIAL_HEADER_SIZE; /* versions: every writer says 1, no reader looks */
    while (data < end) {
        uint32_t n;
        int r;

        if (end - data < 4)
            return -EBADMSG;
        memcpy(&n, data, 4);
        n = be32toh(n);
        data += 4;
        if (n > (size_t)(end - data))
            return -EBADMSG;
        r = snappy_block_decompress(data, n, room);
        if (r < 0)
            return r;
        data += n;
    }
    return 0;
}

static int xerial_compress(const uint8_t *data, size_t size, Buf *out)
{
    int r = buf_append(out, xerial_header, sizeof xerial_header);

    while (r == 0 && size > 0) {
        size_t block = MIN(size, XERIAL_BLOCK_SIZE), n = snappy_max_compressed_length(block);
        uint32_t prefix;

        r = buf_reserve(out, 4 + n);
        if (r < 0)
            break;
        if (snappy_compress((const char *)data, block, (char *)out->data + out->size + 4, &n) != SNAPPY_OK)
            return -ENOMEM;
        prefix = htobe32((uint32_t)n);
        memcpy(out->data + out->size, &prefix, 4);
        out->size += 4 + n;
        data += block;
        size -= block;
    }
    return r;
}

/* ---- lz4 ----------------------------------------------------------------------------------------------------------- */

/* Java reads only independent blocks without a dictionary, so nothing else may enter a log. */
static bool lz4_frame_is_portable(const uint8_t *data, size_t size)
{
    return size >= LZ4_FRAME_HEADER_MIN && memcmp(data, "\x04\x22\x4d\x18", 4) == 0 &&
           (data[4] & LZ4_FLG_VERSION_MASK) == LZ4_FLG_VERSION && (data[4] & LZ4_FLG_INDEPENDENT) &&
           !(data[4] & LZ4_FLG_DICTIONARY);
}

/* Return: 1 the frame ended, 0 go on, or an error. */
static int lz4_step(LZ4F_dctx *context, const uint8_t **inout_data, const uint8_t *end, Room *room)
{
    uint8_t spare, *to = &spare;
    size_t to_size = 1, from_size = (size_t)(end - *inout_data), left;
    int r = room_grow(room, 0, &to, &to_size);

    if (r < 0 && r != -EFBIG)
        return r;
    left = LZ4F_decompress(context, to, &to_size, *inout_data, &from_size, NULL);
    if (LZ4F_isError(left))
        return -EBADMSG;
    if (r == -EFBIG && to_size > 0)
        return -EFBIG;
    if (r == 0)
        room->out->size += to_size;
    *inout_data += from_size;
    if (left == 0)
        return 1;
    return from_size == 0 && to_size == 0 ? -EBADMSG : 0;
}

static int lz4_decompress(const uint8_t *data, size_t size, Room *room)
{
    const uint8_t *end = data + size;
    LZ4F_dctx *context = NULL;
    int r;

    if (!lz4_frame_is_portable(data, size))
        return -EBADMSG;
    if (LZ4F_isError(LZ4F_createDecompressionContext(&context, LZ4F_VERSION)))
        return -ENOMEM;
    do
        r = lz4_step(context, &data, end, room);
    while (r == 0);
    LZ4F_freeDecompressionContext(context);
    if (r == 1)
        r = data == end ? 0 : -EBADMSG; /* Java stops at the first frame: bytes behind it would be lost */
    return r;
}

static int lz4_compress(int level, const uint8_t *data, size_t size, Buf *out)
{
    LZ4F_preferences_t preferences = {
        .frameInfo = {.blockSizeID = LZ4F_max64KB, .blockMode = LZ4F_blockIndependent},
    };
    size_t bound, n;
    int r;

    if (level != INT32_MIN && (level < 0 || level > 17))
        return -EINVAL;
    preferences.compressionLevel = level == INT32_MIN ? 0 : MIN(level, 12);
    bound = LZ4F_compressFrameBound(size, &preferences);
    r = buf_reserve(out, bound);
    if (r < 0)
        return r;
    n = LZ4F_compressFrame(out->data + out->size, bound, data, size, &preferences);
    if (LZ4F_isError(n))
        return -ENOMEM;
    out->size += n;
    return 0;
}

/* ---- zstd ---------------------------------------------------------------------------------------------------------- */

static int zstd_window_log_for(size_t size_max)
{
    int log = ZSTD_WINDOW_LOG_MIN;

    while (log < ZSTD_WINDOW_LOG_MAX && ((size_t)1 << log) < size_max)
        log++;
    return log;
}

static int zstd_errno(size_t code)
{
    switch ((int)ZSTD_getErrorCode(code)) {
    case ZSTD_error_memory_allocation:
        return -ENOMEM;
    case ZSTD_error_frameParameter_windowTooLarge:
        return -EFBIG;
    default:
        return -EBADMSG;
    }
}

static int zstd_loop(ZSTD_DCtx *context, const uint8_t *data, size_t size, Room *room)
{
    ZSTD_inBuffer in = {.src = data, .size = size};
    size_t left = 1; /* 0: at a frame's end */

    while (in.pos < in.size || left != 0) {
        uint8_t spare, *to = &spare;
        size_t to_size = 1, in_before = in.pos;
        int r = room_grow(room, size * 4, &to, &to_size);
        ZSTD_outBuffer out;

        if (r < 0 && r != -EFBIG)
            return r;
        out = (ZSTD_outBuffer){.dst = to, .size = to_size};
        left = ZSTD_decompressStream(context, &out, &in);
        if (ZSTD_isError(left))
            return zstd_errno(left);
        if (r == -EFBIG && out.pos > 0)
            return -EFBIG;
        if (r == 0)
            room->out->size += out.pos;
        if (left != 0 && in.pos == in_before && out.pos == 0)
            return -EBADMSG; /* truncated */
    }
    return 0;
}

static int zstd_decompress(const uint8_t *data, size_t size, Room *room)
{
    ZSTD_DCtx *context;
    int r;

    if (size == 0)
        return -EBADMSG;
    context = ZSTD_createDCtx();
    if (context == NULL)
        return -ENOMEM;
    ZSTD_DCtx_setParameter(context, ZSTD_d_windowLogMax, zstd_window_log_for(room->size_max));
    r = zstd_loop(context, data, size, room);
    ZSTD_freeDCtx(context);
    return r;
}

static int zstd_compress(int level, const uint8_t *data, size_t size, Buf *out)
{
    size_t bound = ZSTD_compressBound(size), n;
    int r;

    if (level != INT32_MIN && (level < ZSTD_minCLevel() || level > ZSTD_maxCLevel()))
        return -EINVAL;
    r = buf_reserve(out, bound);
    if (r < 0)
        return r;
    n = ZSTD_compress(out->data + out->size, bound, data, size, level == INT32_MIN ? ZSTD_CLEVEL_DEFAULT : level);
    if (ZSTD_isError(n))
        return -ENOMEM;
    out->size += n;
    return 0;
}

/* ---- public -------------------------------------------------------------------------------------------------------- */

int codec_decompress(BatchCodec codec, const void *data, size_t size, size_t size_max, Buf *out)
{
    Room room = {.out = out, .start = out->size, .size_max = size_max};
    int r;

    switch (codec) {
    case CODEC_NONE:
        r = append_bounded(&room, data, size);
        break;
    case CODEC_GZIP:
        r = gzip_decompress(data, size, &room);
        break;
    case CODEC_SNAPPY:
        r = snappy_decompress(data, size, &room);
        break;
    case CODEC_LZ4:
        r = lz4_decompress(data, size, &room);
        break;
    case CODEC_ZSTD:
        r = zstd_decompress(data, size, &room);
        break;
    case CODEC_COUNT:
    default:
        return -EOPNOTSUPP;
    }
    assert(room_used(&room) <= size_max);
    if (r < 0)
        out->size = room.start; /* a failure leaves nothing behind */
    return r;
}

int codec_compress(BatchCodec codec, int level, const void *data, size_t size, Buf *out)
{
    size_t start = out->size;
    int r;

    switch (codec) {
    case CODEC_NONE:
        r = buf_append(out, data, size);
        break;
    case CODEC_GZIP:
        r = gzip_compress(level, data, size, out);
        break;
    case CODEC_SNAPPY:
        r = xerial_compress(data, size, out);
        break;
    case CODEC_LZ4:
        r = lz4_compress(level, data, size, out);
        break;
    case CODEC_ZSTD:
        r = zstd_compress(level, data, size, out);
        break;
    case CODEC_COUNT:
    default:
        return -EOPNOTSUPP;
    }
    if (r < 0)
        out->size = start;
    return r;
}

/* Appends header and compressed records; the header's length and CRC follow from what came out. */
static int write_batch(BatchHeader h, const void *records, size_t size, BatchCodec codec, int level, Buf *out)
{
    size_t start = out->size;
    uint8_t header[BATCH_HEADER_SIZE] = {0};
    int r = buf_append(out, header, sizeof header);

    if (r == 0)
        r = codec_compress(codec, level, records, size, out);
    if (r == 0 && out->size - start > INT32_MAX)
        r = -EFBIG;
    if (r < 0) {
        out->size = start;
        return r;
    }
    h.attributes = (int16_t)((h.attributes & ~BATCH_ATTR_CODEC_MASK) | (int)codec);
    h.batch_length = (int32_t)(out->size - start - BATCH_LOG_OVERHEAD);
    batch_header_encode(&h, out->data + start);
    h.crc = batch_crc_compute(out->data + start, &h);
    batch_header_encode(&h, out->data + start);
    return 0;
}

int batch_compress(const void *batch, size_t size, BatchCodec codec, int level, Buf *out)
{
    _cleanup_(buf_deinit) Buf plain = BUF_NULL;
    const uint8_t *records = (const uint8_t *)batch + BATCH_HEADER_SIZE;
    size_t records_size = size - BATCH_HEADER_SIZE;
    BatchCodec from;
    BatchHeader h;

    if (batch_header_decode(batch, size, &h) < 0 || batch_total_size(&h) != size)
        return -EBADMSG;
    from = (BatchCodec)(h.attributes & BATCH_ATTR_CODEC_MASK);
    if (from != CODEC_NONE) {
        int r = codec_decompress(from, records, records_size, COMPRESS_BATCH_MAX, &plain);
        if (r < 0)
            return r;
        records = plain.data;
        records_size = plain.size;
    }
    return write_batch(h, records, records_size, codec, level, out);
}

static const char *const codec_names[CODEC_COUNT] = {"none", "gzip", "snappy", "lz4", "zstd"};

const char *codec_name(BatchCodec codec)
{
    return (unsigned)codec < CODEC_COUNT ? codec_names[codec] : "unknown";
}

int codec_parse(const char *name, BatchCodec *ret)
{
    for (int i = 0; i < CODEC_COUNT; i++) {
        if (strcmp(name, codec_names[i]) == 0) {
            *ret = (BatchCodec)i;
            return 0;
        }
    }
    return -EINVAL;
}
