/* roundrobin: all partitions of all topics in order of name, dealt in turn to the next member that subscribes to the topic. */

#include "client/assignor/assignor.h"

#include <errno.h>
#include <stdlib.h>

static int deal(const AssignInput *in, const size_t *members, const size_t *topics, AssignShare *ret)
{
    size_t turn = 0;

    for (size_t t = 0; t < in->n_topics; t++) {
        int32_t topic = (int32_t)topics[t];
        for (int32_t p = 0; p < in->topics[topic].partitions; p++) {
            size_t tried = 0;
            while (tried < in->n_members && !assign_subscribes(&in->members[members[turn]], topic)) {
                turn = (turn + 1) % in->n_members;
                tried++;
            }
            if (tried == in->n_members)
                break; /* nobody wants this topic */
            if (assign_give(&ret[members[turn]], topic, p) < 0)
                return -ENOMEM;
            turn = (turn + 1) % in->n_members;
        }
    }
    return 0;
}

int assign_roundrobin(const AssignInput *in, AssignShare *ret)
{
    size_t *members = calloc(in->n_members + 1, sizeof *members), *topics = calloc(in->n_topics + 1, sizeof *topics);
    int r = -ENOMEM;

    if (members && topics) {
        assign_order_members(in, members);
        assign_order_topics(in, topics);
        r = in->n_members ? deal(in, members, topics, ret) : 0;
    }
    free(members);
    free(topics);
    return r;
}
