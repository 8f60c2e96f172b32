/* See sockets.h. */

#include "supervisor/sockets.h"

#include <errno.h>
#include <grp.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/fs.h"
#include "base/log.h"
#include "meta/config_keys.h"

#define EXIT_UNAVAILABLE                                                                           \
    69 /* another program has the port: worth another try, unlike a wrong configuration */
#define EXIT_CONFIG    78
#define CLIENT_MODE    0660
#define CLIENT_BACKLOG 256

static bool another_try_may_help(int r)
{
    return r == -EADDRINUSE || r == -EADDRNOTAVAIL || r == -EMFILE || r == -ENFILE;
}

static int open_kafka(Sockets *s, const Conf *conf, char *why, size_t why_size)
{
    MetaEndpoint endpoints[CHILD_FDS_MAX];
    int n = config_listeners(conf, false, endpoints, ARRAY_SIZE(endpoints), why, why_size);
    int backlog = (int)config_i64(conf, "socket.listen.backlog.size");

    if (n < 0)
        return EXIT_CONFIG;
    for (int i = 0; i < n; i++) {
        KafkaListener *l = &s->kafka[s->n_kafka];
        int fd;

        *l = (KafkaListener){.endpoint = endpoints[i], .port_asked = endpoints[i].port};
        fd = sock_listen_tcp(l->endpoint.host, l->port_asked, backlog, &l->endpoint.port);
        if (fd < 0) {
            (void)snprintf(why, why_size, "listener %s://%s:%u cannot be opened: %s",
                           l->endpoint.name, l->endpoint.host, (unsigned)l->port_asked,
                           strerror(-fd));
            return another_try_may_help(fd) ? EXIT_UNAVAILABLE : EXIT_CONFIG;
        }
        l->fd = fd;
        s->n_kafka++;
    }
    return 0;
}

void sockets_give_to_group(const char *path, const char *group)
{
    char text[4096];
    struct group entry, *found = NULL;

    if (getgrnam_r(group, &entry, text, sizeof(text), &found) != 0 || found == NULL)
        return;
    if (chown(path, (uid_t)-1, found->gr_gid) < 0) /* EPERM: we are no member, as in a sandbox */
        jlog(LOG_INFO, "%s is not given to group %s: %s", path, group, strerror(errno));
}

int sockets_open(Sockets *s, const Conf *conf, const char *run_dir, char *why, size_t why_size)
{
    int r;

    *s = (Sockets){.client_fd = -1};
    r = open_kafka(s, conf, why, why_size);
    if (r == 0) {
        (void)snprintf(s->client_path, sizeof(s->client_path), "%.4000s/client.sock", run_dir);
        s->client_fd =
            sock_listen_unix(s->client_path, SOCK_SEQPACKET, CLIENT_MODE, CLIENT_BACKLOG);
        if (s->client_fd < 0) {
            (void)snprintf(why, why_size, "%.300s cannot be opened: %s", s->client_path,
                           strerror(-s->client_fd));
            r = another_try_may_help(s->client_fd) ? EXIT_UNAVAILABLE : EXIT_CONFIG;
        }
    }
    if (r != 0) {
        sockets_close(s);
        return r;
    }
    sockets_give_to_group(s->client_path, GROUP_CLIENTS);
    return 0;
}

void sockets_close(Sockets *s)
{
    for (size_t i = 0; i < s->n_kafka; i++)
        base_closep(&s->kafka[i].fd);
    s->n_kafka = 0;
    if (s->client_fd >= 0)
        (void)unlink(
            s->client_path); /* a stopped node refuses at once instead of letting clients wait */
    base_closep(&s->client_fd);
}

int sockets_describe(const Sockets *s, Buf *out)
{
    int r = 0;

    for (size_t i = 0; r == 0 && i < s->n_kafka; i++) {
        const MetaEndpoint *e = &s->kafka[i].endpoint;
        bool v6 = strchr(e->host, ':') != NULL;

        r = buf_printf(out, "%s%s://%s%s%s:%u", i == 0 ? "" : ",", e->name, v6 ? "[" : "", e->host,
                       v6 ? "]" : "", (unsigned)e->port);
    }
    return r;
}
