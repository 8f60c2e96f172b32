#pragma once

/* CRC-32C (Castagnoli) by ISA-L and a 64-bit hash by xxHash, behind names of ours. Pure. */

#include <stddef.h>
#include <stdint.h>

/* crc32c(0, "123456789", 9) == 0xe3069283; crc32c(crc32c(0, a), b) is the crc of a then b. */
uint32_t crc32c(uint32_t crc, const void *data, size_t size);
uint64_t hash64(const void *data, size_t size);

/* splitmix64-seeded xoshiro256**: reproducible randomness for cores and tests. */
typedef struct Rng {
    uint64_t s[4];
} Rng;
void rng_init(Rng *r, uint64_t seed);
uint64_t rng_next(Rng *r);
uint64_t rng_below(Rng *r, uint64_t bound); /* bound > 0 */
