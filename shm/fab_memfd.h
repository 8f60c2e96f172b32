#pragma once

/*
 * Sealed memory: making it, checking what a peer sent, mapping it. Used by both ends of a session.
 *
 * Every map is MADV_DONTFORK (a child would be a second writer) and MADV_DONTDUMP (D14). A peer's memfd is touched only
 * after fab_memfd_check(): anything else could shrink under the map (SIGBUS) or block in its file system.
 */

#include "base/compiler.h"
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/types.h>

#define FAB_SEALS_C       (F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL)
#define FAB_SEALS_D       (F_SEAL_FUTURE_WRITE | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL)
#define FAB_SEALS_PAYLOAD (F_SEAL_WRITE | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL)
/* Broker to client, too large for the ring. Not SHRINK: nobody but the client maps it, and the broker truncates it when
 * the client has released it, so that a client cannot pin the broker's memory by keeping a map. */
#define FAB_SEALS_OUT (F_SEAL_FUTURE_WRITE | F_SEAL_GROW | F_SEAL_SEAL)

/* @allocate: all pages now (-ENOMEM instead of a SIGBUS later). Mode 0600. Return: fd or negative errno. */
int fab_memfd_new(const char *name, uint64_t size, bool allocate);
int fab_memfd_seal(int fd, int seals);
/* Return: 0; -EPERM: not plain shared memory of exactly that size with exactly these seals. */
int fab_memfd_check(int fd, int seals, uint64_t size);

/* One datagram with at most one fd. Return: bytes; 0 end of stream; negative errno. *ret_fd is -1 when there was none. More
 * fds than one never enter this process; -EMSGSIZE then. */
ssize_t fab_recv_fd(int socket_fd, void *data, size_t size, int *ret_fd);
/* Closes an fd that a peer sent. What is no shared memory may belong to a file system that blocks in close(): such an fd is
 * closed by a thread of its own. */
void fab_fd_discard(int fd);

size_t fab_page_size(void);
void *fab_map_reserve(size_t size); /* address space only; NULL: out of memory */
/* Inside a reservation; position and size are multiples of the page size. */
int fab_map_at(void *at, size_t size, int protection, int fd, uint64_t position);
/* `size` bytes of fd at position, twice in a row, so that what wraps is contiguous. */
int fab_map_twice(void *at, size_t size, int protection, int fd, uint64_t position);
