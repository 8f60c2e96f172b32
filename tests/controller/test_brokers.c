/* Registration, heartbeats, fencing, shutdown, elections; the cells cite leaders.c (L1-L8) and consensus.md (C1-C20). */

#include "meta/rows.h"
#include "tests/controller/cluster.h"

static Cluster c;

static void setup(void)
{
    cluster_open(&c);
}

static void teardown(void)
{
    cluster_close(&c);
}

START_TEST(registration_epochs)
{
    Registering w = {.id = 1, .incarnation = 1, .cluster = "other"};
    ck_assert_int_eq(cluster_register_as(&c, &w).error_code, K_INCONSISTENT_CLUSTER_ID);
    w.cluster = NULL;
    w.id = -1;
    ck_assert_int_eq(cluster_register_as(&c, &w).error_code, K_INVALID_REQUEST);
    int64_t first = cluster_register(&c, 1, 1, META_DIR_CLEAN);
    uint64_t index = meta_index(image_of(&c));
    ck_assert_int_eq(meta_broker(image_of(&c), 1)->epoch, first); /* index of its record (C2) */
    ck_assert(meta_broker(image_of(&c), 1)->fenced);
    ck_assert_int_eq(cluster_register(&c, 1, 1, META_DIR_CLEAN), first); /* the same incarnation keeps its epoch */
    ck_assert_uint_eq(meta_index(image_of(&c)), index);
    ck_assert_int_gt(cluster_register(&c, 1, 2, META_DIR_CLEAN), first);
    ck_assert_int_eq(cluster_beat_as(&c, 1, first, 99, false, false).error_code, K_STALE_BROKER_EPOCH); /* C3 */
    ck_assert_int_eq(cluster_beat_as(&c, 7, first, 99, false, false).error_code, K_BROKER_ID_NOT_REGISTERED);
    ck_assert_uint_eq(c.out.n_records, 0);
}
END_TEST

START_TEST(live_incarnation_is_not_replaced)
{
    cluster_start(&c, 2);
    Registering w = {.id = 2, .incarnation = 2};
    ck_assert_int_eq(cluster_register_as(&c, &w).error_code, K_DUPLICATE_BROKER_REGISTRATION);
    c.now_ms += 1500; /* its session is over */
    ck_assert_int_eq(cluster_register_as(&c, &w).error_code, 0);
    cluster_start(&c, 1);
    c.own_host = true; /* a second process beside a living one cannot be: flock */
    w.id = 1;
    ck_assert_int_eq(cluster_register_as(&c, &w).error_code, 0);
    ck_assert(meta_broker(image_of(&c), 1)->fenced);
}
END_TEST

START_TEST(internal_requests_need_our_own_rights)
{
    c.rights = ALL_RIGHTS & ~CTL_RIGHT_INTERNAL;
    Registering w = {.id = 1, .incarnation = 1};
    ck_assert_int_eq(cluster_register_as(&c, &w).error_code, K_CLUSTER_AUTHORIZATION_FAILED);
    ck_assert_int_eq(cluster_beat_as(&c, 1, 1, 1, false, false).error_code, K_CLUSTER_AUTHORIZATION_FAILED);
    ck_assert_uint_eq(c.out.n_records, 0);
}
END_TEST

START_TEST(unfence_waits_for_the_image)
{
    int64_t epoch = cluster_register(&c, 1, 1, META_DIR_CLEAN);
    KBrokerHeartbeatResponse a = cluster_beat_as(&c, 1, epoch, epoch - 1, false, false);
    ck_assert(!a.is_caught_up && a.is_fenced); /* C13 */
    a = cluster_beat_as(&c, 1, epoch, epoch, true, false);
    ck_assert(a.is_caught_up && a.is_fenced); /* its own wish: not recovered yet */
    a = cluster_beat_as(&c, 1, epoch, epoch, false, false);
    ck_assert(!a.is_fenced && !meta_broker(image_of(&c), 1)->fenced);
    a = cluster_beat_as(&c, 1, epoch, epoch, true, false);
    ck_assert(a.is_fenced && meta_broker(image_of(&c), 1)->fenced);
}
END_TEST

/* One broker: death ends its leadership, the next incarnation gets it back; every election moves the leader epoch (C7). */
START_TEST(single_broker_restart)
{
    static const int8_t states[] = {META_DIR_CLEAN, META_DIR_SYNCED, META_DIR_SUSPECT};
    cluster_start(&c, 1);
    ck_assert_int_eq(cluster_create(&c, "t", 1, -1).error_code, 0);
    expect_partition(&c, "t", 0, 1, "1", "", "");
    ck_assert_int_eq(ctl_broker_died(c.ctl, 1, &c.out), 0);
    cluster_apply(&c);
    expect_partition(&c, "t", 0, -1, "", "1", "");
    ck_assert_int_eq(ctl_broker_died(c.ctl, 1, &c.out), 0);
    ck_assert_uint_eq(c.out.n_records, 0); /* once */
    cluster_register(&c, 1, 2, states[_i]);
    expect_partition(&c, "t", 0, -1, "", _i == 2 ? "" : "1", _i == 2 ? "1" : "");
    cluster_beat(&c, 1, false, false);
    expect_partition(&c, "t", 0, 1, "1", "", ""); /* L5, or L6 for the suspect one */
    ck_assert_int_eq(part(&c, "t", 0)->leader_epoch, 2);
    expect_invariants(&c);
}
END_TEST

/* A stall of the only broker fences nobody; with another one it does. */
START_TEST(silence_fences_only_where_another_takes_over)
{
    cluster_start(&c, 1);
    ck_assert(ctl_deadline_ms(c.ctl) == INT64_MAX);
    ck_assert_int_eq(ctl_tick(c.ctl, c.now_ms + 1000000, &c.out), 0);
    ck_assert_uint_eq(c.out.n_records, 0);
    cluster_start(&c, 2);
    ck_assert_int_eq(cluster_create(&c, "t", 1, 2).error_code, 0);
    int64_t start = c.now_ms;
    c.now_ms += 1000;
    cluster_beat(&c, 2, false, false);
    ck_assert_int_eq(ctl_deadline_ms(c.ctl), MAX(start + 1500, 1000000 + 1000 + 50));
    ck_assert_int_eq(ctl_tick(c.ctl, start + 1499, &c.out), 0);
    ck_assert_uint_eq(c.out.n_records, 0);
    ck_assert_int_eq(ctl_tick(c.ctl, start + 1500, &c.out), 0);
    cluster_apply(&c);
    ck_assert(meta_broker(image_of(&c), 1)->fenced && !meta_broker(image_of(&c), 2)->fenced);
    ck_assert_int_eq(part(&c, "t", 0)->leader, 2);
    expect_invariants(&c);
    ck_assert_int_eq(ctl_tick(c.ctl, start + 100000, &c.out), 0);
    ck_assert_uint_eq(c.out.n_records, 0); /* the last one stays */
}
END_TEST

START_TEST(all_silent_at_once_fences_none)
{
    for (int i = 1; i <= 3; i++)
        cluster_start(&c, i);
    ck_assert_int_eq(ctl_tick(c.ctl, c.now_ms + 5000, &c.out), 0);
    ck_assert_uint_eq(c.out.n_records, 0);
    ck_assert_int_ge(ctl_deadline_ms(c.ctl), c.now_ms + 5050); /* looked at again, not spun on */
}
END_TEST

static int reapply(void *userdata, const MetaRowKey *key, uint64_t index, const void *record, size_t size)
{
    (void)key;
    return meta_apply_record(userdata, index, record, size);
}

/* C19: after a restart of the controller, or a step back to the committed image, everyone has a full session. */
START_TEST(sessions_begin_anew_after_reset)
{
    MetaImage *copy;
    cluster_start(&c, 1);
    cluster_start(&c, 2);
    ck_assert_int_eq(meta_image_new(&copy), 0);
    ck_assert_int_eq(meta_rows_each(image_of(&c), reapply, copy), 0);
    copy->index = meta_index(image_of(&c));
    c.now_ms += 10000;
    ctl_reset(c.ctl, copy, c.now_ms);
    ck_assert_int_eq(ctl_deadline_ms(c.ctl), c.now_ms + 1500);
    c.now_ms += 1000;
    cluster_beat(&c, 2, false, false);
    ck_assert_int_eq(ctl_tick(c.ctl, c.now_ms + 499, &c.out), 0);
    ck_assert_uint_eq(c.out.n_records, 0);
    ck_assert_int_eq(ctl_tick(c.ctl, c.now_ms + 500, &c.out), 0);
    cluster_apply(&c);
    ck_assert(meta_broker(image_of(&c), 1)->fenced);
}
END_TEST

/* Three replicas, min ISR 2: who is where after each death and return. */
START_TEST(elr_keeps_who_was_complete)
{
    for (int i = 1; i <= 3; i++)
        cluster_start(&c, i);
    KInt32Array replicas = {(int32_t[]){1, 2, 3}, 3};
    KCreateTopicsRequestTopicsAssignments as = {.partition_index = 0, .broker_ids = replicas};
    KCreateTopicsRequestTopics t = {.name = k_str("t"), .num_partitions = -1, .replication_factor = -1};
    KCreateTopicsRequest q = {.timeout_ms = 1};
    KCreateTopicsResponse a;
    t.assignments.items = &as;
    t.assignments.n = 1;
    q.topics.items = &t;
    q.topics.n = 1;
    cluster_ask(&c, K_API_CREATE_TOPICS, 7, &q, &a);
    ck_assert_int_eq(a.topics.items[0].error_code, 0);
    expect_partition(&c, "t", 0, 1, "1,2,3", "", "");
    ctl_broker_died(c.ctl, 1, &c.out);
    cluster_apply(&c);
    expect_partition(&c, "t", 0, 2, "2,3", "", ""); /* L3: still min ISR */
    ctl_broker_died(c.ctl, 2, &c.out);
    cluster_apply(&c);
    expect_partition(&c, "t", 0, 3, "3", "2", ""); /* L2: 2 has everything acknowledged */
    ctl_broker_died(c.ctl, 3, &c.out);
    cluster_apply(&c);
    expect_partition(&c, "t", 0, -1, "", "3,2", ""); /* the last leader first */
    cluster_register(&c, 1, 2, META_DIR_CLEAN);
    cluster_beat(&c, 1, false, false);
    expect_partition(&c, "t", 0, -1, "", "3,2", ""); /* L8: 1 may lack records */
    cluster_register(&c, 3, 2, META_DIR_SUSPECT);    /* C4: an unclean one leaves the ELR */
    cluster_beat(&c, 3, false, false);
    expect_partition(&c, "t", 0, -1, "", "2", "3");
    cluster_register(&c, 2, 2, META_DIR_SYNCED);
    cluster_beat(&c, 2, false, false);
    expect_partition(&c, "t", 0, 2, "2", "", "3"); /* L5: synced counts as clean for flush.messages=1 (D4) */
    expect_invariants(&c);
}
END_TEST

START_TEST(synced_is_unclean_without_flush)
{
    for (int i = 1; i <= 2; i++)
        cluster_start(&c, i);
    ck_assert_int_eq(cluster_create(&c, "os", 1, 2).error_code, 0);
    ck_assert_int_eq(cluster_set(&c, 2, "os", "flush.messages", 0, "1000"), 0);
    ck_assert_int_eq(cluster_set(&c, 2, "os", "min.insync.replicas", 0, "2"), 0);
    int32_t first = part(&c, "os", 0)->leader, second = 3 - first;
    ctl_broker_died(c.ctl, first, &c.out);
    cluster_apply(&c);
    char elr[12];
    snprintf(elr, sizeof(elr), "%d", first);
    ck_assert_str_eq(ids(part(&c, "os", 0)->elr, part(&c, "os", 0)->n_elr), elr);
    cluster_register(&c, first, 2, META_DIR_SYNCED);
    ck_assert_int_eq(part(&c, "os", 0)->n_elr, 0);
    ck_assert_int_eq(part(&c, "os", 0)->leader, second);
    expect_invariants(&c);
}
END_TEST

/* A wiped disk comes with a new directory id: never "synced", whatever it says (D4's planted bug). */
START_TEST(wiped_disk_is_suspect)
{
    cluster_start(&c, 1);
    cluster_start(&c, 2);
    ck_assert_int_eq(cluster_create(&c, "t", 1, 2).error_code, 0);
    ck_assert_int_eq(cluster_set(&c, 2, "t", "min.insync.replicas", 0, "2"), 0);
    int32_t first = part(&c, "t", 0)->leader;
    ctl_broker_died(c.ctl, first, &c.out);
    cluster_apply(&c);
    ck_assert_int_eq(part(&c, "t", 0)->n_elr, 1);
    Registering w = {.id = first, .incarnation = 2, .dir_generation = 1, .state = META_DIR_SYNCED};
    ck_assert_int_eq(cluster_register_as(&c, &w).error_code, 0);
    ck_assert_int_eq(part(&c, "t", 0)->n_elr, 0);
    ck_assert_int_eq(part(&c, "t", 0)->n_last_known_elr, 1);
}
END_TEST

/* C10: the last known leader leads only when it is alive; others who come back do not. */
START_TEST(only_the_living_last_leader)
{
    cluster_start(&c, 1);
    cluster_start(&c, 2);
    ck_assert_int_eq(cluster_create(&c, "t", 1, 2).error_code, 0);
    int32_t first = part(&c, "t", 0)->leader, second = 3 - first;
    ctl_broker_died(c.ctl, second, &c.out);
    cluster_apply(&c);
    ctl_broker_died(c.ctl, first, &c.out);
    cluster_apply(&c);
    cluster_register(&c, first, 2, META_DIR_SUSPECT);
    cluster_register(&c, second, 2, META_DIR_SUSPECT);
    char last[12];
    snprintf(last, sizeof(last), "%d", first);
    expect_partition(&c, "t", 0, -1, "", "", last);
    cluster_beat(&c, second, false, false);
    expect_partition(&c, "t", 0, -1, "", "", last);
    cluster_beat(&c, first, false, false);
    expect_partition(&c, "t", 0, first, last, "", "");
}
END_TEST

START_TEST(unclean_election_by_config)
{
    cluster_start(&c, 1);
    cluster_start(&c, 2);
    ck_assert_int_eq(cluster_create(&c, "t", 1, 2).error_code, 0);
    int32_t first = part(&c, "t", 0)->leader, second = 3 - first;
    ctl_broker_died(c.ctl, second, &c.out);
    cluster_apply(&c);
    ctl_broker_died(c.ctl, first, &c.out);
    cluster_apply(&c);
    cluster_register(&c, second, 2, META_DIR_CLEAN);
    cluster_beat(&c, second, false, false);
    ck_assert_int_eq(part(&c, "t", 0)->leader, -1);
    ck_assert_int_eq(cluster_set(&c, 2, "t", "unclean.leader.election.enable", 0, "true"), 0); /* L7, at once */
    char isr[12];
    snprintf(isr, sizeof(isr), "%d", second);
    expect_partition(&c, "t", 0, second, isr, "", "");
    expect_invariants(&c);
}
END_TEST

START_TEST(lower_min_isr_empties_the_elr)
{
    for (int i = 1; i <= 3; i++)
        cluster_start(&c, i);
    ck_assert_int_eq(cluster_create(&c, "t", 1, 3).error_code, 0);
    ck_assert_int_eq(cluster_create(&c, "u", 1, 3).error_code, 0);
    ck_assert_str_eq(meta_config_value(&meta_topic(image_of(&c), "t", 1)->configs, "min.insync.replicas"), "2"); /* D29 */
    for (int i = 1; i <= 2; i++) {
        ctl_broker_died(c.ctl, i, &c.out);
        cluster_apply(&c);
    }
    ck_assert_int_eq(part(&c, "t", 0)->n_elr, 1);
    ck_assert_int_eq(cluster_set(&c, 2, "t", "min.insync.replicas", 0, "1"), 0);
    expect_partition(&c, "t", 0, 3, "3", "", ""); /* C9 */
    ck_assert_int_eq(part(&c, "u", 0)->n_elr, 1);
    expect_invariants(&c);
}
END_TEST

START_TEST(alone_shuts_down_in_one_step)
{
    cluster_start(&c, 1);
    ck_assert_int_eq(cluster_create(&c, "t", 2, 1).error_code, 0);
    KBrokerHeartbeatResponse a = cluster_beat(&c, 1, false, true);
    ck_assert(a.should_shutdown && a.is_fenced);
    ck_assert(meta_broker(image_of(&c), 1)->fenced && meta_broker(image_of(&c), 1)->in_controlled_shutdown);
    expect_partition(&c, "t", 0, -1, "", "1", "");
    a = cluster_beat(&c, 1, false, false);
    ck_assert(a.is_fenced); /* a stopping incarnation does not come back */
    cluster_register(&c, 1, 2, META_DIR_CLEAN);
    ck_assert(!cluster_beat(&c, 1, false, false).is_fenced);
    expect_partition(&c, "t", 0, 1, "1", "", "");
}
END_TEST

START_TEST(shutdown_waits_for_the_others)
{
    cluster_start(&c, 1);
    cluster_start(&c, 2);
    ck_assert_int_eq(cluster_create(&c, "t", 4, 2).error_code, 0);
    int64_t seen = (int64_t)meta_index(image_of(&c));
    KBrokerHeartbeatResponse a = cluster_beat(&c, 1, false, true);
    ck_assert(!a.should_shutdown && !a.is_fenced);
    for (int i = 0; i < 4; i++)
        ck_assert_int_eq(part(&c, "t", i)->leader, 2); /* moved at once */
    expect_invariants(&c);
    cluster_beat_as(&c, 2, meta_broker(image_of(&c), 2)->epoch, seen, false, false);
    ck_assert(!cluster_beat(&c, 1, false, true).should_shutdown); /* 2 has not applied it (C14) */
    cluster_beat(&c, 2, false, false);
    ck_assert(cluster_beat(&c, 1, false, true).should_shutdown);
    ck_assert(meta_broker(image_of(&c), 1)->fenced);
}
END_TEST

START_TEST(offline_directory_gives_up_its_partitions)
{
    cluster_start(&c, 1);
    cluster_start(&c, 2);
    ck_assert_int_eq(cluster_create(&c, "t", 2, 2).error_code, 0);
    Uuid dir = dir_of(1, 0);
    KBrokerHeartbeatRequest q = {.broker_id = 1, .broker_epoch = meta_broker(image_of(&c), 1)->epoch,
                                 .metadata_index = (int64_t)meta_index(image_of(&c)), .offline_log_dirs = {&dir, 1}};
    KBrokerHeartbeatResponse a;
    cluster_ask(&c, K_API_BROKER_HEARTBEAT, 0, &q, &a);
    ck_assert(!a.is_fenced);
    for (int i = 0; i < 2; i++)
        ck_assert_int_eq(part(&c, "t", i)->leader, 2);
    cluster_ask(&c, K_API_BROKER_HEARTBEAT, 0, &q, &a);
    ck_assert_uint_eq(c.out.n_records, 0);
}
END_TEST

START_TEST(producer_id_blocks_are_disjoint)
{
    cluster_start(&c, 1);
    KAllocateProducerIdsRequest q = {.broker_id = 1, .broker_epoch = meta_broker(image_of(&c), 1)->epoch};
    KAllocateProducerIdsResponse a, b;
    cluster_ask(&c, K_API_ALLOCATE_PRODUCER_IDS, 0, &q, &a);
    cluster_ask(&c, K_API_ALLOCATE_PRODUCER_IDS, 0, &q, &b);
    ck_assert_int_eq(a.error_code, 0);
    ck_assert_int_eq(b.first_id, a.first_id + a.count);
    q.broker_epoch--;
    cluster_ask(&c, K_API_ALLOCATE_PRODUCER_IDS, 0, &q, &a);
    ck_assert_int_eq(a.error_code, K_STALE_BROKER_EPOCH);
    ck_assert_uint_eq(c.out.n_records, 0);
}
END_TEST

/* ---- AlterPartition ---- */

typedef struct Proposal {
    int32_t sender, leader_epoch_off, partition_epoch_off;
    const char *isr; /* "12": brokers 1 and 2; 'x' after a digit: a stale epoch */
    KafkaError top, error;
} Proposal;

/* three brokers, partition t-0 led by 1 with ISR 1 (2 and 3 left it); 4 is no replica */
static const Proposal proposals[] = {
    {1, 0, 0, "12", 0, 0},
    {1, 0, 0, "123", 0, 0},
    {1, 0, 0, "1", 0, 0},
    {1, 0, 0, "2", 0, K_INVALID_REQUEST},        /* without the leader */
    {1, 0, 0, "114", 0, K_INVALID_REQUEST},      /* twice, and no replica */
    {1, 0, 0, "14", 0, K_INVALID_REQUEST},
    {1, 0, 0, "11", 0, K_INVALID_REQUEST},
    {1, 0, 0, "12x", 0, K_INELIGIBLE_REPLICA},   /* an old incarnation */
    {2, 0, 0, "12", 0, K_INVALID_REQUEST},       /* not the leader */
    {1, -1, 0, "12", 0, K_FENCED_LEADER_EPOCH},
    {1, 1, 0, "12", 0, K_NOT_CONTROLLER},
    {1, 0, -1, "12", 0, 95},
    {1, 0, 1, "12", 0, K_NOT_CONTROLLER},
    {9, 0, 0, "12", K_BROKER_ID_NOT_REGISTERED, 0},
};

static KAlterPartitionResponse propose(const Proposal *w, int32_t partition, Uuid topic)
{
    KAlterPartitionRequestTopicsPartitionsNewIsr isr[8];
    const MetaBroker *b = meta_broker(image_of(&c), w->sender);
    const MetaPartition *p = part(&c, "t", 0);
    KAlterPartitionRequestTopicsPartitions one = {.partition = partition, .leader_epoch = p->leader_epoch + w->leader_epoch_off,
                                                  .partition_epoch = p->partition_epoch + w->partition_epoch_off};
    KAlterPartitionRequestTopics t = {.topic_id = topic};
    KAlterPartitionRequest q = {.broker_id = w->sender, .broker_epoch = b ? b->epoch : 1};
    KAlterPartitionResponse a;
    int n = 0;
    for (const char *s = w->isr; *s; s++) {
        if (*s == 'x') {
            isr[n - 1].broker_epoch--;
            continue;
        }
        const MetaBroker *m = meta_broker(image_of(&c), *s - '0');
        isr[n++] = (KAlterPartitionRequestTopicsPartitionsNewIsr){.broker_id = *s - '0', .broker_epoch = m ? m->epoch : 0};
    }
    one.new_isr.items = isr;
    one.new_isr.n = n;
    t.partitions.items = &one;
    t.partitions.n = 1;
    q.topics.items = &t;
    q.topics.n = 1;
    cluster_ask(&c, K_API_ALTER_PARTITION, 0, &q, &a);
    return a;
}

static void led_by_1_alone(void)
{
    for (int i = 1; i <= 4; i++)
        cluster_start(&c, i);
    KCreateTopicsRequestTopicsAssignments as = {.broker_ids = {(int32_t[]){1, 2, 3}, 3}};
    KCreateTopicsRequestTopics t = {.name = k_str("t"), .num_partitions = -1, .replication_factor = -1};
    KCreateTopicsRequest q = {.timeout_ms = 1};
    KCreateTopicsResponse a;
    t.assignments.items = &as;
    t.assignments.n = 1;
    q.topics.items = &t;
    q.topics.n = 1;
    cluster_ask(&c, K_API_CREATE_TOPICS, 7, &q, &a);
    Proposal shrink = {.sender = 1, .isr = "1"};
    ck_assert_int_eq(propose(&shrink, 0, meta_topic(image_of(&c), "t", 1)->id).topics.items[0].partitions.items[0].error_code, 0);
    expect_partition(&c, "t", 0, 1, "1", "2,3", "");
}

START_TEST(alter_partition_rules)
{
    const Proposal *w = &proposals[_i];
    led_by_1_alone();
    int32_t leader_epoch = part(&c, "t", 0)->leader_epoch, partition_epoch = part(&c, "t", 0)->partition_epoch;
    KAlterPartitionResponse a = propose(w, 0, meta_topic(image_of(&c), "t", 1)->id);
    ck_assert_int_eq(a.error_code, w->top);
    if (w->top)
        return;
    const KAlterPartitionResponseTopicsPartitions *one = &a.topics.items[0].partitions.items[0];
    ck_assert_int_eq(one->error_code, w->error);
    ck_assert_int_eq(part(&c, "t", 0)->leader_epoch, leader_epoch); /* C7: no election */
    if (w->error) {
        ck_assert_uint_eq(c.out.n_records, 0);
        return;
    }
    ck_assert_int_eq(one->partition_epoch, part(&c, "t", 0)->partition_epoch);
    ck_assert_int_eq(part(&c, "t", 0)->partition_epoch - partition_epoch, strlen(w->isr) > 1);
    ck_assert_int_eq(part(&c, "t", 0)->n_isr, (int)strlen(w->isr));
    expect_invariants(&c);
}
END_TEST

START_TEST(alter_partition_of_what_is_not_there)
{
    led_by_1_alone();
    Proposal w = {.sender = 1, .isr = "1"};
    Uuid unknown = {{1}};
    ck_assert_int_eq(propose(&w, 0, unknown).topics.items[0].partitions.items[0].error_code, K_UNKNOWN_TOPIC_ID);
    ck_assert_int_eq(propose(&w, 5, meta_topic(image_of(&c), "t", 1)->id).topics.items[0].partitions.items[0].error_code,
                     K_UNKNOWN_TOPIC_OR_PARTITION);
    ctl_broker_died(c.ctl, 2, &c.out);
    cluster_apply(&c);
    w.isr = "12";
    ck_assert_int_eq(propose(&w, 0, meta_topic(image_of(&c), "t", 1)->id).topics.items[0].partitions.items[0].error_code,
                     K_INELIGIBLE_REPLICA); /* fenced (KIP-841) */
}
END_TEST

/* Random deaths, returns, heartbeats and shrinks: the invariants hold after every step. */
START_TEST(invariants_hold_under_any_order)
{
    Rng rng;
    int incarnation[6] = {0, 1, 1, 1, 1, 1};
    rng_init(&rng, (uint64_t)_i + 1);
    for (int i = 1; i <= 5; i++)
        cluster_start(&c, i);
    for (int i = 0; i < 6; i++) {
        char name[16];
        snprintf(name, sizeof(name), "t%d", i);
        ck_assert_int_eq(cluster_create(&c, name, 3, (int16_t)(1 + i % 3)).error_code, 0);
        if (i % 2)
            cluster_set(&c, 2, name, "unclean.leader.election.enable", 0, i == 5 ? "true" : "false");
        if (i == 4)
            cluster_set(&c, 2, name, "flush.messages", 0, "100");
    }
    for (int step = 0; step < 400; step++) {
        int32_t id = 1 + (int32_t)rng_below(&rng, 5);
        const MetaBroker *b = meta_broker(image_of(&c), id);
        switch (rng_below(&rng, 5)) {
        case 0:
            ctl_broker_died(c.ctl, id, &c.out);
            cluster_apply(&c);
            break;
        case 1:
            if (b->fenced)
                cluster_register(&c, id, ++incarnation[id], (int8_t)rng_below(&rng, 3));
            break;
        case 2:
            cluster_beat(&c, id, rng_below(&rng, 10) == 0, rng_below(&rng, 10) == 0);
            break;
        case 3:
            c.now_ms += (int64_t)rng_below(&rng, 700);
            ctl_tick(c.ctl, c.now_ms, &c.out);
            cluster_apply(&c);
            break;
        default:
            cluster_set(&c, 2, "t2", "min.insync.replicas", 0, rng_below(&rng, 2) ? "1" : "3");
            break;
        }
        expect_invariants(&c);
    }
}
END_TEST

int main(void)
{
    Suite *s = suite_create("brokers");
    TCase *t = tcase_create("all");
    tcase_add_checked_fixture(t, setup, teardown);
    tcase_add_test(t, registration_epochs);
    tcase_add_test(t, live_incarnation_is_not_replaced);
    tcase_add_test(t, internal_requests_need_our_own_rights);
    tcase_add_test(t, unfence_waits_for_the_image);
    tcase_add_loop_test(t, single_broker_restart, 0, 3);
    tcase_add_test(t, silence_fences_only_where_another_takes_over);
    tcase_add_test(t, all_silent_at_once_fences_none);
    tcase_add_test(t, sessions_begin_anew_after_reset);
    tcase_add_test(t, elr_keeps_who_was_complete);
    tcase_add_test(t, synced_is_unclean_without_flush);
    tcase_add_test(t, wiped_disk_is_suspect);
    tcase_add_test(t, only_the_living_last_leader);
    tcase_add_test(t, unclean_election_by_config);
    tcase_add_test(t, lower_min_isr_empties_the_elr);
    tcase_add_test(t, alone_shuts_down_in_one_step);
    tcase_add_test(t, shutdown_waits_for_the_others);
    tcase_add_test(t, offline_directory_gives_up_its_partitions);
    tcase_add_test(t, producer_id_blocks_are_disjoint);
    tcase_add_loop_test(t, alter_partition_rules, 0, ARRAY_SIZE(proposals));
    tcase_add_test(t, alter_partition_of_what_is_not_there);
    tcase_add_loop_test(t, invariants_hold_under_any_order, 0, 8);
    suite_add_tcase(s, t);
    SRunner *r = srunner_create(s);
    srunner_run_all(r, CK_ENV);
    int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed != 0;
}
