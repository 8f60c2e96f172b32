/*
 * AlterPartition: a leader proposes its ISR. Accepted only as C8 says: sender is the leader, both epochs are the present ones,
 * the ISR lies within the replicas and contains the leader, every member is active in its present incarnation.
 */

#include "controller/state/decide.h"

typedef KAlterPartitionRequestTopicsPartitions Ask;
typedef KAlterPartitionResponseTopicsPartitions Answer;

static KafkaError check_isr(const Decide *d, const MetaPartition *p, const Ask *q)
{
    Liveness live = {.ctl = d->ctl, .dead = -1, .alive = -1};
    bool leader = false;
    for (int32_t i = 0; i < q->new_isr.n; i++) {
        int32_t id = q->new_isr.items[i].broker_id;
        leader = leader || id == p->leader;
        if (!in_list(p->replicas, p->n_replicas, id))
            return K_INVALID_REQUEST;
        for (int32_t k = 0; k < i; k++)
            if (q->new_isr.items[k].broker_id == id)
                return K_INVALID_REQUEST;
    }
    if (!leader)
        return K_INVALID_REQUEST;
    for (int32_t i = 0; i < q->new_isr.n; i++) {
        const MetaBroker *b = meta_broker(d->image, q->new_isr.items[i].broker_id);
        if (!b || b->epoch != q->new_isr.items[i].broker_epoch || !is_active(&live, p, b->id))
            return K_INELIGIBLE_REPLICA;
    }
    return K_NONE;
}

static KafkaError check(const Decide *d, int32_t sender, const MetaPartition *p, const Ask *q)
{
    if (!p)
        return K_UNKNOWN_TOPIC_OR_PARTITION;
    if (q->leader_epoch > p->leader_epoch || q->partition_epoch > p->partition_epoch)
        return K_NOT_CONTROLLER; /* the sender has seen more than we have: our view is old */
    if (q->leader_epoch < p->leader_epoch)
        return K_FENCED_LEADER_EPOCH;
    if (p->leader != sender)
        return K_INVALID_REQUEST;
    if (q->partition_epoch < p->partition_epoch)
        return K_INVALID_UPDATE_VERSION;
    return check_isr(d, p, q);
}

static void decide_one(Decide *d, int32_t sender, const MetaTopic *t, const Ask *q, Answer *a)
{
    Liveness live = {.ctl = d->ctl, .dead = -1, .alive = -1};
    const MetaPartition *p = q->partition >= 0 && q->partition < t->n_partitions ? &t->partitions[q->partition] : NULL;
    KInt32Array isr = {take(d, (size_t)MAX(q->new_isr.n, 0) * sizeof(int32_t)), q->new_isr.n};
    a->partition = q->partition;
    a->error_code = check(d, sender, p, q);
    if (a->error_code != K_NONE || d->error)
        return;
    for (int32_t i = 0; i < isr.n; i++)
        isr.items[i] = q->new_isr.items[i].broker_id;
    ConfigView view = view_of(d, t);
    Policy policy = policy_of(&view);
    size_t before = d->out->n_records;
    refresh_partition(d, &live, &policy, t, p, &isr, -1);
    a->leader_epoch = p->leader_epoch; /* the leader is active and in the ISR: it stays (C7) */
    a->partition_epoch = p->partition_epoch + (d->out->n_records > before);
    a->isr = isr;
}

static bool seen_before(const KAlterPartitionRequest *q, int32_t topic, int32_t partition)
{
    const Ask *me = &q->topics.items[topic].partitions.items[partition];
    for (int32_t t = 0; t <= topic; t++)
        for (int32_t p = 0; p < (t == topic ? partition : q->topics.items[t].partitions.n); p++)
            if (uuid_equal(&q->topics.items[t].topic_id, &q->topics.items[topic].topic_id) &&
                q->topics.items[t].partitions.items[p].partition == me->partition)
                return true;
    return false;
}

int decide_alter_partition(Decide *d, const void *request, void *response)
{
    const KAlterPartitionRequest *q = request;
    KAlterPartitionResponse *a = response;
    const MetaBroker *b = meta_broker(d->image, q->broker_id);
    if (!b || b->epoch != q->broker_epoch) {
        a->error_code = b ? K_STALE_BROKER_EPOCH : K_BROKER_ID_NOT_REGISTERED;
        return 0; /* C3 */
    }
    a->topics.items = take(d, (size_t)q->topics.n * sizeof(*a->topics.items));
    for (int32_t i = 0; i < q->topics.n && d->error == 0; i++) {
        const KAlterPartitionRequestTopics *qt = &q->topics.items[i];
        KAlterPartitionResponseTopics *at = &a->topics.items[a->topics.n++];
        const MetaTopic *t = meta_topic_by_id(d->image, &qt->topic_id);
        at->topic_id = qt->topic_id;
        at->partitions.items = take(d, (size_t)qt->partitions.n * sizeof(*at->partitions.items));
        for (int32_t k = 0; k < qt->partitions.n && d->error == 0; k++) {
            Answer *one = &at->partitions.items[at->partitions.n++];
            *one = (Answer){.partition = qt->partitions.items[k].partition};
            if (!t)
                one->error_code = K_UNKNOWN_TOPIC_ID;
            else if (seen_before(q, i, k))
                one->error_code = K_INVALID_REQUEST; /* its epoch has moved in this very request */
            else
                decide_one(d, q->broker_id, t, &qt->partitions.items[k], one);
        }
    }
    return 0;
}
