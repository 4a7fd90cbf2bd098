/* A good message's stretches, one after the other, as one thread would merge them. */
#ifndef TESTS_CODEC_WHOLE_H
#define TESTS_CODEC_WHOLE_H

#include <stdlib.h>

#include "base/memory.h"
#include "codec/codec.h"

static inline void codec_merge_whole(enum codec codec, struct bytes message, size_t count,
                                     float scale, float rate, const struct codec_round *round) {
    size_t stretches = codec_stretches(count);
    uint64_t *marks = xcalloc(stretches, sizeof *marks);
    MUST(codec_walk(codec, message, count, NULL, marks, NULL));
    for (size_t i = 0; i < stretches; i++)
        codec_merge_stretch(codec, message, count, codec_stretch_at(count, marks, i), scale, rate,
                            round);
    free(marks);
}

#endif
