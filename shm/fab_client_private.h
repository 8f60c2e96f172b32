#pragma once

/*
 * Inside of the client's side, shared by fab_client.c (connecting, queues, arena, sleeping) and fab_receive.c (delivery and
 * the socket).
 */

#include "shm/fab_blocks.h"
#include "shm/fab_client.h"

#define FAB_INBOX_MAX 32 /* datagrams with fds read ahead of their frames */
#define FAB_RINGS_MAX 8  /* rings left behind by EXCHANGE, until their frames are released */
#define FAB_MAPS_MAX  32 /* large payloads not released */

#define FAB_STARVED_QUEUE 0x1
#define FAB_STARVED_ARENA 0x2

typedef struct FabMail {
    uint64_t size;
    int fds[FAB_FRAME_FDS_MAX];
    size_t n_fds;
} FabMail;

typedef struct FabForeign { /* memory that goes away with a position */
    void *map;
    size_t size;
    uint64_t release_at;
} FabForeign;

struct FabClient {
    unsigned fork_count; /* of the process when this was made: differs in a child */
    int socket_fd, wakeup_fd, doorbell_fd, epoll_fd;
    FabWelcome welcome;
    bool connected, broken;
    bool farewell; /* the broker said why */
    char why[256];

    /* C: ours */
    uint8_t *c_map;
    size_t c_reserved;
    FabClientPage *out;
    FabSqe *sq;
    uint64_t sq_tail, sq_head; /* sq_head as last loaded */
    uint32_t sq_mask, cq_mask;
    uint32_t *owned; /* for each place in the queue the block to free when it is taken, FAB_BLOCK_NONE = none */
    uint8_t *arena;
    uint32_t arena_size, arena_limit;
    FabBlocks blocks;
    bool growth_asked;
    int64_t growth_after_ns; /* a refused request is not repeated before */
    uint32_t growth_size;    /* mapped behind the arena, not yet confirmed */

    /* D: the broker's, read-only */
    const uint8_t *d_map;
    size_t d_reserved;
    const FabBrokerPage *in;
    const FabCqe *cq;
    uint64_t cq_head, cq_tail; /* cq_tail as last loaded */

    /* delivery */
    const uint8_t *ring;
    uint64_t ring_size;
    void *ring_map; /* 2 * ring_size of an exchanged ring, NULL: the first */
    uint64_t next;  /* position of the next frame */
    uint64_t tail;  /* as last loaded */
    uint64_t released;
    FabMail inbox[FAB_INBOX_MAX];
    unsigned n_inbox;
    FabForeign rings[FAB_RINGS_MAX];
    unsigned n_rings;
    FabForeign maps[FAB_MAPS_MAX];
    unsigned n_maps;

    /* doorbells */
    bool submitted;    /* since the last flush */
    uint8_t starved;   /* FAB_STARVED_*, until the next success: sq_head is worth a wake-up */
    uint64_t n_arms; /* need_wakeup as last stored, without its low bit */
    uint64_t rung;   /* the need_doorbell that was answered */
    uint64_t progress;
};

/* Return: false in a forked child. */
bool fab_client_is_ours(const FabClient *c);
void fab_client_break(FabClient *c, const char *why);
void fab_client_read_socket(FabClient *c);
void fab_client_arena_reply(FabClient *c, const FabControl *m);
void fab_receive_deinit(FabClient *c, bool unmap);
