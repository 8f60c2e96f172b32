#pragma once

/* Big-endian loads and stores at any alignment (one instruction each), unsigned varints, and where bytes end. */

#include "base/compiler.h"

#include <endian.h>
#include <errno.h>
#include <string.h>

static inline uint16_t get_be16(const void *p)
{
    uint16_t v;
    memcpy(&v, p, sizeof(v));
    return be16toh(v);
}
static inline uint32_t get_be32(const void *p)
{
    uint32_t v;
    memcpy(&v, p, sizeof(v));
    return be32toh(v);
}
static inline uint64_t get_be64(const void *p)
{
    uint64_t v;
    memcpy(&v, p, sizeof(v));
    return be64toh(v);
}
static inline void put_be16(void *p, uint16_t v)
{
    v = htobe16(v);
    memcpy(p, &v, sizeof(v));
}
static inline void put_be32(void *p, uint32_t v)
{
    v = htobe32(v);
    memcpy(p, &v, sizeof(v));
}
static inline void put_be64(void *p, uint64_t v)
{
    v = htobe64(v);
    memcpy(p, &v, sizeof(v));
}

/* No bytes may come as NULL, and C forbids even NULL + 0. */
static inline const uint8_t *bytes_end(const void *p, size_t size)
{
    return size > 0 ? (const uint8_t *)p + size : p;
}

/* Return: 0 or -EBADMSG: cut short, or above 32 bits. */
static inline int uvarint_take(const uint8_t **inout_at, const uint8_t *end, uint32_t *ret)
{
    const uint8_t *p = *inout_at;
    uint32_t value = 0;
    for (int shift = 0; shift <= 28 && p < end; shift += 7, p++) {
        if (shift == 28 && *p > 0x0f)
            return -EBADMSG;
        value |= (uint32_t)(*p & 0x7f) << shift;
        if (!(*p & 0x80)) {
            *ret = value;
            *inout_at = p + 1;
            return 0;
        }
    }
    return -EBADMSG;
}
