/*
 * The pool of prewritten segment files (D8). A page of a new file costs the kernel an allocation, a zeroing and, at write-back,
 * an extent; a page that is in the cache and on the disk costs a copy. The pool pays in idle time: files of zeros, written
 * and synced, named `pool.<number>` beside the logs. Taking one is a rename to the segment's name.
 *
 * Size. Segments of 1 GiB would need a pool of gigabytes before the first hit, so a file is at most 64 MiB, and a busy log
 * closes its segment when the prewritten space ends and another file is ready (plog.c); segment.bytes stays an upper
 * bound. A log that is not busy never takes one. Figures: docs/formats/log.md, bench/storage_append.
 *
 * Deleted segments come back: zeroed and synced before they enter, because a stale batch behind a torn tail would be a valid
 * batch at a wrong place. An inode that was leased (sticky bit, D9) or has another name (a backup's hard link) never does.
 */

#include "storage/internal.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <unistd.h>

#include "base/fs.h"

#define WRITE_STEP (1 << 20)

static void pool_name(uint64_t number, const char *suffix, char out[48])
{
    (void)snprintf(out, 48, "pool.%08llu%s", (unsigned long long)number, suffix);
}

/* ---- start --------------------------------------------------------------------------------------------------------- */

static void adopt(LogDir *dir, const char *name)
{
    Pool *pool = &dir->pool;
    struct stat st;
    int64_t number;

    if (parse_i64(name + 5, &number) < 0 || number <= 0 || fstatat(dir->fd, name, &st, AT_SYMLINK_NOFOLLOW) < 0 ||
        !S_ISREG(st.st_mode) || st.st_nlink != 1 || (st.st_mode & S_ISVTX) || st.st_size < POOL_FILE_MIN ||
        pool->ready_bytes + st.st_size > pool->target_bytes || pool->n == POOL_FILES_MAX) {
        (void)unlinkat(dir->fd, name, 0);
        return;
    }
    /* Named only after it was synced, so it is zeros; `cold` until its pages were read back. */
    pool->files[pool->n++] = (PoolFile){.number = (uint64_t)number, .size = st.st_size, .cold = true};
    pool->ready_bytes += st.st_size;
    pool->next_number = MAX(pool->next_number, (uint64_t)number + 1);
}

/* There the pool would cost what it is to save: pages. */
static bool is_in_memory(int fd)
{
    struct statfs st;
    return fstatfs(fd, &st) == 0 && (st.f_type == TMPFS_MAGIC || st.f_type == RAMFS_MAGIC);
}

void pool_open(LogDir *dir)
{
    Pool *pool = &dir->pool;
    int64_t size = MIN((int64_t)POOL_FILE_MAX, dir->options.segment_bytes_default);
    int fd = openat(dir->fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *d = fd < 0 ? NULL : fdopendir(fd);
    struct dirent *e;

    pool->next_number = 1;
    pool->target_bytes = dir->options.pool_on_disk_only && is_in_memory(dir->fd) ? 0 : dir->options.pool_bytes;
    pool->file_size = MAX(MIN(size, pool->target_bytes), (int64_t)POOL_FILE_MIN) & ~4095LL;
    if (!d) {
        if (fd >= 0)
            close(fd);
        return; /* no pool is no failure */
    }
    while ((e = readdir(d)) != NULL)
        if (strncmp(e->d_name, "pool.", 5) == 0)
            adopt(dir, e->d_name);
    closedir(d);
}

/* ---- taking -------------------------------------------------------------------------------------------------------- */

bool pool_has(LogDir *dir, int64_t size_max)
{
    bool has = false;

    pthread_mutex_lock(&dir->mutex);
    for (size_t i = 0; i < dir->pool.n && !has; i++)
        has = dir->pool.files[i].size <= size_max;
    pthread_mutex_unlock(&dir->mutex);
    return has;
}

int pool_take(LogDir *dir, int64_t size_max, const char *path, int64_t *ret_size)
{
    Pool *pool = &dir->pool;
    PoolFile file = {0};
    char name[48];

    pthread_mutex_lock(&dir->mutex);
    for (size_t i = pool->n; i > 0 && file.size == 0; i--) /* the newest: most likely in the cache */
        if (pool->files[i - 1].size <= size_max) {
            file = pool->files[i - 1];
            memmove(&pool->files[i - 1], &pool->files[i], (pool->n - i) * sizeof(file));
            pool->n--;
            pool->ready_bytes -= file.size;
        }
    pthread_mutex_unlock(&dir->mutex);
    if (file.size == 0)
        return 0;
    pool_name(file.number, "", name);
    if (renameat(dir->fd, name, dir->fd, path) < 0)
        return -errno;
    *ret_size = file.size;
    return 1;
}

/* ---- filling ------------------------------------------------------------------------------------------------------- */

static bool is_stopping(LogDir *dir)
{
    bool stop;
    pthread_mutex_lock(&dir->mutex);
    stop = dir->stop || dir->checkpoint_asked != dir->checkpoint_done;
    pthread_mutex_unlock(&dir->mutex);
    return stop;
}

/* Zeros over [0, size), pushed to the disk step by step so that no other fdatasync waits behind 64 MiB, then synced. */
static int write_zeros(LogDir *dir, int fd, int64_t size)
{
    uint8_t *zeros = calloc(1, WRITE_STEP);
    int64_t at;
    int r = zeros ? 0 : -ENOMEM;

    for (at = 0; r == 0 && at < size; at += WRITE_STEP) {
        r = fs_pwrite_all(fd, zeros, (size_t)MIN((int64_t)WRITE_STEP, size - at), at);
        if (r == 0 && sync_file_range(fd, at, WRITE_STEP, SYNC_FILE_RANGE_WAIT_BEFORE | SYNC_FILE_RANGE_WRITE |
                                                              SYNC_FILE_RANGE_WAIT_AFTER) < 0 && errno != ENOSYS)
            r = -errno;
        if (r == 0 && is_stopping(dir))
            r = -ECANCELED;
    }
    if (r == 0 && ftruncate(fd, size) < 0)
        r = -errno;
    if (r == 0 && fdatasync(fd) < 0)
        r = -errno;
    free(zeros);
    return r;
}

static bool wants(LogDir *dir, int64_t *ret_size, uint64_t *ret_number)
{
    Pool *pool = &dir->pool;
    int64_t headroom = atomic_load(&dir->free_bytes) - atomic_load(&dir->reserve_bytes);
    bool yes;

    pthread_mutex_lock(&dir->mutex);
    *ret_size = pool->file_size;
    /* A tenth of what is left above the reserve: nothing on a small disk. */
    yes = pool->n < POOL_FILES_MAX && pool->ready_bytes + pool->file_size <= pool->target_bytes &&
          pool->ready_bytes + pool->file_size <= headroom / 10;
    if (yes)
        *ret_number = pool->next_number++;
    pthread_mutex_unlock(&dir->mutex);
    return yes;
}

/* From "pool.N.tmp", zeroed and synced, to "pool.N", ready. */
static int enter(LogDir *dir, uint64_t number, int64_t size)
{
    char from[48], to[48];

    pool_name(number, ".tmp", from);
    pool_name(number, "", to);
    if (renameat(dir->fd, from, dir->fd, to) < 0)
        return -errno;
    pthread_mutex_lock(&dir->mutex);
    assert(dir->pool.n < POOL_FILES_MAX);
    dir->pool.files[dir->pool.n++] = (PoolFile){.number = number, .size = size};
    dir->pool.ready_bytes += size;
    pthread_mutex_unlock(&dir->mutex);
    return 0;
}

/* Reads one file that was left by the process before, so that its pages are there. */
static bool warm_one(LogDir *dir)
{
    _cleanup_(base_closep) int fd = -1;
    Pool *pool = &dir->pool;
    int64_t size = 0;
    char name[48];

    pthread_mutex_lock(&dir->mutex);
    for (size_t i = pool->n; i > 0 && size == 0; i--)
        if (pool->files[i - 1].cold) {
            pool->files[i - 1].cold = false;
            size = pool->files[i - 1].size;
            pool_name(pool->files[i - 1].number, "", name);
        }
    pthread_mutex_unlock(&dir->mutex);
    if (size == 0)
        return false;
    fd = openat(dir->fd, name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    if (fd >= 0)
        (void)readahead(fd, 0, (size_t)size); /* gone meanwhile, or unreadable: a log that takes it will see */
    return true;
}

bool pool_fill_step(LogDir *dir)
{
    _cleanup_(base_closep) int fd = -1;
    uint64_t number;
    int64_t size;
    char name[48];
    int r;

    if (warm_one(dir))
        return true;
    if (!wants(dir, &size, &number))
        return false;
    pool_name(number, ".tmp", name);
    fd = openat(dir->fd, name, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (fd < 0)
        return false;
    r = fallocate(fd, 0, 0, size) < 0 && errno != EOPNOTSUPP ? -errno : 0;
    if (r == 0)
        atomic_fetch_sub(&dir->free_bytes, size); /* until the next look */
    if (r == 0)
        r = write_zeros(dir, fd, size);
    if (r == 0)
        r = enter(dir, number, size);
    if (r < 0)
        (void)unlinkat(dir->fd, name, 0);
    return r == 0 || r == -ECANCELED;
}

bool pool_recycle(LogDir *dir, const char *path)
{
    _cleanup_(base_closep) int fd = -1;
    uint64_t number;
    struct stat st;
    int64_t size;
    char name[48];

    if (fstatat(dir->fd, path, &st, AT_SYMLINK_NOFOLLOW) < 0 || !S_ISREG(st.st_mode) || st.st_nlink != 1 ||
        (st.st_mode & S_ISVTX) || st.st_size < dir->pool.file_size / 2 || !wants(dir, &size, &number))
        return false;
    pool_name(number, ".tmp", name);
    if (renameat(dir->fd, path, dir->fd, name) < 0)
        return false;
    fd = openat(dir->fd, name, O_RDWR | O_CLOEXEC | O_NOFOLLOW);
    if (fd < 0 || write_zeros(dir, fd, size) < 0 || enter(dir, number, size) < 0)
        (void)unlinkat(dir->fd, name, 0);
    return true;
}

void pool_give_up(LogDir *dir)
{
    for (;;) {
        PoolFile file = {0};
        char name[48];
        pthread_mutex_lock(&dir->mutex);
        if (dir->pool.n > 0) {
            file = dir->pool.files[--dir->pool.n];
            dir->pool.ready_bytes -= file.size;
        }
        pthread_mutex_unlock(&dir->mutex);
        if (file.size == 0)
            return;
        pool_name(file.number, "", name);
        (void)unlinkat(dir->fd, name, 0);
    }
}
