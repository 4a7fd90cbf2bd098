/* What an enrolled site may send that must be refused, each for a reason of its own
 * (sim/site_faulty.c). The last few are true, but odd: they may be refused or taken, and nobody may
 * come to harm. */
#ifndef SIM_LIES_H
#define SIM_LIES_H

enum lie_kind {
    LIE_SIGNATURE = 0,
    LIE_DIGEST,
    LIE_TRUNCATED,
    LIE_LONGER,
    LIE_NORM,
    LIE_NONFINITE_NORM,
    LIE_NONFINITE_LOSS,
    LIE_NONFINITE_SHARE,
    LIE_NEGATIVE_ZERO,
    LIE_REPLAYED,
    LIE_FUTURE_BASE,
    LIE_OTHER_ROOT,
    LIE_LAYOUT,
    LIE_MANIFEST,
    LIE_RUN,
    LIE_PROTOCOL,
    LIE_EPOCH,
    LIE_OTHER_SITE,
    LIE_NO_SITE,
    LIE_OTHER_KEY,
    LIE_OLD_SEQUENCE,
    LIE_ZERO_SEQUENCE,
    LIE_BROKEN_CHAIN,
    LIE_CODEC,
    LIE_FRAGMENT,
    LIE_NO_STEPS,
    LIE_TOKENS,
    LIE_SHARE,
    LIE_RESERVED,
    LIE_NO_PAYLOAD,
    LIE_HUGE_PAYLOAD,
    LIE_ANNOUNCED_SHORTER,
    LIE_EXPIRED,
    LIE_STOLEN_PAYLOAD,
    LIE_GARBAGE,
    LIE_NONFINITE_VALUES,
    LIE_HEADER_OF_PAYLOAD,
    LIE_LAST_FALSE = LIE_HEADER_OF_PAYLOAD,
    LIE_FLIPPED, /* a value's sign, perhaps: who knows */
    LIE_PADDING,
    LIE_ODD_HUGE,
    LIE_ODD_ZERO,
    LIE_ODD_TINY,
    LIE_ODD_ONE,
    LIE_ODD_STALE,
    LIE_COUNT
};

extern const char *const lie_names[LIE_COUNT];

#endif
