#pragma once

/*
 * Inside of the broker's side, shared by fab_server.c (limits, the turn, death), fab_handshake.c (accepting, HELLO),
 * fab_session.c (descriptors, completions, doorbells) and fab_delivery.c (ring, private queue, growth, large payloads).
 *
 * Where a session hangs: `link` in server->handshakes, ->sessions or ->doomed, always exactly one of them; `active_link` in
 * server->active while the loop scans it each turn (else it is cold: armed, and found by its doorbell); `dirty_link` in
 * server->dirty when something was published since the last doorbell.
 */

#include "base/list.h"
#include "shm/fab_server.h"

#define FAB_PENDING_MAX         256 /* handshakes, all together */
#define FAB_PENDING_PER_UID_MAX 64
#define FAB_ACCEPTS_PER_TURN    64
#define FAB_SCAN_SQES           64          /* for one session in one turn, so that nobody starves */
#define FAB_SCAN_BYTES          (1u << 20)  /* likewise; one descriptor always */
#define FAB_SCANS_EMPTY         16          /* in a row: the session goes cold */
#define FAB_QUEUE_MAX           (64u << 20) /* bytes queued privately for one session */
#define FAB_PAYLOADS_IN_MAX     8           /* memfds received ahead of their descriptors */
#define FAB_PAYLOADS_OUT_MAX    8           /* memfds sent and not released */
#define FAB_STALLS_TO_GROW      4           /* times out of credit with a reader that moves */
#define FAB_GROWTH_RETRY_NS     (1000 * 1000 * 1000LL)

typedef struct FabUid {
    List link;
    uid_t uid;
    uint32_t n_pending, n_sessions;
} FabUid;

/* The delivery ring that frames go into now: mapped twice in a row. */
typedef struct FabRing {
    uint8_t *data;
    uint64_t size;
    void *own_map; /* 2 * size bytes; NULL: the first ring, inside the map of D */
} FabRing;

typedef struct FabPayload { /* a client's large payload */
    int fd;
    uint64_t size;
} FabPayload;

typedef struct FabOut { /* ours, until the client has released the frame */
    int fd;
    uint64_t size;
    uint64_t release_at;
} FabOut;

typedef struct FabQueued {
    List link;
    FabFrame frame;
    int fds[FAB_FRAME_FDS_MAX];
    size_t n_fds;
    uint8_t payload[];
} FabQueued;

struct FabSession {
    FabServer *server;
    List link, active_link, dirty_link;
    void *userdata;
    uint64_t id;
    PeerCred peer;
    FabUid *uid;
    FabRole role;
    char client_id[64];
    bool open;      /* handshake done, opened() was called */
    bool doomed;    /* closes at the end of the turn */
    bool violation; /* doomed for that */
    char why[FAB_WHY_SIZE];
    int64_t hello_deadline_ns;
    int socket_fd, doorbell_fd, wakeup_fd;
    LoopFd *socket_source, *doorbell_source, *pidfd_source;
    uint64_t memory; /* charged to the server */

    /* C, read-only; sizes are ours */
    uint8_t *c_map;
    size_t c_reserved;
    const FabClientPage *in;
    const uint8_t *sq;
    const uint8_t *arena;
    uint64_t arena_size, arena_limit;

    /* D */
    uint8_t *d_map;
    size_t d_reserved;
    FabBrokerPage *out;
    uint8_t *cq;

    /* descriptors */
    uint64_t sq_head;
    bool paused;           /* on_sqe said FAB_RETRY */
    const FabSqe *current; /* while on_sqe runs */
    bool gone;             /* the peer is dead: nobody reads completions any more */
    unsigned scans_empty;
    uint64_t n_arms; /* need_doorbell as last stored */
    FabPayload payloads[FAB_PAYLOADS_IN_MAX];
    unsigned n_payloads;
    uint8_t *payload_data; /* a copy of payloads[0], kept over a FAB_RETRY */

    /* completions */
    uint64_t cq_tail, cq_head; /* cq_head as last loaded */
    uint32_t n_owed;           /* descriptors taken whose last completion is not posted */
    FabCqe *overflow;          /* posted while the queue was full; bounded by the gate in fab_session.c */
    uint32_t n_overflow, overflow_capacity;

    /* delivery */
    FabRing ring;
    uint64_t ring_limit;
    uint64_t tail, consumed; /* consumed as last loaded */
    uint64_t reserved;       /* bytes of the reservation in progress */
    uint64_t space_need;     /* bytes that a failed reservation wants; 0 = none */
    bool space_asked;        /* by fab_session_reserve(): on_space is owed */
    bool socket_blocked;     /* the queue waits for the socket, not for the ring */
    bool socket_unread;      /* payloads[] was full: datagrams may be waiting */
    uint64_t stall_consumed;
    unsigned n_stalls;
    int64_t growth_after_ns;
    List queue; /* FabQueued */
    uint64_t queue_bytes;
    FabOut outs[FAB_PAYLOADS_OUT_MAX];
    unsigned n_outs;

    /* doorbell to the client */
    bool published_event, published_space; /* since the last look; space alone is worth waking a starved client only */
    uint64_t rung;                         /* the need_wakeup that was answered */
};

struct FabServer {
    Loop *loop;
    FabServerOptions o;
    FabServerOps ops;
    void *userdata;
    LoopFd *listen_source;
    LoopTimer *timer; /* handshakes that time out; accepting again after EMFILE */
    bool accepting, draining;
    int64_t accept_again_ns;
    List handshakes, sessions, doomed, active, dirty, uids;
    uint32_t n_handshakes, n_sessions, n_clients;
    uint64_t memory, n_violations, next_id;
    size_t arena_offset, delivery_offset;
};

/* fab_server.c */
bool fab_server_charge(FabSession *s, uint64_t bytes); /* false: session.memory.max */
void fab_server_discharge(FabSession *s, uint64_t bytes);
void fab_session_violate(FabSession *s, const char *what);
int fab_session_say(FabSession *s, const FabControl *control, const int *fds, size_t n_fds); /* -EAGAIN: socket full */
void fab_session_gone(FabSession *s, const char *why); /* the peer is dead: takes what it had published, then closes */
void fab_session_free(FabSession *s);
FabUid *fab_uid_get(FabServer *server, uid_t uid); /* NULL: out of memory */

/* fab_handshake.c */
void fab_server_on_listen(void *server, uint32_t events);
void fab_server_on_timer(void *server);
void fab_server_timer_update(FabServer *server); /* after handshakes came or went */

/* fab_session.c */
void fab_session_activate(FabSession *s);
void fab_session_scan(FabSession *s);
void fab_session_drain(FabSession *s); /* the peer is gone: takes what it had published */
bool fab_session_has_work(const FabSession *s);
void fab_session_arm(FabSession *s);  /* a full fence and another look must follow */
void fab_session_ring(FabSession *s); /* a full fence must precede */
void fab_session_mark(FabSession *s, bool event);
void fab_session_on_doorbell(void *userdata, uint32_t events);
int fab_session_read_socket(FabSession *s); /* -ECONNRESET: hung up */
void fab_session_deinit_queues(FabSession *s);

/* fab_delivery.c */
void fab_delivery_run(FabSession *s); /* looks at the client's position: frees, sends on, calls on_space */
bool fab_delivery_can_run(const FabSession *s);
uint64_t fab_delivery_want(const FabSession *s); /* position of the client that is worth a doorbell; UINT64_MAX none */
void fab_delivery_deinit(FabSession *s);
