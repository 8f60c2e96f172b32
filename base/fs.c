/*
 * Files. A write that must survive a power cut goes through fs_write_file_atomic_at(): content and name are both synced
 * before it returns, and a reader sees the old file or the new one, never a part.
 */

#include "base/fs.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define READ_STEP      65536u
#define TREE_DEPTH_MAX 64

int fs_read_file(const char *path, size_t size_max, Buf *ret)
{
    return fs_read_file_at(AT_FDCWD, path, size_max, ret);
}

int fs_read_file_at(int dir_fd, const char *name, size_t size_max, Buf *ret)
{
    _cleanup_(base_closep) int fd = openat(dir_fd, name, O_RDONLY | O_CLOEXEC);
    _cleanup_(buf_deinit) Buf data = BUF_NULL;
    ssize_t n;

    if (fd < 0)
        return -errno;
    do { /* files in /proc claim a size of 0, so the size is what read() says */
        int r = buf_reserve(&data, READ_STEP);

        if (r < 0)
            return r;
        n = read(fd, data.data + data.size, data.capacity - data.size - 1);
        if (n < 0 && errno != EINTR)
            return -errno;
        data.size += n > 0 ? (size_t)n : 0;
        if (data.size > size_max)
            return -EFBIG;
    } while (n != 0);
    data.data[data.size] = '\0';
    buf_deinit(ret);
    *ret = data;
    data = BUF_NULL;
    return 0;
}

int fs_write_file_atomic(const char *path, const void *data, size_t size, mode_t mode)
{
    const char *slash = strrchr(path, '/');
    char dir[PATH_MAX];
    _cleanup_(base_closep) int dir_fd = -1;
    size_t n = slash == NULL ? 0 : (size_t)(slash - path);

    if (n >= sizeof(dir))
        return -ENAMETOOLONG;
    memcpy(dir, path, n);
    dir[n] = '\0';
    dir_fd = open(slash == NULL ? "." : n == 0 ? "/" : dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (dir_fd < 0)
        return -errno;
    return fs_write_file_atomic_at(dir_fd, slash == NULL ? path : slash + 1, data, size, mode);
}

static int write_synced(int dir_fd, const char *name, const void *data, size_t size, mode_t mode)
{
    _cleanup_(base_closep) int fd =
        openat(dir_fd, name, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600);
    int r;

    if (fd < 0)
        return -errno;
    r = fs_pwrite_all(fd, data, size, 0);
    if (r < 0)
        return r;
    if (fchmod(fd, mode) < 0 || fsync(fd) < 0) /* exactly this mode, whatever the umask */
        return -errno;
    return 0;
}

int fs_write_file_atomic_at(
    int dir_fd, const char *name, const void *data, size_t size, mode_t mode)
{
    char temporary[NAME_MAX + 1];
    int r;

    if (snprintf(temporary, sizeof(temporary), "%s.tmp", name) >= (int)sizeof(temporary))
        return -ENAMETOOLONG;
    r = write_synced(dir_fd, temporary, data, size, mode);
    if (r == 0 && renameat(dir_fd, temporary, dir_fd, name) < 0)
        r = -errno;
    if (r < 0) {
        (void)unlinkat(dir_fd, temporary, 0); /* the first error is the one to report */
        return r;
    }
    return fsync(dir_fd) < 0 ? -errno : 0;
}

int fs_mkdir_p(const char *path, mode_t mode)
{
    char part[PATH_MAX];
    size_t n = strlen(path);
    struct stat st;

    if (n == 0)
        return -ENOENT;
    if (n >= sizeof(part))
        return -ENAMETOOLONG;
    memcpy(part, path, n + 1);
    for (size_t i = 1; i <= n; i++) {
        char c = part[i];

        if (c != '/' && c != '\0')
            continue;
        part[i] = '\0';
        if (mkdir(part, mode) < 0 && errno != EEXIST)
            return -errno;
        part[i] = c;
    }
    if (stat(path, &st) < 0)
        return -errno;
    return S_ISDIR(st.st_mode) ? 0 : -ENOTDIR;
}

int fs_fsync_dir(const char *path)
{
    _cleanup_(base_closep) int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

    if (fd < 0 || fsync(fd) < 0)
        return -errno;
    return 0;
}

int fs_pwrite_all(int fd, const void *data, size_t size, int64_t position)
{
    const uint8_t *at = data;

    while (size > 0) {
        ssize_t n = pwrite(fd, at, size, position);

        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return -errno;
        if (n == 0)
            return -EIO; /* would repeat for ever */
        at += n;
        size -= (size_t)n;
        position += n;
    }
    return 0;
}

int fs_pread_all(int fd, void *data, size_t size, int64_t position, size_t *ret_size)
{
    size_t done = 0;

    while (done < size) {
        ssize_t n = pread(fd, (uint8_t *)data + done, size - done, position + (int64_t)done);

        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return -errno;
        if (n == 0)
            break;
        done += (size_t)n;
    }
    *ret_size = done;
    return 0;
}

static int remove_at(int dir_fd, const char *name, int depth);

static int remove_entries(int fd, int depth)
{
    DIR *dir = fdopendir(fd);
    int r = 0;

    if (dir == NULL) {
        r = -errno;
        (void)close(fd);
        return r;
    }
    while (r == 0) {
        const struct dirent *e;

        errno = 0;
        e = readdir(dir);
        if (e == NULL) {
            r = -errno;
            break;
        }
        if (strcmp(e->d_name, ".") != 0 && strcmp(e->d_name, "..") != 0)
            r = remove_at(dirfd(dir), e->d_name, depth);
    }
    (void)closedir(dir);
    return r;
}

static int remove_at(int dir_fd, const char *name, int depth)
{
    int fd, r;

    if (unlinkat(dir_fd, name, 0) == 0 || errno == ENOENT)
        return 0;
    if (errno != EISDIR && errno != EPERM) /* POSIX allows EPERM for a directory */
        return -errno;
    if (depth >= TREE_DEPTH_MAX)
        return -ELOOP;
    fd = openat(dir_fd, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0)
        return -errno;
    r = remove_entries(fd, depth + 1);
    if (r == 0 && unlinkat(dir_fd, name, AT_REMOVEDIR) < 0 && errno != ENOENT)
        r = -errno;
    return r;
}

int fs_remove_tree(const char *path)
{
    return remove_at(AT_FDCWD, path, 0);
}

bool fs_is_shortage(int r)
{
    return r == -ENOMEM || r == -ENOBUFS || r == -EMFILE || r == -ENFILE;
}

int fs_set_cloexec(int fd, bool cloexec)
{
    int flags = fcntl(fd, F_GETFD);

    if (flags < 0 || fcntl(fd, F_SETFD, cloexec ? flags | FD_CLOEXEC : flags & ~FD_CLOEXEC) < 0)
        return -errno;
    return 0;
}
