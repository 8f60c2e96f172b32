/*
 * Leases: a closed segment, wholly committed, handed out as a read-only file for bulk catch-up (shm.md section 8 c). The
 * inode gets the sticky bit before the descriptor exists; from then on nothing rewrites it (INV-PLOG-5): compaction and
 * truncation write new files, deletion unlinks and then punches, the pool refuses it, also in the next process.
 */

#include "storage/internal.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

static int open_marked(Plog *log, Segment *s)
{
    PathBuf path;
    struct stat st;
    int fd = openat(log->dir->fd, segment_path(log->name, s->base_offset, ".log", &path), O_RDONLY | O_CLOEXEC | O_NOFOLLOW);

    if (fd < 0)
        return -errno;
    if (fstat(fd, &st) < 0 || (!(st.st_mode & S_ISVTX) && fchmod(fd, (st.st_mode & 07777) | S_ISVTX) < 0)) {
        int r = -errno;
        close(fd);
        return r;
    }
    s->leased_ever = true;
    return fd;
}

int plog_lease(Plog *log, int64_t offset, int64_t end_offset, PlogLease *ret)
{
    PlogSlice slice;
    Segment *s;
    size_t index;
    int fd, r = plog_locate(log, offset, end_offset, 1, true, &slice);

    if (r < 0)
        return r;
    if (r > 0 || slice.size == 0)
        return -ENODATA;
    index = plog_segment_floor(log, slice.first_offset);
    if (index + 1 >= log->n_segments || plog_segment_end(log, index) > end_offset)
        return -ENODATA;
    s = log->segments[index];
    fd = open_marked(log, s);
    if (fd < 0)
        return fd;
    s->leases++;
    *ret = (PlogLease){.fd = fd,
                       .position = slice.position,
                       .end_position = plog_readable_end(log, s, slice.position),
                       .first_offset = slice.first_offset,
                       .next_offset = plog_segment_end(log, index),
                       .segment_id = s->id};
    if (ret->end_position < s->size)
        ret->next_offset = damage_in(log, s, slice.position)->first_offset;
    return 0;
}

void plog_lease_end(Plog *log, uint64_t segment_id)
{
    for (size_t i = 0; i < log->n_segments; i++) {
        Segment *s = log->segments[i];
        if (s->id == segment_id && s->leases > 0)
            s->leases--;
    }
}
