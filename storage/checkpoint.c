/*
 * Kafka's offset checkpoint files: "0\n<count>\n" and a line "<topic> <partition> <offset>" for each log. Topic names hold
 * no blanks, so splitting on them is exact.
 */

#include "storage/internal.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/fs.h"

#define CHECKPOINT_SIZE_MAX (64 << 20)

static int parse_line(char *line, CheckpointLineFn fn, void *userdata)
{
    char *blank = strchr(line, ' ');
    int64_t partition, offset;
    char after;

    if (!blank || !topic_name_is_valid(line, (size_t)(blank - line)))
        return -EBADMSG;
    *blank = '\0';
    if (sscanf(blank + 1, "%" SCNd64 " %" SCNd64 "%c", &partition, &offset, &after) != 2 || partition < 0 ||
        partition > INT32_MAX || offset < 0)
        return -EBADMSG;
    return fn(userdata, line, (int32_t)partition, offset);
}

int checkpoint_read(int dir_fd, const char *name, CheckpointLineFn fn, void *userdata)
{
    _cleanup_(buf_deinit) Buf text = BUF_NULL;
    char *save = NULL, *line;
    int64_t count;
    int r = fs_read_file_at(dir_fd, name, CHECKPOINT_SIZE_MAX, &text);

    if (r < 0)
        return r;
    line = strtok_r((char *)text.data, "\n", &save);
    if (!line || strcmp(line, "0") != 0)
        return -EBADMSG;
    line = strtok_r(NULL, "\n", &save);
    if (!line || parse_i64(line, &count) < 0)
        return -EBADMSG;
    for (line = strtok_r(NULL, "\n", &save); line; line = strtok_r(NULL, "\n", &save), count--) {
        r = parse_line(line, fn, userdata);
        if (r < 0)
            return r;
    }
    return count == 0 ? 0 : -EBADMSG;
}

int checkpoint_append_line(Buf *lines, const char *topic, int32_t partition, int64_t offset)
{
    return buf_printf(lines, "%s %" PRId32 " %" PRId64 "\n", topic, partition, offset);
}

static bool same_content(int dir_fd, const char *name, const Buf *text)
{
    _cleanup_(buf_deinit) Buf now = BUF_NULL;
    struct stat st;

    if (fstatat(dir_fd, name, &st, 0) < 0 || (size_t)st.st_size != text->size)
        return false;
    return fs_read_file_at(dir_fd, name, CHECKPOINT_SIZE_MAX, &now) == 0 && now.size == text->size &&
           memcmp(now.data, text->data, text->size) == 0;
}

int checkpoint_write(int dir_fd, const char *name, const Buf *lines, size_t n)
{
    _cleanup_(buf_deinit) Buf text = BUF_NULL;
    int r = buf_printf(&text, "0\n%zu\n", n);

    if (r >= 0 && lines->size > 0)
        r = buf_append(&text, lines->data, lines->size);
    if (r < 0)
        return r;
    if (same_content(dir_fd, name, &text)) /* an idle node writes nothing */
        return 0;
    return fs_write_file_atomic_at(dir_fd, name, text.data, text.size, 0600);
}
