#include "rpc/code.h"

#include "tests/test.h"

TEST(every_status_survives_the_way_through_a_code_and_back) {
    for (int status = OK; status <= FAILED; status++) {
        enum rpc_code code = rpc_code_of((enum status)status);
        CHECK_EQUAL(rpc_status_of(code, NULL, true), status);
    }
}

TEST(a_cancellation_nobody_here_asked_for_is_worth_another_try) {
    CHECK_EQUAL(rpc_status_of(RPC_CANCELLED, "", true), CANCELLED);
    CHECK_EQUAL(rpc_status_of(RPC_CANCELLED, "", false), UNAVAILABLE);
}

TEST(what_one_code_means_twice_is_told_apart) {
    CHECK_EQUAL(
        rpc_status_of(RPC_RESOURCE_EXHAUSTED, "Received message larger than max (9 vs. 5)", false),
        INVALID);
    CHECK_EQUAL(rpc_status_of(RPC_RESOURCE_EXHAUSTED, "busy", false), FULL);
    CHECK_EQUAL(rpc_status_of(RPC_INTERNAL, "Received RST_STREAM with error code 2", false),
                UNAVAILABLE);
    CHECK_EQUAL(rpc_status_of(RPC_INTERNAL, "bug", false), FAILED);
    CHECK_EQUAL(rpc_status_of(RPC_INTERNAL, NULL, false), FAILED);
}

TEST(a_number_without_a_meaning_is_named_unknown_and_failed) {
    CHECK_TEXT(rpc_code_name((enum rpc_code)77), "UNKNOWN");
    CHECK_TEXT(rpc_code_name(RPC_UNAUTHENTICATED), "UNAUTHENTICATED");
    CHECK_EQUAL(rpc_status_of((enum rpc_code)77, "", false), FAILED);
}
