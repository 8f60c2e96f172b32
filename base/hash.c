/* CRC-32C over ISA-L, hash64 over xxHash, and the generator of reproducible randomness. */

#include "base/hash.h"

#include <assert.h>
#include <limits.h>

#include <isa-l/crc.h>
#include <xxhash.h>

#include "base/compiler.h"

uint32_t crc32c(uint32_t crc, const void *data, size_t size)
{
    const uint8_t *at = data;

    /* crc32_iscsi applies neither the initial nor the final complement and takes an int length */
    crc = ~crc;
    while (size > 0) {
        size_t part = MIN(size, (size_t)1 << 30);

        crc = crc32_iscsi((unsigned char *)(uintptr_t)at, (int)part, crc);
        at += part;
        size -= part;
    }
    return ~crc;
}

uint64_t hash64(const void *data, size_t size)
{
    return XXH3_64bits(data, size);
}

static uint64_t splitmix64(uint64_t *state)
{
    uint64_t z = (*state += 0x9e3779b97f4a7c15u);

    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

static uint64_t rotl(uint64_t x, unsigned n)
{
    return (x << n) | (x >> (64 - n));
}

void rng_init(Rng *r, uint64_t seed)
{
    for (size_t i = 0; i < ARRAY_SIZE(r->s); i++)
        r->s[i] = splitmix64(&seed);
}

uint64_t rng_next(Rng *r)
{
    uint64_t result = rotl(r->s[1] * 5, 7) * 9;
    uint64_t t = r->s[1] << 17;

    r->s[2] ^= r->s[0];
    r->s[3] ^= r->s[1];
    r->s[1] ^= r->s[2];
    r->s[0] ^= r->s[3];
    r->s[2] ^= t;
    r->s[3] = rotl(r->s[3], 45);
    return result;
}

uint64_t rng_below(Rng *r, uint64_t bound)
{
    uint64_t skip, x;

    assert(bound > 0);
    skip =
        (0 - bound) % bound; /* 2^64 mod bound: values below it would make small results likelier */
    do
        x = rng_next(r);
    while (x < skip);
    return x % bound;
}
