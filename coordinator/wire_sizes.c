/* The sizes that proto/ writes and checks are those of what fed/ and crypto/ make. Neither sees the
 * other, so they are held together here, where both are in sight. Nothing runs. */
#include "coordinator/coordinator_state.h"
#include "fed/invitation.h"
#include "fed/manifest.h"
#include "fed/merkle.h"
#include "fed/model_state.h"
#include "fed/receipt.h"
#include "proto/messages.h"

#define SAME(wire_, ours_) _Static_assert((int)(wire_) == (int)(ours_), #wire_ " is " #ours_)
#define FITS(ours_, wire_) _Static_assert((int)(ours_) <= (int)(wire_), #ours_ " fits " #wire_)

SAME(WIRE_RUN_ID_SIZE, RUN_ID_SIZE);
SAME(WIRE_DIGEST_SIZE, DIGEST_SIZE);
SAME(WIRE_KEY_SIZE, PUBLIC_KEY_SIZE);
SAME(WIRE_SIGNATURE_SIZE, SIGNATURE_SIZE);
SAME(WIRE_CONTRIBUTION_SIZE, CONTRIBUTION_HEADER_SIZE);
/* less the zero at the end, which is not sent */
SAME(WIRE_SITE_NAME_LIMIT, SITE_NAME_SIZE - 1);
SAME(WIRE_RUN_NAME_LIMIT, RUN_NAME_SIZE - 1);
SAME(WIRE_REASON_LIMIT, REASON_SIZE - 1);
SAME(WIRE_MANIFEST_LIMIT, MANIFEST_LIMIT);
SAME(WIRE_WANTED_LIMIT, WANTED_LIMIT);
FITS(WIRE_SECRET_MIN, SECRET_SIZE);
FITS(SECRET_SIZE, WIRE_SECRET_LIMIT);
FITS(RECEIPT_LIMIT, WIRE_RECEIPT_LIMIT);
FITS(HEAD_SIZE, WIRE_HEAD_LIMIT);
FITS(LEDGER_ENTRY_LIMIT, WIRE_ENTRY_LIMIT);
FITS(SNAPSHOT_HEADER_SIZE, WIRE_DESCRIPTOR_LIMIT);
FITS(REFUSAL_COUNT, WIRE_CODES);
