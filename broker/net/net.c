/*
 * Accepting connections, their limits, and what happens to all of them at the end of a turn. See net.h.
 */

#include "broker/net/connection.h"

#include "base/fs.h"
#include "base/hash.h"
#include "base/log.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#define SCRATCH_SIZE (256u << 10)

static int open_reserve(void)
{
    return open("/dev/null", O_RDONLY | O_CLOEXEC);
}

int net_new(Broker *b, Net **ret)
{
    Net *n = calloc(1, sizeof(*n));
    if (!n)
        return -ENOMEM;
    n->broker = b;
    list_init(&n->connections);
    list_init(&n->dead);
    list_init(&n->flush);
    list_init(&n->paused);
    n->reserve_fd = open_reserve();
    n->scratch = malloc(SCRATCH_SIZE);
    if (!n->scratch || n->reserve_fd < 0) {
        net_free(n);
        return -ENOMEM;
    }
    *ret = n;
    return 0;
}

static void bury(Net *n)
{
    for (List *l; (l = list_pop(&n->dead)) != NULL;)
        connection_free(connection_of_node(l));
}

Net *net_free(Net *n)
{
    if (!n)
        return NULL;
    for (size_t i = 0; i < n->listeners_count; i++)
        loop_fd_free(n->listeners[i].source);
    while (!list_is_empty(&n->connections))
        connection_kill(connection_of_node(n->connections.next), "the broker stops");
    bury(n);
    base_closep(&n->reserve_fd);
    free(n->scratch);
    free(n);
    return NULL;
}

typedef struct Peer {
    char host[INET6_ADDRSTRLEN + 1]; /* "/127.0.0.1" */
    uint32_t ip_hash;
    bool loopback;
} Peer;

static void describe_peer(const struct sockaddr_storage *a, Peer *ret)
{
    const void *ip = NULL;
    size_t size = 0;
    *ret = (Peer){.host = "/"};
    if (a->ss_family == AF_INET) {
        const struct sockaddr_in *v4 = (const void *)a;
        ip = &v4->sin_addr;
        size = sizeof(v4->sin_addr);
        ret->loopback = (ntohl(v4->sin_addr.s_addr) >> 24) == 127;
    } else if (a->ss_family == AF_INET6) {
        const struct sockaddr_in6 *v6 = (const void *)a;
        ip = &v6->sin6_addr;
        size = sizeof(v6->sin6_addr);
        ret->loopback = IN6_IS_ADDR_LOOPBACK(&v6->sin6_addr) ||
                        (IN6_IS_ADDR_V4MAPPED(&v6->sin6_addr) && v6->sin6_addr.s6_addr[12] == 127);
    }
    if (ip) {
        inet_ntop(a->ss_family, ip, ret->host + 1, sizeof(ret->host) - 1);
        ret->ip_hash = (uint32_t)hash64(ip, size);
    }
}

static size_t count_from(const Net *n, uint32_t ip_hash)
{
    size_t count = 0;
    list_for_each(l, &n->connections) {
        if (connection_ip_hash(connection_of_node(l)) == ip_hash)
            count++;
    }
    return count;
}

static const char *refusal(const Net *n, const Peer *peer, int fd)
{
    const Settings *s = &n->broker->settings;
    if (sock_is_in_reserve(fd))
        return "LimitNOFILE";
    if (n->connections_count >= (size_t)MAX(s->connections_max, 0))
        return "max.connections";
    int32_t max = settings_connections_max(s, peer->host + 1);
    if (max < s->connections_max && count_from(n, peer->ip_hash) >= (size_t)MAX(max, 0))
        return "max.connections.per.ip";
    return NULL;
}

static void size_buffers(const Settings *s, int fd)
{
    if (s->receive_buffer_bytes >= 0)
        (void)setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &s->receive_buffer_bytes, sizeof(s->receive_buffer_bytes));
    if (s->send_buffer_bytes >= 0)
        (void)setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &s->send_buffer_bytes, sizeof(s->send_buffer_bytes));
}

static void take_connection(Net *n, struct Listener *l, int fd, const struct sockaddr_storage *address)
{
    Peer peer;
    describe_peer(address, &peer);
    const char *why = refusal(n, &peer, fd);
    if (why) {
        close(fd);
        counter_add(n->broker->row, COUNTER_CONNECTIONS_REFUSED, 1);
        jlog_limited(LOG_WARNING, "connection from %s refused: %s reached", peer.host + 1, why);
        return;
    }
    int one = 1;
    (void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one)); /* responses are written whole */
    (void)setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &one, sizeof(one));
    size_buffers(&n->broker->settings, fd);
    if (connection_new(n, fd, l, peer.ip_hash, peer.host, peer.loopback))
        counter_set(n->broker->row, COUNTER_CONNECTIONS, n->connections_count);
}

/* Descriptors ran out: the spare one lets us take the connection and close it, so that the listener does not stay ready. */
static void refuse_for_want_of_fds(Net *n, int listener)
{
    base_closep(&n->reserve_fd);
    int fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
    if (fd >= 0)
        close(fd);
    n->reserve_fd = open_reserve();
    counter_add(n->broker->row, COUNTER_CONNECTIONS_REFUSED, 1);
    jlog_limited(LOG_ERR, "connection refused: no file descriptors left (raise LimitNOFILE or lower max.connections)");
}

static void on_listener(void *userdata, uint32_t events)
{
    struct Listener *l = userdata;
    Net *n = l->net;
    (void)events;
    for (int i = 0; i < NET_CONNECTIONS_PER_TURN; i++) {
        struct sockaddr_storage address = {0};
        socklen_t size = sizeof(address);
        int fd = accept4(l->fd, (struct sockaddr *)&address, &size, SOCK_NONBLOCK | SOCK_CLOEXEC);
        if (fd >= 0) {
            take_connection(n, l, fd, &address);
        } else if (fs_is_shortage(-errno)) {
            refuse_for_want_of_fds(n, l->fd);
            return;
        } else if (errno != ECONNABORTED && errno != EINTR) {
            return;
        }
    }
}

int net_start(Net *n)
{
    const char *name;
    int fd;
    for (size_t i = 0; i < CHILD_FDS_MAX && (fd = child_kafka_fd(n->broker->child, i, &name)) >= 0; i++) {
        struct Listener *l = &n->listeners[n->listeners_count];
        *l = (struct Listener){.net = n, .fd = fd};
        memccpy(l->name, name ? name : "", 0, sizeof(l->name) - 1);
        int flags = fcntl(fd, F_GETFL);
        if (flags < 0 || fcntl(fd, F_SETFL, flags | O_NONBLOCK) < 0)
            return -errno;
        int r = loop_add_fd(n->broker->loop, fd, EPOLLIN, on_listener, l, &l->source);
        if (r < 0)
            return r;
        n->listeners_count++;
    }
    return 0;
}

void net_stop_accepting(Net *n, bool stop)
{
    n->stopped = stop;
    for (size_t i = 0; i < n->listeners_count; i++)
        (void)loop_fd_set_events(n->listeners[i].source, stop ? 0 : EPOLLIN);
}

void net_take_settings(Net *n)
{
    list_for_each(l, &n->connections)
        connection_arm(connection_of_node(l));
}

size_t net_connections(const Net *n)
{
    return n->connections_count;
}

bool net_has_room(const Net *n)
{
    return n->in_bytes < (size_t)n->broker->settings.queued_max_bytes;
}

void net_run(Net *n)
{
    List todo;
    for (List *l; (l = list_pop(&n->flush)) != NULL;)
        connection_flush(connection_of_flush_node(l));
    /* A resumed connection may pause again: take the list as it is now. */
    list_init(&todo);
    while (net_has_room(n) && !list_is_empty(&n->paused)) {
        List *l = list_pop(&n->paused);
        list_append(&todo, l);
    }
    for (List *l; (l = list_pop(&todo)) != NULL;)
        connection_resume(connection_of_paused_node(l));
    for (List *l; (l = list_pop(&n->flush)) != NULL;)
        connection_flush(connection_of_flush_node(l));
    if (!list_is_empty(&n->dead)) {
        bury(n);
        counter_set(n->broker->row, COUNTER_CONNECTIONS, n->connections_count);
    }
}
