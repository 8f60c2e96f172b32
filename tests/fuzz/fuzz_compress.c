/* First byte: codec; rest: a compressed stream. What decompresses within the bound must survive compressing again. */

#include <stdlib.h>
#include <string.h>

#include "wire/compress.h"

#define PLAIN_SIZE_MAX (256u << 10)

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void require(bool condition)
{
    if (!condition)
        abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    Buf plain = BUF_NULL, packed = BUF_NULL, again = BUF_NULL;
    BatchCodec codec;

    if (size == 0)
        return 0;
    codec = (BatchCodec)(data[0] % (CODEC_COUNT + 1));
    if (codec_decompress(codec, data + 1, size - 1, PLAIN_SIZE_MAX, &plain) == 0) {
        require(codec < CODEC_COUNT && plain.size <= PLAIN_SIZE_MAX);
        require(codec_compress(codec, INT32_MIN, plain.data, plain.size, &packed) == 0);
        require(codec_decompress(codec, packed.data, packed.size, plain.size, &again) == 0);
        require(again.size == plain.size);
        require(plain.size == 0 || memcmp(again.data, plain.data, plain.size) == 0);
    } else {
        require(plain.size == 0 && plain.capacity <= 2 * PLAIN_SIZE_MAX);
    }
    buf_deinit(&plain);
    buf_deinit(&packed);
    buf_deinit(&again);
    return 0;
}
