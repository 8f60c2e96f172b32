/*
 * The counters file.
 *
 * Everything is mapped read-only but the caller's own row, so that a stray store in one daemon cannot touch the counters of
 * another. Rows are pages: no two processes write one cache line. All blocks are allocated before the file gets its name;
 * the name appears by rename(), so a reader sees a whole file or none, and one that still maps the file of an earlier
 * supervisor keeps valid memory.
 *
 * A row survives its process. Opening it for writing zeroes the values. The generation is odd while that goes on and even
 * before and after; a reader that cares loads it on both sides of its look.
 */

#include "shm/counters.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/hash.h"

#define COUNTERS_FILE_SIZE ((size_t)COUNTERS_ROW_SIZE * (1 + COUNTERS_ROWS_MAX))
#define COUNTERS_MODE      0640

typedef struct CountersHeader {
    uint32_t magic;
    uint16_t version;
    uint16_t row_size;
    uint32_t n_rows;
    uint32_t n_counters;
    uint64_t names_hash; /* the list of names: positions mean something only when it is the same */
    char build_id[24];
} CountersHeader;
static_assert(sizeof(CountersHeader) <= COUNTERS_ROW_SIZE, "one page");
static_assert(ROW_COUNT <= COUNTERS_ROWS_MAX, "rows");

struct Counters {
    int fd;
    uint8_t *map; /* the whole file, read-only but for the row of `role` */
    CountersRole role;
    char build_id[25];
};

static const struct {
    const char *name, *help;
} counters_table[] = {
#define X(id, name, help) {name, help},
    COUNTERS(X)
#undef X
};
static_assert(ARRAY_SIZE(counters_table) == COUNTER_COUNT, "one line per counter");

const char *counter_name(CounterId id)
{
    return (size_t)id < COUNTER_COUNT ? counters_table[id].name : NULL;
}

const char *counter_help(CounterId id)
{
    return (size_t)id < COUNTER_COUNT ? counters_table[id].help : NULL;
}

static uint64_t names_hash(void)
{
    uint64_t h = COUNTER_COUNT;
    for (size_t i = 0; i < COUNTER_COUNT; i++) {
        uint64_t pair[2] = {h, hash64(counters_table[i].name, strlen(counters_table[i].name))};
        h = hash64(pair, sizeof(pair));
    }
    return h;
}

static CountersHeader header_expected(void)
{
    return (CountersHeader){
        .magic = COUNTERS_MAGIC,
        .version = COUNTERS_VERSION,
        .row_size = COUNTERS_ROW_SIZE,
        .n_rows = COUNTERS_ROWS_MAX,
        .n_counters = COUNTER_COUNT,
        .names_hash = names_hash(),
    };
}

/* The writer's row becomes ours: previous values die with the previous process. */
static void row_take(CountersRow *row)
{
    uint32_t generation = atomic_load_explicit(&row->generation, memory_order_relaxed) | 1;

    atomic_store_explicit(&row->generation, generation, memory_order_relaxed);
    atomic_thread_fence(memory_order_release);
    for (size_t i = 0; i < COUNTERS_PER_ROW; i++)
        atomic_store_explicit(&row->values[i], 0, memory_order_relaxed);
    atomic_store_explicit(&row->pid, (int32_t)getpid(), memory_order_relaxed);
    atomic_store_explicit(&row->generation, generation + 1, memory_order_release);
}

static int map_file(Counters *c, CountersRole role)
{
    long page_size = sysconf(_SC_PAGESIZE);
    bool small_pages = page_size > 0 && page_size <= COUNTERS_ROW_SIZE;
    int protection = PROT_READ | (role != ROW_COUNT && !small_pages ? PROT_WRITE : 0);

    void *map = mmap(NULL, COUNTERS_FILE_SIZE, protection, MAP_SHARED, c->fd, 0);
    if (map == MAP_FAILED)
        return -errno;
    c->map = map;
    c->role = role;
    if (role == ROW_COUNT)
        return 0;

    /* Pages larger than a row cannot be protected one by one: there the whole file is writable. */
    size_t at = (size_t)COUNTERS_ROW_SIZE * (1 + (size_t)role);
    if (small_pages && mmap(c->map + at, COUNTERS_ROW_SIZE, PROT_READ | PROT_WRITE,
                            MAP_SHARED | MAP_FIXED, c->fd, (off_t)at) == MAP_FAILED)
        return -errno;
    row_take((CountersRow *)(void *)(c->map + at));
    return 0;
}

static int header_check(int fd, char ret_build_id[25])
{
    CountersHeader header, want = header_expected();
    struct stat st;

    if (fstat(fd, &st) < 0)
        return -errno;
    if (!S_ISREG(st.st_mode) || st.st_size != (off_t)COUNTERS_FILE_SIZE)
        return -ESTALE;
    ssize_t n = pread(fd, &header, sizeof(header), 0);
    if (n != (ssize_t)sizeof(header))
        return n < 0 ? -errno : -ESTALE;
    memcpy(want.build_id, header.build_id, sizeof(want.build_id));
    if (memcmp(&header, &want, sizeof(header)) != 0)
        return -ESTALE;
    memcpy(ret_build_id, header.build_id, sizeof(header.build_id));
    ret_build_id[24] = '\0';
    return 0;
}

int counters_open_fd(int fd, CountersRole role, Counters **ret)
{
    assert(role <= ROW_COUNT);
    Counters *c = calloc(1, sizeof(*c));
    if (!c)
        return -ENOMEM;
    c->fd = fd;
    int r = header_check(fd, c->build_id);
    if (r == 0)
        r = map_file(c, role);
    if (r < 0) {
        c->fd = -1; /* the caller's still */
        counters_close(c);
        return r;
    }
    *ret = c;
    return 0;
}

int counters_open(const char *path, CountersRole role, Counters **ret)
{
    int fd = open(path, (role == ROW_COUNT ? O_RDONLY : O_RDWR) | O_CLOEXEC | O_NOFOLLOW);
    if (fd < 0)
        return -errno;
    int r = counters_open_fd(fd, role, ret);
    if (r < 0)
        close(fd);
    return r;
}

static int write_file(int fd, const char *build_id)
{
    CountersHeader header = header_expected();

    memcpy(header.build_id, build_id, strnlen(build_id, sizeof(header.build_id))); /* the rest is zero */
    int r = posix_fallocate(fd, 0, (off_t)COUNTERS_FILE_SIZE);
    if (r != 0)
        return -r;
    ssize_t n = pwrite(fd, &header, sizeof(header), 0);
    if (n != (ssize_t)sizeof(header))
        return n < 0 ? -errno : -EIO;
    return fchmod(fd, COUNTERS_MODE) < 0 ? -errno : 0;
}

int counters_create(const char *path, const char *build_id, Counters **ret)
{
    char temporary[4096];
    int n = snprintf(temporary, sizeof(temporary), "%s.new", path);
    if (n < 0 || (size_t)n >= sizeof(temporary))
        return -ENAMETOOLONG;

    if (unlink(temporary) < 0 && errno != ENOENT)
        return -errno;
    int fd = open(temporary, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, COUNTERS_MODE);
    if (fd < 0)
        return -errno;

    Counters *c = NULL;
    int r = write_file(fd, build_id);
    if (r == 0)
        r = counters_open_fd(fd, ROW_SUPERVISOR, &c);
    if (r < 0) {
        close(fd);
        (void)unlink(temporary); /* the first error is the one to report */
        return r;
    }
    if (rename(temporary, path) < 0) {
        r = -errno;
        (void)unlink(temporary);
        counters_close(c);
        return r;
    }
    *ret = c;
    return 0;
}

int counters_fd(const Counters *c)
{
    return c->fd;
}

const char *counters_build_id(const Counters *c)
{
    return c->build_id;
}

CountersRow *counters_row(Counters *c, CountersRole role)
{
    assert(role < ROW_COUNT);
    return (CountersRow *)(void *)(c->map + (size_t)COUNTERS_ROW_SIZE * (1 + (size_t)role));
}

Counters *counters_close(Counters *c)
{
    if (!c)
        return NULL;
    if (c->map)
        munmap(c->map, COUNTERS_FILE_SIZE);
    if (c->fd >= 0)
        close(c->fd);
    free(c);
    return NULL;
}
