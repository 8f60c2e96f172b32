#pragma once

/*
 * Config entries as Kafka's admin responses carry them: DescribeConfigs (answered by the broker) and CreateTopics v5+
 * (answered by the controller). Strings borrow from the image, the configuration, the catalogue and the arena. Pure.
 */

#include "meta/config_keys.h"
#include "wire/messages.h"

typedef struct ConfigDescribe {
    const Conf *conf;
    const MetaImage *image;
    int32_t node_id; /* the broker whose leat.conf this is */
    bool synonyms, documentation;
} ConfigDescribe;

/* One resource of a DescribeConfigs request, complete with its error; rights are the caller's. Return: 0 or -ENOMEM. */
int config_describe(const ConfigDescribe *c, const KDescribeConfigsRequestResources *q, Arena *arena,
                    KDescribeConfigsResponseResults *ret);
/* All configs of a topic, also one that does not exist yet (view->topic: what was asked for). Return: 0 or -ENOMEM. */
int config_describe_created(const ConfigView *view, Arena *arena, KCreateTopicsResponseTopics *ret);
/* Replicas of a new topic whose creator names no number, and how many brokers are live. */
int16_t config_default_replicas(const Conf *conf, const MetaImage *image);
int32_t config_live_brokers(const MetaImage *image);
