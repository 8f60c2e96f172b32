#include "storage/compact.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

int offset_map_init(OffsetMap *m, size_t keys_expected, size_t bytes_max)
{
    size_t most = MIN(bytes_max / sizeof(OffsetMapSlot), (size_t)UINT32_MAX); /* slot_of() */
    Uuid random;
    int r = uuid_random(&random);

    if (r < 0)
        return r;
    *m = (OffsetMap){.n_slots = MAX(MIN(keys_expected, most / 2) * 2, (size_t)16)};
    memcpy(&m->seed, random.b, sizeof(m->seed));
    m->slots = calloc(m->n_slots, sizeof(*m->slots));
    return m->slots ? 0 : -ENOMEM;
}

void offset_map_deinit(OffsetMap *m)
{
    free(m->slots);
    *m = (OffsetMap){0};
}

bool offset_map_is_full(const OffsetMap *m)
{
    return m->n >= m->n_slots - m->n_slots / 8;
}

static OffsetMapSlot *slot_of(const OffsetMap *m, const void *key, size_t size, XXH128_hash_t *ret_hash)
{
    XXH128_hash_t h = XXH3_128bits_withSeed(key, size, m->seed);
    size_t i = (size_t)(((h.low64 >> 32) * m->n_slots) >> 32); /* n_slots is below 2^32 */

    while (m->slots[i].offset_plus_1 != 0 && (m->slots[i].low != h.low64 || m->slots[i].high != h.high64))
        i = i + 1 == m->n_slots ? 0 : i + 1;
    *ret_hash = h;
    return &m->slots[i];
}

void offset_map_put(OffsetMap *m, const void *key, size_t size, int64_t offset)
{
    XXH128_hash_t h;
    OffsetMapSlot *slot = slot_of(m, key, size, &h);

    if (slot->offset_plus_1 == 0) {
        assert(m->n + 1 < m->n_slots);
        m->n++;
        slot->low = h.low64;
        slot->high = h.high64;
    }
    slot->offset_plus_1 = MAX(slot->offset_plus_1, offset + 1);
}

int64_t offset_map_get(const OffsetMap *m, const void *key, size_t size)
{
    XXH128_hash_t h;
    return slot_of(m, key, size, &h)->offset_plus_1 - 1;
}
