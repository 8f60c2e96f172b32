/*
 * Elections and the sets around them: ISR, ELR (eligible leader replicas) and last known ELR, after KIP-966.
 *
 *   ISR   hold every acknowledged record and are alive
 *   ELR   hold every acknowledged record, but are not in the ISR; kept only while the ISR is smaller than min.insync.replicas
 *   last  were in one of the two when it emptied; the first is the last leader
 *
 * One function computes what a partition should look like from who is alive; all callers (fence, unfence, registration,
 * AlterPartition, config changes) differ only in what they pass. In this order:
 *   L1  replicas that are not active leave the ISR
 *   L2  who leaves the ISR enters the ELR, unless its copy is unclean; unclean members leave both and become last known
 *   L3  |ISR| >= min ISR: ELR and last known are emptied
 *   L4  an active leader in the ISR stays
 *   L5  else the first of the ISR, else the first active one of the ELR (which then is the ISR)
 *   L6  ISR and ELR empty: the first of last known, if active
 *   L7  else, with unclean.leader.election.enable, the first active replica; ISR = {it}, ELR and last known empty
 *   L8  else no leader
 */

#include <string.h>

#include "controller/state/decide.h"

typedef struct Set {
    int32_t ids[META_REPLICAS_MAX];
    int n;
} Set;

typedef struct Target {
    Set isr, elr, last;
    int32_t leader;
} Target;

bool in_list(const int32_t *list, int n, int32_t id)
{
    for (int i = 0; i < n; i++)
        if (list[i] == id)
            return true;
    return false;
}

static bool has(const Set *s, int32_t id)
{
    return in_list(s->ids, s->n, id);
}

static void add(Set *s, int32_t id)
{
    if (!has(s, id)) {
        assert(s->n < META_REPLICAS_MAX); /* members are replicas, which the image bounds */
        s->ids[s->n++] = id;
    }
}

static void drop(Set *s, int32_t id)
{
    int n = 0;
    for (int i = 0; i < s->n; i++)
        if (s->ids[i] != id)
            s->ids[n++] = s->ids[i];
    s->n = n;
}

static bool same(const Set *s, const int32_t *ids, int n)
{
    return s->n == n && (n == 0 || memcmp(s->ids, ids, (size_t)n * sizeof(int32_t)) == 0);
}

static bool dir_is_offline(const Ctl *ctl, const MetaPartition *p, int32_t broker_id)
{
    const Session *s = session_find(ctl, broker_id);
    for (int i = 0; s && i < p->n_replicas; i++)
        for (int k = 0; p->replicas[i] == broker_id && k < s->n_offline_dirs; k++)
            if (uuid_equal(&p->directories[i], &s->offline_dirs[k]))
                return true;
    return false;
}

bool is_active(const Liveness *live, const MetaPartition *p, int32_t broker_id)
{
    const MetaBroker *b = meta_broker(live->ctl->image, broker_id);
    if (broker_id == live->dead || !b)
        return false;
    if (broker_id != live->alive && (b->fenced || b->in_controlled_shutdown))
        return false;
    return !p || !dir_is_offline(live->ctl, p, broker_id);
}

ConfigView view_of(const Decide *d, const MetaTopic *t)
{
    return (ConfigView){.conf = d->ctl->conf, .topic = t ? &t->configs : NULL, .cluster = meta_broker_configs(d->image, -1)};
}

Policy policy_of(const ConfigView *view)
{
    const char *unclean = config_view_topic(view, config_key("unclean.leader.election.enable"), NULL);
    return (Policy){.min_isr = config_view_topic_i64(view, "min.insync.replicas"),
                    .unclean = strcmp(unclean, "true") == 0,
                    .synced_is_clean = config_view_topic_i64(view, "flush.messages") == 1};
}

static bool is_small(const Target *t, const Policy *policy, const MetaPartition *p)
{
    return t->isr.n < MIN(policy->min_isr, p->n_replicas);
}

static void clear_if_enough(Target *t, const Policy *policy, const MetaPartition *p) /* L3 */
{
    if (!is_small(t, policy, p))
        t->elr.n = t->last.n = 0;
}

static void add_eligible(Target *t, int32_t id, int32_t unclean)
{
    if (id >= 0 && !has(&t->isr, id) && id != unclean)
        add(&t->elr, id);
}

static void add_last(Target *t, int32_t id)
{
    if (id >= 0 && !has(&t->isr, id) && !has(&t->elr, id))
        add(&t->last, id);
}

static bool was_member(const MetaPartition *p, int32_t id)
{
    return in_list(p->isr, p->n_isr, id) || in_list(p->elr, p->n_elr, id);
}

/* L1 to L3. The leader goes first, so that the first of each set is the last that led. */
static void shrink(Target *t, const Liveness *live, const Policy *policy, const MetaPartition *p, const KInt32Array *isr,
                   int32_t unclean)
{
    const int32_t *from = isr ? isr->items : p->isr;
    int n = isr ? isr->n : p->n_isr;
    for (int i = 0; i < n; i++)
        if (is_active(live, p, from[i]))
            add(&t->isr, from[i]);
    if (was_member(p, p->leader))
        add_eligible(t, p->leader, unclean);
    for (int i = 0; i < p->n_elr; i++)
        add_eligible(t, p->elr[i], unclean);
    for (int i = 0; i < p->n_isr; i++)
        add_eligible(t, p->isr[i], unclean);
    add_last(t, p->leader);
    for (int i = 0; i < p->n_last_known_elr; i++)
        add_last(t, p->last_known_elr[i]);
    for (int i = 0; i < p->n_elr; i++)
        add_last(t, p->elr[i]);
    for (int i = 0; i < p->n_isr; i++)
        add_last(t, p->isr[i]);
    clear_if_enough(t, policy, p);
}

static void lead_alone(Target *t, const Policy *policy, const MetaPartition *p, int32_t id)
{
    t->leader = id;
    t->isr.n = 0;
    add(&t->isr, id);
    drop(&t->elr, id);
    drop(&t->last, id);
    clear_if_enough(t, policy, p);
}

static void elect(Target *t, const Liveness *live, const Policy *policy, const MetaPartition *p)
{
    t->leader = -1;
    if (p->leader >= 0 && has(&t->isr, p->leader)) { /* L4 */
        t->leader = p->leader;
        return;
    }
    for (int i = 0; i < p->n_replicas; i++) /* L5: in the order of preference */
        if (has(&t->isr, p->replicas[i])) {
            t->leader = p->replicas[i];
            return;
        }
    for (int i = 0; i < t->elr.n; i++)
        if (is_active(live, p, t->elr.ids[i])) {
            lead_alone(t, policy, p, t->elr.ids[i]);
            return;
        }
    if (t->elr.n == 0 && t->last.n > 0 && is_active(live, p, t->last.ids[0])) { /* L6 */
        lead_alone(t, policy, p, t->last.ids[0]);
        return;
    }
    for (int i = 0; policy->unclean && i < p->n_replicas; i++) /* L7 */
        if (is_active(live, p, p->replicas[i])) {
            t->elr.n = t->last.n = 0;
            lead_alone(t, policy, p, p->replicas[i]);
            return;
        }
}

static void verify(const Target *t, const Policy *policy, const MetaPartition *p)
{
    assert(t->leader == -1 || has(&t->isr, t->leader)); /* C6 */
    for (int i = 0; i < t->elr.n; i++)
        assert(!has(&t->isr, t->elr.ids[i])); /* C9 */
    assert(is_small(t, policy, p) || (t->elr.n == 0 && t->last.n == 0));
}

void refresh_partition(Decide *d, const Liveness *live, const Policy *policy, const MetaTopic *topic, const MetaPartition *p,
                       const KInt32Array *isr, int32_t unclean)
{
    Target t = {0};
    KMetaPartitionChangeRecord m;
    shrink(&t, live, policy, p, isr, unclean);
    elect(&t, live, policy, p);
    verify(&t, policy, p);
    k_message_init(&k_meta_partition_change_record, &m);
    m.topic_id = topic->id;
    m.partition = p->index;
    bool changed = t.leader != p->leader;
    if (changed)
        m.leader = t.leader;
    if (!same(&t.isr, p->isr, p->n_isr)) {
        m.isr = (KInt32Array){t.isr.ids, t.isr.n};
        changed = true;
    }
    if (!same(&t.elr, p->elr, p->n_elr)) {
        m.elr = (KInt32Array){t.elr.ids, t.elr.n};
        changed = true;
    }
    if (!same(&t.last, p->last_known_elr, p->n_last_known_elr)) {
        m.last_known_elr = (KInt32Array){t.last.ids, t.last.n};
        changed = true;
    }
    if (changed)
        put_record(d, &k_meta_partition_change_record, &m);
}

void refresh_broker(Decide *d, const Liveness *live, int32_t broker_id)
{
    for (const MetaTopic *t = NULL; (t = meta_topic_next(d->image, t));) {
        ConfigView view = view_of(d, t);
        Policy policy = policy_of(&view);
        for (int32_t i = 0; i < t->n_partitions; i++)
            if (in_list(t->partitions[i].replicas, t->partitions[i].n_replicas, broker_id))
                refresh_partition(d, live, &policy, t, &t->partitions[i], NULL, -1);
    }
}
