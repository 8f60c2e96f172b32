/* topic plan: what a load keeps on disk. 1000/s x 500 B x 7 d = 302.4 GB per replica. */

#include "mqctl/plan.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/text.h"
#include "mqctl/output.h"

static int64_t to_i64(double v)
{
    return v >= 9.2e18 ? INT64_MAX : (int64_t)llround(v);
}

void plan_compute(const PlanInput *in, Plan *ret)
{
    Plan p = {.bytes_per_s = in->rate * (double)in->size_bytes};
    double kept;

    p.records_kept = in->rate * (double)in->retention_ms / 1000;
    kept = p.records_kept * (double)in->size_bytes;
    p.bytes_per_replica = to_i64(kept);
    p.bytes_all_replicas = to_i64(kept * (double)in->replicas);
    p.partitions = in->partitions > 0 ? in->partitions : MAX(1, to_i64(ceil(p.bytes_per_s / PLAN_PARTITION_BYTES_PER_S)));
    p.segments_per_partition = to_i64(ceil(kept / (double)p.partitions / (double)PLAN_SEGMENT_BYTES));
    p.seconds_per_segment = p.bytes_per_s > 0 ? (double)PLAN_SEGMENT_BYTES * (double)p.partitions / p.bytes_per_s : 0;
    *ret = p;
}

/* "302 GB": three digits say enough of a plan. */
static void size_text(int64_t bytes, char *out, size_t size)
{
    char *dot;

    format_size(bytes, out, size);
    dot = strchr(out, '.');
    if (dot != NULL && dot - out >= 3)
        memmove(dot, dot + 2, strlen(dot + 2) + 1);
}

static void print_plan(Mq *m, json_t *doc)
{
    char one[32], all[32], rate[32], retention[32], segment[32];

    (void)m;
    size_text(doc_i64(doc, "bytes_per_replica", 0), one, sizeof one);
    size_text(doc_i64(doc, "bytes_all_replicas", 0), all, sizeof all);
    size_text(doc_i64(doc, "bytes_per_s", 0), rate, sizeof rate);
    format_duration_ms(doc_i64(doc, "retention_ms", 0), retention, sizeof retention);
    format_duration_ms(doc_i64(doc, "segment_s", 0) * 1000, segment, sizeof segment);
    printf("%lld records/s of %lld bytes are %s/s; kept for %s: %s per replica, %s on all %lld replicas, before compression\n",
           (long long)doc_i64(doc, "rate", 0), (long long)doc_i64(doc, "size_bytes", 0), rate, retention, one, all,
           (long long)doc_i64(doc, "replicas", 1));
    printf("%lld partition%s; a segment of 1 GiB fills in %s, about %lld segments per partition\n",
           (long long)doc_i64(doc, "partitions", 1), doc_i64(doc, "partitions", 1) == 1 ? "" : "s", segment,
           (long long)doc_i64(doc, "segments_per_partition", 1));
}

int topic_plan_run(Mq *m)
{
    int64_t rate = -1;
    PlanInput in = {.size_bytes = -1, .retention_ms = INT64_C(7) * 86400000, .replicas = 1};
    json_t *doc;
    Plan p;
    int r = opt_count(m, "rate", 0, &rate);

    r = r ? r : opt_size(m, "size", 1, &in.size_bytes);
    r = r ? r : opt_duration(m, "retention", 86400000, &in.retention_ms);
    r = r ? r : opt_i64(m, "replicas", 1, 100, &in.replicas);
    r = r ? r : opt_i64(m, "partitions", 1, 1000000, &in.partitions);
    if (r == 0 && (rate < 0 || in.size_bytes < 0))
        r = mq_fail(m, MQ_E_USAGE, "say the load: --rate RECORDS/S --size BYTES");
    if (r != 0)
        return r;
    in.rate = (double)rate;
    plan_compute(&in, &p);
    doc = json_object();
    doc_set(doc, "rate", json_integer(rate));
    doc_set(doc, "size_bytes", json_integer(in.size_bytes));
    doc_set(doc, "retention_ms", json_integer(in.retention_ms));
    doc_set(doc, "replicas", json_integer(in.replicas));
    doc_set(doc, "bytes_per_s", json_integer(to_i64(p.bytes_per_s)));
    doc_set(doc, "records_kept", json_integer(to_i64(p.records_kept)));
    doc_set(doc, "bytes_per_replica", json_integer(p.bytes_per_replica));
    doc_set(doc, "bytes_all_replicas", json_integer(p.bytes_all_replicas));
    doc_set(doc, "partitions", json_integer(p.partitions));
    doc_set(doc, "segments_per_partition", json_integer(p.segments_per_partition));
    doc_set(doc, "segment_s", json_integer(to_i64(p.seconds_per_segment)));
    return output_doc(m, doc, print_plan);
}
