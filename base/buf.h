#pragma once

/*
 * Buf: growable byte buffer. Arena: bump allocator whose allocations all die together; used to decode requests, so that
 * one free ends a request. Neither is thread-safe.
 */

#include "base/compiler.h"

typedef struct Buf {
    uint8_t *data;
    size_t size;     /* bytes in use */
    size_t capacity; /* bytes allocated */
} Buf;

#define BUF_NULL (Buf){0}

void buf_deinit(Buf *b);
static inline void buf_clear(Buf *b)
{
    b->size = 0;
}
/* Room for `more` bytes behind size. Return: 0 or -ENOMEM. */
int buf_reserve(Buf *b, size_t more);
int buf_append(Buf *b, const void *data, size_t size);
int buf_printf(Buf *b, const char *fmt, ...) PRINTF_LIKE(2, 3); /* no terminating NUL counted; one is written behind */
void buf_consume(Buf *b, size_t size);                          /* drops bytes from the front (memmove) */

typedef struct ArenaChunk ArenaChunk;
typedef struct Arena {
    ArenaChunk *chunks;
    size_t used_bytes;  /* sum handed out */
    size_t limit_bytes; /* 0 = none; arena_alloc returns NULL beyond it */
} Arena;

#define ARENA_NULL (Arena){0}

void *arena_alloc(Arena *a, size_t size);  /* zeroed, 16-byte aligned; NULL: out of memory or over the limit */
char *arena_strndup(Arena *a, const char *s, size_t n);
void arena_reset(Arena *a);  /* frees all but the first chunk */
void arena_deinit(Arena *a); /* frees everything */
