/*
 * Any bytes into the codec: bytes 0 and 1 choose the message, byte 2 the version, byte 3 the encoding. What decodes must
 * encode again, and that must decode to the same.
 */

#include <assert.h>

#include "../wire/table_random.h"

#define STRUCT_MAX 1024

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
