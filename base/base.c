/*
 * Bodies of compiler.h's clean-up helpers, the clocks and the byte containers of buf.h.
 *
 * Invariant of Buf: size <= capacity, and data is NULL exactly while capacity is 0. Invariant of Arena: the newest chunk
 * stands first; used_bytes never passes limit_bytes (when one is set), so a decoder's memory is bounded by its caller.
 */

#include "base/buf.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"

#define BUF_FIRST_SIZE  256u
#define ARENA_ALIGN     16u
#define ARENA_CHUNK_MIN 4096u
#define ARENA_CHUNK_MAX (1u << 20)

void base_closep(int *fd)
{
    if (*fd >= 0)
        (void)close(*fd); /* nothing sensible is left to do with an error here */
    *fd = -1;
}

void base_freep(void *p)
{
    void *memory;

    memcpy(&memory, p, sizeof(memory));
    free(memory);
}

static int64_t clock_read_ns(clockid_t id)
{
    struct timespec t;
    int r = clock_gettime(id, &t);

    assert(r == 0); /* both clocks always exist */
    return (int64_t)t.tv_sec * NS_PER_S + t.tv_nsec;
}

int64_t clock_mono_ns(void)
{
    return clock_read_ns(CLOCK_MONOTONIC);
}

int64_t clock_mono_ms(void)
{
    return clock_mono_ns() / NS_PER_MS;
}

int64_t clock_wall_ms(void)
{
    return clock_read_ns(CLOCK_REALTIME) / NS_PER_MS;
}

void buf_deinit(Buf *b)
{
    free(b->data);
    *b = BUF_NULL;
}

int buf_reserve(Buf *b, size_t more)
{
    size_t capacity = b->capacity;
    uint8_t *data;

    assert(b->size <= b->capacity);
    if (more <= b->capacity - b->size)
        return 0;
    if (more > SIZE_MAX / 2 - b->size)
        return -ENOMEM;
    if (capacity == 0)
        capacity = BUF_FIRST_SIZE;
    while (capacity < b->size + more)
        capacity *= 2;
    data = realloc(b->data, capacity);
    if (data == NULL)
        return -ENOMEM;
    b->data = data;
    b->capacity = capacity;
    return 0;
}

int buf_append(Buf *b, const void *data, size_t size)
{
    int r = buf_reserve(b, size);

    if (r < 0)
        return r;
    if (size > 0)
        memcpy(b->data + b->size, data, size);
    b->size += size;
    return 0;
}

int buf_printf(Buf *b, const char *fmt, ...)
{
    va_list args, again;
    int n, r;

    va_start(args, fmt);
    va_copy(again, args);
    n = vsnprintf(NULL, 0, fmt, args);
    va_end(args);
    r = n < 0 ? -EINVAL : buf_reserve(b, (size_t)n + 1);
    if (r == 0) {
        (void)vsnprintf((char *)b->data + b->size, (size_t)n + 1, fmt, again);
        b->size += (size_t)n;
    }
    va_end(again);
    return r;
}

void buf_consume(Buf *b, size_t size)
{
    assert(size <= b->size);
    b->size -= size;
    if (b->size > 0)
        memmove(b->data, b->data + size, b->size);
}

struct ArenaChunk {
    ArenaChunk *next;
    size_t size, used; /* of the bytes behind this header */
    alignas(ARENA_ALIGN) uint8_t bytes[];
};

static ArenaChunk *arena_grow(Arena *a, size_t size)
{
    size_t chunk_size = ARENA_CHUNK_MIN;
    ArenaChunk *c;

    if (a->chunks != NULL)
        chunk_size = MIN(a->chunks->size * 2, ARENA_CHUNK_MAX);
    chunk_size = MAX(chunk_size, size);
    c = malloc(sizeof(*c) + chunk_size);
    if (c == NULL)
        return NULL;
    c->size = chunk_size;
    c->used = 0;
    c->next = a->chunks;
    a->chunks = c;
    return c;
}

void *arena_alloc(Arena *a, size_t size)
{
    ArenaChunk *c = a->chunks;
    void *p;

    if (size > SIZE_MAX / 2)
        return NULL;
    size = (size_t)align_up(size, ARENA_ALIGN);
    if (a->limit_bytes > 0 &&
        (a->used_bytes > a->limit_bytes || size > a->limit_bytes - a->used_bytes))
        return NULL;
    if (c == NULL || size > c->size - c->used) {
        c = arena_grow(a, size);
        if (c == NULL)
            return NULL;
    }
    p = c->bytes + c->used;
    c->used += size;
    a->used_bytes += size;
    assert(c->used <= c->size);
    memset(p, 0, size);
    return p;
}

char *arena_strndup(Arena *a, const char *s, size_t n)
{
    char *copy = arena_alloc(a, n + 1);

    if (copy == NULL)
        return NULL;
    if (n > 0)
        memcpy(copy, s, n);
    return copy; /* arena_alloc zeroed the end */
}

void arena_reset(Arena *a)
{
    while (a->chunks != NULL && a->chunks->next != NULL) {
        ArenaChunk *c = a->chunks;

        a->chunks = c->next;
        free(c);
    }
    if (a->chunks != NULL)
        a->chunks->used = 0;
    a->used_bytes = 0;
}

void arena_deinit(Arena *a)
{
    arena_reset(a);
    free(a->chunks);
    a->chunks = NULL;
}
