/*
 * Kafka requests over plain TCP, one at a time, so a blocking socket is enough. A link is kept per address until mqctl ends:
 * the address that the user named (a list: the first that answers), and those that brokers advertise for themselves, to
 * which the requests of a group go.
 */

#include "mqctl/connect.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/fs.h"
#include "base/text.h"
#include "wire/bigendian.h"

#define RESPONSE_SIZE_MAX (100u << 20)

struct TcpLink {
    TcpLink *next;
    const char *address;
    int fd;
};

/* "host:port" or "[::1]:port". Return: 0 with *ret_fd, MQ_E_USAGE, or a negative errno of connect(). */
static int connect_one(Mq *m, const char *text, int *ret_fd)
{
    char *host = mq_printf(m, "%s", text), *colon = strrchr(host, ':');
    int64_t port;
    int fd;

    if (colon == NULL || parse_i64(colon + 1, &port) < 0 || port < 1 || port > 65535)
        return mq_fail(m, MQ_E_USAGE, "%s: expected host:port", text);
    *colon = '\0';
    if (host[0] == '[' && colon[-1] == ']') {
        colon[-1] = '\0';
        host++;
    }
    fd = sock_connect_tcp(host, (uint16_t)port, m->timeout_ms);
    if (fd < 0)
        return fd;
    *ret_fd = fd;
    return 0;
}

static int refused(Mq *m, const char *address, int error)
{
    bool named = strcmp(address, m->target.bootstrap) == 0;

    mq_fail(m, MQ_E_UNREACHABLE, "%s%s is not reachable: %s", address, named ? "" : ", which the broker advertises,",
            error == -EADDRNOTAVAIL ? "no such host" : strerror(-error));
    if (!named)
        mq_hint(m, "advertised.listeners of the broker must name an address that works from here");
    return MQ_E_UNREACHABLE;
}

/* The first address of the list that answers. */
static int link_to(Mq *m, const char *address, TcpLink **ret)
{
    const char *list = address;
    int r = -EINVAL, fd = -1;

    for (TcpLink *l = m->links; l != NULL; l = l->next)
        if (strcmp(l->address, address) == 0) {
            *ret = l;
            return 0;
        }
    while (*list != '\0') {
        struct timeval tv = {.tv_sec = m->timeout_ms / 1000, .tv_usec = m->timeout_ms % 1000 * 1000};
        size_t n = strcspn(list, ",");

        r = connect_one(m, mq_printf(m, "%.*s", (int)n, list), &fd);
        list += n + (list[n] == ',');
        if (r > 0)
            return r;
        if (r < 0)
            continue;
        setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &tv, sizeof tv);
        setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &tv, sizeof tv);
        *ret = mq_alloc(m, sizeof **ret);
        **ret = (TcpLink){.next = m->links, .address = mq_printf(m, "%s", address), .fd = fd};
        m->links = *ret;
        return 0;
    }
    return refused(m, address, r);
}

void tcp_close(Mq *m)
{
    for (TcpLink *l = m->links; l != NULL; l = l->next)
        close(l->fd);
    m->links = NULL; /* their memory is the arena's */
}

static int move(int fd, uint8_t *data, size_t size, bool write_it)
{
    while (size > 0) {
        ssize_t n = write_it ? send(fd, data, size, MSG_NOSIGNAL) : recv(fd, data, size, 0);
        if (n == 0)
            return -ECONNRESET;
        if (n < 0 && errno == EINTR && !mq_interrupted)
            continue;
        if (n < 0)
            return errno == EAGAIN ? -ETIMEDOUT : -errno;
        data += n;
        size -= (size_t)n;
    }
    return 0;
}

static int exchange(int fd, const KRequestHeader *h, const Buf *body, Buf *ret)
{
    _cleanup_(buf_deinit) Buf frame = BUF_NULL;
    int32_t correlation;
    size_t header_size;
    uint32_t size;
    int r = buf_append(&frame, "\0\0\0\0", 4);

    r = r < 0 ? r : k_request_header_encode(h, &frame);
    r = r < 0 ? r : buf_append(&frame, body->data, body->size);
    if (r < 0)
        return r;
    put_be32(frame.data, (uint32_t)(frame.size - 4));
    r = move(fd, frame.data, frame.size, true);
    r = r < 0 ? r : move(fd, (uint8_t *)&size, 4, false);
    if (r < 0)
        return r;
    size = be32toh(size);
    if (size > RESPONSE_SIZE_MAX)
        return -EBADMSG;
    r = buf_reserve(ret, size);
    r = r < 0 ? r : move(fd, ret->data, size, false);
    if (r < 0)
        return r;
    ret->size = size;
    r = k_response_header_decode(h->api_key, h->api_version, ret->data, ret->size, &correlation, &header_size);
    if (r < 0 || correlation != h->correlation_id)
        return -EBADMSG;
    buf_consume(ret, header_size);
    return 0;
}

int tcp_call(Mq *m, const char *address, const KApi *api, int16_t version, const Buf *body, Buf *ret)
{
    KRequestHeader h = {.api_key = api->key, .api_version = version, .client_id = k_str("mqctl")};
    TcpLink *link;
    int r = link_to(m, address, &link);

    if (r != 0)
        return r;
    h.correlation_id = ++m->tcp_correlation;
    r = exchange(link->fd, &h, body, ret);
    return r < 0 ? mq_fail_errno(m, r, "%s to %s", api->name, address) : 0;
}
