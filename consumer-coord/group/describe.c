/* DescribeGroups and ListGroups: read-only views. */

#include "consumer-coord/group/private.h"

#include <string.h>
#include <strings.h>

#include "wire/error.h"

#define GROUP_OPERATIONS 3400 /* read, delete, describe, describe and alter configs (kafka-wire.md section 4.1) */

const char *group_state_name(GroupState state)
{
    static const char *const names[] = {
        [GROUP_EMPTY] = "Empty",   [GROUP_PREPARING] = "PreparingRebalance", [GROUP_COMPLETING] = "CompletingRebalance",
        [GROUP_STABLE] = "Stable", [GROUP_DEAD] = "Dead",
    };
    return names[state];
}

static KDescribeGroupsResponseGroupsMembers describe_member(const Member *m)
{
    const Group *group = m->group;
    const KBytes *metadata = group->state == GROUP_STABLE ? protocols_find(&m->protocols, group->protocol) : NULL;
    bool has_assignment = group->state == GROUP_STABLE && m->assignment;
    return (KDescribeGroupsResponseGroupsMembers){
        .member_id = k_str(m->id),
        .group_instance_id = k_str(m->instance_id),
        .client_id = k_str(str_or_empty(m->client_id)),
        .client_host = k_str(str_or_empty(m->client_host)),
        .member_metadata = metadata ? *metadata : (KBytes){"", 0},
        .member_assignment = has_assignment ? (KBytes){m->assignment, m->assignment_size} : (KBytes){"", 0},
    };
}

static void describe_group(Step *s, KStr id, KDescribeGroupsResponseGroups *a)
{
    int32_t partition;
    a->group_id = id;
    a->error_message = K_STR_NULL;
    a->group_state = a->protocol_type = a->protocol_data = k_str("");
    a->authorized_operations = INT32_MIN;
    a->error_code = partition_error(s->g, id, &partition);
    if (a->error_code != K_NONE)
        return;
    const Group *group = group_find(s->g, id);
    if (!group) {
        a->group_state = k_str(group_state_name(GROUP_DEAD));
        if (s->ev->asker.api_version >= 6) {
            a->error_code = K_GROUP_ID_NOT_FOUND;
            a->error_message = k_str(k_error_message(K_GROUP_ID_NOT_FOUND));
        }
        return;
    }
    a->group_state = k_str(group_state_name(group->state));
    a->protocol_type = k_str(str_or_empty(group->protocol_type));
    if (group->state == GROUP_STABLE)
        a->protocol_data = k_str(str_or_empty(group->protocol));
    a->members.items = effect_alloc(s, (size_t)group->n_members * sizeof(a->members.items[0]) + 1);
    list_for_each(it, &group->members)
    {
        a->members.items[a->members.n++] = describe_member(CONTAINER_OF(it, Member, node));
    }
}

void on_describe(Step *s)
{
    const KDescribeGroupsRequest *q = s->ev->body;
    KDescribeGroupsResponse r;
    k_message_init(&k_describe_groups_response, &r);
    r.groups.n = q->groups.n;
    r.groups.items = effect_alloc(s, (size_t)q->groups.n * sizeof(r.groups.items[0]) + 1);
    for (int32_t i = 0; i < q->groups.n; i++) {
        describe_group(s, q->groups.items[i], &r.groups.items[i]);
        if (q->include_authorized_operations && r.groups.items[i].error_code == K_NONE)
            r.groups.items[i].authorized_operations = GROUP_OPERATIONS;
    }
    reply(s, &s->ev->asker, &k_describe_groups_response, &r);
}

/* Case does not matter; an empty filter lets everything through. */
static bool passes(const KStrArray *filter, const char *value)
{
    for (int32_t i = 0; i < filter->n; i++)
        if ((size_t)filter->items[i].len == strlen(value) && strncasecmp(filter->items[i].ptr, value, strlen(value)) == 0)
            return true;
    return filter->n <= 0;
}

void on_list(Step *s)
{
    const KListGroupsRequest *q = s->ev->body;
    KListGroupsResponse r;
    k_message_init(&k_list_groups_response, &r);
    for (int32_t p = 0; p < s->g->n_partitions; p++)
        if (s->g->partitions[p] == PARTITION_LOADING)
            r.error_code = K_COORDINATOR_LOAD_IN_PROGRESS;
    r.groups.items = effect_alloc(s, s->g->counts.groups * sizeof(r.groups.items[0]) + 1);
    for (const Group *group = groups_next(s->g, NULL); group; group = groups_next(s->g, group)) {
        const char *state = group_state_name(group->state);
        if (s->g->partitions[group->partition] != PARTITION_LED || !passes(&q->states_filter, state) ||
            !passes(&q->types_filter, "classic"))
            continue;
        r.groups.items[r.groups.n++] = (KListGroupsResponseGroups){
            .group_id = k_str(group->id),
            .protocol_type = k_str(str_or_empty(group->protocol_type)),
            .group_state = k_str(state),
            .group_type = k_str("classic"),
        };
    }
    reply(s, &s->ev->asker, &k_list_groups_response, &r);
}
