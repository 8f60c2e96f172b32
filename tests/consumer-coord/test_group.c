/* The classic group protocol as transcripts (see lab.h). */

#include <check.h>
#include <stdio.h>

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

#define STABLE_PAIR                                                                                \
    "> join a\n a join MEMBER_ID_REQUIRED\n"                                                       \
    "> join a\n a join gen=1 proto=range leader=a a:m\n"                                           \
    "> join b\n b join MEMBER_ID_REQUIRED\n"                                                       \
    "> join b\n"                                                                                   \
    "> join a\n a join gen=2 proto=range leader=a a:m b:m\n b join gen=2 proto=range leader=a\n"   \
    "> sync b\n"                                                                                   \
    "> sync a a:x b:y\n write 1\n"                                                                 \
    "> ack\n a sync x\n b sync y\n"

START_TEST(first_member)
{
    lab_run(&lab, "> join a\n a join MEMBER_ID_REQUIRED\n"
                  "> join a\n a join gen=1 proto=range leader=a a:m\n"
                  "> beat a\n a beat NONE\n"
                  "> sync a a:all\n write 1\n"
                  "> describe\n describe NONE CompletingRebalance proto= a:\n"
                  "> ack\n a sync all\n"
                  "> describe\n describe NONE Stable proto=range a:all\n"
                  "> sync a\n a sync all\n"
                  "> join a\n a join gen=2 proto=range leader=a a:m\n" /* a leader that joins again wants a rebalance */
                  "> leave a\n write 1\n a leave NONE\n"
                  "> beat a\n a beat UNKNOWN_MEMBER_ID\n"
                  "> describe\n describe NONE Empty proto=\n");
}
END_TEST

START_TEST(two_members)
{
    lab_run(&lab, STABLE_PAIR "> join b\n b join gen=2 proto=range leader=a\n" /* unchanged follower: as it was */
                              "> join b proto=range:m2\n"                      /* changed: rebalance */
                              "> beat a\n a beat REBALANCE_IN_PROGRESS\n"
                              "> sync a\n a sync REBALANCE_IN_PROGRESS\n"
                              "> join a\n a join gen=3 proto=range leader=a a:m b:m2\n b join gen=3 proto=range leader=a\n"
                              "> beat b gen=2\n b beat ILLEGAL_GENERATION\n"
                              "> sync b gen=2\n b sync ILLEGAL_GENERATION\n"
                              "> sync b proto=roundrobin\n b sync INCONSISTENT_GROUP_PROTOCOL\n"
                              "> sync b\n"
                              "> sync a b:z\n write 1\n"
                              "> ack\n a sync \n b sync z\n"); /* who got nothing gets empty bytes */
    lab_check_replay(&lab);
}
END_TEST

START_TEST(old_clients_join_in_one_step)
{
    lab_run(&lab, "> join a v=0\n a join gen=1 proto=range leader=a a:m\n"
                  "> join b v=3\n"
                  "> beat a v=0\n a beat REBALANCE_IN_PROGRESS\n"
                  "> join a v=0\n a join gen=2 proto=range leader=a a:m b:m\n b join gen=2 proto=range leader=a\n"
                  "> sync b v=0\n"
                  "> sync a v=0 b:1\n write 1\n"
                  "> ack\n a sync \n b sync 1\n"
                  "> leave b v=0\n b leave NONE\n"
                  "> leave b v=0\n b leave UNKNOWN_MEMBER_ID\n");
}
END_TEST

START_TEST(joins_that_are_refused)
{
    lab_run(&lab, "> join a session=5999\n a join INVALID_SESSION_TIMEOUT\n"
                  "> join a session=1800001\n a join INVALID_SESSION_TIMEOUT\n"
                  "> join a proto=,\n a join INCONSISTENT_GROUP_PROTOCOL\n");
    LabClient *c = lab_client(&lab, "a");
    snprintf(c->member_id, sizeof(c->member_id), "stranger");
    lab_run(&lab, "> join a\n a join UNKNOWN_MEMBER_ID\n"
                  "> beat a\n a beat UNKNOWN_MEMBER_ID\n"
                  "> sync a\n a sync UNKNOWN_MEMBER_ID\n"
                  "> leave a\n a leave UNKNOWN_MEMBER_ID\n"
                  "> list\n list NONE\n");
    c->member_id[0] = '\0';
    lab_run(&lab, STABLE_PAIR
                  "> join c type=connect\n c join INCONSISTENT_GROUP_PROTOCOL\n"
                  "> join c proto=sticky:m\n c join INCONSISTENT_GROUP_PROTOCOL\n"
                  "> join b new proto=sticky:m,range:m\n b join MEMBER_ID_REQUIRED\n");
    lab.settings.size_max = 3;
    groups_set_settings(lab.groups, &lab.settings);
    lab_run(&lab, "> join d\n d join GROUP_MAX_SIZE_REACHED\n");
}
END_TEST

START_TEST(votes_choose_the_protocol)
{
    lab_run(&lab, "> join a v=3 proto=range:r,rr:q\n a join gen=1 proto=range leader=a a:r\n"
                  "> join b v=3 proto=rr:q,range:r\n"
                  "> join c v=3 proto=rr:q,range:r,other:o\n"
                  "> join a v=3 proto=range:r,rr:q\n"
                  "a join gen=2 proto=rr leader=a a:q b:q c:q\n b join gen=2 proto=rr leader=a\n c join gen=2 proto=rr leader=a\n");
}
END_TEST

START_TEST(a_new_member_interrupts_the_sync)
{
    lab_run(&lab, "> join a v=3\n a join gen=1 proto=range leader=a a:m\n"
                  "> sync a a:all\n write 1\n"
                  "> join b v=3\n a sync REBALANCE_IN_PROGRESS\n" /* before the write is durable */
                  "> ack\n"                                       /* too late: nobody is told */
                  "> join a v=3\n a join gen=2 proto=range leader=a a:m b:m\n b join gen=2 proto=range leader=a\n"
                  "> describe\n describe NONE CompletingRebalance proto= a: b:\n"
                  "> sync a a:1 b:2\n write 1\n"
                  "> join b v=3 proto=range:new\n a sync REBALANCE_IN_PROGRESS\n"
                  "> join a v=3\n a join gen=3 proto=range leader=a a:m b:new\n b join gen=3 proto=range leader=a\n"
                  "> sync b\n"
                  "> ack\n" /* of generation 2, in the midst of 3: it counts for nothing */
                  "> sync a a:3 b:4\n write 1\n"
                  "> ack\n a sync 3\n b sync 4\n");
    lab_check_replay(&lab);
}
END_TEST

START_TEST(a_failed_write_rebalances)
{
    lab_run(&lab, "> join a v=3\n a join gen=1 proto=range leader=a a:m\n"
                  "> sync a a:all\n write 1\n"
                  "> ack NOT_LEADER_OR_FOLLOWER\n a sync NOT_COORDINATOR\n"
                  "> describe\n describe NONE PreparingRebalance proto= a:\n"
                  "> join a v=3\n a join gen=2 proto=range leader=a a:m\n"
                  "> sync a a:all\n write 1\n"
                  "> ack NOT_ENOUGH_REPLICAS\n a sync COORDINATOR_NOT_AVAILABLE\n");
}
END_TEST

START_TEST(sessions_end)
{
    lab_run(&lab, STABLE_PAIR "> time 9000\n"
                              "> beat a\n a beat NONE\n"
                              "> time 1000\n" /* b is gone; a learns with its next heartbeat */
                              "> beat a\n a beat REBALANCE_IN_PROGRESS\n"
                              "> join a\n a join gen=3 proto=range leader=a a:m\n"
                              "> beat b\n b beat UNKNOWN_MEMBER_ID\n"
                              "> time 5000\n"
                              "> sync a a:xy\n write 1\n"
                              "> time 20000\n" /* who is parked lives: the log is slow, not the member */
                              "> ack\n a sync xy\n"
                              "> time 10000\n write 1\n"
                              "> ack\n"
                              "> describe\n describe NONE Empty proto=\n");
    lab_check_replay(&lab);
}
END_TEST

START_TEST(a_parked_join_outlives_its_session)
{
    lab_run(&lab, STABLE_PAIR "> join c v=3 session=6000\n"
                              "> time 9000\n"
                              "> beat a\n a beat REBALANCE_IN_PROGRESS\n"
                              "> beat b\n b beat REBALANCE_IN_PROGRESS\n"
                              "> time 9000\n"
                              "> join b session=6000\n"
                              "> time 900\n"
                              "> join a\n"
                              "a join gen=3 proto=range leader=a a:m b:m c:m\n b join gen=3 proto=range leader=a\n"
                              "c join gen=3 proto=range leader=a\n");
}
END_TEST

START_TEST(the_rebalance_deadline_drops_who_is_absent)
{
    lab_run(&lab, STABLE_PAIR "> join b proto=range:new\n"
                              "> time 8000\n"
                              "> beat a\n a beat REBALANCE_IN_PROGRESS\n"
                              "> time 8000\n"
                              "> beat a\n a beat REBALANCE_IN_PROGRESS\n"
                              "> time 8000\n"
                              "> beat a\n a beat REBALANCE_IN_PROGRESS\n"
                              "> time 8000\n"
                              "> beat a\n a beat REBALANCE_IN_PROGRESS\n"
                              "> time 8000\n"
                              "> beat a\n a beat REBALANCE_IN_PROGRESS\n"
                              "> time 8000\n"
                              "> beat a\n a beat REBALANCE_IN_PROGRESS\n"
                              "> time 8000\n"
                              "> beat a\n a beat REBALANCE_IN_PROGRESS\n"
                              "> time 4000\n b join gen=3 proto=range leader=b b:new\n"
                              "> beat a\n a beat UNKNOWN_MEMBER_ID\n");
}
END_TEST

START_TEST(who_does_not_sync_is_out)
{
    lab_run(&lab, "> join a v=3 rebalance=7000\n a join gen=1 proto=range leader=a a:m\n"
                  "> join b v=3 rebalance=7000\n"
                  "> join a v=3 rebalance=7000\n a join gen=2 proto=range leader=a a:m b:m\n b join gen=2 proto=range leader=a\n"
                  "> sync a a:x b:y\n write 1\n"
                  "> ack\n a sync x\n"
                  "> time 7000\n"
                  "> beat a\n a beat REBALANCE_IN_PROGRESS\n"
                  "> beat b\n b beat UNKNOWN_MEMBER_ID\n");
}
END_TEST

START_TEST(pending_ids_hold_up_the_join_until_they_end)
{
    lab_run(&lab, STABLE_PAIR "> join c session=6000\n c join MEMBER_ID_REQUIRED\n"
                              "> join a\n" /* the leader wants a rebalance */
                              "> join b\n" /* all members are here, but c was promised a place */
                              "> time 6000\n a join gen=3 proto=range leader=a a:m b:m\n b join gen=3 proto=range leader=a\n"
                              "> join c\n c join UNKNOWN_MEMBER_ID\n");
}
END_TEST

START_TEST(initial_delay_gathers_members)
{
    lab.settings.initial_delay_ms = 3000;
    groups_set_settings(lab.groups, &lab.settings);
    lab_run(&lab, "> join a v=3\n"
                  "> time 2000\n"
                  "> join b v=3\n"
                  "> time 1000\n" /* b arrived meanwhile: another 3 s */
                  "> time 2999\n"
                  "> time 1\n a join gen=1 proto=range leader=a a:m b:m\n b join gen=1 proto=range leader=a\n"
                  "> join l g=h local\n l join MEMBER_ID_REQUIRED\n"
                  "> join l\n l join gen=1 proto=range leader=l l:m\n" /* a local first member does not wait (D29) */
                  "> join x v=3 g=i rebalance=4000\n"
                  "> time 2000\n"
                  "> join y v=3 g=i rebalance=4000\n"
                  "> time 1999\n" /* not longer than the rebalance timeout in all */
                  "> time 1\n x join gen=1 proto=range leader=x x:m y:m\n y join gen=1 proto=range leader=x\n");
}
END_TEST

START_TEST(static_member_comes_back)
{
    lab_run(&lab, "> join a inst=A\n a join gen=1 proto=range leader=a a:m\n"
                  "> join b inst=B\n"
                  "> join a\n a join gen=2 proto=range leader=a a:m b:m\n b join gen=2 proto=range leader=a\n"
                  "> sync a a:x b:y\n write 1\n"
                  "> ack\n a sync x\n"
                  "> sync b\n b sync y\n"
                  "> join b new\n write 1\n" /* restarted: same assignment, no rebalance */
                  "> ack\n b join gen=2 proto=range leader=a\n"
                  "> sync b\n b sync y\n"
                  "> beat b old\n b beat FENCED_INSTANCE_ID\n"
                  "> beat b\n b beat NONE\n"
                  "> join a new\n write 1\n"
                  "> ack\n a join gen=2 proto=range leader=a a:m b:m skip\n" /* v9: the leader need not assign anew */
                  "> join a new v=8\n write 1\n"
                  "> ack\n a join gen=2 proto=range leader=a'\n" /* older: it is made a follower of its former self */
                  "> describe\n describe NONE Stable proto=range a:x b:y\n");
    lab_check_replay(&lab);
    lab_run(&lab, "> time 9999\n"
                  "> beat b\n b beat NONE\n"
                  "> time 1\n"
                  "> describe\n describe NONE PreparingRebalance proto= b:\n"); /* a's session ended */
}
END_TEST

START_TEST(static_member_during_a_rebalance)
{
    lab_run(&lab, "> join a inst=A\n a join gen=1 proto=range leader=a a:m\n"
                  "> join b inst=B\n"
                  "> join b new\n b join FENCED_INSTANCE_ID\n" /* the older request of the same instance */
                  "> join a\n a join gen=2 proto=range leader=a a:m b:m\n b join gen=2 proto=range leader=a\n"
                  "> join b new\n" /* in CompletingRebalance: everybody once more */
                  "> join a\n a join gen=3 proto=range leader=a a:m b:m\n b join gen=3 proto=range leader=a\n");
}
END_TEST

START_TEST(absent_static_members_stay_until_their_session_ends)
{
    lab_run(&lab, "> join a inst=A session=100000\n a join gen=1 proto=range leader=a a:m\n"
                  "> join b inst=B session=100000\n"
                  "> join a session=100000\n a join gen=2 proto=range leader=a a:m b:m\n b join gen=2 proto=range leader=a\n"
                  "> sync a a:x b:y\n write 1\n"
                  "> ack\n a sync x\n"
                  "> sync b\n b sync y\n"
                  "> join a session=100000\n"
                  "> time 60000\n a join gen=3 proto=range leader=a a:m b:m\n"
                  "> sync a a:x b:y\n write 1\n"
                  "> ack\n a sync x\n"
                  "> time 39999\n"
                  "> beat a\n a beat NONE\n"
                  "> time 1\n"
                  "> beat a\n a beat REBALANCE_IN_PROGRESS\n"
                  "> leave a inst=A\n write 1\n a leave NONE\n"
                  "> ack\n"
                  "> leave a inst=A\n a leave UNKNOWN_MEMBER_ID\n");
}
END_TEST

START_TEST(local_members_hear_at_once)
{
    lab_run(&lab, "> join a local v=3\n a join gen=1 proto=range leader=a a:m\n"
                  "> sync a a:all\n write 1\n"
                  "> ack\n a sync all\n event a assignment gen=1\n"
                  "> join b v=3\n event a rebalance gen=1\n"
                  "> join a v=3\n a join gen=2 proto=range leader=a a:m b:m\n b join gen=2 proto=range leader=a\n"
                  "> sync a a:x b:y\n write 1\n"
                  "> ack\n a sync x\n event a assignment gen=2\n"
                  "> time 9999\n"
                  "> sync b\n b sync y\n"
                  "> time 1\n event a fenced gen=2\n");
}
END_TEST

/* What a restarted coordinator reads back names no session: the agent's next heartbeat does, and it is refused until then. */
START_TEST(local_members_are_found_again)
{
    lab_run(&lab, "> join a local v=3\n a join gen=1 proto=range leader=a a:m\n"
                  "> sync a a:all\n write 1\n"
                  "> ack\n a sync all\n event a assignment gen=1\n"
                  "> loading\n"
                  "> beat a\n a beat COORDINATOR_LOAD_IN_PROGRESS\n"
                  "> loaded\n"
                  "> beat a\n a beat NONE\n"
                  "> join b v=3\n event a rebalance gen=1\n");
}
END_TEST

START_TEST(a_newer_request_replaces_the_parked_one)
{
    lab_run(&lab, STABLE_PAIR "> join b proto=range:1\n"
                              "> join b proto=range:2\n b join REBALANCE_IN_PROGRESS\n"
                              "> join a\n a join gen=3 proto=range leader=a a:m b:2\n b join gen=3 proto=range leader=a\n"
                              "> sync b\n"
                              "> sync b\n b sync REBALANCE_IN_PROGRESS\n"
                              "> sync a b:q\n write 1\n"
                              "> sync a b:r\n a sync REBALANCE_IN_PROGRESS\n" /* no second write */
                              "> ack\n a sync \n b sync q\n");
}
END_TEST

START_TEST(leaving_while_others_wait)
{
    lab_run(&lab, STABLE_PAIR "> join b proto=range:1\n"
                              "> leave a\n b join gen=3 proto=range leader=b b:1\n a leave NONE\n"
                              "> sync b b:all\n write 1\n"
                              "> leave b\n b sync UNKNOWN_MEMBER_ID\n write 1\n b leave NONE\n"
                              "> ack\n"
                              "> ack\n"
                              "> describe\n describe NONE Empty proto=\n");
    lab_check_replay(&lab);
}
END_TEST

START_TEST(suspension_gives_everybody_full_time_again)
{
    lab_run(&lab, STABLE_PAIR "> time 9000\n"
                              "> suspend\n"
                              "> time 600000\n"
                              "> resume\n"
                              "> time 9999\n"
                              "> beat a\n a beat NONE\n"
                              "> time 1\n"
                              "> beat a\n a beat REBALANCE_IN_PROGRESS\n");
}
END_TEST

START_TEST(suspension_forgets_who_asked)
{
    lab_run(&lab, STABLE_PAIR "> join c v=3\n"
                              "> suspend\n" /* c does not know its id: it will ask again and must not be waited for */
                              "> resume\n"
                              "> join a\n"
                              "> join b\n a join gen=3 proto=range leader=a a:m b:m\n b join gen=3 proto=range leader=a\n"
                              "> sync a a:x b:y\n write 1\n"
                              "> suspend\n"
                              "> ack\n" /* durable, but nobody is there to be told */
                              "> resume\n"
                              "> sync a\n a sync x\n"
                              "> sync b\n b sync y\n");
    lab_check_replay(&lab);
}
END_TEST

START_TEST(nobody_left_after_a_suspension)
{
    lab_run(&lab, "> join a v=3\n a join gen=1 proto=range leader=a a:m\n"
                  "> leave a\n write 1\n a leave NONE\n"
                  "> ack\n");
    lab.settings.initial_delay_ms = 3000;
    groups_set_settings(lab.groups, &lab.settings);
    lab_run(&lab, "> join b v=3\n"
                  "> suspend\n"
                  "> resume\n write 1\n"
                  "> ack\n"
                  "> describe\n describe NONE Empty proto=\n");
}
END_TEST

START_TEST(loading_and_losing)
{
    lab_run(&lab, STABLE_PAIR "> lose\n"
                              "> join c\n c join NOT_COORDINATOR\n"
                              "> beat a\n a beat NOT_COORDINATOR\n"
                              "> loading\n"
                              "> join c\n c join COORDINATOR_LOAD_IN_PROGRESS\n"
                              "> sync a\n a sync REBALANCE_IN_PROGRESS\n"
                              "> beat a\n a beat NONE\n"
                              "> list\n list COORDINATOR_LOAD_IN_PROGRESS\n"
                              "> describe\n describe COORDINATOR_LOAD_IN_PROGRESS  proto=\n"
                              "> commit - t/0=1\n - commit t/0:COORDINATOR_LOAD_IN_PROGRESS\n"
                              "> fetch\n fetch COORDINATOR_LOAD_IN_PROGRESS\n"
                              "> delete g\n delete g COORDINATOR_LOAD_IN_PROGRESS\n"
                              "> time 600000\n" /* loading takes its time */
                              "> loaded\n"
                              "> time 9999\n"
                              "> beat a\n a beat NONE\n"
                              "> sync b\n b sync y\n"
                              "> join b proto=range:new\n"
                              "> lose\n b join NOT_COORDINATOR\n");
}
END_TEST

START_TEST(a_restart_keeps_the_group)
{
    lab_run(&lab, STABLE_PAIR "> restart\n"
                              "> describe\n describe NONE Stable proto=range a:x b:y\n"
                              "> beat a\n a beat NONE\n"
                              "> sync b\n b sync y\n"
                              "> join b\n b join gen=2 proto=range leader=a\n"
                              "> join a\n"
                              "> join b\n a join gen=3 proto=range leader=a a:m b:m\n b join gen=3 proto=range leader=a\n");
}
END_TEST

START_TEST(list_and_describe)
{
    lab_run(&lab, STABLE_PAIR "> join c v=3 g=h\n c join gen=1 proto=range leader=c c:m\n"
                              "> commit - g=i t/0=1\n write 1\n"
                              "> list\n list NONE g:Stable h:CompletingRebalance i:Empty\n"
                              "> list stable\n list NONE g:Stable\n"
                              "> list nonsense\n list NONE\n"
                              "> describe g=zzz\n describe NONE Dead proto=\n"
                              "> describe g=zzz v=6\n describe GROUP_ID_NOT_FOUND Dead proto=\n"
                              "> describe g=i\n describe NONE Empty proto=\n");
}
END_TEST

int main(void)
{
    Suite *s = suite_create("group");
    TCase *c = tcase_create("group");
    tcase_add_checked_fixture(c, setup, teardown);
    tcase_add_test(c, first_member);
    tcase_add_test(c, two_members);
    tcase_add_test(c, old_clients_join_in_one_step);
    tcase_add_test(c, joins_that_are_refused);
    tcase_add_test(c, votes_choose_the_protocol);
    tcase_add_test(c, a_new_member_interrupts_the_sync);
    tcase_add_test(c, a_failed_write_rebalances);
    tcase_add_test(c, sessions_end);
    tcase_add_test(c, a_parked_join_outlives_its_session);
    tcase_add_test(c, the_rebalance_deadline_drops_who_is_absent);
    tcase_add_test(c, who_does_not_sync_is_out);
    tcase_add_test(c, pending_ids_hold_up_the_join_until_they_end);
    tcase_add_test(c, initial_delay_gathers_members);
    tcase_add_test(c, static_member_comes_back);
    tcase_add_test(c, static_member_during_a_rebalance);
    tcase_add_test(c, absent_static_members_stay_until_their_session_ends);
    tcase_add_test(c, local_members_hear_at_once);
    tcase_add_test(c, local_members_are_found_again);
    tcase_add_test(c, a_newer_request_replaces_the_parked_one);
    tcase_add_test(c, leaving_while_others_wait);
    tcase_add_test(c, suspension_gives_everybody_full_time_again);
    tcase_add_test(c, suspension_forgets_who_asked);
    tcase_add_test(c, nobody_left_after_a_suspension);
    tcase_add_test(c, loading_and_losing);
    tcase_add_test(c, a_restart_keeps_the_group);
    tcase_add_test(c, list_and_describe);
    suite_add_tcase(s, c);
    SRunner *r = srunner_create(s);
    srunner_run_all(r, CK_ENV);
    int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed ? 1 : 0;
}
