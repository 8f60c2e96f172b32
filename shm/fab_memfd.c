/* See fab_memfd.h. */

#include "shm/fab_memfd.h"

#include <errno.h>
#include <linux/magic.h>
#include <pthread.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "base/kernel.h"

#ifndef F_SEAL_EXEC
#    define F_SEAL_EXEC 0x0020 /* comes with MFD_NOEXEC_SEAL; says nothing about size or content */
#endif

#define CLOSERS_MAX                                                                                \
    64 /* threads stuck in close(); beyond it the fd is left open rather than the caller blocked */

static atomic_int n_closers;

int fab_memfd_new(const char *name, uint64_t size, bool allocate)
{
    _cleanup_(base_closep) int fd = kernel_memfd(name);
    if (fd < 0)
        return fd;
    /* 0600: another uid that got the fd cannot open the file once more through /proc. */
    if (fchmod(fd, 0600) < 0 || ftruncate(fd, (off_t)size) < 0)
        return -errno;
    if (allocate && fallocate(fd, 0, 0, (off_t)size) < 0)
        return errno == ENOSPC ? -ENOMEM : -errno;
    int made = fd;
    fd = -1;
    return made;
}

int fab_memfd_seal(int fd, int seals)
{
    return fcntl(fd, F_ADD_SEALS, seals) < 0 ? -errno : 0;
}

int fab_memfd_check(int fd, int seals, uint64_t size)
{
    struct stat st;
    struct statfs fs;

    /* First the seals: on anything that is not shared memory this fails without asking the file's own code, which may hang. */
    int got = fcntl(fd, F_GET_SEALS);
    if (got < 0 || (got & ~F_SEAL_EXEC) != seals)
        return -EPERM;
    /* hugetlbfs has seals too, but its holes raise SIGBUS when no huge page is free. */
    if (fstatfs(fd, &fs) < 0 || fs.f_type != TMPFS_MAGIC)
        return -EPERM;
    if (fstat(fd, &st) < 0 || st.st_size < 0 || (uint64_t)st.st_size != size)
        return -EPERM;
    return 0;
}

ssize_t fab_recv_fd(int socket_fd, void *data, size_t size, int *ret_fd)
{
    union {
        struct cmsghdr align;
        char space[CMSG_SPACE(sizeof(int))];
    } control;
    struct iovec iov = {.iov_base = data, .iov_len = size};
    struct msghdr msg = {.msg_iov = &iov,
                         .msg_iovlen = 1,
                         .msg_control = &control,
                         .msg_controllen =
                             CMSG_LEN(sizeof(int))}; /* exactly one: CMSG_SPACE would take two */
    ssize_t n;
    int fd = -1;

    do
        n = recvmsg(socket_fd, &msg, MSG_CMSG_CLOEXEC | MSG_DONTWAIT);
    while (n < 0 && errno == EINTR);
    if (n < 0)
        return -errno;
    const struct cmsghdr *c = CMSG_FIRSTHDR(&msg);
    if (c && c->cmsg_level == SOL_SOCKET && c->cmsg_type == SCM_RIGHTS &&
        c->cmsg_len == CMSG_LEN(sizeof(int)))
        memcpy(&fd, CMSG_DATA(c), sizeof(fd));
    if (msg.msg_flags & (MSG_TRUNC | MSG_CTRUNC)) {
        fab_fd_discard(fd);
        return -EMSGSIZE;
    }
    *ret_fd = fd;
    return n;
}

static void *close_slowly(void *userdata)
{
    close((int)(intptr_t)userdata);
    atomic_fetch_sub(&n_closers, 1);
    return NULL;
}

void fab_fd_discard(int fd)
{
    pthread_t thread;

    if (fd < 0)
        return;
    if (fcntl(fd, F_GET_SEALS) >= 0) {
        close(fd);
        return;
    }
    if (atomic_fetch_add(&n_closers, 1) >= CLOSERS_MAX ||
        pthread_create(&thread, NULL, close_slowly, (void *)(intptr_t)fd) != 0) {
        atomic_fetch_sub(&n_closers, 1);
        return;
    }
    (void)pthread_detach(thread);
}

size_t fab_page_size(void)
{
    long size = sysconf(_SC_PAGESIZE);
    assert(size > 0);
    return (size_t)size;
}

void *fab_map_reserve(size_t size)
{
    void *map = mmap(NULL, size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    return map == MAP_FAILED ? NULL : map;
}

int fab_map_at(void *at, size_t size, int protection, int fd, uint64_t position)
{
    if (mmap(at, size, protection, MAP_SHARED | MAP_FIXED, fd, (off_t)position) == MAP_FAILED)
        return -errno;
    if (madvise(at, size, MADV_DONTFORK) < 0)
        return -errno;
    (void)madvise(at, size, MADV_DONTDUMP); /* a matter of core files only */
    return 0;
}

int fab_map_twice(void *at, size_t size, int protection, int fd, uint64_t position)
{
    int r = fab_map_at(at, size, protection, fd, position);
    return r < 0 ? r : fab_map_at((uint8_t *)at + size, size, protection, fd, position);
}
