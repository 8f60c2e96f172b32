#pragma once

/*
 * The sockets that outlive the broker: Kafka's TCP listeners and the local clients' socket. The supervisor only binds them
 * and hands them on; a connection that comes while the broker restarts waits in the backlog.
 */

#include "meta/child.h"
#include "meta/image.h"
#include <limits.h>

typedef struct KafkaListener {
    MetaEndpoint endpoint; /* port: the real one, also when 0 was asked for */
    uint16_t port_asked;
    int fd;
} KafkaListener;

typedef struct Sockets {
    KafkaListener kafka[CHILD_FDS_MAX];
    size_t n_kafka;
    int client_fd;
    char client_path[PATH_MAX];
} Sockets;

#define GROUP_CLIENTS "leat-clients"
#define GROUP_ADMIN   "leat-admin"

/* Return: 0; or the exit code that the failure deserves with `why` filled. */
int sockets_open(Sockets *s, const Conf *conf, const char *run_dir, char *why, size_t why_size);
void sockets_close(Sockets *s);
/* `listeners` with the real ports: what the broker is told. */
int sockets_describe(const Sockets *s, Buf *out);
/* Gives a socket file to a group if it exists and we may (D15); otherwise it stays our own group's. */
void sockets_give_to_group(const char *path, const char *group);
