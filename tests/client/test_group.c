/* Membership against the fake coordinator: several consumers in one thread, polled in turn. */

#include "tests/client/fake_broker.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/compiler.h"

#define MEMBERS 4
#define PARTITIONS 8
#define PARTITIONS_MAX 16

static FakeBroker *broker;

typedef struct Member {
    leat_consumer *consumer;
    char log[512]; /* events: A3 R3 A1 ... */
    bool owns[PARTITIONS_MAX];
} Member;
static Member members[MEMBERS];
static int64_t next_offset[PARTITIONS_MAX];
static int overlaps; /* partitions that two members held at once */

static void on_rebalance(leat_consumer *consumer, const leat_group_event *event, void *userdata)
{
    Member *m = userdata;
    char item[16];
    ck_assert_ptr_eq(consumer, m->consumer);
    snprintf(item, sizeof item, "%c%zu ", "?ARL"[event->kind], event->n);
    strncat(m->log, item, sizeof m->log - strlen(m->log) - 1);
    for (size_t i = 0; i < event->n; i++) {
        int32_t p = event->partitions[i].partition;
        if (event->kind == LEAT_GROUP_ASSIGNED)
            for (int k = 0; k < MEMBERS; k++)
                overlaps += &members[k] != m && members[k].consumer && members[k].owns[p];
        m->owns[p] = event->kind == LEAT_GROUP_ASSIGNED;
    }
    ck_assert_int_eq(leat_poll(consumer, 0, NULL, 0), -EBUSY);
}

static void join(int i, const char *strategy, const char *instance)
{
    Member *m = &members[i];
    const char *topic = "t";
    const char *extra[] = {"group.id", "g", "auto.offset.reset", "earliest", "retry.backoff.ms", "5", "auto.commit.interval.ms", "1",
                           "partition.assignment.strategy", strategy, "metadata.max.age.ms", "50",
                           instance ? "group.instance.id" : NULL, instance, NULL};
    leat_conf *conf = fake_conf(broker, extra);
    memset(m, 0, sizeof *m);
    ck_assert_int_eq(leat_consumer_new(conf, &m->consumer), 0);
    leat_on_rebalance(m->consumer, on_rebalance, m);
    ck_assert_int_eq(leat_subscribe(m->consumer, &topic, 1), 0);
    leat_conf_free(conf);
}

static void leave(int i)
{
    members[i].consumer = leat_consumer_close(members[i].consumer);
    memset(members[i].owns, 0, sizeof members[i].owns);
}

static size_t count(const Member *m)
{
    return leat_assignment(m->consumer, NULL, 0);
}

/* A turn of every member; each record must be the next of its partition (or one read before the last commit). */
static int poll_all(bool strict)
{
    static leat_record records[64];
    int total = 0;
    for (int i = 0; i < MEMBERS; i++) {
        if (!members[i].consumer)
            continue;
        int n = leat_poll(members[i].consumer, 1, records, 64);
        ck_assert_msg(n >= 0, "%s", leat_error_text(leat_consumer_client(members[i].consumer)));
        for (int k = 0; k < n; k++) {
            int32_t p = records[k].partition;
            if (strict)
                ck_assert_int_eq(records[k].offset, next_offset[p]);
            ck_assert_int_le(records[k].offset, next_offset[p]);
            next_offset[p] = MAX(next_offset[p], records[k].offset + 1);
        }
        total += n;
    }
    return total;
}

/* Until the members hold these counts. */
static void settle(size_t a, size_t b, size_t c)
{
    size_t want[MEMBERS] = {a, b, c, 0};
    int64_t give_up_ms = clock_mono_ms() + 10000;
    for (;;) {
        bool ok = true;
        poll_all(true);
        for (int i = 0; i < MEMBERS; i++)
            ok &= !members[i].consumer || count(&members[i]) == want[i];
        if (ok)
            return;
        ck_assert_msg(clock_mono_ms() < give_up_ms, "counts %zu %zu %zu", members[0].consumer ? count(&members[0]) : 0,
                      members[1].consumer ? count(&members[1]) : 0, members[2].consumer ? count(&members[2]) : 0);
    }
}

static void produce(int n)
{
    leat_producer *p = NULL;
    leat_topic *t = NULL;
    leat_conf *conf = fake_conf(broker, (const char *[]){"partitioner", "roundrobin", NULL});
    ck_assert_int_eq(leat_producer_new(conf, &p), 0);
    ck_assert_int_eq(leat_topic_open(leat_producer_client(p), "t", &t), 0);
    for (int i = 0; i < n; i++) {
        leat_message m = LEAT_MESSAGE_INIT;
        m.topic = t;
        m.value = "x";
        m.value_size = 1;
        int r;
        while ((r = leat_produce(p, &m)) == -EAGAIN)
            leat_wait(leat_producer_client(p), 10);
        ck_assert_int_eq(r, 0);
    }
    ck_assert_int_eq(leat_flush(p, 5000), 0);
    leat_producer_close(p, NULL);
    leat_conf_free(conf);
}

static void read_all(void)
{
    int64_t give_up_ms = clock_mono_ms() + 10000;
    for (int32_t p = 0; p < PARTITIONS;) {
        if (next_offset[p] < fake_end_offset(broker, "t", p))
            poll_all(true);
        else
            p++;
        ck_assert_msg(clock_mono_ms() < give_up_ms, "partition %d stands at %lld", p, (long long)next_offset[p]);
    }
}

static void setup(void)
{
    broker = fake_new();
    fake_add_topic(broker, "t", PARTITIONS);
    memset(next_offset, 0, sizeof next_offset);
    memset(members, 0, sizeof members);
    overlaps = 0;
}

static void teardown(void)
{
    for (int i = 0; i < MEMBERS; i++)
        if (members[i].consumer)
            leave(i);
    fake_free(broker);
}

static const char *const strategies[] = {"range", "roundrobin", "sticky", "cooperative-sticky", "range,cooperative-sticky"};

START_TEST(members_come_and_go)
{
    produce(800);
    join(0, strategies[_i], NULL);
    settle(8, 0, 0);
    ck_assert_str_eq(members[0].log, "A8 ");
    read_all();
    join(1, strategies[_i], NULL);
    settle(4, 4, 0);
    produce(800);
    read_all();
    join(2, strategies[_i], NULL);
    settle(3, 3, 2);
    produce(800);
    read_all();
    leave(0);
    settle(0, 4, 4);
    produce(800);
    read_all();
    leave(2);
    settle(0, 8, 0);
    read_all();
    ck_assert_int_eq(overlaps, 0);
}
END_TEST

START_TEST(eager_revokes_everything_cooperative_only_the_rest)
{
    join(0, _i ? "cooperative-sticky" : "range", NULL);
    settle(8, 0, 0);
    join(1, _i ? "cooperative-sticky" : "range", NULL);
    settle(4, 4, 0);
    for (int i = 0; i < 20; i++)
        poll_all(true);
    ck_assert_str_eq(members[0].log, _i ? "A8 R4 A0 A0 " : "A8 R8 A4 ");
    if (!_i || strcmp(members[1].log, "A0 A4 ") != 0) /* the empty first round may be overtaken by the second */
        ck_assert_str_eq(members[1].log, "A4 ");
    ck_assert_int_eq(overlaps, 0);
}
END_TEST

START_TEST(offsets_follow_the_partitions)
{
    produce(4000);
    join(0, strategies[_i], NULL);
    while (next_offset[0] < 100)
        poll_all(true); /* in the middle of reading */
    join(1, strategies[_i], NULL);
    settle(4, 4, 0);
    read_all(); /* strict: nothing is read twice, nothing is skipped */
    leave(0);
    settle(0, 8, 0);
    produce(400);
    read_all();
}
END_TEST

START_TEST(a_restarted_broker_costs_no_callback)
{
    produce(400);
    join(0, strategies[_i], NULL);
    settle(8, 0, 0);
    read_all();
    for (int k = 0; k < 3; k++) {
        fake_kill(broker);
        fake_start(broker);
        produce(80);
        read_all();
    }
    ck_assert_str_eq(members[0].log, "A8 ");
}
END_TEST

START_TEST(an_evicted_member_loses_and_comes_back)
{
    join(0, strategies[_i], NULL);
    settle(8, 0, 0);
    produce(80);
    read_all();
    for (int i = 0; i < 10; i++)
        poll_all(true); /* the commit is out */
    fake_evict_member(broker, NULL);
    produce(80);
    int64_t give_up_ms = clock_mono_ms() + 5000;
    while (strcmp(members[0].log, "A8 L8 A8 ") != 0) {
        poll_all(false); /* a commit tells it */
        ck_assert_msg(clock_mono_ms() < give_up_ms, "%s", members[0].log);
    }
    produce(80);
    while (next_offset[7] < fake_end_offset(broker, "t", 7))
        poll_all(false);
}
END_TEST

START_TEST(a_static_member_keeps_its_id)
{
    join(0, "range", "one");
    settle(8, 0, 0);
    int generation = fake_generation(broker);
    leave(0); /* says nothing to the coordinator */
    join(0, "range", "one");
    settle(8, 0, 0);
    ck_assert_int_le(fake_generation(broker), generation + 1);
}
END_TEST

START_TEST(the_leader_sees_a_topic_grow)
{
    join(0, strategies[_i], NULL);
    settle(8, 0, 0);
    fake_grow_topic(broker, "t", 12);
    int64_t give_up_ms = clock_mono_ms() + 5000;
    while (count(&members[0]) != 12) {
        static leat_record records[4];
        ck_assert_int_ge(leat_poll(members[0].consumer, 5, records, 4), 0);
        ck_assert_int_lt(clock_mono_ms(), give_up_ms);
        memset(members[0].owns, 0, sizeof members[0].owns);
    }
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("group");
    TCase *t = tcase_create("group");
    tcase_add_checked_fixture(t, setup, teardown);
    tcase_set_timeout(t, 30);
    tcase_add_loop_test(t, members_come_and_go, 0, 5);
    tcase_add_loop_test(t, eager_revokes_everything_cooperative_only_the_rest, 0, 2);
    tcase_add_loop_test(t, offsets_follow_the_partitions, 0, 5);
    tcase_add_loop_test(t, a_restarted_broker_costs_no_callback, 0, 5);
    tcase_add_loop_test(t, an_evicted_member_loses_and_comes_back, 0, 5);
    tcase_add_test(t, a_static_member_keeps_its_id);
    tcase_add_loop_test(t, the_leader_sees_a_topic_grow, 0, 2);
    suite_add_tcase(suite, t);
    SRunner *r = srunner_create(suite);
    srunner_run_all(r, CK_ENV);
    int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed != 0;
}
