/*
 * DescribeConfigs: answered here from leat.conf and the metadata image, without asking the controller. Values of a topic may
 * be read by whoever may use it; the broker's own configuration by everyone who may use the cluster, as in Kafka without
 * ACLs (no key of ours is secret).
 */

#include "broker/api/api.h"

#include "meta/config_describe.h"

void api_describe_configs_handle(Request *r)
{
    const KDescribeConfigsRequest *q = r->body;
    const ConfigDescribe c = {.conf = child_conf(r->broker->child),
                              .image = r->broker->image,
                              .node_id = r->broker->node_id,
                              .synonyms = q->include_synonyms,
                              .documentation = q->include_documentation};
    KDescribeConfigsResponse a = {.results.n = MAX(q->resources.n, 0)};
    a.results.items = request_alloc(r, (size_t)a.results.n, sizeof(*a.results.items));
    int e = a.results.items ? 0 : -1;
    for (int32_t i = 0; e == 0 && i < a.results.n; i++)
        e = config_describe(&c, &q->resources.items[i], &r->arena, &a.results.items[i]);
    if (e < 0)
        request_abandon(r, "out of memory");
    else
        request_reply(r, &a);
}
