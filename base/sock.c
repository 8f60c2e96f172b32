/*
 * Sockets of fs.h. Listening sockets are non-blocking, connected ones block until the caller says otherwise; all are
 * close-on-exec. Received fds are owned by the caller only when the call succeeds.
 */

#include "base/fs.h"

#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/pidfd.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/kernel.h"

#ifndef SO_PEERPIDFD
#    define SO_PEERPIDFD 77 /* linux/socket.h since 6.5; Debian 12's headers are older */
#endif

#define RESERVE_MIN 32u /* descriptors */

static int unix_address(const char *path, struct sockaddr_un *ret, socklen_t *ret_size)
{
    size_t n = strlen(path);

    if (n == 0)
        return -EINVAL;
    if (n >= sizeof(ret->sun_path))
        return -ENAMETOOLONG;
    *ret = (struct sockaddr_un){.sun_family = AF_UNIX};
    memcpy(ret->sun_path, path, n + 1);
    *ret_size = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + n + 1);
    return 0;
}

int sock_connect_unix(const char *path, int type)
{
    struct sockaddr_un address;
    socklen_t size;
    int fd, r = unix_address(path, &address, &size);

    if (r < 0)
        return r;
    fd = socket(AF_UNIX, type | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return -errno;
    if (connect(fd, (const struct sockaddr *)&address, size) < 0) {
        r = -errno;
        (void)close(fd);
        return r;
    }
    return fd;
}

/* Removes a socket file that nobody listens on. */
static int remove_stale_socket(const char *path, int type)
{
    struct stat st;
    int fd;

    if (lstat(path, &st) < 0)
        return errno == ENOENT ? 0 : -errno;
    if (!S_ISSOCK(st.st_mode))
        return -EADDRINUSE;
    fd = sock_connect_unix(path, type);
    if (fd >= 0)
        (void)close(fd);
    if (fd != -ECONNREFUSED) /* connected, wrong type, full backlog: somebody is there */
        return -EADDRINUSE;
    return unlink(path) < 0 && errno != ENOENT ? -errno : 0;
}

int sock_listen_unix(const char *path, int type, mode_t mode, int backlog)
{
    _cleanup_(base_closep) int fd = -1;
    struct sockaddr_un address;
    socklen_t size;
    int r = unix_address(path, &address, &size), out;

    if (r == 0)
        r = remove_stale_socket(path, type);
    if (r < 0)
        return r;
    fd = socket(AF_UNIX, type | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0)
        return -errno;
    /* the file takes its mode from the socket less the umask: first never too wide, then exact */
    if (fchmod(fd, mode) < 0 || bind(fd, (const struct sockaddr *)&address, size) < 0 ||
        chmod(path, mode) < 0 || listen(fd, backlog) < 0)
        return -errno;
    out = fd;
    fd = -1;
    return out;
}

static int resolve(const char *host, uint16_t port, int flags, struct addrinfo **ret)
{
    struct addrinfo hints = {
        .ai_family = AF_UNSPEC, .ai_socktype = SOCK_STREAM, .ai_flags = flags | AI_NUMERICSERV};
    char service[8];
    int r;

    (void)snprintf(service, sizeof(service), "%u", (unsigned)port);
    r = getaddrinfo(host[0] == '\0' ? NULL : host, service, &hints, ret);
    if (r == 0)
        return 0;
    return r == EAI_SYSTEM ? -errno : r == EAI_MEMORY ? -ENOMEM : -EADDRNOTAVAIL;
}

static uint16_t port_of(const struct sockaddr_storage *a)
{
    return a->ss_family == AF_INET6
               ? ntohs(((const struct sockaddr_in6 *)(const void *)a)->sin6_port)
               : ntohs(((const struct sockaddr_in *)(const void *)a)->sin_port);
}

static int listen_one(const struct addrinfo *a, int backlog, uint16_t *ret_port)
{
    _cleanup_(base_closep) int fd =
        socket(a->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    struct sockaddr_storage bound;
    socklen_t size = sizeof(bound);
    int one = 1, zero = 0, out;

    if (fd < 0)
        return -errno;
    if (setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one)) < 0)
        return -errno;
    if (a->ai_family ==
        AF_INET6) /* [::] also serves IPv4; a host without IPv4-mapping simply does not */
        (void)setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &zero, sizeof(zero));
    if (bind(fd, a->ai_addr, a->ai_addrlen) < 0 || listen(fd, backlog) < 0 ||
        getsockname(fd, (struct sockaddr *)&bound, &size) < 0)
        return -errno;
    if (ret_port != NULL)
        *ret_port = port_of(&bound);
    out = fd;
    fd = -1;
    return out;
}

int sock_listen_tcp(const char *host, uint16_t port, int backlog, uint16_t *ret_port)
{
    struct addrinfo *list = NULL;
    int r = resolve(host, port, AI_PASSIVE, &list);

    if (r < 0)
        return r;
    r = -EADDRNOTAVAIL;
    for (const struct addrinfo *a = list; a != NULL; a = a->ai_next) {
        r = listen_one(a, backlog, ret_port);
        if (r >= 0)
            break;
    }
    freeaddrinfo(list);
    return r;
}

static int wait_connected(int fd, int64_t deadline_ms)
{
    struct pollfd p = {.fd = fd, .events = POLLOUT};
    int error = 0, n;
    socklen_t size = sizeof(error);

    do {
        int64_t left = deadline_ms - clock_mono_ms();

        n = poll(&p, 1, (int)MIN(MAX(left, 0), (int64_t)INT32_MAX));
    } while (n < 0 && errno == EINTR);
    if (n < 0)
        return -errno;
    if (n == 0)
        return -ETIMEDOUT;
    if (getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &size) < 0)
        return -errno;
    return -error;
}

static int connect_one(const struct addrinfo *a, int64_t deadline_ms)
{
    int fd = socket(a->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    int one = 1, r = 0;

    if (fd < 0)
        return -errno;
    if (connect(fd, a->ai_addr, a->ai_addrlen) < 0)
        r = errno == EINPROGRESS ? wait_connected(fd, deadline_ms) : -errno;
    if (r == 0 && (fcntl(fd, F_SETFL, 0) < 0 ||
                   setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one)) < 0))
        r = -errno;
    if (r < 0) {
        (void)close(fd);
        return r;
    }
    return fd;
}

int sock_connect_tcp(const char *host, uint16_t port, int64_t timeout_ms)
{
    int64_t deadline_ms = clock_mono_ms() + timeout_ms;
    struct addrinfo *list = NULL;
    int r = resolve(host, port, 0, &list);

    if (r < 0)
        return r;
    r = -EADDRNOTAVAIL;
    for (const struct addrinfo *a = list; a != NULL; a = a->ai_next) {
        r = connect_one(a, deadline_ms);
        if (r >= 0)
            break;
    }
    freeaddrinfo(list);
    return r;
}

int sock_peer_cred(int fd, PeerCred *ret)
{
    struct ucred cred;
    socklen_t size = sizeof(cred);
    int pidfd = -1;

    if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &cred, &size) < 0)
        return -errno;
    size = sizeof(pidfd);
    if (kernel_is_old() || getsockopt(fd, SOL_SOCKET, SO_PEERPIDFD, &pidfd, &size) < 0) {
        /* before 6.5: the pid may have been reused since connect(); identity rests on uid and gid, not on this fd */
        pidfd = cred.pid > 0 ? pidfd_open(cred.pid, 0) : -1;
        if (pidfd < 0)
            pidfd = -1;
    }
    if (pidfd >= 0)
        (void)fs_set_cloexec(pidfd, true);
    *ret = (PeerCred){.pid = cred.pid, .uid = cred.uid, .gid = cred.gid, .pidfd = pidfd};
    return 0;
}

typedef union FdControl {
    struct cmsghdr align;
    char space[CMSG_SPACE(SOCK_FDS_MAX * sizeof(int))];
} FdControl;

int sock_send_fds(int fd, const void *data, size_t size, const int *fds, size_t n_fds)
{
    struct iovec iov = {.iov_base = (void *)(uintptr_t)data, .iov_len = size};
    struct msghdr msg = {.msg_iov = &iov, .msg_iovlen = 1};
    FdControl control = {0};
    ssize_t n;

    assert(n_fds <= SOCK_FDS_MAX);
    if (n_fds > 0) {
        struct cmsghdr *c;

        msg.msg_control = &control;
        msg.msg_controllen = CMSG_SPACE(n_fds * sizeof(int));
        c = CMSG_FIRSTHDR(&msg);
        c->cmsg_level = SOL_SOCKET;
        c->cmsg_type = SCM_RIGHTS;
        c->cmsg_len = CMSG_LEN(n_fds * sizeof(int));
        memcpy(CMSG_DATA(c), fds, n_fds * sizeof(int));
    }
    do
        n = sendmsg(fd, &msg, MSG_NOSIGNAL);
    while (n < 0 && errno == EINTR);
    if (n < 0)
        return -errno;
    return (size_t)n == size
               ? 0
               : -EMSGSIZE; /* a stream socket took a part: these messages are for datagrams */
}

/* Fds of one datagram: *n_fds counts all that arrived, those beyond the array are closed. */
static size_t take_fds(struct msghdr *msg, int *fds, size_t n_max)
{
    size_t n_all = 0;

    for (struct cmsghdr *c = CMSG_FIRSTHDR(msg); c != NULL; c = CMSG_NXTHDR(msg, c)) {
        size_t n;

        if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS)
            continue;
        n = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);
        for (size_t i = 0; i < n; i++, n_all++) {
            int fd;

            memcpy(&fd, CMSG_DATA(c) + i * sizeof(int), sizeof(fd));
            if (n_all < n_max)
                fds[n_all] = fd;
            else
                (void)close(fd);
        }
    }
    return n_all;
}

ssize_t sock_recv_fds(int fd, void *data, size_t size, int *fds, size_t *inout_n_fds)
{
    struct iovec iov = {.iov_base = data, .iov_len = size};
    FdControl control;
    struct msghdr msg = {.msg_iov = &iov,
                         .msg_iovlen = 1,
                         .msg_control = &control,
                         .msg_controllen = sizeof(control)};
    size_t n_max = inout_n_fds == NULL ? 0 : *inout_n_fds, n_fds;
    ssize_t n;

    do
        n = recvmsg(fd, &msg, MSG_CMSG_CLOEXEC);
    while (n < 0 && errno == EINTR);
    if (n < 0)
        return -errno;
    n_fds = take_fds(&msg, fds, n_max);
    if (n_fds > n_max || (msg.msg_flags & (MSG_TRUNC | MSG_CTRUNC)) != 0) {
        for (size_t i = 0; i < MIN(n_fds, n_max); i++)
            (void)close(fds[i]);
        return -EMSGSIZE;
    }
    if (inout_n_fds != NULL)
        *inout_n_fds = n_fds;
    return n;
}

bool sock_is_in_reserve(int fd)
{
    struct rlimit limit;

    if (getrlimit(RLIMIT_NOFILE, &limit) < 0 || limit.rlim_cur == RLIM_INFINITY)
        return false;
    return (rlim_t)fd >= limit.rlim_cur - MIN(MAX(limit.rlim_cur / 8, RESERVE_MIN), limit.rlim_cur / 2);
}
