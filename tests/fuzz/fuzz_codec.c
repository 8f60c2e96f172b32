/*
 * Any bytes into the codec: byte 0 and 1 choose the message, byte 2 the version, byte 3 the encoding. What decodes must
 * encode again, and that must decode to the same. With libFuzzer (-Dfuzz=true) main() is its own; else files named on the
 * command line are run, and without any a fixed number of generated and then damaged messages.
 */

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>

#include "../wire/table_random.h"
#include "base/fs.h"

#define STRUCT_MAX     1024
#define GENERATED_RUNS 20000

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static size_t messages_count(void)
{
    return 2 * k_api_table_size + k_message_table_size;
}

static const KMessage *choose(const uint8_t head[4], int16_t *ret_version)
{
    const KMessage *m = message_at((size_t)(head[0] | head[1] << 8) % messages_count());
    assert(m);
    *ret_version = (int16_t)(m->version_min + head[2] % (m->version_max - m->version_min + 1));
    return m;
}

static int decode(const KMessage *m, int16_t version, bool packed, const void *data, size_t size, Arena *arena, void *ret)
{
    return packed ? k_unpack(m, data, size, arena, ret, NULL) : k_decode(m, version, data, size, arena, ret);
}

static int encode(const KMessage *m, int16_t version, bool packed, const void *message, Buf *out)
{
    return packed ? k_pack(m, version, message, out) : k_encode(m, version, message, out);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size < 4)
        return 0;
    int16_t version;
    const KMessage *m = choose(data, &version);
    bool packed = data[3] & 1;
    alignas(16) uint8_t message[STRUCT_MAX], copy[STRUCT_MAX];
    Arena arena = ARENA_NULL;
    /* msgpack carries its own version; it is compared only where that cannot differ from ours. */
    bool comparable = !packed || m->version_min == m->version_max;
    if (decode(m, version, packed, data + 4, size - 4, &arena, message) == 0 && comparable) {
        Buf out = BUF_NULL;
        assert(encode(m, version, packed, message, &out) == 0);
        assert(decode(m, version, packed, out.data, out.size, &arena, copy) == 0);
        assert(same_struct(m->root, message, copy));
        buf_clear(&out);
        assert(k_dump(m, version, message, &out) == 0);
        buf_deinit(&out);
    }
    arena_deinit(&arena);
    return 0;
}

#ifndef FUZZ_MAIN

static void run_generated(Rng *rng)
{
    uint8_t head[4] = {(uint8_t)rng_next(rng), 0, (uint8_t)rng_next(rng), (uint8_t)rng_next(rng)};
    int16_t version;
    const KMessage *m = choose(head, &version);
    alignas(16) uint8_t message[STRUCT_MAX];
    Arena arena = ARENA_NULL;
    Buf input = BUF_NULL;
    random_struct(rng, m->root, version, &arena, message);
    assert(buf_append(&input, head, sizeof(head)) == 0);
    assert(encode(m, version, head[3] & 1, message, &input) == 0);
    for (uint64_t n = rng_below(rng, 4); n > 0 && input.size > 4; n--)
        input.data[4 + rng_below(rng, input.size - 4)] = (uint8_t)rng_next(rng);
    LLVMFuzzerTestOneInput(input.data, input.size);
    buf_deinit(&input);
    arena_deinit(&arena);
}

int main(int argc, char **argv)
{
    for (int i = 1; i < argc; i++) {
        Buf b = BUF_NULL;
        int r = fs_read_file(argv[i], 1 << 24, &b);
        if (r < 0) {
            fprintf(stderr, "%s: cannot read\n", argv[i]);
            return EXIT_FAILURE;
        }
        LLVMFuzzerTestOneInput(b.data, b.size);
        buf_deinit(&b);
    }
    Rng rng;
    rng_init(&rng, 42);
    for (int i = 0; i < GENERATED_RUNS && argc == 1; i++)
        run_generated(&rng);
    return EXIT_SUCCESS;
}

#endif
