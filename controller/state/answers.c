/*
 * A request that comes again. The broker sends what it has no answer to once more when it is back in touch with the controller,
 * which may have committed the request before it died: decided anew, a topic would already exist. So the last record of a
 * request's batch is its answer, under the name the broker gave the request; found in the image, it is the answer again.
 *
 * The lists of configs in an answer to CreateTopics are left out of the record and made again from the topic. An answer too
 * large to be kept (some 1,500 topics in one request) is not: then the request is decided anew.
 */

#include <errno.h>

#include "controller/state/decide.h"

static void drop_configs(KCreateTopicsResponse *a)
{
    for (int32_t i = 0; i < a->topics.n; i++)
        a->topics.items[i].configs.n = -1;
}

void remember_answer(Decide *d, const KApi *api, void *response)
{
    Buf body = BUF_NULL;
    if (d->error || d->out->n_records == 0 || uuid_is_zero(&d->q->sender))
        return;
    if (api->key == K_API_CREATE_TOPICS)
        drop_configs(response);
    d->error = k_encode(api->response, d->q->api_version, response, &body);
    if (d->error == 0 && body.size <= META_ANSWER_SIZE_MAX) {
        KMetaAnswerRecord m = {.number = meta_next_answer(d->image), .sender = d->q->sender, .call = d->q->call,
                               .api_key = api->key, .api_version = d->q->api_version, .body = {body.data, (int32_t)body.size}};
        put_record(d, &k_meta_answer_record, &m);
    }
    buf_deinit(&body);
}

static int create_again(Decide *d, const MetaAnswer *kept)
{
    KCreateTopicsResponse a;
    int r = k_decode(&k_create_topics_response, kept->api_version, kept->body, kept->size, &d->arena, &a);
    for (int32_t i = 0; i < a.topics.n && r == 0; i++) {
        KCreateTopicsResponseTopics *one = &a.topics.items[i];
        const MetaTopic *t = meta_topic(d->image, one->name.ptr, (size_t)one->name.len);
        if (t && one->error_code == K_NONE) /* not gone since */
            r = describe_created(d, &t->configs, one);
    }
    return r < 0 ? r : k_encode(&k_create_topics_response, kept->api_version, &a, &d->out->response);
}

bool answer_again(Decide *d, int *ret)
{
    const MetaAnswer *kept = uuid_is_zero(&d->q->sender) ? NULL : meta_answer(d->image, &d->q->sender, d->q->call);
    if (!kept || kept->api_key != d->q->api_key || kept->api_version != d->q->api_version)
        return false;
    *ret = kept->api_key == K_API_CREATE_TOPICS && kept->api_version >= 5
               ? create_again(d, kept)
               : buf_append(&d->out->response, kept->body, kept->size);
    return true;
}
