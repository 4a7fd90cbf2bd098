/* Unicode's Normalization Form C (UAX #15): characters that can be written in several ways get one.
 * Tokenizers that ask for it learned from such text, so other text must be brought into it first,
 * by the same rules.
 *
 * Most text is in NFC already, and that is seen without work: the quick check of UAX #15, section
 * 9, passes over characters that neither change nor move. Only stretches where it says "no" or
 * "maybe" are decomposed, ordered and composed. Composition exclusions (all of Hindi's nukta
 * letters, for one) are in the table: such text is in NFC though its parts could be composed.
 */
#ifndef TEXT_NFC_H
#define TEXT_NFC_H

#include "base/bytes.h"

/* Whether the text, which is UTF-8, changes; then its NFC is appended to *out. Takes O(n) time and
 * memory. */
bool nfc_changes(struct bytes text, struct buffer *out);

#endif
