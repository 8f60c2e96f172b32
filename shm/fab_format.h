#pragma once

/*
 * Layouts that two processes share: handshake messages, the two memfds of a session, queue entries, delivery frames.
 * docs/formats/session.md describes them for people and changes with this file.
 *
 * One memfd per writer. C is written by the client alone (the broker maps it read-only), D by the broker alone (sealed
 * against future writable maps). Every shared word has exactly one writing process. Positions are 64-bit and only grow;
 * an index is `position & private mask`. Sizes, masks and offsets are fixed at the handshake and kept in private memory:
 * nothing a peer writes later can move them. All integers are in host byte order: both ends are on one host.
 */

#include "base/compiler.h"
#include <stdatomic.h>

#define FAB_ABI_MAJOR 1
#define FAB_ABI_MINOR 0
#define FAB_MAGIC     0x4c454154u /* "LEAT" */

#define FAB_PAGE                 4096u /* the words stand in the first page of C and D, the queue behind it */
#define FAB_SQ_ENTRIES_DEFAULT   1024u
#define FAB_CQ_ENTRIES_DEFAULT   4096u
#define FAB_ARENA_DEFAULT        (1u << 20)
#define FAB_DELIVERY_DEFAULT     (256u << 10)
#define FAB_GROWTH_MAX           (4u << 20) /* without a larger wish in HELLO arena and ring grow to this (D22) */
#define FAB_ARENA_MAX            (16u << 20)
#define FAB_DELIVERY_MAX         (16u << 20)
#define FAB_RING_MIN             (64u << 10)
#define FAB_FRAME_ALIGN          64u
#define FAB_BATCH_MAX            (64u << 20) /* message.max.bytes ceiling; larger than the ring travels as a sealed memfd */

typedef enum FabRole { FAB_ROLE_CLIENT, FAB_ROLE_CONTROLLER, FAB_ROLE_COORDINATOR, FAB_ROLE_COUNT } FabRole;

/* First datagram, client to broker. Answer: FabWelcome with FAB_WELCOME_FDS or FabRefusal. */
typedef struct FabHello {
    uint32_t magic;
    uint16_t abi_major, abi_minor;
    uint32_t role;     /* FabRole; daemons are checked against the pids that the supervisor announced */
    uint32_t features; /* bits both sides must know; unknown bits are refused */
    uint32_t arena_size, delivery_size; /* wanted; 0 = default; the broker may give less */
    char build_id[24]; /* daemons: must equal the broker's (D17); clients: informational */
    char client_id[64];
} FabHello;

typedef enum FabWelcomeFd {
    FAB_FD_C,
    FAB_FD_D,
    FAB_FD_WAKEUP,   /* broker to client: an epoll set that holds the broker's eventfd; the client can only wait on it */
    FAB_FD_DOORBELL, /* client to broker: an eventfd that the broker watches edge-triggered and neither reads nor writes */
    FAB_WELCOME_FDS
} FabWelcomeFd;

typedef struct FabWelcome {
    uint32_t magic;
    uint16_t abi_major, abi_minor;
    uint64_t session_id;
    uint64_t broker_epoch;   /* changes with every broker start */
    int32_t node_id;
    uint32_t sq_entries, cq_entries;
    uint32_t arena_size, delivery_size;
    uint32_t arena_offset;    /* in C */
    uint32_t delivery_offset; /* in D */
    uint32_t message_max_bytes;
    char cluster_id[24];
} FabWelcome;

typedef struct FabRefusal {
    uint32_t magic; /* FAB_MAGIC; told from FabWelcome by its size */
    int32_t error;  /* negative errno */
    char why[248];  /* a sentence with the way out */
} FabRefusal;

/*
 * Everything else on the socket: one FabControl for each datagram, fds with it. From a client: ARENA and PAYLOAD. From the
 * broker: the rest. A datagram is sent before the descriptor or frame that speaks of it is published.
 */
typedef enum FabControlKind {
    FAB_CONTROL_ARENA = 1,   /* fd: `size` more bytes of arena, sealed SHRINK|GROW|SEAL; they follow the present end */
    FAB_CONTROL_PAYLOAD,     /* fd: `size` bytes, sealed SHRINK|GROW|WRITE|SEAL, for the next FAB_SQE_IN_MEMFD */
    FAB_CONTROL_ARENA_REPLY, /* error 0: the arena is `size` bytes now; else why it is not */
    FAB_CONTROL_FDS,         /* for the next frame with FAB_FRAME_HAS_FDS */
    FAB_CONTROL_CLOSED,      /* last words before the broker hangs up */
} FabControlKind;

#define FAB_WHY_SIZE 232

typedef struct FabControl {
    uint32_t magic;
    uint16_t kind;
    uint16_t rsv;
    int32_t error;
    uint32_t rsv1;
    uint64_t size;
    char why[FAB_WHY_SIZE];
} FabControl;
static_assert(sizeof(FabControl) == 256, "no padding");
#define FAB_FRAME_FDS_MAX 4

/* C: client -> broker. */
typedef struct FabClientPage {
    alignas(CACHE_PAIR) _Atomic uint64_t sq_tail;
    alignas(CACHE_PAIR) _Atomic uint64_t cq_head;
    alignas(CACHE_PAIR) _Atomic uint64_t delivery_consumed; /* bytes released of the delivery ring */
    /* Changed each time the client arms before it sleeps: a count, shifted left by one. Bit 0: it ran out of queue or arena
     * and waits for sq_head too; without it only completions and frames are worth a wake-up. */
    alignas(CACHE_PAIR) _Atomic uint64_t need_wakeup;
    alignas(CACHE_PAIR) _Atomic uint64_t progress;          /* bumped by every poll of the application (D23) */
} FabClientPage;
static_assert(sizeof(FabClientPage) == 5 * CACHE_PAIR, "one pair of lines per word");

/* D: broker -> client. */
typedef struct FabBrokerPage {
    alignas(CACHE_PAIR) _Atomic uint64_t sq_head;
    alignas(CACHE_PAIR) _Atomic uint64_t cq_tail;
    alignas(CACHE_PAIR) _Atomic uint64_t delivery_tail; /* bytes published of the delivery ring */
    /* need_doorbell is bumped each time the broker stops scanning this session; the two words beside it are stored before
     * it: positions of the client that are worth a doorbell, UINT64_MAX = none. A moved sq_tail always is. */
    alignas(CACHE_PAIR) _Atomic uint64_t need_doorbell;
    _Atomic uint64_t want_consumed;
    _Atomic uint64_t want_cq_head;
    alignas(CACHE_PAIR) _Atomic uint64_t epoch;         /* broker_epoch; 0 = the broker has closed this session */
} FabBrokerPage;
static_assert(sizeof(FabBrokerPage) == 5 * CACHE_PAIR, "one pair of lines per word");

/* INV-FAB-1: the fence between what one side stored and the word of the other that it loads next. A test makes both windows
 * beside it wide (tests/shm/test_litmus.c). */
#ifdef FAB_PAUSE
void FAB_PAUSE(void);
#else
#define FAB_PAUSE() ((void)0)
#endif

static inline void fab_fence(void)
{
    FAB_PAUSE();
    atomic_thread_fence(memory_order_seq_cst);
    FAB_PAUSE();
}

typedef enum FabOp {
    FAB_OP_NOP,
    FAB_OP_PRODUCE,   /* payload: one record batch; -> CONSUMED (block free) and ACKED */
    /* REQUEST, RESPONSE and NOTIFY owe no completion: sq_head past the descriptor says that the payload was copied. */
    FAB_OP_REQUEST,   /* payload: Kafka request frame without the size word (header and body); -> FAB_FRAME_RESPONSE */
    FAB_OP_RESPONSE,  /* daemons: answer to a FAB_FRAME_REQUEST; payload: Kafka response body; user_data = its tag */
    FAB_OP_NOTIFY,    /* daemons: one-way internal message (wire: MetadataChanged, GroupEvent, ...) */
    FAB_OP_OPEN,      /* payload: topic name; -> handle in FabCqe.base_offset; rights are checked here and on every use */
    FAB_OP_SUBSCRIBE, /* payload: FabSubscribe; starts or moves delivery of one partition */
    FAB_OP_UNSUBSCRIBE,
    FAB_OP_LEASE,     /* asks for a lease of a closed segment at an offset (user_data echoed in FAB_FRAME_LEASE) */
    FAB_OP_LEASE_RELEASE,
    FAB_OP_COUNT
} FabOp;

typedef struct FabSqe { /* 64 bytes; rsv must be 0 */
    uint8_t op;
    uint8_t flags; /* FAB_SQE_* */
    int16_t acks;  /* PRODUCE: -1, 0, 1 */
    uint32_t handle;
    int32_t partition;
    uint32_t len;
    uint64_t off; /* in the arena */
    uint64_t user_data;
    uint32_t timeout_ms;
    uint32_t rsv0;
    uint64_t rsv1[3];
} FabSqe;
static_assert(sizeof(FabSqe) == 64, "one cache line");
#define FAB_SQE_IN_MEMFD 0x01 /* payload is the sealed memfd sent last on the socket, not the arena */

typedef enum FabCqeKind { FAB_CQE_CONSUMED, FAB_CQE_ACKED, FAB_CQE_DONE } FabCqeKind;

typedef struct FabCqe { /* 64 bytes */
    uint64_t user_data;
    int16_t kafka_error;
    uint16_t kind;       /* FabCqeKind; DONE answers OPEN, SUBSCRIBE, UNSUBSCRIBE, LEASE_RELEASE */
    uint32_t flags;      /* FAB_CQE_* */
    int64_t base_offset; /* ACKED: first offset; OPEN: handle */
    int64_t log_append_ms;
    int64_t log_start;
    uint32_t leader_epoch;
    int32_t partitions; /* OPEN: partition count */
    uint64_t rsv[2];
} FabCqe;
static_assert(sizeof(FabCqe) == 64, "one cache line");
#define FAB_CQE_DUPLICATE 0x01 /* the batch was in the log already (idempotent re-send) */

typedef struct FabSubscribe {
    int64_t offset;           /* first record wanted; -1 latest, -2 earliest */
    int32_t leader_epoch;     /* of the last record seen, -1 unknown */
    uint32_t generation;      /* chosen by the client, echoed in every frame: frames of an older one are stale */
    uint32_t min_bytes;       /* fetch.min.bytes */
    uint32_t max_wait_ms;     /* fetch.max.wait.ms */
    uint32_t max_frame_bytes; /* max.partition.fetch.bytes */
    uint32_t flags;
    uint8_t isolation;        /* 0 read_uncommitted, 1 read_committed */
    uint8_t rsv[7];
} FabSubscribe;

typedef struct FabLeaseRange { /* payload of a FAB_FRAME_LEASE that grants: where in the file the batches lie */
    int64_t position, end_position; /* bytes */
    int64_t first_offset;
} FabLeaseRange;

typedef enum FabFrameType {
    FAB_FRAME_PAD,      /* skip */
    FAB_FRAME_BATCHES,  /* whole record batches of one partition as they stand in the log */
    FAB_FRAME_POSITION, /* no data: high watermark / log start news, or the end was reached */
    FAB_FRAME_ERROR,    /* kafka_error on a subscription; delivery stopped */
    FAB_FRAME_RESPONSE, /* answer to FAB_OP_REQUEST: Kafka response body (no header); tag = its user_data */
    FAB_FRAME_REQUEST,  /* to daemons: forwarded request (wire: ForwardedRequest), tag to answer with */
    FAB_FRAME_NOTIFY,   /* internal one-way message (wire: MetadataChanged, GroupEvent, SessionEvent ...) */
    FAB_FRAME_LEASE,    /* with fds on the socket */
    FAB_FRAME_EXCHANGE, /* last frame of this memfd: the ring goes on, at the same position, in the one sent on the socket;
                           tag: its size (D22). fab_client_next() follows it, callers never see it */
    FAB_FRAME_MEMFD,    /* payload too large for the ring: `size` bytes in the sealed memfd on the socket, none behind the
                           header; inner_type says what it is. fab_client_next() maps it and shows the inner type */
    FAB_FRAME_COUNT
} FabFrameType;

typedef struct FabFrame { /* 64 bytes, then `size` bytes of payload, padded to FAB_FRAME_ALIGN */
    uint32_t size;        /* payload bytes */
    uint16_t type;
    uint16_t inner_type;
    uint64_t tag;
    uint32_t handle;
    int32_t partition;
    uint32_t generation; /* of the subscription */
    int16_t kafka_error;
    uint16_t flags;
    int64_t next_offset;    /* BATCHES: where delivery goes on */
    int64_t high_watermark; /* or last stable offset for isolation 1 */
    int64_t log_start;
    int32_t leader_epoch;
    int32_t aux; /* POSITION: 1 = end reached */
} FabFrame;
static_assert(sizeof(FabFrame) == 64, "one cache line");
#define FAB_FRAME_HAS_FDS 0x8000 /* in flags, set by the fabric: a FAB_CONTROL_FDS datagram belongs to this frame */
