/* groups_dump(): what replay must bring back, in an order that does not depend on memory. */

#include "consumer-coord/group/private.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

static int by_id(const void *a, const void *b)
{
    return strcmp((*(const Group *const *)a)->id, (*(const Group *const *)b)->id);
}

static int dump_hex(const void *data, int32_t size, Buf *out)
{
    int r = 0;
    for (int32_t i = 0; i < size && r >= 0; i++)
        r = buf_printf(out, "%02x", ((const uint8_t *)data)[i]);
    return r;
}

static int dump_member(const Member *m, Buf *out)
{
    const KBytes *metadata = protocols_find(&m->protocols, m->group->protocol);
    int r = buf_printf(out, "  member %s instance %s client %s@%s timeouts %d %d subscription ", m->id, str_or_empty(m->instance_id),
                       str_or_empty(m->client_id), str_or_empty(m->client_host), m->session_timeout_ms, m->rebalance_timeout_ms);
    if (r >= 0 && metadata)
        r = dump_hex(metadata->ptr, metadata->len, out);
    if (r >= 0)
        r = buf_printf(out, " assignment ");
    if (r >= 0)
        r = dump_hex(m->assignment, m->assignment_size, out);
    return r < 0 ? r : buf_printf(out, "\n");
}

static int dump_offsets(const OffsetTable *t, Buf *out)
{
    int r = 0;
    for (int32_t i = 0; i < t->n; i++)
        for (int32_t p = 0; p < t->topics[i].n && r >= 0; p++) {
            const CommittedOffset *o = &t->topics[i].items[p];
            r = buf_printf(out, "  offset %.*s-%d %" PRId64 " epoch %d at %" PRId64 " metadata ", t->topics[i].name_len,
                           t->topics[i].name, o->partition, o->offset, o->leader_epoch, o->commit_ms);
            if (r >= 0)
                r = dump_hex(o->metadata, o->metadata_len, out);
            if (r >= 0)
                r = buf_printf(out, "\n");
        }
    return r;
}

static int dump_group(const Group *group, Buf *out)
{
    int r = buf_printf(out, "group %s generation %d state %s type %s protocol %s leader %s\n", group->id, group->generation,
                       group_state_name(group->state), str_or_empty(group->protocol_type), str_or_empty(group->protocol),
                       group->leader ? group->leader->id : "");
    list_for_each(it, &group->members)
    {
        if (r >= 0)
            r = dump_member(CONTAINER_OF(it, Member, node), out);
    }
    return r < 0 ? r : dump_offsets(&group->offsets, out);
}

int groups_dump(const Groups *g, Buf *out)
{
    const Group **all = calloc(g->counts.groups + 1, sizeof(all[0]));
    size_t n = 0;
    int r = 0;
    must(all);
    for (const Group *group = groups_next(g, NULL); group; group = groups_next(g, group))
        if (group->generation > 0 || group->offsets.total > 0)
            all[n++] = group;
    qsort(all, n, sizeof(all[0]), by_id);
    for (size_t i = 0; i < n && r >= 0; i++)
        r = dump_group(all[i], out);
    free(all);
    return r < 0 ? r : 0;
}
