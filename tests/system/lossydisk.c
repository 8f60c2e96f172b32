/*
 * lossydisk: a disk that forgets what was not flushed, for the power-cut tests.
 *
 *   lossydisk IMAGE SIZE_MB SEED MOUNTPOINT      serves MOUNTPOINT/disk in the foreground until unmounted
 *
 * A FUSE file to put a loop device and a file system on. Writes stay in memory until the file system above sends a flush
 * (its barrier: fsync of the loop device); only then do they reach IMAGE. Signals:
 *   SIGUSR1  power cut, everything unflushed is gone          SIGUSR2  power cut, each unflushed block stays with p = 1/2
 * After a cut every read and write fails with EIO, as on a disk without power, and IMAGE holds what survived. "Rebooting" is
 * detaching the loop device, unmounting and starting again on the same image.
 *
 * Ordering is not kept between unflushed blocks, also within one write: that is what a volatile disk cache may do.
 */

#define FUSE_USE_VERSION 31
#include <errno.h>
#include <fcntl.h>
#include <fuse3/fuse.h>
#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define BLOCK 4096u

static struct {
    int image;
    size_t blocks;
    uint8_t **cache; /* unflushed content of a block, or NULL */
    bool dead;
    pthread_mutex_t lock;
    struct drand48_data random;
} disk = {.lock = PTHREAD_MUTEX_INITIALIZER};

static void must(bool ok, const char *what)
{
    if (!ok) {
        perror(what);
        exit(1);
    }
}

/* Content of a block as a reader sees it. */
static void load_block(size_t i, uint8_t out[BLOCK])
{
    if (disk.cache[i]) {
        memcpy(out, disk.cache[i], BLOCK);
        return;
    }
    memset(out, 0, BLOCK);
    must(pread(disk.image, out, BLOCK, (off_t)(i * BLOCK)) >= 0, "read image");
}

/* keep: probability in 1/256 that a block reaches the image. */
static void settle(unsigned keep)
{
    for (size_t i = 0; i < disk.blocks; i++) {
        if (!disk.cache[i])
            continue;
        long r;
        lrand48_r(&disk.random, &r);
        if ((unsigned)(r & 0xff) < keep)
            must(pwrite(disk.image, disk.cache[i], BLOCK, (off_t)(i * BLOCK)) == BLOCK, "write image");
        free(disk.cache[i]);
        disk.cache[i] = NULL;
    }
}

static void *wait_for_cut(void *arg)
{
    const sigset_t *set = arg;
    int sig;
    sigwait(set, &sig);
    pthread_mutex_lock(&disk.lock);
    disk.dead = true;
    settle(sig == SIGUSR1 ? 0 : 128);
    fsync(disk.image);
    pthread_mutex_unlock(&disk.lock);
    return NULL;
}

static int op_getattr(const char *path, struct stat *st, struct fuse_file_info *fi)
{
    (void)fi;
    memset(st, 0, sizeof *st);
    if (strcmp(path, "/") == 0) {
        st->st_mode = S_IFDIR | 0755;
        st->st_nlink = 2;
        return 0;
    }
    if (strcmp(path, "/disk") != 0)
        return -ENOENT;
    st->st_mode = S_IFREG | 0600;
    st->st_nlink = 1;
    st->st_size = (off_t)(disk.blocks * BLOCK);
    return 0;
}

static int op_open(const char *path, struct fuse_file_info *fi)
{
    (void)path;
    fi->direct_io = 1; /* no page cache between the loop device and us */
    return 0;
}

static int transfer(char *to, const char *from, size_t size, off_t position)
{
    size_t done = 0;
    if (disk.dead)
        return -EIO;
    while (done < size) {
        size_t at = (size_t)position + done, i = at / BLOCK, in = at % BLOCK;
        size_t n = BLOCK - in < size - done ? BLOCK - in : size - done;
        uint8_t block[BLOCK];
        if (i >= disk.blocks)
            break;
        load_block(i, block);
        if (to) {
            memcpy(to + done, block + in, n);
        } else {
            memcpy(block + in, from + done, n);
            if (!disk.cache[i])
                must((disk.cache[i] = malloc(BLOCK)) != NULL, "memory");
            memcpy(disk.cache[i], block, BLOCK);
        }
        done += n;
    }
    return (int)done;
}

static int op_read(const char *path, char *buf, size_t size, off_t position, struct fuse_file_info *fi)
{
    (void)path, (void)fi;
    pthread_mutex_lock(&disk.lock);
    int r = transfer(buf, NULL, size, position);
    pthread_mutex_unlock(&disk.lock);
    return r;
}

static int op_write(const char *path, const char *buf, size_t size, off_t position, struct fuse_file_info *fi)
{
    (void)path, (void)fi;
    pthread_mutex_lock(&disk.lock);
    int r = transfer(NULL, buf, size, position);
    pthread_mutex_unlock(&disk.lock);
    return r;
}

static int op_fsync(const char *path, int datasync, struct fuse_file_info *fi)
{
    (void)path, (void)datasync, (void)fi;
    pthread_mutex_lock(&disk.lock);
    int r = disk.dead ? -EIO : 0;
    if (!r)
        settle(256);
    pthread_mutex_unlock(&disk.lock);
    return r;
}

static const struct fuse_operations operations = {
    .getattr = op_getattr, .open = op_open, .read = op_read, .write = op_write, .fsync = op_fsync};

int main(int argc, char **argv)
{
    static sigset_t set;
    pthread_t thread;
    if (argc != 5) {
        fprintf(stderr, "usage: lossydisk IMAGE SIZE_MB SEED MOUNTPOINT\n");
        return 64;
    }
    disk.blocks = strtoull(argv[2], NULL, 10) * ((1 << 20) / BLOCK);
    srand48_r(atol(argv[3]), &disk.random);
    must((disk.image = open(argv[1], O_RDWR | O_CREAT | O_CLOEXEC, 0600)) >= 0, argv[1]);
    must(ftruncate(disk.image, (off_t)(disk.blocks * BLOCK)) == 0, "size");
    must((disk.cache = calloc(disk.blocks, sizeof *disk.cache)) != NULL, "memory");
    sigemptyset(&set);
    sigaddset(&set, SIGUSR1);
    sigaddset(&set, SIGUSR2);
    sigprocmask(SIG_BLOCK, &set, NULL);
    must(pthread_create(&thread, NULL, wait_for_cut, &set) == 0, "thread");
    char foreground[] = "-f";
    char *fuse_args[] = {argv[0], foreground, argv[4], NULL};
    return fuse_main(3, fuse_args, &operations, NULL);
}
