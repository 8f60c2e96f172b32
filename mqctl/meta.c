/* mqctl meta: the metadata store of a stopped node as JSON and back, for a host whose metadata is lost (D35). */

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/fs.h"
#include "meta/store.h"
#include "mqctl/connect.h"
#include "mqctl/output.h"

#define DUMP_SIZE_MAX (256u << 20)

static int meta_dir(Mq *m, const char **ret, int *ret_lock)
{
    int r = target_need_node(m);

    if (r != 0)
        return r;
    *ret = mq_printf(m, "%s/meta", m->target.data_dir);
    return target_lock_data(m, &m->target, ret_lock);
}

int meta_dump_run(Mq *m)
{
    _cleanup_(buf_deinit) Buf text = BUF_NULL;
    const char *dir;
    int lock, r = meta_dir(m, &dir, &lock);
    json_t *doc;

    if (r != 0)
        return r;
    r = meta_store_dump(dir, &text);
    close(lock);
    if (r < 0)
        return mq_fail_errno(m, r, "%s", dir);
    if (m->output == OUT_YAML) {
        doc = json_loadb((char *)text.data, text.size, 0, NULL);
        if (doc != NULL)
            return output_doc(m, doc, NULL);
    }
    fwrite(text.data, 1, text.size, stdout); /* exactly what restore takes */
    if (text.size > 0 && text.data[text.size - 1] != '\n')
        putchar('\n');
    return MQ_OK;
}

static int read_input(Mq *m, Buf *ret)
{
    const char *path = m->n_args > 0 && strcmp(m->args[0], "-") != 0 ? m->args[0] : "/dev/stdin";
    int fd = open(path, O_RDONLY | O_CLOEXEC), r = 0;
    ssize_t n;

    if (fd < 0)
        return mq_fail_errno(m, -errno, "%s", path);
    do {
        n = -1;
        r = ret->size > DUMP_SIZE_MAX ? -EFBIG : buf_reserve(ret, 1 << 16);
        if (r == 0) {
            n = read(fd, ret->data + ret->size, 1 << 16);
            r = n < 0 ? -errno : 0;
            ret->size += n > 0 ? (size_t)n : 0;
        }
    } while (r == 0 && n > 0);
    close(fd);
    return r < 0 ? mq_fail_errno(m, r, "%s", path) : 0;
}

int meta_restore_run(Mq *m)
{
    _cleanup_(buf_deinit) Buf text = BUF_NULL;
    const char *dir;
    char why[512] = "";
    int lock = -1, r = read_input(m, &text);
    json_t *doc;

    r = r ? r : meta_dir(m, &dir, &lock);
    if (r == 0 && access(mq_printf(m, "%s/CURRENT", dir), F_OK) == 0)
        r = mq_confirm(m, "%s has metadata already; replace all of it?", m->target.name);
    if (r == 0 && m->dry_run)
        r = MQ_E_REFUSED;
    r = r ? r : target_become_owner(m, &m->target);
    if (r == 0) {
        int e = meta_store_restore(dir, (char *)text.data, text.size, why, sizeof why);
        if (e < 0)
            r = why[0] != '\0' ? mq_fail(m, MQ_E_FAILED, "%s", why) : mq_fail_errno(m, e, "%s", dir);
    }
    if (lock >= 0)
        close(lock);
    if (r != 0)
        return r;
    doc = json_object();
    doc_set_text(doc, "meta_dir", dir);
    doc_set(doc, "bytes", json_integer((json_int_t)text.size));
    if (!output_is_text(m))
        return output_doc(m, doc, NULL);
    json_decref(doc);
    mq_note(m, "%s: restored", dir);
    return MQ_OK;
}
