#pragma once

/* Files and unix sockets. All return 0 (or a count) or a negative errno; nothing is logged. */

#include "base/buf.h"
#include <sys/types.h>

int fs_read_file(const char *path, size_t size_max, Buf *ret); /* -EFBIG beyond size_max; NUL behind the data */
int fs_read_file_at(int dir_fd, const char *name, size_t size_max, Buf *ret);
/* Temporary file, fsync, rename, fsync of the directory: after 0 the new content survives a power cut. */
int fs_write_file_atomic(const char *path, const void *data, size_t size, mode_t mode);
int fs_write_file_atomic_at(int dir_fd, const char *name, const void *data, size_t size, mode_t mode);
int fs_mkdir_p(const char *path, mode_t mode);
int fs_fsync_dir(const char *path);
int fs_pwrite_all(int fd, const void *data, size_t size, int64_t position);
int fs_pread_all(int fd, void *data, size_t size, int64_t position, size_t *ret_size); /* short only at end of file */
int fs_remove_tree(const char *path); /* rm -r; never follows links; -ENOENT is 0 */
int fs_set_cloexec(int fd, bool cloexec);
/* Memory or descriptors ran out: may be better in a moment, and says nothing about file or peer. */
bool fs_is_shortage(int r);

typedef struct PeerCred {
    pid_t pid;
    uid_t uid;
    gid_t gid;
    int pidfd; /* -1 where the kernel cannot give one; owned by the holder */
} PeerCred;

#define SOCK_FDS_MAX 8

/* Listening sockets are non-blocking, connected ones block; all are close-on-exec. */
/* @type: SOCK_SEQPACKET or SOCK_STREAM. An existing socket file that nobody listens on is replaced. */
int sock_listen_unix(const char *path, int type, mode_t mode, int backlog);
int sock_connect_unix(const char *path, int type);
/* port 0: any; *ret_port (may be NULL) is the one it became. host "": all addresses. */
int sock_listen_tcp(const char *host, uint16_t port, int backlog, uint16_t *ret_port);
int sock_connect_tcp(const char *host, uint16_t port, int64_t timeout_ms);
int sock_peer_cred(int fd, PeerCred *ret); /* SO_PEERCRED + SO_PEERPIDFD or pidfd_open */
/* An accepted fd in the last eighth of the descriptor table (32 at least, half at most): refuse that client. What is left is for
 * the process's own files, so that no number of clients can keep a log from being opened. */
bool sock_is_in_reserve(int fd);
/* One datagram with up to SOCK_FDS_MAX fds. Never blocks when the fd is non-blocking (-EAGAIN). */
int sock_send_fds(int fd, const void *data, size_t size, const int *fds, size_t n_fds);
/* Return: bytes, 0 = end of stream, or negative errno. fds arrive close-on-exec; -EMSGSIZE when truncated (fds closed). */
ssize_t sock_recv_fds(int fd, void *data, size_t size, int *fds, size_t *inout_n_fds);
