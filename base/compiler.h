#pragma once

/*
 * The few compiler extensions and macros that every folder uses; GNU extensions live here only.
 */

#include <assert.h>
#include <stdalign.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define ARRAY_SIZE(a)  (sizeof(a) / sizeof((a)[0]))
#define CACHE_PAIR     128 /* two lines: the adjacent-line prefetcher couples them */
#define PRINTF_LIKE(f, a) __attribute__((format(printf, f, a)))
#define PUBLIC         __attribute__((visibility("default")))
#define UNUSED         __attribute__((unused))
#define LIKELY(x)      __builtin_expect(!!(x), 1)
#define UNLIKELY(x)    __builtin_expect(!!(x), 0)

/* _cleanup_(fn): fn(&variable) runs when the variable leaves its scope. TAKE() moves the value out first. */
#define _cleanup_(fn) __attribute__((cleanup(fn)))
#define TAKE(p)                                                                                    \
    __extension__({                                                                                             \
        __typeof__(p) take_tmp = (p);                                                              \
        (p) = NULL;                                                                                \
        take_tmp;                                                                                  \
    })
#define CONTAINER_OF(ptr, type, member)                                                            \
    ((type *)(void *)((char *)(uintptr_t)(ptr) - offsetof(type, member)))

#define MIN(a, b) ((a) < (b) ? (a) : (b))
#define MAX(a, b) ((a) > (b) ? (a) : (b))

static inline uint64_t align_up(uint64_t n, uint64_t to)
{
    return (n + to - 1) & ~(to - 1);
}

void base_closep(int *fd); /* for _cleanup_: closes when >= 0 */
void base_freep(void *p);  /* for _cleanup_: free(*(void **)p) */
