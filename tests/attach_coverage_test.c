/* Every trained element exactly once, whatever ranks declare; and when an order is carried out. */
#include "attach/agreement.h"
#include "attach/coverage.h"
#include "base/memory.h"
#include "tests/test.h"

static const struct coverage_tensor tensors[] = {
    {.name = "matrix", .offset = 0, .count = 24, .dimensions = 2, .shape = {4, 6}},
    {.name = "norm", .offset = 24, .count = 5, .dimensions = 1, .shape = {5}},
    {.name = "scale", .offset = 29, .count = 1, .dimensions = 0},
    /* tied weights: another name of the first one */
    {.name = "head", .count = 24, .dimensions = 2, .shape = {4, 6}, .is_alias = true, .of = 0},
};

struct declared { /* what all ranks say */
    struct coverage_piece pieces[32];
    size_t count;
};

static enum status try_flat(struct declared *all, uint32_t rank, const char *name, uint64_t from,
                            uint64_t count, struct error *error) {
    struct wire_piece piece = {.flat = 1, .offset = {from}, .extent = {count}};
    for (size_t i = 0; i < COUNT_OF(tensors); i++) {
        if (strcmp(tensors[i].name, name) != 0) continue;
        piece.dimensions = tensors[i].dimensions;
        memcpy(piece.shape, tensors[i].shape, sizeof piece.shape);
    }
    snprintf(piece.name, sizeof piece.name, "%s", name);
    return coverage_take(tensors, COUNT_OF(tensors), &piece, rank, &all->pieces[all->count++],
                         error);
}

static void add_flat(struct declared *all, uint32_t rank, const char *name, uint64_t from,
                     uint64_t count) {
    struct error error = {0};
    CHECK_OK(try_flat(all, rank, name, from, count, &error));
}

static void add_matrix(struct declared *all, uint32_t rank, uint64_t row, uint64_t column,
                       uint64_t rows, uint64_t columns) {
    struct wire_piece piece = {.name = "matrix",
                               .dimensions = 2,
                               .shape = {4, 6},
                               .offset = {row, column},
                               .extent = {rows, columns}};
    struct error error = {0};
    CHECK_OK(coverage_take(tensors, COUNT_OF(tensors), &piece, rank, &all->pieces[all->count++],
                           &error));
}

static void add_rest(struct declared *all, uint32_t rank) {
    struct wire_piece norm = {.name = "norm", .dimensions = 1, .shape = {5}, .extent = {5}};
    struct wire_piece scale = {.name = "scale"};
    struct error error = {0};
    CHECK_OK(
        coverage_take(tensors, COUNT_OF(tensors), &norm, rank, &all->pieces[all->count++], &error));
    CHECK_OK(coverage_take(tensors, COUNT_OF(tensors), &scale, rank, &all->pieces[all->count++],
                           &error));
}

static void check_all(struct declared *all, const char *wanted) {
    struct error error = {0};
    enum status status =
        coverage_check(tensors, COUNT_OF(tensors), all->pieces, all->count, &error);
    if (!wanted) {
        CHECK_OK(status);
        return;
    }
    CHECK_EQUAL(status, INVALID);
    if (!strstr(error.message, wanted)) test_failed(__FILE__, __LINE__, "%s", error.message);
}

static size_t owned_by(const struct declared *all, uint32_t rank) {
    size_t count = 0;
    for (size_t i = 0; i < all->count; i++)
        count += all->pieces[i].owned && all->pieces[i].rank == rank;
    return count;
}

TEST(replicas_are_copied_out_by_the_lowest_rank) {
    struct declared all = {0};
    for (uint32_t rank = 3; rank-- > 0;) {
        add_matrix(&all, rank, 0, 0, 4, 6);
        add_rest(&all, rank);
    }
    check_all(&all, NULL);
    CHECK_EQUAL(owned_by(&all, 0), 3);
    CHECK_EQUAL(owned_by(&all, 1) + owned_by(&all, 2), 0);
}

TEST(rows_columns_and_blocks_cover_a_tensor) {
    struct declared rows = {0}, columns = {0}, blocks = {0};
    add_matrix(&rows, 0, 0, 0, 2, 6);
    add_matrix(&rows, 1, 2, 0, 2, 6);
    add_matrix(&rows, 2, 0, 0, 0, 0); /* an uneven shard leaves a rank nothing */
    add_rest(&rows, 2);
    check_all(&rows, NULL);
    CHECK_EQUAL(owned_by(&rows, 2), 2);
    add_matrix(&columns, 0, 0, 0, 4, 3);
    add_matrix(&columns, 1, 0, 3, 4, 3);
    add_rest(&columns, 0);
    add_rest(&columns, 1);
    check_all(&columns, NULL);
    for (uint32_t i = 0; i < 4; i++) add_matrix(&blocks, i, i / 2 * 2, i % 2 * 3, 2, 3);
    add_rest(&blocks, 3);
    check_all(&blocks, NULL);
}

TEST(flat_ranges_cover_a_tensor_wherever_they_cut_its_rows) {
    struct declared all = {0};
    add_flat(&all, 0, "matrix", 0, 7);
    add_flat(&all, 1, "matrix", 7, 17);
    add_rest(&all, 0);
    check_all(&all, NULL);
    all.pieces[1].extent[0]--;
    check_all(&all, "23 of its 24 elements");
}

TEST(what_overlaps_is_refused_naming_tensor_and_ranks) {
    struct declared rectangles = {0}, ranges = {0}, twice = {0}, mixed = {0};
    add_matrix(&rectangles, 0, 0, 0, 3, 4);
    add_matrix(&rectangles, 1, 2, 3, 2, 3);
    add_rest(&rectangles, 0);
    check_all(&rectangles, "tensor \"matrix\": what ranks 0 and 1 declare overlaps");
    add_flat(&ranges, 4, "matrix", 0, 13);
    add_flat(&ranges, 7, "matrix", 12, 12);
    check_all(&ranges, "tensor \"matrix\": what ranks 4 and 7 declare overlaps");
    add_matrix(&twice, 0, 0, 0, 4, 6);
    add_matrix(&twice, 0, 0, 0, 4, 6);
    check_all(&twice, "rank 0 declares it twice");
    add_matrix(&mixed, 0, 0, 0, 4, 6);
    add_flat(&mixed, 1, "matrix", 0, 24);
    check_all(&mixed, "two ways");
}

TEST(what_is_missing_is_refused_naming_the_tensor) {
    struct declared all = {0}, none = {0};
    add_matrix(&all, 0, 0, 0, 4, 6);
    check_all(&all, "tensor \"norm\": all ranks together declare 0 of its 5 elements");
    check_all(&none, "tensor \"matrix\"");
}

TEST(a_piece_that_is_none_of_the_runs_is_refused) {
    struct declared all = {0};
    struct error error = {0};
    CHECK_EQUAL(try_flat(&all, 0, "other", 0, 1, &error), INVALID);
    CHECK(strstr(error.message, "no tensor \"other\"") != NULL);
    CHECK_EQUAL(try_flat(&all, 3, "norm", 3, 3, &error), INVALID);
    CHECK(strstr(error.message, "tensor \"norm\", rank 3") != NULL);
    CHECK_EQUAL(try_flat(&all, 0, "norm", 3, UINT64_MAX, &error), INVALID);
    struct wire_piece wrong = {.name = "matrix", .dimensions = 2, .shape = {6, 4}};
    CHECK_EQUAL(coverage_take(tensors, COUNT_OF(tensors), &wrong, 0, all.pieces, &error), INVALID);
    CHECK(strstr(error.message, "the run has 4") != NULL);
    memset(wrong.name, 'x', sizeof wrong.name);
    CHECK_EQUAL(coverage_take(tensors, COUNT_OF(tensors), &wrong, 0, all.pieces, &error), INVALID);
    wrong = (struct wire_piece){.name = "matrix", .dimensions = 1000};
    CHECK_EQUAL(coverage_take(tensors, COUNT_OF(tensors), &wrong, 0, all.pieces, &error), INVALID);
}

/* ---- agreement ------------------------------------------------------------------------------- */

/* A rank's step, as libatoll does it; whether it carried the order out. */
static bool step(struct agreement_rank *ranks, size_t count, size_t rank,
                 const struct agreement *order) {
    struct agreement_rank *me = &ranks[rank];
    me->steps++;
    if (order && me->seen != order->id && order->at > me->steps) me->seen = order->id;
    if (!order || order->at != me->steps) return false;
    for (size_t i = 0; i < count; i++)
        if (ranks[i].seen != order->id) return false;
    me->done = order->id;
    return true;
}

TEST(an_order_is_carried_out_by_all_ranks_after_the_same_step) {
    struct agreement_rank ranks[2] = {{.steps = 5}, {.steps = 6}};
    struct agreement agreement = {0};
    agreement_give(&agreement, ranks, 2);
    CHECK_EQUAL(agreement.at, 8);
    (void)step(ranks, 2, 0, &agreement);
    for (int i = 0; i < 2; i++) {
        CHECK_EQUAL(agreement_look(&agreement, ranks, 2), AGREEMENT_WAITS);
        for (size_t rank = 0; rank < 2; rank++)
            CHECK_EQUAL(step(ranks, 2, rank, &agreement), ranks[rank].steps == 8);
    }
    CHECK_EQUAL(agreement_look(&agreement, ranks, 2), AGREEMENT_DONE);
}

TEST(an_order_that_comes_too_late_for_a_rank_is_carried_out_by_none_and_given_again) {
    struct agreement_rank ranks[2] = {{.steps = 5}, {.steps = 5}};
    struct agreement agreement = {0};
    agreement_give(&agreement, ranks, 2);
    (void)step(ranks, 2, 0, NULL); /* rank 0 sees it only at the step that it is due at */
    (void)step(ranks, 2, 1, &agreement);
    CHECK(!step(ranks, 2, 0, &agreement));
    CHECK(!step(ranks, 2, 1, &agreement));
    CHECK_EQUAL(agreement_look(&agreement, ranks, 2), AGREEMENT_MISSED);
    uint64_t first = agreement.id;
    agreement_give(&agreement, ranks, 2);
    CHECK_EQUAL(agreement.id, first + 1);
    CHECK_EQUAL(agreement.at, 7 + 4);
    CHECK_EQUAL(ranks[0].done + ranks[1].done, 0);
}

TEST(a_rank_that_says_it_is_done_too_early_changes_nothing) {
    struct agreement_rank ranks[1] = {{.steps = 1}};
    struct agreement agreement = {0};
    agreement_give(&agreement, ranks, 1);
    ranks[0].seen = ranks[0].done = agreement.id;
    CHECK_EQUAL(agreement_look(&agreement, ranks, 1), AGREEMENT_WAITS);
}

TEST(tied_weights_count_once_under_either_name) {
    struct error error = {0};
    struct declared all = {0};
    add_flat(&all, 0, "head", 0, 24);
    add_rest(&all, 0);
    check_all(&all, NULL);
    CHECK_EQUAL(all.pieces[0].tensor, 0); /* where its values are */
    struct declared both = {0};
    add_flat(&both, 0, "head", 0, 24);
    CHECK_OK(try_flat(&both, 0, "matrix", 0, 24, &error));
    add_rest(&both, 0);
    check_all(&both, "rank 0 declares it twice");
    struct declared neither = {0};
    add_rest(&neither, 0);
    check_all(&neither, "tensor \"matrix\": all ranks together declare 0 of its 24");
}
