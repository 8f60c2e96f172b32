/* Committed offsets: formats, the table, and their life from commit to retention. */

#include <check.h>
#include <errno.h>
#include <stdlib.h>

#include "consumer-coord/offsets/records.h"
#include "lab.h"

static Lab lab;

static void setup(void)
{
    lab_init(&lab);
}

static void teardown(void)
{
    lab_deinit(&lab);
}

static KBytes hex(const char *text, uint8_t *out)
{
    int32_t n = 0;
    for (; *text; text++) {
        if (*text == ' ')
            continue;
        char pair[3] = {text[0], text[1], 0};
        out[n++] = (uint8_t)strtoul(pair, NULL, 16);
        text++;
    }
    return (KBytes){out, n};
}

static void expect(const Buf *b, const char *text)
{
    uint8_t bytes[256];
    KBytes want = hex(text, bytes);
    ck_assert_int_eq((int32_t)b->size, want.len);
    ck_assert_mem_eq(b->data, want.ptr, b->size);
}

/* What Kafka 3.9 writes for the same things. */
START_TEST(formats_are_kafkas)
{
    Buf b = BUF_NULL;
    RecordKey key = {.kind = RECORD_OFFSET, .group = k_str("g1"), .topic = k_str("t"), .partition = 3};
    ck_assert_int_eq(record_key_encode(&key, &b), 0);
    expect(&b, "0001 0002 6731 0001 74 00000003");
    RecordKey back;
    ck_assert_int_eq(record_key_decode((KBytes){b.data, (int32_t)b.size}, &back), 0);
    ck_assert_int_eq(back.kind, RECORD_OFFSET);
    ck_assert(k_str_equal(back.group, "g1") && k_str_equal(back.topic, "t"));
    ck_assert_int_eq(back.partition, 3);

    buf_clear(&b);
    CommittedOffset o = {.offset = 258, .leader_epoch = 7, .commit_ms = 1700000000000, .expire_ms = -1};
    ck_assert_int_eq(record_offset_encode(&o, k_str("hi"), &b), 0);
    expect(&b, "0003 0000000000000102 00000007 0002 6869 0000018bcfe56800");
    CommittedOffset copy;
    KStr metadata;
    ck_assert_int_eq(record_offset_decode((KBytes){b.data, (int32_t)b.size}, &copy, &metadata), 0);
    ck_assert_int_eq(copy.offset, 258);
    ck_assert_int_eq(copy.expire_ms, -1);
    ck_assert(k_str_equal(metadata, "hi"));

    buf_clear(&b);
    o.expire_ms = o.commit_ms + 1;
    ck_assert_int_eq(record_offset_encode(&o, k_str("hi"), &b), 0);
    expect(&b, "0001 0000000000000102 0002 6869 0000018bcfe56800 0000018bcfe56801");
    ck_assert_int_eq(record_offset_decode((KBytes){b.data, (int32_t)b.size}, &copy, &metadata), 0);
    ck_assert_int_eq(copy.expire_ms, o.commit_ms + 1);
    ck_assert_int_eq(copy.leader_epoch, -1);

    buf_clear(&b);
    ck_assert_int_eq(record_key_encode(&(RecordKey){.kind = RECORD_GROUP, .group = k_str("g1")}, &b), 0);
    expect(&b, "0002 0002 6731");

    buf_clear(&b);
    KGroupMetadataValueMembers m = {k_str("m"), K_STR_NULL, k_str("c"), k_str("/h"), 60000, 10000, {"s", 1}, {"a", 1}};
    KGroupMetadataValue v = {.protocol_type = k_str("consumer"), .generation = 2, .protocol = k_str("range"), .leader = k_str("m"),
                             .current_state_timestamp = 5, .members = {&m, 1}};
    ck_assert_int_eq(record_group_encode(&v, &b), 0);
    expect(&b, "0003 0008 636f6e73756d6572 00000002 0005 72616e6765 0001 6d 0000000000000005 00000001"
               "0001 6d ffff 0001 63 0002 2f68 0000ea60 00002710 00000001 73 00000001 61");
    buf_deinit(&b);
}
END_TEST

START_TEST(records_of_others)
{
    uint8_t bytes[64];
    RecordKey key;
    CommittedOffset o;
    KStr metadata;
    ck_assert_int_eq(record_key_decode(hex("0003 0002 6731", bytes), &key), 0); /* a newer kind of group */
    ck_assert_int_eq(key.kind, RECORD_UNKNOWN);
    ck_assert_int_eq(record_key_decode(hex("00", bytes), &key), -EBADMSG);
    ck_assert_int_eq(record_key_decode(hex("0001 0002 67", bytes), &key), -EBADMSG);
    ck_assert_int_eq(record_key_decode(K_BYTES_NULL, &key), -EBADMSG);
    /* version 1 has an expiry of its own, version 0 has neither that nor an epoch */
    ck_assert_int_eq(record_offset_decode(hex("0001 0000000000000009 0000 0000000000000001 0000000000000077", bytes), &o, &metadata), 0);
    ck_assert_int_eq(o.expire_ms, 0x77);
    ck_assert_int_eq(record_offset_decode(hex("0000 0000000000000009 0000 0000000000000001", bytes), &o, &metadata), 0);
    ck_assert_int_eq(o.leader_epoch, -1);
    ck_assert_int_eq(o.expire_ms, -1);
    ck_assert_int_eq(record_offset_decode(hex("0009 00", bytes), &o, &metadata), -EOPNOTSUPP);
}
END_TEST

START_TEST(table)
{
    OffsetTable t = {0};
    CommittedOffset o = {.leader_epoch = -1, .expire_ms = -1};
    static const char *const topics[] = {"b", "a", "ab", "", "b"};
    for (int i = 0; i < 5; i++)
        for (int32_t p = 9; p >= 0; p--) {
            o.partition = p;
            o.offset = 100 * i + p;
            ck_assert_int_eq(offsets_set(&t, k_str(topics[i]), &o, i % 2 ? k_str("meta") : k_str("")), 0);
        }
    ck_assert_int_eq(t.n, 4);
    ck_assert_int_eq(t.total, 40);
    ck_assert_int_eq(offsets_find(&t, k_str("b"), 3)->offset, 403); /* the later one */
    ck_assert_int_eq(offsets_find(&t, k_str("b"), 3)->metadata_len, 0);
    ck_assert_int_eq(offsets_find(&t, k_str("a"), 0)->metadata_len, 4);
    ck_assert_ptr_null(offsets_find(&t, k_str("b"), 10));
    ck_assert_ptr_null(offsets_find(&t, k_str("c"), 0));
    for (int32_t i = 1; i < t.n; i++)
        ck_assert_int_lt(strncmp(t.topics[i - 1].name_len ? t.topics[i - 1].name : "", t.topics[i].name, 1), 1);
    ck_assert(!offsets_remove(&t, k_str("b"), 10));
    for (int32_t p = 0; p < 10; p++)
        ck_assert(offsets_remove(&t, k_str("b"), p));
    ck_assert_int_eq(t.n, 3);
    ck_assert_int_eq(t.total, 30);
    ck_assert_ptr_null(offsets_topic(&t, k_str("b")));
    offsets_deinit(&t);
}
END_TEST

START_TEST(commits_are_seen_when_they_are_durable)
{
    lab_run(&lab, "> commit - t/0=5:note u/1=7\n write 2\n"
                  "> fetch t/0\n fetch NONE t/0=-1:\n"
                  "> ack\n - commit t/0:NONE u/1:NONE\n"
                  "> fetch t/0 u/1 u/2\n fetch NONE t/0=5:note u/1=7: u/2=-1:\n"
                  "> fetch\n fetch NONE t/0=5:note u/1=7:\n"
                  "> fetch g=other\n fetch NONE\n"
                  "> fetch g=other t/0\n fetch NONE t/0=-1:\n"
                  "> commit - t/0=6\n write 1\n"
                  "> ack NOT_ENOUGH_REPLICAS\n - commit t/0:COORDINATOR_NOT_AVAILABLE\n"
                  "> fetch t/0\n fetch NONE t/0=5:note\n"
                  "> commit - t/0=6\n write 1\n"
                  "> ack MESSAGE_TOO_LARGE\n - commit t/0:INVALID_COMMIT_OFFSET_SIZE\n"
                  "> commit - missing/0=1 t/3=4:0123456789abcdefg t/1=2\n write 1\n"
                  "> ack\n - commit missing/0:UNKNOWN_TOPIC_OR_PARTITION t/3:OFFSET_METADATA_TOO_LARGE t/1:NONE\n"
                  "> commit - missing/0=1\n - commit missing/0:UNKNOWN_TOPIC_OR_PARTITION\n");
    lab_check_replay(&lab);
    lab_run(&lab, "> restart\n"
                  "> fetch\n fetch NONE t/0=5:note t/1=2: u/1=7:\n");
}
END_TEST

START_TEST(who_may_commit)
{
    lab_run(&lab, "> commit - gen=3 t/0=1\n - commit t/0:ILLEGAL_GENERATION\n"
                  "> commit - v=9 gen=3 t/0=1\n - commit t/0:GROUP_ID_NOT_FOUND\n"
                  "> join a v=3\n a join gen=1 proto=range leader=a a:m\n"
                  "> commit - t/0=1\n - commit t/0:UNKNOWN_MEMBER_ID\n" /* it has members now */
                  "> commit a t/0=1\n a commit t/0:REBALANCE_IN_PROGRESS\n"
                  "> sync a a:x\n write 1\n"
                  "> ack\n a sync x\n"
                  "> commit a gen=0 t/0=1\n a commit t/0:ILLEGAL_GENERATION\n"
                  "> commit a t/0=1\n write 1\n"
                  "> join b v=3\n"
                  "> commit a t/0=2\n write 1\n" /* while preparing, the last generation may still commit */
                  "> leave a\n b join gen=2 proto=range leader=b b:m\n a leave NONE\n"
                  "> commit a t/0=3\n a commit t/0:UNKNOWN_MEMBER_ID\n"
                  "> ack\n a commit t/0:NONE\n"
                  "> ack\n a commit t/0:NONE\n"
                  "> fetch\n fetch NONE t/0=2:\n");
}
END_TEST

START_TEST(a_commit_keeps_its_member_alive)
{
    lab_run(&lab, "> join a v=3\n a join gen=1 proto=range leader=a a:m\n"
                  "> sync a a:x\n write 1\n"
                  "> ack\n a sync x\n"
                  "> time 9000\n"
                  "> commit a t/0=1\n write 1\n"
                  "> ack\n a commit t/0:NONE\n"
                  "> time 9000\n"
                  "> beat a\n a beat NONE\n");
}
END_TEST

START_TEST(deleting_groups)
{
    lab_run(&lab, "> commit - t/0=5\n write 1\n"
                  "> delete g\n delete g COORDINATOR_NOT_AVAILABLE\n" /* a commit is on its way */
                  "> ack\n - commit t/0:NONE\n"
                  "> commit - g=h t/0=6\n write 1\n"
                  "> ack\n - commit t/0:NONE\n"
                  "> delete g nobody h\n write 2\n write 2\n"
                  "> join a v=3\n a join COORDINATOR_NOT_AVAILABLE\n"
                  "> commit - t/0=7\n - commit t/0:COORDINATOR_NOT_AVAILABLE\n"
                  "> ack\n"
                  "> ack NOT_ENOUGH_REPLICAS\n delete g NONE\n delete nobody GROUP_ID_NOT_FOUND\n delete h COORDINATOR_NOT_AVAILABLE\n"
                  "> list\n list NONE h:Empty\n"
                  "> fetch g=h\n fetch NONE t/0=6:\n"
                  "> fetch\n fetch NONE\n"
                  "> join a v=3\n a join gen=1 proto=range leader=a a:m\n"
                  "> delete g\n delete g NON_EMPTY_GROUP\n");
}
END_TEST

START_TEST(forgetting_offsets)
{
    lab_run(&lab, "> forget t/0\n forget GROUP_ID_NOT_FOUND\n"
                  "> commit - t/0=5 t/1=6 u/0=7\n write 3\n"
                  "> ack\n - commit t/0:NONE t/1:NONE u/0:NONE\n"
                  "> forget t/0 t/7\n write 1\n"
                  "> fetch\n fetch NONE t/0=5: t/1=6: u/0=7:\n"
                  "> ack\n forget NONE t/0:NONE t/7:NONE\n"
                  "> fetch\n fetch NONE t/1=6: u/0=7:\n"
                  "> forget t/2 missing/0 t/99\n forget NONE t/2:NONE missing/0:UNKNOWN_TOPIC_OR_PARTITION t/99:UNKNOWN_TOPIC_OR_PARTITION\n");
    lab_check_replay(&lab);
    lab_run(&lab, "> join a v=3 type=connect\n a join gen=1 proto=range leader=a a:m\n"
                  "> forget t/1\n forget NON_EMPTY_GROUP\n");
}
END_TEST

START_TEST(retention)
{
    lab_run(&lab, "> commit - t/0=5\n write 1\n"
                  "> ack\n - commit t/0:NONE\n"
                  "> time 1800000\n"
                  "> commit - t/1=6\n write 1\n"
                  "> ack\n - commit t/1:NONE\n"
                  "> time 1799999\n"
                  "> expire\n"
                  "> time 1\n"
                  "> expire\n write 1\n"
                  "> ack\n"
                  "> fetch\n fetch NONE t/1=6:\n"
                  "> time 1800000\n"
                  "> expire\n write 1\n" /* the last offset; such a group has no record of its own */
                  "> ack\n"
                  "> list\n list NONE\n");
    ck_assert_uint_eq(groups_counts(lab.groups).groups, 0);
    lab_check_replay(&lab);
}
END_TEST

/* Versions 2 to 4 of OffsetCommit name a retention of their own. */
START_TEST(retention_of_a_commit)
{
    lab_run(&lab, "> commit - v=4 retention=5000 t/0=5\n write 1\n"
                  "> ack\n - commit t/0:NONE\n"
                  "> commit - v=4 t/1=6\n write 1\n"
                  "> ack\n - commit t/1:NONE\n");
    lab_check_replay(&lab);
    lab_run(&lab, "> restart\n"
                  "> time 4999\n"
                  "> expire\n"
                  "> time 1\n"
                  "> expire\n write 1\n"
                  "> ack\n"
                  "> fetch\n fetch NONE t/1=6:\n");
    lab_check_replay(&lab);
}
END_TEST

START_TEST(retention_counts_from_the_last_member)
{
    lab_run(&lab, "> join a v=3 session=1800000\n a join gen=1 proto=range leader=a a:m\n"
                  "> sync a a:x\n write 1\n"
                  "> ack\n a sync x\n"
                  "> commit a t/0=5\n write 1\n"
                  "> ack\n a commit t/0:NONE\n"
                  "> time 1790000\n"
                  "> beat a\n a beat NONE\n"
                  "> time 1790000\n"
                  "> beat a\n a beat NONE\n"
                  "> time 1790000\n"
                  "> expire\n" /* subscription unknown ("m" is no such thing): kept */
                  "> leave a\n write 1\n a leave NONE\n"
                  "> ack\n"
                  "> time 3599999\n"
                  "> expire\n"
                  "> time 1\n"
                  "> expire\n write 2\n"
                  "> ack\n"
                  "> list\n list NONE\n");
}
END_TEST

START_TEST(a_deleted_topic_takes_its_offsets)
{
    lab_run(&lab, "> commit - t/0=5 t/1=6 u/0=7\n write 3\n"
                  "> ack\n - commit t/0:NONE t/1:NONE u/0:NONE\n"
                  "> drop t\n write 2\n"
                  "> ack\n"
                  "> fetch\n fetch NONE u/0=7:\n"
                  "> drop t\n");
    lab_check_replay(&lab);
}
END_TEST

START_TEST(a_lost_partition_answers_who_waits)
{
    lab_run(&lab, "> commit - t/0=5\n write 1\n"
                  "> lose\n - commit t/0:NOT_COORDINATOR\n"
                  "> ack\n" /* it was written all the same */
                  "> fetch\n fetch NOT_COORDINATOR\n"
                  "> loading\n"
                  "> loaded\n"
                  "> fetch\n fetch NONE t/0=5:\n");
}
END_TEST

int main(void)
{
    Suite *s = suite_create("offsets");
    TCase *c = tcase_create("offsets");
    tcase_add_checked_fixture(c, setup, teardown);
    tcase_add_test(c, formats_are_kafkas);
    tcase_add_test(c, records_of_others);
    tcase_add_test(c, table);
    tcase_add_test(c, commits_are_seen_when_they_are_durable);
    tcase_add_test(c, who_may_commit);
    tcase_add_test(c, a_commit_keeps_its_member_alive);
    tcase_add_test(c, deleting_groups);
    tcase_add_test(c, forgetting_offsets);
    tcase_add_test(c, retention);
    tcase_add_test(c, retention_of_a_commit);
    tcase_add_test(c, retention_counts_from_the_last_member);
    tcase_add_test(c, a_deleted_topic_takes_its_offsets);
    tcase_add_test(c, a_lost_partition_answers_who_waits);
    suite_add_tcase(s, c);
    SRunner *r = srunner_create(s);
    srunner_run_all(r, CK_ENV);
    int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed ? 1 : 0;
}
