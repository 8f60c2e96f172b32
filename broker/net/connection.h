#pragma once

/*
 * One TCP connection: frames in, responses out in request order.
 *
 * Reading: the four size bytes, then the frame into a buffer that grows with the bytes that came (never by what was
 * announced). A complete frame becomes a Request. The next one starts when nothing is open on the connection, or when all
 * that is open and the next are Produce (pipelined, kept in order by the partitions); otherwise it waits in `next` and
 * reading pauses - Kafka's own rule, one request at a time.
 *
 * Writing: every request has a Slot in order of arrival. A reply fills its slot; finished slots at the front move to the
 * output queue, which writev and sendfile drain. A peer that takes nothing for NET_WRITE_STALL_MS is closed.
 *
 * A connection that must go is marked dead and freed at the end of the turn (net_run): callbacks below us never lose it.
 */

#include "broker/api/api.h"
#include "broker/net/net.h"

#define CONNECTION_PIPELINE_MAX 32

typedef struct Connection Connection;

typedef struct Slot { /* one request on its way */
    List node; /* Connection.slots */
    Connection *connection; /* NULL: it died */
    Request *request;       /* NULL: answered */
    size_t frame_bytes;     /* counted in Net.in_bytes */
    List out;               /* Out, in order */
    bool done;
} Slot;

struct Net {
    Broker *broker;
    struct Listener {
        Net *net;
        int fd;
        LoopFd *source;
        char name[32];
    } listeners[CHILD_FDS_MAX];
    size_t listeners_count;
    int reserve_fd; /* given up for a moment when descriptors run out, so that accept can refuse instead of spin */
    bool stopped;
    List connections, dead, flush, paused;
    size_t connections_count;
    size_t in_bytes; /* frames being read or handled */
    uint8_t *scratch;
};

/* Takes the fd. NULL: out of memory (fd closed). */
Connection *connection_new(Net *n, int fd, const struct Listener *listener, uint32_t ip_hash, const char *host, bool loopback);
void connection_kill(Connection *c, const char *why); /* marks dead; safe anywhere */
Connection *connection_free(Connection *c);           /* net_run and net_free only */
void connection_flush(Connection *c);
void connection_resume(Connection *c); /* budget or order may allow more */
Connection *connection_of_node(List *node);
Connection *connection_of_flush_node(List *node);
Connection *connection_of_paused_node(List *node);
uint32_t connection_ip_hash(const Connection *c);
void connection_arm(Connection *c); /* its deadline, from the settings as they are now */
bool net_has_room(const Net *n);
